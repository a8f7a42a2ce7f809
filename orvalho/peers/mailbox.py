"""What others sent us: each envelope once, kept until it has been handled.

Every function runs inside the caller's transaction, so a handler can mark its envelope as done
together with what it does about it: then a crash leaves both or neither.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

from orvalho.contexts.identity import Key
from orvalho.peers import tally
from orvalho.peers.envelope import SKEW_S, BlobRef, Envelope, EnvelopeId
from orvalho.peers.tally import Box, Quota

MIGRATIONS = Migrations("mailbox")


def _create(database: Database) -> None:
    database.execute(
        "CREATE TABLE mailbox ( "
        "seq INTEGER PRIMARY KEY AUTOINCREMENT, "
        "id BLOB NOT NULL UNIQUE, "
        "kind TEXT NOT NULL, "
        "sender BLOB NOT NULL, "
        "recipient BLOB NOT NULL, "
        "reply_to BLOB NOT NULL, "
        "sent_at REAL NOT NULL, "
        "expires_at REAL NOT NULL, "
        "body BLOB NOT NULL, "
        "bytes INTEGER NOT NULL, "
        "blob BLOB, "
        "attempts INTEGER NOT NULL DEFAULT 0 "
        ")"
    )
    database.execute(
        "CREATE TABLE mailbox_seen (id BLOB PRIMARY KEY, forget_at REAL NOT NULL) WITHOUT ROWID"
    )
    database.execute("CREATE INDEX mailbox_sender ON mailbox (sender, seq)")
    database.execute("CREATE INDEX mailbox_forget ON mailbox_seen (forget_at)")


MIGRATIONS(name="create")(_create)


@dataclass(frozen=True, slots=True)
class Pending:
    """An envelope that has not been handled. `attempts` counts the times a handler failed;
    `is_kept` is False for one whose handler begins before it is in the mailbox."""

    envelope: Envelope
    attempts: int
    seq: int
    is_kept: bool = True


def stage(connection: sqlite3.Connection, envelope: Envelope, quota: Quota) -> bool:
    """Keep an envelope until it is done; False when it has been here before.

    Raises:
        LimitExceeded: mailbox-count or mailbox-bytes; nothing is written.
    """
    if has_seen(connection, envelope.id):
        return False
    tally.charge(connection, Box.MAILBOX, envelope.sender, envelope.size_bytes, quota)
    remember(connection, envelope)
    connection.execute(
        "INSERT INTO mailbox (id, kind, sender, recipient, reply_to, sent_at, expires_at, body,"
        " bytes, blob) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            envelope.id,
            envelope.kind,
            envelope.sender,
            envelope.recipient,
            envelope.reply_to,
            envelope.sent_at,
            envelope.expires_at,
            b"" if envelope.blob else envelope.body,
            envelope.size_bytes,
            envelope.blob.sha256 if envelope.blob else None,
        ),
    )
    return True


def remember(connection: sqlite3.Connection, envelope: Envelope) -> bool:
    """Keep its id, without the envelope. False when that was known."""
    # Until its end by the slower clock: after that its age refuses it.
    forget_at = envelope.expires_at + 2 * SKEW_S
    added = connection.execute(
        "INSERT OR IGNORE INTO mailbox_seen VALUES (?, ?)", (envelope.id, forget_at)
    )
    return added.rowcount > 0


def has_seen(connection: sqlite3.Connection, id_: EnvelopeId) -> bool:
    found = connection.execute("SELECT 1 FROM mailbox_seen WHERE id=?", (id_,)).fetchone()
    return found is not None


def done(connection: sqlite3.Connection, id_: EnvelopeId) -> bool:
    """It has been handled. False when that was known."""
    row = connection.execute(
        "DELETE FROM mailbox WHERE id=? RETURNING sender, bytes", (id_,)
    ).fetchone()
    if row is None:
        return False
    tally.release(connection, Box.MAILBOX, row[0], row[1])
    return True


def close(connection: sqlite3.Connection, envelope: Envelope) -> bool:
    """It has been handled, whether or not it was kept meanwhile. False when that was known."""
    return remember(connection, envelope) or done(connection, envelope.id)


def holds(connection: sqlite3.Connection, id_: EnvelopeId) -> bool:
    """Whether it waits here for the end of its handling."""
    found = connection.execute("SELECT 1 FROM mailbox WHERE id=?", (id_,)).fetchone()
    return found is not None


def failed(connection: sqlite3.Connection, id_: EnvelopeId) -> None:
    """A handler has failed at it once more."""
    connection.execute("UPDATE mailbox SET attempts = attempts + 1 WHERE id=?", (id_,))


def pending(
    connection: sqlite3.Connection, sender: Key, *, after: int, limit: int
) -> Sequence[Pending]:
    """The mail of one sender that has not been handled, behind place `after`, oldest first."""
    rows = connection.execute(
        "SELECT id, kind, sender, recipient, reply_to, sent_at, expires_at, body, blob, bytes,"
        " attempts, seq FROM mailbox WHERE sender=? AND seq>? ORDER BY seq LIMIT ?",
        (sender, after, limit),
    )
    return [_pending(row) for row in rows]


def senders(connection: sqlite3.Connection) -> list[Key]:
    """Who has mail here that has not been handled."""
    return [Key(row[0]) for row in connection.execute("SELECT DISTINCT sender FROM mailbox")]


def forget(connection: sqlite3.Connection, now: float) -> None:
    """Drop the ids that have expired: should one come again, its age refuses it. What still
    waits for its handler is not forgotten."""
    connection.execute(
        "DELETE FROM mailbox_seen WHERE forget_at<=? AND id NOT IN (SELECT id FROM mailbox)",
        (now,),
    )


def apart(connection: sqlite3.Connection) -> list[tuple[Key, EnvelopeId]]:
    """The envelopes whose bodies are kept apart, by sender and id."""
    rows = connection.execute("SELECT sender, id FROM mailbox WHERE blob IS NOT NULL")
    return [(Key(sender), EnvelopeId(id_)) for sender, id_ in rows]


def _pending(row: tuple[Any, ...]) -> Pending:
    *fields, sha256, size_bytes, attempts, seq = row
    blob = BlobRef(sha256, size_bytes) if sha256 else None
    return Pending(replace(Envelope(*fields), blob=blob), attempts, seq)
