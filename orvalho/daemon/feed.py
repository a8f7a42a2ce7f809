"""Who is watching which run: outputs and endings go to whoever waits for them, here and now.

Nothing is kept: a watcher that comes late reads the past from the store.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Generic, TypeVar

T = TypeVar("T")

# A watcher that does not read loses the oldest lines, not the end, which carries all of them.
_BACKLOG: Final = 10_000


class Feed(Generic[T]):
    """Fan-out by topic, within the event loop's thread."""

    def __init__(self) -> None:
        self._watchers: dict[str, list[asyncio.Queue[T]]] = {}

    def publish(self, topic: str, item: T) -> None:
        for queue in self._watchers.get(topic, ()):
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(item)

    @contextmanager
    def watch(self, topic: str) -> Iterator[asyncio.Queue[T]]:
        """A queue of what is published on `topic` within the block."""
        queue: asyncio.Queue[T] = asyncio.Queue(_BACKLOG)
        watchers = self._watchers.setdefault(topic, [])
        watchers.append(queue)
        try:
            yield queue
        finally:
            watchers.remove(queue)
            if not watchers:
                del self._watchers[topic]
