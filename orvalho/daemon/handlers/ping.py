"""What we answer a peer that asks whether we are there, and what time it is here."""

from __future__ import annotations

import time
from typing import Final

import msgspec

from orvalho.contexts.identity import Key
from orvalho.errors import InvalidInput, Unavailable

PING: Final = "node.ping"
# A tell of this kind is heard and dropped: what `orvalho bench` sends one way.
NOTHING: Final = "node.nothing"

_MOST_BYTES: Final = 1 << 20


class Here(msgspec.Struct, frozen=True, kw_only=True):
    """`at` is the answering node's clock, in Unix seconds."""

    at: float


async def answer_ping(_sender: Key, body: bytes) -> bytes:
    """The body is padding, and of any content."""
    if len(body) > _MOST_BYTES:
        raise InvalidInput(f"a ping has at most {_MOST_BYTES} bytes")
    return msgspec.msgpack.encode(Here(at=time.time()))


def hear_nothing(_sender: Key, _body: bytes) -> None:
    """For tells that are only counted on their way."""


def read_here(answer: bytes) -> Here:
    """Raises:
    Unavailable: the peer answers something else; it is of another version.
    """
    try:
        return msgspec.msgpack.decode(answer, type=Here)
    except msgspec.DecodeError as error:
        raise Unavailable("the peer answers a ping with something else") from error
