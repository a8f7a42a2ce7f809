"""Who wants to know which peers come and go."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Final

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from orvalho.contexts.identity import Key

_EVENTS: Final = 256


@dataclass(frozen=True, slots=True)
class PeerEvent:
    """A peer came within reach, or went out of it. `at` is in Unix seconds."""

    peer: Key
    is_online: bool
    path: str
    at: float


class Watchers:
    """Each has a queue of its own; one that falls 256 events behind misses some, counted."""

    def __init__(self, counters: Counter[str]) -> None:
        self._counters = counters
        self._streams: list[MemoryObjectSendStream[PeerEvent]] = []

    def watch(self) -> MemoryObjectReceiveStream[PeerEvent]:
        """Events from now on, until the stream is closed."""
        send, receive = anyio.create_memory_object_stream[PeerEvent](_EVENTS)
        self._streams.append(send)
        return receive

    def tell(self, event: PeerEvent) -> None:
        for stream in list(self._streams):
            try:
                stream.send_nowait(event)
            except anyio.WouldBlock:
                self._counters["watchers.slow"] += 1
            except anyio.BrokenResourceError:
                stream.close()
                self._streams.remove(stream)

    def close(self) -> None:
        """There will be no more."""
        for stream in self._streams:
            stream.close()
        self._streams.clear()
