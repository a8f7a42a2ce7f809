"""Pairing by ticket: a text that one node makes and another redeems, once. Sans-IO.

A ticket is `orvalho1:` and base64url of a msgpack array with 4 bytes of its SHA-256 behind it.
It names the inviting node by its key, so the joiner cannot be led to another one, and holds a
secret token, so the inviter knows whom it invited. The two exchange one message each, over a
session in pairing mode; then both have what their trust books need.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final

import msgspec
from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

from orvalho.contexts.identity import Key
from orvalho.errors import InvalidInput, OrvalhoError, Untrusted, from_code
from orvalho.peers.wire import UNREADABLE

TOKEN_BYTES: Final = 16
MAX_WRONG_TRIES: Final = 3
_PREFIX: Final = "orvalho1:"
_CHECK_BYTES: Final = 4
_MAX_TICKET_CHARACTERS: Final = 4096
# An invitation that is over is remembered this long, to tell a late joiner why.
_REMEMBERED_S: Final = 7 * 86400.0
_MAX_ADDRESSES: Final = 16

# (certificate, owner's key) -> the node's name and key that the owner vouches for; raises
# Untrusted when the certificate does not hold.
CheckCertificate = Callable[[bytes, Key], tuple[str, Key]]


class Introduction(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """What a node says of itself. `certificate` is its owner's word for its name and key;
    `greeting` is opaque here."""

    name: str
    owner_key: bytes
    certificate: bytes
    addresses: tuple[str, ...]
    greeting: bytes = b""


class Ticket(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """`token` is the secret. `is_guest` says how the inviter will regard who redeems it."""

    node_key: bytes
    introduction: Introduction
    token: bytes
    expires_at: float
    is_guest: bool


@dataclass(frozen=True, slots=True)
class Paired:
    """The far side, its certificate checked: what goes into the trust book."""

    node_key: Key
    name: str
    owner_key: Key
    addresses: tuple[str, ...]
    greeting: bytes
    certificate: bytes
    is_guest: bool
    # Its owner has yet to approve of us.
    is_held: bool = False
    # By a short code, not by a ticket.
    by_code: bool = False


class Redemption(Enum):
    """What became of a token. All but GOOD are reasons to refuse."""

    GOOD = "good"
    EXPIRED = "expired"
    USED = "used"
    WRONG = "wrong"
    LOCKED = "locked"


_REASONS: Final = {
    Redemption.EXPIRED: "the ticket has expired",
    Redemption.USED: "the ticket has been used already",
    Redemption.WRONG: "no such ticket was given out here",
    Redemption.LOCKED: f"the ticket was withdrawn after {MAX_WRONG_TRIES} wrong tries",
}


# ---- the ticket as text -----------------------------------------------------------------------


def format_ticket(ticket: Ticket) -> str:
    content = msgspec.msgpack.encode(ticket)
    checked = content + hashlib.sha256(content).digest()[:_CHECK_BYTES]
    return _PREFIX + base64.urlsafe_b64encode(checked).rstrip(b"=").decode()


def parse_ticket(text: str) -> Ticket:
    """The ticket that `format_ticket` wrote; white space and line breaks in it are forgiven.

    Raises:
        InvalidInput: it is no ticket, or a mistyped one.
    """
    plain = "".join(text.split())
    shown = ascii(plain[:24] + "...")
    if not plain.startswith(_PREFIX) or len(plain) > _MAX_TICKET_CHARACTERS:
        raise InvalidInput(
            f"a ticket starts with {_PREFIX}",
            where=shown,
            hint="orvalho peer invite, on the other device",
        )
    letters = plain.removeprefix(_PREFIX)
    try:
        checked = base64.b64decode(letters + "=" * (-len(letters) % 4), b"-_", validate=True)
    except (binascii.Error, ValueError):
        checked = b""
    content, check = checked[:-_CHECK_BYTES], checked[-_CHECK_BYTES:]
    if hashlib.sha256(content).digest()[:_CHECK_BYTES] != check:
        raise InvalidInput(
            "the ticket is mistyped or incomplete: its check letters do not match",
            where=shown,
            hint="copy the whole line once more",
        )
    try:
        return msgspec.msgpack.decode(content, type=Ticket)
    except UNREADABLE as error:
        raise InvalidInput("the ticket is of an unknown form", where=shown) from error


# ---- invitations: durable rows ----------------------------------------------------------------

MIGRATIONS = Migrations("pairing")


def _create(database: Database) -> None:
    database.execute(
        "CREATE TABLE invitation (token_hash BLOB PRIMARY KEY, is_guest INTEGER NOT NULL,"
        " expires_at REAL NOT NULL, wrong_tries INTEGER NOT NULL DEFAULT 0, used_by BLOB)"
        " WITHOUT ROWID"
    )


MIGRATIONS(name="create")(_create)


def invite(
    connection: sqlite3.Connection, *, token: bytes, is_guest: bool, expires_at: float, now: float
) -> None:
    """Remember a token by its hash: who reads the database learns none."""
    connection.execute("DELETE FROM invitation WHERE expires_at<?", (now - _REMEMBERED_S,))
    connection.execute(
        "INSERT INTO invitation (token_hash, is_guest, expires_at) VALUES (?, ?, ?)",
        (token_hash(token), is_guest, expires_at),
    )


def withdraw(connection: sqlite3.Connection, token: bytes) -> bool:
    """Forget a token that has not been used; False when there is none."""
    cursor = connection.execute(
        "DELETE FROM invitation WHERE token_hash=? AND used_by IS NULL", (token_hash(token),)
    )
    return cursor.rowcount > 0


def forget_token(connection: sqlite3.Connection, hashed: bytes) -> None:
    """End an invitation by its token's hash, unless it has been used."""
    connection.execute("DELETE FROM invitation WHERE token_hash=? AND used_by IS NULL", (hashed,))


