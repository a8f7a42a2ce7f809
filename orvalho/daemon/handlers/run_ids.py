"""What is remembered of run ids beside the runs that are under way: which were seen, and which
were cancelled before they came."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from functools import partial
from typing import Final

from orvalho.contexts.identity import Key
from orvalho.scripts import runs
from orvalho.scripts.signing import SKEW_S
from orvalho.store import Store

_MOST_SEEN: Final = 1 << 16
# Of one sender: no other's are forgotten for them.
_EARLY_CANCELS: Final = 256


class SeenRuns:
    """Whether a run came before, known without the database where memory holds them all, or for one
    that was signed since this node started. It saves the work of a replay; what makes it sure is
    `runs.stage_new`. `since` is a moment in Unix seconds from which on all are in memory."""

    def __init__(self, store: Store, *, most: int = _MOST_SEEN) -> None:
        self._store = store
        self._most = most
        self._ids: OrderedDict[str, float] = OrderedDict()
        self._since = time.time()

    async def load(self) -> None:
        """Learn what earlier daemons saw, if that is no more than memory may hold."""
        known = await self._store.read(partial(runs.seen_ids, limit=self._most))
        if len(known) < self._most:
            self._ids = OrderedDict.fromkeys(known, 0.0) | self._ids
            self._since = -math.inf

    def add(self, run: str) -> None:
        """It has come."""
        self._ids[run] = time.time()
        if len(self._ids) > self._most:
            _, at = self._ids.popitem(last=False)
            self._since = max(self._since, at)

    def forget(self, run: str) -> None:
        """It came to nothing, and may come once more."""
        self._ids.pop(run, None)

    async def has(self, run: str, issued_at: float) -> bool:
        """Whether it came before. `issued_at` is what its signature says, in Unix seconds: none is
        taken that is further than SKEW_S in the future."""
        if run in self._ids:
            return True
        if issued_at > self._since + SKEW_S:
            return False
        was_seen = await self._store.read(partial(runs.was_seen, run=run))
        return was_seen or run in self._ids


class EarlyCancels:
    """Cancels that overtook their scripts; the oldest of a sender's too many are forgotten."""

    def __init__(self) -> None:
        self._by_sender: dict[Key, OrderedDict[str, None]] = {}

    def add(self, sender: Key, run: str) -> None:
        own = self._by_sender.setdefault(sender, OrderedDict())
        own[run] = None
        if len(own) > _EARLY_CANCELS:
            own.popitem(last=False)

    def has(self, sender: Key, run: str) -> bool:
        return run in self._by_sender.get(sender, ())
