"""How much mail is kept for, or from, each peer, and the most that may be.

The counts stand in a table of their own: counting the rows anew for each envelope would cost
more the fuller the box is. Every function runs inside the caller's transaction.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from enum import Enum

from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

from orvalho.contexts.identity import Key
from orvalho.errors import LimitExceeded


class Box(Enum):
    OUTBOX = "outbox"
    MAILBOX = "mailbox"
    DEPOT = "depot"


@dataclass(frozen=True, slots=True)
class Quota:
    """The most that one box holds of one peer's mail."""

    count: int = 10_000
    bytes: int = 256 << 20


@dataclass(frozen=True, slots=True)
class Held:
    """What a box holds now."""

    count: int = 0
    bytes: int = 0


MIGRATIONS = Migrations("tally")


def _create(database: Database) -> None:
    database.execute(
        "CREATE TABLE tally (box TEXT, peer BLOB, count INTEGER, bytes INTEGER,"
        " PRIMARY KEY (box, peer)) WITHOUT ROWID"
    )


MIGRATIONS(name="create")(_create)


def held(connection: sqlite3.Connection, box: Box, peer: Key) -> Held:
    row = connection.execute(
        "SELECT count, bytes FROM tally WHERE box=? AND peer=?", (box.value, peer)
    ).fetchone()
    return Held(*row) if row else Held()


def charge(
    connection: sqlite3.Connection, box: Box, peer: Key, size_bytes: int, quota: Quota
) -> None:
    """One envelope more.

    Raises:
        LimitExceeded: `<box>-count` or `<box>-bytes`; nothing has changed.
    """
    if quota.count >= 1 and size_bytes <= quota.bytes:
        # One statement counts and judges: it changes nothing where there is no room.
        changed = connection.execute(
            "INSERT INTO tally VALUES (?1, ?2, 1, ?3) ON CONFLICT DO UPDATE"
            " SET count = count + 1, bytes = bytes + ?3 WHERE count < ?4 AND bytes + ?3 <= ?5",
            (box.value, peer, size_bytes, quota.count, quota.bytes),
        )
        if changed.rowcount:
            return
    now = held(connection, box, peer)
    if now.count >= quota.count:
        raise LimitExceeded(f"{box.value}-count: {now.count} envelopes are waiting already")
    raise LimitExceeded(
        f"{box.value}-bytes: {now.bytes} bytes are waiting already, of {quota.bytes}"
    )


def move(connection: sqlite3.Connection, box: Box, old: Key, new: Key) -> None:
    """What was counted for one peer counts for another."""
    moved = held(connection, box, old)
    connection.execute("DELETE FROM tally WHERE box=? AND peer=?", (box.value, old))
    connection.execute(
        "INSERT INTO tally VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO UPDATE"
        " SET count = count + ?3, bytes = bytes + ?4",
        (box.value, new, moved.count, moved.bytes),
    )


def release(connection: sqlite3.Connection, box: Box, peer: Key, size_bytes: int) -> None:
    """One envelope less."""
    connection.execute(
        "UPDATE tally SET count = count - 1, bytes = bytes - ?3 WHERE box=?1 AND peer=?2",
        (box.value, peer, size_bytes),
    )
