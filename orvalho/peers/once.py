"""What lets live talk survive the loss of a link: numbers, by which a tell is heard once and in
order, and an ask answered once, over whichever link they come again. Sans-IO.

Both sides bound what they keep. `settled` is the lowest number that its sender still owes or
waits for; what lies below it is forgotten.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from orvalho.peers.frames import Fail, Reply, Tell

WINDOW_COUNT: Final = 4096
WINDOW_BYTES: Final = 4 << 20
_ANSWERS_COUNT: Final = 16_384
_ANSWERS_BYTES: Final = 4 << 20

Way = TypeVar("Way")


@dataclass(slots=True)
class Untold(Generic[Way]):
    """Tells of ours that the far side has not confirmed yet, and the way each went last."""

    last: int = 0
    size_bytes: int = 0
    _tells: dict[int, tuple[Tell, Way]] = field(default_factory=dict)

    @property
    def is_full(self) -> bool:
        return len(self._tells) >= WINDOW_COUNT or self.size_bytes >= WINDOW_BYTES

    def number(self, kind: str, body: bytes) -> Tell:
        """The frame to send next; `sent` keeps it."""
        seq = self.last + 1
        return Tell(kind=kind, body=body, seq=seq, settled=next(iter(self._tells), seq))

    def sent(self, tell: Tell, way: Way) -> None:
        self.last = tell.seq
        self._tells[tell.seq] = (tell, way)
        self.size_bytes += len(tell.body)

    def confirmed(self, seq: int) -> None:
        """The far side has heard all up to this one."""
        while self._tells and (first := next(iter(self._tells))) <= seq:
            self.size_bytes -= len(self._tells.pop(first)[0].body)

    def moved(self, way: Way, is_lost: Callable[[Way], bool]) -> list[Tell]:
        """What went by ways that are lost, to be sent by this one now."""
        again = [tell for tell, last_way in self._tells.values() if is_lost(last_way)]
        for tell in again:
            self._tells[tell.seq] = (tell, way)
        return again

    def clear(self) -> None:
        self._tells.clear()
        self.size_bytes = 0


@dataclass(slots=True)
class InOrder:
    """Tells of the far side. One that overtook another on a quicker link waits for it."""

    next_seq: int = 1
    _early: dict[int, Tell] = field(default_factory=dict)
    _early_bytes: int = 0

    def take(self, tell: Tell) -> list[Tell]:
        """What can be heard now. Nothing is kept beyond what an honest sender may owe."""
        ready = []
        if tell.settled > self.next_seq:
            # What the sender no longer owes will not come.
            ready = self._until(tell.settled)
            self.next_seq = tell.settled
        if tell.seq < self.next_seq or tell.seq in self._early:
            return ready
        if tell.seq > self.next_seq:
            if len(self._early) < WINDOW_COUNT and self._early_bytes < WINDOW_BYTES:
                self._early[tell.seq] = tell
                self._early_bytes += len(tell.body)
            return ready
        ready.append(tell)
        self.next_seq += 1
        while (early := self._early.pop(self.next_seq, None)) is not None:
            self._early_bytes -= len(early.body)
            ready.append(early)
            self.next_seq += 1
        return ready

    def _until(self, settled: int) -> list[Tell]:
        ready = [self._early.pop(seq) for seq in sorted(self._early) if seq < settled]
        self._early_bytes -= sum(len(tell.body) for tell in ready)
        return ready


@dataclass(slots=True)
class Answers:
    """What we answered to the far side's asks, until it says that it needs that no more. An
    answer that had to be dropped is remembered as given all the same: nothing is done twice."""

    _floor: int = 0
    _given: OrderedDict[int, Reply | Fail | None] = field(default_factory=OrderedDict)
    _kept: OrderedDict[int, int] = field(default_factory=OrderedDict)
    _kept_bytes: int = 0

    def was_given(self, call: int) -> bool:
        return call < self._floor or call in self._given

    def again(self, call: int) -> Reply | Fail | None:
        """The answer that was given; None when it is kept no more."""
        return self._given.get(call)

    def keep(self, call: int, answer: Reply | Fail) -> None:
        size = len(answer.body) if isinstance(answer, Reply) else 0
        self._kept_bytes -= self._kept.pop(call, 0)
        self._given[call] = answer
        self._kept[call] = size
        self._kept_bytes += size
        while self._kept_bytes > _ANSWERS_BYTES and len(self._kept) > 1:
            oldest, oldest_bytes = self._kept.popitem(last=False)
            self._kept_bytes -= oldest_bytes
            self._given[oldest] = None
        self._bound()

    def lose(self, call: int) -> None:
        """It is not to be answered any more, whoever asks again."""
        self._kept_bytes -= self._kept.pop(call, 0)
        self._given[call] = None
        self._bound()

    def settle(self, settled: int) -> None:
        """The far side waits for no call below this one."""
        if settled <= self._floor:
            return
        self._floor = settled
        for call in [call for call in self._given if call < settled]:
            del self._given[call]
            self._kept_bytes -= self._kept.pop(call, 0)

    def lose_all(self) -> None:
        """The far side has given up waiting, as we have."""
        for call in self._kept:
            self._given[call] = None
        self._kept.clear()
        self._kept_bytes = 0

    def _bound(self) -> None:
        while len(self._given) > _ANSWERS_COUNT:
            call, _ = self._given.popitem(last=False)
            self._kept_bytes -= self._kept.pop(call, 0)
            self._floor = max(self._floor, call + 1)
