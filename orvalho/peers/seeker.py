"""Who shows this code? One question by UDP multicast on the local network, and its answer.

A query holds the hash of a nameplate and a nonce; the answer comes back alone to who asked: the
nonce, and the addresses to dial. Nothing here is secret or believed: who an address belongs to is
proven by the code exchange. A query is as long as the longest answer, so that nobody can use an
inviter to send others more than he sends himself.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

import anyio
import msgspec

from orvalho.peers.wire import UNREADABLE

_log = logging.getLogger(__name__)

# Administratively scoped (RFC 2365) and link-local, transient (RFC 4291, section 2.7).
GROUP_IPV4: Final = "239.255.44.57"
GROUP_IPV6: Final = "ff12::4457"
_QUERY: Final = b"orvalho/seek/1\n"
_ANSWER: Final = b"orvalho/here/1\n"
_NONCE_BYTES: Final = 16
_HASH_BYTES: Final = 16
_QUERY_BYTES: Final = 1024
_MOST_ADDRESSES: Final = 16
_MOST_ANSWERS: Final = 16
_ASK_AGAIN_S: Final = 0.5
# After the first answer: there may be two who show the same number.
_LISTEN_ON_S: Final = 0.3
_REJOIN_S: Final = 10.0
# Linux: a socket hears its own memberships alone, not all of this machine's.
_IP_MULTICAST_ALL: Final = 49
_LOOPBACK: Final = "lo"

Addresses = tuple[str, ...]
# (hash of a nameplate) -> the addresses to answer, or None when it is not shown here.
Lookup = Callable[[bytes], Sequence[str] | None]


# ---- the datagrams ----------------------------------------------------------------------------


def write_query(nameplate_hash: bytes, nonce: bytes) -> bytes:
    return (_QUERY + nonce + nameplate_hash).ljust(_QUERY_BYTES, b"\0")


def read_query(datagram: bytes) -> tuple[bytes, bytes] | None:
    """The nameplate's hash and the nonce; None when it is no query."""
    if len(datagram) != _QUERY_BYTES or not datagram.startswith(_QUERY):
        return None
    rest = datagram[len(_QUERY) :]
    return rest[_NONCE_BYTES : _NONCE_BYTES + _HASH_BYTES], rest[:_NONCE_BYTES]


def write_answer(nonce: bytes, addresses: Sequence[str]) -> bytes:
    """As many of the addresses as fit into the length of a query."""
    kept = tuple(addresses[:_MOST_ADDRESSES])
    while True:
        answer = _ANSWER + nonce + msgspec.msgpack.encode(kept)
        if len(answer) <= _QUERY_BYTES or not kept:
            return answer
        kept = kept[:-1]


def read_answer(datagram: bytes, nonce: bytes) -> Addresses | None:
    """The addresses; None when it is no answer to this query."""
    head = _ANSWER + nonce
    if len(datagram) > _QUERY_BYTES or not datagram.startswith(head):
        return None
    try:
        addresses = msgspec.msgpack.decode(datagram[len(head) :], type=Addresses)
    except UNREADABLE:
        return None
    return addresses[:_MOST_ADDRESSES] or None


# ---- asking -----------------------------------------------------------------------------------


async def seek(nameplate_hash: bytes, port: int, timeout_s: float) -> list[Addresses]:
    """Ask on every interface who shows a nameplate: the addresses of each that answers, in the
    order they came; empty when nobody has after `timeout_s`."""
    nonce = os.urandom(_NONCE_BYTES)
    query = write_query(nameplate_hash, nonce)
    answers: list[Addresses] = []
    answered = asyncio.Event()

    def hear(datagram: bytes, _from: Any) -> None:
        addresses = read_answer(datagram, nonce)
        if addresses and addresses not in answers and len(answers) < _MOST_ANSWERS:
            answers.append(addresses)
            answered.set()

    async with contextlib.AsyncExitStack() as stack:
        voices = []
        for family in (socket.AF_INET, socket.AF_INET6):
            with contextlib.suppress(OSError):  # a machine without IPv6
                voices.append(await stack.enter_async_context(_voice(family, hear)))
        with anyio.move_on_after(timeout_s):
            while not answered.is_set():
                for voice in voices:
                    _ask_everywhere(voice, query, port)
                with anyio.move_on_after(_ASK_AGAIN_S):
                    await answered.wait()
            await anyio.sleep(_LISTEN_ON_S)
    return answers


