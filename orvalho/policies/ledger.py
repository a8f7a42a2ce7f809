"""Leases: how many runs there are at once, in all and for one subject, and what each has used."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
import msgspec

from orvalho.errors import Unavailable
from orvalho.policies.quota import Limits, Usage


@dataclass(slots=True)
class Lease:
    """The right to one run, for the block's length. `settle` says what it used, once."""

    subject: str
    limits: Limits
    used: Usage | None = None

    def settle(self, usage: Usage) -> None:
        self.used = usage


@dataclass(slots=True, eq=False)
class _Waiter:
    subject: str
    turn: anyio.Event = field(default_factory=anyio.Event)


class Ledger:
    """Lets runs begin in the order they came, except that a subject with as many as it may have
    at once is passed over: it waits for itself and holds nobody else up. For one event loop."""

    def __init__(self, at_once: int, at_once_per_subject: int, *, waiting_per_subject: int) -> None:
        self._at_once = at_once
        self._per_subject = at_once_per_subject
        self._waiting_per_subject = waiting_per_subject
        self._running: Counter[str] = Counter()
        self._waiting: deque[_Waiter] = deque()
        self._used: dict[str, Usage] = {}

    @asynccontextmanager
    async def reserve(self, subject: str, limits: Limits) -> AsyncIterator[Lease]:
        """Wait for a place, and hold it for the block's length.

        Raises:
            Unavailable: the subject has too many waiting already.
        """
        await self._take(subject)
        lease = Lease(subject, limits)
        try:
            yield lease
        finally:
            self._leave(subject)
            if lease.used:
                self._used[subject] = _sum(self._used.get(subject, Usage()), lease.used)

    def resize(self, at_once: int, at_once_per_subject: int) -> None:
        """From now on so many at once; what runs goes on."""
        self._at_once = at_once
        self._per_subject = at_once_per_subject
        self._let_in()

    def used(self, subject: str) -> Usage:
        """All that the subject's settled leases used, its memory the highest peak."""
        return self._used.get(subject, Usage())

    def statistics(self) -> dict[str, int]:
        return {"running": self._running.total(), "waiting": len(self._waiting)}

    async def _take(self, subject: str) -> None:
        # Whoever waits and could go is let go at once, so a free place belongs to nobody yet.
        if self._has_room(subject):
            self._running[subject] += 1
            return
        if sum(w.subject == subject for w in self._waiting) >= self._waiting_per_subject:
            raise Unavailable(
                f"{subject} has {self._waiting_per_subject} runs waiting here already",
                hint="send it again when some of them have ended",
            )
        waiter = _Waiter(subject)
        self._waiting.append(waiter)
        try:
            await waiter.turn.wait()
        except BaseException:
            # Cancelled, and perhaps let in within the same moment: then the place goes on.
            if waiter.turn.is_set():
                self._leave(subject)
            else:
                self._waiting.remove(waiter)
            raise

    def _has_room(self, subject: str) -> bool:
        has_room = self._running.total() < self._at_once
        return has_room and self._running[subject] < self._per_subject

    def _leave(self, subject: str) -> None:
        self._running[subject] -= 1
        if not self._running[subject]:
            del self._running[subject]
        self._let_in()

    def _let_in(self) -> None:
        for waiter in tuple(self._waiting):
            if self._has_room(waiter.subject):
                self._waiting.remove(waiter)
                self._running[waiter.subject] += 1
                waiter.turn.set()


def _sum(before: Usage, more: Usage) -> Usage:
    total = {name: getattr(before, name) + getattr(more, name) for name in Usage.__struct_fields__}
    total["memory_bytes"] = max(before.memory_bytes, more.memory_bytes)
    return msgspec.convert(total, Usage)
