"""Files that wait for a device that is off: where each lies, what it was when it was queued, and
what became of it.

The file itself stays where it is. What is sent later must be what was queued, so its hash is kept:
one that was changed meanwhile is not sent, and its owner is told. A crash of either side loses
nothing: the row stays until the file lies whole at its target, which goes on where its draft ends.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import anyio
import anyio.abc
from anyio import to_thread
from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

from orvalho.contexts.identity import Key
from orvalho.contexts.names import new_ulid
from orvalho.daemon.house import House
from orvalho.daemon.outgoing import Outgoing, Parcel, open_source
from orvalho.errors import Conflict, LimitExceeded, NotFound, OrvalhoError, Unavailable

_log = logging.getLogger(__name__)

MIGRATIONS: Final = Migrations("orvalho.daemon.file_queue")

LIFE_S: Final = 7 * 86_400.0
# What became of a file is told for as long.
_TOLD_S: Final = 7 * 86_400.0
_MOST: Final = 1000
_LOOK_S: Final = 5.0
_PAUSE_S: Final = 30.0
_CHUNK_BYTES: Final = 1 << 20


def _create(database: Database) -> None:
    database.execute(
        "CREATE TABLE file_outbox ( id TEXT PRIMARY KEY, path TEXT NOT NULL, "
        "size_bytes INTEGER NOT NULL, sha256 BLOB NOT NULL, node_key BLOB NOT NULL, "
        "caller TEXT NOT NULL, context TEXT NOT NULL, directory TEXT NOT NULL, "
        "queued_at REAL NOT NULL, expires_at REAL NOT NULL, "
        "state TEXT NOT NULL, text TEXT NOT NULL )"
    )


MIGRATIONS(name="create")(_create)

_COLUMNS: Final = (
    "id, path, size_bytes, sha256, node_key, caller, context, directory, queued_at, expires_at,"
    " state, text"
)


@dataclass(frozen=True, slots=True)
class Queued:
    """One file for one node. `state`: waiting, sent, failed, expired or cancelled; `text` says
    where it lies, or why it does not. `context` is the target's, empty for its usual one."""

    id: str
    path: str
    size_bytes: int
    sha256: bytes
    node_key: Key
    caller: str
    context: str
    directory: str
    queued_at: float
    expires_at: float
    state: str = "waiting"
    text: str = ""


class FileQueue:
    """Sends what waits as soon as its target is there. `run` is a task, for as long as the daemon
    runs; the other calls are for the event loop."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._wake = anyio.Event()
        # One transfer a node at a time, with the row it is of.
        self._under_way: dict[Key, tuple[str, anyio.CancelScope]] = {}
        self._not_before: dict[str, float] = {}

    async def add(self, parcel: Parcel) -> Queued:
        """Durable when it returns. The same file for the same place waits once.

        Raises:
            InvalidInput: it cannot be read.
            Conflict: it was changed while its hash was taken.
            LimitExceeded: too many files wait.
        """
        size_bytes, digest = await to_thread.run_sync(_digest, parcel.source)
        now = time.time()
        queued = Queued(
            id=f"f_{new_ulid(now, os.urandom(10))}",
            path=str(parcel.source),
            size_bytes=size_bytes,
            sha256=digest,
            node_key=parcel.peer.node_key,
            caller=parcel.caller,
            context=parcel.context,
            directory=parcel.directory,
            queued_at=now,
            expires_at=now + LIFE_S,
        )
        kept = await self._house.store.transact("file.queue", partial(_add, queued=queued))
        self._wake.set()
        return kept

    async def all(self) -> list[Queued]:
        """What waits, and what became of the others of late; oldest first."""
        return await self._house.store.read(partial(_select, rest="order by id"))

    def is_sending(self, id_: str) -> bool:
        return any(each == id_ for each, _ in self._under_way.values())

    async def cancel(self, prefix: str) -> Queued:
        """Take one back: it is not sent, or no further.

        Raises:
            NotFound: none waits whose id begins so, or several do.
        """
        begin = f"f_{prefix.removeprefix('f_').upper()}"
        found = [each for each in await self._waiting() if each.id.startswith(begin)]
        if len(found) != 1:
            many = "several files wait" if found else "no file waits"
            raise NotFound(f"{many} whose id begins with {prefix!a}", hint="orvalho file ls")
        for id_, scope in self._under_way.values():
            if id_ == found[0].id:
                scope.cancel()
        await self._end(found[0], "cancelled", "taken back")
        return found[0]

    async def run(self) -> None:
        """Send what waits to whoever is there, again and again; a task."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._watch)
            while True:
                self._wake = anyio.Event()
                try:
                    await self._look(tasks)
                except OrvalhoError as error:  # a full disk, say: later
                    _log.error("files.failed", extra={"why": error.message})
                with anyio.move_on_after(_LOOK_S):
                    await self._wake.wait()

    # ---- inside -----------------------------------------------------------------------------

    async def _watch(self) -> None:
        with self._house.node.watch() as events:
            async for _ in events:
                self._wake.set()

    async def _waiting(self) -> list[Queued]:
        rest = "where state = 'waiting' order by id"
        return await self._house.store.read(partial(_select, rest=rest))

    async def _look(self, tasks: anyio.abc.TaskGroup) -> None:
        house, now = self._house, time.time()
        for each in await self._waiting():
            key = house.trust.heir(each.node_key)
            if now >= each.expires_at:
                await self._end(each, "expired", "its target did not come in time")
            elif house.trust.by_key(key) is None:
                await self._end(each, "failed", "its target was forgotten meanwhile")
            elif (
                key not in self._under_way
                and house.node.is_online(key)
                and time.monotonic() >= self._not_before.get(each.id, 0.0)
            ):
                self._under_way[key] = (each.id, anyio.CancelScope())
                tasks.start_soon(self._send, each, key)

    async def _send(self, queued: Queued, key: Key) -> None:
        try:
            with self._under_way[key][1]:
                await self._try(queued, key)
        except Exception:  # noqa: BLE001 -- the top of a task
            _log.exception("file.failed")
            self._not_before[queued.id] = time.monotonic() + _PAUSE_S
        finally:
            del self._under_way[key]
            self._wake.set()

    async def _try(self, queued: Queued, key: Key) -> None:
        peer = self._house.trust.by_key(key)
        if peer is None:
            return
        parcel = Parcel(
            source=Path(queued.path),
            peer=peer,
            caller=queued.caller,
            context=queued.context,
            directory=queued.directory,
        )
        try:
            if await to_thread.run_sync(_digest, parcel.source) != (
                queued.size_bytes,
                queued.sha256,
            ):
                raise _changed(parcel.source)
            outgoing = Outgoing(self._house, parcel, expected=queued.sha256)
            placed = await outgoing.run(waits=False)
        except Unavailable as error:
            # It went again, or its disk is full: it stays here.
            _log.info("file.postponed", extra={"why": error.message})
            self._not_before[queued.id] = time.monotonic() + (_PAUSE_S if error.peer else 1.0)
        except OrvalhoError as error:
            await self._end(queued, "failed", error.message)
        else:
            await self._end(queued, "sent", f"{outgoing.context}@{peer.name}:{placed.path}")

    async def _end(self, queued: Queued, state: str, text: str) -> None:
        self._not_before.pop(queued.id, None)
        work = partial(_end, id_=queued.id, state=state, text=text, now=time.time())
        await self._house.store.transact("file.ended", work)
        _log.info("file.%s", state, extra={"file": queued.id})


