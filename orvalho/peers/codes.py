"""Pairing codes: `417-violin-orbit-lemon`. The text, and the rows of those given out. Sans-IO.

The number (the nameplate) finds the inviter and is no secret. The three words of 2048 are: 33 bits,
of which a guesser may try three before the code is withdrawn.
"""

from __future__ import annotations

import hashlib
import re
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

from orvalho.contexts.words import read_word, words
from orvalho.errors import InvalidInput, LimitExceeded, Untrusted
from orvalho.peers.pairing import MAX_WRONG_TRIES, forget_token

LIFETIME_S: Final = 600.0
_FIRST_NAMEPLATE: Final = 100
_NAMEPLATES: Final = 900
_WORDS: Final = 3
# A code that is over is remembered this long, to tell a late joiner why.
REMEMBERED_S: Final = 86400.0
_FORM: Final = "a code is a number and three words: 417-violin-orbit-lemon"


@dataclass(frozen=True, slots=True)
class Code:
    """`nameplate` finds the inviter; `words` are the secret."""

    nameplate: int
    words: tuple[str, ...]

    def __str__(self) -> str:
        return "-".join((str(self.nameplate), *self.words))

    @property
    def secret(self) -> bytes:
        """What SPAKE2 is given."""
        return b"orvalho/code/1 " + str(self).encode()


def parse_code(text: str) -> Code:
    """The code that was meant: spaces for dashes, capitals, and words cut to four letters are
    forgiven. A mistyped word is told here, and costs no try.

    Raises:
        InvalidInput: it is no code; the message says which word is none.
    """
    parts = re.split(r"[\s-]+", text.strip())
    if len(parts) != 1 + _WORDS or not re.fullmatch(r"[1-9][0-9]{2}", parts[0]):
        raise InvalidInput(_FORM, where=ascii(text[:80]), hint="orvalho pair, on the other device")
    try:
        return Code(int(parts[0]), tuple(read_word(part) for part in parts[1:]))
    except InvalidInput as error:
        error.where = ascii(text[:80])
        raise


def nameplate_hash(nameplate: int) -> bytes:
    """16 bytes by which an inviter is asked for on the local network."""
    return hashlib.sha256(b"orvalho/nameplate/1 %d" % nameplate).digest()[:16]


class Standing(Enum):
    """What became of a code, or of a try. The values are names of counters, and of rows'
    states."""

    OPEN = "open"
    GOOD = "good"
    WRONG = "wrong"
    LOCKED = "locked"
    USED = "used"
    EXPIRED = "expired"
    WITHDRAWN = "withdrawn"
    UNKNOWN = "unknown"


_REASONS: Final = {
    Standing.WRONG: "the code is wrong",
    Standing.LOCKED: f"the code was withdrawn after {MAX_WRONG_TRIES} wrong tries",
    Standing.USED: "the code has been used already",
    Standing.EXPIRED: "the code has expired",
    Standing.WITHDRAWN: "the code was withdrawn by its owner",
    Standing.UNKNOWN: "no such code is shown there",
}


def refusal(standing: Standing) -> Untrusted:
    """The error that a refused joiner sees."""
    return Untrusted(_REASONS[standing], hint="orvalho pair, on the other device, for a new code")


MIGRATIONS: Final = Migrations("pairing-code")


def _create(database: Database) -> None:
    database.execute(
        "CREATE TABLE pairing_code (nameplate INTEGER PRIMARY KEY, secret BLOB,"
        " token_hash BLOB NOT NULL, is_guest INTEGER NOT NULL, expires_at REAL NOT NULL,"
        " wrong_tries INTEGER NOT NULL DEFAULT 0, state TEXT NOT NULL)"
    )


MIGRATIONS(name="create")(_create)


def show(
    connection: sqlite3.Connection,
    *,
    token_hash: bytes,
    is_guest: bool,
    expires_at: float,
    now: float,
    below: Callable[[int], int],
) -> Code:
    """A new code. `token_hash` is of the ticket that is shown beside it: only one of the two can be
    used. `below(n)` gives a random number under n, fit for secrets.

    The secret lies in the database while the code is good, and is deleted with it: unlike a
    ticket's token it is too short for a hash to hide.

    Raises:
        LimitExceeded: pairing-codes: every nameplate is taken.
    """
    connection.execute("DELETE FROM pairing_code WHERE expires_at<?", (now - REMEMBERED_S,))
    expire(connection, now)
    rows = connection.execute("SELECT nameplate FROM pairing_code").fetchall()
    free = sorted(
        set(range(_FIRST_NAMEPLATE, _FIRST_NAMEPLATE + _NAMEPLATES)) - {n for (n,) in rows}
    )
    if not free:
        raise LimitExceeded("pairing-codes: too many codes were shown within a day")
    listed = words()
    code = Code(free[below(len(free))], tuple(listed[below(len(listed))] for _ in range(_WORDS)))
    connection.execute(
        "INSERT INTO pairing_code (nameplate, secret, token_hash, is_guest, expires_at, state)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        (code.nameplate, code.secret, token_hash, is_guest, expires_at, Standing.OPEN.value),
    )
    return code


