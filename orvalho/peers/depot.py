"""What we keep for others: parcels for peers who are off, until taken, withdrawn or expired.

The tables, and the messages between the three who meet here: the depositor, the keeper and the
recipient. Every function runs inside the caller's transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

from orvalho.contexts.identity import Key
from orvalho.peers import tally
from orvalho.peers.parcel import Parcel
from orvalho.peers.tally import Box, Quota

PAGE_COUNT: Final = 256
PAGE_BYTES: Final = 1 << 20

MIGRATIONS = Migrations("depot")


def _create(database: Database) -> None:
    # AUTOINCREMENT: a place is never given twice, so "taken" cannot mean another parcel.
    database.execute(
        "CREATE TABLE depot ( "
        "place INTEGER PRIMARY KEY AUTOINCREMENT, "
        "id BLOB NOT NULL, "
        "depositor BLOB NOT NULL, "
        "recipient BLOB NOT NULL, "
        "content BLOB NOT NULL, "
        "body_sha256 BLOB NOT NULL, "
        "body_bytes INTEGER NOT NULL, "
        "bytes INTEGER NOT NULL, "
        "expires_at REAL NOT NULL, "
        "UNIQUE (depositor, id) "
        ")"
    )
    database.execute("CREATE INDEX depot_recipient ON depot (recipient, place)")
    database.execute("CREATE INDEX depot_expires ON depot (expires_at)")


MIGRATIONS(name="create")(_create)


# ---- messages -------------------------------------------------------------------------------


class Keep(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """`depot.keep`, depositor to keeper. -> Verdicts, after the commit"""

    parcels: tuple[Parcel, ...]


class Verdicts(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """For each parcel in its order: empty when it is kept, or else why not."""

    refusals: tuple[str, ...]


class Item(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """A parcel on its way to its recipient, by its place at the keeper's."""

    place: int
    content: bytes
    body_sha256: bytes = b""
    body_bytes: int = 0


