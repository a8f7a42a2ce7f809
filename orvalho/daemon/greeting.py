"""What a node tells its peers of itself beside its name and addresses: its contexts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from orvalho.contexts.context import Context
from orvalho.contexts.identity import Key, check_certificate
from orvalho.contexts.trust import ContextEntry
from orvalho.errors import Untrusted

_MOST: Final = 1000


class _Greeting(msgspec.Struct, frozen=True, kw_only=True):
    """`contexts`: a certificate each, which names the context and its key."""

    contexts: tuple[bytes, ...] = ()


def greet(contexts: Iterable[Context]) -> bytes:
    return msgspec.msgpack.encode(_Greeting(contexts=tuple(c.certificate for c in contexts)))


def read_greeting(greeting: bytes, node_key: Key) -> tuple[ContextEntry, ...]:
    """The contexts that the node `node_key` certifies.

    Raises:
        Untrusted: it is malformed, or a certificate does not hold.
    """
    if not greeting:
        return ()
    try:
        certificates = msgspec.msgpack.decode(greeting, type=_Greeting).contexts[:_MOST]
    except msgspec.DecodeError as error:
        raise Untrusted(f"the peer's greeting is malformed: {error}") from error
    held = [check_certificate(blob, node_key, "context") for blob in certificates]
    return tuple(ContextEntry(name=each.name, key=each.key) for each in held)