def _changed(source: Path) -> Conflict:
    return Conflict(f"{source.name} was changed after it was queued", where=str(source))


def _digest(source: Path) -> tuple[int, bytes]:
    """Its size and SHA-256, of one state of it."""
    with open_source(source) as (file, before):
        digest = hashlib.sha256()
        at = 0
        while chunk := os.pread(file, _CHUNK_BYTES, at):
            digest.update(chunk)
            at += len(chunk)
        after = os.fstat(file)
        if at != before.st_size or after.st_mtime_ns != before.st_mtime_ns:
            raise Conflict(f"{source.name} is being changed", where=str(source))
        return at, digest.digest()


def _select(connection: sqlite3.Connection, rest: str) -> list[Queued]:
    rows = connection.execute(f"SELECT {_COLUMNS} FROM file_outbox {rest}").fetchall()
    return [Queued(*row) for row in rows]


_SAME: Final = ("path", "sha256", "node_key", "caller", "context", "directory")


def _add(connection: sqlite3.Connection, queued: Queued) -> Queued:
    get: Callable[[str], object] = partial(getattr, queued)
    waiting = _select(connection, "WHERE state = 'waiting'")
    for each in waiting:
        if all(getattr(each, name) == get(name) for name in _SAME):
            return each
    if len(waiting) >= _MOST:
        raise LimitExceeded(f"file-count: {_MOST} files wait already", hint="orvalho file ls")
    values = tuple(get(name) for name in _COLUMNS.replace(",", " ").split())
    marks = ", ".join("?" * len(values))
    connection.execute(f"INSERT INTO file_outbox ({_COLUMNS}) VALUES ({marks})", values)
    return queued


def _end(connection: sqlite3.Connection, id_: str, state: str, text: str, now: float) -> None:
    connection.execute(
        "UPDATE file_outbox SET state = ?, text = ?, expires_at = ?"
        " WHERE id = ? AND state = 'waiting'",
        (state, text, now + _TOLD_S, id_),
    )
    connection.execute("DELETE FROM file_outbox WHERE state <> 'waiting' AND expires_at < ?", [now])
    connection.execute(
        "DELETE FROM file_outbox WHERE state <> 'waiting' AND id NOT IN (SELECT id FROM"
        " file_outbox WHERE state <> 'waiting' ORDER BY id DESC LIMIT ?)",
        [_MOST],
    )
