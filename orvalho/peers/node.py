"""The running peer, as everyone else uses it: durable mail, live talk, pairing."""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Final

import anyio
from anyio.abc import TaskGroup
from anyio.streams.memory import MemoryObjectReceiveStream

from orvalho.contexts.identity import Key, key_text
from orvalho.peers import codes, deposits, depot, frames, mailbox, outbox, pairing, tally
from orvalho.peers import envelope as envelopes
from orvalho.peers.admission import Admission
from orvalho.peers.blobs import Blobs, outgoing_name
from orvalho.peers.carrier import Carrying
from orvalho.peers.channel import Channel
from orvalho.peers.code_pairing import Shown
from orvalho.peers.codes import Code
from orvalho.peers.depots import Depots
from orvalho.peers.desk import Desk, Handler
from orvalho.peers.dispatch import Answerer, Dispatch, Hearer
from orvalho.peers.envelope import INLINE_BYTES, EnvelopeId
from orvalho.peers.frames import AnyFrame, Hello
from orvalho.peers.links import Links
from orvalho.peers.node_config import NodeConfig
from orvalho.peers.outbox import Outgoing
from orvalho.peers.pairing import Introduction, Paired, Ticket
from orvalho.peers.receiving import Fold, Receiver
from orvalho.peers.relay import SCHEME
from orvalho.peers.relaying import Relays
from orvalho.peers.routing import Path
from orvalho.peers.sending import Outcome, Sender
from orvalho.peers.staging import Staging
from orvalho.peers.sweeping import sweep
from orvalho.peers.tally import Box
from orvalho.peers.transfers import Transfers
from orvalho.peers.watching import PeerEvent, Watchers
from orvalho.transports.link import Listener

_log = logging.getLogger(__name__)

# For `open_store`.
MIGRATIONS: Final = (
    *(tally.MIGRATIONS, outbox.MIGRATIONS, mailbox.MIGRATIONS, pairing.MIGRATIONS),
    *(codes.MIGRATIONS, depot.MIGRATIONS, deposits.MIGRATIONS),
)


