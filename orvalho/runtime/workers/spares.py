"""Workers of one guest that stand ready, so that who needs one does not wait for its process."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final, Generic, Protocol, TypeVar

from orvalho.errors import OrvalhoError

# So many of each language, as long as somebody has asked for one within that time.
_READY: Final = 2
_KEPT_S: Final = 60.0


class Spare(Protocol):
    """A worker that nobody uses yet."""

    @property
    def is_gone(self) -> bool:
        """Its process has ended."""


W = TypeVar("W", bound=Spare)


class Spares(Generic[W]):
    """Lives on the event loop. `start` begins a worker of a language, `retire` ends one."""

    def __init__(self, start: Callable[[str], W], retire: Callable[[W], None]) -> None:
        self._start = start
        self._retire = retire
        self._loop = asyncio.get_running_loop()
        self._ready: dict[str, deque[W]] = {}
        self._ends: dict[str, asyncio.TimerHandle] = {}

    def take(self, language: str) -> W:
        """One that stands ready, or a new one; others are begun for those who come next.

        Raises:
            Unavailable: no process can be started.
        """
        ready = self._ready.setdefault(language, deque())
        while ready and ready[0].is_gone:
            ready.popleft()
        worker = ready.popleft() if ready else self._start(language)
        if (timer := self._ends.pop(language, None)) is not None:
            timer.cancel()
        self._ends[language] = self._loop.call_later(_KEPT_S, self._drop, language)
        self._loop.call_soon(self._fill, language)
        return worker

    def close(self) -> None:
        """Begin no further ones."""
        for timer in self._ends.values():
            timer.cancel()
        self._ends.clear()
        self._ready.clear()

    def _fill(self, language: str) -> None:
        if language not in self._ends:
            return
        ready = self._ready[language]
        while len(ready) < _READY:
            try:
                ready.append(self._start(language))
            except OrvalhoError:
                # Who needs one hears of it.
                return

    def _drop(self, language: str) -> None:
        del self._ends[language]
        for worker in self._ready.pop(language):
            self._retire(worker)
