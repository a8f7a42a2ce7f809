"""Outbox and mailbox against a model, with restarts: nothing is lost, nothing comes twice."""

from __future__ import annotations

import sqlite3
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule
from sqlite_utils import Database

from orvalho.contexts.identity import Key
from orvalho.errors import Conflict, LimitExceeded
from orvalho.peers import mailbox, outbox, tally
from orvalho.peers.envelope import SKEW_S, BlobRef, Envelope, EnvelopeId
from orvalho.peers.outbox import Outgoing
from orvalho.peers.tally import Box, Held, Quota

PEERS = [Key(bytes([n]) * 32) for n in range(2)]
QUOTA = Quota(count=5, bytes=100)
peers = st.sampled_from(PEERS)
moments = st.integers(0, 1000).map(float)


def open_boxes(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA synchronous=OFF")
    database = Database(connection)
    for migrations in (tally.MIGRATIONS, outbox.MIGRATIONS, mailbox.MIGRATIONS):
        migrations.apply(database)
    return connection


class Boxes(RuleBasedStateMachine):
    """What the tables hold is what a few dictionaries hold."""

    ids = Bundle("ids")

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.path = Path(self.directory.name) / "db"
        self.connection = open_boxes(self.path)
        self.out: dict[EnvelopeId, Outgoing] = {}
        self.inside: dict[EnvelopeId, tuple[Envelope, int]] = {}
        self.seen: dict[EnvelopeId, float] = {}
        self.count = 0

    def teardown(self) -> None:
        self.connection.close()
        self.directory.cleanup()

    @rule(target=ids)
    def new_id(self) -> EnvelopeId:
        self.count += 1
        return EnvelopeId(self.count.to_bytes(16))

    @rule()
    def restart(self) -> None:
        self.connection.close()
        self.connection = open_boxes(self.path)

    # ---- the outbox

    def room(self, held: list[int], size: int) -> bool:
        return len(held) < QUOTA.count and sum(held) + size <= QUOTA.bytes

    @rule(id_=ids, peer=peers, size=st.integers(0, 60), expires_at=moments, apart=st.booleans())
    def post(self, id_: EnvelopeId, peer: Key, size: int, expires_at: float, apart: bool) -> None:
        outgoing = Outgoing(id_, peer, "k", b"s" * size, size, apart, expires_at)
        if id_ in self.out:
            with pytest.raises(Conflict):
                outbox.stage(self.connection, outgoing, QUOTA)
            return
        held = [each.size_bytes for each in self.out.values() if each.peer == peer]
        if self.room(held, size):
            outbox.stage(self.connection, outgoing, QUOTA)
            self.out[id_] = outgoing
        else:
            with pytest.raises(LimitExceeded, match="outbox-"):
                outbox.stage(self.connection, outgoing, QUOTA)

    @rule(id_=ids, by=peers)
    def acknowledge(self, id_: EnvelopeId, by: Key) -> None:
        """Only the peer it was for can say so."""
        mine = id_ in self.out and self.out[id_].peer == by
        removed = outbox.acknowledge(self.connection, [(by, id_)])
        assert [each.id for each in removed] == ([id_] if mine else [])
        if mine:
            del self.out[id_]

    @rule(id_=ids)
    def withdraw(self, id_: EnvelopeId) -> None:
        removed = outbox.withdraw(self.connection, id_)
        assert (removed is not None) == (self.out.pop(id_, None) is not None)

    @rule(now=moments)
    def expire(self, now: float) -> None:
        late = {id_ for id_, each in self.out.items() if each.expires_at <= now}
        assert {each.id for each in outbox.expire(self.connection, now)} == late
        for id_ in late:
            del self.out[id_]

    @rule(peer=peers)
    def drop(self, peer: Key) -> None:
        gone = {id_ for id_, each in self.out.items() if each.peer == peer}
        assert {each.id for each in outbox.drop_peer(self.connection, peer)} == gone
        for id_ in gone:
            del self.out[id_]

    @invariant()
    def every_page_shows_what_is_owed_in_order(self) -> None:
        for peer in PEERS:
            found: list[Outgoing] = []
            while page := outbox.page(self.connection, peer, after=found[-1].seq if found else 0):
                found += page
            assert [each.id for each in found] == [
                id_ for id_, each in self.out.items() if each.peer == peer
            ]
        assert set(outbox.apart(self.connection)) == {
            id_ for id_, each in self.out.items() if each.is_apart
        }

    @rule(old=peers, new=peers)
    def move(self, old: Key, new: Key) -> None:
        if old == new:
            return
        outbox.move(self.connection, old, new)
        self.out = {
            id_: replace(each, peer=new) if each.peer == old else each
            for id_, each in self.out.items()
        }

    # ---- the mailbox

    @rule(id_=ids, sender=peers, size=st.integers(0, 60), expires_at=moments, apart=st.booleans())
    def arrive(
        self, id_: EnvelopeId, sender: Key, size: int, expires_at: float, apart: bool
    ) -> None:
        blob = BlobRef(bytes(32), size) if apart else None
        envelope = Envelope(id_, "k", sender, PEERS[0], b"", 0.0, expires_at, b"b" * size, blob)
        held = [e.size_bytes for e, _ in self.inside.values() if e.sender == sender]
        if id_ in self.seen:
            assert mailbox.stage(self.connection, envelope, QUOTA) is False
        elif self.room(held, size):
            assert mailbox.stage(self.connection, envelope, QUOTA) is True
            self.seen[id_] = expires_at
            self.inside[id_] = (envelope, 0)
        else:
            with pytest.raises(LimitExceeded, match="mailbox-"):
                mailbox.stage(self.connection, envelope, QUOTA)

    @rule(id_=ids)
    def done(self, id_: EnvelopeId) -> None:
        assert mailbox.done(self.connection, id_) == (self.inside.pop(id_, None) is not None)

    @rule(id_=ids)
    def fail(self, id_: EnvelopeId) -> None:
        mailbox.failed(self.connection, id_)
        if id_ in self.inside:
            envelope, attempts = self.inside[id_]
            self.inside[id_] = (envelope, attempts + 1)

    @rule(now=moments)
    def forget(self, now: float) -> None:
        """An id that has expired may be forgotten, and no other; mail that waits stays."""
        mailbox.forget(self.connection, now)
        for id_, expires_at in list(self.seen.items()):
            if expires_at + 2 * SKEW_S <= now and id_ not in self.inside:
                del self.seen[id_]

    @invariant()
    def every_page_shows_what_was_not_handled_in_order(self) -> None:
        for sender in PEERS:
            found = mailbox.pending(self.connection, sender, after=0, limit=100)
            expected = [pair for pair in self.inside.values() if pair[0].sender == sender]
            assert [each.attempts for each in found] == [attempts for _, attempts in expected]
            for each, (envelope, _) in zip(found, expected, strict=True):
                body = b"" if envelope.blob else envelope.body
                assert each.envelope == envelope.with_body(body)
        senders = {envelope.sender for envelope, _ in self.inside.values()}
        assert set(mailbox.senders(self.connection)) == senders

    @invariant()
    def the_tally_is_true(self) -> None:
        for peer in PEERS:
            sizes = [each.size_bytes for each in self.out.values() if each.peer == peer]
            held = tally.held(self.connection, Box.OUTBOX, peer)
            assert held == Held(len(sizes), sum(sizes))
            sizes = [e.size_bytes for e, _ in self.inside.values() if e.sender == peer]
            held = tally.held(self.connection, Box.MAILBOX, peer)
            assert held == Held(len(sizes), sum(sizes))


TestBoxes = Boxes.TestCase
TestBoxes.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
