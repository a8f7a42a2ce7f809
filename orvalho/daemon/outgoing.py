"""A file on its way out: offered, sent part by part with several in flight, compared at the end."""

from __future__ import annotations

import asyncio
import hashlib
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import anyio
import msgspec
from anyio import to_thread

from orvalho.contexts.trust import Peer
from orvalho.daemon.file_words import (
    FINISH,
    ID_BYTES,
    OFFER,
    PART,
    PART_BYTES,
    WINDOW,
    Finish,
    Offer,
    Part,
    Placed,
    Taken,
    Wanted,
)
from orvalho.daemon.house import House
from orvalho.daemon.reach import away, comes
from orvalho.daemon.wire import decode, encode
from orvalho.errors import Conflict, InvalidInput, NotFound, OrvalhoError, Unavailable

_ANSWER_S: Final = 60.0
_FIRST_PARTS: Final = 4
_SOON_S: Final = 1.0
_LATE_S: Final = 5.0
# How long a transfer that has begun waits for a lost link.
_LINK_S: Final = 30.0
# Tries in a row that brought the file no byte further.
_FRUITLESS: Final = 5
_CHUNK_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Parcel:
    """What is sent, and whereto: `context` is the target's, empty for its usual one."""

    source: Path
    peer: Peer
    caller: str
    context: str
    directory: str


class _Again(Exception):
    """The link was lost, or the target has forgotten the transfer."""

    def __init__(self, cause: OrvalhoError) -> None:
        super().__init__(cause.message)
        self.cause = cause


