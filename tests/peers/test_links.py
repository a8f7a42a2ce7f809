"""Links to peers: dialed, kept, several at once, and what a listener endures."""

from __future__ import annotations

import gc
import os
import random
import tracemalloc
from pathlib import Path

import anyio
import pytest

from orvalho.errors import Unavailable, Untrusted
from orvalho.peers import frames
from orvalho.peers.frames import AnyFrame, Frame
from orvalho.peers.routing import Path as Way
from orvalho.peers.routing import rank
from orvalho.peers.session import Session, dial_session
from orvalho.transports.catalog import Catalog
from orvalho.transports.link import Link
from orvalho.transports.memory import MemoryNetwork
from orvalho.transports.websocket import WebSocketTransport
from tests.peers.world import Person, linked, until

pytestmark = pytest.mark.anyio


class Raw:
    """A peer by hand: a link and its session, and nothing that answers by itself."""

    def __init__(self, link: Link, session: Session) -> None:
        self.link, self.session = link, session

    async def say(self, *said: Frame | bytes) -> None:
        contents = [each if isinstance(each, bytes) else frames.encode(each) for each in said]
        for message in self.session.seal(contents):
            await self.link.send(message)

    async def hear(self, kind: type[Frame]) -> AnyFrame:
        with anyio.fail_after(5):
            while True:
                for content in self.session.open(await self.link.receive()):
                    frame = frames.decode(content)
                    if isinstance(frame, kind):
                        return frame


async def by_hand(person: Person, other: Person, address: str) -> Raw:
    link = await WebSocketTransport().dial(address)
    session = dial_session(
        signer=person.signer,
        noise_static=os.urandom(32),
        ephemeral=os.urandom(32),
        max_message_bytes=link.max_frame_bytes,
        expected=other.key,
    )
    await link.send(session.start() or b"")
    while session.is_shaking:
        answer = session.receive(await link.receive())
        if answer is not None:
            await link.send(answer)
    return Raw(link, session)


async def test_ten_thousand_random_frames_on_a_listener(tmp_path: Path) -> None:
    """From strangers: each first one is counted, memory stays flat, and friends get through."""
    draw = random.Random(5)
    transport = WebSocketTransport()

    async def attack(address: str, links: int) -> None:
        for _ in range(links):
            link = await transport.dial(address)
            try:
                for _ in range(20):
                    await link.send(draw.randbytes(draw.choice((0, 1, 32, 96, 300, 5000))))
                    await link.receive()
            except Unavailable:
                pass
            await link.aclose()

    async with linked(tmp_path) as (a, b):
        address = b.node.addresses[0]
        await attack(address, 20)
        gc.collect()
        tracemalloc.start()
        before, _ = tracemalloc.get_traced_memory()
        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(attack, address, 120)
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert after - before < 500_000
        assert b.node.statistics()["handshakes.refused.malformed"] == 500
        b.node.handle("note", b.keep)
        await a.post(b, b"friend")
        await until(lambda: b.handled)


async def test_random_frames_inside_a_session_are_counted_and_harmless(tmp_path: Path) -> None:
    draw = random.Random(6)
    a, b = Person("a", tmp_path), Person("b", tmp_path)
    b.knows(a)
    async with b.awake("ws://127.0.0.1:0") as node:
        raw = await by_hand(a, b, node.addresses[0])
        noise = [draw.randbytes(draw.randrange(60)) for _ in range(10_000)]
        for start in range(0, len(noise), 500):
            await raw.say(*noise[start : start + 500])
        await raw.say(frames.Ping(sent_at=7.0))
        assert await raw.hear(frames.Pong) == frames.Pong(sent_at=7.0)
        assert node.statistics()["frames.unknown"] > 9000
        await raw.link.aclose()


async def test_every_frame_that_makes_no_sense_is_survived(tmp_path: Path) -> None:
    """A peer that may come in but lies: answers nobody asked for, foreign acks, absurd blobs."""
    a, b = Person("a", tmp_path), Person("b", tmp_path)
    b.knows(a)
    async with b.awake("ws://127.0.0.1:0") as node:
        c = Person("c", tmp_path)
        b.knows(c, "ws://127.0.0.1:9")
        id_ = await b.post(c, b"for c alone")
        raw = await by_hand(a, b, node.addresses[0])
        await raw.say(
            frames.Ack(ids=(id_, b"", bytes(16))),
            frames.Reject(id=id_, reason="not mine"),
            frames.Reply(call=99, body=b""),
            frames.Fail(call=98, code="denied", message="no"),
            frames.Cancel(call=97),
            frames.GetBlob(id=id_, offset=-1),
            frames.GetBlob(id=b"../../etc/passwd", offset=0),
            frames.BlobPart(id=id_, offset=0, content=b"x"),
            frames.Pong(sent_at=-1e300),
            frames.Pair(body=b"again?"),
            frames.Mail(sealed=b"short"),
            frames.Mail(sealed=a.key * 5),
            frames.Mail(sealed=bytes(64) + a.key + bytes(300)),
            frames.Tell(kind="x", body=b""),
            frames.Ping(sent_at=1.0),
        )
        await raw.hear(frames.Pong)
        part = await raw.hear(frames.BlobPart)
        assert isinstance(part, frames.BlobPart)
        assert part.content == b""
        assert await node.queued(c.key) == 1
        assert b.undelivered == []
        statistics = node.statistics()
        refused = {name: n for name, n in statistics.items() if name.startswith("envelopes.ref")}
        assert sum(refused.values()) == 3
        await raw.link.aclose()


