"""Quotas: what a group's members together, and all senders together, may use of this node.

Processor time and network bytes are counted over a window that slides in sixtieths of its length;
memory, cores and runs are what is under way at one moment. A run's own limits are narrowed at its
start to what its quotas have left, and while it runs its use is added to theirs as it is told, so
that many runs at once get no more than one.
"""

from __future__ import annotations

import itertools
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Final

import anyio
import msgspec

from orvalho.errors import LimitExceeded, Unavailable
from orvalho.policies.quota import Limits, Usage

TOTAL: Final = "total"
# No engine starts in less.
LEAST_MEMORY_BYTES: Final = 8_000_000
# How often a running guest's processor time is told, where a quota counts it.
METERING_S: Final = 0.1

_PARTS: Final = 60
_MUCH: Final = 1 << 62
# Each that waits holds one of the places that a sender's mail has here.
_WAITING_PER_SUBJECT: Final = 64
_WAITING: Final = 10_000
_HINT: Final = "its owner sees more with: orvalho quota, over there"


@dataclass(frozen=True, slots=True)
class Terms:
    """One quota; None is "no limit". `name` is `total` or a group's. Who is over it is refused, or
    waits where it `queues`; for `cores`, everybody waits."""

    name: str
    cpu_ms: int | None = None
    network_bytes: int | None = None
    memory_bytes: int | None = None
    cores: int | None = None
    runs_at_once: int | None = None
    window_s: float = 3600.0
    queues: bool = False

    @property
    def spoken(self) -> str:
        return TOTAL if self.name == TOTAL else f"group {self.name}"


@dataclass(frozen=True, slots=True)
class Spent:
    """What one run used that a window counts. `seq` orders these as they became durable; None for
    one that was not kept."""

    seq: int | None
    at: float
    cpu_ms: int
    network_bytes: int
    groups: Collection[str]


# What was spent since a moment, and the last `seq` by then.
ReadSpent = Callable[[float], Awaitable[tuple[int, list[Spent]]]]


@dataclass(frozen=True, slots=True)
class State:
    """One quota and its use now. `room_at` is when the oldest use leaves the window, None when
    there is none."""

    terms: Terms
    cpu_ms: int
    network_bytes: int
    memory_bytes: int
    running: int
    waiting: int
    room_at: float | None


def exceeded(what: str, terms: Terms, why: str = "") -> LimitExceeded:
    return LimitExceeded(f"quota {what} exceeded ({terms.spoken}){why}", hint=_HINT)


class Account:
    """The use of one quota. What is under way is in the `live_` fields, and goes into the window
    when it has been written down."""

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        self.is_loaded = False
        self.waiting: deque[_Waiter] = deque()
        self.holds: set[Hold] = set()
        self.live_cpu_ms = self.live_network_bytes = 0
        self.memory_bytes = self.running = 0
        self._loaded_seq = 0
        self._past_cpu_ms = self._past_network_bytes = 0
        # Part of the window -> what was used in it, oldest first.
        self._parts: dict[int, tuple[int, int]] = {}

    def fill(self, seq: int, spent: Iterable[Spent], now: float) -> None:
        """Count anew what was spent, all of it up to `seq`."""
        self._parts.clear()
        self._past_cpu_ms = self._past_network_bytes = 0
        self._loaded_seq, self.is_loaded = seq, True
        for each in sorted(spent, key=lambda one: one.at):
            if self.counts(each.groups):
                self._put(each)
        self.forget(now)

    def counts(self, groups: Collection[str]) -> bool:
        return self.terms.name == TOTAL or self.terms.name in groups

    def add(self, spent: Spent) -> None:
        if spent.seq is None or spent.seq > self._loaded_seq:
            self._put(spent)

    def _put(self, spent: Spent) -> None:
        if not spent.cpu_ms and not spent.network_bytes:
            return
        part = int(spent.at / self._part_s)
        if self._parts:
            # A clock that was set back forgets nothing early.
            part = max(part, next(reversed(self._parts)))
        cpu_ms, network_bytes = self._parts.get(part, (0, 0))
        self._parts[part] = cpu_ms + spent.cpu_ms, network_bytes + spent.network_bytes
        self._past_cpu_ms += spent.cpu_ms
        self._past_network_bytes += spent.network_bytes

    @property
    def _part_s(self) -> float:
        return self.terms.window_s / _PARTS

    def forget(self, now: float) -> None:
        while self._parts and (room_at := self.room_at()) is not None and room_at <= now:
            cpu_ms, network_bytes = self._parts.pop(next(iter(self._parts)))
            self._past_cpu_ms -= cpu_ms
            self._past_network_bytes -= network_bytes

    def room_at(self) -> float | None:
        """When the oldest use leaves the window."""
        if not self._parts:
            return None
        return (next(iter(self._parts)) + _PARTS + 1) * self._part_s

    @property
    def cpu_ms(self) -> int:
        return self._past_cpu_ms + self.live_cpu_ms

    @property
    def network_bytes(self) -> int:
        return self._past_network_bytes + self.live_network_bytes

    def cpu_left_ms(self) -> int:
        """Below zero where it is over; of no limit, much."""
        limit = self.terms.cpu_ms
        return _MUCH if limit is None else limit - self.cpu_ms

    def network_left(self) -> int:
        """In bytes."""
        limit = self.terms.network_bytes
        return _MUCH if limit is None else limit - self.network_bytes

    def memory_left(self) -> int:
        """In bytes."""
        limit = self.terms.memory_bytes
        return _MUCH if limit is None else limit - self.memory_bytes

    def lacks(self, asked: Limits) -> tuple[str, float] | None:
        """What a run that asks for so much has to wait for, and until when at the latest; None
        when it may begin."""
        terms = self.terms
        if self.cpu_left_ms() <= 0:
            return "cpu", self.room_at() or math.inf
        if self.network_left() <= 0:
            return "network", self.room_at() or math.inf
        if self.memory_left() < min(asked.memory_bytes, LEAST_MEMORY_BYTES):
            return "memory", math.inf
        if terms.runs_at_once is not None and self.running >= terms.runs_at_once:
            return "runs_at_once", math.inf
        if terms.cores is not None and self.running >= terms.cores:
            return "cores", math.inf
        return None

    def state(self) -> State:
        return State(
            self.terms,
            self.cpu_ms,
            self.network_bytes,
            self.memory_bytes,
            self.running,
            len(self.waiting),
            self.room_at(),
        )


