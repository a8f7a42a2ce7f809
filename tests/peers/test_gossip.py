"""Gossip: what spreads, what is refused, and that strangers and liars get nowhere."""

from __future__ import annotations

import os
import random
from collections import Counter

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from bench.gossip import BAR_ROUNDS, Network, SimulatedNode, settle, spread_change
from orvalho.contexts.identity import Key
from orvalho.peers import gossip, records
from orvalho.peers.gossip import DIGEST, RECORDS, Batch, Digest
from orvalho.peers.records import Kind, Record, Sight, Statement, Vouch, sign_record, sign_sight


def vouch(node: SimulatedNode) -> Vouch:
    return Vouch(node_key=node.key, owner_key=node.owner.key, name=node.name)


def batch(*statements: Statement) -> bytes:
    blobs = tuple(statement.blob for statement in statements)
    return msgspec.msgpack.encode(Batch(statements=blobs))


def signed(node: SimulatedNode, seq: int, record: Record | None = None) -> Statement:
    return sign_record(node.signer, seq, record or node.record())


@pytest.fixture
def pair() -> tuple[SimulatedNode, SimulatedNode]:
    """Two nodes that trust each other."""
    a, b = SimulatedNode("a"), SimulatedNode("b")
    for node, other in ((a, b), (b, a)):
        node.gossip.trust([other.key])
        node.says(node.record((vouch(other),)))
    return a, b


def talk(one: SimulatedNode, other: SimulatedNode) -> int:
    """Let two nodes exchange what they have to say; how many bytes that took."""
    size = 0
    queue = [(one, message) for message in one.gossip.up(other.key)]
    queue += [(other, message) for message in other.gossip.up(one.key)]
    for _ in range(100):
        if not queue:
            return size
        sender, message = queue.pop(0)
        receiver = other if sender is one else one
        size += len(message.body)
        answers = receiver.gossip.receive(sender.key, message.kind, message.body)
        queue += [(receiver, answer) for answer in answers]
    raise AssertionError("they never came to an end")


def round_of(one: SimulatedNode, other: SimulatedNode) -> int:
    """One digest and what follows: bytes."""
    size = 0
    queue = [(one, message) for message in one.gossip.round([other.key])]
    while queue:
        sender, message = queue.pop(0)
        receiver = other if sender is one else one
        size += len(message.body)
        answers = receiver.gossip.receive(sender.key, message.kind, message.body)
        queue += [(receiver, answer) for answer in answers]
    return size


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_change_reaches_a_hundred_nodes_within_eight_rounds(seed: int) -> None:
    network = Network(100, random.Random(seed), loss=0.2)
    settle(network)
    for number in range(5):
        rounds, size = spread_change(network, 7 * number)
        assert rounds <= BAR_ROUNDS
        assert size / 100 / rounds < 8_000, "bytes per node and round"
        settle(network)
    network.round()
    network.round()
    before = network.sent_bytes()
    network.round()
    assert (network.sent_bytes() - before) / 100 < 100, "nothing new costs next to nothing"
    assert sum((node.counters for node in network.nodes), Counter()) == {} or all(
        not name.startswith("records.refused.signature")
        for node in network.nodes
        for name in node.counters
    )


