"""How fast one change is known everywhere: 100 nodes of the pure engine, a fifth of all lost.

A round is one hop: what a node says in one round is heard in the next. Every node has opened
three links to others that it chose at random.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from bench.table import Row
from orvalho.contexts.identity import Key, Signer, certify, check_certificate
from orvalho.peers.gossip import Gossip, Outgoing
from orvalho.peers.records import Kind, Record, Sight, Vouch, short_key, sign_record, sign_sight

NODES = 100
LINKS = 3
LOSS = 0.2
FAN_OUT = 8
DIGESTS = 2
BAR_ROUNDS = 8
_RUNS = 20


def check(certificate: bytes, owner: Key) -> tuple[str, Key]:
    held = check_certificate(certificate, owner, "node")
    return held.name, Key(held.key)


@dataclass
class SimulatedNode:
    """A node of a simulated network: its engine, its links, what it has been told."""

    name: str
    links: set[Key] = field(default_factory=set)
    inbox: list[tuple[Key, str, bytes]] = field(default_factory=list)
    sent_bytes: int = 0

    def __post_init__(self) -> None:
        self.owner = Signer(b"o" + self.name.encode().ljust(31))
        self.signer = Signer(b"n" + self.name.encode().ljust(31))
        self.counters: Counter[str] = Counter()
        self.gossip = Gossip(
            self.signer.key,
            check=check,
            is_refused=lambda _: False,
            owner_of=lambda _: None,
            counters=self.counters,
        )

    @property
    def key(self) -> Key:
        return self.signer.key

    def record(self, vouches: tuple[Vouch, ...] = (), **changes: tuple[str, ...]) -> Record:
        fields: dict[str, tuple[str, ...]] = {
            "addresses": (f"ws://{self.name}.example:4455",),
            "capabilities": ("os=linux", "arch=x86_64", "engine=v8", "gpu=no"),
            "labels": ("env=home",),
        }
        return Record(
            name=self.name,
            owner_key=self.owner.key,
            certificate=certify(self.owner, "node", self.name, self.key, 0.0),
            contexts=(),
            vouches=vouches,
            revocations=(),
            issued_at=0.0,
            **(fields | changes),
        )

    def says(self, record: Record) -> None:
        seq = self.gossip.seq(Kind.RECORD) + 1
        self.gossip.say(sign_record(self.signer, seq, record))


class Network:
    """`count` nodes. `loss` is the share of messages that never arrive."""

    def __init__(self, count: int, chance: random.Random, loss: float) -> None:
        self.nodes = [SimulatedNode(f"node{number}") for number in range(count)]
        self.by_key = {node.key: node for node in self.nodes}
        self.chance = chance
        self.loss = loss
        for node in self.nodes:
            for other in chance.sample([each for each in self.nodes if each is not node], LINKS):
                node.links.add(other.key)
                other.links.add(node.key)
        for node in self.nodes:
            vouches = tuple(self._vouch(key) for key in sorted(node.links))
            node.gossip.trust(node.links)
            node.says(node.record(vouches))
            links = tuple(short_key(key) for key in sorted(node.links))
            node.gossip.say(sign_sight(node.signer, 1, Sight(links=links)))
        for node in self.nodes:
            for link in sorted(node.links):
                self._post(node, node.gossip.up(link))

    def _vouch(self, key: Key) -> Vouch:
        node = self.by_key[key]
        return Vouch(node_key=key, owner_key=node.owner.key, name=node.name)

    def round(self) -> None:
        for node in self.nodes:
            inbox, node.inbox = node.inbox, []
            for sender, kind, body in inbox:
                self._post(node, node.gossip.receive(sender, kind, body))
        for node in self.nodes:
            links = sorted(node.links)
            self._post(node, node.gossip.spread(self._some(links, FAN_OUT)))
            self._post(node, node.gossip.round(self._some(links, DIGESTS)))

    def share(self, key: Key, seq: int) -> float:
        """Which part of the nodes holds this version of a node's record."""
        record = self.by_key[key].gossip.records[key]
        assert self.by_key[key].gossip.seq(Kind.RECORD) == seq
        return sum(node.gossip.records.get(key) == record for node in self.nodes) / len(self.nodes)

    def agrees(self) -> bool:
        return len({node.gossip.summary() for node in self.nodes}) == 1

    def sent_bytes(self) -> int:
        return sum(node.sent_bytes for node in self.nodes)

    def _some(self, links: list[Key], count: int) -> list[Key]:
        return self.chance.sample(links, min(count, len(links)))

    def _post(self, node: SimulatedNode, messages: list[Outgoing]) -> None:
        for message in messages:
            node.sent_bytes += len(message.body)
            if self.chance.random() >= self.loss:
                self.by_key[message.to].inbox.append((node.key, message.kind, message.body))


def settle(network: Network, limit: int = 200) -> int:
    """Rounds until all agree."""
    for rounds in range(1, limit):
        network.round()
        if network.agrees():
            return rounds
    raise AssertionError("the network never agreed")


def spread_change(network: Network, number: int) -> tuple[int, int]:
    """One node changes its labels: rounds until all know, and bytes sent meanwhile."""
    node = network.nodes[number % len(network.nodes)]
    old = node.gossip.records[node.key]
    before = network.sent_bytes()
    node.says(node.record(old.vouches, labels=(f"change={number}",)))
    seq = node.gossip.seq(Kind.RECORD)
    rounds = 0
    while network.share(node.key, seq) < 1.0:
        network.round()
        rounds += 1
        assert rounds < 200, "the change never arrived"
    return rounds, network.sent_bytes() - before


def measure() -> Iterator[Row]:
    network = Network(NODES, random.Random(1), LOSS)
    first = settle(network)
    each = network.sent_bytes() / NODES / first
    yield Row(
        f"gossip, {NODES} nodes that know nothing, {LOSS:.0%} lost",
        f"{first} rounds, {each / 1e3:.1f} kB per node and round",
    )
    taken, sizes = [], []
    for number in range(_RUNS):
        rounds, size = spread_change(network, number)
        taken.append(rounds)
        sizes.append(size / NODES / rounds)
        settle(network)
    yield Row(
        f"gossip, one change known by all {NODES}, worst of {_RUNS}",
        f"{max(taken)} rounds, {sum(sizes) / _RUNS / 1e3:.2f} kB per node and round",
        bar=f"{BAR_ROUNDS} rounds",
    )
    for _ in range(3):
        network.round()
    before = network.sent_bytes()
    for _ in range(10):
        network.round()
    idle = (network.sent_bytes() - before) / NODES / 10
    yield Row("gossip, nothing new", f"{idle:.0f} bytes per node and round")
