"""The isolates of a worker: some are kept ready, and used ones are taken down out of the way."""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Final

from orvalho.runtime.engine import Engine, Isolate

# One is in use while the next is made; and V8 shares much between isolates as long as one lives,
# without which each would cost half as much again.
_SPARES: Final = 3
_MOST_ALIVE: Final = 128


class Supply:
    """Hands out fresh isolates on the event loop. Making and freeing them is a thread's work."""

    def __init__(
        self, engine: Engine, on_change: Callable[[int], None], on_first: Callable[[int], None]
    ) -> None:
        """`on_change` is called with the number of isolates whenever there will be more or fewer,
        and `on_first` once, when the first are there."""
        self._engine = engine
        self._on_change = on_change
        self._on_first: Callable[[int], None] | None = on_first
        self._loop = asyncio.get_running_loop()
        self._ready: deque[Isolate] = deque()
        self._wanted: deque[Callable[[Isolate], None]] = deque()
        self._alive = 0
        self._being_made = 0
        self._to_make: SimpleQueue[None] = SimpleQueue()
        self._to_close: SimpleQueue[Isolate] = SimpleQueue()
        for work in (self._make, self._make, self._close):
            threading.Thread(target=work, daemon=True).start()
        self._order()

    def take(self, use: Callable[[Isolate], None]) -> None:
        """Call `use` with an isolate: now, or as soon as there is one, in the order of asking."""
        if self._ready:
            use(self._ready.popleft())
            if not self._ready:
                self._order()
        else:
            self._wanted.append(use)
            self._order()

    def give_back(self, isolate: Isolate) -> None:
        """Take down an isolate whose guest has ended."""
        self._to_close.put(isolate)

    def stop(self, isolate: Isolate) -> None:
        """Take down an isolate whose guest may be running, at once and without keeping others
        waiting: a built-in over a large buffer cannot be interrupted and may take seconds."""
        try:
            threading.Thread(target=self._close_one, args=(isolate,), daemon=True).start()
        except RuntimeError:
            # No memory for a thread: the guest has eaten it. The daemon starts another worker.
            os._exit(70)

    def _order(self) -> None:
        missing = len(self._wanted) + _SPARES - len(self._ready) - self._being_made
        missing = min(missing, _MOST_ALIVE - self._alive)
        if missing <= 0:
            return
        self._alive += missing
        self._being_made += missing
        self._on_change(self._alive)
        for _ in range(missing):
            self._to_make.put(None)

    def _make(self) -> None:
        while True:
            self._to_make.get()
            isolate = self._engine.open_isolate()
            self._loop.call_soon_threadsafe(self._made, isolate)

    def _made(self, isolate: Isolate) -> None:
        self._being_made -= 1
        if self._on_first and not self._being_made:
            self._on_first(self._alive)
            self._on_first = None
        if self._wanted:
            self._wanted.popleft()(isolate)
        else:
            self._ready.append(isolate)

    def _close(self) -> None:
        while True:
            self._close_one(self._to_close.get())

    def _close_one(self, isolate: Isolate) -> None:
        isolate.close()
        self._loop.call_soon_threadsafe(self._closed)

    def _closed(self) -> None:
        self._alive -= 1
        self._on_change(self._alive)
        self._order()