class Hold:
    """One run's part in its quotas, from its start until its use is written down. `limits` are
    what it gets. `on_stop` is called once, when a quota or its limit of network bytes ends it."""

    __slots__ = (
        "_accounts",
        "_cpu_ms",
        "_is_running",
        "_is_settled",
        "_narrowed",
        "_quotas",
        "groups",
        "limits",
        "network_bytes",
        "on_stop",
        "stopped",
    )

    def __init__(
        self,
        limits: Limits,
        quotas: Quotas | None = None,
        groups: Collection[str] = (),
        accounts: tuple[Account, ...] = (),
        narrowed: dict[str, Terms] | None = None,
    ) -> None:
        self.limits = limits
        self.groups = groups
        self.network_bytes = 0
        self.stopped: LimitExceeded | None = None
        self.on_stop: Callable[[], None] | None = None
        self._quotas = quotas
        self._accounts = accounts
        self._narrowed = narrowed or {}
        self._cpu_ms = 0
        self._is_running = True
        self._is_settled = False
        for account in accounts:
            account.holds.add(self)
            account.running += 1
            account.memory_bytes += limits.memory_bytes

    @property
    def cpu_ms(self) -> int:
        """Its processor time, as far as it is known."""
        return self._cpu_ms

    @property
    def metering_s(self) -> float:
        """How often its processor time is to be told while it runs; 0 for not at all."""
        return METERING_S if any(a.terms.cpu_ms is not None for a in self._accounts) else 0.0

    def over(self, limit: str) -> LimitExceeded | None:
        """The quota behind a limit that the run has hit; None when it was its own."""
        terms = self._narrowed.get(limit)
        return exceeded(limit, terms) if terms else None

    def move(self, count: int) -> None:
        """So many bytes are about to go over a link.

        Raises:
            LimitExceeded: they may not. The run is being stopped.
        """
        if self.stopped is not None:
            raise self.stopped
        if self.network_bytes + count > self.limits.network_bytes:
            raise self._stop(
                self.over("network")
                or LimitExceeded(
                    "network: the run used up its limit",
                    hint='ask for more in its header: network = "512MB"',
                )
            )
        for account in self._accounts:
            if count > account.network_left():
                raise self._stop(exceeded("network", account.terms))
        self.network_bytes += count
        for account in self._accounts:
            account.live_network_bytes += count

    @property
    def room_bytes(self) -> int:
        """The most bytes that may still go over links."""
        left = self.limits.network_bytes - self.network_bytes
        return max(0, int(min((left, *(a.network_left() for a in self._accounts)))))

    def metered(self, cpu_ms: int) -> None:
        """The run has used so much processor time by now."""
        more = max(cpu_ms - self._cpu_ms, 0)
        self._cpu_ms += more
        for account in self._accounts:
            account.live_cpu_ms += more
            if account.cpu_left_ms() <= 0:
                for hold in tuple(account.holds):
                    hold.cut(exceeded("cpu", account.terms))

    def cut(self, why: LimitExceeded) -> None:
        """End the run, if it still runs."""
        if self._is_running:
            self._stop(why)

    def _stop(self, why: LimitExceeded) -> LimitExceeded:
        if self.stopped is None:
            self.stopped = why
            if self.on_stop is not None:
                self.on_stop()
        return self.stopped

    def ended(self, usage: Usage) -> None:
        """The run is over: its place and its memory are free."""
        if not self._is_running:
            return
        self._is_running = False
        if not self._accounts:
            return
        # A worker that died told less in the end than before.
        more = max(usage.cpu_ms - self._cpu_ms, 0)
        self._cpu_ms += more
        for account in self._accounts:
            account.running -= 1
            account.memory_bytes -= self.limits.memory_bytes
            account.live_cpu_ms += more
        for account in self._accounts:
            if account.cpu_left_ms() <= 0:
                for hold in tuple(account.holds):
                    hold.cut(exceeded("cpu", account.terms))
        assert self._quotas is not None, "accounts are of some quotas"
        self._quotas.wake()

    def settle(self, seq: int | None, at: float) -> None:
        """Its use is written down, under that `seq`; None when it never will be."""
        if self._is_settled or self._quotas is None:
            return
        self.ended(Usage(cpu_ms=self._cpu_ms))
        self._is_settled = True
        for account in self._accounts:
            account.holds.discard(self)
            account.live_cpu_ms -= self._cpu_ms
            account.live_network_bytes -= self.network_bytes
        self._quotas.spent(Spent(seq, at, self._cpu_ms, self.network_bytes, self.groups))


