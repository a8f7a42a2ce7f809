"""What we do when the owner sends a file to another device."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import anyio
import anyio.abc

from orvalho.contexts.names import parse_address
from orvalho.control import messages as control
from orvalho.control import seeing
from orvalho.daemon.file_words import Placed
from orvalho.daemon.house import House
from orvalho.daemon.outgoing import Outgoing, Parcel
from orvalho.errors import InvalidInput, NotFound, OrvalhoError, Unavailable

Replies = AsyncIterator[control.Reply]

_SHOWN_EVERY_S: Final = 0.2

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Watched:
    """A transfer that runs in a task of its own, for whoever shows how far it is."""

    outgoing: Outgoing
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    over: anyio.Event = field(default_factory=anyio.Event)
    placed: Placed | None = None
    error: OrvalhoError | None = None

    async def run(self, *, waits: bool) -> None:
        with self.scope:
            try:
                self.placed = await self.outgoing.run(waits=waits)
            except OrvalhoError as error:
                self.error = error
            except Exception:  # noqa: BLE001 -- the top of a task
                _log.exception("file.failed")
                self.error = Unavailable("it broke here; the log says why")
        self.over.set()


class FileOperations:
    """`orvalho file send`."""

    def __init__(self, house: House, tasks: anyio.abc.TaskGroup) -> None:
        self._house = house
        self._tasks = tasks

    async def send(self, request: seeing.FileSend) -> Replies:
        outgoing, name = self._outgoing(request)
        watched = _Watched(outgoing)
        started = time.monotonic()
        self._tasks.start_soon(lambda: watched.run(waits=request.wait))
        try:
            while not watched.over.is_set():
                with anyio.move_on_after(_SHOWN_EVERY_S):
                    await watched.over.wait()
                yield _progress(outgoing, name)
        finally:
            watched.scope.cancel()
        if watched.error is not None:
            raise watched.error
        assert watched.placed is not None
        yield seeing.FileSent(
            to=f"{outgoing.context}@{name}",
            path=watched.placed.path,
            size_bytes=outgoing.size_bytes,
            sha256=outgoing.sha256.hex(),
            took_ms=round(1000 * (time.monotonic() - started)),
            sent_bytes=outgoing.moved_bytes,
            changed=watched.placed.is_new,
        )

    def _outgoing(self, request: seeing.FileSend) -> tuple[Outgoing, str]:
        house = self._house
        address = parse_address(request.to)
        if address.node == house.name:
            raise InvalidInput(f"{address.node} is this very node", hint="orvalho ctx ls /")
        target = house.trust.resolve(address)
        source = Path(request.path)
        if not source.is_absolute():
            raise InvalidInput("the daemon needs the whole path of a file", where=request.path)
        parcel = Parcel(
            source=source,
            peer=target.peer,
            caller=self._caller(request.context),
            context=address.context or "",
            directory=request.directory,
        )
        return Outgoing(house, parcel), target.peer.name

    def _caller(self, name: str | None) -> str:
        contexts = self._house.contexts
        usual = name or self._house.settings.config.context
        if usual:
            return contexts.get(usual).name
        found = contexts.list()
        if not found:
            raise NotFound("this node has no context to send from", hint="orvalho ctx new NAME")
        return found[0].name


def _progress(outgoing: Outgoing, name: str) -> seeing.FileProgress:
    return seeing.FileProgress(
        to=name,
        state=outgoing.state,
        sent_bytes=outgoing.sent_bytes,
        size_bytes=outgoing.size_bytes,
        resumed_bytes=outgoing.resumed_bytes,
    )
