"""Whom a node dials, where and when: the better way, a spare, and no storm."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from orvalho.errors import Unavailable
from orvalho.peers.relay import RelayTerms
from orvalho.transports.catalog import Catalog
from orvalho.transports.link import OnLink
from orvalho.transports.memory import MemoryLink, MemoryNetwork
from tests.peers.world import QUICK, Person, until

pytestmark = pytest.mark.anyio


class Network(MemoryNetwork):
    """A memory network under another scheme, which counts who is dialed."""

    def __init__(self, scheme: str) -> None:
        super().__init__()
        self._scheme = scheme
        self.dialed: Counter[str] = Counter()

    @asynccontextmanager
    async def listen(self, address: str, on_link: OnLink) -> AsyncIterator[Listening]:
        async with super().listen(self._plain(address), on_link):
            yield Listening(address)

    async def dial(self, address: str) -> MemoryLink:
        self.dialed[address] += 1
        return await super().dial(self._plain(address))

    def _plain(self, address: str) -> str:
        return address.replace(f"{self._scheme}://", "memory://")


class Listening:
    def __init__(self, address: str) -> None:
        self.address = address


class Stalling(MemoryNetwork):
    """Where every dial hangs."""

    async def dial(self, address: str) -> MemoryLink:
        await anyio.sleep_forever()
        raise AssertionError


class Broken(MemoryNetwork):
    """A third party's transport with a bug."""

    async def dial(self, address: str) -> MemoryLink:
        raise RuntimeError("oh no")


def transports(person: Person, other: Person) -> list[str]:
    return [way.transport for way in person.node.ways(other.key)]


async def test_a_relay_serves_until_a_direct_way_is_there_and_is_kept_a_while(
    tmp_path: Path,
) -> None:
    direct, wire = Network("memory"), Network("wire")
    direct.part("memory://b")
    catalog = Catalog({"memory": direct, "wire": wire})
    a, b, server = Person("a", tmp_path), Person("b", tmp_path), Person("server", tmp_path)
    a.knows(b, "memory://b")
    b.knows(a)
    for person in (a, b):
        person.knows(server, "wire://server")
        server.knows(person)
    options = {
        "catalog": catalog,
        "timings": replace(QUICK, relay_spare_s=0.5),
        "relay": RelayTerms(passes=lambda _: True, asks=lambda _: True),
    }
    async with (
        server.awake("wire://server", **options),
        b.awake("memory://b", **options),
        a.awake(**options),
    ):
        await until(lambda: a.node.is_online(b.key))
        assert a.node.paths(b.key) == ['relay "server"']
        b.node.handle("note", b.keep)
        await a.post(b, b"by relay")
        await until(lambda: b.handled)
        direct.heal()
        # Both may have dialed by the relay.
        await until(lambda: set(transports(a, b)) == {"memory", "relay"})
        assert a.node.paths(b.key)[0] == "direct b"
        await until(lambda: transports(a, b) == ["memory"])
        # The direct way is lost: the relay comes back.
        direct.part("memory://b")
        await until(lambda: set(transports(a, b)) == {"relay"})


async def test_one_spare_over_another_transport_and_no_storm(tmp_path: Path) -> None:
    networks = {scheme: Network(scheme) for scheme in ("red", "green", "blue")}
    catalog = Catalog(networks)
    a, b = Person("a", tmp_path), Person("b", tmp_path)
    a.knows(b, *(f"{scheme}://b" for scheme in networks))
    b.knows(a, *(f"{scheme}://a" for scheme in networks))
    async with AsyncExitStack() as stack:
        for person in (a, b):
            listen = [f"{scheme}://{person.name}" for scheme in networks]
            await stack.enter_async_context(person.awake(*listen, catalog=catalog))
        await until(lambda: len({*transports(a, b)}) == 2)
        await anyio.sleep(0.5)  # what began before that ends
        before = [network.dialed.total() for network in networks.values()]
        await anyio.sleep(0.5)
        assert [network.dialed.total() for network in networks.values()] == before
        assert len({*transports(a, b)}) == 2
        for network in networks.values():
            network.cut_all()
        await until(lambda: len({*transports(a, b)}) == 2)


async def test_an_address_that_stalls_delays_no_other(tmp_path: Path) -> None:
    network = MemoryNetwork()
    catalog = Catalog({"memory": network, "stall": Stalling()})
    a, b = Person("a", tmp_path), Person("b", tmp_path)
    a.knows(b, "stall://1", "stall://2", "memory://b")
    b.knows(a)
    timings = replace(QUICK, handshake_s=20.0, stagger_s=0.02)
    async with (
        b.awake("memory://b", catalog=catalog),
        a.awake(catalog=catalog, timings=timings),
    ):
        await until(lambda: a.node.is_online(b.key))


async def test_a_transport_with_a_bug_costs_nothing_but_its_own_links(tmp_path: Path) -> None:
    catalog = Catalog({"broken": Broken(), "memory": MemoryNetwork()})
    a, b = Person("a", tmp_path), Person("b", tmp_path)
    b.knows(a)
    a.knows(b, "broken://b")
    async with a.awake(catalog=catalog):
        await until(lambda: "the transport broke" in (a.node.problem(b.key) or ""))
        async with b.awake("memory://b", catalog=catalog):
            a.knows(b, "broken://b", "memory://b")
            a.node.refresh()
            await until(lambda: a.node.is_online(b.key))


async def test_a_link_that_went_quiet_is_left_before_it_is_given_up(tmp_path: Path) -> None:
    """One of two links freezes: what is new takes the other before the first counts as dead."""
    red, green = Network("red"), Network("green")
    catalog = Catalog({"red": red, "green": green})
    a, b = Person("a", tmp_path), Person("b", tmp_path)
    a.knows(b, "red://b", "green://b")
    b.knows(a)
    timings = replace(QUICK, ping_s=0.1, dead_after_s=4.0)
    async with (
        b.awake("red://b", "green://b", catalog=catalog, timings=timings),
        a.awake(catalog=catalog, timings=timings),
    ):
        await until(lambda: len(transports(a, b)) == 2)
        frozen = transports(a, b)[0]
        {"red": red, "green": green}[frozen].freeze()
        await until(lambda: transports(a, b)[0] != frozen)
        assert len(transports(a, b)) == 2


async def test_nothing_is_dialed_that_cannot_be(tmp_path: Path) -> None:
    a, b = Person("a", tmp_path), Person("b", tmp_path)
    a.knows(b, "carrier-pigeon://roof")
    async with a.awake():
        await until(lambda: "no transport serves" in (a.node.problem(b.key) or ""))
        with pytest.raises(Unavailable):
            await a.node.ask(b.key, "x", b"", 1.0)


async def test_a_ticket_may_name_transports_that_only_one_side_has(tmp_path: Path) -> None:
    network = MemoryNetwork()
    a, b = Person("a", tmp_path), Person("b", tmp_path)
    theirs = Catalog({"pigeon": Network("pigeon"), "memory": network})
    async with (
        b.awake("pigeon://b", "memory://b", catalog=theirs),
        a.awake(catalog=Catalog({"memory": network})),
    ):
        ticket = await b.node.invite(lifetime_s=60.0, is_guest=False)
        paired = await a.node.redeem(ticket)
        assert paired.node_key == b.key
