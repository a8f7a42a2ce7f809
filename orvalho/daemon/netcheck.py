"""What the network lets this node do, each thing tried rather than guessed."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import time
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address, ip_address
from typing import Final
from urllib.parse import urlsplit

import anyio
from anyio import to_thread

from orvalho.contexts.trust import Peer
from orvalho.control import seeing
from orvalho.daemon import addresses
from orvalho.daemon.house import House
from orvalho.daemon.reach import ask_ping, check_addresses
from orvalho.errors import OrvalhoError

_ECHO_S: Final = 0.5
# A group of the organisation-local scope (RFC 2365), for our own echo alone.
_GROUP: Final = "239.255.44.55"
# Addresses for documentation (RFC 5737, RFC 3849): a route to them is one to anywhere. A UDP
# socket that is connected sends nothing.
_ANYWHERE: Final = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))
# Schemes whose listener takes a plain TCP connection.
_TCP: Final = ("ws", "wss", "http", "https", "http2", "h2", "nats", "nats+tls")
_PROXIES: Final = ("http_proxy", "https_proxy", "all_proxy", "socks_proxy", "ws_proxy")


async def netcheck(
    house: House, environ: Mapping[str, str], timeout_s: float
) -> seeing.NetcheckReply:
    """Takes about `timeout_s` at the longest."""
    peers = house.trust.peers()
    found: dict[str, seeing.PeerCheck] = {}
    listening: dict[str, seeing.AddressCheck] = {}
    async with anyio.create_task_group() as tasks:
        for peer in peers:
            tasks.start_soon(_check_peer, house, peer, timeout_s, found)
        for address in house.node.addresses:
            tasks.start_soon(_check_own, address, timeout_s, listening)
        own = await to_thread.run_sync(addresses.hosts_by_interface)
        multicast = await to_thread.run_sync(_multicast, own)
    ipv4, ipv6 = (_has_route(family, host) for family, host in _ANYWHERE)
    return seeing.NetcheckReply(
        interfaces=tuple(
            seeing.Interface(name=name, addresses=ips) for name, ips in sorted(own.items())
        ),
        ipv4=ipv4,
        ipv6=ipv6,
        multicast=multicast,
        proxies=tuple(sorted(name for name in environ if name.lower() in _PROXIES)),
        listening=tuple(_worded(house, listening[each]) for each in house.node.addresses),
        peers=tuple(found[peer.name] for peer in peers),
    )


async def _check_peer(
    house: House, peer: Peer, timeout_s: float, found: dict[str, seeing.PeerCheck]
) -> None:
    rtt_ms, ahead_ms = None, None
    if house.node.is_online(peer.node_key):
        try:
            answered = await ask_ping(house, peer, timeout_s)
        except OrvalhoError:
            pass
        else:
            rtt_ms = round(1000 * answered.rtt_s, 3)
            ahead_ms = round(1000 * answered.ahead_s, 1)
    checks = await check_addresses(house, peer, timeout_s)
    found[peer.name] = seeing.PeerCheck(
        name=peer.name,
        state="online" if house.node.is_online(peer.node_key) else "offline",
        paths=tuple(house.node.paths(peer.node_key)),
        rtt_ms=rtt_ms,
        clock_ahead_ms=ahead_ms,
        addresses=checks,
    )


async def _check_own(address: str, timeout_s: float, found: dict[str, seeing.AddressCheck]) -> None:
    parts = urlsplit(address)
    if parts.scheme not in _TCP or parts.hostname is None or parts.port is None:
        found[address] = seeing.AddressCheck(address=address, took_ms=None)
        return
    started = time.perf_counter()
    took_ms, problem = None, None
    try:
        async with asyncio.timeout(timeout_s):
            _, writer = await asyncio.open_connection(parts.hostname, parts.port)
        took_ms = round(1000 * (time.perf_counter() - started), 3)
        writer.close()
    except TimeoutError:
        problem = f"nobody answers within {timeout_s:g} s"
    except OSError as error:
        problem = error.strerror or str(error)
    found[address] = seeing.AddressCheck(address=address, took_ms=took_ms, problem=problem)


def _worded(house: House, check: seeing.AddressCheck) -> seeing.AddressCheck:
    """With what is known of the NATS server there, which may answer and still not serve us."""
    server = check.address.rpartition("/")[0]
    for text in house.problems.get("nats", ()):
        if text.startswith(f"{server}: "):
            hint = f"; {house.hints[text]}" if text in house.hints else ""
            problem = text.removeprefix(f"{server}: ") + hint
            return seeing.AddressCheck(address=check.address, took_ms=None, problem=problem)
    return check


def _has_route(family: socket.AddressFamily, host: str) -> bool:
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((host, 9))
    except OSError:
        return False
    return True


def _multicast(own: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """The interfaces over which a datagram of ours to a group comes back to us."""
    return tuple(name for name, host in _ipv4_hosts(own) if _echoes(host))


def _ipv4_hosts(own: Mapping[str, tuple[str, ...]]) -> Iterator[tuple[str, str]]:
    for name, hosts in sorted(own.items()):
        for host in hosts:
            address = ip_address(host.partition("%")[0])
            if isinstance(address, IPv4Address) and not address.is_loopback:
                yield name, host
                break


def _echoes(host: str) -> bool:
    said = os.urandom(16)
    place = socket.inet_aton(host)
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as echo:
            echo.settimeout(_ECHO_S)
            echo.bind(("", 0))
            member = struct.pack("4s4s", socket.inet_aton(_GROUP), place)
            echo.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
            echo.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, place)
            echo.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 1)
            echo.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)
            echo.sendto(said, (_GROUP, echo.getsockname()[1]))
            return echo.recv(64) == said
    except OSError:
        return False