class Node:
    """Made by `open_node`. Everything runs on one event loop, but for `stage`."""

    def __init__(self, config: NodeConfig, tasks: TaskGroup) -> None:
        self.key: Final = config.signer.key
        self.addresses: tuple[str, ...] = ()
        self.listening: tuple[str, ...] = ()
        self._config = config
        self._tasks = tasks
        self._store = config.store
        self._blobs = Blobs(config.blobs)
        self._counters: Counter[str] = Counter()
        self._greeting = b""
        self._heirs: dict[Key, Key] = {}
        self._staging = Staging()
        self._watchers = Watchers(self._counters)
        self._admission = self._make_admission(config)
        self._dispatch = Dispatch(
            tasks=tasks,
            counters=self._counters,
            name_of=self._name_of,
            best=self._best,
            patience_s=config.timings.patience_s,
        )
        self._relays = Relays(self._dispatch, self._counters, config.relay, config.book)
        self._links = self._make_links(config)
        self._relays.links = self._links
        self._sender = self._make_sender()
        self._transfers = Transfers(
            store=config.store, blobs=self._blobs, tasks=tasks, counters=self._counters
        )
        self._desk = Desk(
            store=config.store,
            blobs=self._blobs,
            tasks=tasks,
            counters=self._counters,
            quota=config.quota,
            on_handled=self._handled,
        )
        self._receiver = Receiver(
            store=config.store,
            me=self.key,
            formerly=config.formerly,
            clock=config.clock,
            quota=config.quota,
            transfers=self._transfers,
            counters=self._counters,
            knows_kind=self._desk.knows,
            on_new=self._desk.accept,
            begin=self._desk.begin,
        )
        self.depots: Final = self._make_depots()
        self._carrying = self._make_carrying()
        self._online: set[Key] = set()

    def _make_links(self, config: NodeConfig) -> Links:
        return Links(
            signer=config.signer,
            noise_static=config.noise_static,
            catalog=config.catalog.extended(SCHEME, self._relays.transport),
            book=config.book,
            timings=config.timings,
            counters=self._counters,
            strangers=self._admission.strangers,
            on_pairing=self._admission.welcome,
            on_up=self._up,
            on_down=self._down,
            on_frame=self._take,
            relays=self._relays.addresses,
            succession=config.succession,
            heir=config.heir,
            on_succeeded=config.on_succeeded,
        )

    def _best(self, peer: Key) -> Channel | None:
        return self._links.best(peer)

    def _make_admission(self, config: NodeConfig) -> Admission:
        return Admission(
            store=config.store,
            me=self.key,
            clock=config.clock,
            introduce=self._introduction,
            check=config.check_certificate,
            on_paired=config.on_paired,
            counters=self._counters,
            port=config.pairing_port,
        )

    # ---- what we do when others speak -------------------------------------------------------

    def handle(self, kind: str, handler: Handler) -> None:
        """Durable mail of this kind goes to `await handler(envelope, delivery)`. It is done when
        the handler returns, or in the handler's own transaction by `delivery.done(connection)`.
        A handler may see an envelope again after a crash, or after it has raised."""
        self._desk.handle(kind, handler)

    def fold(self, kind: str, fold: Fold) -> None:
        """Durable mail of this kind is handled by `fold(envelope)(connection)` in the commit that
        would keep it, which saves another one; `handle` is still needed, for when it declines."""
        self._receiver.fold(kind, fold)

    def hear(self, kind: str, hearer: Hearer) -> None:
        """Tells of this kind go to `hearer(sender, body)`, in order; it must not block."""
        self._dispatch.hear(kind, hearer)

    def answer(self, kind: str, answerer: Answerer) -> None:
        """Asks of this kind are answered by `await answerer(sender, body)`; an OrvalhoError
        from it is raised at the asker's."""
        self._dispatch.answer(kind, answerer)

    # ---- durable mail -----------------------------------------------------------------------

    def stage(
        self,
        connection: sqlite3.Connection,
        to: Key,
        kind: str,
        body: bytes,
        *,
        expires_at: float,
        reply_to: bytes = b"",
        id: EnvelopeId | None = None,  # noqa: A002 -- it is what the field is called
    ) -> EnvelopeId:
        """Put an envelope into the outbox, inside the caller's transaction; any thread. It is
        sent by `flush` after the commit. A body over 64 KiB is written to a file here and now.

        Raises:
            InvalidInput, LimitExceeded: as `envelope.seal`; outbox-count, outbox-bytes.
            Conflict: an envelope of this `id` waits already.
        """
        now = self._config.clock()
        to = self._heirs.get(to, to)
        id_ = id or envelopes.new_id(now, os.urandom(10))
        is_apart = len(body) > INLINE_BYTES
        sealed = envelopes.seal(
            self._config.signer,
            id=id_,
            kind=kind,
            recipient=to,
            body=body,
            sent_at=now,
            expires_at=expires_at,
            reply_to=reply_to,
        )
        outgoing = Outgoing(
            id=id_,
            peer=to,
            kind=kind,
            sealed=sealed,
            size_bytes=len(body),
            is_apart=is_apart,
            expires_at=expires_at,
            body=body if is_apart else b"",
        )
        outbox.stage(connection, outgoing, self._config.quota)
        if is_apart:
            self._blobs.write(outgoing_name(id_), body)
        self._staging.put(outgoing)
        return id_

    def flush(self, to: Key, *ids: EnvelopeId) -> None:
        """Send what has been staged for a peer, once that is committed. Envelopes named in `ids`
        need not be read back from the outbox; naming one that was rolled back is a bug."""
        to = self._heirs.get(to, to)
        self._sender.release(to, self._staging.take(ids))
        self.depots.depositor.wake(to)
        if self._carrying:
            self._carrying.nudge()

    async def post(
        self,
        to: Key,
        kind: str,
        body: bytes,
        *,
        expires_at: float,
        reply_to: bytes = b"",
    ) -> EnvelopeId:
        """Stage and flush: the envelope is durable when this returns.

        Raises:
            InvalidInput, LimitExceeded, Unavailable: as `stage` and `Store.transact`.
        """
        work = partial(
            self.stage, to=to, kind=kind, body=body, expires_at=expires_at, reply_to=reply_to
        )
        id_ = await self._store.transact("outbox.stage", work)
        self.flush(to, id_)
        return id_

    async def delivered(self, id: EnvelopeId) -> Outcome:  # noqa: A002
        """Wait until it is known what became of an envelope of ours.

        Raises:
            NotFound: it is not in the outbox, and was not of late.
        """
        return await self._sender.wait_outcome(id)

    async def withdraw(self, id: EnvelopeId) -> bool:  # noqa: A002
        """Take back an envelope that has not been acknowledged; False when it is gone. It may
        have arrived without our knowing."""
        was_there = await self._sender.withdraw(id)
        self.depots.depositor.look()
        return was_there

    async def queued(self, peer: Key) -> int:
        """How many envelopes wait for a peer's acknowledgement."""
        held = await self._store.read(partial(tally.held, box=Box.OUTBOX, peer=peer))
        return max(0, held.count - self._sender.unsettled(peer))

    # ---- live talk --------------------------------------------------------------------------

    async def tell(self, to: Key, kind: str, body: bytes) -> bool:
        """Say something to a peer that is linked: False when it is not. It is heard once and in
        order; lost only when the last link is, and none follows within seconds.

        Raises:
            LimitExceeded: frame-bytes: over 16 MiB.
        """
        return await self._dispatch.tell(to, kind, body)

    async def ask(self, to: Key, kind: str, body: bytes, timeout_s: float) -> bytes:
        """Ask a peer that is linked. It is answered once, even if links are lost meanwhile.

        Raises:
            Unavailable: it is not linked, does not answer in time, or the last link is lost and
                none follows within seconds.
            LimitExceeded: frame-bytes: a question or an answer over 16 MiB.
            OrvalhoError: what its answerer raised, with `peer` set.
        """
        return await self._dispatch.ask(to, kind, body, timeout_s)

    # ---- who is there -----------------------------------------------------------------------

    def is_online(self, peer: Key) -> bool:
        return self._links.best(peer) is not None

    def paths(self, peer: Key) -> list[str]:
        """The open ways to a peer, best first: `direct 127.0.0.1:4455`, `relay "server"`."""
        return [str(path) for path in self._links.paths(peer)]

    def ways(self, peer: Key) -> list[Path]:
        """The same, with what is known of each."""
        return self._links.paths(peer)

    def unix_time(self, at: float) -> float:
        """A moment of the event loop's clock, such as a Path's, in Unix seconds."""
        return self._config.clock() - (asyncio.get_running_loop().time() - at)

    def rtt_s(self, peer: Key) -> float | None:
        """The round trip on the best way to a peer; None until it has been measured."""
        return next((path.rtt_s for path in self._links.paths(peer)), None)

    def problem(self, peer: Key) -> str | None:
        """Why the last attempt to dial a peer failed; None when none did."""
        return self._links.problem(peer)

    def is_refused_by(self, peer: Key) -> bool:
        """Whether the peer itself turned our key away when it was last dialled: it has forgotten
        us, and only pairing again helps."""
        return self._links.is_refused_by(peer)

    async def probe(self, address: str, peer: Key) -> float:
        """Prove keys with a peer at one address and hang up: how long that took, in seconds.

        Raises:
            Unavailable, InvalidInput, Untrusted: as `Links.probe`.
        """
        return await self._links.probe(address, peer)

    def watch(self) -> MemoryObjectReceiveStream[PeerEvent]:
        """Peers coming and going from now on: `with node.watch() as events: async for ...`. A
        watcher that falls 256 events behind misses some."""
        return self._watchers.watch()

    def refresh(self) -> None:
        """The book has changed: dial who is new, drop who is gone."""
        self._links.refresh()

    def nudge(self, *peers: Key) -> None:
        """There is a reason to dial these at once, if they are not linked."""
        self._links.nudge(*peers)

    def readvertise(self) -> bool:
        """This machine's addresses may have changed: tell the peers. False when they have not."""
        addresses = tuple(self._config.advertise(self.listening))
        if addresses == self.addresses:
            return False
        self.addresses = addresses
        self.set_greeting(self._greeting)
        return True

    async def forget(self, peer: Key) -> None:
        """The peer has left the book: drop it, and what waits for it."""
        self._links.refresh()
        self._dispatch.forget(peer)
        await self._sender.drop_peer(peer)
        await self.depots.drop_peer(peer)

    def move(self, old: Key, new: Key) -> None:
        """A peer has a new key, and `outbox.move` is committed: what is staged for the old one
        goes to the new one from now on."""
        self._heirs = {k: new if heir == old else heir for k, heir in self._heirs.items()}
        self._heirs[old] = new
        self._sender.leave(old)
        self._links.refresh()

    async def give_up(self, peer: Key, reason: str) -> None:
        """Give up what waits for a peer; `on_undelivered` is told of each."""
        await self._sender.give_up_peer(peer, reason)

    def set_greeting(self, greeting: bytes) -> None:
        """What peers are told of those above us, when they link and whenever it changes."""
        self._greeting = greeting
        for peer in self._links.online():
            channel = self._links.best(peer)
            if channel is not None:
                channel.send(self._hello(peer))

    def statistics(self) -> dict[str, int]:
        """Counters since the start: handshakes refused, frames and envelopes refused, each by
        its reason; and how many peers are online."""
        return {**self._counters, "peers.online": len(self._links.online())}

    # ---- pairing ----------------------------------------------------------------------------

    async def invite(self, *, lifetime_s: float, is_guest: bool) -> Ticket:
        """A ticket that one node may redeem once; `pairing.format_ticket` writes it as text."""
        return await self._admission.invite(lifetime_s=lifetime_s, is_guest=is_guest)

    async def uninvite(self, ticket: Ticket) -> bool:
        """Withdraw a ticket; False when it has been used."""
        return await self._admission.withdraw(ticket)

    async def redeem(self, ticket: Ticket) -> Paired:
        """Pair with the node that made the ticket; the caller puts it into the trust book, then
        calls `refresh`.

        Raises:
            Unavailable: it cannot be reached.
            Untrusted: the ticket is expired, used or unknown there, or a certificate is wrong.
            OrvalhoError: what its side raised, with `peer` set.
        """
        return await self._admission.redeem(self._links, ticket)

    def show_code(self, *, lifetime_s: float, is_guest: bool) -> AbstractAsyncContextManager[Shown]:
        """A short code that one node may type, good for the length of the block at most, and
        what becomes of it."""
        return self._admission.show(lifetime_s=lifetime_s, is_guest=is_guest)

    async def join(self, code: Code, at: Sequence[str] = ()) -> Paired:
        """Pair with the node that shows a code, at one of these addresses or on the local
        network; the caller puts it into the trust book, then calls `refresh`.

        Raises:
            Unavailable: nobody shows it, or it cannot be reached.
            Untrusted: the code is wrong, or good no more.
            OrvalhoError: what its side raised, with `peer` set.
        """
        return await self._admission.join(self._links, code, at)

    # ---- inside -----------------------------------------------------------------------------

    def _make_carrying(self) -> Carrying | None:
        config = self._config
        if config.carrier is None:
            return None
        return Carrying(
            config.carrier,
            signer=config.signer,
            formerly=config.formerly,
            store=config.store,
            book=config.book,
            links=self._links,
            sender=self._sender,
            receiver=self._receiver,
            clock=config.clock,
            counters=self._counters,
        )

    async def load(self) -> None:
        """Learn what an earlier run left; for `open_node`."""
        await self._admission.load()

    def listen(self, address: str) -> AbstractAsyncContextManager[Listener]:
        """Welcome links at an address for the length of the block; for `open_node`."""
        return self._links.listen(address)

    async def finish(self) -> None:
        """Write down what is not yet; for `open_node`."""
        with anyio.CancelScope(shield=True):
            await self._sender.flush_acknowledged()
        self._watchers.close()

    async def run(self, ready: asyncio.Event) -> None:
        """Work, once `ready`; for `open_node`."""
        await ready.wait()
        await self._desk.resume()
        self._tasks.start_soon(self._receiver.commit)
        self._tasks.start_soon(self._sender.settle)
        self._tasks.start_soon(self._sweep)
        self._tasks.start_soon(self._admission.codes.answer)
        self._tasks.start_soon(self.depots.depositor.run)
        if self._carrying:
            self._tasks.start_soon(self._carrying.run)
        await self._links.run()

    async def _sweep(self) -> None:
        await sweep(
            store=self._store,
            blobs=self._blobs,
            sender=self._sender,
            keeper=self.depots.keeper,
            clock=self._config.clock,
            pause_s=self._config.sweep_s,
        )

    def _up(self, channel: Channel) -> None:
        peer = channel.peer
        self._dispatch.up(channel)
        channel.send(self._hello(peer))
        self._sender.up(peer)
        self.depots.up(channel)
        self._relays.up(channel)
        if peer not in self._online:
            self._online.add(peer)
            self._tell_watchers(channel, is_online=True)

    def _down(self, channel: Channel) -> None:
        peer = channel.peer
        self._dispatch.down(channel)
        self._relays.down(channel)
        self._transfers.lost(channel)
        self._sender.down(channel)
        self.depots.down(channel)
        if self._links.best(peer) is None and peer in self._online:
            self._online.discard(peer)
            self._tell_watchers(channel, is_online=False)

    def _tell_watchers(self, channel: Channel, *, is_online: bool) -> None:
        self._watchers.tell(
            PeerEvent(channel.peer, is_online, str(channel.path), self._config.clock())
        )

    def _take(self, channel: Channel, frame: AnyFrame) -> None:
        match frame:
            case frames.Mail():
                self._receiver.take(channel, frame)
            case frames.Ack():
                self._sender.acknowledged(channel.peer, frame.ids)
            case (
                frames.Tell()
                | frames.Ask()
                | frames.Reply()
                | frames.Fail()
                | frames.Cancel()
                | frames.Heard()
            ):
                self._dispatch.take(channel, frame)
            case frames.GetBlob():
                self._transfers.serve(channel, frame)
            case frames.BlobPart():
                self._transfers.arrived(channel, frame)
            case frames.Reject():
                self._tasks.start_soon(
                    self._sender.rejected, channel.peer, EnvelopeId(frame.id), frame.reason
                )
            case Hello():
                for stale in self._dispatch.greeted(channel, frame.boot):
                    stale.close()
                self._tasks.start_soon(self._greet, channel.peer, frame)
            case _:
                self._counters["frames.unknown"] += 1

    def _handled(self, id_: EnvelopeId) -> None:
        self._receiver.handled(id_)

    async def _greet(self, peer: Key, hello: Hello) -> None:
        try:
            await self._config.on_greeting(peer, hello)
        except Exception:  # noqa: BLE001 -- the top of a handler
            _log.exception("greeting.failed", extra={"peer": self._name_of(peer)})

    def _make_sender(self) -> Sender:
        config = self._config
        return Sender(
            store=config.store,
            blobs=self._blobs,
            links=self._links,
            tasks=self._tasks,
            counters=self._counters,
            on_undelivered=config.on_undelivered,
            resend_after_s=config.resend_after_s,
            resend_limit_s=config.resend_limit_s,
        )

    def _make_depots(self) -> Depots:
        config = self._config
        return Depots(
            store=config.store,
            blobs=self._blobs,
            tasks=self._tasks,
            counters=self._counters,
            signer=config.signer,
            formerly=config.formerly,
            clock=config.clock,
            terms=config.depot,
            book=config.book,
            links=self._links,
            dispatch=self._dispatch,
            ask=self.ask,
            sender=self._sender,
            receiver=self._receiver,
            desk=self._desk,
            stage=self._stage_letter,
            flush=self.flush,
        )

    def _stage_letter(
        self, connection: sqlite3.Connection, to: Key, kind: str, body: bytes, expires_at: float
    ) -> EnvelopeId:
        return self.stage(connection, to, kind, body, expires_at=expires_at)

    def _hello(self, peer: Key) -> Hello:
        return Hello(
            name=self._config.name,
            addresses=self.addresses,
            greeting=self._greeting,
            boot=self._dispatch.boot(peer),
        )

    def _introduction(self) -> Introduction:
        return Introduction(
            name=self._config.name,
            owner_key=self._config.owner_key,
            certificate=self._config.certificate,
            addresses=self.addresses,
            greeting=self._greeting,
        )

    def _name_of(self, peer: Key) -> str:
        return self._config.book.name(peer) or key_text(peer)
