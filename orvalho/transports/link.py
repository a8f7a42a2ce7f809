"""The seam between peers and the networks that carry them: Transport, Listener, Link."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Final, Protocol

from orvalho.errors import Unavailable


def host_and_port(host: str, port: int) -> str:
    """`127.0.0.1:4455`, `[::1]:4455`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Link(Protocol):
    """An ordered path to one far side. Frames arrive whole or not at all.

    `send` returns once the frame is handed over, not read, and waits while the far side is slow.
    Only one task sends and one receives at a time. `send` and `receive` raise Unavailable when the
    far side has gone; after `aclose`, `anyio.ClosedResourceError` (a bug in the caller). Whoever
    holds a link closes it; closing twice is fine.

    `max_frame_bytes` is the largest frame that either side may send; `description` names the far
    end for a person, such as "127.0.0.1:4455".
    """

    @property
    def max_frame_bytes(self) -> int: ...
    @property
    def description(self) -> str: ...
    async def send(self, frame: bytes) -> None: ...
    async def receive(self) -> bytes: ...
    async def aclose(self) -> None: ...

    def admit(self) -> None:
        """The far side has proven who it is: stop counting this link against the listener's
        limit on strangers."""


class Listener(Protocol):
    """An open ear. `address` is where it really listens: a port 0 has become a port."""

    @property
    def address(self) -> str: ...


OnLink = Callable[[Link], Awaitable[None]]


class Transport(Protocol):
    """Makes links of one kind. Addresses are URLs."""

    def listen(self, address: str, on_link: OnLink) -> AbstractAsyncContextManager[Listener]:
        """Listen for the length of the block. `on_link` runs in a task of its own for each link
        that arrives, which is closed when it returns; leaving the block closes those still open
        and waits for their tasks, two seconds at most.

        Raises:
            InvalidInput: this is no address of this transport.
            Unavailable: the address is taken, or not ours.
        """
        ...

    async def dial(self, address: str) -> Link:
        """Open a link.

        Raises:
            InvalidInput: this is no address of this transport.
            Unavailable: nobody answers there.
        """
        ...


_NUMBER: Final = re.compile(r"\[Errno -?\d+\] ")


def unanswered(error: BaseException, address: str) -> Unavailable:
    """The error of `dial` where nobody answers: the system's words without its numbers."""
    words = _NUMBER.sub("", str(error)) or "not in time"
    words = words if words[1:2].isupper() else words[:1].lower() + words[1:]
    return Unavailable(f"nobody answers: {words}", where=address)
