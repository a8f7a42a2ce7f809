"""The mailbox's far end: each envelope goes to the handler of its kind until it is done."""

from __future__ import annotations

import logging
import sqlite3
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import anyio
from anyio import to_thread
from anyio.abc import TaskGroup

from orvalho.contexts.identity import Key
from orvalho.errors import Unavailable
from orvalho.peers import mailbox
from orvalho.peers.blobs import Blobs, incoming_name
from orvalho.peers.envelope import Envelope, EnvelopeId
from orvalho.peers.mailbox import Pending
from orvalho.peers.tally import Quota
from orvalho.retry import Backoff
from orvalho.store import Store

_log = logging.getLogger(__name__)

# What handlers may have in hand of one peer's mail, and what waits in memory behind it. The rest
# stays in the mailbox until its turn.
_AT_ONCE: Final = 256
_BYTES_AT_ONCE: Final = 64 << 20
_QUEUE_COUNT: Final = 1024
_QUEUE_BYTES: Final = 16 << 20
_MAX_ATTEMPTS: Final = 5


class Repeated(Exception):
    """An envelope that was handled once before. Nothing is to be done about it."""


@dataclass(slots=True)
class Delivery:
    """How an envelope came to its handler. `attempts` counts the earlier ones that failed."""

    envelope: Envelope
    attempts: int
    quota: Quota
    blobs: Blobs
    is_kept: bool = True
    is_done: bool = False

    @property
    def envelope_id(self) -> EnvelopeId:
        return self.envelope.id

    def keep(self, connection: sqlite3.Connection) -> None:
        """See to it that the envelope is kept until it is done: inside a transaction of the
        handler's, before what must not happen twice.

        Raises:
            Repeated: it was handled before; let it through.
            LimitExceeded: the mailbox is full.
            Unavailable: the disk is.
        """
        if self.is_kept:
            return
        if not mailbox.stage(connection, self.envelope, self.quota):
            if not mailbox.holds(connection, self.envelope.id):
                raise Repeated
        elif self.envelope.blob is not None:
            self.blobs.write(_file_of(self.envelope), self.envelope.body)

    def done(self, connection: sqlite3.Connection) -> None:
        """Mark the envelope as handled, inside the handler's own transaction, before anything
        else there. A handler that returns without it is done all the same, but may see the
        envelope again after a crash.

        Raises:
            Repeated: it was handled before; let it through.
        """
        if self.is_kept:
            mailbox.done(connection, self.envelope.id)
        elif not mailbox.close(connection, self.envelope):
            raise Repeated
        self.is_done = True


# A handler that raises gets the envelope again, five times at most.
Handler = Callable[[Envelope, Delivery], Awaitable[None]]


@dataclass(slots=True)
class _Pile:
    """The mail of one peer. What lies in the mailbox up to `scanned` is in memory here, or done;
    `is_behind` says that there is more. A scan may still find what has been done since it began:
    `leaving` keeps those in mind until it is over."""

    peer: Key
    queue: deque[Pending] = field(default_factory=deque)
    queued_bytes: int = 0
    in_hand: set[EnvelopeId] = field(default_factory=set)
    leaving: set[EnvelopeId] = field(default_factory=set)
    in_hand_count: int = 0
    in_hand_bytes: int = 0
    scanned: int = 0
    is_behind: bool = False
    is_scanning: bool = False

    @property
    def is_full(self) -> bool:
        return len(self.queue) >= _QUEUE_COUNT or self.queued_bytes >= _QUEUE_BYTES

    @property
    def may_start(self) -> bool:
        return self.in_hand_count < _AT_ONCE and self.in_hand_bytes < _BYTES_AT_ONCE


