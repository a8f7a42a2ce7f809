"""Anti-entropy gossip of signed statements between a person's own devices. Sans-IO.

News is passed on at once to whoever is linked. What gets lost on the way is found by comparing:
every round a node sends some of its peers a digest of 16 bytes; only when that differs do the two
exchange version vectors (Demers et al., "Epidemic algorithms for replicated database
maintenance", 1987) and then what the other one lacks. So a network where nothing happens
exchanges some tens of bytes per node and round, however large it is.

A statement is taken only from a key that our own peers, or the nodes they vouch for, lead to.
That, and its number, are checked before its signature.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from orvalho.contexts.identity import Key
from orvalho.errors import Untrusted
from orvalho.peers import records
from orvalho.peers.pairing import CheckCertificate
from orvalho.peers.records import Kind, Record, Sight, Statement, read_head
from orvalho.peers.wire import UNREADABLE

DIGEST: Final = "gossip.digest"
RECORDS: Final = "gossip.records"

# The nodes of our own peers always have room; those that we only hear of share this much.
MAX_NODES: Final = 1024
MESSAGE_BYTES: Final = 1 << 17
# At most this much in answer to one message; the rest follows in later rounds.
ANSWER_BYTES: Final = 1 << 19
_SUMMARY_BYTES: Final = 16
# A statement that a peer was sent so often and still lacks is one that it does not take.
_TRIES: Final = 5
# After so many rounds with a peer it is tried again all the same.
_FORGET_ROUNDS: Final = 64


class Digest(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """`summary` is of all that the sender holds. `versions`, (kind, node key, seq) each, follow
    only when summaries differ. `wants` asks for statements, by (kind, node key). `is_fresh`: what
    you remember of my refusals no longer holds."""

    summary: bytes = b""
    versions: tuple[tuple[int, bytes, int], ...] | None = None
    wants: tuple[tuple[int, bytes], ...] = ()
    is_fresh: bool = False


class Batch(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """Statements, as they were signed."""

    statements: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Outgoing:
    """Tell `to` this, as a tell of this kind."""

    to: Key
    kind: str
    body: bytes


@dataclass(slots=True)
class _Memory:
    """What we remember of one peer while it is linked: how often it was sent which version, and
    the pair of summaries (ours, its) between which nothing is left to exchange."""

    sent: dict[tuple[Kind, Key], tuple[int, int]] = field(default_factory=dict)
    settled: tuple[bytes, bytes] | None = None
    rounds: int = 0


_digests: Final = msgspec.msgpack.Decoder(Digest)
_batches: Final = msgspec.msgpack.Decoder(Batch)
_Id = tuple[Kind, Key]


class Gossip:
    """The statements that a node holds, and what it says to its peers about them.

    `is_refused` names keys that are not to be spoken of, whoever vouches for them; `owner_of`
    gives the owner that the trust book has for a node, None where it has none.
    """

    def __init__(
        self,
        me: Key,
        *,
        check: CheckCertificate,
        is_refused: Callable[[Key], bool],
        owner_of: Callable[[Key], Key | None],
        counters: Counter[str],
    ) -> None:
        self._me = me
        self._check = check
        self._is_refused = is_refused
        self._owner_of = owner_of
        self._counters = counters
        self._roots: frozenset[Key] = frozenset()
        self._via: dict[Key, Key] = {}
        self._held: dict[_Id, Statement] = {}
        self._records: dict[Key, Record] = {}
        self._sights: dict[Key, Sight] = {}
        self._summary = b""
        self._memories: dict[Key, _Memory] = {}
        self._news: dict[_Id, Key] = {}
        self._learnt: set[Key] = set()
        self._accepted: list[Statement] = []
        self._dropped: list[Key] = []
        self._ahead: dict[Kind, int] = {}
        self._to_greet: set[Key] = set()

    # ---- what is held -----------------------------------------------------------------------

    @property
    def records(self) -> Mapping[Key, Record]:
        return self._records

    @property
    def sights(self) -> Mapping[Key, Sight]:
        return self._sights

    def via(self, node: Key) -> Key | None:
        """Who of the nodes vouches for this one, where it is none of our own peers."""
        return self._via.get(node) if node not in self._roots else None

    def was_learnt(self, node: Key) -> bool:
        """Whether the record that we hold of a node came by `learn`."""
        return node in self._learnt

    def listened_to(self) -> frozenset[Key]:
        """The nodes whose statements would be taken: our own peers, and whom these vouch for."""
        return frozenset(self._via)

    def statement(self, kind: Kind, node: Key) -> Statement | None:
        """What we hold of a node, as it was signed."""
        return self._held.get((kind, node))

    def seq(self, kind: Kind) -> int:
        """The number of our own last statement, or of a later one that others hold: a node that
        was restored from its recovery phrase goes on from there."""
        held = self._held.get((kind, self._me))
        return max(held.seq if held else 0, self._ahead.get(kind, 0))

    def is_behind(self, kind: Kind) -> bool:
        """Others hold a later statement of ours than we do."""
        held = self._held.get((kind, self._me))
        return (held.seq if held else 0) < self._ahead.get(kind, 0)

    def take_accepted(self) -> list[Statement]:
        """The statements of others that were accepted since the last call."""
        taken, self._accepted = self._accepted, []
        return taken

    def take_dropped(self) -> list[Key]:
        """The nodes that nothing leads to any more since the last call."""
        taken, self._dropped = self._dropped, []
        return taken

    def restore(self, statements: Iterable[Statement]) -> None:
        """Take what was kept on disk; call `trust` afterwards. What does not hold is left out."""
        for statement in statements:
            if self._seq(statement.kind, statement.node_key) >= statement.seq:
                continue
            try:
                self._open(statement)
            except Untrusted:
                self._counters["records.refused.kept"] += 1

    def trust(self, peers: Collection[Key]) -> None:
        """Our own peers, to whose statements all others are led back."""
        self._roots = frozenset(peers)
        self._rebuild()

    def say(self, statement: Statement) -> None:
        """Put out a statement of our own."""
        self._open(statement)
        self._news[statement.kind, statement.node_key] = self._me

    # ---- what is exchanged ------------------------------------------------------------------

    def up(self, peer: Key) -> list[Outgoing]:
        """A peer has been linked: begin with all there is to know."""
        self._memories[peer] = _Memory()
        return [self._greeting(peer)]

    def down(self, peer: Key) -> None:
        self._memories.pop(peer, None)
        self._to_greet.discard(peer)

    def round(self, peers: Iterable[Key]) -> list[Outgoing]:
        """The digests of one round, for the peers that were chosen for it."""
        found = []
        for peer in peers:
            memory = self._memories.setdefault(peer, _Memory())
            memory.rounds += 1
            if memory.rounds % _FORGET_ROUNDS == 0:
                memory.sent.clear()
                memory.settled = None
            # Nothing is left to say to a peer that holds something else on purpose.
            if memory.settled is None or memory.settled[0] != self.summary():
                found.append(self._digest(peer, Digest(summary=self.summary())))
        return found

    def spread(self, peers: Iterable[Key]) -> list[Outgoing]:
        """Pass the news on, to each but the one who told us."""
        news, self._news = self._news, {}
        if not news and not self._to_greet:
            return []
        found: list[Outgoing] = []
        for peer in peers:
            if peer in self._to_greet:
                self._to_greet.discard(peer)
                self._memories[peer].settled = None
                found.append(self._greeting(peer))
            ids = [id_ for id_, teller in news.items() if teller != peer and id_[1] != peer]
            found += self._send(peer, ids)
        return found

    def receive(self, peer: Key, kind: str, body: bytes) -> list[Outgoing]:
        """What one of our own peers has told us, and what is answered."""
        if len(body) > 2 * MESSAGE_BYTES:
            self._counters["gossip.refused.large"] += 1
            return []
        try:
            if kind == RECORDS:
                self._take(peer, _batches.decode(body).statements)
                return []
            return self._compare(peer, _digests.decode(body))
        except UNREADABLE:
            self._counters["gossip.refused.malformed"] += 1
            return []

    def learn(self, blobs: Sequence[bytes]) -> None:
        """Statements that no peer has told, but that lay somewhere: judged like any other, and
        passed on to every peer."""
        self._take(self._me, blobs)

    def summary(self) -> bytes:
        """16 bytes that are the same where the same is held."""
        if not self._summary:
            hashed = hashlib.sha256()
            for kind, node in sorted(self._held):
                hashed.update(bytes([kind]) + node + self._held[kind, node].seq.to_bytes(8))
            self._summary = hashed.digest()[:_SUMMARY_BYTES]
        return self._summary

    # ---- inside -----------------------------------------------------------------------------

    def _compare(self, peer: Key, digest: Digest) -> list[Outgoing]:
        memory = self._memories.setdefault(peer, _Memory())
        if digest.is_fresh:
            memory.sent.clear()
            memory.settled = None
        if digest.wants:
            return self._send(peer, self._known(digest.wants))
        summaries = (self.summary(), digest.summary)
        if digest.summary == self.summary() or memory.settled == summaries:
            return []
        if digest.versions is None:
            versions = tuple((k, n, s.seq) for (k, n), s in self._held.items())
            return [self._digest(peer, Digest(summary=self.summary(), versions=versions))]
        theirs = {(kind, Key(node)): seq for kind, node, seq in digest.versions}
        lacking = [
            id_
            for id_, statement in self._held.items()
            if theirs.get((id_[0].value, id_[1]), 0) < statement.seq and not self._tired(peer, id_)
        ]
        wants = tuple(
            (kind, node)
            for (kind, node), seq in theirs.items()
            if kind in records.KINDS and self._would_take(node, Kind(kind), seq) is None
        )
        answers = self._send(peer, lacking)
        if wants:
            answers.append(self._digest(peer, Digest(wants=wants)))
        if not answers:
            memory.settled = summaries
        return answers

    def _known(self, wants: Sequence[tuple[int, bytes]]) -> Iterator[_Id]:
        for kind, node in wants:
            if kind in records.KINDS and (Kind(kind), Key(node)) in self._held:
                yield Kind(kind), Key(node)

    def _tired(self, peer: Key, id_: _Id) -> bool:
        seq, times = self._memories[peer].sent.get(id_, (0, 0))
        return seq == self._held[id_].seq and times >= _TRIES

    def _greeting(self, peer: Key) -> Outgoing:
        return self._digest(peer, Digest(summary=self.summary(), is_fresh=True))

    def _digest(self, peer: Key, digest: Digest) -> Outgoing:
        return Outgoing(peer, DIGEST, msgspec.msgpack.encode(digest))

    def _send(self, peer: Key, ids: Iterable[_Id]) -> list[Outgoing]:
        sent = self._memories.setdefault(peer, _Memory()).sent
        batches: list[list[bytes]] = [[]]
        size = total = 0
        for id_ in ids:
            statement = self._held[id_]
            length = len(statement.blob)
            if total + length > ANSWER_BYTES:
                break
            if size + length > MESSAGE_BYTES:
                batches.append([])
                size = 0
            batches[-1].append(statement.blob)
            size, total = size + length, total + length
            seq, times = sent.get(id_, (0, 0))
            sent[id_] = (statement.seq, times + 1 if seq == statement.seq else 1)
        return [
            Outgoing(peer, RECORDS, msgspec.msgpack.encode(Batch(statements=tuple(batch))))
            for batch in batches
            if batch
        ]

    def _take(self, peer: Key, blobs: Sequence[bytes]) -> None:
        waiting = []
        for blob in blobs:
            statement = read_head(blob)
            if statement is None:
                self._counters["records.refused.malformed"] += 1
            else:
                waiting.append(statement)
        # A node may come before the one that vouches for it: as long as one is taken, the others
        # get another try.
        while waiting:
            strangers = [each for each in waiting if not self._accept(peer, each)]
            if len(strangers) == len(waiting):
                self._counters["records.refused.stranger"] += len(strangers)
                return
            waiting = strangers

    def _accept(self, peer: Key, statement: Statement) -> bool:
        """False when the key is unknown; everything else is settled here."""
        node, kind = statement.node_key, statement.kind
        reason = self._would_take(node, kind, statement.seq)
        if reason == "stranger":
            return False
        if reason is not None:
            if reason != "known":
                self._counters[f"records.refused.{reason}"] += 1
            return True
        before = self._records.get(node)
        try:
            if node == self._me:
                self._catch_up(statement)
                return True
            self._open(statement)
        except Untrusted:
            self._counters["records.refused.signature"] += 1
            return True
        self._accepted.append(statement)
        self._news[kind, node] = peer
        if kind is Kind.RECORD:
            (self._learnt.add if peer == self._me else self._learnt.discard)(node)
        vouches = before.vouches if before else ()
        if kind is Kind.RECORD and self._records[node].vouches != vouches:
            self._rebuild()
        return True

    def _would_take(self, node: bytes, kind: Kind, seq: int) -> str | None:
        """Why a statement would not be taken; None when its signature is worth a look."""
        key = Key(node)
        if key != self._me and key not in self._via:
            return "stranger"
        if seq > records.MAX_SEQ:
            return "future"
        held = self.seq(kind) if key == self._me else self._seq(kind, key)
        if seq == held:
            return "known"
        return "old" if seq < held else None

    def _seq(self, kind: Kind, node: Key) -> int:
        held = self._held.get((kind, node))
        return held.seq if held else 0

    def _catch_up(self, statement: Statement) -> None:
        if statement.kind is Kind.RECORD:
            records.open_record(statement, self._check)
        else:
            records.open_sight(statement)
        self._ahead[statement.kind] = statement.seq

    def _open(self, statement: Statement) -> None:
        """Raises:
        Untrusted: it does not hold, or another owner claims the node.
        """
        node = statement.node_key
        if statement.kind is Kind.RECORD:
            record = records.open_record(statement, self._check)
            owner = self._owner_of(node)
            if owner is not None and owner != record.owner_key:
                raise Untrusted("a record names another owner than the trust book")
            self._records[node] = record
        else:
            self._sights[node] = records.open_sight(statement)
        self._held[statement.kind, node] = statement
        self._summary = b""

    def _rebuild(self) -> None:
        """Follow the vouching from our own peers: whom do we listen to?"""
        via = {root: self._me for root in self._roots if not self._is_refused(root)}
        edge = sorted(via)
        while edge:
            following: list[Key] = []
            for node in edge:
                record = self._records.get(node)
                for vouch in record.vouches if record else ():
                    key = Key(vouch.node_key)
                    if key in via or key == self._me or self._is_refused(key):
                        continue
                    if len(via) >= MAX_NODES + len(self._roots):
                        break
                    via[key] = node
                    following.append(key)
            edge = following
        grown = via.keys() - self._via.keys()
        self._via = via
        if grown:
            # What we refused before, others hold back from us by now.
            self._to_greet.update(self._memories)
        gone = {node for _, node in self._held} - via.keys() - {self._me}
        for node in gone:
            for kind in Kind:
                self._held.pop((kind, node), None)
                self._news.pop((kind, node), None)
                for memory in self._memories.values():
                    memory.sent.pop((kind, node), None)
            self._learnt.discard(node)
            self._records.pop(node, None)
            self._sights.pop(node, None)
            self._summary = b""
        self._dropped += gone
