"""Who is watching which run: outputs and endings go to whoever waits for them, here and now.

What was published on a topic is kept until the topic is over, so that who comes late sees it from
its beginning; after that, it is read from the store.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Generic, TypeVar

T = TypeVar("T")

# A watcher that does not read loses the oldest lines, not the end, which carries all of them.
_BACKLOG: Final = 10_000
_PAST: Final = 1000
_TOPICS: Final = 1024


class Feed(Generic[T]):
    """Fan-out by topic, within the event loop's thread."""

    def __init__(self) -> None:
        self._watchers: dict[str, list[asyncio.Queue[T]]] = {}
        self._past: OrderedDict[str, deque[T]] = OrderedDict()

    def publish(self, topic: str, item: T) -> None:
        past = self._past.setdefault(topic, deque(maxlen=_PAST))
        past.append(item)
        if len(self._past) > _TOPICS:
            self._past.popitem(last=False)
        self._tell(topic, item)

    def finish(self, topic: str, item: T) -> None:
        """Publish the last item of a topic, and forget its past."""
        self._past.pop(topic, None)
        self._tell(topic, item)

    def _tell(self, topic: str, item: T) -> None:
        for queue in self._watchers.get(topic, ()):
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(item)

    @contextmanager
    def watch(self, *topics: str) -> Iterator[asyncio.Queue[T]]:
        """A queue of what was published on any of `topics` so far, and is within the block."""
        queue: asyncio.Queue[T] = asyncio.Queue(_BACKLOG)
        for topic in topics:
            for item in self._past.get(topic, ()):
                queue.put_nowait(item)
            self._watchers.setdefault(topic, []).append(queue)
        try:
            yield queue
        finally:
            for topic in topics:
                watchers = self._watchers[topic]
                watchers.remove(queue)
                if not watchers:
                    del self._watchers[topic]
