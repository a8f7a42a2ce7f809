"""Beacons: what is told, what is believed, and what hostile datagrams cost."""

from __future__ import annotations

import os
import random
import socket
from collections import Counter

import anyio
import pytest

from orvalho.contexts.identity import Signer
from orvalho.daemon.addresses import interfaces
from orvalho.errors import Untrusted
from orvalho.peers import beacon as beacons
from orvalho.peers.beacon import Beacon, Ear, announced, open_beacon, reachable, seal
from orvalho.peers.multicast import Interface, Multicast
from tests.peers.world import until

ME, LAPTOP = Signer(bytes([1]) * 32), Signer(bytes([2]) * 32)
BEACON = Beacon(name="laptop", listen=("ws://0.0.0.0:4455", "ws://[::]:4455", "ws://192.0.2.7:1"))


@pytest.fixture
def ear() -> Ear:
    return Ear(ME.key, Counter())


def test_what_was_sealed_is_opened_and_small() -> None:
    datagram = seal(LAPTOP, BEACON)
    assert open_beacon(datagram) == (LAPTOP.key, BEACON)
    assert len(datagram) < 256


def test_a_wildcard_stands_for_where_the_beacon_comes_from() -> None:
    assert reachable(BEACON, "192.0.2.9") == ("ws://192.0.2.9:4455", "ws://192.0.2.7:1")
    assert reachable(BEACON, "fe80::1%eth0") == ("ws://[fe80::1%eth0]:4455", "ws://192.0.2.7:1")
    bad = Beacon(name="x", listen=("", "ws://[", "ws://0.0.0.0", "ws://0.0.0.0:notaport"))
    assert reachable(bad, "192.0.2.9") == ()


def test_loopback_and_names_are_not_announced() -> None:
    listening = ("ws://127.0.0.1:1", "ws://[::1]:1", "ws://0.0.0.0:2", "nats://hub.example:4222")
    assert announced(listening) == ("ws://0.0.0.0:2",)
    assert announced(("ws://[", "memory://x")) == ()


def test_a_node_is_heard_once_until_something_changes(ear: Ear) -> None:
    datagram = seal(LAPTOP, BEACON)
    heard, is_new = ear.hear(datagram, "192.0.2.9", 100.0) or pytest.fail("not heard")
    assert is_new
    assert heard.name == "laptop"
    _, is_new = ear.hear(datagram, "192.0.2.9", 101.0) or pytest.fail("not heard")
    assert not is_new
    heard, is_new = ear.hear(datagram, "192.0.2.10", 102.0) or pytest.fail("not heard")
    assert is_new
    assert heard.addresses[0] == "ws://192.0.2.10:4455"
    assert [each.key for each in ear.list(102.0)] == [LAPTOP.key]
    assert ear.list(102.0 + beacons.HEARD_S) == []


def test_our_own_beacon_is_not_heard(ear: Ear) -> None:
    assert ear.hear(seal(ME, BEACON), "192.0.2.9", 1.0) is None
    assert ear.list(1.0) == []


@pytest.mark.parametrize(
    "datagram",
    [
        b"",
        b"orvalho1",
        seal(LAPTOP, BEACON)[:-1],
        seal(LAPTOP, BEACON)[:104],
        seal(LAPTOP, Beacon(name="No Label", listen=())),
        seal(LAPTOP, Beacon(name="x", listen=("ws://0.0.0.0:1",) * 9)),
        seal(LAPTOP, Beacon(name="x", listen=("x" * 300,))),
        seal(LAPTOP, BEACON) + bytes(beacons.MAX_BYTES),
        seal(LAPTOP, BEACON)[:8] + ME.key + seal(LAPTOP, BEACON)[40:],
    ],
)
def test_what_is_no_beacon_is_refused(datagram: bytes) -> None:
    with pytest.raises(Untrusted):
        open_beacon(datagram)


def test_ten_thousand_malformed_datagrams_cost_little_and_hide_nobody() -> None:
    counters: Counter[str] = Counter()
    ear = Ear(ME.key, counters)
    good = seal(LAPTOP, BEACON)
    assert ear.hear(good, "192.0.2.9", 0.0)
    chance = random.Random(3)
    for number in range(10_000):
        datagram = bytearray(good)
        match chance.randrange(4):
            case 0:
                datagram[chance.randrange(len(datagram))] ^= 1 << chance.randrange(8)
            case 1:
                datagram = datagram[: chance.randrange(len(datagram))]
            case 2:
                datagram = bytearray(os.urandom(chance.randrange(beacons.MAX_BYTES + 2)))
            case _:
                datagram += os.urandom(chance.randrange(1, 50))
        assert ear.hear(bytes(datagram), "192.0.2.66", number / 1000) is None
    # Ten seconds of it: signatures were looked at no oftener than is allowed.
    assert counters["beacons.refused.untrusted"] <= 100 + 10 * 50
    assert counters["beacons.refused.flood"] > 1000
    # Who is known is known without a check, flood or not.
    assert ear.hear(good, "192.0.2.9", 10.0)
    assert [each.name for each in ear.list(10.0)] == ["laptop"]


def test_a_crowd_is_remembered_no_further_than_there_is_room() -> None:
    ear = Ear(ME.key, Counter())
    for number in range(beacons.MAX_HEARD + 20):
        signer = Signer(number.to_bytes(32))
        assert ear.hear(seal(signer, BEACON), "192.0.2.9", float(number))
    assert len(ear._heard) <= beacons.MAX_HEARD
    assert len(ear._opened) <= beacons.MAX_HEARD


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.anyio
@pytest.mark.skipif(not interfaces(), reason="needs an interface besides loopback")
async def test_a_datagram_is_heard_on_the_interface_it_comes_by_and_no_other() -> None:
    """By default a socket hears a group on every interface that any socket has joined it on."""
    port = 30_000 + (os.getpid() + 7) % 20_000
    got: list[bytes] = []
    loopback = Interface(socket.if_nametoindex("lo"), "lo", has_ipv4=True, has_ipv6=False)
    one = Multicast(port, lambda datagram, host: None)
    two = Multicast(port, lambda datagram, host: got.append(datagram))
    try:
        assert one.use([loopback])
        assert two.use([loopback, *interfaces()])
        one.send(b"once")
        await until(lambda: got)
        one.send(b"last")
        await until(lambda: b"last" in got)
        await anyio.sleep(0.2)
        assert got == [b"once", b"last"]
    finally:
        one.close()
        two.close()


@pytest.mark.anyio
async def test_datagrams_arrive_on_loopback_and_sockets_are_closed() -> None:
    """IPv6 on loopback has no way for a link-local group: sending skips it, and goes on."""
    index = socket.if_nametoindex("lo")
    port = 30_000 + os.getpid() % 20_000
    got: list[tuple[bytes, str]] = []
    one = Multicast(port, lambda datagram, host: None)
    two = Multicast(port, lambda datagram, host: got.append((datagram, host)))
    loopback = Interface(index, "lo", has_ipv4=True, has_ipv6=True)
    try:
        assert one.use([loopback])
        assert two.use([loopback])
        assert not two.use([loopback])
        assert one.send(b"hello") >= 1
        await until(lambda: got)
        assert got[0][0] == b"hello"
        # One that is gone, or cannot be joined, is left out.
        assert not two.use([Interface(99_999, "gone", has_ipv4=True, has_ipv6=True)])
        assert two.send(b"x") == 0
    finally:
        one.close()
        two.close()
