"""What two nodes say to each other, as bytes and back."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from orvalho.errors import InvalidInput
from orvalho.peers.wire import UNREADABLE

T = TypeVar("T", bound=msgspec.Struct)


def encode(words: msgspec.Struct) -> bytes:
    return msgspec.msgpack.encode(words)


def decode(raw: bytes, kind: type[T]) -> T:
    """Raises:
    InvalidInput: it is something else.
    """
    try:
        return msgspec.msgpack.decode(raw, type=kind)
    except UNREADABLE as error:
        raise InvalidInput(f"not a {kind.__name__}: {error}") from error
