"""What we owe others: sealed envelopes, kept until acknowledged, withdrawn or expired.

Every function runs inside the caller's transaction, so an envelope can be staged together with
whatever the caller writes for itself.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

from orvalho.contexts.identity import Key
from orvalho.errors import Conflict, LimitExceeded
from orvalho.peers import tally
from orvalho.peers.envelope import EnvelopeId
from orvalho.peers.tally import Box, Quota

_PAGE_COUNT: Final = 64
_PAGE_BYTES: Final = 2 << 20

MIGRATIONS = Migrations("outbox")


def _create(database: Database) -> None:
    # AUTOINCREMENT: a place in the queue is never given twice, so a reader may remember how far
    # it has come.
    database.execute(
        "CREATE TABLE outbox ( "
        "seq INTEGER PRIMARY KEY AUTOINCREMENT, "
        "id BLOB NOT NULL UNIQUE, "
        "peer BLOB NOT NULL, "
        "kind TEXT NOT NULL, "
        "sealed BLOB NOT NULL, "
        "bytes INTEGER NOT NULL, "
        "is_apart INTEGER NOT NULL, "
        "expires_at REAL NOT NULL "
        ")"
    )
    database.execute("CREATE INDEX outbox_peer ON outbox (peer, seq)")
    database.execute("CREATE INDEX outbox_expires ON outbox (expires_at)")


MIGRATIONS(name="create")(_create)


@dataclass(frozen=True, slots=True)
class Outgoing:
    """An envelope that waits. `size_bytes` counts its body, which is in `sealed` or, if
    `is_apart`, in a file; `body` is that file's content, for as long as it happens to be in
    memory. `seq` is the place in the queue, 0 while it is not yet known."""

    id: EnvelopeId
    peer: Key
    kind: str
    sealed: bytes
    size_bytes: int
    is_apart: bool
    expires_at: float
    seq: int = 0
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Removed:
    """An envelope that has left the outbox."""

    id: EnvelopeId
    peer: Key
    kind: str
    size_bytes: int
    is_apart: bool


_COLUMNS = "id, peer, kind, sealed, bytes, is_apart, expires_at, seq"
_REMOVED = "RETURNING id, peer, kind, bytes, is_apart"


def stage(connection: sqlite3.Connection, outgoing: Outgoing, quota: Quota) -> None:
    """Keep an envelope for its peer.

    Raises:
        LimitExceeded: outbox-count or outbox-bytes; nothing is written.
        Conflict: one of this id waits already; nothing is written.
    """
    try:
        connection.execute(
            "INSERT INTO outbox (id, peer, kind, sealed, bytes, is_apart, expires_at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                outgoing.id,
                outgoing.peer,
                outgoing.kind,
                outgoing.sealed,
                outgoing.size_bytes,
                outgoing.is_apart,
                outgoing.expires_at,
            ),
        )
    except sqlite3.IntegrityError as error:
        raise Conflict("an envelope of this id waits already", where=outgoing.id.hex()) from error
    try:
        tally.charge(connection, Box.OUTBOX, outgoing.peer, outgoing.size_bytes, quota)
    except LimitExceeded:
        connection.execute("DELETE FROM outbox WHERE id=?", (outgoing.id,))
        raise


def page(connection: sqlite3.Connection, peer: Key, *, after: int) -> Sequence[Outgoing]:
    """The next envelopes for a peer behind place `after`, in order: at most 64, and not many
    megabytes. Empty only when there is none."""
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM outbox WHERE peer=? AND seq>? ORDER BY seq LIMIT ?",
        (peer, after, _PAGE_COUNT),
    )
    found: list[Outgoing] = []
    size = 0
    for row in rows:
        found.append(Outgoing(*row))
        size += len(found[-1].sealed)
        if size > _PAGE_BYTES:
            break
    return found


def acknowledge(
    connection: sqlite3.Connection, pairs: Iterable[tuple[Key, EnvelopeId]]
) -> list[Removed]:
    """These have arrived. A peer speaks for its own envelopes only, so each id comes with the
    peer that said so."""
    removed: list[Removed] = []
    for peer, id_ in pairs:
        removed += _removed(
            connection.execute(f"DELETE FROM outbox WHERE id=? AND peer=? {_REMOVED}", (id_, peer)),
            connection,
        )
    return removed


def withdraw(connection: sqlite3.Connection, id_: EnvelopeId) -> Removed | None:
    """Take one back; None when it is not there any more. It may have arrived already without
    our knowing."""
    removed = _removed(
        connection.execute(f"DELETE FROM outbox WHERE id=? {_REMOVED}", (id_,)), connection
    )
    return removed[0] if removed else None


def expire(connection: sqlite3.Connection, now: float) -> list[Removed]:
    """Give up what has outlived itself."""
    return _removed(
        connection.execute(f"DELETE FROM outbox WHERE expires_at<=? {_REMOVED}", (now,)),
        connection,
    )


def drop_peer(connection: sqlite3.Connection, peer: Key) -> list[Removed]:
    """Give up all that waits for a peer, who is one no longer."""
    return _removed(
        connection.execute(f"DELETE FROM outbox WHERE peer=? {_REMOVED}", (peer,)), connection
    )


def move(connection: sqlite3.Connection, old: Key, new: Key) -> None:
    """A peer has a new key: what waits for the old one waits for that."""
    connection.execute("UPDATE outbox SET peer=? WHERE peer=?", (new, old))
    tally.move(connection, Box.OUTBOX, old, new)


def holds(connection: sqlite3.Connection, id_: EnvelopeId) -> bool:
    found = connection.execute("SELECT 1 FROM outbox WHERE id=?", (id_,)).fetchone()
    return found is not None


def owes_body(connection: sqlite3.Connection, peer: Key, id_: EnvelopeId) -> bool:
    """Whether an envelope waits for `peer` whose body is kept apart."""
    found = connection.execute(
        "SELECT 1 FROM outbox WHERE id=? AND peer=? AND is_apart", (id_, peer)
    ).fetchone()
    return found is not None


def apart(connection: sqlite3.Connection) -> list[EnvelopeId]:
    """The envelopes whose bodies are kept apart."""
    return [
        EnvelopeId(row[0]) for row in connection.execute("SELECT id FROM outbox WHERE is_apart")
    ]


def _removed(rows: sqlite3.Cursor, connection: sqlite3.Connection) -> list[Removed]:
    removed = [Removed(*row) for row in rows.fetchall()]
    for each in removed:
        tally.release(connection, Box.OUTBOX, each.peer, each.size_bytes)
    return removed