class Collect(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """`depot.collect`, keeper to recipient. -> Places: those that need not be kept any longer"""

    items: tuple[Item, ...]


class Places(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    places: tuple[int, ...]


class Withdraw(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """`depot.withdraw`, depositor to keeper. -> Withdrawn"""

    ids: tuple[bytes, ...]


class Withdrawn(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """How many of them were still there."""

    count: int


class OfferedPart(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """`depot.offered`, keeper to depositor: a part of a body. -> its bytes"""

    id: bytes
    offset: int


class KeptPart(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """`depot.kept`, recipient to keeper: a part of a body. -> its bytes"""

    place: int
    offset: int


class Taken(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """The body of an envelope of kind `depot.taken`, from the recipient to the depositor: these
    envelopes are in its mailbox, or will never be taken, each with the reason."""

    ids: tuple[bytes, ...]
    rejected: tuple[tuple[bytes, str], ...] = ()


# The kind of the one envelope that this room itself writes.
TAKEN: Final = "depot.taken"


# ---- tables ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Removed:
    """A parcel that has left."""

    depositor: Key
    id: bytes
    size_bytes: int
    body_bytes: int


@dataclass(frozen=True, slots=True)
class Pile:
    """All that one node keeps from one depositor for one recipient."""

    depositor: Key
    recipient: Key
    count: int
    bytes: int
    expires_at: float


_REMOVED: Final = "RETURNING depositor, id, bytes, body_bytes"


def keep(connection: sqlite3.Connection, depositor: Key, parcel: Parcel, quota: Quota) -> bool:
    """Keep a parcel; False when it lies here already.

    Raises:
        LimitExceeded: depot-count or depot-bytes; nothing is written.
    """
    if holds(connection, depositor, parcel.id):
        return False
    tally.charge(connection, Box.DEPOT, depositor, parcel.size_bytes, quota)
    connection.execute(
        "INSERT INTO depot (id, depositor, recipient, content, body_sha256, body_bytes, bytes,"
        " expires_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            parcel.id,
            depositor,
            parcel.recipient,
            parcel.content,
            parcel.body_sha256,
            parcel.body_bytes,
            parcel.size_bytes,
            parcel.expires_at,
        ),
    )
    return True


def holds(connection: sqlite3.Connection, depositor: Key, id_: bytes) -> bool:
    found = connection.execute(
        "SELECT 1 FROM depot WHERE depositor=? AND id=?", (depositor, id_)
    ).fetchone()
    return found is not None


def page(connection: sqlite3.Connection, recipient: Key, *, after: int) -> Sequence[Item]:
    """The next parcels for a recipient behind place `after`, in order: at most 256, and about a
    megabyte. Empty only when there is none."""
    rows = connection.execute(
        "SELECT place, content, body_sha256, body_bytes FROM depot"
        " WHERE recipient=? AND place>? ORDER BY place LIMIT ?",
        (recipient, after, PAGE_COUNT),
    )
    found: list[Item] = []
    size = 0
    for place, content, sha256, body_bytes in rows:
        found.append(Item(place=place, content=content, body_sha256=sha256, body_bytes=body_bytes))
        size += len(content)
        if size > PAGE_BYTES:
            break
    return found


def body_of(connection: sqlite3.Connection, recipient: Key, place: int) -> tuple[Key, bytes] | None:
    """Who deposited the parcel at a place of this recipient's, and its id."""
    row = connection.execute(
        "SELECT depositor, id FROM depot WHERE place=? AND recipient=?", (place, recipient)
    ).fetchone()
    return (Key(row[0]), row[1]) if row else None


def take(connection: sqlite3.Connection, recipient: Key, places: Iterable[int]) -> list[Removed]:
    """The recipient has these. It speaks for its own parcels only."""
    removed: list[Removed] = []
    for place in places:
        removed += _removed(
            connection,
            f"DELETE FROM depot WHERE place=? AND recipient=? {_REMOVED}",
            (place, recipient),
        )
    return removed


def withdraw(connection: sqlite3.Connection, depositor: Key, ids: Iterable[bytes]) -> list[Removed]:
    """Their depositor wants these kept no longer."""
    removed: list[Removed] = []
    for id_ in ids:
        removed += _removed(
            connection, f"DELETE FROM depot WHERE depositor=? AND id=? {_REMOVED}", (depositor, id_)
        )
    return removed


def expire(connection: sqlite3.Connection, now: float) -> list[Removed]:
    return _removed(connection, f"DELETE FROM depot WHERE expires_at<=? {_REMOVED}", (now,))


def drop_peer(connection: sqlite3.Connection, peer: Key) -> list[Removed]:
    """Give up all that a node deposited, and all that waits for it."""
    return _removed(
        connection, f"DELETE FROM depot WHERE depositor=?1 OR recipient=?1 {_REMOVED}", (peer,)
    )


def drop_pile(connection: sqlite3.Connection, depositor: Key, recipient: Key) -> list[Removed]:
    """Give up what one node deposited for another."""
    return _removed(
        connection,
        f"DELETE FROM depot WHERE depositor=? AND recipient=? {_REMOVED}",
        (depositor, recipient),
    )


def piles(connection: sqlite3.Connection) -> list[Pile]:
    """All that is kept here, by recipient and depositor."""
    rows = connection.execute(
        "SELECT depositor, recipient, count(*), sum(bytes), min(expires_at) FROM depot"
        " GROUP BY recipient, depositor"
    )
    return [Pile(Key(row[0]), Key(row[1]), *row[2:]) for row in rows]


def apart(connection: sqlite3.Connection) -> list[tuple[Key, bytes]]:
    """The parcels whose bodies are kept apart, by depositor and id."""
    rows = connection.execute("SELECT depositor, id FROM depot WHERE body_bytes>0")
    return [(Key(depositor), id_) for depositor, id_ in rows]


def _removed(
    connection: sqlite3.Connection, statement: str, parameters: tuple[Any, ...]
) -> list[Removed]:
    removed = [Removed(Key(row[0]), *row[1:]) for row in connection.execute(statement, parameters)]
    for each in removed:
        tally.release(connection, Box.DEPOT, each.depositor, each.size_bytes)
    return removed
