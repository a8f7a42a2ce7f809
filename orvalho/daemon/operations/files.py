"""What we do when the owner sends a file to other devices."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import anyio
import anyio.abc

from orvalho.contexts.identity import Key
from orvalho.contexts.names import Several, parse_target
from orvalho.contexts.trust import Peer
from orvalho.control import messages as control
from orvalho.control import seeing
from orvalho.daemon.file_queue import FileQueue, Queued
from orvalho.daemon.file_words import Placed
from orvalho.daemon.house import House
from orvalho.daemon.outgoing import Outgoing, Parcel
from orvalho.daemon.peer_words import name_of
from orvalho.daemon.selection import Candidate, Selection
from orvalho.errors import InvalidInput, NotFound, OrvalhoError, Unavailable

Replies = AsyncIterator[control.Reply]

_SHOWN_EVERY_S: Final = 0.2
# Transfers to several at once: each has parts of its own in flight.
_AT_ONCE: Final = 4

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Watched:
    """A transfer that runs in a task of its own, for whoever shows how far it is. `to` is how its
    target was named."""

    outgoing: Outgoing
    parcel: Parcel
    to: str
    started: float = field(default_factory=time.monotonic)
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    over: anyio.Event = field(default_factory=anyio.Event)
    placed: Placed | None = None
    queued: Queued | None = None
    error: OrvalhoError | None = None

    async def run(self, queue: FileQueue, *, waits: bool) -> None:
        with self.scope:
            try:
                self.placed, self.queued = await self._send(queue, waits=waits)
            except OrvalhoError as error:
                self.error = error
            except Exception:  # noqa: BLE001 -- the top of a task
                _log.exception("file.failed")
                self.error = Unavailable("it broke here; the log says why")
        self.over.set()

    async def _send(
        self, queue: FileQueue, *, waits: bool
    ) -> tuple[Placed, None] | tuple[None, Queued]:
        try:
            return await self.outgoing.run(waits=waits), None
        except Unavailable as error:
            # One with a peer is what the target itself said.
            if waits or error.peer is not None:
                raise
            return None, await queue.add(self.parcel)


class FileOperations:
    """`orvalho file ...`."""

    def __init__(self, house: House, tasks: anyio.abc.TaskGroup) -> None:
        self._house = house
        self._tasks = tasks
        self._selection = Selection(house)
        self.queue: Final = FileQueue(house)

    async def send(self, request: seeing.FileSend) -> Replies:
        name = parse_target(request.to)
        if not isinstance(name, Several):
            if name.node == self._house.name:
                raise InvalidInput(f"{name.node} is this very node", hint="orvalho ctx ls /")
            target = self._house.trust.resolve(name)
            watched = self._watched(request, target.peer, name.context or "")
            async for reply in self._follow([watched], request):
                yield reply
            if watched.error is not None:
                raise watched.error
            return
        members = [await self._selection.choose(name)] if name.is_any else self._others(name)
        choices = tuple(seeing.Choice(to=str(each.address), why=each.why) for each in members)
        yield seeing.FilePlaced(name=str(name), several=not name.is_any, choices=choices)
        started: list[_Watched] = []
        for member in members:
            try:
                started.append(self._to_member(request, member))
            except OrvalhoError as error:
                yield seeing.NotSent(to=str(member.address), **error.parts())
        async for reply in self._follow(started, request):
            yield reply

    async def waiting(self, _request: seeing.FileList) -> Replies:
        files = [self._state(each) for each in await self.queue.all()]
        yield seeing.FileListReply(files=tuple(files))

    async def cancel(self, request: seeing.FileCancel) -> Replies:
        queued = await self.queue.cancel(request.file)
        yield control.Note(
            text=f"{queued.path} is taken back: it is not sent to {self._to(queued)}"
        )

    # ---- inside -----------------------------------------------------------------------------

    def _others(self, name: Several) -> list[Candidate]:
        """A group may have this node in it, which has its files already."""
        me = self._house.identity.node.key
        found = [each for each in self._selection.members(name) if each.node_key != me]
        if not found:
            raise NotFound(f"{name} stands for this very node alone", where=str(name))
        return found

    def _to_member(self, request: seeing.FileSend, member: Candidate) -> _Watched:
        peer = self._house.trust.by_key(member.node_key)
        if member.problem is not None:
            raise member.problem
        if peer is None:
            raise InvalidInput(f"{member.node} is this very node", hint="orvalho ctx ls /")
        return self._watched(request, peer, member.context.name if member.context else "")

    def _watched(self, request: seeing.FileSend, peer: Peer, context: str) -> _Watched:
        source = Path(request.path)
        if not source.is_absolute():
            raise InvalidInput("the daemon needs the whole path of a file", where=request.path)
        parcel = Parcel(
            source=source,
            peer=peer,
            caller=self._house.caller(request.context).name,
            context=context,
            directory=request.directory,
        )
        to = f"{context}@{peer.name}" if context else peer.name
        return _Watched(Outgoing(self._house, parcel), parcel, to)

    async def _follow(self, started: list[_Watched], request: seeing.FileSend) -> Replies:
        """How far each is, then what became of it; an error as NotSent, where it is one of
        several."""
        is_one = len(started) == 1 and not isinstance(parse_target(request.to), Several)
        limiter = anyio.CapacityLimiter(_AT_ONCE)

        async def run(watched: _Watched) -> None:
            async with limiter:
                await watched.run(self.queue, waits=request.wait)

        left = list(started)
        try:
            for each in started:
                self._tasks.start_soon(run, each)
            while left:
                with anyio.move_on_after(_SHOWN_EVERY_S):
                    await left[0].over.wait()
                for each in [each for each in left if each.over.is_set()]:
                    left.remove(each)
                    if is_one:
                        yield _progress(each)
                    if each.error is None or not is_one:
                        yield self._end(each)
                for each in left:
                    yield _progress(each)
        finally:
            for each in left:
                each.scope.cancel()

    def _end(self, watched: _Watched) -> control.Reply:
        if watched.error is not None:
            return seeing.NotSent(to=watched.to, **watched.error.parts())
        if watched.queued is not None:
            queued = watched.queued
            return seeing.FileQueued(
                to=watched.to,
                file=queued.id,
                path=queued.path,
                size_bytes=queued.size_bytes,
                sha256=queued.sha256.hex(),
                queued_at=self._house.name,
                expires_at=queued.expires_at,
            )
        assert watched.placed is not None
        outgoing = watched.outgoing
        return seeing.FileSent(
            to=f"{outgoing.context}@{watched.parcel.peer.name}",
            path=watched.placed.path,
            size_bytes=outgoing.size_bytes,
            sha256=outgoing.sha256.hex(),
            took_ms=round(1000 * (time.monotonic() - watched.started)),
            sent_bytes=outgoing.moved_bytes,
            changed=watched.placed.is_new,
        )

    def _state(self, queued: Queued) -> seeing.QueuedFile:
        is_sending = self.queue.is_sending(queued.id)
        return seeing.QueuedFile(
            file=queued.id,
            path=queued.path,
            to=self._to(queued),
            size_bytes=queued.size_bytes,
            state="sending" if is_sending else queued.state,
            text=queued.text,
            queued_at=queued.queued_at,
            until=queued.expires_at,
        )

    def _to(self, queued: Queued) -> str:
        node = name_of(self._house, Key(self._house.trust.heir(queued.node_key)))
        return f"{queued.context}@{node}" if queued.context else node


def _progress(watched: _Watched) -> seeing.FileProgress:
    outgoing = watched.outgoing
    return seeing.FileProgress(
        to=watched.parcel.peer.name,
        state=outgoing.state,
        sent_bytes=outgoing.sent_bytes,
        size_bytes=outgoing.size_bytes,
        resumed_bytes=outgoing.resumed_bytes,
    )
