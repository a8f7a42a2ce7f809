"""The network as this node knows it: who there is, in which state, with which labels; what
follows from what other nodes say (addresses, introductions, revocations); and what we say."""

from __future__ import annotations

import contextlib
import logging
import platform
import random
import sys
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import anyio
from msgspec.structs import replace

from orvalho.contexts.context import Contexts
from orvalho.contexts.identity import Identity, Key, certify, key_text
from orvalho.contexts.refused import Refusal, RefusedKeys
from orvalho.contexts.trust import ContextEntry, Peer, TrustBook
from orvalho.daemon.node_view import NodeView, State, view_of
from orvalho.daemon.settings import Config
from orvalho.errors import Conflict, InvalidInput, OrvalhoError
from orvalho.peers import gossip, records
from orvalho.peers.gossip import Gossip, Outgoing
from orvalho.peers.node import Node
from orvalho.peers.pairing import CheckCertificate
from orvalho.peers.records import Kind, NamedKey, Record, Revocation, Sight, Statement, Vouch
from orvalho.peers.sights import Sights
from orvalho.policies.quota import parse_duration
from orvalho.store import Store

_log = logging.getLogger(__name__)

REVOKED: Final = "mesh.revoked"
# What happens at once is told at once, in one message.
_DEBOUNCE_S: Final = 0.03
_FAN_OUT: Final = 8
_DIGESTS: Final = 2
_QUEUE: Final = 1024
_SEND_S: Final = 1.0
_SHORTEST_ROUND_S: Final = 0.2
# Sights are numbered by how often we have started, then by how many we have made since.
_START_BITS: Final = 24


@dataclass(slots=True)
class _Said:
    """What we last said of ourselves, without its number and date."""

    record: Record | None = None
    links: frozenset[Key] | None = None
    sights: int = 0


@dataclass(slots=True, kw_only=True)
class MeshParts:
    """What a mesh is made of. `part` drops a peer, and all that is under way with it."""

    identity: Identity
    store: Store
    trust: TrustBook
    refused: RefusedKeys
    node: Node
    contexts: Contexts
    config: Callable[[], Config]
    check: CheckCertificate
    part: Callable[[Peer], Awaitable[None]]
    counters: Counter[str] = field(default_factory=Counter)


