"""A node's new key, as its old ones and its owner vouch for it. Sans-IO.

A node that changed its key says so in every handshake for 30 days, beside the proof of the new
key: for each key it had, that key's signature over the new one and the moment, and its owner's
certificate for the new one. Who knows it by an old key can check all of that before anything else
is said. The owner's word is needed: a stolen node key alone names no successor.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from orvalho.contexts.identity import Key, Signer, verify
from orvalho.errors import Untrusted
from orvalho.peers.pairing import CheckCertificate
from orvalho.peers.wire import UNREADABLE

NEWS_LIFE_S: Final = 30 * 86400.0
# More within NEWS_LIFE_S would not fit into a handshake message.
MOST_CHANGES: Final = 3
_SKEW_S: Final = 300.0
_PURPOSE: Final = b"orvalho/succession/1"
_MOMENT: Final = struct.Struct(">d")

# (a key that was proven, what came beside it) -> the known key whose successor it is, or None.
Heir = Callable[[Key, bytes], Key | None]


class _Word(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    old_key: bytes
    changed_at: float
    signature: bytes


class _Succession(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    certificate: bytes
    words: tuple[_Word, ...]


def write(
    certificate: bytes, changes: Sequence[tuple[Signer, float]], new_key: Key, now: float
) -> bytes:
    """What a node says of its earlier keys: each with the moment it was given up. Empty when that
    is too long ago to be news. `certificate` is the owner's for the new key."""
    fresh = [(old, at) for old, at in changes if now - at < NEWS_LIFE_S]
    if not fresh:
        return b""
    words = tuple(
        _Word(
            old_key=old.key,
            changed_at=at,
            signature=old.sign(_PURPOSE, new_key + _MOMENT.pack(at)),
        )
        for old, at in fresh[-MOST_CHANGES:]
    )
    return msgspec.msgpack.encode(_Succession(certificate=certificate, words=words))


def forerunner(
    said: bytes,
    new_key: Key,
    *,
    now: float,
    owner_of: Callable[[Key], Key | None],
    check: CheckCertificate,
) -> Key | None:
    """The known key that `new_key` provably succeeds; None when there is none. `owner_of(key)` is
    the owner's key of a node we know by that key."""
    if not said:
        return None
    try:
        succession = msgspec.msgpack.decode(said, type=_Succession)
    except UNREADABLE:
        return None
    for word in succession.words[:MOST_CHANGES]:
        old_key = Key(word.old_key)
        owner = owner_of(old_key)
        if owner is None or not -_SKEW_S <= now - word.changed_at < NEWS_LIFE_S + _SKEW_S:
            continue
        try:
            moment = _MOMENT.pack(word.changed_at)
            verify(old_key, _PURPOSE, new_key + moment, word.signature)
            _, certified = check(succession.certificate, owner)
        except Untrusted:
            continue
        if certified == new_key:
            return old_key
    return None
