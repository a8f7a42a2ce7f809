"""What a node calls out on the local network, and what it makes of the calls of others. Sans-IO.

A beacon is one datagram: `orvalho1`, the node's key (32 bytes), its signature (64), then a
msgpack array of its name and where it listens. Everybody on the network can read it; nothing in
it is secret. It is only a hint where to dial: who answers there is for the handshake, so that a
false or repeated beacon leads to a dial that fails, and no further.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

import msgspec

from orvalho.contexts.identity import Key, Signer, verify
from orvalho.contexts.names import check_label
from orvalho.errors import InvalidInput, Untrusted
from orvalho.peers.wire import UNREADABLE

MAX_BYTES: Final = 1024
# A node that has not been heard for so long has left the network.
HEARD_S: Final = 90.0
MAX_HEARD: Final = 256

_MAGIC: Final = b"orvalho1"
_PURPOSE: Final = b"orvalho/beacon/1"
_KEY: Final = slice(8, 40)
_SIGNATURE: Final = slice(40, 104)
_BODY: Final = 104
_MAX_LISTEN: Final = 8
_MAX_ADDRESS: Final = 200
_WILDCARDS: Final = ("0.0.0.0", "::")  # noqa: S104 -- recognised here, not bound
# Checks of signatures a second, and how many may come at once.
_CHECKS_PER_S: Final = 50.0
_CHECKS_AT_ONCE: Final = 100.0


class Beacon(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """`listen` holds addresses; one with a wildcard host stands for where the beacon comes from."""

    name: str
    listen: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Heard:
    """A node that is on the network. `heard_at` is on the caller's clock."""

    key: Key
    name: str
    addresses: tuple[str, ...]
    heard_at: float


def announced(listening: Sequence[str]) -> tuple[str, ...]:
    """What of our addresses is of use to others on the network: none that is loopback, and none
    that needs no finding (a name, a server of others)."""
    found = []
    for url in listening:
        try:
            host = urlsplit(url).hostname or ""
            if not ip_address(host.partition("%")[0]).is_loopback:
                found.append(url)
        except ValueError:
            continue
    return tuple(found[:_MAX_LISTEN])


def seal(signer: Signer, beacon: Beacon) -> bytes:
    """The datagram."""
    body = msgspec.msgpack.encode(beacon)
    return _MAGIC + signer.key + signer.sign(_PURPOSE, body) + body


def open_beacon(datagram: bytes) -> tuple[Key, Beacon]:
    """Raises:
    Untrusted: it is none, its signature does not hold, or it is malformed.
    """
    if len(datagram) > MAX_BYTES or not datagram.startswith(_MAGIC) or len(datagram) <= _BODY:
        raise Untrusted("not a beacon")
    key, body = Key(datagram[_KEY]), datagram[_BODY:]
    verify(key, _PURPOSE, body, datagram[_SIGNATURE])
    try:
        beacon = msgspec.msgpack.decode(body, type=Beacon)
        check_label(beacon.name)
    except (*UNREADABLE, InvalidInput) as error:
        raise Untrusted(f"a beacon is malformed: {error}") from error
    if len(beacon.listen) > _MAX_LISTEN or any(len(url) > _MAX_ADDRESS for url in beacon.listen):
        raise Untrusted("a beacon holds too much")
    return key, beacon


def reachable(beacon: Beacon, source: str) -> tuple[str, ...]:
    """The addresses that a beacon gives when it comes from the host `source` (IPv6 link-local
    with its `%interface`)."""
    is_ipv6 = ":" in source
    found = []
    for url in beacon.listen:
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port
        except ValueError:
            continue
        if host in _WILDCARDS:
            if (host == "::") is not is_ipv6:
                continue
            host = source
        shown = f"[{host}]" if ":" in host else host
        if port is not None:
            found.append(f"{parts.scheme}://{shown}:{port}{parts.path}")
    return tuple(found)


class Ear:
    """Beacons in, nodes out. Bounded in memory, and in what hostile datagrams cost."""

    def __init__(self, me: Key, counters: Counter[str]) -> None:
        self._me = me
        self._counters = counters
        self._heard: dict[Key, Heard] = {}
        self._opened: dict[bytes, tuple[Key, Beacon]] = {}
        self._checks_left = _CHECKS_AT_ONCE
        self._checked_at = 0.0

    def hear(self, datagram: bytes, source: str, now: float) -> tuple[Heard, bool] | None:
        """The node that sent this, and whether it or an address of it is new here; None when it
        is ourselves, or no beacon."""
        if datagram[_KEY] == self._me:
            return None
        opened = self._opened.get(datagram) or self._open(datagram, now)
        if opened is None:
            return None
        key, beacon = opened
        known = self._heard.pop(key, None)
        is_here = known is not None and now - known.heard_at < HEARD_S
        addresses = reachable(beacon, source)
        before = known.addresses if known is not None and is_here else ()
        merged = tuple(dict.fromkeys((*addresses, *before)))[:_MAX_LISTEN]
        heard = self._heard[key] = Heard(key, beacon.name, merged, now)
        if len(self._heard) > MAX_HEARD:
            del self._heard[next(iter(self._heard))]
        return heard, set(merged) != set(before)

    def list(self, now: float) -> list[Heard]:
        """Who is there, by name."""
        found = [each for each in self._heard.values() if now - each.heard_at < HEARD_S]
        return sorted(found, key=lambda each: (each.name, each.key))

    def _open(self, datagram: bytes, now: float) -> tuple[Key, Beacon] | None:
        if len(datagram) > MAX_BYTES or not datagram.startswith(_MAGIC):
            self._counters["beacons.refused.malformed"] += 1
            return None
        refill = (now - self._checked_at) * _CHECKS_PER_S
        self._checks_left = min(_CHECKS_AT_ONCE, self._checks_left + refill)
        self._checked_at = now
        if self._checks_left < 1:
            self._counters["beacons.refused.flood"] += 1
            return None
        self._checks_left -= 1
        try:
            opened = open_beacon(datagram)
        except Untrusted:
            self._counters["beacons.refused.untrusted"] += 1
            return None
        # A node says the same until something changes: checked once, known again.
        if len(self._opened) >= MAX_HEARD:
            del self._opened[next(iter(self._opened))]
        self._opened[datagram] = opened
        return opened
