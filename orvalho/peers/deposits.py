"""Which envelopes of our outbox also lie with another node, and with which.

An envelope stays in the outbox until it is known what became of it, wherever else it lies. When
it leaves, a trigger marks its deposits as over, so that their keepers can be told. Every function
runs inside the caller's transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

from orvalho.contexts.identity import Key
from orvalho.peers.envelope import EnvelopeId
from orvalho.peers.outbox import Outgoing

MIGRATIONS = Migrations("deposits")


def _create(database: Database) -> None:
    database.execute(
        "CREATE TABLE deposit ( "
        "id BLOB NOT NULL, "
        "keeper BLOB NOT NULL, "
        "parcel BLOB NOT NULL, "
        "peer BLOB NOT NULL, "
        "expires_at REAL NOT NULL, "
        "is_over INTEGER NOT NULL DEFAULT 0, "
        "PRIMARY KEY (id, keeper) "
        ") WITHOUT ROWID"
    )
    database.execute("CREATE INDEX deposit_peer ON deposit (peer, keeper) WHERE NOT is_over")
    database.execute("CREATE INDEX deposit_over ON deposit (keeper) WHERE is_over")
    database.execute(
        "CREATE TRIGGER deposit_is_over AFTER DELETE ON outbox BEGIN"
        " UPDATE deposit SET is_over=1 WHERE id=OLD.id; END"
    )


MIGRATIONS(name="create")(_create)


@dataclass(frozen=True, slots=True)
class Deposit:
    """An envelope of ours, as `parcel` (its id there) with a keeper."""

    id: EnvelopeId
    keeper: Key
    parcel: bytes
    peer: Key
    expires_at: float


_COLUMNS = "id, peer, kind, sealed, bytes, is_apart, expires_at, seq"


def waiting(connection: sqlite3.Connection) -> list[Key]:
    """The peers for whom the outbox holds something."""
    rows = connection.execute("SELECT peer FROM tally WHERE box='outbox' AND count>0")
    return [Key(row[0]) for row in rows]


def page(
    connection: sqlite3.Connection, peer: Key, *, after: int, count: int, size_bytes: int
) -> Sequence[Outgoing]:
    """The next envelopes for a peer behind place `after` that lie with nobody else, in order. One
    whose body is kept apart comes alone. Empty only when there is none."""
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM outbox WHERE peer=? AND seq>?"
        " AND id NOT IN (SELECT id FROM deposit WHERE NOT is_over) ORDER BY seq LIMIT ?",
        (peer, after, count),
    )
    found: list[Outgoing] = []
    size = 0
    for row in rows:
        outgoing = Outgoing(*row)
        if outgoing.is_apart and found:
            break
        found.append(outgoing)
        size += len(outgoing.sealed)
        if outgoing.is_apart or size > size_bytes:
            break
    return found


def made(connection: sqlite3.Connection, deposits: Iterable[Deposit]) -> None:
    """These have been kept. One that has left the outbox meanwhile is over at once."""
    connection.executemany(
        "INSERT OR REPLACE INTO deposit VALUES"
        " (?1, ?2, ?3, ?4, ?5, NOT EXISTS (SELECT 1 FROM outbox WHERE id=?1))",
        [(d.id, d.keeper, d.parcel, d.peer, d.expires_at) for d in deposits],
    )


def over(connection: sqlite3.Connection, keeper: Key, *, limit: int) -> list[bytes]:
    """The parcels with a keeper that need not be kept any longer."""
    rows = connection.execute(
        "SELECT parcel FROM deposit WHERE is_over AND keeper=? LIMIT ?", (keeper, limit)
    )
    return [row[0] for row in rows]


def forget_over(connection: sqlite3.Connection, keeper: Key, parcels: Iterable[bytes]) -> None:
    """The keeper has been told."""
    connection.executemany(
        "DELETE FROM deposit WHERE is_over AND keeper=? AND parcel=?",
        [(keeper, parcel) for parcel in parcels],
    )


def taken(connection: sqlite3.Connection, peer: Key, ids: Iterable[bytes]) -> None:
    """The peer has collected these: no keeper holds them any longer."""
    connection.executemany(
        "DELETE FROM deposit WHERE id=? AND peer=?", [(id_, peer) for id_ in ids]
    )


def drop_keeper(connection: sqlite3.Connection, keeper: Key) -> None:
    """The keeper is a peer no longer: what lies with it may be deposited elsewhere."""
    connection.execute("DELETE FROM deposit WHERE keeper=?", (keeper,))


def drop_recipient(connection: sqlite3.Connection, peer: Key) -> None:
    """The peer has another key: what was sealed for this one has to be deposited anew."""
    connection.execute("UPDATE deposit SET is_over=1 WHERE peer=?", (peer,))


def expire(connection: sqlite3.Connection, now: float) -> None:
    """Keepers drop what has expired without being told."""
    connection.execute("DELETE FROM deposit WHERE is_over AND expires_at<=?", (now,))


def with_whom(connection: sqlite3.Connection, peer: Key) -> dict[Key, int]:
    """Where the mail for a peer lies besides here, and how much of it."""
    rows = connection.execute(
        "SELECT keeper, count(*) FROM deposit WHERE NOT is_over AND peer=? GROUP BY keeper", (peer,)
    )
    return {Key(row[0]): row[1] for row in rows}


def keeper_of(connection: sqlite3.Connection, id_: EnvelopeId) -> Key | None:
    """Who else holds an envelope of our outbox; None when nobody does."""
    row = connection.execute(
        "SELECT keeper FROM deposit WHERE id=? AND NOT is_over", (id_,)
    ).fetchone()
    return Key(row[0]) if row else None