def remembered_until(connection: sqlite3.Connection) -> float:
    """Until when a stranger may knock, if only to be told that it is too late; 0 for never."""
    (latest,) = connection.execute("SELECT max(expires_at) FROM invitation").fetchone()
    return 0.0 if latest is None else latest + _REMEMBERED_S


def redeem(
    connection: sqlite3.Connection, *, token: bytes, by: Key, now: float
) -> tuple[Redemption, bool]:
    """Use a token up; the second part says whether it makes a guest.

    A wrong token counts against every invitation that is open, since it cannot be known which
    one was being guessed at. The node that used a token may use it again before it expires: its
    answer may have been lost.
    """
    row = connection.execute(
        "SELECT is_guest, expires_at, wrong_tries, used_by FROM invitation WHERE token_hash=?",
        (token_hash(token),),
    ).fetchone()
    if row is None:
        connection.execute("UPDATE invitation SET wrong_tries = wrong_tries + 1")
        return Redemption.WRONG, True
    is_guest, expires_at, wrong_tries, used_by = row
    if used_by is not None and not hmac.compare_digest(used_by, by):
        return Redemption.USED, True
    if now >= expires_at:
        return Redemption.EXPIRED, True
    if used_by is None and wrong_tries >= MAX_WRONG_TRIES:
        return Redemption.LOCKED, True
    connection.execute(
        "UPDATE invitation SET used_by=? WHERE token_hash=?", (by, token_hash(token))
    )
    return Redemption.GOOD, bool(is_guest)


def refusal(redemption: Redemption) -> Untrusted:
    """The error that a refused joiner sees."""
    return Untrusted(_REASONS[redemption], hint="orvalho peer invite, on the other device")


# ---- the exchange -----------------------------------------------------------------------------


class _Request(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    token: bytes
    introduction: Introduction


class _Answer(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """Either an introduction, or why not. `is_held`: the inviter's owner has yet to approve."""

    introduction: Introduction | None = None
    code: str = ""
    message: str = ""
    hint: str | None = None
    is_held: bool = False


def request(ticket: Ticket, mine: Introduction) -> bytes:
    """The joiner's message."""
    return msgspec.msgpack.encode(_Request(token=ticket.token, introduction=mine))


def read_request(message: bytes) -> tuple[bytes, Introduction]:
    """The inviter's reading of it: the token, and who presents it.

    Raises:
        Untrusted: it is malformed.
    """
    try:
        asked = msgspec.msgpack.decode(message, type=_Request)
    except UNREADABLE as error:
        raise Untrusted("the request to pair is malformed") from error
    return asked.token, asked.introduction


def accept(mine: Introduction, *, is_held: bool = False) -> bytes:
    """The inviter's answer to a good token."""
    return msgspec.msgpack.encode(_Answer(introduction=mine, is_held=is_held))


def refuse(error: OrvalhoError) -> bytes:
    """The inviter's answer to any other."""
    return msgspec.msgpack.encode(_Answer(code=error.code, message=error.message, hint=error.hint))


def read_answer(message: bytes, peer: str) -> tuple[Introduction, bool]:
    """The joiner's reading of it; the second part says whether it is held for approval.

    Raises:
        OrvalhoError: what the inviter refused with, with `peer` set.
        Untrusted: it is malformed.
    """
    try:
        answer = msgspec.msgpack.decode(message, type=_Answer)
    except UNREADABLE as error:
        raise Untrusted("the answer to a request to pair is malformed") from error
    if answer.introduction is None:
        raise from_code(answer.code, answer.message, hint=answer.hint, peer=peer)
    return answer.introduction, answer.is_held


def check_introduction(
    introduction: Introduction, node_key: Key, check: CheckCertificate, *, is_guest: bool
) -> Paired:
    """What may be believed of a node whose session has proven `node_key`.

    Raises:
        Untrusted: its certificate is for another key or name, or does not hold.
    """
    owner_key = Key(introduction.owner_key)
    name, certified_key = check(introduction.certificate, owner_key)
    if certified_key != node_key or name != introduction.name:
        raise Untrusted("the certificate is not of the node that shows it", where=name)
    return Paired(
        node_key=node_key,
        name=name,
        owner_key=owner_key,
        addresses=introduction.addresses[:_MAX_ADDRESSES],
        greeting=introduction.greeting,
        certificate=introduction.certificate,
        is_guest=is_guest,
    )


def token_hash(token: bytes) -> bytes:
    """What of a token is kept."""
    return hashlib.sha256(token).digest()
