"""Mail for peers that are not linked, by way of somebody who keeps it: sealed to the recipient.

What a carrier is given is a PyNaCl SealedBox (X25519 and XSalsa20-Poly1305) to the recipient's
node key; in it lie the sender's key (32 bytes), its signature (64) and one frame: a Mail, or the
Ack or Reject that answers one. The envelope stays in our outbox until that answer has come, so
nothing is lost when the carrier loses it, and what it brings twice is known by its id.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final, Protocol

import anyio

from orvalho.contexts.identity import Key, Signer, seal_for, verify
from orvalho.errors import LimitExceeded, OrvalhoError, Untrusted
from orvalho.peers import frames, outbox
from orvalho.peers.envelope import EnvelopeId, open_sealed, sender_of
from orvalho.peers.frames import Ack, Frame, Mail, Reject
from orvalho.peers.links import Links, PeerBook
from orvalho.peers.receiving import Receiver
from orvalho.peers.sending import Sender
from orvalho.store import Store

_log = logging.getLogger(__name__)

_PURPOSE: Final = b"orvalho/carried/1"
_KEY_BYTES: Final = 32
_HEAD_BYTES: Final = 96
_LOOK_S: Final = 2.0
# What has not been answered by then is left with the carrier again, which may have lost it.
_AGAIN_S: Final = 86400.0
_ANSWERS: Final = 10_000
_ANSWER_LIFETIME_S: Final = 7 * 86400.0

# Called by a carrier with what came for us, and with what to await once it is kept here.
Take = Callable[[bytes, Callable[[], Awaitable[None]]], None]


class Carrier(Protocol):
    """Somebody who keeps sealed mail for nodes that are off."""

    async def deposit(self, to: Key, id: bytes, sealed: bytes, expires_at: float) -> None:  # noqa: A002
        """Keep this for a node until then (Unix seconds); the same `id` again is the same mail.

        Raises:
            Unavailable: it is not kept.
            LimitExceeded: it is too large.
        """

    async def collect(self, take: Take) -> None:
        """Bring what others left for us, for as long as it runs; a task. What `take` has not
        said to be kept comes again."""


class Carrying:
    """The part of a node that uses its carrier. `run` does the work."""

    def __init__(
        self,
        carrier: Carrier,
        *,
        signer: Signer,
        formerly: frozenset[Key] = frozenset(),
        store: Store,
        book: PeerBook,
        links: Links,
        sender: Sender,
        receiver: Receiver,
        clock: Callable[[], float],
        counters: Counter[str],
    ) -> None:
        self._carrier = carrier
        self._signer = signer
        self._formerly = formerly
        self._store = store
        self._book = book
        self._links = links
        self._sender = sender
        self._receiver = receiver
        self._clock = clock
        self._counters = counters
        # How far into the outbox each peer's mail has been left with the carrier.
        self._scanned: dict[Key, int] = {}
        self._rescan_at = clock() + _AGAIN_S
        self._answers: list[tuple[_Bearer, Frame | None]] = []
        self._heard: list[tuple[_Bearer, Frame | None]] = []
        self._wake = asyncio.Event()

    def nudge(self) -> None:
        """The outbox has more."""
        self._wake.set()

    async def run(self) -> None:
        """Give and take; a task."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._carrier.collect, self._take)
            while True:
                try:
                    await self._work_off(self._heard, self._settle)
                    await self._work_off(self._answers, self._send_answer)
                    self._forget_progress()
                    for peer in self._book.peers():
                        await self._deposit_for(peer)
                except OrvalhoError as error:
                    self._counters["carrier.away"] += 1
                    _log.debug("carrier.away", extra={"reason": error.message})
                    await anyio.sleep(_LOOK_S)
                with anyio.move_on_after(_LOOK_S):
                    await self._wake.wait()
                self._wake.clear()

    # ---- from us ----------------------------------------------------------------------------

    def _forget_progress(self) -> None:
        now = self._clock()
        if now >= self._rescan_at:
            self._rescan_at = now + _AGAIN_S
            self._scanned.clear()

    async def _deposit_for(self, peer: Key) -> None:
        while self._links.best(peer) is None:
            after = self._scanned.get(peer, 0)
            page = await self._store.read(partial(outbox.page, peer=peer, after=after))
            for outgoing in page:
                # A body that is kept apart waits for a link: it may be of 64 MiB.
                if not outgoing.is_apart:
                    mail = Mail(sealed=outgoing.sealed)
                    await self._deposit(peer, outgoing.id, mail, outgoing.expires_at)
                self._scanned[peer] = outgoing.seq
            if not page:
                return

    async def _deposit(self, to: Key, id_: bytes, frame: Frame, expires_at: float) -> None:
        content = frames.encode(frame)
        signature = self._signer.sign(_PURPOSE, to + content)
        sealed = seal_for(to, self._signer.key + signature + content)
        try:
            await self._carrier.deposit(to, id_, sealed, expires_at)
            self._counters["carrier.deposited"] += 1
        except LimitExceeded:
            self._counters["carrier.too_large"] += 1

    # ---- to us ------------------------------------------------------------------------------

    def _take(self, content: bytes, kept: Callable[[], Awaitable[None]]) -> None:
        bearer = _Bearer(self, kept)
        try:
            bearer.peer, frame = self._open(content)
            self._hear(bearer, frame)
        except (Untrusted, LimitExceeded) as error:
            self._counters[f"carrier.refused: {error.message}"] += 1
            self.answer(bearer, None)

    def _open(self, content: bytes) -> tuple[Key, Frame]:
        """Raises:
        Untrusted: it is not sealed to us, or not by a peer.
        """
        opened = self._signer.unseal(content)
        sender = Key(opened[:_KEY_BYTES])
        if sender not in self._book.peers():
            raise Untrusted("it is from a stranger")
        signed = self._signer.key + opened[_HEAD_BYTES:]
        verify(sender, _PURPOSE, signed, opened[_KEY_BYTES:_HEAD_BYTES])
        frame = frames.decode(opened[_HEAD_BYTES:])
        if frame is None:
            raise Untrusted("it is malformed")
        return sender, frame

    def _hear(self, bearer: _Bearer, frame: Frame) -> None:
        match frame:
            case Mail():
                if sender_of(frame.sealed) != bearer.peer:
                    raise Untrusted("the envelope is not from the node that sent it")
                envelope = open_sealed(
                    frame.sealed, self._signer.key, self._clock(), formerly=self._formerly
                )
                if envelope.blob is not None:
                    raise Untrusted("a large body does not travel so")
                # It answers by `_Bearer.send`, as a channel would.
                self._receiver.take(bearer, frame)
            case Ack() | Reject():
                self._queue(self._heard, bearer, frame)
            case _:
                raise Untrusted("that frame does not travel so")

    def _queue(
        self, queue: list[tuple[_Bearer, Frame | None]], bearer: _Bearer, what: Frame | None
    ) -> None:
        if len(queue) >= _ANSWERS:
            self._counters["carrier.dropped"] += 1
            return  # it comes again
        queue.append((bearer, what))
        self._wake.set()

    def answer(self, bearer: _Bearer, frame: Frame | None) -> None:
        """What a bearer brought has been dealt with; `frame` is for its sender."""
        self._queue(self._answers, bearer, frame)

    async def _work_off(
        self,
        queue: list[tuple[_Bearer, Frame | None]],
        work: Callable[[Key, Frame | None], Awaitable[None]],
    ) -> None:
        """Do what is queued, and only then tell the carrier that it has been kept."""
        while queue:
            bearer, frame = queue[0]
            await work(bearer.peer, frame)
            await bearer.kept()
            queue.pop(0)

    async def _send_answer(self, peer: Key, frame: Frame | None) -> None:
        if not isinstance(frame, Ack | Reject):
            return
        channel = self._links.best(peer)
        if channel is not None:
            # Lost if the link is: then the mail comes again, over it, and is known here.
            channel.send(frame)
            return
        # A message brings one envelope, so its answer names one.
        id_ = frame.ids[0] if isinstance(frame, Ack) else frame.id
        expires_at = self._clock() + _ANSWER_LIFETIME_S
        await self._deposit(peer, b"answer" + id_, frame, expires_at)

    async def _settle(self, peer: Key, frame: Frame | None) -> None:
        match frame:
            case Ack():
                await self._sender.acknowledged_apart(peer, _ids(frame.ids))
            case Reject():
                await self._sender.rejected(peer, EnvelopeId(frame.id), frame.reason)


class _Bearer:
    """What has brought one message, in the place of a channel: its answer goes the same way."""

    is_open = True
    peer = Key(b"")

    def __init__(self, carrying: Carrying, kept: Callable[[], Awaitable[None]]) -> None:
        self._carrying = carrying
        self.kept = kept

    def send(self, frame: Frame) -> None:
        self._carrying.answer(self, frame)

    send_along = send


def _ids(ids: Sequence[bytes]) -> list[EnvelopeId]:
    return [EnvelopeId(each) for each in ids]
