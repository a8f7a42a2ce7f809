"""Datagrams to and from everybody on the local network: IPv4 and IPv6 multicast, one socket an
interface and family (RFC 1112, RFC 4291, RFC 3678). They never leave the network: TTL 1, and a
link-local group."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

from orvalho.peers.beacon import MAX_BYTES

_log = logging.getLogger(__name__)

GROUP_IPV4: Final = "239.192.79.114"
GROUP_IPV6: Final = "ff02::4f72:7661"
# Without these a socket hears a group on every interface that any program here has joined it on.
_IP_MULTICAST_ALL: Final = 49
_IPV6_MULTICAST_ALL: Final = 29
# Datagrams that are read before others get a turn on the loop.
_AT_ONCE: Final = 16

# Called with a datagram, and the host it came from.
OnDatagram = Callable[[bytes, str], None]


@dataclass(frozen=True, slots=True)
class Interface:
    """A network interface that is not loopback."""

    index: int
    name: str
    has_ipv4: bool
    has_ipv6: bool


class Multicast:
    """Joined on the interfaces that `use` was told last; `close` lets go of all."""

    def __init__(self, port: int, on_datagram: OnDatagram) -> None:
        self._port = port
        self._on_datagram = on_datagram
        self._sockets: dict[tuple[int, socket.AddressFamily], socket.socket] = {}

    def use(self, interfaces: Collection[Interface]) -> bool:
        """Join the group on these interfaces, leave it on others; True when one is new."""
        wanted = {(each.index, socket.AF_INET) for each in interfaces if each.has_ipv4}
        wanted |= {(each.index, socket.AF_INET6) for each in interfaces if each.has_ipv6}
        for place in self._sockets.keys() - wanted:
            self._close(place)
        is_new = False
        for index, family in sorted(wanted - self._sockets.keys()):
            try:
                joined = _join(index, family, self._port)
            except OSError as error:
                # An interface that is down, or has no multicast: tried again at the next look.
                _log.debug("multicast.failed", extra={"interface": index, "why": str(error)})
                continue
            self._sockets[index, family] = joined
            asyncio.get_running_loop().add_reader(joined, self._read, joined)
            is_new = True
        return is_new

    def send(self, datagram: bytes) -> int:
        """To everybody, on each interface; how many took it. An interface that cannot just now
        (an IPv6 address that is still being checked) is left out."""
        sent = 0
        for (index, family), joined in self._sockets.items():
            place: tuple[str, int] | tuple[str, int, int, int] = (GROUP_IPV4, self._port)
            if family == socket.AF_INET6:
                place = (GROUP_IPV6, self._port, 0, index)
            with contextlib.suppress(OSError):
                joined.sendto(datagram, place)
                sent += 1
        return sent

    def close(self) -> None:
        for place in list(self._sockets):
            self._close(place)

    def _close(self, place: tuple[int, socket.AddressFamily]) -> None:
        joined = self._sockets.pop(place)
        asyncio.get_running_loop().remove_reader(joined)
        joined.close()

    def _read(self, joined: socket.socket) -> None:
        for _ in range(_AT_ONCE):
            try:
                # One byte more than allowed, so that what is too long is seen to be.
                datagram, source = joined.recvfrom(MAX_BYTES + 1)
            except OSError:
                return
            self._on_datagram(datagram, _host(source))


def _join(index: int, family: socket.AddressFamily, port: int) -> socket.socket:
    joined = socket.socket(family, socket.SOCK_DGRAM)
    try:
        joined.setblocking(False)
        # Several homes on one machine share the port; each gets a copy.
        joined.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        joined.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET:
            group = socket.inet_aton(GROUP_IPV4)
            request = struct.pack("@4s4si", group, bytes(4), index)  # struct ip_mreqn
            with contextlib.suppress(OSError):  # Linux alone has it
                joined.setsockopt(socket.IPPROTO_IP, _IP_MULTICAST_ALL, 0)
            joined.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)
            joined.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, request)
            joined.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 1)
            joined.bind((GROUP_IPV4, port))
        else:
            group = socket.inet_pton(socket.AF_INET6, GROUP_IPV6)
            request = struct.pack("@16si", group, index)  # struct ipv6_mreq
            joined.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            with contextlib.suppress(OSError):
                joined.setsockopt(socket.IPPROTO_IPV6, _IPV6_MULTICAST_ALL, 0)
            joined.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, request)
            joined.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
            joined.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 1)
            joined.bind((GROUP_IPV6, port, 0, index))
    except OSError:
        joined.close()
        raise
    return joined


def _host(source: tuple[str, int] | tuple[str, int, int, int]) -> str:
    """The host part; a link-local one means nothing without its interface."""
    host = source[0].partition("%")[0]
    if len(source) == 4 and source[3]:
        with contextlib.suppress(OSError):
            return f"{host}%{socket.if_indextoname(source[3])}"
    return host
