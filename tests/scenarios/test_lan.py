"""Two daemons on one local network, each in a network namespace of its own: no configuration."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from orvalho.contexts.identity import Identity
from orvalho.control.client import Client
from orvalho.peers.beacon import Beacon, seal
from tests.scenarios.devices import Device, wait_until


def _can_make_namespaces() -> bool:
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    name = f"orv{os.getpid()}probe"
    if subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode:
        return False
    subprocess.run(["ip", "netns", "del", name], capture_output=True, check=True)
    return True


pytestmark = pytest.mark.skipif(
    not _can_make_namespaces(), reason="needs root and `ip netns` to make hosts"
)


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@dataclass
class Host(Device):
    """A device inside a network namespace."""

    namespace: str = ""

    @property
    def wrapper(self) -> tuple[str, ...]:
        return ("ip", "netns", "exec", self.namespace)

    def init(self) -> None:
        self.does("init", "--name", self.name)  # it listens wherever it can, as for a user


def plug_in(namespace: str, number: int, address: str | None, *, ipv6: bool) -> None:
    """Connect a host to the bridge; `address` is IPv4. Without `ipv6` there is none at all."""
    inside, outside = f"{namespace}i", f"{namespace}o"
    ip("link", "add", outside, "type", "veth", "peer", "name", inside)
    ip("link", "set", outside, "master", _BRIDGE)
    ip("link", "set", inside, "netns", namespace)
    ip("link", "set", outside, "up")
    sysctl = "0" if ipv6 else "1"
    inner = ("netns", "exec", namespace)
    ip(*inner, "sysctl", "-qw", f"net.ipv6.conf.{inside}.disable_ipv6={sysctl}")
    if address:
        ip("-n", namespace, "addr", "add", f"{address}/24", "dev", inside)
    ip("-n", namespace, "link", "set", inside, "up")


_BRIDGE = f"orv{os.getpid()}b"


@contextmanager
def hosts(top: Path, *names: str) -> Iterator[list[Host]]:
    """Hosts with loopback alone, and a bridge to plug them into."""
    made = [
        Host(name, top / name, namespace=f"orv{os.getpid()}h{number}")
        for number, name in enumerate(names)
    ]
    ip("link", "add", _BRIDGE, "type", "bridge", "mcast_snooping", "0")
    ip("link", "set", _BRIDGE, "up")
    try:
        for host in made:
            ip("netns", "add", host.namespace)
            ip("-n", host.namespace, "link", "set", "lo", "up")
        yield made
    finally:
        for host in made:
            host.stop()
            # First the cable: a namespace lingers as long as one process of its own does.
            for words in (("link", "del", f"{host.namespace}o"), ("netns", "del", host.namespace)):
                subprocess.run(["ip", *words], capture_output=True, check=False)
        ip("link", "del", _BRIDGE)


def lan(host: Host) -> dict[str, Any]:
    with Client(host.socket) as client:
        reply = client.ask_plain({"type": "nodes", "lan": True})
    return {each["name"]: each for each in reply["lan"]}


@pytest.mark.parametrize(("scheme", "ipv6"), [("ipv4", False), ("ipv6", True)])
def test_two_hosts_find_each_other_without_configuration(
    tmp_path: Path, scheme: str, ipv6: bool
) -> None:
    with hosts(tmp_path, "laptop", "phone2") as (laptop, phone):
        for number, host in enumerate((laptop, phone)):
            plug_in(host.namespace, number, None if ipv6 else f"10.77.0.{number + 1}", ipv6=ipv6)
            host.init()
        laptop.start()
        phone.start()
        began = time.monotonic()
        wait_until(lambda: "phone2" in lan(laptop) and "laptop" in lan(phone), "both are heard")
        print(f"{scheme}: found after {time.monotonic() - began:.1f} s")

        found = lan(laptop)["phone2"]
        assert found["paired"] is False
        assert found["addresses"], "an address to dial"
        assert all(("[" in address) is ipv6 for address in found["addresses"])
        shown = laptop.does("nodes", "--lan")
        assert "not paired: orvalho pair" in shown

        # Paired by a ticket that names no address that holds, they meet by beacon.
        ticket = phone.does("peer", "invite").strip().splitlines()[-1].strip()
        if ipv6:
            return  # a ticket names no link-local address
        laptop.does("peer", "add", ticket)
        wait_until(lambda: laptop.online("phone2"), "linked")
        assert "paired" in laptop.does("nodes", "--lan")


_LIAR = """
import socket, sys, time
from orvalho.peers.multicast import Multicast, Interface
import asyncio
async def main():
    datagram = bytes.fromhex(sys.argv[1])
    async def hold(reader, writer):
        print("knock", flush=True)
        await reader.read(100)
        writer.write(b"HTTP/1.1 200 OK\\r\\n\\r\\n")
        writer.close()
    server = await asyncio.start_server(hold, "0.0.0.0", int(sys.argv[2]))
    multicast = Multicast(4456, lambda datagram, host: None)
    multicast.use([Interface(socket.if_nametoindex(sys.argv[3]), "x", True, False)])
    while True:
        multicast.send(datagram)
        await asyncio.sleep(0.01)
