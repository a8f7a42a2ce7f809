"""One link with its open session: frames in order, both ways."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from typing import Final, Protocol

import anyio

from orvalho.contexts.identity import Key
from orvalho.errors import LimitExceeded, Unavailable, Untrusted
from orvalho.peers import frames
from orvalho.peers.frames import AnyFrame, Frame, Ping, Pong
from orvalho.peers.routing import Path
from orvalho.peers.session import MAX_FRAME_BYTES, Session
from orvalho.transports.link import Link

# Frames that wait while the link is busy are sealed and sent together, up to this size.
_BATCH_BYTES: Final = 1 << 17
# Who sends much waits for room once so much is queued, so that what is urgent comes through.
_QUEUE_BYTES: Final = 1 << 19

_ALONG_S: Final = 0.003


class Bearer(Protocol):
    """Who brought an envelope of `peer`, and learns what became of it: a channel, as a rule."""

    @property
    def peer(self) -> Key: ...
    @property
    def is_open(self) -> bool: ...
    def send(self, frame: Frame) -> None: ...
    def send_along(self, frame: Frame) -> None: ...


OnFrame = Callable[["Channel", AnyFrame], None]


class Channel:
    """Frames to and from one peer. `run` does the work; the other calls only queue.

    Times are those of the event loop's clock: `heard_at` is when anything last came in, `said_at`
    when anything last went out. `transport` is the URL scheme of its link.
    """

    def __init__(
        self, link: Link, session: Session, counters: Counter[str], transport: str = ""
    ) -> None:
        self.peer: Key = session.peer
        self.transport = transport
        self.opened_at = self.heard_at = self.said_at = self.pinged_at = _now()
        self.rtt_s: float | None = None
        self.is_quiet = False
        self._link = link
        self._session = session
        self._counters = counters
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._scope = anyio.CancelScope()

    @property
    def path(self) -> Path:
        return Path(
            self._link.description, self.rtt_s, self.opened_at, self.transport, self.is_quiet
        )

    @property
    def is_open(self) -> bool:
        return not self._scope.cancel_called

    def send(self, frame: Frame) -> None:
        """Queue a frame. Lost if the channel ends first.

        Raises:
            LimitExceeded: frame-bytes.
        """
        self._push(frame)
        self._wake.set()

    def send_along(self, frame: Frame) -> None:
        """Queue a frame that is in no hurry: it goes with the next other one, or a few
        milliseconds from now. A message saved is worth more than the wait."""
        self._push(frame)
        if not self._wake.is_set():
            asyncio.get_running_loop().call_later(_ALONG_S, self._wake.set)

    @property
    def has_room(self) -> bool:
        """Whether the queue is short."""
        return self._queued_bytes <= _QUEUE_BYTES and self.is_open

    async def room(self) -> None:
        """Wait until the queue is short.

        Raises:
            Unavailable: the channel has ended.
        """
        while self._queued_bytes > _QUEUE_BYTES and self.is_open:
            self._room.clear()
            await self._room.wait()
        if not self.is_open:
            raise Unavailable("the link is lost", where=self._link.description)

    def ping(self) -> None:
        self.pinged_at = _now()
        self.send(Ping(sent_at=self.pinged_at))

    def close(self) -> None:
        """End `run`, soon."""
        self._scope.cancel()
        self._room.set()

    async def run(self, on_frame: OnFrame) -> None:
        """Carry frames until the link is lost, the far side breaks the seal, or `close`. The
        link is left for its holder to close."""
        try:
            with self._scope:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._write)
                    await self._read(on_frame)
                    tasks.cancel_scope.cancel()
        finally:
            self.close()

    async def _read(self, on_frame: OnFrame) -> None:
        try:
            while True:
                message = await self._link.receive()
                self.heard_at = _now()
                for content in self._session.open(message):
                    self._take(content, on_frame)
        except Unavailable:
            return
        except Untrusted:
            self._count_refusal()
            self.close()  # at once: nothing can be sealed any more

    def _take(self, content: bytes, on_frame: OnFrame) -> None:
        frame = frames.decode(content)
        if frame is None:
            self._counters["frames.unknown"] += 1
        elif isinstance(frame, Ping):
            self.send(Pong(sent_at=frame.sent_at))
        elif isinstance(frame, Pong):
            measured = max(0.0, self.heard_at - frame.sent_at)
            self.rtt_s = measured if self.rtt_s is None else 0.75 * self.rtt_s + 0.25 * measured
        else:
            on_frame(self, frame)

    def _push(self, frame: Frame) -> None:
        content = frames.encode(frame)
        if len(content) > MAX_FRAME_BYTES:
            raise LimitExceeded(
                f"frame-bytes: {len(content)} bytes do not fit a frame of {MAX_FRAME_BYTES}"
            )
        self._queue.append(content)
        self._queued_bytes += len(content)

    async def _write(self) -> None:
        try:
            while True:
                if not self._queue or not self._wake.is_set():
                    self._wake.clear()
                    await self._wake.wait()
                if not self.is_open:
                    return
                for message in self._session.seal(self._next_batch()):
                    await self._link.send(message)
                self.said_at = _now()
        except Unavailable:
            self.close()

    def _next_batch(self) -> list[bytes]:
        batch: list[bytes] = []
        size = 0
        while self._queue and size < _BATCH_BYTES:
            batch.append(self._queue.popleft())
            size += len(batch[-1])
        self._queued_bytes -= size
        if self._queued_bytes <= _QUEUE_BYTES:
            self._room.set()
        return batch

    def _count_refusal(self) -> None:
        assert self._session.refusal is not None
        self._counters[f"sessions.ended.{self._session.refusal.value}"] += 1


def _now() -> float:
    return asyncio.get_running_loop().time()
