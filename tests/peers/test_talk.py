"""Live talk while links are lost: nobody notices, and nothing happens twice."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from orvalho.contexts.identity import Key
from orvalho.errors import Unavailable
from orvalho.peers import frames
from orvalho.peers.once import WINDOW_COUNT
from orvalho.transports.catalog import Catalog
from orvalho.transports.memory import Faults, MemoryLink, MemoryNetwork
from tests.peers.test_links import by_hand
from tests.peers.world import QUICK, Person, until

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def two_ways(
    directory: Path, *extra: MemoryNetwork
) -> AsyncIterator[tuple[Person, Person, MemoryNetwork]]:
    """Two nodes, linked over a memory network and over WebSocket. Only the first dials. They wait
    for another link as long as a busy machine takes to make one."""
    network = extra[0] if extra else MemoryNetwork()
    options = {
        "catalog": Catalog({"memory": network}),
        "timings": replace(QUICK, patience_s=60.0),
    }
    a, b = Person("a", directory), Person("b", directory)
    b.knows(a)
    async with b.awake("memory://b", "ws://127.0.0.1:0", **options) as listener:
        a.knows(b, *listener.addresses)
        async with a.awake(**options) as dialer:
            await until(lambda: {way.transport for way in dialer.ways(b.key)} == {"memory", "ws"})
            await until(lambda: len(listener.ways(a.key)) == 2)
            yield a, b, network


def break_link_in_use(a: Person, b: Person, network: MemoryNetwork) -> None:
    if a.node.ways(b.key)[0].transport == "memory":
        network.cut_all()
    else:
        channel = a.node._links.best(b.key)
        assert channel is not None
        channel.close()


class Counting:
    """Answers each question, and counts how often it was put; `turn` lets answers go one by one."""

    def __init__(self, person: Person) -> None:
        self.seen: Counter[bytes] = Counter()
        person.node.answer("count", self.answer)

    async def answer(self, _: Key, body: bytes) -> bytes:
        self.seen[body] += 1
        await anyio.sleep(0.002)
        return b"answer to " + body


async def test_asks_outlive_the_loss_of_a_link_and_are_answered_once(tmp_path: Path) -> None:
    async with two_ways(tmp_path) as (a, b, network):
        counting = Counting(b)
        answers: dict[bytes, bytes] = {}

        async def ask(name: int) -> None:
            for n in range(50):
                body = b"%d-%d" % (name, n)
                answers[body] = await a.node.ask(b.key, "count", body, 30.0)

        async def cut() -> None:
            for n in range(10, 110, 10):
                await until(lambda n=n: len(answers) >= n and a.node.is_online(b.key))
                break_link_in_use(a, b, network)

        async with anyio.create_task_group() as tasks:
            for name in range(4):
                tasks.start_soon(ask, name)
            tasks.start_soon(cut)
        assert len(answers) == 200
        assert all(answer == b"answer to " + body for body, answer in answers.items())
        assert set(counting.seen.values()) == {1}
        assert a.node.statistics()["asks.moved"] >= 1


class CountingNetwork(MemoryNetwork):
    dialed = 0

    async def dial(self, address: str) -> MemoryLink:
        self.dialed += 1
        return await super().dial(address)


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_talk_over_links_that_are_cut_all_the_time(tmp_path: Path, seed: int) -> None:
    """No spare here: every link is lost after some frames, and another one comes."""
    network = CountingNetwork(Faults(cut=0.02), seed=seed)
    catalog = Catalog({"memory": network})
    a, b = Person("a", tmp_path), Person("b", tmp_path)
    a.knows(b, "memory://b")
    b.knows(a, "memory://a")
    patient = {"timings": replace(QUICK, patience_s=10.0), "catalog": catalog}
    async with b.awake("memory://b", **patient), a.awake("memory://a", **patient):
        counting = Counting(b)
        heard: list[bytes] = []
        b.node.hear("word", lambda _, body: heard.append(body))
        await until(lambda: a.node.is_online(b.key))
        for n in range(200):
            assert await a.node.tell(b.key, "word", b"%d" % n)
            assert await a.node.ask(b.key, "count", b"%d" % n, 30.0) == b"answer to %d" % n
        await until(lambda: len(heard) >= 200)
        assert heard == [b"%d" % n for n in range(200)]
        assert set(counting.seen.values()) == {1}
        assert network.dialed > 3, "the links were not cut at all"


async def test_tells_are_neither_lost_nor_doubled_when_a_link_is(tmp_path: Path) -> None:
    async with two_ways(tmp_path) as (a, b, network):
        heard: list[bytes] = []
        a.node.hear("line", lambda _, body: heard.append(body))
        lines = [b"%d " % n + os.urandom(200) for n in range(20_000)]
        draw = random.Random(4)
        for line in lines:
            assert await b.node.tell(a.key, "line", line)
            if draw.random() < 0.001 and b.node.is_online(a.key):
                break_link_in_use(b, a, network)
        await until(lambda: len(heard) >= len(lines), limit_s=30)
        assert heard == lines


async def test_an_ask_waits_for_another_link_and_not_for_ever(tmp_path: Path) -> None:
    network = MemoryNetwork()
    catalog = Catalog({"memory": network})
    a, b = Person("a", tmp_path), Person("b", tmp_path)
    b.knows(a)
    a.knows(b, "memory://b")
    patient = {"timings": replace(QUICK, patience_s=2.0), "catalog": catalog}
    async with b.awake("memory://b", **patient), a.awake(**patient):
        counting = Counting(b)
        await until(lambda: a.node.is_online(b.key))
        network.cut_all()
        assert await a.node.ask(b.key, "count", b"1", 30.0) == b"answer to 1"
        network.part("memory://b")
        await until(lambda: not a.node.is_online(b.key))
        with pytest.raises(Unavailable, match=r"b is not reachable|the link to b was lost"):
            await a.node.ask(b.key, "count", b"2", 30.0)
        # After that it fails at once: there is no hope any more.
        with anyio.fail_after(1), pytest.raises(Unavailable):
            await a.node.ask(b.key, "count", b"3", 30.0)
        assert not await a.node.tell(b.key, "count", b"")
        assert counting.seen == {b"1": 1}


async def test_what_one_process_was_asked_is_not_asked_of_the_next(tmp_path: Path) -> None:
    """It may have done it before it died: nobody knows, so nobody does it again."""
    network = MemoryNetwork()
    catalog = Catalog({"memory": network})
    a, b = Person("a", tmp_path), Person("b", tmp_path)
    a.knows(b, "memory://b")
    b.knows(a)
    options = {"timings": replace(QUICK, patience_s=5.0), "catalog": catalog}
    async with a.awake(**options) as asker:
        began = anyio.Event()
        failed: list[Unavailable] = []

        async def hang(_: Key, __: bytes) -> bytes:
            began.set()
            await anyio.sleep_forever()
            raise AssertionError

        async def ask() -> None:
            try:
                await asker.ask(b.key, "count", b"effect", 30.0)
            except Unavailable as error:
                failed.append(error)

        async with anyio.create_task_group() as tasks:
            async with b.awake("memory://b", **options) as first:
                first.answer("count", hang)
                await until(lambda: asker.is_online(b.key))
                tasks.start_soon(ask)
                await began.wait()
            async with b.awake("memory://b", **options):
                counting = Counting(b)
                await until(lambda: failed)
                assert await asker.ask(b.key, "count", b"new", 30.0) == b"answer to new"
                assert counting.seen == {b"new": 1}


async def test_a_peer_that_was_forgotten_and_comes_back_is_heard(tmp_path: Path) -> None:
    async with two_ways(tmp_path) as (a, b, _):
        counting = Counting(b)
        heard: list[bytes] = []
        b.node.hear("word", lambda _, body: heard.append(body))
        addresses = b.node.addresses
        for n in range(3):
            assert await a.node.ask(b.key, "count", b"%d" % n, 10.0)
            assert await a.node.tell(b.key, "word", b"%d" % n)
            del a.book.known[b.key]
            await a.node.forget(b.key)
            await until(lambda: not a.node.is_online(b.key))
            a.knows(b, *addresses)
            a.node.refresh()
            await until(lambda: a.node.is_online(b.key))
        assert await a.node.ask(b.key, "count", b"last", 10.0)
        assert counting.seen[b"last"] == 1
        assert set(counting.seen.values()) == {1}


async def test_a_repeated_ask_is_answered_from_memory_and_a_cancelled_one_never(
    tmp_path: Path,
) -> None:
    a, b = Person("a", tmp_path), Person("b", tmp_path)
    b.knows(a)
    async with b.awake("ws://127.0.0.1:0") as node:
        counting = Counting(b)
        raw = await by_hand(a, b, node.addresses[0])
        other = await by_hand(a, b, node.addresses[0])
        hello = frames.Hello(name="a", addresses=(), greeting=b"", boot=b"process1")
        ask = frames.Ask(call=1, kind="count", body=b"x", settled=1)
        await raw.say(hello, ask)
        reply = await raw.hear(frames.Reply)
        await other.say(hello, ask)
        assert await other.hear(frames.Reply) == reply
        await other.say(
            frames.Cancel(call=2), frames.Ask(call=2, kind="count", body=b"y", settled=2)
        )
        assert isinstance(await other.hear(frames.Fail), frames.Fail)
        await other.say(frames.Ask(call=3, kind="count", body=b"z", settled=3), ask)
        await other.hear(frames.Reply)
        assert counting.seen == {b"x": 1, b"z": 1}
        # Another process of that peer counts from one again.
        third = await by_hand(a, b, node.addresses[0])
        await third.say(replace_boot(hello, b"process2"), ask)
        await third.hear(frames.Reply)
        assert counting.seen == {b"x": 2, b"z": 1}
        for each in (raw, other, third):
            await each.link.aclose()


async def test_absurd_numbers_harm_nobody_but_who_sends_them(tmp_path: Path) -> None:
    a, b, c = (Person(name, tmp_path) for name in "abc")
    b.knows(a)
    b.knows(c)
    draw = random.Random(9)

    def number() -> int:
        return draw.choice((0, 1, 2, draw.randrange(100), 2**62, 2**63))

    async with b.awake("ws://127.0.0.1:0") as node:
        counting = Counting(b)
        node.hear("word", lambda _, __: None)
        raw = await by_hand(a, b, node.addresses[0])
        for turn in range(20):
            boot = bytes([turn % 3])
            await raw.say(frames.Hello(name="a", addresses=(), greeting=b"", boot=boot))
            for _ in range(100):
                await raw.say(
                    frames.Tell(kind="word", body=b"x" * 999, seq=number(), settled=number()),
                    frames.Ask(call=number(), kind="count", body=b"evil", settled=number()),
                    frames.Cancel(call=number()),
                    frames.Heard(seq=number(), settled=number()),
                    frames.Reply(call=number(), body=b""),
                )
        await raw.say(frames.Ping(sent_at=1.0))
        await raw.hear(frames.Pong)
        c.knows(b, *node.addresses)
        async with c.awake() as friend:
            await until(lambda: friend.is_online(b.key))
            assert await friend.ask(b.key, "count", b"good", 10.0) == b"answer to good"
        assert counting.seen[b"good"] == 1
        await raw.link.aclose()


async def test_a_peer_that_confirms_nothing_stops_nobody(tmp_path: Path) -> None:
    a, b = Person("a", tmp_path), Person("b", tmp_path)
    b.knows(a)
    async with b.awake("ws://127.0.0.1:0", timings=replace(QUICK, dead_after_s=20.0)) as node:
        raw = await by_hand(a, b, node.addresses[0])
        await raw.say(frames.Hello(name="a", addresses=(), greeting=b"", boot=b"mute"))
        told = 0

        async def read() -> None:
            while True:
                await raw.link.receive()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            with anyio.fail_after(30):
                while await node.tell(a.key, "word", b"x"):
                    told += 1
            tasks.cancel_scope.cancel()
        assert told == WINDOW_COUNT
        await raw.link.aclose()


def replace_boot(hello: frames.Hello, boot: bytes) -> frames.Hello:
    return frames.Hello(
        name=hello.name, addresses=hello.addresses, greeting=hello.greeting, boot=boot
    )