async def test_a_broken_seal_ends_the_link_and_is_counted(tmp_path: Path) -> None:
    a, b = Person("a", tmp_path), Person("b", tmp_path)
    b.knows(a)
    async with b.awake("ws://127.0.0.1:0") as node:
        raw = await by_hand(a, b, node.addresses[0])
        (message,) = raw.session.seal([frames.encode(frames.Ping(sent_at=1.0))])
        await raw.link.send(message)
        await raw.hear(frames.Pong)
        await raw.link.send(message)
        await until(lambda: not node.is_online(a.key))
        assert node.statistics()["sessions.ended.bad-seal"] == 1
        await raw.link.aclose()


async def test_a_peer_that_hangs_is_noticed(tmp_path: Path) -> None:
    a, b = Person("a", tmp_path), Person("b", tmp_path)
    b.knows(a)
    async with b.awake("ws://127.0.0.1:0") as node:
        raw = await by_hand(a, b, node.addresses[0])
        await until(lambda: node.is_online(a.key))
        await until(lambda: not node.is_online(a.key), limit_s=1.0)
        assert node.statistics()["links.silent"] == 1
        await raw.link.aclose()


async def test_the_seventh_link_of_a_peer_does_not_pile_up(tmp_path: Path) -> None:
    a, b = Person("a", tmp_path), Person("b", tmp_path)
    b.knows(a)
    async with b.awake("ws://127.0.0.1:0") as node:
        links = [await by_hand(a, b, node.addresses[0]) for _ in range(7)]
        await until(lambda: len(node.paths(a.key)) == 4)
        # The newest is the one that lives.
        await links[-1].say(frames.Ping(sent_at=3.0))
        await links[-1].hear(frames.Pong)
        for each in links:
            await each.link.aclose()


async def test_mail_takes_another_link_when_one_is_lost(tmp_path: Path) -> None:
    network = MemoryNetwork()
    catalog = Catalog({"memory": network})
    a, b = Person("a", tmp_path), Person("b", tmp_path)
    a.knows(b, "memory://b")
    b.knows(a)
    async with (
        b.awake("memory://b", "ws://127.0.0.1:0", catalog=catalog) as node,
        a.awake(catalog=catalog) as other,
    ):
        node.handle("note", b.keep)
        await until(lambda: other.is_online(b.key))
        second = await by_hand(a, b, node.addresses[1])
        await until(lambda: len(node.paths(a.key)) == 2)
        await second.link.aclose()
        await a.post(b, b"still")
        await until(lambda: b.handled)
        assert len(node.paths(a.key)) == 1


async def test_a_handshake_that_stalls_is_given_up(tmp_path: Path) -> None:
    b = Person("b", tmp_path)
    async with b.awake("ws://127.0.0.1:0") as node:
        link = await WebSocketTransport().dial(node.addresses[0])
        with anyio.fail_after(3), pytest.raises(Unavailable):
            await link.receive()
        assert node.statistics()["handshakes.refused.slow"] == 1
        await link.aclose()


async def test_a_stranger_with_a_key_is_refused_by_a_running_node(tmp_path: Path) -> None:
    b, stranger = Person("b", tmp_path), Person("stranger", tmp_path)
    async with b.awake("ws://127.0.0.1:0") as node:
        with pytest.raises(Untrusted, match="does not know this one"):
            await by_hand(stranger, b, node.addresses[0])
        assert node.statistics()["handshakes.refused.stranger"] == 1


def test_the_best_path_is_measured_quick_and_new() -> None:
    paths = [
        Way("unmeasured", None, 9.0),
        Way("slow", 0.2, 1.0),
        Way("quick", 0.1, 1.0),
        Way("quick and new", 0.1, 2.0),
    ]
    assert [paths[place].description for place in rank(paths)] == [
        "quick and new",
        "quick",
        "slow",
        "unmeasured",
    ]