def expire(connection: sqlite3.Connection, now: float) -> None:
    """Erase the secrets of codes whose time is over."""
    connection.execute(
        "UPDATE pairing_code SET state=?, secret=NULL WHERE state=? AND expires_at<=?",
        (Standing.EXPIRED.value, Standing.OPEN.value, now),
    )


def look(connection: sqlite3.Connection, nameplate: int, now: float) -> tuple[Standing, bytes]:
    """How a code stands, and its secret while it is open."""
    row = connection.execute(
        "SELECT state, secret, expires_at FROM pairing_code WHERE nameplate=?", (nameplate,)
    ).fetchone()
    if row is None:
        return Standing.UNKNOWN, b""
    standing = Standing(row[0])
    if standing is Standing.OPEN and now >= row[2]:
        standing = Standing.EXPIRED
    return standing, row[1] if standing is Standing.OPEN else b""


@dataclass(frozen=True, slots=True)
class Judgement:
    """`left`: wrong tries that are left. `is_guest`: how the one who came is to be regarded."""

    standing: Standing
    left: int = 0
    is_guest: bool = True


def judge(
    connection: sqlite3.Connection, *, nameplate: int, secret: bytes, is_right: bool, now: float
) -> Judgement:
    """Use the code up, or count a wrong try, for one who was confirmed against `secret` or was
    not. Nobody is told how it went before this is durable, and tries at the same time are judged
    one after the other: more than three are never judged."""
    standing, current = look(connection, nameplate, now)
    if standing is not Standing.OPEN:
        return Judgement(standing)
    if current != secret:  # the nameplate has gone to another code meanwhile
        return Judgement(Standing.UNKNOWN)
    token_hash, is_guest, tries = connection.execute(
        "SELECT token_hash, is_guest, wrong_tries FROM pairing_code WHERE nameplate=?", (nameplate,)
    ).fetchone()
    if is_right:
        _end(connection, nameplate, Standing.USED)
        forget_token(connection, token_hash)
        return Judgement(Standing.GOOD, is_guest=bool(is_guest))
    connection.execute(
        "UPDATE pairing_code SET wrong_tries=? WHERE nameplate=?", (tries + 1, nameplate)
    )
    if tries + 1 >= MAX_WRONG_TRIES:
        _end(connection, nameplate, Standing.LOCKED)
        forget_token(connection, token_hash)
        return Judgement(Standing.LOCKED)
    return Judgement(Standing.WRONG, left=MAX_WRONG_TRIES - tries - 1)


def withdraw(connection: sqlite3.Connection, nameplate: int, now: float) -> bool:
    """End a code that is open, and the ticket beside it; False when it is over already."""
    expire(connection, now)
    row = connection.execute(
        "SELECT token_hash FROM pairing_code WHERE nameplate=? AND state=?",
        (nameplate, Standing.OPEN.value),
    ).fetchone()
    if row is None:
        return False
    _end(connection, nameplate, Standing.WITHDRAWN)
    forget_token(connection, row[0])
    return True


def ticket_used(connection: sqlite3.Connection, token_hash: bytes) -> int | None:
    """The ticket beside a code was redeemed: that code is used. Its nameplate; None when the
    ticket stood alone."""
    row = connection.execute(
        "SELECT nameplate FROM pairing_code WHERE token_hash=? AND state=?",
        (token_hash, Standing.OPEN.value),
    ).fetchone()
    if row is None:
        return None
    _end(connection, row[0], Standing.USED)
    nameplate: int = row[0]
    return nameplate


def remembered(connection: sqlite3.Connection) -> dict[int, float]:
    """Nameplate -> until when a joiner may ask for it, if only to be told that it is too late."""
    rows = connection.execute("SELECT nameplate, expires_at FROM pairing_code").fetchall()
    return {nameplate: expires_at + REMEMBERED_S for nameplate, expires_at in rows}


def _end(connection: sqlite3.Connection, nameplate: int, standing: Standing) -> None:
    connection.execute(
        "UPDATE pairing_code SET state=?, secret=NULL WHERE nameplate=?",
        (standing.value, nameplate),
    )
