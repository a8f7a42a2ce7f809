"""All that this node has to do with NATS servers, put together: links through them, the mail and
the records that they keep, their configuration, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

import anyio

from orvalho.contexts.identity import Signer
from orvalho.contexts.trust import TrustBook
from orvalho.daemon.mesh import Mesh
from orvalho.daemon.nats_callout import Callout
from orvalho.daemon.nats_config import NatsConfigFile
from orvalho.daemon.registry import Registry
from orvalho.daemon.settings import Config
from orvalho.errors import OrvalhoError
from orvalho.transports.catalog import Catalog
from orvalho.transports.nats import NatsTransport
from orvalho.transports.nats_bucket import NatsBucket
from orvalho.transports.nats_problems import NoServer
from orvalho.transports.nats_stream import NatsCarrier

_MAIL: Final = "mail"
_RECORDS: Final = "records"
_CALLOUT: Final = "callout"

OnChange = Callable[[], None]


class NatsSide:
    """`run` it once there is a mesh. `on_change` is called when `problems` have changed."""

    def __init__(
        self, state: Path, config: Config, signer: Signer, book: TrustBook, on_change: OnChange
    ) -> None:
        self._problems: dict[str, OrvalhoError] = {}
        self.file: Final = NatsConfigFile(state, config.name, signer.key, book)
        book.watch(self.file.changed)
        self.file.watch(on_change)
        self._config = config
        self._book = book
        self._on_change = on_change
        self._transport = NatsTransport(signer, on_problem=self._note)

    def extend(self, catalog: Catalog) -> Catalog:
        """The transports, and ours."""
        transport = self._transport
        return catalog.extended("nats", transport).extended("nats+tls", transport)

    def carrier(self) -> NatsCarrier | None:
        """What keeps mail for peers that are off, where the settings name a stream."""
        stream = self._config.nats.stream
        if not stream:
            return None
        server = self._transport.server(self._address())
        return NatsCarrier(server, stream, partial(self._note, _MAIL))

    async def run(self, mesh: Mesh) -> None:
        """A task, until cancelled."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.file.run)
            if self._config.nats.stream and self._config.nats.registry:
                bucket = NatsBucket(self._transport.server(self._address()))
                registry = Registry(mesh, bucket, partial(self._note, _RECORDS))
                tasks.start_soon(registry.run)
            tasks.start_soon(self._answer_callouts)

    async def _answer_callouts(self) -> None:
        """For as long as the settings of our server say so; they may change meanwhile."""
        changed = anyio.Event()
        callout: Callout | None = None

        def note() -> None:
            changed.set()
            if callout is not None:
                callout.changed()

        self.file.watch(note)
        self._book.watch(note)
        while True:
            settings, changed = self.file.settings, anyio.Event()
            if settings is None or settings.callout is None:
                await changed.wait()
                continue
            secrets = await self.file.secrets()
            callout = Callout(
                *(settings.callout, secrets.keys, self.file.users, settings.stream),
                partial(self._note, _CALLOUT),
            )
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(callout.run)
                while self.file.settings == settings:
                    await changed.wait()
                    changed = anyio.Event()
                tasks.cancel_scope.cancel()
            callout = None
            self._note(_CALLOUT, None)

    def _address(self) -> str:
        return next(each for each in self._config.listen if each.startswith("nats"))

    def problems(self) -> list[tuple[str, str | None]]:
        """What the owner should mend, and what helps, if that is known."""
        found = self._problems.items()
        return [
            (f"{error.where or what}: {error.message}", self._hint(error)) for what, error in found
        ]

    def _note(self, what: str, problem: OrvalhoError | None) -> None:
        before = self._problems.pop(what, None)
        # Of a server that is away its links tell; that mail and records wait is no news then.
        is_told = isinstance(problem, NoServer) and what in (_MAIL, _RECORDS)
        if problem is not None and not is_told:
            self._problems[what] = problem
        if self._problems.get(what) is not before:
            self._on_change()

    def _hint(self, problem: OrvalhoError) -> str | None:
        path = self.file.path
        if isinstance(problem, NoServer) and path is not None:
            return f"start it: nats-server -c {path}"
        return problem.hint
