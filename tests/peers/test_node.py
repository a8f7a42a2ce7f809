"""Two nodes over WebSocket on loopback: mail, live talk, and who is there."""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path

import anyio
import pytest

from orvalho.contexts.identity import Key
from orvalho.errors import Denied, InvalidInput, LimitExceeded, NotFound, Unavailable
from orvalho.peers import mailbox
from orvalho.peers.desk import Delivery
from orvalho.peers.envelope import Envelope
from orvalho.peers.sending import Outcome
from orvalho.peers.tally import Quota
from tests.peers.world import Person, linked, until

pytestmark = pytest.mark.anyio


async def test_a_posted_envelope_is_handled_and_answered(tmp_path: Path) -> None:
    async with linked(tmp_path) as (a, b):
        replies: list[Envelope] = []

        async def answer(envelope: Envelope, delivery: Delivery) -> None:
            def work(connection: sqlite3.Connection) -> bytes:
                delivery.done(connection)
                return b.node.stage(
                    connection,
                    envelope.sender,
                    "answer",
                    envelope.body[::-1],
                    expires_at=time.time() + 60,
                    reply_to=envelope.id,
                )

            await b.store.transact("note.answer", work)
            b.node.flush(envelope.sender)

        async def hear(envelope: Envelope, _: Delivery) -> None:
            replies.append(envelope)

        b.node.handle("note", answer)
        a.node.handle("answer", hear)
        id_ = await a.post(b, b"hello")
        assert await a.node.delivered(id_) is Outcome.DELIVERED
        await until(lambda: replies)
        assert (replies[0].body, replies[0].reply_to) == (b"olleh", id_)
        assert replies[0].sender == b.key
        await until(lambda: a.node.statistics()["peers.online"] == 1)
        assert await a.node.queued(b.key) == 0


@pytest.mark.parametrize("size_bytes", [0, 65536, 65537, 1 << 20, (1 << 20) + 1, 3_000_000])
async def test_a_body_of_any_size_arrives_and_leaves_no_file(
    tmp_path: Path, size_bytes: int
) -> None:
    async with linked(tmp_path) as (a, b):
        b.node.handle("note", b.keep)
        body = os.urandom(size_bytes)
        id_ = await a.post(b, body)
        await until(lambda: b.handled)
        assert b.handled == [body]
        await a.node.delivered(id_)

        def files() -> list[Path]:
            return [p for d in (a, b) for p in (d.directory / "blobs").rglob("*") if p.is_file()]

        await until(lambda: not files())


async def test_many_at_once_are_each_handled_once(tmp_path: Path) -> None:
    async with linked(tmp_path) as (a, b):
        b.node.handle("note", b.keep)
        bodies = [b"%d" % n for n in range(600)]
        async with anyio.create_task_group() as tasks:
            for body in bodies:
                tasks.start_soon(a.post, b, body)
        await until(lambda: len(b.handled) >= len(bodies))
        assert sorted(b.handled) == sorted(bodies)


async def test_mail_for_a_sleeping_peer_waits_and_can_be_withdrawn(tmp_path: Path) -> None:
    a, b = Person("a", tmp_path), Person("b", tmp_path)
    b.knows(a)
    a.knows(b, "ws://127.0.0.1:9")
    async with a.awake() as node:
        kept = await a.post(b, b"kept")
        dropped = await a.post(b, b"dropped")
        assert await node.queued(b.key) == 2
        assert await node.withdraw(dropped)
        assert not await node.withdraw(dropped)
        assert await node.delivered(dropped) is Outcome.WITHDRAWN
        with pytest.raises(NotFound):
            await node.delivered(type(kept)(bytes(16)))
        await until(lambda: "nobody answers" in (node.problem(b.key) or ""))
        with pytest.raises(Unavailable, match="b is not reachable"):
            await node.ask(b.key, "x", b"", 1.0)
        assert not await node.tell(b.key, "x", b"")
        async with b.awake("ws://127.0.0.1:0") as other:
            other.handle("note", b.keep)
            a.knows(b, *other.addresses)
            node.refresh()
            await until(lambda: b.handled)
            assert await node.delivered(kept) is Outcome.DELIVERED
    assert b.handled == [b"kept"]


