"""What a node tells its peers of itself beside its name and addresses: its contexts, its labels."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import msgspec

from orvalho.contexts.context import Context
from orvalho.contexts.identity import Key, check_certificate
from orvalho.contexts.names import NODE_LABEL
from orvalho.contexts.trust import ContextEntry
from orvalho.errors import Untrusted

_MOST: Final = 1000
_MOST_LABELS: Final = 64


class _Greeting(msgspec.Struct, frozen=True, kw_only=True):
    """`contexts`: a certificate each, which names the context and its key. `labels`: what the
    node may be chosen by, `env=home`. `usual`: the context that is meant where only the node is
    named."""

    contexts: tuple[bytes, ...] = ()
    labels: tuple[str, ...] = ()
    usual: str = ""


@dataclass(frozen=True, slots=True)
class Greeted:
    """What a node says of itself that is kept for as long as we run."""

    labels: frozenset[str] = frozenset()
    usual: str = ""


def greet(contexts: Iterable[Context], labels: Iterable[str] = (), usual: str = "") -> bytes:
    greeting = _Greeting(
        contexts=tuple(c.certificate for c in contexts), labels=tuple(labels), usual=usual
    )
    return msgspec.msgpack.encode(greeting)


def read_greeting(greeting: bytes, node_key: Key) -> tuple[ContextEntry, ...]:
    """The contexts that the node `node_key` certifies.

    Raises:
        Untrusted: it is malformed, or a certificate does not hold.
    """
    certificates = _read(greeting).contexts[:_MOST]
    held = [check_certificate(blob, node_key, "context") for blob in certificates]
    return tuple(ContextEntry(name=each.name, key=each.key) for each in held)


def read_rest(greeting: bytes) -> Greeted:
    """What else a node says of itself; labels that are none are left out.

    Raises:
        Untrusted: it is malformed.
    """
    read = _read(greeting)
    labels = (label for label in read.labels[:_MOST_LABELS] if NODE_LABEL.fullmatch(label))
    return Greeted(frozenset(labels), read.usual)


def _read(greeting: bytes) -> _Greeting:
    if not greeting:
        return _Greeting()
    try:
        return msgspec.msgpack.decode(greeting, type=_Greeting)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Untrusted(f"the peer's greeting is malformed: {error}") from error
