"""Mail by way of a real JetStream stream: sealed, once, and the original stays until answered."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from orvalho.contexts.identity import Signer, seal_for
from orvalho.errors import Untrusted
from orvalho.peers.node import Node
from orvalho.transports.nats import NatsTransport
from orvalho.transports.nats_stream import NatsCarrier
from tests.peers.world import Person, until
from tests.transports.nats_server import NatsServer

pytestmark = pytest.mark.anyio
LIMIT_S = 30.0
ENVELOPES = 300


@asynccontextmanager
async def awake(person: Person, server: NatsServer) -> AsyncIterator[Node]:
    """The node runs, with no address and nobody to dial: only the stream connects it."""
    carrier = NatsCarrier(NatsTransport(person.signer).server(server.url), "orvalho")
    async with person.awake(carrier=carrier) as node:
        node.handle("note", person.keep)
        yield node


def stream(top: Path) -> NatsServer:
    return NatsServer(top, f'jetstream {{ store_dir: "{top}/js" }}')


def strangers_apart(top: Path) -> tuple[Person, Person]:
    a, b = Person("a", top), Person("b", top)
    a.knows(b)
    b.knows(a)
    return a, b


async def test_two_that_are_never_awake_together_exchange_mail_and_its_answer(
    tmp_path: Path,
) -> None:
    a, b = strangers_apart(tmp_path)
    with stream(tmp_path) as server:
        async with awake(a, server) as node:
            await a.post(b, b"a word that nobody else may read")
            await until(lambda: counted(node, "carrier.deposited") == 1, LIMIT_S)
            # The original stays here until b has answered.
            assert await node.queued(b.key) == 1
        async with awake(b, server) as node:
            await until(lambda: b.handled == [b"a word that nobody else may read"], LIMIT_S)
            await until(lambda: counted(node, "carrier.deposited") == 1, LIMIT_S)
        async with awake(a, server) as node:
            await until_empty(node, b)
        server.stop()
        kept = b"".join(file.read_bytes() for file in (tmp_path / "js").rglob("*.blk"))
        assert kept
        assert b"nobody else may read" not in kept


async def test_what_is_deposited_twice_is_handled_once(tmp_path: Path) -> None:
    a, b = strangers_apart(tmp_path)
    with stream(tmp_path) as server:
        for _ in range(3):  # each time it has forgotten that it deposited
            async with awake(a, server) as node:
                if await node.queued(b.key) == 0:
                    await a.post(b, b"once")
                await until(lambda node=node: counted(node, "carrier.deposited") == 1, LIMIT_S)
        async with awake(b, server):
            await until(lambda: b.handled, LIMIT_S)
            await a_word_later(b, a, server)
        assert b.handled == [b"once", b"the last"]


async def test_a_stream_that_is_lost_loses_nothing(tmp_path: Path) -> None:
    a, b = strangers_apart(tmp_path)
    first, second = tmp_path / "first", tmp_path / "second"
    for directory in (first, second):
        directory.mkdir()
    with stream(first) as server:
        async with awake(a, server) as node:
            await a.post(b, b"kept at home")
            await until(lambda: counted(node, "carrier.deposited") == 1, LIMIT_S)
    with stream(second) as server:  # another server, an empty one
        async with awake(a, server), awake(b, server):
            await until(lambda: b.handled == [b"kept at home"], LIMIT_S)


async def test_the_server_dies_under_load_and_each_envelope_is_handled_once(
    tmp_path: Path,
) -> None:
    a, b = strangers_apart(tmp_path)
    bodies = [b"%d" % number for number in range(ENVELOPES)]
    server = stream(tmp_path)
    with server:
        async with awake(a, server) as node:
            for body in bodies:
                await a.post(b, body, lifetime_s=600)
            # given a server that dies while mail is left with it
            await until(lambda: counted(node, "carrier.deposited") > 50, LIMIT_S)
            server.kill()
            await until(lambda: counted(node, "carrier.away"), LIMIT_S)
            server.start()
            await until(lambda: counted(node, "carrier.deposited") >= ENVELOPES, LIMIT_S)
        async with awake(b, server):
            # and again while it is fetched
            await until(lambda: len(b.handled) > 50, LIMIT_S)
            server.kill()
            server.start()
            await until(lambda: len(b.handled) >= ENVELOPES, 90)
            # then the sender learns of all; mail whose end the server has not heard of comes
            # to b again after half a minute, and is known there
            async with awake(a, server) as sender:
                await until_empty(sender, b, 90)
        assert sorted(b.handled) == sorted(bodies)


async def test_forged_and_foreign_deposits_are_refused_and_harm_nothing(tmp_path: Path) -> None:
    a, b = strangers_apart(tmp_path)
    stranger = Person("c", tmp_path)
    with stream(tmp_path) as server:
        async with awake(a, server) as node:
            id_ = await a.post(b, b"good")
            await until(lambda: counted(node, "carrier.deposited") == 1, LIMIT_S)
        carrier = NatsCarrier(NatsTransport(stranger.signer).server(server.url), "orvalho")
        for number, content in enumerate(forgeries(a, b, stranger, id_)):
            await carrier.deposit(b.key, b"%d" % number, content, time.time() + 60)
            await carrier.deposit(a.key, b"a%d" % number, content, time.time() + 60)
        async with awake(b, server) as node:
            await until(lambda: b.handled == [b"good"], LIMIT_S)
            await until(lambda: refused(node) == 5, LIMIT_S)
        async with awake(a, server) as node:
            await until(lambda: refused(node) == 5, LIMIT_S)
            await until_empty(node, b)


def forgeries(a: Person, b: Person, stranger: Person, id_: bytes) -> list[bytes]:
    """Junk; sealed junk; a stranger's word; and an answer in b's name that b did not sign."""
    ack = b"\x92\x02\x91\xc4\x10" + id_
    signature = stranger.signer.sign(b"orvalho/carried/1", a.key + ack)
    return [
        b"",
        b"junk" * 50,
        seal_for(a.key, b"short"),
        seal_for(a.key, stranger.key + signature + ack),
        seal_for(a.key, b.key + signature + ack),
    ]


async def test_what_is_sealed_for_one_key_no_other_opens() -> None:
    one, other = Signer(b"1" * 32), Signer(b"2" * 32)
    box = seal_for(one.key, b"word")
    assert one.unseal(box) == b"word"
    for opener, content in ((other, box), (one, box[:-1]), (one, b""), (one, bytes(80))):
        with pytest.raises(Untrusted):
            opener.unseal(content)


def counted(node: Node, name: str) -> int:
    return node.statistics().get(name, 0)


def refused(node: Node) -> int:
    found = node.statistics()
    return sum(count for name, count in found.items() if name.startswith("carrier.refused"))


async def until_empty(node: Node, peer: Person, limit_s: float = LIMIT_S) -> None:
    with anyio.fail_after(limit_s):
        while await node.queued(peer.key):
            await anyio.sleep(0.01)


async def a_word_later(b: Person, a: Person, server: NatsServer) -> None:
    """Another piece of mail has come through: what came before it has been dealt with."""
    async with awake(a, server):
        await a.post(b, b"the last")
        await until(lambda: b"the last" in b.handled, LIMIT_S)
