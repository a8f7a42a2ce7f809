"""The running peer, as everyone else uses it: durable mail, live talk, pairing."""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path as FilePath
from typing import Final

import anyio
from anyio import to_thread
from anyio.abc import TaskGroup
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from orvalho.contexts.identity import Key, Signer, key_text
from orvalho.errors import Unavailable
from orvalho.peers import envelope as envelopes
from orvalho.peers import mailbox, outbox, pairing, tally
from orvalho.peers.admission import Admission, OnPaired
from orvalho.peers.blobs import Blobs, incoming_name, outgoing_name
from orvalho.peers.channel import Channel
from orvalho.peers.desk import Desk, Handler
from orvalho.peers.dispatch import Answerer, Dispatch, Hearer
from orvalho.peers.envelope import INLINE_BYTES, EnvelopeId
from orvalho.peers.frames import (
    Ack,
    AnyFrame,
    Ask,
    BlobPart,
    Cancel,
    Fail,
    GetBlob,
    Hello,
    Mail,
    Reject,
    Reply,
    Tell,
)
from orvalho.peers.links import Links, PeerBook, Timings
from orvalho.peers.outbox import Outgoing
from orvalho.peers.pairing import CheckCertificate, Introduction, Paired, Ticket
from orvalho.peers.receiving import Fold, Receiver
from orvalho.peers.sending import OnUndelivered, Outcome, Sender
from orvalho.peers.staging import Staging
from orvalho.peers.tally import Box, Quota
from orvalho.peers.transfers import Transfers
from orvalho.store import Store
from orvalho.transports.catalog import Catalog
from orvalho.transports.link import Listener

_log = logging.getLogger(__name__)

# For `open_store`.
MIGRATIONS: Final = (tally.MIGRATIONS, outbox.MIGRATIONS, mailbox.MIGRATIONS, pairing.MIGRATIONS)

_WATCHED_EVENTS: Final = 256


@dataclass(frozen=True, slots=True)
class PeerEvent:
    """A peer came within reach, or went out of it. `at` is in Unix seconds."""

    peer: Key
    is_online: bool
    path: str
    at: float