@dataclass(slots=True, eq=False)
class _Waiter:
    number: int
    subject: str
    groups: Collection[str]
    limits: Limits
    accounts: tuple[Account, ...]


class Quotas:
    """All quotas of this node. `read` looks up what was spent, before anything is counted; `now`
    answers Unix seconds. For one event loop."""

    def __init__(self, read: ReadSpent, now: Callable[[], float] = time.time) -> None:
        self._read = read
        self._now = now
        self._accounts: tuple[Account, ...] = ()
        self._loading = anyio.Lock()
        # Settled while we read what was spent.
        self._meanwhile: list[Spent] | None = None
        # Those that wait for the same quotas, first come first.
        self._queues: dict[tuple[Account, ...], deque[_Waiter]] = {}
        self._numbers = itertools.count()
        # Made by the first who waits.
        self._changed: anyio.Event | None = None

    def use(self, terms: Iterable[Terms]) -> None:
        """These are the quotas from now on. What runs goes on, unless it is over them."""
        known = {account.terms.name: account for account in self._accounts}
        accounts: list[Account] = []
        for each in sorted(terms, key=_tightness):
            account = known.pop(each.name, None) or Account(each)
            if account.terms.window_s != each.window_s:
                account.is_loaded = False
            account.terms = each
            accounts.append(account)
        for gone in known.values():
            gone.terms = Terms(gone.terms.name)
        self._accounts = tuple(accounts)
        for account in accounts:
            if account.is_loaded and account.cpu_left_ms() <= 0:
                for hold in tuple(account.holds):
                    hold.cut(exceeded("cpu", account.terms))
        self.wake()

    def wake(self) -> None:
        """Something was given back, or is counted differently: let those who wait look again."""
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    async def admit(
        self, groups: Collection[str], subject: str, limits: Limits, *, until: float
    ) -> Hold:
        """Let a run of `subject`, a node that is in `groups`, begin; wait for room where its
        quotas say so, at most until then.

        Raises:
            LimitExceeded: a quota is used up.
            Unavailable: too many wait already.
        """
        if not self._accounts:
            return Hold(limits, self, groups)
        await self._load()
        accounts = self._of(groups)
        waiter = _Waiter(next(self._numbers), subject, groups, limits, accounts)
        if not self._lack(accounts, limits) and self._is_turn(waiter):
            return self._enter(groups, accounts, limits)
        self._queue(waiter)
        try:
            return await self._wait(waiter, until)
        finally:
            self._leave(waiter)
            self.wake()

    def spent(self, spent: Spent) -> None:
        if self._meanwhile is not None:
            self._meanwhile.append(spent)
        for account in self._accounts:
            if account.is_loaded and account.counts(spent.groups):
                account.add(spent)

    async def states(self) -> tuple[State, ...]:
        """Each quota and its use, the total last."""
        await self._load()
        now = self._now()
        for account in self._accounts:
            account.forget(now)
        states = (account.state() for account in self._accounts)
        return tuple(sorted(states, key=lambda each: (each.terms.name == TOTAL, each.terms.name)))

    @property
    def longest_window_s(self) -> float:
        return max((account.terms.window_s for account in self._accounts), default=0.0)

    # ---- who may begin -----------------------------------------------------------------------

    def _of(self, groups: Collection[str]) -> tuple[Account, ...]:
        return tuple(account for account in self._accounts if account.counts(groups))

    def _lack(
        self, accounts: Iterable[Account], limits: Limits
    ) -> tuple[Account, str, float] | None:
        """The first quota that has no room; one that refuses before one that queues."""
        now = self._now()
        found = None
        for account in accounts:
            account.forget(now)
            lack = account.lacks(limits)
            if lack is None:
                continue
            if not (account.terms.queues or lack[0] == "cores"):
                return account, *lack
            found = found or (account, *lack)
        return found

    def _enter(
        self, groups: Collection[str], accounts: tuple[Account, ...], limits: Limits
    ) -> Hold:
        narrowed: dict[str, Terms] = {}
        cpu_s, memory_bytes = limits.cpu_s, limits.memory_bytes
        network_bytes = limits.network_bytes
        for account in accounts:
            terms = account.terms
            if terms.cpu_ms is not None and (left_s := account.cpu_left_ms() / 1000) < cpu_s:
                cpu_s, narrowed["cpu"] = left_s, terms
            if terms.memory_bytes is not None and (left := account.memory_left()) < memory_bytes:
                memory_bytes, narrowed["memory"] = left, terms
            if terms.network_bytes is not None and (left := account.network_left()) < network_bytes:
                network_bytes, narrowed["network"] = left, terms
        if narrowed:
            limits = msgspec.structs.replace(
                limits, cpu_s=cpu_s, memory_bytes=memory_bytes, network_bytes=network_bytes
            )
        return Hold(limits, self, groups, accounts, narrowed)

    def _is_turn(self, waiter: _Waiter) -> bool:
        """First come, first served: nobody who came earlier waits for the same quotas, nor could
        begin now and shares a quota with it. Who waits for another quota keeps nobody waiting."""
        for accounts, queue in self._queues.items():
            first = queue[0]
            if first.number >= waiter.number:
                continue
            if accounts == waiter.accounts:
                return False
            shares = any(account in waiter.accounts for account in accounts)
            if shares and self._lack(self._of(first.groups), first.limits) is None:
                return False
        return True

    def _queue(self, waiter: _Waiter) -> None:
        lack = self._lack(waiter.accounts, waiter.limits)
        if lack is not None:
            self._refuse_unless_queued(lack)
        for account in waiter.accounts:
            mine = sum(each.subject == waiter.subject for each in account.waiting)
            if mine >= _WAITING_PER_SUBJECT or len(account.waiting) >= _WAITING:
                raise Unavailable(
                    f"too many runs wait here for the quota of {account.terms.spoken}",
                    hint="send it again when some of them have ended",
                )
        for account in waiter.accounts:
            account.waiting.append(waiter)
        self._queues.setdefault(waiter.accounts, deque()).append(waiter)

    def _leave(self, waiter: _Waiter) -> None:
        for account in waiter.accounts:
            account.waiting.remove(waiter)
        queue = self._queues[waiter.accounts]
        queue.remove(waiter)
        if not queue:
            del self._queues[waiter.accounts]

    async def _wait(self, waiter: _Waiter, until: float) -> Hold:
        while True:
            await self._load()
            changed = self._changed = self._changed or anyio.Event()
            accounts = self._of(waiter.groups)
            lack = self._lack(accounts, waiter.limits)
            if lack is None and self._is_turn(waiter):
                return self._enter(waiter.groups, accounts, waiter.limits)
            if lack is not None:
                self._refuse_unless_queued(lack)
            now = self._now()
            if now >= until:
                account, what = lack[:2] if lack else (waiter.accounts[0], "runs_at_once")
                raise exceeded(what, account.terms, ": the script expired while it waited")
            is_first = self._queues[waiter.accounts][0] is waiter
            wake_at = min(until, lack[2] if lack and is_first else math.inf)
            with anyio.move_on_after(max(wake_at - now, 0.01)):
                await changed.wait()

    def _refuse_unless_queued(self, lack: tuple[Account, str, float]) -> None:
        account, what, _ = lack
        if not (account.terms.queues or what == "cores"):
            raise exceeded(what, account.terms)

    async def _load(self) -> None:
        if all(account.is_loaded for account in self._accounts):
            return
        async with self._loading:
            stale = [account for account in self._accounts if not account.is_loaded]
            if not stale:
                return
            now = self._now()
            self._meanwhile = []
            longest_s = max(account.terms.window_s for account in stale)
            try:
                seq, found = await self._read(now - longest_s * (1 + 2 / _PARTS))
                meanwhile = self._meanwhile
            finally:
                self._meanwhile = None
            for account in stale:
                account.fill(seq, found, now)
                for each in meanwhile:
                    if account.counts(each.groups):
                        account.add(each)


def _tightness(terms: Terms) -> tuple[float, ...]:
    limits = (terms.cpu_ms, terms.memory_bytes, terms.network_bytes, terms.runs_at_once)
    return tuple(math.inf if each is None else each for each in limits)