class Pace:
    """How many parts are in flight: more while answers come soon, fewer when they take long, so
    that on a slow road the last of them is still answered in time."""

    def __init__(self) -> None:
        self.limit = _FIRST_PARTS
        self._in_flight = 0
        self._freed = asyncio.Event()

    async def turn(self) -> None:
        """Wait until another part may be sent."""
        while self._in_flight >= self.limit:
            self._freed.clear()
            await self._freed.wait()
        self._in_flight += 1

    def answered(self, took_s: float) -> None:
        self._in_flight -= 1
        if took_s > _LATE_S:
            self.limit = max(1, self.limit // 2)
        elif took_s < _SOON_S:
            self.limit = min(WINDOW, self.limit + 1)
        self._freed.set()


class Outgoing:
    """One transfer; `run` it once. What changes meanwhile is for showing: `state`, `sent_bytes`
    (what the target has written), `resumed_bytes` (what it had before). A file whose SHA-256 is
    not the one `expected` is not placed."""

    def __init__(self, house: House, parcel: Parcel, expected: bytes = b"") -> None:
        self._expected = expected
        self.state = "sending"
        self.sent_bytes = 0
        self.resumed_bytes = 0
        self.moved_bytes = 0
        self.size_bytes = 0
        self.sha256 = b""
        self.context = parcel.context
        self._house = house
        self._parcel = parcel
        self._before = (0, 0, 0)
        self._hash = hashlib.sha256()
        self._hashed_bytes = 0

    async def run(self, *, waits: bool) -> Placed:
        """Raises:
        InvalidInput: the file cannot be read, or the target cannot take its name.
        Conflict: it was changed while it was sent.
        Unavailable: the target is away; with `waits` only if the disk there fails.
        Denied, LimitExceeded, NotFound, Untrusted: as the target says.
        """
        with open_source(self._parcel.source) as (file, before):
            offer = self._offer(before)
            self.size_bytes = offer.size_bytes
            self._before = _mark(before)
            return await self._until_placed(file, offer, waits=waits)

    async def _until_placed(self, file: int, offer: Offer, *, waits: bool) -> Placed:
        house, peer = self._house, self._parcel.peer
        fruitless, furthest, is_first = 0, -1, True
        while True:
            limit_s = 2.0 if is_first else _LINK_S
            self.state = "sending" if house.node.is_online(peer.node_key) else "waiting"
            while not await comes(house, peer, limit_s):
                if not waits or house.node.is_refused_by(peer.node_key):
                    raise await away(house, peer)
            self.state, is_first = "sending", False
            try:
                return await self._try(file, offer)
            except _Again as again:
                fruitless = fruitless + 1 if self.sent_bytes <= furthest else 0
                furthest = max(furthest, self.sent_bytes)
                if fruitless >= _FRUITLESS:
                    raise again.cause from again
                await asyncio.sleep(0.1 * 2**fruitless)

    async def _try(self, file: int, offer: Offer) -> Placed:
        try:
            wanted = decode(await self._ask(OFFER, encode(offer)), Wanted)
        except Unavailable as error:
            raise _retried(error) from error
        self.context, at = wanted.context, wanted.at
        if not self.moved_bytes:
            self.resumed_bytes = at
        self.sent_bytes = at
        try:
            await self._send_parts(file, offer, at)
            await to_thread.run_sync(self._hash_up_to, file, offer.size_bytes)
            self.sha256 = self._hash.digest()
            # All of it has been read, and not asked to be placed: nothing half old, half new.
            self._refuse_changed(file)
            finish = encode(Finish(id=offer.id, sha256=self.sha256))
            return decode(await self._ask(FINISH, finish), Placed)
        except (OrvalhoError, ExceptionGroup) as error:
            cause = _leaf(error)
            is_ours = isinstance(cause, Conflict) and cause.peer is None
            if isinstance(cause, (Unavailable, NotFound, Conflict)) and not is_ours:
                raise _retried(cause) from error
            raise cause from error

    async def _send_parts(self, file: int, offer: Offer, at: int) -> None:
        pace = Pace()
        async with anyio.create_task_group() as tasks:
            while at < offer.size_bytes:
                await pace.turn()
                content = await to_thread.run_sync(self._read, file, at)
                if not content:
                    raise self._shrunk()
                part = Part(id=offer.id, offset=at, content=content)
                tasks.start_soon(self._send_part, part, pace)
                at += len(content)

    async def _send_part(self, part: Part, pace: Pace) -> None:
        started = time.monotonic()
        taken = decode(await self._ask(PART, encode(part)), Taken)
        self.moved_bytes += len(part.content)
        self.sent_bytes = max(self.sent_bytes, taken.at)
        pace.answered(time.monotonic() - started)

    async def _ask(self, kind: str, body: bytes) -> bytes:
        return await self._house.node.ask(self._parcel.peer.node_key, kind, body, _ANSWER_S)

    def _shrunk(self) -> Conflict:
        source = self._parcel.source
        return Conflict(f"{source.name} became shorter while it was sent", where=str(source))

    # ---- the file ---------------------------------------------------------------------------

    def _refuse_changed(self, file: int) -> None:
        is_other = bool(self._expected) and self._expected != self.sha256
        if is_other or _mark(os.fstat(file)) != self._before:
            raise Conflict(
                f"{self._parcel.source.name} was changed while it was sent",
                where=str(self._parcel.source),
                hint="send it again",
            )

    def _offer(self, status: os.stat_result) -> Offer:
        parcel = self._parcel
        # The same file to the same place is the same transfer, for us and for a later run of us.
        identity = (
            str(parcel.source),
            *_mark(status),
            parcel.peer.node_key,
            parcel.context,
            parcel.directory,
        )
        digest = hashlib.sha256(msgspec.msgpack.encode(identity)).digest()
        return Offer(
            id=digest[:ID_BYTES],
            caller=parcel.caller,
            context=parcel.context,
            directory=parcel.directory,
            name=parcel.source.name,
            size_bytes=status.st_size,
        )

    def _read(self, file: int, at: int) -> bytes:
        content = os.pread(file, PART_BYTES, at)
        self._hash_up_to(file, at)
        if at == self._hashed_bytes:
            self._hash.update(content)
            self._hashed_bytes += len(content)
        return content

    def _hash_up_to(self, file: int, end: int) -> None:
        while self._hashed_bytes < end:
            chunk = os.pread(file, min(_CHUNK_BYTES, end - self._hashed_bytes), self._hashed_bytes)
            if not chunk:
                return
            self._hash.update(chunk)
            self._hashed_bytes += len(chunk)


@contextmanager
def open_source(source: Path) -> Iterator[tuple[int, os.stat_result]]:
    """A file descriptor, and what the file was as it was opened.

    Raises:
        InvalidInput: it cannot be read, or is no plain file.
    """
    try:
        # O_NONBLOCK: a FIFO must not hang us.
        file = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise InvalidInput(
            f"{source} cannot be read: {error.strerror}", where=str(source)
        ) from error
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            raise InvalidInput(f"{source} is no plain file", where=str(source))
        yield file, status
    finally:
        os.close(file)


def _mark(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_ino, status.st_size, status.st_mtime_ns


def _leaf(error: Exception) -> Exception:
    """The first error within what a task group raises."""
    return _leaf(error.exceptions[0]) if isinstance(error, ExceptionGroup) else error


def _retried(error: OrvalhoError) -> Exception:
    """What was lost on the way is tried again; a disk that fails there is not."""
    return error if isinstance(error, Unavailable) and error.peer is not None else _Again(error)
