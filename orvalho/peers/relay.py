"""Links through a third node: both ends hold a link to the relay, which passes frames on.

An address is `relay://<relay key>/<peer key>`. Inside the link runs the ordinary handshake between
the two ends, so the relay sees ciphertext alone. Ends speak to the relay in tells of kind
`relay.up` and hear from it in `relay.down`: 16 bytes of circuit, one of what it is, then a frame,
or how many bytes have been read. An end sends no more than `WINDOW_BYTES` ahead of the reader.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import anyio
import msgspec
from anyio.abc import TaskGroup

from orvalho.contexts.identity import Key, key_text, parse_key
from orvalho.errors import InvalidInput, LimitExceeded, OrvalhoError, Unavailable
from orvalho.peers.channel import Channel
from orvalho.peers.dispatch import Dispatch
from orvalho.peers.frames import Tell
from orvalho.peers.wire import UNREADABLE
from orvalho.transports.link import OnLink

SCHEME: Final = "relay"
CIRCUIT_BYTES: Final = 16
FRAME_BYTES: Final = 1 << 16
WINDOW_BYTES: Final = 1 << 18
UP: Final = "relay.up"
DOWN: Final = "relay.down"

_CREDIT_BYTES: Final = WINDOW_BYTES // 4
_OPEN_S: Final = 10.0
_LINKS_PER_RELAY: Final = 64
_CLOSING_S: Final = 2.0


class Open(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """`relay.open`, an end to the relay: reach `peer` for me; and `relay.offer`, the relay to the
    other end: `peer` wants to reach you. -> nothing, once both are joined"""

    circuit: bytes
    peer: bytes


class What(IntEnum):
    """What a tell carries."""

    FRAME = 0
    CREDIT = 1
    CLOSE = 2


def read_open(body: bytes) -> Open:
    """Raises:
    InvalidInput: this is no such request.
    """
    try:
        asked = msgspec.msgpack.decode(body, type=Open)
    except UNREADABLE as error:
        raise InvalidInput("a request to a relay is malformed") from error
    if len(asked.circuit) != CIRCUIT_BYTES:
        raise InvalidInput("a request to a relay is malformed")
    return asked


def write(kind: str, circuit: bytes, what: What, content: bytes = b"") -> Tell:
    """The tell that carries something along a circuit."""
    return Tell(kind=kind, body=circuit + bytes([what]) + content)


def read(body: bytes) -> tuple[bytes, What, bytes] | None:
    """Circuit, what, and content of a tell; None when it is malformed."""
    if len(body) <= CIRCUIT_BYTES or body[CIRCUIT_BYTES] not in list(What):
        return None
    what, content = What(body[CIRCUIT_BYTES]), body[CIRCUIT_BYTES + 1 :]
    if len(content) > FRAME_BYTES or (what is What.CREDIT and len(content) != 4):
        return None
    return body[:CIRCUIT_BYTES], what, content


def address_of(relay: Key, peer: Key) -> str:
    return f"{SCHEME}://{key_text(relay)}/{key_text(peer)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayTerms:
    """`passes` says of a peer whether frames may be passed on from it and to it; `asks` whether
    it is asked to relay for us. Both answer from memory, as of now."""

    passes: Callable[[Key], bool] = lambda _: False
    asks: Callable[[Key], bool] = lambda _: False


class RelayLink:
    """One end of a circuit. `channel` is the link to the relay, for all of its life."""

    max_frame_bytes = FRAME_BYTES

    def __init__(
        self,
        channel: Channel,
        circuit: bytes,
        description: str,
        on_closed: Callable[[RelayLink], None],
    ) -> None:
        self.description = description
        self.channel = channel
        self.circuit = circuit
        self._on_closed = on_closed
        self._arrived: deque[bytes] = deque()
        self._arrived_bytes = 0
        self._read_bytes = 0
        self._ahead_bytes = 0
        self._changed = asyncio.Event()
        self._is_gone = False
        self._is_closed = False

    async def send(self, frame: bytes) -> None:
        if len(frame) > FRAME_BYTES:
            raise ValueError(f"a frame has at most {FRAME_BYTES} bytes, not {len(frame)}")
        self._check()
        while self._ahead_bytes + len(frame) > WINDOW_BYTES:
            await self._change()
        await self.channel.room()
        self._check()
        self._ahead_bytes += len(frame)
        self.channel.send(write(UP, self.circuit, What.FRAME, frame))

    async def receive(self) -> bytes:
        while not self._arrived:
            await self._change()
        frame = self._arrived.popleft()
        self._arrived_bytes -= len(frame)
        self._read_bytes += len(frame)
        if self._read_bytes >= _CREDIT_BYTES and not self._is_gone:
            credit = self._read_bytes.to_bytes(4)
            self._read_bytes = 0
            self.channel.send(write(UP, self.circuit, What.CREDIT, credit))
        return frame

    async def aclose(self) -> None:
        if not self._is_gone and self.channel.is_open:
            self.channel.send(write(UP, self.circuit, What.CLOSE))
        self._is_closed = True
        self.lost()

    def admit(self) -> None:
        """The relay vouches for nobody, and strangers cannot ask it: there is nothing to count."""

    def arrive(self, what: What, content: bytes) -> None:
        """Something has come along the circuit."""
        match what:
            case What.FRAME:
                self._arrived.append(content)
                self._arrived_bytes += len(content)
                if self._arrived_bytes > WINDOW_BYTES:
                    self.lost()
            case What.CREDIT:
                self._ahead_bytes = max(0, self._ahead_bytes - int.from_bytes(content))
            case What.CLOSE:
                self.lost()
        self._changed.set()

    def lost(self) -> None:
        """Nothing more will come; what has can still be read."""
        if not self._is_gone:
            self._is_gone = True
            self._on_closed(self)
        self._changed.set()

    async def _change(self) -> None:
        self._check()
        self._changed.clear()
        await self._changed.wait()

    def _check(self) -> None:
        if self._is_closed:
            raise anyio.ClosedResourceError
        if self._is_gone:
            raise Unavailable("the relayed link is lost", where=self.description)


@dataclass(frozen=True, slots=True)
class _RelayListener:
    address: str


class RelayTransport:
    """Makes and welcomes relayed links. `direct` finds the channel to a node that runs through
    no relay itself: a relay is never reached over a relay."""

    def __init__(
        self,
        *,
        dispatch: Dispatch,
        counters: Counter[str],
        direct: Callable[[Key], Channel | None],
        name_of: Callable[[Key], str],
    ) -> None:
        self._dispatch = dispatch
        self._counters = counters
        self._direct = direct
        self._name_of = name_of
        self._links: dict[tuple[Key, bytes], RelayLink] = {}
        self._welcome: tuple[TaskGroup, OnLink] | None = None
        dispatch.answer("relay.offer", self._offered)
        dispatch.hear(DOWN, self._heard)

    @asynccontextmanager
    async def listen(self, address: str, on_link: OnLink) -> AsyncIterator[_RelayListener]:
        async with anyio.create_task_group() as tasks:
            self._welcome = tasks, on_link
            try:
                yield _RelayListener(address)
            finally:
                self._welcome = None
                for link in list(self._links.values()):
                    link.lost()
                tasks.cancel_scope.deadline = anyio.current_time() + _CLOSING_S

    async def dial(self, address: str) -> RelayLink:
        relay, peer = _parse(address)
        channel = self._direct(relay)
        if channel is None:
            raise Unavailable("the relay is not linked directly", where=address)
        link = self._link(channel, os.urandom(CIRCUIT_BYTES))
        asked = msgspec.msgpack.encode(Open(circuit=link.circuit, peer=peer))
        try:
            await self._dispatch.ask(relay, "relay.open", asked, _OPEN_S)
        except BaseException as error:
            await link.aclose()
            if isinstance(error, OrvalhoError):
                raise Unavailable(error.message, where=address) from error
            raise
        return link

    def down(self, channel: Channel) -> None:
        """A channel has ended, and the circuits over it."""
        for link in list(self._links.values()):
            if link.channel is channel:
                link.lost()

    async def _offered(self, relay: Key, body: bytes) -> bytes:
        asked = read_open(body)
        channel = self._direct(relay)
        if self._welcome is None or channel is None:
            raise Unavailable("relayed links are not taken now")
        if (relay, asked.circuit) in self._links:
            raise InvalidInput("there is such a circuit already")
        if sum(key == relay for key, _ in self._links) >= _LINKS_PER_RELAY:
            raise LimitExceeded(f"relay-links: {_LINKS_PER_RELAY} links come by this relay already")
        tasks, on_link = self._welcome
        tasks.start_soon(_serve, self._link(channel, asked.circuit), on_link)
        return b""

    def _heard(self, relay: Key, body: bytes) -> None:
        found = read(body)
        link = self._links.get((relay, found[0])) if found else None
        if found is None or link is None:
            self._counters["relay.unknown"] += 1
            return
        link.arrive(found[1], found[2])

    def _link(self, channel: Channel, circuit: bytes) -> RelayLink:
        description = f'"{self._name_of(channel.peer)}"'
        link = RelayLink(channel, circuit, description, self._forget)
        self._links[channel.peer, circuit] = link
        return link

    def _forget(self, link: RelayLink) -> None:
        self._links.pop((link.channel.peer, link.circuit), None)


async def _serve(link: RelayLink, on_link: OnLink) -> None:
    try:
        await on_link(link)
    finally:
        await link.aclose()


def _parse(address: str) -> tuple[Key, Key]:
    scheme, separator, rest = address.partition("://")
    relay, slash, peer = rest.partition("/")
    if scheme != SCHEME or not separator or not slash:
        raise InvalidInput("an address of a relay is relay://KEY/KEY", where=address)
    return parse_key(relay), parse_key(peer)
