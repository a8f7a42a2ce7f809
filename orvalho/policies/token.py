"""Biscuit tokens (Biscuit 3.3) as a chain of signed statements (the only import of biscuit_auth).

Biscuit gives what we would else build: each block is signed by a key that the block before it
named, so a block can be added by whoever holds the token, offline, and none can be taken away or
changed; a third-party block is signed besides by a key that we know, over all that came before; and
each block has a revocation id. Its Datalog is not used. A block may hold one fact, `link(hex:...)`,
and a token with anything else in it is refused before anything is evaluated, so no program of a
stranger's ever runs here. (A block may also name whose facts its rules trust; it has no rules.) The
globs of a grant stay those of `policies/globs.py`, too.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, TypeVar

from orvalho.contexts.identity import Key, Signer
from orvalho.errors import InvalidInput, LimitExceeded, Untrusted

T = TypeVar("T")

# A paired device can make us print what it wrote, in which one long string may stand many times.
MAX_BYTES: Final = 4096
MAX_LINKS: Final = 8

# Bytes and not a string: the library prints strings without escaping them.
_FACT: Final = re.compile(r"link\(hex:((?:[0-9a-f]{2})+)\);\n")
_KEY: Final = re.compile(r"ed25519/([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Block:
    """One link: what it states, the third party that signed it (None: nobody but whoever had the
    token), and its revocation id, which is the block's own signature."""

    statement: bytes
    signed_by: Key | None
    revocation_id: bytes


def issue(root: Signer, statement: bytes) -> bytes:
    """A token with one link.

    Raises:
        LimitExceeded: it would be too large.
    """
    builder = _biscuit().BiscuitBuilder("link({statement})", {"statement": statement})
    return _bounded(bytes(builder.build(root.lend(_private)).to_bytes()))


def extend(token: bytes, root_key: Key, statement: bytes, holder: Signer | None) -> bytes:
    """The token with one link more, signed by `holder` where it has one.

    Raises:
        Untrusted: it is no token of that root.
        LimitExceeded: it would be too long or too large.
    """
    if len(open_token(token, root_key)) >= MAX_LINKS:
        raise LimitExceeded(f"a grant is handed on at most {MAX_LINKS - 1} times")
    opened = _opened(token, root_key)
    block = _biscuit().BlockBuilder("link({statement})", {"statement": statement})
    if holder is None:
        return _bounded(bytes(opened.append(block).to_bytes()))
    signed = opened.third_party_request().create_block(holder.lend(_private), block)
    return _bounded(bytes(opened.append_third_party(_public(holder.key), signed).to_bytes()))


def open_token(token: bytes, root_key: Key) -> tuple[Block, ...]:
    """The links of a token, each signature of which holds. Whether who signed a link may is the
    caller's to ask.

    Raises:
        Untrusted: it is too large, no token, not of that root, or has something else in it.
    """
    if len(token) > MAX_BYTES:
        raise Untrusted(f"the grant has {len(token)} bytes, more than {MAX_BYTES}")
    opened = _opened(token, root_key)
    count = opened.block_count()
    if count > MAX_LINKS:
        raise Untrusted(f"the grant has {count} links, more than {MAX_LINKS}")
    ids = opened.revocation_ids
    return tuple(_block(opened, index, bytes.fromhex(ids[index])) for index in range(count))


def _block(opened: Any, index: int, revocation_id: bytes) -> Block:
    found = _FACT.fullmatch(_guarded(lambda: opened.block_source(index)))
    if found is None:
        raise Untrusted(f"link {index + 1} of the grant holds something else than one statement")
    return Block(bytes.fromhex(found[1]), _signed_by(opened, index), revocation_id)


def _signed_by(opened: Any, index: int) -> Key | None:
    text = _guarded(lambda: opened.block_external_key(index))
    if text is None:
        return None
    found = _KEY.fullmatch(str(text))
    if found is None:
        raise Untrusted(f"link {index + 1} of the grant is signed by a key that is not Ed25519")
    return Key(bytes.fromhex(found[1]))


def _opened(token: bytes, root_key: Key) -> Any:
    return _guarded(lambda: _biscuit().Biscuit.from_bytes(token, _public(root_key)))


def _guarded(work: Callable[[], T]) -> T:
    """The library's errors, and its panics, which are no Exception, are about the token alone."""
    try:
        return work()
    except Exception as error:
        raise Untrusted(f"the grant's signatures do not hold: {error}") from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise Untrusted("the grant is malformed") from error


@cache
def _biscuit() -> Any:
    """The library: 30 ms that only a home with grants needs. What its stubs say of keys is an older
    version's."""
    import biscuit_auth  # noqa: PLC0415

    return biscuit_auth


def _bounded(token: bytes) -> bytes:
    if len(token) > MAX_BYTES:
        raise LimitExceeded(f"a grant has at most {MAX_BYTES} bytes, and this {len(token)}")
    return token


def _private(seed: bytes) -> Any:
    return _biscuit().PrivateKey.from_bytes(seed, _biscuit().Algorithm.Ed25519)


def _public(key: Key) -> Any:
    try:
        return _biscuit().PublicKey.from_bytes(key, _biscuit().Algorithm.Ed25519)
    except Exception as error:
        raise InvalidInput("this is no Ed25519 key") from error