asyncio.run(main())
"""


def test_a_beacon_that_is_repeated_from_elsewhere_leads_to_failed_dials_alone(
    tmp_path: Path,
) -> None:
    with hosts(tmp_path, "laptop", "phone2", "liar") as (laptop, phone, liar):
        for number, host in enumerate((laptop, phone, liar)):
            plug_in(host.namespace, number, f"10.77.0.{number + 1}", ipv6=False)
        for host in (laptop, phone):
            host.init()
            host.start()
        ticket = phone.does("peer", "invite").strip().splitlines()[-1].strip()
        laptop.does("peer", "add", ticket)
        wait_until(lambda: laptop.online("phone2"), "linked")
        listening = json.loads(phone.does("status", "--json"))["listening"]
        port = int(listening[0].rpartition(":")[2])
        phone.stop()
        # What everybody on the network has heard of the phone, word for word.
        keys = Identity.load(phone.home / "state/keys")
        datagram = seal(keys.node, Beacon(name="phone2", listen=(f"ws://0.0.0.0:{port}",)))
        told = (tmp_path / "knocks").open("w+")
        words = (datagram.hex(), str(port), f"{liar.namespace}i")
        lying = subprocess.Popen([*liar.wrapper, sys.executable, "-c", _LIAR, *words], stdout=told)
        try:
            knocks = tmp_path / "knocks"
            wait_until(lambda: knocks.read_text().count("knock") >= 2, "the laptop falls for it")
            assert not laptop.online("phone2")
            began, before = time.monotonic(), knocks.read_text().count("knock")
            time.sleep(3)
            passed_s = time.monotonic() - began
            # A hundred lies a second, and a dial now and then.
            assert knocks.read_text().count("knock") - before <= 3 + 2 * passed_s
            assert not laptop.online("phone2")
            phone.start()
            wait_until(lambda: laptop.online("phone2"), "the real one is found all the same")
            assert (
                "10.77.0.3" not in json.loads(laptop.does("status", "--json"))["peers"][0]["path"]
            )
        finally:
            lying.kill()
            lying.wait()
            told.close()


def test_a_peer_that_comes_at_another_address_is_dialled_at_once(tmp_path: Path) -> None:
    """Also on an interface that was not there when the daemons started, and over IPv6 alone."""
    with hosts(tmp_path, "laptop", "phone2") as (laptop, phone):
        for number, host in enumerate((laptop, phone)):
            plug_in(host.namespace, number, f"10.77.0.{number + 1}", ipv6=False)
            host.init()
            host.start()
        ticket = phone.does("peer", "invite").strip().splitlines()[-1].strip()
        laptop.does("peer", "add", ticket)
        wait_until(lambda: laptop.online("phone2"), "linked over IPv4")

        for host in (laptop, phone):
            ip("-n", host.namespace, "link", "del", f"{host.namespace}i")
        wait_until(lambda: not laptop.online("phone2"), "the network is gone")
        for number, host in enumerate((laptop, phone)):
            plug_in(host.namespace, number, None, ipv6=True)

        wait_until(lambda: laptop.online("phone2"), "linked over IPv6 link-local")
        peer = json.loads(laptop.does("status", "--json"))["peers"][0]
        assert "fe80" in peer["path"]