async def test_expired_mail_is_given_up_and_told(tmp_path: Path) -> None:
    a, b = Person("a", tmp_path), Person("b", tmp_path)
    a.knows(b, "ws://127.0.0.1:9")
    async with a.awake() as node:
        id_ = await a.post(b, b"too late", lifetime_s=0.05)
        assert await node.delivered(id_) is Outcome.EXPIRED
        assert [(each.id, each.kind) for each in a.undelivered] == [(id_, "note")]
        assert await node.queued(b.key) == 0


async def test_mail_of_an_unknown_kind_comes_back(tmp_path: Path) -> None:
    async with linked(tmp_path) as (a, b):
        id_ = await a.post(b, b"?")
        assert await a.node.delivered(id_) is Outcome.REJECTED
        assert 'nobody handles "note"' in a.undelivered[0].reason
        assert b.node.statistics()["envelopes.refused: of an unknown kind"] == 1


async def test_a_full_outbox_and_a_wrong_envelope_are_refused_by_name(tmp_path: Path) -> None:
    a, b = Person("a", tmp_path), Person("b", tmp_path)
    a.knows(b)
    async with a.awake(quota=Quota(count=2, bytes=1000)) as node:
        await a.post(b, b"1")
        with pytest.raises(LimitExceeded, match=r"^outbox-bytes"):
            await a.post(b, bytes(1000))
        await a.post(b, b"2")
        with pytest.raises(LimitExceeded, match=r"^outbox-count"):
            await a.post(b, b"3")
        with pytest.raises(InvalidInput, match="35 days"):
            await a.post(b, b"", lifetime_s=36 * 86400)
        assert await node.queued(b.key) == 2


async def test_a_full_mailbox_postpones_and_loses_nothing(tmp_path: Path) -> None:
    async with linked(tmp_path, quota=Quota(count=3, bytes=10_000)) as (a, b):
        gate = anyio.Event()

        async def slow(envelope: Envelope, delivery: Delivery) -> None:
            await gate.wait()
            await b.keep(envelope, delivery)

        b.node.handle("note", slow)
        for n in range(3):
            await a.post(b, b"%d" % n)
        ids: list[bytes] = []
        while len(ids) < 3:
            try:
                ids.append(await a.post(b, b"%d" % (3 + len(ids))))
            except LimitExceeded:
                await anyio.sleep(0.01)
        await until(lambda: b.node.statistics().get("envelopes.postponed"))
        gate.set()
        await until(lambda: len(b.handled) == 6)
        assert sorted(b.handled) == [b"%d" % n for n in range(6)]


async def test_a_failing_handler_gets_the_envelope_again(tmp_path: Path) -> None:
    async with linked(tmp_path) as (a, b):
        attempts: list[int] = []

        async def moody(envelope: Envelope, delivery: Delivery) -> None:
            attempts.append(delivery.attempts)
            if not delivery.attempts:
                raise RuntimeError("not today")
            await b.keep(envelope, delivery)

        b.node.handle("note", moody)
        await a.post(b, b"try")
        await until(lambda: b.handled)
        assert attempts == [0, 1]


async def test_a_restart_hands_over_what_was_not_handled(tmp_path: Path) -> None:
    a, b = Person("a", tmp_path), Person("b", tmp_path)
    b.knows(a)
    async with b.awake("ws://127.0.0.1:0") as node:
        a.knows(b, *node.addresses)

        async def stuck(_: Envelope, __: Delivery) -> None:
            await anyio.sleep_forever()

        node.handle("note", stuck)
        async with a.awake() as sender:
            for body in (b"small", os.urandom(100_000)):
                await sender.delivered(await a.post(b, body))
    async with b.awake("ws://127.0.0.1:0") as node:
        node.handle("note", b.keep)
        await until(lambda: len(b.handled) == 2)
    async with b.awake("ws://127.0.0.1:0") as node:
        node.handle("note", b.keep)
        await anyio.sleep(0.1)
        assert await b.store.read(mailbox.senders) == []
    assert {len(body) for body in b.handled} == {5, 100_000}
    assert len(b.handled) == 2


