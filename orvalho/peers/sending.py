"""The pump from the outbox to the links: what is owed is sent until it is acknowledged.

Sending does not wait for acknowledgements: a window of envelopes is under way to each peer at
any time. They arrive in no promised order.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from typing import Final

import anyio
from anyio import to_thread
from anyio.abc import TaskGroup

from orvalho.contexts.identity import Key
from orvalho.errors import NotFound, Unavailable
from orvalho.peers import outbox
from orvalho.peers.blobs import Blobs, outgoing_name
from orvalho.peers.channel import Channel
from orvalho.peers.envelope import EnvelopeId
from orvalho.peers.frames import Mail
from orvalho.peers.links import Links
from orvalho.peers.outbox import Outgoing, Removed
from orvalho.retry import Backoff
from orvalho.store import Store

_log = logging.getLogger(__name__)

_WINDOW_COUNT: Final = 1024
_WINDOW_BYTES: Final = 8 << 20
# A body that is kept apart comes along with its envelope up to this size; a larger one is fetched.
_ATTACHED_BYTES: Final = 1 << 20
# More than this is not kept in memory on its way out: it is read from the outbox in its turn.
_READY_COUNT: Final = 256
_REMEMBERED_OUTCOMES: Final = 4096
# Acknowledged envelopes leave the outbox together, so that they cost no commit each. If we
# crash before, they are sent again, and the far side knows them.
_ACKNOWLEDGE_AFTER_S: Final = 0.05


class Outcome(Enum):
    """What became of an envelope of ours."""

    DELIVERED = "delivered"
    EXPIRED = "expired"
    WITHDRAWN = "withdrawn"
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True)
class Undelivered:
    """An envelope that was given up, expired or rejected; `reason` is for a person."""

    id: EnvelopeId
    recipient: Key
    kind: str
    outcome: Outcome
    reason: str


# Runs inside the transaction that removes the envelope, on the store's thread.
OnUndelivered = Callable[[sqlite3.Connection, Undelivered], None]


@dataclass(frozen=True, slots=True)
class _UnderWay:
    """An envelope that was sent, and not acknowledged yet."""

    size_bytes: int
    sent_at: float
    channel: Channel


@dataclass(slots=True)
class _Lane:
    """The way of envelopes to one peer. `scanned` is how far into the outbox we have read; a
    lane that is not `scanning` has read all. `under_way` holds the size of each envelope that
    was sent, when, and on which channel, oldest first."""

    peer: Key
    backoff: Backoff
    ready: deque[Outgoing] = field(default_factory=deque)
    under_way: OrderedDict[EnvelopeId, _UnderWay] = field(default_factory=OrderedDict)
    under_way_bytes: int = 0
    scanned: int = 0
    is_scanning: bool = True
    is_pumping: bool = False
    wake: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def has_room(self) -> bool:
        return len(self.under_way) < _WINDOW_COUNT and self.under_way_bytes < _WINDOW_BYTES

    def sent(self, outgoing: Outgoing, under_way: _UnderWay) -> None:
        self.landed(outgoing.id)
        self.under_way[outgoing.id] = under_way
        self.under_way_bytes += under_way.size_bytes

    def landed(self, id_: EnvelopeId) -> bool:
        """Whether it was under way, which it is no longer."""
        under_way = self.under_way.pop(id_, None)
        self.under_way_bytes -= under_way.size_bytes if under_way else 0
        return under_way is not None

    def rescan(self) -> None:
        self.scanned = 0
        self.is_scanning = True
        self.wake.set()

    def lost(self, channel: Channel) -> None:
        """What was under way on this channel is lost, as far as we know."""
        gone = [id_ for id_, each in self.under_way.items() if each.channel is channel]
        for id_ in gone:
            self.landed(id_)
        if gone:
            self.rescan()

    def restart(self) -> None:
        """What was under way is lost, as far as we know."""
        self.under_way.clear()
        self.under_way_bytes = 0
        self.ready.clear()
        self.rescan()


class Sender:
    """Sends what lies in the outbox. `tasks` hosts the pump of each peer that is online."""

    def __init__(
        self,
        *,
        store: Store,
        blobs: Blobs,
        links: Links,
        tasks: TaskGroup,
        counters: Counter[str],
        on_undelivered: OnUndelivered,
        resend_after_s: float,
        resend_limit_s: float,
    ) -> None:
        self._store = store
        self._blobs = blobs
        self._links = links
        self._tasks = tasks
        self._counters = counters
        self._on_undelivered = on_undelivered
        self._resend_after_s = resend_after_s
        self._resend_limit_s = resend_limit_s
        self._lanes: dict[Key, _Lane] = {}
        self._acknowledged: dict[EnvelopeId, Key] = {}
        self._has_acknowledged = asyncio.Event()
        self._outcomes: OrderedDict[EnvelopeId, Outcome] = OrderedDict()
        self._waiters: dict[EnvelopeId, asyncio.Future[Outcome]] = {}

    # ---- from us ----------------------------------------------------------------------------

    def release(self, peer: Key, outgoing: Sequence[Outgoing]) -> None:
        """The outbox has more for a peer: these, or what is to be read there."""
        lane = self._lane(peer)
        if not lane.is_pumping:
            self._links.nudge(peer)
            return
        if outgoing and len(lane.ready) + len(outgoing) <= _READY_COUNT:
            lane.ready.extend(outgoing)
            self._send_ready(lane)
        else:
            lane.is_scanning = True
        if lane.ready or lane.is_scanning:
            lane.wake.set()

    async def withdraw(self, id_: EnvelopeId) -> bool:
        removed = await self._store.transact("outbox.withdraw", lambda c: outbox.withdraw(c, id_))
        if removed is None:
            return False
        await self._discard([removed])
        lane = self._lane(removed.peer)
        lane.landed(id_)
        lane.ready = deque(each for each in lane.ready if each.id != id_)
        self._settle(id_, Outcome.WITHDRAWN)
        return True

    async def wait_outcome(self, id_: EnvelopeId) -> Outcome:
        """Raises:
        NotFound: it is not in the outbox, and was not of late.
        """
        if id_ not in self._outcomes:
            loop = asyncio.get_running_loop()
            waiter = self._waiters.setdefault(id_, loop.create_future())
            if await self._store.read(lambda c: outbox.holds(c, id_)) or waiter.done():
                return await asyncio.shield(waiter)
            self._waiters.pop(id_, None)
            if id_ not in self._outcomes:
                raise NotFound("the outbox has no such envelope", where=id_.hex())
        return self._outcomes[id_]

    async def drop_peer(self, peer: Key) -> None:
        """Give up all that waits for a peer, who is one no longer."""
        removed = await self._store.transact("outbox.drop", lambda c: outbox.drop_peer(c, peer))
        self._lanes.pop(peer, None)
        await self._discard(removed)
        for each in removed:
            self._settle(each.id, Outcome.WITHDRAWN)

    async def give_up_peer(self, peer: Key, reason: str) -> None:
        """Give up all that waits for a peer, who stays one."""

        def remove(connection: sqlite3.Connection) -> list[Removed]:
            removed = outbox.drop_peer(connection, peer)
            for each in removed:
                self._give_up(connection, each, Outcome.REJECTED, reason)
            return removed

        removed = await self._store.transact("outbox.give-up", remove)
        await self._discard(removed)
        for each in removed:
            self._lane(peer).landed(each.id)
            self._settle(each.id, Outcome.REJECTED)

    def leave(self, peer: Key) -> None:
        """This key is a peer's no longer; what waited for it has moved."""
        self._lanes.pop(peer, None)

    def unsettled(self, peer: Key) -> int:
        """How many of a peer's envelopes have arrived but still lie in the outbox."""
        return sum(each == peer for each in self._acknowledged.values())

    # ---- from the peer ----------------------------------------------------------------------

    def up(self, peer: Key) -> None:
        """A channel to the peer has opened."""
        lane = self._lane(peer)
        if not lane.is_pumping:
            lane.is_pumping = True
            lane.restart()
            self._tasks.start_soon(self._pump, lane)

    def down(self, channel: Channel) -> None:
        """A channel has ended, and with it what it carried."""
        lane = self._lane(channel.peer)
        lane.lost(channel)
        lane.wake.set()

    def acknowledged(self, peer: Key, ids: Sequence[bytes]) -> None:
        lane = self._lane(peer)
        for each in ids:
            id_ = EnvelopeId(each)
            # A peer speaks only for what was sent to it.
            if lane.landed(id_):
                self._acknowledged[id_] = peer
                self._has_acknowledged.set()
                self._settle(id_, Outcome.DELIVERED)
        lane.backoff.succeeded()
        lane.wake.set()

    async def acknowledged_apart(self, peer: Key, ids: Sequence[EnvelopeId]) -> None:
        """The same, told on another way than a link: they need not be under way on one."""
        pairs = [(peer, id_) for id_ in ids]
        removed = await self._store.transact(
            "outbox.acknowledge", lambda connection: outbox.acknowledge(connection, pairs)
        )
        await self._discard(removed)
        for each in removed:
            self._lane(peer).landed(each.id)
            self._settle(each.id, Outcome.DELIVERED)

    async def rejected(self, peer: Key, id_: EnvelopeId, reason: str) -> None:
        def remove(connection: sqlite3.Connection) -> list[Removed]:
            removed = outbox.acknowledge(connection, [(peer, id_)])
            for each in removed:
                self._give_up(connection, each, Outcome.REJECTED, reason)
            return removed

        removed: list[Removed] = []
        with suppress(Unavailable):  # a full disk: it is rejected again when it is sent again
            removed = await self._store.transact("outbox.reject", remove)
        if removed:
            self._counters["outbox.rejected"] += 1
            await self._discard(removed)
            self._lane(peer).landed(id_)
            self._settle(id_, Outcome.REJECTED)

    async def settled(self, removed: Sequence[Removed]) -> None:
        """These have arrived, as we know by another way, and have left the outbox."""
        for each in removed:
            self._lane(each.peer).landed(each.id)
            self._settle(each.id, Outcome.DELIVERED)
        await self._discard(removed)

    # ---- the work ---------------------------------------------------------------------------

    async def settle(self) -> None:
        """Remove what has arrived from the outbox, every now and then; a task."""
        while True:
            await self._has_acknowledged.wait()
            await anyio.sleep(_ACKNOWLEDGE_AFTER_S)
            self._has_acknowledged.clear()
            await self.flush_acknowledged()
            if self._acknowledged:  # the store refused, or more came meanwhile
                self._has_acknowledged.set()

    async def flush_acknowledged(self) -> None:
        """Remove what has arrived from the outbox."""
        pairs = [(peer, id_) for id_, peer in self._acknowledged.items()]
        with suppress(Unavailable):
            removed = await self._store.transact(
                "outbox.acknowledge",
                lambda connection: outbox.acknowledge(connection, pairs),
                is_urgent=False,
            )
            await self._discard(removed)
            # Not before the commit: until then a scan may still find them.
            for _, id_ in pairs:
                self._acknowledged.pop(id_, None)

    async def expire(self, now: float) -> None:
        """Give up what has outlived itself."""

        def remove(connection: sqlite3.Connection) -> list[Removed]:
            removed = outbox.expire(connection, now)
            for each in removed:
                reason = "it was not delivered before it expired"
                self._give_up(connection, each, Outcome.EXPIRED, reason)
            return removed

        expired = await self._store.transact("outbox.expire", remove)
        await self._discard(expired)
        for each in expired:
            self._counters["outbox.expired"] += 1
            self._lane(each.peer).landed(each.id)
            self._settle(each.id, Outcome.EXPIRED)

    def resend(self) -> None:
        """Look for envelopes that have waited too long for their acknowledgement."""
        now = _now()
        for lane in self._lanes.values():
            if not lane.is_pumping or not lane.under_way or now < lane.backoff.retry_at:
                continue
            oldest = next(iter(lane.under_way.values()))
            if now - oldest.sent_at >= self._resend_after_s:
                self._counters["outbox.resent"] += 1
                lane.backoff.failed(now)
                lane.rescan()

    async def _pump(self, lane: _Lane) -> None:
        try:
            while (channel := self._links.best(lane.peer)) is not None:
                if lane.ready and lane.has_room:
                    await self._send(channel, lane)
                elif lane.is_scanning and not lane.ready:
                    await self._scan(lane)
                else:
                    lane.wake.clear()
                    await lane.wake.wait()
        finally:
            lane.is_pumping = False

    def _send_ready(self, lane: _Lane) -> None:
        """What need not wait for anything goes now: the pump is a turn of the loop away."""
        channel = self._links.best(lane.peer)
        while channel is not None and lane.ready and lane.has_room and channel.has_room:
            outgoing = lane.ready[0]
            if _is_attached(outgoing) and not outgoing.body:
                return
            lane.ready.popleft()
            if self._is_due(lane, outgoing.id, _now()):
                self._put(channel, lane, outgoing, outgoing.body)

    async def _send(self, channel: Channel, lane: _Lane) -> None:
        outgoing = lane.ready.popleft()
        if not self._is_due(lane, outgoing.id, _now()):
            return
        body = outgoing.body
        if _is_attached(outgoing) and not body:
            body = await self._read_body(outgoing.id)
        with suppress(Unavailable):
            await channel.room()
            self._put(channel, lane, outgoing, body)

    def _put(self, channel: Channel, lane: _Lane, outgoing: Outgoing, body: bytes) -> None:
        body = body if _is_attached(outgoing) else b""
        channel.send(Mail(sealed=outgoing.sealed, body=body))
        size_bytes = len(outgoing.sealed) + len(body)
        lane.sent(outgoing, _UnderWay(size_bytes, _now(), channel))

    async def _read_body(self, id_: EnvelopeId) -> bytes:
        try:
            return await to_thread.run_sync(self._blobs.read, outgoing_name(id_))
        except Unavailable as error:
            _log.error("body.missing", extra={"reason": error.message})
            return b""

    async def _scan(self, lane: _Lane) -> None:
        after = lane.scanned
        page = await self._store.read(partial(outbox.page, peer=lane.peer, after=after))
        if lane.scanned != after:
            return  # restarted meanwhile
        now = _now()
        for outgoing in page:
            lane.scanned = outgoing.seq
            if self._is_due(lane, outgoing.id, now):
                lane.ready.append(outgoing)
        if not page:
            lane.is_scanning = False

    def _is_due(self, lane: _Lane, id_: EnvelopeId, now: float) -> bool:
        """Whether to send it: not while it is under way, unless it has been for too long."""
        if id_ in self._acknowledged:
            return False
        under_way = lane.under_way.get(id_)
        return under_way is None or now - under_way.sent_at >= self._resend_after_s

    async def _discard(self, removed: Sequence[Removed]) -> None:
        """Delete the bodies that were kept apart."""
        names = [outgoing_name(each.id) for each in removed if each.is_apart]
        if names:
            await to_thread.run_sync(self._blobs.remove, *names)

    def _give_up(
        self, connection: sqlite3.Connection, removed: Removed, outcome: Outcome, reason: str
    ) -> None:
        undelivered = Undelivered(removed.id, removed.peer, removed.kind, outcome, reason)
        self._on_undelivered(connection, undelivered)

    def _settle(self, id_: EnvelopeId, outcome: Outcome) -> None:
        self._outcomes[id_] = outcome
        if len(self._outcomes) > _REMEMBERED_OUTCOMES:
            self._outcomes.popitem(last=False)
        waiter = self._waiters.pop(id_, None)
        if waiter is not None and not waiter.done():
            waiter.set_result(outcome)

    def _lane(self, peer: Key) -> _Lane:
        lane = self._lanes.get(peer)
        if lane is None:
            backoff = Backoff(self._resend_after_s, self._resend_limit_s)
            lane = self._lanes[peer] = _Lane(peer, backoff)
        return lane


def _is_attached(outgoing: Outgoing) -> bool:
    """Whether its body, which is kept apart, is small enough to go along."""
    return outgoing.is_apart and outgoing.size_bytes <= _ATTACHED_BYTES


def _now() -> float:
    return asyncio.get_running_loop().time()
