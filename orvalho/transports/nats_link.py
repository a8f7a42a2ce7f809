"""A link over NATS subjects: frames in parts, a credit window, close notices. It knows no server.

Each end has an inbox, `orvalho.link.<its nkey>.<token>`, and publishes to that of the other; a
token is 128 random bits. A message there is one byte of kind and its content:

    0  OPEN    sent to `orvalho.link.<nkey>.open`; the reply subject is the dialer's inbox
    1  ACCEPT  the token of the listener's inbox for this link
    2  LAST    the number of the part (4 bytes, from 0), then the last or only part of a frame
    3  PART    the same, with more of the frame to come
    4  CREDIT  how much the reader has taken in all (8 bytes): a part counts 16 and its bytes
    5  CLOSE   the link is gone

NATS may lose messages when a connection breaks, and says nothing: the numbers of the parts tell.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import struct
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

import anyio

from orvalho.errors import Unavailable

MAX_FRAME_BYTES: Final = 1 << 18
OPEN_NAME: Final = "open"
OPEN, ACCEPT, LAST, PART, CREDIT, CLOSE = range(6)

# Eight frames of the largest size may wait unread; then the far side's `send` waits.
_WINDOW_BYTES: Final = 8 * (MAX_FRAME_BYTES + 64)
_ANNOUNCE_BYTES: Final = _WINDOW_BYTES // 4
_PART_COST_BYTES: Final = 16
_PART: Final = struct.Struct(">BI")
_CREDIT: Final = struct.Struct(">BQ")
_PART_NUMBERS: Final = 1 << 32
_TOKEN_BYTES: Final = 16
_INBOX: Final = re.compile(r"orvalho\.link\.(U[A-Z2-7]{55})\.([A-Za-z0-9_-]{22})")
_TOKEN: Final = re.compile(rb"[A-Za-z0-9_-]{22}")

# Publishes content to a subject. Raises Unavailable.
Publish = Callable[[str, bytes], Awaitable[None]]


class NatsLink:
    """One end. `max_part_bytes` is what fits a message of the server besides the part's head.

    `take` is given what arrives in this end's inbox. `on_end` is called once, when the link has
    ended for whatever reason.
    """

    max_frame_bytes = MAX_FRAME_BYTES

    def __init__(
        self,
        publish: Publish,
        description: str,
        max_part_bytes: int,
        on_end: Callable[[NatsLink], None],
    ) -> None:
        self.description = description
        self.token = secrets.token_urlsafe(_TOKEN_BYTES)
        self.far = ""
        self.on_admit: Callable[[NatsLink], None] = _nothing
        self._publish = publish
        self._max_part_bytes = max_part_bytes
        self._on_end = on_end
        self._frames: deque[tuple[bytes, int]] = deque()
        self._parts: list[bytes] = []
        self._parts_cost = 0
        self._parts_bytes = 0
        self._parts_in = self._parts_out = 0
        # How much has come in, was read here, and was announced as read; and the same going out.
        self._came = self._taken = self._announced = 0
        self._sent = self._credited = 0
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._gone: str | None = None
        self._is_closed = False

    async def send(self, frame: bytes) -> None:
        if len(frame) > self.max_frame_bytes:
            raise ValueError(f"a frame has at most {self.max_frame_bytes} bytes, not {len(frame)}")
        self._check()
        size = self._max_part_bytes
        for start in range(0, len(frame) or 1, size):
            part = frame[start : start + size]
            await self._wait_room(len(part) + _PART_COST_BYTES)
            kind = LAST if start + size >= len(frame) else PART
            head = _PART.pack(kind, self._parts_out % _PART_NUMBERS)
            self._parts_out += 1
            self._sent += len(part) + _PART_COST_BYTES
            await self._publish(self.far, head + part)

    async def receive(self) -> bytes:
        if self._is_closed:
            raise anyio.ClosedResourceError
        while not self._frames:
            self._check()
            self._changed.clear()
            await self._changed.wait()
        frame, cost = self._frames[0]
        taken = self._taken + cost
        if taken - self._announced >= _ANNOUNCE_BYTES and self._gone is None:
            # Before the frame is taken out: a cancelled receive loses nothing.
            await self._publish(self.far, _CREDIT.pack(CREDIT, taken))
            self._announced = taken
        self._frames.popleft()
        self._taken = taken
        return frame

    async def aclose(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        was_open = self._gone is None
        self.end("closed here")
        if was_open and self.far:
            try:
                await self._publish(self.far, bytes([CLOSE]))
            except Unavailable:
                return

    def admit(self) -> None:
        self.on_admit(self)

    @property
    def acceptance(self) -> bytes:
        """The message by which a listener tells the dialer of this end."""
        return bytes([ACCEPT]) + self.token.encode()

    def end(self, reason: str) -> None:
        """The link is lost; frames that have arrived can still be read."""
        if self._gone is None:
            self._gone = reason
            self._on_end(self)
        self._changed.set()
        self._room.set()

    async def wait_accepted(self) -> None:
        """For a dialer, after its OPEN.

        Raises:
            Unavailable: the far side refuses.
        """
        while not self.far:
            self._check()
            self._changed.clear()
            await self._changed.wait()

    def take(self, content: bytes, inbox_of_far: str) -> bool:
        """A message has come in; `inbox_of_far` is the subject under which a far side that is
        dialled has its inboxes. False when it makes no sense, which ends the link."""
        kind = content[0] if content else -1
        if kind == CLOSE and len(content) == 1:
            self.end("the far side has closed the link")
            return True
        if not self.far:
            is_sound = kind == ACCEPT and _TOKEN.fullmatch(content[1:]) is not None
            if is_sound:
                self.far = f"{inbox_of_far}.{content[1:].decode()}"
        elif kind in (LAST, PART) and len(content) >= _PART.size:
            is_sound = self._take_part(kind, content)
        elif kind == CREDIT and len(content) == _CREDIT.size:
            credited = _CREDIT.unpack(content)[1]
            is_sound = self._credited <= credited <= self._sent
            self._credited = max(self._credited, credited)
            self._room.set()
        else:
            is_sound = False
        if not is_sound:
            self.end("the far side does not keep to the rules, or a message was lost")
        self._changed.set()
        return is_sound

    def _take_part(self, kind: int, content: bytes) -> bool:
        number = _PART.unpack_from(content)[1]
        size = len(content) - _PART.size
        self._came += size + _PART_COST_BYTES
        self._parts_cost += size + _PART_COST_BYTES
        self._parts_bytes += size
        if (
            number != self._parts_in % _PART_NUMBERS
            or self._came - self._announced > _WINDOW_BYTES
            or self._parts_bytes > self.max_frame_bytes
        ):
            return False
        self._parts_in += 1
        self._parts.append(content[_PART.size :])
        if kind == LAST:
            frame = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
            self._frames.append((frame, self._parts_cost))
            self._parts, self._parts_cost, self._parts_bytes = [], 0, 0
        return True

    async def _wait_room(self, cost: int) -> None:
        while self._sent + cost - self._credited > _WINDOW_BYTES:
            self._check()
            self._room.clear()
            await self._room.wait()
        self._check()

    def _check(self) -> None:
        if self._is_closed:
            raise anyio.ClosedResourceError
        if self._gone is not None:
            raise Unavailable(self._gone, where=self.description)


def inbox(nkey: str, name: str = "*") -> str:
    """The subject of one inbox of a node, of all of them, or of its door, `open`."""
    return f"orvalho.link.{nkey}.{name}"


def read_inbox(subject: str) -> str | None:
    """The nkey of the node whose inbox this is; None when it is no inbox of a link."""
    found = _INBOX.fullmatch(subject)
    return found[1] if found else None


def _nothing(_: NatsLink) -> None:
    return
