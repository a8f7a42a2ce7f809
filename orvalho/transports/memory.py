"""A network in one process, with a fault script: delay, drop, repeat, reorder, cut.

Its addresses are `memory://name`. It waits by the event loop's clock only, so a loop with a
virtual clock runs hours of it at once; the faults are drawn from a seed.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import anyio
from anyio.abc import TaskGroup

from orvalho.errors import InvalidInput, Unavailable
from orvalho.transports.link import OnLink

MAX_FRAME_BYTES: Final = 1 << 18
_QUEUE: Final = 64
_CLOSING_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Faults:
    """What may befall a frame, each with a probability in [0, 1]; `delay_s` is the most that a
    frame waits. `cut` ends the link on which the frame travels."""

    delay_s: float = 0.0
    drop: float = 0.0
    repeat: float = 0.0
    reorder: float = 0.0
    cut: float = 0.0


class MemoryLink:
    """One end of a pair."""

    max_frame_bytes = MAX_FRAME_BYTES

    def __init__(self, network: MemoryNetwork, name: str, description: str) -> None:
        self.description = description
        self.name = name
        self.is_admitted = False
        self._network = network
        self._far: MemoryLink = self
        self._arrived: deque[bytes] = deque()
        self._held: bytes | None = None
        self._changed = asyncio.Event()
        self._is_gone = False
        self._is_closed = False

    def _join(self, far: MemoryLink) -> None:
        self._far, far._far = far, self

    async def send(self, frame: bytes) -> None:
        self._check()
        if len(frame) > self.max_frame_bytes:
            raise ValueError(f"a frame has at most {self.max_frame_bytes} bytes, not {len(frame)}")
        far = self._far
        while len(far._arrived) >= _QUEUE and not self._is_gone:
            far._changed.clear()
            await far._changed.wait()
            self._check()
        self._network.carry(self, far, frame)

    async def receive(self) -> bytes:
        while not self._arrived:
            self._check()
            self._changed.clear()
            await self._changed.wait()
        self._changed.set()  # a sender may be waiting for room
        return self._arrived.popleft()

    async def aclose(self) -> None:
        self._is_closed = True
        self.cut()

    def admit(self) -> None:
        self.is_admitted = True

    def cut(self) -> None:
        """Both ends lose the link; what has arrived can still be read at the far one."""
        for end in (self, self._far):
            end._is_gone = True
            end._changed.set()
        self._network.forget(self)

    def arrive(self, frame: bytes) -> None:
        if not self._is_gone:
            self._arrived.append(frame)
            self._changed.set()

    def hold(self, frame: bytes) -> bytes | None:
        """Keep a frame back until the next one has gone ahead of it; what was kept before."""
        frame_before, self._held = self._held, frame
        return frame_before

    def release(self) -> bytes | None:
        frame, self._held = self._held, None
        return frame

    def _check(self) -> None:
        if self._is_closed:
            raise anyio.ClosedResourceError
        if self._is_gone:
            raise Unavailable("the far side has closed the link", where=self.description)


@dataclass(frozen=True, slots=True)
class _MemoryListener:
    address: str
    on_link: OnLink
    tasks: TaskGroup


class MemoryNetwork:
    """A Transport whose listeners and links live in this process."""

    def __init__(self, faults: Faults | None = None, seed: int = 0) -> None:
        self.faults = faults or Faults()
        self._random = random.Random(seed)  # noqa: S311 -- faults, not secrets
        self._listeners: dict[str, _MemoryListener] = {}
        self._links: set[MemoryLink] = set()
        self._parted: set[str] = set()

    @asynccontextmanager
    async def listen(self, address: str, on_link: OnLink) -> AsyncIterator[_MemoryListener]:
        name = _name(address)
        if name in self._listeners:
            raise Unavailable("somebody listens there already", where=address)
        async with anyio.create_task_group() as tasks:
            self._listeners[name] = _MemoryListener(address, on_link, tasks)
            try:
                yield self._listeners[name]
            finally:
                del self._listeners[name]
                for link in [link for link in self._links if link.name == name]:
                    link.cut()
                tasks.cancel_scope.deadline = anyio.current_time() + _CLOSING_S

    async def dial(self, address: str) -> MemoryLink:
        name = _name(address)
        listener = self._listeners.get(name)
        if listener is None or name in self._parted:
            raise Unavailable("nobody answers", where=address)
        near = MemoryLink(self, "", name)
        far = MemoryLink(self, name, "memory")
        near._join(far)
        self._links |= {near, far}
        listener.tasks.start_soon(_serve, listener, far)
        return near

    def cut_all(self) -> None:
        """Every link is lost, once."""
        for link in list(self._links):
            link.cut()

    def part(self, address: str) -> None:
        """Cut a listener off until `heal`: its links are lost, and nobody reaches it."""
        name = _name(address)
        self._parted.add(name)
        for link in [link for link in self._links if link.name == name]:
            link.cut()

    def heal(self) -> None:
        self._parted.clear()

    def freeze(self) -> None:
        """From now on frames vanish, and nobody is told: a far side that hangs."""
        self.faults = Faults(drop=1.0)

    def carry(self, near: MemoryLink, far: MemoryLink, frame: bytes) -> None:
        """What the network does with a frame that `near` sends."""
        faults, draw = self.faults, self._random.random
        if draw() < faults.cut:
            near.cut()
            return
        if draw() < faults.drop:
            return
        frames = [frame, frame] if draw() < faults.repeat else [frame]
        if draw() < faults.reorder:
            kept = near.hold(frame)
            frames = [] if kept is None else [kept]
        elif (late := near.release()) is not None:
            frames.append(late)
        for each in frames:
            if faults.delay_s:
                asyncio.get_running_loop().call_later(draw() * faults.delay_s, far.arrive, each)
            else:
                far.arrive(each)

    def forget(self, link: MemoryLink) -> None:
        self._links -= {link, link._far}


async def _serve(listener: _MemoryListener, link: MemoryLink) -> None:
    try:
        await listener.on_link(link)
    finally:
        await link.aclose()


def _name(address: str) -> str:
    scheme, separator, name = address.partition("://")
    if scheme != "memory" or not separator or not name:
        raise InvalidInput("this is no address of the memory network", where=address)
    return name