class Desk:
    """Runs handlers, some hundreds at once for each peer. `on_handled` is told of the end of
    each envelope that `begin` took."""

    def __init__(
        self,
        *,
        store: Store,
        blobs: Blobs,
        tasks: TaskGroup,
        counters: Counter[str],
        quota: Quota,
        on_handled: Callable[[EnvelopeId], None],
    ) -> None:
        self._store = store
        self._blobs = blobs
        self._tasks = tasks
        self._counters = counters
        self._quota = quota
        self._on_handled = on_handled
        self._handlers: dict[str, Handler] = {}
        self._piles: dict[Key, _Pile] = {}

    def handle(self, kind: str, handler: Handler) -> None:
        self._handlers[kind] = handler

    def knows(self, kind: str) -> bool:
        return kind in self._handlers

    async def resume(self) -> None:
        """Take up what an earlier run left in the mailbox."""
        for peer in await self._store.read(mailbox.senders):
            pile = self._pile(peer)
            pile.is_behind = True
            self._turn(pile)

    def accept(self, envelope: Envelope) -> None:
        """An envelope has been kept."""
        pile = self._pile(envelope.sender)
        if pile.is_behind or pile.is_scanning or pile.is_full:
            pile.is_behind = True
        else:
            self._queue(pile, Pending(envelope, 0, 0))
        self._turn(pile)

    def begin(self, envelope: Envelope) -> bool:
        """Start the handler of an envelope that is not kept yet; False where others come
        first."""
        pile = self._pile(envelope.sender)
        is_first = not (pile.queue or pile.is_behind or pile.is_scanning)
        if not is_first or not pile.may_start or envelope.id in pile.in_hand:
            return False
        self._queue(pile, Pending(envelope, 0, 0, is_kept=False))
        self._turn(pile)
        return True

    def _turn(self, pile: _Pile) -> None:
        """Start what may be started, and look for more if there is."""
        while pile.queue and pile.may_start:
            pending = pile.queue.popleft()
            pile.queued_bytes -= pending.envelope.size_bytes
            pile.in_hand_count += 1
            pile.in_hand_bytes += pending.envelope.size_bytes
            self._tasks.start_soon(self._work, pile, pending)
        if pile.is_behind and not pile.is_scanning and not pile.queue:
            pile.is_scanning = True
            self._tasks.start_soon(self._scan, pile)

    def _queue(self, pile: _Pile, pending: Pending) -> None:
        pile.in_hand.add(pending.envelope.id)
        pile.queue.append(pending)
        pile.queued_bytes += pending.envelope.size_bytes

    async def _scan(self, pile: _Pile) -> None:
        try:
            while not pile.is_full:
                # Said before the reading: what is kept during it is not overlooked.
                pile.is_behind = False
                page = partial(mailbox.pending, sender=pile.peer, after=pile.scanned, limit=16)
                found = await self._store.read(page)
                if not found:
                    return
                pile.is_behind = True
                for pending in found:
                    pile.scanned = pending.seq
                    if pending.envelope.id not in pile.in_hand:
                        self._queue(pile, pending)
                pile.in_hand -= pile.leaving
                pile.leaving.clear()
        finally:
            pile.in_hand -= pile.leaving
            pile.leaving.clear()
            pile.is_scanning = False
            self._turn(pile)

    async def _work(self, pile: _Pile, pending: Pending) -> None:
        envelope = pending.envelope
        try:
            await self._call(pending)
        finally:
            pile.in_hand_count -= 1
            pile.in_hand_bytes -= envelope.size_bytes
        if not pending.is_kept:
            self._on_handled(envelope.id)
        if pile.is_scanning:
            pile.leaving.add(envelope.id)
        else:
            pile.in_hand.discard(envelope.id)
        self._turn(pile)

    async def _call(self, pending: Pending) -> None:
        """Hand it to its handler until that succeeds, or has failed too often."""
        kind = pending.envelope.kind
        handler = self._handlers.get(kind)
        if handler is None:
            _log.error("mail.unhandled", extra={"kind": kind})
        elif not await self._try_often(handler, pending):
            _log.error("mail.given-up", extra={"kind": kind})
        else:
            return
        await self._finish(pending)

    async def _try_often(self, handler: Handler, pending: Pending) -> bool:
        backoff = Backoff()
        envelope, attempts = pending.envelope, pending.attempts
        while attempts < _MAX_ATTEMPTS:
            delivery = Delivery(envelope, attempts, self._quota, self._blobs, pending.is_kept)
            if await self._try(handler, envelope, delivery):
                if not delivery.is_done:
                    await self._finish(pending)
                elif envelope.blob is not None:
                    await to_thread.run_sync(self._blobs.remove, _file_of(envelope))
                return True
            attempts += 1
            backoff.failed(0.0)
            await anyio.sleep(backoff.retry_at)
        return False

    async def _try(self, handler: Handler, envelope: Envelope, delivery: Delivery) -> bool:
        try:
            await handler(await self._whole(envelope), delivery)
        except Repeated:
            self._counters["envelopes.repeated"] += 1
            delivery.is_done = True
        except Exception:  # noqa: BLE001 -- the top of a handler
            self._counters["mailbox.failures"] += 1
            _log.exception(
                "mail.failed", extra={"kind": envelope.kind, "attempts": delivery.attempts}
            )
            self._store.transact_soon(
                "mailbox.failed", lambda connection: mailbox.failed(connection, envelope.id)
            )
            return False
        return True

    async def _finish(self, pending: Pending) -> None:
        envelope = pending.envelope

        def finish(connection: sqlite3.Connection) -> bool:
            if pending.is_kept:
                return mailbox.done(connection, envelope.id)
            return mailbox.close(connection, envelope)

        backoff = Backoff()
        while True:
            try:
                await self._store.transact("mailbox.done", finish)
                break
            except Unavailable as error:  # a full disk, for now
                _log.error("mailbox.failed", extra={"reason": error.message})
                backoff.failed(0.0)
                await anyio.sleep(backoff.retry_at)
        if envelope.blob is not None:
            await to_thread.run_sync(self._blobs.remove, _file_of(envelope))

    async def _whole(self, envelope: Envelope) -> Envelope:
        if envelope.blob is None or envelope.body:
            return envelope
        return envelope.with_body(await to_thread.run_sync(self._blobs.read, _file_of(envelope)))

    def _pile(self, peer: Key) -> _Pile:
        pile = self._piles.get(peer)
        if pile is None:
            pile = self._piles[peer] = _Pile(peer)
        return pile


def _file_of(envelope: Envelope) -> str:
    """Where a body lies that is kept apart."""
    return incoming_name(envelope.sender, envelope.id)
