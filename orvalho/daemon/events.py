"""What happens here, as it happens: each request with who asked, what was decided and what it
used. Nothing is kept; whoever reads too slowly is told how much was lost."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Final

import msgspec

from orvalho.control.metering import Event, EventUsage
from orvalho.policies.access import AccessRequest, Decision
from orvalho.policies.usage import Charge

# What waits for one reader.
_WAITING: Final = 10_000


class Reader:
    """One who follows: iterated, it gives each event, and before those that follow a gap one
    `events.lost` that says how many there were."""

    def __init__(self, most: int = _WAITING) -> None:
        self._events: deque[Event] = deque(maxlen=most)
        self._lost = 0
        self._wake = asyncio.Event()

    def put(self, event: Event) -> None:
        if len(self._events) == self._events.maxlen:
            self._lost += 1
        self._events.append(event)
        self._wake.set()

    async def __aiter__(self) -> AsyncIterator[Event]:
        while True:
            if self._lost:
                lost, self._lost = self._lost, 0
                text = f"{lost} events were lost: they came faster than they were read"
                yield Event(kind="events.lost", at=time.time(), level="warn", text=text, lost=lost)
            if self._events:
                yield self._events.popleft()
                continue
            self._wake.clear()
            await self._wake.wait()


class Events:
    """Fan-out to readers, within the event loop's thread."""

    def __init__(self) -> None:
        self._readers: tuple[Reader, ...] = ()

    @property
    def is_followed(self) -> bool:
        """Whether it is worth making an event at all."""
        return bool(self._readers)

    def publish(self, event: Event) -> None:
        for reader in self._readers:
            reader.put(event)

    def decided(
        self, request: AccessRequest, decision: Decision, *, kind: str, run: str | None
    ) -> None:
        """Publish a decision, if somebody reads."""
        if self._readers:
            self.publish(_decided(request, decision, kind=kind, run=run))

    @contextmanager
    def follow(self, most: int = _WAITING) -> Iterator[Reader]:
        """A reader of what is published within the block."""
        reader = Reader(most)
        self._readers += (reader,)
        try:
            yield reader
        finally:
            self._readers = tuple(each for each in self._readers if each is not reader)


def ended(charge: Charge) -> Event:
    """The event of a receipt."""
    text = f"{charge.caller} ran {charge.filename} in {charge.context}: {charge.outcome}"
    return Event(
        kind="script.ended",
        at=charge.at,
        level="info" if charge.outcome == "done" else "warn",
        text=f"{text}, {charge.limit}" if charge.limit else text,
        run=charge.run,
        requester=charge.caller,
        key=charge.caller_key,
        node_key=charge.node_key,
        groups=charge.groups,
        digest=charge.digest,
        filename=charge.filename,
        context=charge.context,
        allowed=charge.outcome != "refused",
        rule=charge.rule,
        outcome=charge.outcome,
        limit=charge.limit,
        usage=EventUsage(**msgspec.structs.asdict(charge.usage)),
    )


def _decided(request: AccessRequest, decision: Decision, *, kind: str, run: str | None) -> Event:
    verdict = "allowed" if decision.allowed else "refused"
    what = f"{request.action} {request.object} in {request.context}"
    return Event(
        kind=kind,
        at=time.time(),
        level="info" if decision.allowed else "warn",
        text=f"{request.subject.spoken}: {what}: {verdict}",
        run=run,
        requester=request.subject.spoken,
        key=request.subject.key,
        context=request.context,
        action=request.action,
        object=request.object,
        allowed=decision.allowed,
        rule=decision.rule.where if decision.rule else None,
    )
