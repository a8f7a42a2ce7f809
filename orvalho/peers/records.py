"""What nodes say of themselves to nodes that have not met them: signed, numbered statements.

A statement is laid out so that whose it is and how new it is can be read without a decoder and
before the signature, which costs a hundred times as much to check:

    kind (1 byte) | node key (32) | seq (8, big-endian) | signature (64) | body (msgpack)

The signature is the node's own Ed25519 (RFC 8032), under a purpose of the kind, over all the rest.
Of two statements of one kind by one node the one with the higher `seq` holds. `seq` is a counter,
not a time: no clock has to be right.
"""

from __future__ import annotations

import enum
import math
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import msgspec
from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

from orvalho.contexts.identity import Key, Signer, verify
from orvalho.contexts.names import check_label
from orvalho.errors import InvalidInput, Untrusted
from orvalho.peers.pairing import CheckCertificate
from orvalho.peers.wire import UNREADABLE

# A counter that starts at 1 never gets here: a number past it is a mistake or an attack.
MAX_SEQ: Final = (1 << 53) - 1
RECORD_BYTES: Final = 96 << 10
SIGHT_BYTES: Final = 1 << 13
MAX_ADDRESSES: Final = 32
MAX_CONTEXTS: Final = 200
MAX_VOUCHES: Final = 256
MAX_REVOCATIONS: Final = 256
MAX_LABELS: Final = 64
MAX_LINKS: Final = 256

_KEY: Final = slice(1, 33)
_SEQ: Final = slice(33, 41)
_SIGNATURE: Final = slice(41, 105)
_HEAD_BYTES: Final = 41
_BODY: Final = 105
_TEXT_LIMIT: Final = 256
_SHORT_KEY_BYTES: Final = 16

MIGRATIONS: Final = Migrations("record")

T = TypeVar("T")


class Kind(enum.IntEnum):
    """RECORD: who and where a node is, kept on disk. SIGHT: whom it is linked with, now."""

    RECORD = 1
    SIGHT = 2


KINDS: Final = frozenset(kind.value for kind in Kind)
_PURPOSE: Final = {Kind.RECORD: b"orvalho/record/1", Kind.SIGHT: b"orvalho/sight/1"}
LIMIT_BYTES: Final = {Kind.RECORD: RECORD_BYTES, Kind.SIGHT: SIGHT_BYTES}


