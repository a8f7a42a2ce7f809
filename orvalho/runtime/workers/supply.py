"""The isolates of a worker: some are kept ready, and used ones are taken down out of the way."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Final

from orvalho.runtime.engine import Engine, Isolate

_SPARES: Final = 3
_MOST_ALIVE: Final = 128
_CLOSE_AFTER_S: Final = 0.003


class Supply:
    """Hands out fresh isolates on the event loop. Making and freeing them is a thread's work."""

    def __init__(
        self, engine: Engine, on_change: Callable[[int], None], on_first: Callable[[int], None]
    ) -> None:
        """`on_change` is called with the number of isolates whenever there will be more or fewer,
        and `on_first` once, when the first is there."""
        self._engine = engine
        self._on_change = on_change
        self._on_first = on_first
        self._loop = asyncio.get_running_loop()
        # Filled by the thread that makes isolates, which wakes the loop only for those that wait.
        self._ready: deque[Isolate] = deque()
        self._wanted: deque[Callable[[Isolate], None]] = deque()
        # How many were ordered, and how many of them are there. Each is written by one thread.
        self._ordered = self._made = 0
        # One for each that was closed and is still counted as alive.
        self._gone: deque[None] = deque()
        self._to_make: SimpleQueue[None] = SimpleQueue()
        self._to_close: SimpleQueue[Isolate] = SimpleQueue()
        # The first one stays as long as the worker does and serves nobody. V8 keeps what isolates
        # share as long as one of them lives: making it anew costs half as much again as an isolate,
        # and two threads that do so at the same time bring the process down.
        self._anchor: Isolate | None = None
        self._alive = 1
        threading.Thread(target=self._begin, daemon=True).start()

    def take(self, use: Callable[[Isolate], None]) -> None:
        """Call `use` with an isolate: now, or as soon as there is one, in the order of asking."""
        self._count()
        self._wanted.append(use)
        self._serve()
        if not self._ready:
            self._order()

    def give_back(self, isolate: Isolate) -> None:
        """Take down an isolate whose guest has ended. While there are others, a little later: what
        that guest was waited for goes on at this moment, and would have to share its processors."""
        self._count()
        if self._ready:
            self._loop.call_later(_CLOSE_AFTER_S, self._to_close.put, isolate)
        else:
            self._to_close.put(isolate)

    def stop(self, isolate: Isolate) -> None:
        """Take down an isolate whose guest may be running, at once and without keeping others
        waiting: a built-in over a large buffer cannot be interrupted and may take seconds."""
        try:
            threading.Thread(target=self._close_one, args=(isolate,), daemon=True).start()
        except RuntimeError:
            # No memory for a thread: guests have eaten it. It waits for its turn with the others.
            self._to_close.put(isolate)

    def _order(self) -> None:
        if self._anchor is None:
            return
        self._count()
        being_made = self._ordered - self._made
        missing = len(self._wanted) + _SPARES - len(self._ready) - being_made
        missing = min(missing, _MOST_ALIVE - self._alive)
        if missing <= 0:
            return
        self._alive += missing
        self._ordered += missing
        self._on_change(self._alive)
        for _ in range(missing):
            self._to_make.put(None)

    def _count(self) -> None:
        """Take those that were closed for gone. Whenever a guest comes or goes is often enough."""
        if self._gone:
            while self._gone:
                self._gone.pop()
                self._alive -= 1
            self._on_change(self._alive)

    def _begin(self) -> None:
        self._loop.call_soon_threadsafe(self._begun, self._engine.open_isolate())

    def _begun(self, anchor: Isolate) -> None:
        self._anchor = anchor
        self._on_first(self._alive)
        for work in (self._make, self._close):
            threading.Thread(target=work, daemon=True).start()
        self._order()

    def _make(self) -> None:
        while True:
            self._to_make.get()
            self._ready.append(self._engine.open_isolate())
            self._made += 1
            # Who asks puts itself down before it looks: one of the two sees the other.
            if self._wanted:
                self._loop.call_soon_threadsafe(self._serve)

    def _serve(self) -> None:
        while self._wanted and self._ready:
            self._wanted.popleft()(self._ready.popleft())

    def _close(self) -> None:
        while True:
            self._close_one(self._to_close.get())

    def _close_one(self, isolate: Isolate) -> None:
        isolate.close()
        self._gone.append(None)
        if self._wanted:
            self._loop.call_soon_threadsafe(self._order)
