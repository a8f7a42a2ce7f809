"""The records of nodes on a NATS server: ours is put there, those of others are looked up.

The server is a place to leave them, and believed in nothing: what comes from there goes the way of
what peers tell, through signature, number and vouching. So a server that lies, forgets or repeats
can hold news back, and nothing more. Only nodes that we would listen to anyhow are asked for.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

import anyio

from orvalho.contexts.identity import Key
from orvalho.daemon.mesh import Mesh
from orvalho.errors import OrvalhoError
from orvalho.transports.nats_bucket import NatsBucket

_log = logging.getLogger(__name__)

_RETRY_S: Final = 2.0
# What is put again and again is looked at no oftener than this.
_DEBOUNCE_S: Final = 0.05
# Everything is looked up again after so long: what was put may have been missed.
_LOOK_AGAIN_S: Final = 600.0


class Registry:
    """`run` it beside the mesh. `on_problem` is told why it does not work now; None: it does."""

    def __init__(
        self, mesh: Mesh, bucket: NatsBucket, on_problem: Callable[[OrvalhoError | None], None]
    ) -> None:
        self._mesh = mesh
        self._bucket = bucket
        self._on_problem = on_problem
        self._changed = anyio.Event()
        # The newest of each node that we listen to.
        self._came: dict[Key, bytes] = {}
        mesh.on_step = self._wake

    async def run(self) -> None:
        """A task, until cancelled."""
        problem = ""
        while True:
            try:
                async with (
                    self._bucket.joined(self._take),
                    anyio.create_task_group() as tasks,
                ):
                    tasks.start_soon(self._until_lost, tasks.cancel_scope)
                    await self._follow()
            except* OrvalhoError as group:
                found = _first(group)
                self._on_problem(found)
                if found.message != problem:
                    problem = found.message
                    _log.warning("registry.away", extra={"reason": problem})
            await anyio.sleep(_RETRY_S)

    async def _until_lost(self, scope: anyio.CancelScope) -> None:
        await self._bucket.wait_lost()
        scope.cancel()

    async def _follow(self) -> None:
        asked: frozenset[Key] = frozenset()
        kept: bytes | None = None
        look_again_at = anyio.current_time() + _LOOK_AGAIN_S
        while True:
            self._changed = anyio.Event()
            came, self._came = self._came, {}
            if came:
                self._mesh.learn(list(came.values()))
            if anyio.current_time() >= look_again_at:
                look_again_at, asked, kept = anyio.current_time() + _LOOK_AGAIN_S, frozenset(), None
            wanted = self._mesh.listened_to()
            for key in wanted - asked:
                if (value := await self._bucket.get(key)) is not None:
                    self._mesh.learn([value])
            asked = wanted
            own = self._mesh.own_record()
            if own is not None and own != kept:
                if await self._bucket.get(self._mesh.me) != own:
                    await self._bucket.put(own)
                kept = own
                self._on_problem(None)
            await anyio.sleep(_DEBOUNCE_S)
            with anyio.move_on_after(look_again_at - anyio.current_time()):
                await self._changed.wait()

    def _take(self, key: Key, value: bytes) -> None:
        if key in self._mesh.listened_to():
            self._came[key] = value
            self._wake()

    def _wake(self) -> None:
        self._changed.set()


def _first(group: BaseExceptionGroup[OrvalhoError]) -> OrvalhoError:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