# Called when a peer says who it is: its key, and its Hello.
OnGreeting = Callable[[Key, Hello], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """What a node is made of. `certificate` is the owner's word for `name` and the signer's
    key; `blobs` a directory of the node's own; addresses are URLs of `catalog`.

    `on_undelivered` runs inside the transaction that gives an envelope up, on the store's
    thread; the others on the event loop.
    """

    name: str
    signer: Signer
    noise_static: bytes
    owner_key: Key
    certificate: bytes
    listen: Sequence[str]
    # Where others should dial, if not just where we listen (0.0.0.0 is no address to dial).
    advertise: Callable[[Sequence[str]], Sequence[str]]
    store: Store
    blobs: FilePath
    book: PeerBook
    check_certificate: CheckCertificate
    on_greeting: OnGreeting
    on_paired: OnPaired
    on_undelivered: OnUndelivered
    catalog: Catalog = field(default_factory=Catalog)
    quota: Quota = field(default_factory=Quota)
    timings: Timings = field(default_factory=Timings)
    resend_after_s: float = 5.0
    resend_limit_s: float = 60.0
    sweep_s: float = 2.0
    clock: Callable[[], float] = time.time


class Node:
    """Made by `open_node`. Everything runs on one event loop, but for `stage`."""

    def __init__(self, config: NodeConfig, tasks: TaskGroup) -> None:
        self.key: Final = config.signer.key
        self.addresses: tuple[str, ...] = ()
        self._config = config
        self._tasks = tasks
        self._store = config.store
        self._blobs = Blobs(config.blobs)
        self._counters: Counter[str] = Counter()
        self._greeting = b""
        self._staging = Staging()
        self._watchers: list[MemoryObjectSendStream[PeerEvent]] = []
        self._admission = Admission(
            store=config.store,
            me=self.key,
            clock=config.clock,
            introduce=self._introduction,
            check=config.check_certificate,
            on_paired=config.on_paired,
            counters=self._counters,
        )
        self._links = Links(
            signer=config.signer,
            noise_static=config.noise_static,
            catalog=config.catalog,
            book=config.book,
            timings=config.timings,
            counters=self._counters,
            strangers=self._admission.strangers,
            on_pairing=self._admission.welcome,
            on_up=self._up,
            on_down=self._down,
            on_frame=self._take,
        )
        self._sender = Sender(
            store=config.store,
            blobs=self._blobs,
            links=self._links,
            tasks=tasks,
            counters=self._counters,
            on_undelivered=config.on_undelivered,
            resend_after_s=config.resend_after_s,
            resend_limit_s=config.resend_limit_s,
        )
        self._transfers = Transfers(
            store=config.store, blobs=self._blobs, tasks=tasks, counters=self._counters
        )
        self._desk = Desk(
            store=config.store, blobs=self._blobs, tasks=tasks, counters=self._counters
        )
        self._receiver = Receiver(
            store=config.store,
            me=self.key,
            clock=config.clock,
            quota=config.quota,
            transfers=self._transfers,
            counters=self._counters,
            knows_kind=self._desk.knows,
            on_new=self._desk.accept,
        )
        self._dispatch = Dispatch(tasks=tasks, counters=self._counters, name_of=self._name_of)

    # ---- what we do when others speak -------------------------------------------------------

    def handle(self, kind: str, handler: Handler) -> None:
        """Durable mail of this kind goes to `await handler(envelope, delivery)`. It is done when
        the handler returns, or in the handler's own transaction by `delivery.done(connection)`.
        A handler may see an envelope again after a crash, or after it has raised."""
        self._desk.handle(kind, handler)

    def fold(self, kind: str, fold: Fold) -> None:
        """Durable mail of this kind is handled by `fold(connection, envelope)` in the commit that
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
        self._sender.release(to, self._staging.take(ids))

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
        return await self._sender.withdraw(id)

    async def queued(self, peer: Key) -> int:
        """How many envelopes wait for a peer's acknowledgement."""
        held = await self._store.read(partial(tally.held, box=Box.OUTBOX, peer=peer))
        return max(0, held.count - self._sender.unsettled(peer))

    # ---- live talk --------------------------------------------------------------------------

    async def tell(self, to: Key, kind: str, body: bytes) -> bool:
        """Say something to a peer that is linked: False when it is not. It may be lost."""
        channel = self._links.best(to)
        if channel is None:
            return False
        try:
            await channel.room()
        except Unavailable:
            return False
        channel.send(Tell(kind=kind, body=body))
        return True

    async def ask(self, to: Key, kind: str, body: bytes, timeout_s: float) -> bytes:
        """Ask a peer that is linked.

        Raises:
            Unavailable: it is not, does not answer in time, or the link is lost.
            LimitExceeded: frame-bytes: a question or an answer over 16 MiB.
            OrvalhoError: what its answerer raised, with `peer` set.
        """
        channel = self._links.best(to)
        if channel is None:
            name = self._name_of(to)
            raise Unavailable(f"{name} is not reachable now", where=name, hint="orvalho peer ls")
        return await self._dispatch.ask(channel, kind, body, timeout_s)

    # ---- who is there -----------------------------------------------------------------------

    def is_online(self, peer: Key) -> bool:
        return self._links.best(peer) is not None

    def paths(self, peer: Key) -> list[str]:
        """The open ways to a peer, best first: `direct 127.0.0.1:4455`."""
        return [str(path) for path in self._links.paths(peer)]

    def rtt_s(self, peer: Key) -> float | None:
        """The round trip on the best way to a peer; None until it has been measured."""
        paths = self._links.paths(peer)
        return paths[0].rtt_s if paths else None

    def problem(self, peer: Key) -> str | None:
        """Why the last attempt to dial a peer failed; None when none did."""
        return self._links.problem(peer)

    def is_refused_by(self, peer: Key) -> bool:
        """Whether the peer itself turned our key away when it was last dialled: it has forgotten
        us, and only pairing again helps."""
        return self._links.is_refused_by(peer)

    def nudge(self, peer: Key) -> None:
        """There is a reason to try now to reach a peer, if it is not reached."""
        self._links.nudge(peer)

    async def probe(self, address: str, peer: Key) -> float:
        """Prove keys with a peer at one address and hang up: how long that took, in seconds.

        Raises:
            Unavailable, InvalidInput, Untrusted: as `Links.probe`.
        """
        return await self._links.probe(address, peer)

    def watch(self) -> MemoryObjectReceiveStream[PeerEvent]:
        """Peers coming and going from now on: `with node.watch() as events: async for ...`. A
        watcher that falls 256 events behind misses some."""
        send, receive = anyio.create_memory_object_stream[PeerEvent](_WATCHED_EVENTS)
        self._watchers.append(send)
        return receive

    def refresh(self) -> None:
        """The book has changed: dial who is new, drop who is gone."""
        self._links.refresh()

    async def forget(self, peer: Key) -> None:
        """The peer has left the book: drop it, and what waits for it."""
        self._links.refresh()
        await self._sender.drop_peer(peer)

    def set_greeting(self, greeting: bytes) -> None:
        """What peers are told of those above us, when they link and whenever it changes."""
        self._greeting = greeting
        for peer in self._links.online():
            channel = self._links.best(peer)
            if channel is not None:
                channel.send(self._hello())

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

    # ---- inside -----------------------------------------------------------------------------

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
        for watcher in self._watchers:
            watcher.close()
        self._watchers.clear()

    async def run(self, ready: asyncio.Event) -> None:
        """Work, once `ready`; for `open_node`."""
        await ready.wait()
        await self._desk.resume()
        self._tasks.start_soon(self._receiver.commit)
        self._tasks.start_soon(self._sender.settle)
        self._tasks.start_soon(self._sweep)
        await self._links.run()

    async def _sweep(self) -> None:
        swept_blobs_at = 0.0
        while True:
            now = self._config.clock()
            await self._sender.expire(now)
            self._sender.resend()
            if now - swept_blobs_at > 600:
                swept_blobs_at = now
                self._store.transact_soon("mailbox.forget", partial(mailbox.forget, now=now))
                needed = await self._store.read(_files)
                await to_thread.run_sync(self._blobs.sweep, needed, now)
            await anyio.sleep(self._config.sweep_s)

    def _up(self, channel: Channel) -> None:
        is_first = len(self._links.paths(channel.peer)) == 1
        self._dispatch.up(channel)
        channel.send(self._hello())
        self._sender.up(channel.peer)
        if is_first:
            self._tell_watchers(channel, is_online=True)

    def _down(self, channel: Channel) -> None:
        self._dispatch.down(channel)
        self._transfers.lost(channel.peer)
        self._sender.down(channel.peer)
        if not self._links.paths(channel.peer):
            self._tell_watchers(channel, is_online=False)

    def _tell_watchers(self, channel: Channel, *, is_online: bool) -> None:
        event = PeerEvent(channel.peer, is_online, str(channel.path), self._config.clock())
        for watcher in list(self._watchers):
            try:
                watcher.send_nowait(event)
            except anyio.WouldBlock:
                self._counters["watchers.slow"] += 1
            except anyio.BrokenResourceError:
                watcher.close()
                self._watchers.remove(watcher)

    def _take(self, channel: Channel, frame: AnyFrame) -> None:
        match frame:
            case Mail():
                self._receiver.take(channel, frame)
            case Ack():
                self._sender.acknowledged(channel.peer, frame.ids)
            case Tell() | Ask() | Reply() | Fail() | Cancel():
                self._dispatch.take(channel, frame)
            case GetBlob():
                self._transfers.serve(channel, frame)
            case BlobPart():
                self._transfers.arrived(channel, frame)
            case Reject():
                self._tasks.start_soon(
                    self._sender.rejected, channel.peer, EnvelopeId(frame.id), frame.reason
                )
            case Hello():
                self._tasks.start_soon(self._greet, channel.peer, frame)
            case _:
                self._counters["frames.unknown"] += 1

    async def _greet(self, peer: Key, hello: Hello) -> None:
        try:
            await self._config.on_greeting(peer, hello)
        except Exception:  # noqa: BLE001 -- the top of a handler
            _log.exception("greeting.failed", extra={"peer": self._name_of(peer)})

    def _hello(self) -> Hello:
        return Hello(name=self._config.name, addresses=self.addresses, greeting=self._greeting)

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


def _files(connection: sqlite3.Connection) -> set[str]:
    """The files that rows need."""
    ours = {outgoing_name(id_) for id_ in outbox.apart(connection)}
    return ours | {incoming_name(sender, id_) for sender, id_ in mailbox.apart(connection)}


@asynccontextmanager
async def open_node(config: NodeConfig) -> AsyncIterator[Node]:
    """A running node; leaving the block stops all that it started.

    It listens from the start, but nothing is heard or sent before the block first waits: what is
    registered until then by `handle`, `hear` and `answer` misses nothing.

    Raises:
        InvalidInput, Unavailable: an address to listen on is none, or is taken.
    """
    ready = asyncio.Event()
    async with anyio.create_task_group() as tasks:
        node = Node(config, tasks)
        await node.load()
        async with AsyncExitStack() as stack:
            listeners = [
                await stack.enter_async_context(node.listen(address)) for address in config.listen
            ]
            node.addresses = tuple(config.advertise([each.address for each in listeners]))
            tasks.start_soon(node.run, ready)
            asyncio.get_running_loop().call_soon(ready.set)
            try:
                yield node
            finally:
                await node.finish()
                tasks.cancel_scope.cancel()