class _Body(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """Further elements are allowed, so that a newer node may say more."""


class NamedKey(_Body, frozen=True):
    """A context of the node. No certificate: the node's signature over the record is one."""

    name: str
    key: bytes


class Vouch(_Body, frozen=True):
    """A node that the signer is paired with as its own."""

    node_key: bytes
    owner_key: bytes
    name: str


class Revocation(_Body, frozen=True):
    """A key that the signer has revoked, and with it every other key of a node of that owner;
    `owner_key` is empty where it is not known. `at` is on the signer's clock, and tells one
    revocation of a key from a later one."""

    node_key: bytes
    at: float
    owner_key: bytes = b""


class Record(_Body, frozen=True):
    """What a node says of itself. `certificate` is its owner's for the node's key and `name`.
    Capabilities and labels are `key=value`."""

    name: str
    owner_key: bytes
    certificate: bytes
    addresses: tuple[str, ...]
    contexts: tuple[NamedKey, ...]
    capabilities: tuple[str, ...]
    labels: tuple[str, ...]
    vouches: tuple[Vouch, ...]
    revocations: tuple[Revocation, ...]
    issued_at: float


class Sight(_Body, frozen=True):
    """The nodes that the signer has a link with, each by `short_key`."""

    links: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement as it travels. That it is well laid out is all that is known of it."""

    kind: Kind
    node_key: Key
    seq: int
    blob: bytes


def short_key(key: Key) -> bytes:
    """Half a key: as hard to aim at as the whole is to forge, and half as long."""
    return key[:_SHORT_KEY_BYTES]


def sign_record(signer: Signer, seq: int, record: Record) -> Statement:
    return _sign(signer, Kind.RECORD, seq, record)


def sign_sight(signer: Signer, seq: int, sight: Sight) -> Statement:
    return _sign(signer, Kind.SIGHT, seq, sight)


def read_head(blob: bytes) -> Statement | None:
    """Whose statement this claims to be, and how new; None when it is laid out wrongly or too
    large. No signature is checked."""
    if len(blob) <= _BODY or blob[0] not in KINDS:
        return None
    kind = Kind(blob[0])
    if len(blob) > LIMIT_BYTES[kind]:
        return None
    return Statement(kind, Key(blob[_KEY]), int.from_bytes(blob[_SEQ]), blob)


def open_record(statement: Statement, check: CheckCertificate) -> Record:
    """What the record says, once its signature and its owner's certificate hold.

    Raises:
        Untrusted: one of them does not, or it is malformed or holds too much.
    """
    record = _open(statement, Record)
    name, key = check(record.certificate, Key(record.owner_key))
    if key != statement.node_key or name != record.name:
        raise Untrusted("the certificate of a record is for another key or name")
    keys = [each.key for each in record.contexts]
    keys += [key for each in record.vouches for key in (each.node_key, each.owner_key)]
    keys += [each.node_key for each in record.revocations]
    texts = (*record.addresses, *record.capabilities, *record.labels)
    if (
        len(record.addresses) > MAX_ADDRESSES
        or len(record.contexts) > MAX_CONTEXTS
        or len(record.vouches) > MAX_VOUCHES
        or len(record.revocations) > MAX_REVOCATIONS
        or len(record.capabilities) + len(record.labels) > 2 * MAX_LABELS
        or any(len(text) > _TEXT_LIMIT for text in texts)
        or any(len(key) != len(statement.node_key) for key in keys)
        or not all(math.isfinite(each.at) for each in record.revocations)
    ):
        raise Untrusted("a record holds too much, or a key that is none", where=record.name)
    try:
        for label in (
            *(each.name for each in record.contexts),
            *(each.name for each in record.vouches),
        ):
            check_label(label)
    except InvalidInput as error:
        raise Untrusted(f"a record holds a name that is none: {error}") from error
    return record


def open_sight(statement: Statement) -> Sight:
    """Raises:
    Untrusted: the signature does not hold, or it is malformed or holds too much.
    """
    sight = _open(statement, Sight)
    if len(sight.links) > MAX_LINKS or any(len(key) != _SHORT_KEY_BYTES for key in sight.links):
        raise Untrusted("a sight holds too much, or a key that is none")
    return sight


def _sign(signer: Signer, kind: Kind, seq: int, body: _Body) -> Statement:
    head = bytes([kind]) + signer.key + seq.to_bytes(8)
    content = msgspec.msgpack.encode(body)
    blob = head + signer.sign(_PURPOSE[kind], head + content) + content
    return Statement(kind, signer.key, seq, blob)


def _open(statement: Statement, body: type[T]) -> T:
    blob = statement.blob
    signed = blob[:_HEAD_BYTES] + blob[_BODY:]
    verify(statement.node_key, _PURPOSE[statement.kind], signed, blob[_SIGNATURE])
    try:
        return msgspec.msgpack.decode(blob[_BODY:], type=body)
    except UNREADABLE as error:
        raise Untrusted(f"a statement is malformed: {error}") from error


# ---- on disk ------------------------------------------------------------------------------


def _create(database: Database) -> None:
    database.execute(
        "CREATE TABLE record (node_key BLOB PRIMARY KEY, blob BLOB NOT NULL) WITHOUT ROWID"
    )
    # How often this node has started: what its sights are numbered by.
    database.execute("CREATE TABLE mesh_start (starts INTEGER NOT NULL)")
    database.execute("INSERT INTO mesh_start VALUES (0)")


MIGRATIONS(name="create")(_create)


def keep(connection: sqlite3.Connection, statements: Iterable[Statement]) -> None:
    """Write records down, each in the place of the one before."""
    connection.executemany(
        "INSERT OR REPLACE INTO record VALUES (?, ?)",
        [(each.node_key, each.blob) for each in statements],
    )


def drop(connection: sqlite3.Connection, keys: Iterable[Key]) -> None:
    connection.executemany("DELETE FROM record WHERE node_key = ?", [(key,) for key in keys])


def kept(connection: sqlite3.Connection) -> Sequence[Statement]:
    """Every record that was written down."""
    found = [read_head(blob) for (blob,) in connection.execute("SELECT blob FROM record")]
    return [each for each in found if each is not None]


def count_start(connection: sqlite3.Connection) -> int:
    """How often this node has started, this time included."""
    (starts,) = connection.execute(
        "UPDATE mesh_start SET starts = starts + 1 RETURNING starts"
    ).fetchone()
    return int(starts)