@settings(max_examples=15, deadline=None)
@given(some.integers(0, 10**6), some.floats(0.0, 0.4))
def test_whatever_is_lost_cut_and_healed_all_agree_in_the_end(seed: int, loss: float) -> None:
    chance = random.Random(seed)
    network = Network(8, chance, loss)
    for number in range(10):
        node = chance.choice(network.nodes)
        node.says(node.record(node.gossip.records[node.key].vouches, labels=(f"a={number}",)))
        # Some messages come twice, and late ones after later ones.
        for each in network.nodes:
            each.inbox += chance.sample(each.inbox, len(each.inbox) // 2)
            chance.shuffle(each.inbox)
        # A node is cut off for a while: what it was told is lost.
        chance.choice(network.nodes).inbox.clear()
        network.round()
    settle(network)
    latest = [node.gossip.records[node.key] for node in network.nodes]
    for node in network.nodes:
        assert [node.gossip.records[each.key] for each in network.nodes] == latest


def test_two_nodes_learn_of_each_other_and_then_are_silent(
    pair: tuple[SimulatedNode, SimulatedNode],
) -> None:
    a, b = pair
    talk(a, b)
    assert a.gossip.records.keys() == b.gossip.records.keys() == {a.key, b.key}
    assert a.gossip.summary() == b.gossip.summary()
    assert round_of(a, b) < 40


def test_news_is_not_told_to_its_teller(pair: tuple[SimulatedNode, SimulatedNode]) -> None:
    a, b = pair
    talk(a, b)
    a.gossip.spread([b.key])
    b.gossip.spread([a.key])
    a.says(a.record((vouch(b),), labels=("x=y",)))
    (message,) = a.gossip.spread([b.key])
    b.gossip.receive(a.key, message.kind, message.body)
    assert b.gossip.records[a.key].labels == ("x=y",)
    assert b.gossip.spread([a.key]) == []


@pytest.mark.parametrize(
    ("seq", "reason"),
    [(4, "old"), (records.MAX_SEQ + 1, "future")],
)
def test_a_wrong_number_is_refused_before_the_signature(
    pair: tuple[SimulatedNode, SimulatedNode], seq: int, reason: str
) -> None:
    a, b = pair
    a.gossip.receive(b.key, RECORDS, batch(signed(b, 5)))
    # The signature is spoiled: had it been looked at, that would be the reason.
    late = signed(b, seq)
    spoiled = Statement(late.kind, late.node_key, late.seq, late.blob[:-1] + b"!")
    a.gossip.receive(b.key, RECORDS, batch(spoiled))
    assert a.counters == {f"records.refused.{reason}": 1}
    assert a.gossip.records[b.key] == b.record()


def test_a_stranger_is_refused_before_the_signature(
    pair: tuple[SimulatedNode, SimulatedNode],
) -> None:
    a, b = pair
    stranger = SimulatedNode("mallory")
    a.gossip.receive(b.key, RECORDS, batch(signed(stranger, 1)))
    assert a.counters == {"records.refused.stranger": 1}
    assert stranger.key not in a.gossip.records


def test_a_record_under_anothers_key_is_refused(pair: tuple[SimulatedNode, SimulatedNode]) -> None:
    a, b = pair
    forged = signed(b, 9).blob
    mine = SimulatedNode("mallory")
    body = sign_record(mine.signer, 9, mine.record()).blob
    a.gossip.receive(b.key, RECORDS, msgspec.msgpack.encode([[forged[:41] + body[41:]]]))
    assert a.counters == {"records.refused.signature": 1}


def test_a_record_of_another_owner_than_the_books_is_refused() -> None:
    a, b = SimulatedNode("a"), SimulatedNode("b")
    counters: Counter[str] = Counter()
    engine = gossip.Gossip(
        a.key,
        check=lambda blob, owner: ("b", b.key),
        is_refused=lambda _: False,
        owner_of=lambda _: a.owner.key,
        counters=counters,
    )
    engine.trust([b.key])
    engine.receive(b.key, RECORDS, batch(signed(b, 1)))
    assert counters == {"records.refused.signature": 1}


def test_a_node_that_is_vouched_for_is_heard_in_whatever_order_it_comes(
    pair: tuple[SimulatedNode, SimulatedNode],
) -> None:
    a, b = pair
    c, d = SimulatedNode("c"), SimulatedNode("d")
    a.gossip.receive(
        b.key,
        RECORDS,
        batch(
            signed(d, 1),
            signed(c, 1, c.record((vouch(d),))),
            signed(b, 2, b.record((vouch(a), vouch(c)))),
        ),
    )
    assert a.gossip.records.keys() == {a.key, b.key, c.key, d.key}
    assert a.gossip.via(d.key) == c.key
    assert a.gossip.via(b.key) is None

    # Nobody vouches for it any more: it is forgotten, and what only it led to.
    a.gossip.receive(b.key, RECORDS, batch(signed(b, 3, b.record((vouch(a),)))))
    assert a.gossip.records.keys() == {a.key, b.key}
    assert set(a.gossip.take_dropped()) == {c.key, d.key}


def test_a_refused_key_is_not_heard_whoever_vouches_for_it() -> None:
    a, b, c = SimulatedNode("a"), SimulatedNode("b"), SimulatedNode("c")
    engine = gossip.Gossip(
        a.key,
        check=lambda blob, owner: ("b", b.key),
        is_refused=lambda key: key == c.key,
        owner_of=lambda _: None,
        counters=a.counters,
    )
    engine.trust([b.key])
    engine.receive(b.key, RECORDS, batch(signed(b, 1, b.record((vouch(c),))), signed(c, 1)))
    assert engine.records.keys() == {b.key}


def test_a_liar_that_vouches_without_end_pushes_nobody_out() -> None:
    a, b, liar = SimulatedNode("a"), SimulatedNode("b"), SimulatedNode("liar")
    a.gossip.trust([b.key, liar.key])
    level = [Vouch(node_key=os.urandom(32), owner_key=bytes(32), name="x") for _ in range(256)]
    a.gossip.receive(liar.key, RECORDS, batch(signed(liar, 1, liar.record(tuple(level)))))
    fakes = [SimulatedNode(f"fake{number}") for number in range(8)]
    known = tuple(vouch(fake) for fake in fakes)
    a.gossip.receive(liar.key, RECORDS, batch(signed(liar, 2, liar.record(known))))
    for fake in fakes:
        more = [Vouch(node_key=os.urandom(32), owner_key=bytes(32), name="x") for _ in range(256)]
        a.gossip.receive(liar.key, RECORDS, batch(signed(fake, 1, fake.record(tuple(more)))))
    assert len(a.gossip._via) <= gossip.MAX_NODES + 2
    a.gossip.receive(b.key, RECORDS, batch(signed(b, 1)))
    assert b.key in a.gossip.records


def test_what_a_peer_does_not_take_is_not_sent_for_ever(
    pair: tuple[SimulatedNode, SimulatedNode],
) -> None:
    a, b = pair
    c = SimulatedNode("c")
    a.gossip.trust([b.key, c.key])  # but a does not vouch for it: b refuses what it says
    a.gossip.receive(c.key, RECORDS, batch(signed(c, 1)))
    talk(a, b)
    for _ in range(10):
        round_of(a, b)
        round_of(b, a)
    assert round_of(a, b) < 40
    assert round_of(b, a) < 40

    # As soon as it would take it, it gets it.
    a.says(a.record((vouch(b), vouch(c))))
    for message in a.gossip.spread([b.key]):
        b.gossip.receive(a.key, message.kind, message.body)
    for message in b.gossip.spread([a.key]):
        for answer in a.gossip.receive(b.key, message.kind, message.body):
            for back in b.gossip.receive(a.key, answer.kind, answer.body):
                for last in a.gossip.receive(b.key, back.kind, back.body):
                    b.gossip.receive(a.key, last.kind, last.body)
    assert c.key in b.gossip.records


def test_a_restored_node_goes_on_from_where_it_was(
    pair: tuple[SimulatedNode, SimulatedNode],
) -> None:
    a, b = pair
    a.gossip.receive(b.key, RECORDS, batch(signed(b, 41)))
    b.gossip.receive(a.key, RECORDS, batch(signed(b, 41)))
    assert b.gossip.is_behind(Kind.RECORD)
    b.says(b.record((vouch(a),), labels=("new=yes",)))
    assert b.gossip.seq(Kind.RECORD) == 42
    assert not b.gossip.is_behind(Kind.RECORD)
    # But nobody else can make it count up.
    forged = signed(b, 99)
    spoiled = Statement(forged.kind, forged.node_key, forged.seq, forged.blob[:-1] + b"!")
    b.gossip.receive(a.key, RECORDS, batch(spoiled))
    assert b.gossip.seq(Kind.RECORD) == 42


def test_a_day_of_clock_skew_changes_nothing(pair: tuple[SimulatedNode, SimulatedNode]) -> None:
    a, b = pair
    day = 86400.0
    for seq, issued_at in ((2, day), (3, -day), (4, 0.0)):
        fields = {name: getattr(b.record(), name) for name in Record.__struct_fields__}
        record = Record(**(fields | {"issued_at": issued_at}))
        a.gossip.receive(b.key, RECORDS, batch(signed(b, seq, record)))
        assert a.gossip.records[b.key].issued_at == issued_at


def test_what_was_kept_is_taken_up_unless_it_is_spoiled_or_older(
    pair: tuple[SimulatedNode, SimulatedNode],
) -> None:
    a, b = pair
    spoiled = signed(a, 9)
    a.gossip.receive(b.key, RECORDS, batch(signed(b, 5, b.record(labels=("five=5",)))))
    a.gossip.restore(
        [
            signed(b, 4),
            Statement(Kind.RECORD, a.key, 9, spoiled.blob[:-1] + b"!"),
        ]
    )
    assert a.gossip.records[b.key].labels == ("five=5",)
    assert a.gossip.seq(Kind.RECORD) == 1
    assert a.counters["records.refused.kept"] == 1


def test_ten_thousand_malformed_messages_change_nothing(
    pair: tuple[SimulatedNode, SimulatedNode],
) -> None:
    a, b = pair
    talk(a, b)
    sight = sign_sight(b.signer, 1, Sight(links=()))
    a.gossip.receive(b.key, RECORDS, batch(sight))
    before = (a.gossip.summary(), dict(a.gossip.records))
    chance = random.Random(7)
    good = [
        batch(signed(b, 1), sight),
        msgspec.msgpack.encode(Digest(summary=bytes(16))),
        msgspec.msgpack.encode(Digest(summary=b"x", versions=((1, b.key, 5), (9, b"", -1)))),
        msgspec.msgpack.encode(Digest(wants=((1, b"nobody"), (77, b.key)))),
        b"\x91" * 5000,
        b"",
    ]
    for _ in range(10_000):
        body = bytearray(chance.choice(good))
        for _ in range(chance.randrange(1, 4)):
            if body:
                body[chance.randrange(len(body))] = chance.randrange(256)
        body = body[: chance.randrange(len(body) + 1)] if chance.random() < 0.3 else body
        answers = a.gossip.receive(b.key, chance.choice((DIGEST, RECORDS)), bytes(body))
        assert sum(len(answer.body) for answer in answers) < 10_000
    assert (a.gossip.summary(), dict(a.gossip.records)) == before
    assert a.counters["gossip.refused.malformed"] > 1000
    a.gossip.receive(b.key, RECORDS, bytes(3 * gossip.MESSAGE_BYTES))
    assert a.counters["gossip.refused.large"] == 1


def test_an_answer_is_bounded(pair: tuple[SimulatedNode, SimulatedNode]) -> None:
    a, b = pair
    many = [SimulatedNode(f"n{number}") for number in range(40)]
    a.gossip.trust([b.key, *(each.key for each in many)])
    padding = tuple(f"{'x' * 240}{number:03}=" for number in range(100))
    for each in many:
        large = each.record(labels=padding)
        a.gossip.receive(each.key, RECORDS, batch(signed(each, 1, large)))
    a.gossip.up(b.key)
    asked = msgspec.msgpack.encode(Digest(summary=b"other", versions=()))
    answers = a.gossip.receive(b.key, DIGEST, asked)
    sizes = [len(answer.body) for answer in answers]
    assert sum(sizes) <= gossip.ANSWER_BYTES + 4096
    assert max(sizes) <= gossip.MESSAGE_BYTES + 4096
    assert len(sizes) > 1


def test_a_key_of_a_wrong_length_in_a_digest_is_no_key(
    pair: tuple[SimulatedNode, SimulatedNode],
) -> None:
    a, b = pair
    body = msgspec.msgpack.encode(Digest(summary=b"x", versions=((1, Key(b"short"), 1),)))
    for answer in a.gossip.receive(b.key, DIGEST, body):
        assert b"short" not in answer.body
