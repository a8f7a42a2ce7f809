"""The recipient's part of the depot: open what a keeper hands over, and take it like any mail.

Who brings an envelope proves nothing: its own signature says who sent it, and that node must be
in the trust book. What is not from there, does not open or has been changed is refused and need
not be kept any longer.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final

import anyio
import msgspec
from anyio import to_thread

from orvalho.contexts.identity import Key, Signer
from orvalho.errors import LimitExceeded, OrvalhoError, Unavailable, Untrusted
from orvalho.peers.blobs import Blobs
from orvalho.peers.depot import TAKEN, Collect, Item, KeptPart, Places, Taken
from orvalho.peers.envelope import (
    INLINE_BYTES,
    MAX_BODY_BYTES,
    BlobRef,
    Envelope,
    EnvelopeId,
    open_sealed,
)
from orvalho.peers.fetching import fetch_body
from orvalho.peers.frames import Ack, Frame, Reject
from orvalho.peers.keeping import Asks, bounded, read_message
from orvalho.peers.parcel import TAG_BYTES, carried_name, decrypt_body
from orvalho.peers.receiving import Receiver
from orvalho.store import Store

_log = logging.getLogger(__name__)

_KEPT_WITHIN_S: Final = 20.0
_PART_S: Final = 30.0
_KEEPERS: Final = 64

# Puts an envelope into the outbox, in a transaction: to whom, its kind, body, and end.
Stage = Callable[[sqlite3.Connection, Key, str, bytes, float], EnvelopeId]
Flush = Callable[[Key, EnvelopeId], None]


@dataclass(frozen=True, slots=True)
class _Opened:
    """A parcel and what was in it; `envelope` is None if that is nothing we take."""

    item: Item
    sealed: bytes = b""
    envelope: Envelope | None = None


class _Bearer:
    """Stands in for a channel to the sender: what the mailbox says of its envelopes is
    remembered instead of sent."""

    is_open = True

    def __init__(self, peer: Key, ids: Collection[EnvelopeId]) -> None:
        self.peer = peer
        self.kept: list[EnvelopeId] = []
        self.rejected: dict[EnvelopeId, str] = {}
        self.settled = asyncio.Event()
        self._waiting = set(ids)

    def send(self, frame: Frame) -> None:
        if isinstance(frame, Reject):
            self.rejected[EnvelopeId(frame.id)] = frame.reason
            self._settle(frame.id)

    def send_along(self, frame: Frame) -> None:
        if isinstance(frame, Ack):
            for each in frame.ids:
                self.kept.append(EnvelopeId(each))
                self._settle(each)

    def _settle(self, id_: bytes) -> None:
        self._waiting.discard(EnvelopeId(id_))
        if not self._waiting:
            self.settled.set()


class Collector:
    """Takes what keepers hand over. `on_reply` is told of envelopes that answer one of ours,
    with the sender and the id that they answer."""

    def __init__(
        self,
        *,
        store: Store,
        blobs: Blobs,
        counters: Counter[str],
        signer: Signer,
        formerly: frozenset[Key],
        clock: Callable[[], float],
        ask: Asks,
        peers: Callable[[], Collection[Key]],
        receiver: Receiver,
        stage: Stage,
        flush: Flush,
        on_reply: Callable[[Sequence[tuple[Key, EnvelopeId]]], None],
    ) -> None:
        self._store = store
        self._blobs = blobs
        self._counters = counters
        self._signer = signer
        self._formerly = formerly
        self._clock = clock
        self._ask = ask
        self._peers = peers
        self._receiver = receiver
        self._stage = stage
        self._flush = flush
        self._on_reply = on_reply
        self._turns: OrderedDict[Key, asyncio.Lock] = OrderedDict()

    async def collect(self, keeper: Key, body: bytes) -> bytes:
        """Answer `depot.collect`.

        Raises:
            InvalidInput: this is no such request.
        """
        items = bounded(read_message(body, Collect).items)
        # One offer of a keeper after the other: two would fetch the same bodies.
        async with self._turn(keeper):
            # The book is asked here: in a thread it could be seen in the middle of a change.
            peers = frozenset(self._peers())
            opened = await to_thread.run_sync(self._open_all, items, peers)
            places = [each.item.place for each in opened if each.envelope is None]
            for group in _by_sender(opened).values():
                places += await self._take(keeper, group)
        return msgspec.msgpack.encode(Places(places=tuple(places)))

    def _open_all(self, items: Sequence[Item], peers: Collection[Key]) -> list[_Opened]:
        """In a thread: opening a sealed box and checking a signature take a while."""
        return [self._open(item, peers) for item in items]

    def _open(self, item: Item, peers: Collection[Key]) -> _Opened:
        try:
            sealed = self._signer.unseal(item.content)
            envelope = open_sealed(sealed, self._signer.key, self._clock(), formerly=self._formerly)
            if envelope.sender not in peers:
                raise Untrusted("the sender of a kept envelope is no peer here")
            if item.body_bytes > MAX_BODY_BYTES + TAG_BYTES or (
                (envelope.blob is None) != (item.body_bytes == 0)
            ):
                raise Untrusted("a parcel is malformed")
        except (Untrusted, LimitExceeded) as error:
            self._counters[f"parcels.refused: {error.message}"] += 1
            return _Opened(item)
        return _Opened(item, sealed, envelope)

    async def _take(self, keeper: Key, group: Sequence[tuple[_Opened, Envelope]]) -> list[int]:
        """Put envelopes of one sender into the mailbox; the places of those that are there."""
        sender = group[0][1].sender
        bodies: dict[EnvelopeId, bytes] = {}
        refused: list[int] = []
        for opened, envelope in group:
            if envelope.blob is not None:
                try:
                    bodies[envelope.id] = await self._body(keeper, opened, envelope.blob)
                except Untrusted as error:
                    self._counters[f"parcels.refused: {error.message}"] += 1
                    refused.append(opened.item.place)
                except OrvalhoError as error:
                    _log.info("parcel.postponed", extra={"reason": error.message})
        ready = [
            envelope for _, envelope in group if envelope.blob is None or envelope.id in bodies
        ]
        # Once more, with nothing in between: fetching bodies takes a while, and it may have been
        # revoked meanwhile.
        if sender not in self._peers():
            self._counters["parcels.refused: the sender of a kept envelope is no peer here"] += 1
            return refused + [opened.item.place for opened, _ in group]
        bearer = _Bearer(sender, {envelope.id for envelope in ready})
        for envelope in ready:
            self._receiver.accept(bearer, envelope, bodies.get(envelope.id, b""))
        if ready:
            with anyio.move_on_after(_KEPT_WITHIN_S):
                await bearer.settled.wait()
        settled = {*bearer.kept, *bearer.rejected}
        await self._tell(bearer, [envelope for envelope in ready if envelope.id in settled])
        places = [opened.item.place for opened, envelope in group if envelope.id in settled]
        names = [carried_name(keeper, o.item.place) for o, e in group if e.id in bodies]
        await to_thread.run_sync(self._blobs.remove, *names)
        return refused + places

    async def _body(self, keeper: Key, opened: _Opened, blob: BlobRef) -> bytes:
        item = opened.item
        name = carried_name(keeper, item.place)
        expected = BlobRef(item.body_sha256, item.body_bytes)
        if not INLINE_BYTES < item.body_bytes == blob.size_bytes + TAG_BYTES:
            raise Untrusted("a parcel is malformed")

        async def part(offset: int) -> bytes:
            asked = KeptPart(place=item.place, offset=offset)
            return await self._ask(keeper, "depot.kept", msgspec.msgpack.encode(asked), _PART_S)

        await fetch_body(self._blobs, name, expected, part)
        encrypted = await to_thread.run_sync(self._blobs.read, name)
        return await to_thread.run_sync(decrypt_body, opened.sealed, keeper, encrypted)

    async def _tell(self, bearer: _Bearer, envelopes: Sequence[Envelope]) -> None:
        """Let the sender know, by a letter of its own that goes the same ways."""
        answers = [
            (envelope.sender, EnvelopeId(envelope.reply_to))
            for envelope in envelopes
            if envelope.reply_to and envelope.id in bearer.kept
        ]
        if answers:
            self._on_reply(answers)
        mail = [envelope for envelope in envelopes if envelope.kind != TAKEN]
        if not mail:
            return
        kept = set(bearer.kept)
        taken = Taken(
            ids=tuple(envelope.id for envelope in mail if envelope.id in kept),
            rejected=tuple(bearer.rejected.items()),
        )
        expires_at = max(envelope.expires_at for envelope in mail)
        body = msgspec.msgpack.encode(taken)

        def work(connection: sqlite3.Connection) -> EnvelopeId:
            return self._stage(connection, bearer.peer, TAKEN, body, expires_at)

        try:
            id_ = await self._store.transact("depot.tell", work)
            self._flush(bearer.peer, id_)
        except (LimitExceeded, Unavailable) as error:
            # The keeper offers them again only if it is not told either: let it be.
            _log.warning("depot.untold", extra={"reason": error.message})

    def _turn(self, keeper: Key) -> asyncio.Lock:
        turn = self._turns.setdefault(keeper, asyncio.Lock())
        self._turns.move_to_end(keeper)
        if len(self._turns) > _KEEPERS:
            self._turns.popitem(last=False)
        return turn


def _by_sender(opened: Sequence[_Opened]) -> dict[Key, list[tuple[_Opened, Envelope]]]:
    groups: dict[Key, list[tuple[_Opened, Envelope]]] = {}
    for each in opened:
        if each.envelope is not None:
            groups.setdefault(each.envelope.sender, []).append((each, each.envelope))
    return groups
