"""Links through a third node, which passes on what it cannot read."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from orvalho.contexts.identity import Key
from orvalho.errors import Denied, OrvalhoError, Unavailable
from orvalho.peers.relay import (
    CIRCUIT_BYTES,
    DOWN,
    FRAME_BYTES,
    UP,
    WINDOW_BYTES,
    Open,
    RelayTerms,
    What,
    address_of,
    read,
    read_open,
    write,
)
from orvalho.peers.relaying import CIRCUITS_PER_PEER
from orvalho.peers.sending import Outcome
from orvalho.transports.catalog import Catalog
from orvalho.transports.memory import MemoryNetwork
from tests.peers.world import Person, until

pytestmark = pytest.mark.anyio

OPEN = RelayTerms(passes=lambda _: True, asks=lambda _: True)
LIMIT_S = 30.0


class World:
    """Laptop and phone know no address of each other, but both are linked to the server."""

    def __init__(self, directory: Path) -> None:
        self.network = MemoryNetwork()
        self.catalog = Catalog({"memory": self.network})
        self.laptop = Person("laptop", directory)
        self.server = Person("server", directory)
        self.phone = Person("phone", directory)
        for person in (self.laptop, self.phone):
            person.knows(self.server, "memory://server")
            self.server.knows(person)
        self.laptop.knows(self.phone, "memory://nowhere")
        self.phone.knows(self.laptop)

    @asynccontextmanager
    async def awake(self, *people: Person, **options: Any) -> AsyncIterator[None]:
        settings: dict[str, Any] = {"relay": OPEN, **options}
        async with AsyncExitStack() as stack:
            for person in people:
                await stack.enter_async_context(
                    person.awake(f"memory://{person.name}", catalog=self.catalog, **settings)
                )
                person.node.handle("note", person.keep)
            yield

    @asynccontextmanager
    async def joined(self, **options: Any) -> AsyncIterator[None]:
        async with self.awake(self.server, self.laptop, self.phone, **options):
            await until(self.are_joined, LIMIT_S)
            yield

    def are_joined(self) -> bool:
        return self.laptop.node.is_online(self.phone.key) and self.phone.node.is_online(
            self.laptop.key
        )


async def test_mail_and_talk_pass_through_the_relay_unread(tmp_path: Path) -> None:
    world = World(tmp_path)
    laptop, server, phone = world.laptop, world.server, world.phone
    secret = os.urandom(16)
    passed: list[bytes] = []
    async with world.joined():
        server.node._dispatch._hearers[UP] = _overhearing(
            server.node._dispatch._hearers[UP], passed
        )

        async def echo(_: Key, body: bytes) -> bytes:
            return body[::-1]

        phone.node.answer("echo", echo)
        id_ = await laptop.post(phone, secret)
        assert await laptop.node.delivered(id_) is Outcome.DELIVERED
        assert await laptop.node.ask(phone.key, "echo", secret, LIMIT_S) == secret[::-1]
        await until(lambda: phone.handled)
        assert phone.handled == [secret]
        assert laptop.node.paths(phone.key)[0] == 'relay "server"'
        assert phone.node.paths(laptop.key)[0] == 'relay "server"'
        assert laptop.node.paths(server.key)[0].startswith("direct")
    assert passed
    assert not any(secret in body or secret[::-1] in body for body in passed)


def _overhearing(hearer: Any, passed: list[bytes]) -> Any:
    def hear(sender: Key, body: bytes) -> None:
        passed.append(body)
        hearer(sender, body)

    return hear


async def test_more_than_a_window_passes_through(tmp_path: Path) -> None:
    world = World(tmp_path)
    body = os.urandom(12 * WINDOW_BYTES)
    async with world.joined():
        id_ = await world.laptop.post(world.phone, body)
        assert await world.laptop.node.delivered(id_) is Outcome.DELIVERED
        await until(lambda: world.phone.handled, LIMIT_S)
        assert world.phone.handled == [body]
        assert "relay.flooded" not in world.server.node.statistics()


async def test_the_link_ends_with_the_relay_and_comes_back_with_it(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with world.awake(world.laptop, world.phone):
        async with world.awake(world.server):
            await until(world.are_joined, LIMIT_S)
        await until(lambda: not world.laptop.node.is_online(world.phone.key), LIMIT_S)
        await until(lambda: not world.phone.node.is_online(world.laptop.key), LIMIT_S)
        async with world.awake(world.server):
            await until(world.are_joined, LIMIT_S)
            await world.laptop.post(world.phone, b"again")
            await until(lambda: world.phone.handled, LIMIT_S)


async def test_the_link_ends_when_the_other_end_goes(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with world.awake(world.server, world.laptop):
        async with world.awake(world.phone):
            await until(world.are_joined, LIMIT_S)
        await until(lambda: not world.laptop.node.is_online(world.phone.key), LIMIT_S)
        # What is wrong with the direct way is what a person can mend.
        laptop, key = world.laptop.node, world.phone.key
        await until(lambda: "nobody answers" in (laptop.problem(key) or ""), LIMIT_S)
        await until(lambda: not world.server.node._relays._legs, LIMIT_S)


async def test_a_relay_that_may_not_passes_nothing(tmp_path: Path) -> None:
    world = World(tmp_path)
    shut = RelayTerms(asks=lambda _: True)
    async with world.awake(world.server, world.laptop, world.phone, relay=shut):
        server, laptop, phone = world.server, world.laptop, world.phone
        await until(lambda: len(server.node._links.online()) == 2, LIMIT_S)
        asked = msgspec.msgpack.encode(Open(circuit=bytes(CIRCUIT_BYTES), peer=phone.key))
        await until(lambda: laptop.node.is_online(server.key), LIMIT_S)
        with pytest.raises(Denied):
            await laptop.node.ask(server.key, "relay.open", asked, LIMIT_S)
        assert not world.are_joined()


async def test_a_relay_is_not_reached_through_a_relay(tmp_path: Path) -> None:
    world = World(tmp_path)
    tablet = Person("tablet", tmp_path)
    # The phone is reached through the server; the tablet only through the phone.
    world.phone.knows(tablet)
    tablet.knows(world.phone, "memory://phone")
    world.laptop.knows(tablet)
    tablet.knows(world.laptop)
    async with world.joined(), world.awake(tablet):
        await until(lambda: tablet.node.is_online(world.phone.key), LIMIT_S)
        laptop = world.laptop.node
        with pytest.raises(Unavailable, match="not linked directly"):
            await laptop._relays.transport.dial(address_of(world.phone.key, tablet.key))
        # Asked all the same, over the relayed link, the phone refuses.
        asked = msgspec.msgpack.encode(Open(circuit=bytes(CIRCUIT_BYTES), peer=tablet.key))
        with pytest.raises(Unavailable, match="does not reach it directly"):
            await laptop.ask(world.phone.key, "relay.open", asked, LIMIT_S)
        assert not laptop.is_online(tablet.key)


async def test_a_direct_way_is_used_although_the_other_end_came_by_the_relay(
    tmp_path: Path,
) -> None:
    world = World(tmp_path)
    world.laptop.knows(world.phone, "memory://phone")
    async with world.joined():
        # The phone knows no address of the laptop, and may be quicker by the relay.
        paths = world.laptop.node.paths
        await until(lambda: paths(world.phone.key)[0].startswith("direct"), LIMIT_S)


async def test_who_floods_a_circuit_loses_it_and_the_relay_keeps_little(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with world.joined():
        server, laptop, phone = world.server.node, world.laptop.node, world.phone.node
        (_, circuit), _ = next(iter(laptop._relays.transport._links.items()))
        channel = laptop._links.direct(server.key)
        assert channel is not None
        for _ in range(2 * WINDOW_BYTES // FRAME_BYTES):
            channel.send(write(UP, circuit, What.FRAME, os.urandom(FRAME_BYTES)))
        await until(lambda: (phone.key, circuit) not in server._relays._legs, LIMIT_S)
        # The flood broke that session; a new one comes.
        await until(world.are_joined, LIMIT_S)


async def test_a_peer_that_goes_while_it_is_called_is_said_to_be_gone(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with world.joined():
        server, laptop, phone = world.server.node, world.laptop.node, world.phone.node

        offered: list[bytes] = []

        async def go(relay: Key, body: bytes) -> bytes:
            offered.append(read_open(body).circuit)
            channel = phone._links.direct(relay)
            assert channel is not None
            channel.close()
            return b""

        phone.answer("relay.offer", go)
        with pytest.raises(Unavailable):
            await laptop._relays.transport.dial(address_of(server.key, phone.key))
        # The phone comes back and opens circuits of its own: those are others.
        legs = server._relays._legs
        await until(lambda: not {circuit for _, circuit in legs} & set(offered), LIMIT_S)
        assert offered
        assert "asks.failed" not in server.statistics()


async def test_malformed_tells_are_counted_and_harm_nothing(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with world.joined():
        server, laptop = world.server.node, world.laptop.node
        for number in range(10_000):
            body = os.urandom(number % 40)
            server._dispatch._hearers[UP](laptop.key, body)
            laptop._dispatch._hearers[DOWN](server.key, body)
        assert server.statistics()["relay.unknown"] >= 9_000
        assert world.are_joined()
        for body in (b"", b"\xc1", msgspec.msgpack.encode(Open(circuit=b"x", peer=b"y"))):
            with pytest.raises(OrvalhoError):
                await laptop.ask(server.key, "relay.open", body, LIMIT_S)
            with pytest.raises(OrvalhoError):
                await server.ask(laptop.key, "relay.offer", body, LIMIT_S)


async def test_a_peer_holds_a_bounded_number_of_circuits(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with world.joined():
        server, laptop, phone = world.server.node, world.laptop.node, world.phone.node
        links = []
        with pytest.raises(Unavailable, match="relay-circuits"), anyio.fail_after(LIMIT_S):
            for _ in range(CIRCUITS_PER_PEER + 1):
                links.append(await laptop._relays.transport.dial(address_of(server.key, phone.key)))
        for link in links:
            await link.aclose()
        await until(lambda: len(server._relays._legs) <= 4, LIMIT_S)


def test_what_a_circuit_carries_is_written_and_read_alike() -> None:
    circuit = os.urandom(CIRCUIT_BYTES)
    for what, content in ((What.FRAME, b"frame"), (What.CREDIT, b"\0\0\1\0"), (What.CLOSE, b"")):
        assert read(write(UP, circuit, what, content).body) == (circuit, what, content)
    assert read(circuit) is None
    assert read(circuit + b"\x07") is None
    assert read(circuit + bytes([What.CREDIT]) + b"123") is None
    assert read(circuit + bytes([What.FRAME]) + bytes(FRAME_BYTES + 1)) is None