async def test_ask_and_tell(tmp_path: Path) -> None:
    async with linked(tmp_path) as (a, b):
        heard: list[bytes] = []

        async def double(_: Key, body: bytes) -> bytes:
            return body * 2

        b.node.answer("double", double)
        b.node.hear("word", lambda _, body: heard.append(body))
        assert await a.node.ask(b.key, "double", b"ab", 5.0) == b"abab"
        assert len(await a.node.ask(b.key, "double", bytes(2_000_000), 5.0)) == 4_000_000
        for n in range(20):
            assert await a.node.tell(b.key, "word", b"%d" % n)
        await until(lambda: len(heard) == 20)
        assert heard == [b"%d" % n for n in range(20)]
        with pytest.raises(LimitExceeded, match=r"^frame-bytes"):
            await a.node.ask(b.key, "double", bytes(17 << 20), 5.0)
        with pytest.raises(LimitExceeded, match=r"^frame-bytes"):
            await a.node.ask(b.key, "double", bytes(9 << 20), 5.0)


async def test_errors_cross_whole(tmp_path: Path) -> None:
    async with linked(tmp_path) as (a, b):

        async def refuse(_: Key, __: bytes) -> bytes:
            raise Denied("no", where="here", rule="policy/b.csv:7", hint="ask them", detail="why")

        async def crash(_: Key, __: bytes) -> bytes:
            raise RuntimeError("a secret")

        b.node.answer("refuse", refuse)
        b.node.answer("crash", crash)
        with pytest.raises(Denied, match=r"^no$") as caught:
            await a.node.ask(b.key, "refuse", b"", 5.0)
        error = caught.value
        assert (error.where, error.rule, error.hint, error.detail, error.peer) == (
            "here", "policy/b.csv:7", "ask them", "why", "b",
        )  # fmt: skip
        with pytest.raises(Unavailable) as broken:
            await a.node.ask(b.key, "crash", b"", 5.0)
        assert "secret" not in broken.value.message
        with pytest.raises(NotFound, match='nobody answers "x"'):
            await a.node.ask(b.key, "x", b"", 5.0)


async def test_an_ask_ends_with_its_time_and_with_the_link(tmp_path: Path) -> None:
    async with linked(tmp_path) as (a, b):
        began, cancelled = anyio.Event(), anyio.Event()

        async def hang(_: Key, __: bytes) -> bytes:
            began.set()
            try:
                await anyio.sleep_forever()
            finally:
                cancelled.set()
            return b""

        b.node.answer("hang", hang)
        with pytest.raises(Unavailable, match=r"b did not answer within 0.05 s"):
            await a.node.ask(b.key, "hang", b"", 0.05)
        with anyio.fail_after(2):
            await cancelled.wait()

        async def ask() -> None:
            with pytest.raises(Unavailable, match="the link to b was lost"):
                await a.node.ask(b.key, "hang", b"", 5.0)

        began = anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await began.wait()
            del a.book.known[b.key]
            a.node.refresh()


async def test_watchers_see_peers_come_and_go(tmp_path: Path) -> None:
    a, b = Person("a", tmp_path), Person("b", tmp_path)
    b.knows(a)
    async with b.awake("ws://127.0.0.1:0") as node:
        a.knows(b, *node.addresses)
        node.set_greeting(b"contexts")
        with node.watch() as events:
            async with a.awake() as dialer:
                up = await events.receive()
                assert (up.peer, up.is_online) == (a.key, True)
                port = node.addresses[0].rpartition(":")[2]
                await until(lambda: dialer.paths(b.key))
                assert dialer.paths(b.key) == [f"direct 127.0.0.1:{port}"]
                await until(lambda: a.greetings)
                await until(lambda: dialer.rtt_s(b.key) is not None)
                node.set_greeting(b"new")
                await until(lambda: len(a.greetings) == 2)
            down = await events.receive()
            assert (down.peer, down.is_online) == (a.key, False)
    assert [(key, hello.greeting) for key, hello in a.greetings] == [
        (b.key, b"contexts"),
        (b.key, b"new"),
    ]
    assert a.greetings[0][1].addresses == node.addresses


async def test_a_forgotten_peer_is_dropped_with_its_mail(tmp_path: Path) -> None:
    async with linked(tmp_path) as (a, b):
        del b.book.known[a.key]
        await b.node.forget(a.key)
        await until(lambda: not b.node.is_online(a.key))
        await until(lambda: "does not know this one" in (a.node.problem(b.key) or ""))
        assert b.node.statistics()["handshakes.refused.stranger"] >= 1
        id_ = await a.post(b, b"anybody?")
        del a.book.known[b.key]
        await a.node.forget(b.key)
        assert await a.node.delivered(id_) is Outcome.WITHDRAWN