class Mesh:
    """`load` it, then `run` it. All on the event loop."""

    def __init__(self, parts: MeshParts) -> None:
        self._parts = parts
        self._me = parts.identity.node.key
        self._gossip = Gossip(
            self._me,
            check=parts.check,
            is_refused=lambda key: key in parts.refused,
            owner_of=self._owner_of,
            counters=parts.counters,
        )
        self._sights = Sights(self._me, self._interval_s, anyio.current_time())
        self._said = _Said()
        self._own: frozenset[Key] = frozenset()
        self._linked: frozenset[Key] = frozenset()
        self._unheeded: dict[tuple[Kind, Key], Statement] = {}
        self._queue: deque[Outgoing] = deque()
        self._wake = anyio.Event()
        self._clashes: dict[Key, str] = {}
        self._revoked_by: dict[Key, str] = {}
        # Called when what we say, or whom we listen to, may have changed.
        self.on_step: Callable[[], None] = lambda: None
        parts.node.hear(gossip.DIGEST, partial(self._hear, gossip.DIGEST))
        parts.node.hear(gossip.RECORDS, partial(self._hear, gossip.RECORDS))
        parts.node.answer(REVOKED, self._hear_revoked)

    # ---- what others ask --------------------------------------------------------------------

    def labels_of(self, key: Key) -> frozenset[str]:
        """The labels and capabilities of a node, `key=value` each, as it says itself; empty for a
        node that we have no record of."""
        record = self._gossip.records.get(key)
        return frozenset((*record.labels, *record.capabilities)) if record else frozenset()

    def state_of(self, key: Key) -> State:
        """Whether the node is there: seen by us, or by others that are seen."""
        if self._parts.refused.revoked(key):
            return "revoked"
        return self._sights.state(key, anyio.current_time())

    def nodes(self) -> list[NodeView]:
        """Every node we know of, this one first, then by name."""
        parts = self._parts
        views = [self._view_of_peer(peer) for peer in parts.trust.peers()]
        known = {view.key for view in views} | {self._me}
        views += [
            self._view_of_other(key, record)
            for key, record in self._gossip.records.items()
            if key not in known
        ]
        known |= {view.key for view in views}
        views += [
            self._view_of_revoked(each)
            for each in parts.refused.in_force()
            if each.why == "revoked" and each.node_key not in known
        ]
        unique = {view.key: view for view in views}
        return [self._view_of_us(), *sorted(unique.values(), key=lambda view: view.name)]

    def problems(self) -> list[tuple[str, str]]:
        """What the owner should settle: the text, and the command that helps."""
        found = [(text, "orvalho peer rename NAME NEW") for text in self._clashes.values()]
        found += [
            (f"{name} has revoked this device: it refuses our key", f"on {name}: orvalho nodes")
            for name in self._revoked_by.values()
        ]
        return found

    def is_revoked_by(self, node_key: Key) -> bool:
        """Whether this very device was revoked there, as far as we have heard."""
        return node_key in self._revoked_by

    def statistics(self) -> dict[str, int]:
        return {**self._parts.counters, "mesh.nodes": len(self._gossip.records)}

    # ---- records that lie on a server -------------------------------------------------------

    @property
    def me(self) -> Key:
        return self._me

    def own_record(self) -> bytes | None:
        """Our own record as it is now, signed; None before the first step."""
        held = self._gossip.statement(Kind.RECORD, self._me)
        return held.blob if held and self._said.record else None

    def listened_to(self) -> frozenset[Key]:
        return self._gossip.listened_to()

    def learn(self, blobs: Sequence[bytes]) -> None:
        """Records that lay on a NATS server; judged like those that peers tell."""
        self._gossip.learn(blobs)
        self._wake.set()

    # ---- what the owner does ----------------------------------------------------------------

    def stir(self) -> None:
        """Something that we say of ourselves, or whom we trust, may have changed."""
        self._wake.set()

    async def revoke(self, peer: Peer) -> None:
        """Refuse this peer's key from now on, and have our own devices refuse it."""
        # It is told first, over the link that is about to go: it could only guess later.
        with contextlib.suppress(OrvalhoError):
            await self._parts.node.ask(peer.node_key, REVOKED, b"", _SEND_S)
        at = self._parts.refused.next_at(peer.node_key, self._me, time.time())
        refusal = Refusal(
            node_key=peer.node_key,
            by_key=self._me,
            why="revoked",
            name=peer.name,
            by_name="this node",
            at=at,
            owner_key=peer.owner_key,
        )
        await self._refuse(refusal)

    # ---- the work ---------------------------------------------------------------------------

    async def load(self) -> None:
        """Take up what an earlier run kept."""
        store = self._parts.store
        starts = await store.transact("mesh.start", records.count_start)
        self._said.sights = starts << _START_BITS
        self._gossip.restore(await store.read(records.kept))
        self._gossip.trust(self._own_peers())
        # An earlier run may have ended between the refusal and the parting.
        for peer in self._parts.trust.peers():
            if self._parts.refused.refuses(peer.node_key, peer.owner_key):
                await self._parts.part(peer)

    async def run(self) -> None:
        """Gossip, until cancelled."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._see_links)
            round_at = anyio.current_time()
            while True:
                with anyio.move_on_after(max(0.0, round_at - anyio.current_time())):
                    await self._wake.wait()
                self._wake = anyio.Event()
                is_due = anyio.current_time() >= round_at
                try:
                    await self._step(is_due=is_due)
                except Exception:  # noqa: BLE001 -- the top of a task that must go on
                    _log.exception("gossip.failed")
                if is_due:
                    # Spread out, so that nodes which started together do not speak together.
                    share = 0.8 + 0.4 * random.random()  # noqa: S311 -- it spreads, no more
                    round_at = anyio.current_time() + self._interval_s * share
                await anyio.sleep(_DEBOUNCE_S)

    async def _see_links(self) -> None:
        with self._parts.node.watch() as events:
            async for _ in events:
                self._wake.set()

    async def _step(self, *, is_due: bool) -> None:
        now = anyio.current_time()
        self._sights.interval_s = self._interval_s
        await self._trust()
        self._meet(now)
        await self._heed(now)
        await self._say()
        some = self._some(_FAN_OUT)
        self._queue.extend(self._gossip.spread(some))
        if is_due:
            self._queue.extend(self._gossip.round(self._some(_DIGESTS)))
        await self._send()
        self.on_step()

    async def _trust(self) -> None:
        own = frozenset(self._own_peers())
        self._gossip.trust(own)
        # What a node said before we trusted it counts from now on.
        for key in own - self._own:
            if (peer := self._parts.trust.by_key(key)) and key in self._gossip.records:
                for revocation in self._gossip.records[key].revocations:
                    await self._heed_revocation(peer, revocation)
        self._own = own

    def _meet(self, now: float) -> None:
        """Who is linked now, and who is no more?"""
        node = self._parts.node
        peers = self._parts.trust.peers()
        online = [peer for peer in peers if node.is_online(peer.node_key)]
        linked = frozenset(peer.node_key for peer in online if peer.relation == "own")
        for key in self._linked - linked:
            self._gossip.down(key)
        for key in linked - self._linked:
            self._queue.extend(self._gossip.up(key))
            self._revoked_by.pop(key, None)
        self._linked = linked
        self._sights.linked([peer.node_key for peer in online], now)

    async def _heed(self, now: float) -> None:
        """Draw the conclusions from what was accepted."""
        # What we heard of the same node last is what holds. Nothing is let go of before all that
        # follows from it is done: a full disk must not swallow a revocation.
        latest = self._unheeded
        latest.update({(each.kind, each.node_key): each for each in self._gossip.take_accepted()})
        for kind, key in latest:
            if kind is Kind.SIGHT and (sight := self._gossip.sights.get(key)):
                self._sights.told(key, sight.links, now)
            elif record := self._gossip.records.get(key):
                await self._heed_record(key, record)
        await self._introduce()
        kept = [each for each in latest.values() if each.kind is Kind.RECORD]
        if kept:
            self._parts.store.transact_soon("record.keep", partial(records.keep, statements=kept))
        self._unheeded = {}
        if gone := self._gossip.take_dropped():
            for key in gone:
                self._sights.forget(key, now)
            self._parts.store.transact_soon("record.drop", partial(records.drop, keys=gone))

    async def _heed_record(self, key: Key, record: Record) -> None:
        parts = self._parts
        peer = parts.trust.by_key(key)
        if peer is None or peer.relation != "own":
            return
        # Who is linked has told us itself, and later than any record that came round about.
        if not parts.node.is_online(key):
            await parts.trust.update_addresses(key, record.addresses)
            await parts.trust.update_contexts(key, _entries(record))
            parts.node.nudge(key)
        for revocation in record.revocations:
            await self._heed_revocation(peer, revocation)

    async def _heed_revocation(self, by: Peer, revocation: Revocation) -> None:
        key = Key(revocation.node_key)
        if key == self._me:
            self._revoked_by[by.node_key] = by.name
            return
        refused = self._parts.refused
        if key == by.node_key or not refused.is_news(key, by.node_key, revocation.at):
            return
        known = self._parts.trust.by_key(key)
        record = self._gossip.records.get(key)
        name = known.name if known else record.name if record else key_text(key)
        _log.warning("peer.revoked", extra={"peer": name, "by": by.name})
        owner = revocation.owner_key or (known.owner_key if known else b"")
        if owner in (by.owner_key, self._parts.identity.owner.key):
            owner = b""  # nobody speaks for the homes of others' owners, nor for ours
        refusal = Refusal(
            node_key=key,
            by_key=by.node_key,
            why="revoked",
            name=name,
            by_name=by.name,
            at=revocation.at,
            owner_key=Key(owner) if owner else None,
        )
        await self._refuse(refusal)

    async def _refuse(self, refusal: Refusal) -> None:
        # First the refusal: a crash after it leaves a peer that is refused, not one that is not.
        await self._parts.refused.add(refusal)
        for peer in self._parts.trust.peers():
            if self._parts.refused.refuses(peer.node_key, peer.owner_key):
                await self._parts.part(peer)
        self._gossip.trust(self._own_peers())
        self._wake.set()

    async def _introduce(self) -> None:
        """Take over the own peers of those that may introduce."""
        trust, refused = self._parts.trust, self._parts.refused
        self._clashes.clear()
        for introducer in trust.peers():
            record = self._gossip.records.get(introducer.node_key)
            if not introducer.is_introducer or record is None:
                continue
            for vouch in record.vouches:
                key = Key(vouch.node_key)
                theirs = self._gossip.records.get(key)
                if key == self._me or trust.by_key(key) or theirs is None:
                    continue
                if refused.refuses(key, Key(vouch.owner_key)):
                    continue
                if theirs.owner_key == vouch.owner_key:
                    await self._take_over(introducer, key, theirs)

    async def _take_over(self, introducer: Peer, key: Key, record: Record) -> None:
        peer = Peer(
            node_key=key,
            name=record.name,
            owner_key=Key(record.owner_key),
            relation="own",
            addresses=record.addresses,
            contexts=_entries(record),
            added_at=time.time(),
            introduced=f"introduced by {introducer.name}",
        )
        try:
            if record.name == self._parts.config().name:
                raise Conflict("this node has that name")
            await self._parts.trust.add(peer)
        except (Conflict, InvalidInput):
            self._clashes[key] = (
                f'{introducer.name} introduces a node "{record.name}" ({key_text(key)}),'
                " but another one is called so here"
            )
            return
        _log.info("peer.introduced", extra={"peer": peer.name, "by": introducer.name})
        self._parts.node.refresh()
        self._wake.set()

    # ---- what we say ------------------------------------------------------------------------

    async def _say(self) -> None:
        signer = self._parts.identity.node
        record = self._record()
        if record != self._said.record or self._gossip.is_behind(Kind.RECORD):
            if not self._holds(record) or self._gossip.is_behind(Kind.RECORD):
                dated = replace(record, issued_at=time.time())
                seq = self._gossip.seq(Kind.RECORD) + 1
                statement = records.sign_record(signer, seq, dated)
                # Kept before it is said: a number that was said once is never given again.
                keep = partial(records.keep, statements=[statement])
                await self._parts.store.transact("record.keep", keep)
                self._say_one(statement)
            self._said.record = record
        if self._linked != self._said.links or self._gossip.is_behind(Kind.SIGHT):
            self._said.links = self._linked
            self._said.sights = max(self._said.sights, self._gossip.seq(Kind.SIGHT)) + 1
            some = sorted(self._linked)[: records.MAX_LINKS]
            sight = Sight(links=tuple(records.short_key(key) for key in some))
            self._say_one(records.sign_sight(signer, self._said.sights, sight))

    def _say_one(self, statement: Statement) -> None:
        if len(statement.blob) > records.LIMIT_BYTES[statement.kind]:
            _log.error("record.too-large", extra={"bytes": len(statement.blob)})
            return
        self._gossip.say(statement)

    def _holds(self, record: Record) -> bool:
        held = self._gossip.records.get(self._me)
        return held is not None and replace(held, issued_at=0.0) == record

    def _record(self) -> Record:
        """All that we say of ourselves, undated."""
        parts, config = self._parts, self._parts.config()
        own = [peer for peer in parts.trust.peers() if peer.relation == "own"]
        ours = [
            each
            for each in parts.refused.in_force()
            if each.why == "revoked" and each.by_key == self._me
        ]
        ours.sort(key=lambda each: each.at)
        return Record(
            name=config.name,
            owner_key=parts.identity.owner.key,
            certificate=certify(parts.identity.owner, "node", config.name, self._me, 0.0),
            addresses=parts.node.addresses[: records.MAX_ADDRESSES],
            contexts=tuple(
                NamedKey(name=context.name, key=context.key)
                for context in parts.contexts.list()[: records.MAX_CONTEXTS]
            ),
            capabilities=_CAPABILITIES,
            labels=config.node.labels[: records.MAX_LABELS],
            vouches=tuple(
                Vouch(node_key=peer.node_key, owner_key=peer.owner_key, name=peer.name)
                for peer in own[: records.MAX_VOUCHES]
            ),
            revocations=tuple(
                Revocation(node_key=each.node_key, at=each.at, owner_key=each.owner_key or b"")
                for each in ours[-records.MAX_REVOCATIONS :]
            ),
            issued_at=0.0,
        )

    # ---- on the wire ------------------------------------------------------------------------

    def _hear(self, kind: str, sender: Key, body: bytes) -> None:
        """Guests are other people's: they are told nothing, and nothing is taken from them."""
        if not self._is_own(sender):
            self._parts.counters["gossip.refused.guest"] += 1
            return
        answers = self._gossip.receive(sender, kind, body)
        room = _QUEUE - len(self._queue)
        self._parts.counters["gossip.dropped"] += max(0, len(answers) - room)
        self._queue.extend(answers[: max(0, room)])
        self._wake.set()

    async def _hear_revoked(self, sender: Key, _body: bytes) -> bytes:
        peer = self._parts.trust.by_key(sender)
        if peer is not None:
            self._revoked_by[sender] = peer.name
            _log.warning("revoked", extra={"by": peer.name})
        return b""

    async def _send(self) -> None:
        while self._queue:
            message = self._queue.popleft()
            with anyio.move_on_after(_SEND_S):
                await self._parts.node.tell(message.to, message.kind, message.body)

    def _some(self, count: int) -> list[Key]:
        linked = sorted(self._linked)
        return random.sample(linked, min(count, len(linked)))

    # ---- inside -----------------------------------------------------------------------------

    @property
    def _interval_s(self) -> float:
        return max(_SHORTEST_ROUND_S, parse_duration(self._parts.config().mesh.heartbeat))

    def _own_peers(self) -> list[Key]:
        return [peer.node_key for peer in self._parts.trust.peers() if peer.relation == "own"]

    def _is_own(self, key: Key) -> bool:
        peer = self._parts.trust.by_key(key)
        return peer is not None and peer.relation == "own"

    def _owner_of(self, key: Key) -> Key | None:
        peer = self._parts.trust.by_key(key)
        return peer.owner_key if peer else None

    def _name_of(self, key: Key | None) -> str:
        if key is None:
            return "nobody"
        if peer := self._parts.trust.by_key(key):
            return peer.name
        record = self._gossip.records.get(key)
        return record.name if record else key_text(key)

    def _last_seen_at(self, key: Key, known: float) -> float | None:
        lost_for_s = self._sights.lost_for_s(key, anyio.current_time())
        if lost_for_s is None:
            return known or None
        return time.time() - lost_for_s

    def _view_of_us(self) -> NodeView:
        record = self._record()
        return view_of(
            record, self._me, state="alive", known="this node", note=None, seen=time.time()
        )

    def _view_of_peer(self, peer: Peer) -> NodeView:
        record = self._gossip.records.get(peer.node_key)
        is_introduced = peer.introduced.startswith("introduced by ")
        return NodeView(
            key=peer.node_key,
            name=peer.name,
            state=self.state_of(peer.node_key),
            known=peer.introduced if is_introduced else "paired",
            relation=peer.relation,
            capabilities=record.capabilities if record else (),
            labels=record.labels if record else (),
            contexts=tuple(entry.name for entry in peer.contexts),
            addresses=peer.addresses,
            last_seen_at=self._last_seen_at(peer.node_key, peer.last_seen_at),
            is_introducer=peer.is_introducer,
        )

    def _view_of_other(self, key: Key, record: Record) -> NodeView:
        via, seen = f"via {self._name_of(self._gossip.via(key))}", self._last_seen_at(key, 0.0)
        if self._gossip.was_learnt(key):
            # What it said itself, which is the last that anybody has of it.
            via, seen = "via nats", seen or min(record.issued_at, time.time())
        note, state = self._clashes.get(key), self.state_of(key)
        return view_of(record, key, state=state, known=via, note=note, seen=seen)

    def _view_of_revoked(self, refusal: Refusal) -> NodeView:
        return NodeView(
            key=refusal.node_key,
            name=refusal.name,
            state="revoked",
            known=f"revoked by {refusal.by_name}",
            relation=None,
            capabilities=(),
            labels=(),
            contexts=(),
            addresses=(),
            last_seen_at=None,
        )


def _entries(record: Record) -> tuple[ContextEntry, ...]:
    return tuple(ContextEntry(name=each.name, key=each.key) for each in record.contexts)


def _capabilities() -> Iterator[str]:
    yield f"os={sys.platform}"
    yield f"arch={platform.machine().lower()}"
    yield "engine=v8"
    has_gpu = Path("/dev/nvidia0").exists() or any(Path("/dev").glob("dri/renderD*"))
    yield f"gpu={'yes' if has_gpu else 'no'}"


_CAPABILITIES: Final = tuple(_capabilities())