def _ask_everywhere(voice: socket.socket, query: bytes, port: int) -> None:
    for index, name in socket.if_nameindex():
        # An interface that is down, has no address or no multicast; a full buffer.
        with contextlib.suppress(OSError):
            if voice.family == socket.AF_INET:
                option = _request_ipv4(index)
                voice.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, option)
                voice.sendto(query, (GROUP_IPV4, port))
            elif name != _LOOPBACK:  # it carries no link-local multicast
                voice.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
                voice.sendto(query, (GROUP_IPV6, port, 0, index))


# ---- answering --------------------------------------------------------------------------------


@asynccontextmanager
async def answer_seekers(port: int, lookup: Lookup) -> AsyncIterator[None]:
    """Answer queries for the length of the block, on every interface there is and comes to be.

    Raises:
        OSError: the port is taken by another program.
    """

    async with contextlib.AsyncExitStack() as stack:
        ears: dict[tuple[int, int], socket.socket] = {}
        voices: dict[int, socket.socket] = {}
        for family in (socket.AF_INET, socket.AF_INET6):
            with contextlib.suppress(OSError):
                voices[family] = await stack.enter_async_context(_voice(family, _ignore))

        def hear(family: int, datagram: bytes, sender: Any) -> None:
            query = read_query(datagram)
            addresses = lookup(query[0]) if query else None
            if query and addresses and family in voices:
                # Who cannot be reached, or a full buffer: the seeker asks again.
                with contextlib.suppress(OSError):
                    voices[family].sendto(write_answer(query[1], addresses), sender)

        async def listen() -> None:
            for (family, index), ear in _ears(port, ears):
                ears[family, index] = ear
                await stack.enter_async_context(_attached(ear, partial(hear, family)))

        await listen()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_listen_again, listen)
            yield
            tasks.cancel_scope.cancel()


async def _listen_again(listen: Callable[[], Any]) -> None:
    """A cable is plugged in, a wireless network joined."""
    while True:
        await anyio.sleep(_REJOIN_S)
        with contextlib.suppress(OSError):
            await listen()


def _ears(
    port: int, known: dict[tuple[int, int], socket.socket]
) -> Iterator[tuple[tuple[int, int], socket.socket]]:
    """A socket for each family and interface that has none yet.

    Raises:
        OSError: the port is taken.
    """
    for index, name in socket.if_nameindex():
        for family in (socket.AF_INET, socket.AF_INET6):
            is_silent = family == socket.AF_INET6 and name == _LOOPBACK
            if (family, index) in known or is_silent:
                continue
            ear = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            try:
                _join(ear, port, index)
            except OSError as error:
                ear.close()
                if error.errno == errno.EADDRINUSE:
                    raise
                continue
            yield (family, index), ear


def _join(ear: socket.socket, port: int, index: int) -> None:
    # Several homes of one machine listen at the same port; each hears what is sent to the group.
    ear.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if hasattr(socket, "SO_REUSEPORT"):
        ear.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    ear.setblocking(False)
    if ear.family == socket.AF_INET:
        ear.bind((GROUP_IPV4, port))
        with contextlib.suppress(OSError):
            ear.setsockopt(socket.IPPROTO_IP, _IP_MULTICAST_ALL, 0)
        ear.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, _request_ipv4(index))
        return
    ear.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    ear.bind((GROUP_IPV6, port, 0, index))
    request = socket.inet_pton(socket.AF_INET6, GROUP_IPV6) + struct.pack("@I", index)
    ear.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, request)


def _request_ipv4(index: int) -> bytes:
    """struct ip_mreqn (ip(7)): the group, any local address, and the interface by its index."""
    return socket.inet_aton(GROUP_IPV4) + bytes(4) + struct.pack("@i", index)


# ---- sockets ----------------------------------------------------------------------------------


class _Hearing(asyncio.DatagramProtocol):
    def __init__(self, hear: Callable[[bytes, Any], None]) -> None:
        self._hear = hear

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self._hear(data, addr)


@asynccontextmanager
async def _voice(family: int, hear: Callable[[bytes, Any], None]) -> AsyncIterator[socket.socket]:
    """A socket of our own to send from, and to be answered at."""
    voice = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    try:
        voice.setblocking(False)
        if family == socket.AF_INET6:
            voice.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        voice.bind(("", 0))
    except OSError:
        voice.close()
        raise
    async with _attached(voice, hear):
        yield voice


@asynccontextmanager
async def _attached(ear: socket.socket, hear: Callable[[bytes, Any], None]) -> AsyncIterator[None]:
    """What comes in at a socket goes to `hear`; it is closed with the block."""
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: _Hearing(hear), sock=ear)
    try:
        yield
    finally:
        transport.close()


def _ignore(_datagram: bytes, _from: Any) -> None:
    """Nobody has reason to write to the socket that answers are sent from."""
