"""The relay's part of a relayed link: join two peers, and pass their frames on, unread.

A circuit lies between the channels over which it was opened, neither of which is relayed itself;
with either of them it ends. Who sends further ahead than the window allows loses the circuit, so
what a relay holds for two peers is bounded.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Final

import msgspec

from orvalho.contexts.identity import Key, key_text
from orvalho.errors import Denied, InvalidInput, LimitExceeded, Unavailable
from orvalho.peers.channel import Channel
from orvalho.peers.dispatch import Dispatch
from orvalho.peers.frames import Tell
from orvalho.peers.links import Links, PeerBook
from orvalho.peers.relay import (
    DOWN,
    UP,
    WINDOW_BYTES,
    Open,
    RelayTerms,
    RelayTransport,
    What,
    address_of,
    read,
    read_open,
    write,
)

CIRCUITS_PER_PEER: Final = 32
_OFFER_S: Final = 8.0
_HERE: Final = "relay.here"


@dataclass(slots=True)
class _Leg:
    """One way through a circuit: what comes from `source` goes out on `out`. `ahead_bytes` have
    gone out and have not been read."""

    circuit: bytes
    source: Key
    out: Channel
    ahead_bytes: int = 0


class Relays:
    """Passes frames between peers, tells peers who else is within its reach, and finds relays
    for our own links, which `transport` makes. `links` is set by whoever makes both."""

    links: Links

    def __init__(
        self,
        dispatch: Dispatch,
        counters: Counter[str],
        terms: RelayTerms,
        book: PeerBook,
    ) -> None:
        self.transport: Final = RelayTransport(
            dispatch=dispatch,
            counters=counters,
            direct=self._direct,
            name_of=lambda peer: book.name(peer) or key_text(peer),
        )
        self._dispatch = dispatch
        self._counters = counters
        self._terms = terms
        self._book = book
        self._legs: dict[tuple[Key, bytes], _Leg] = {}
        dispatch.answer("relay.open", self._open)
        dispatch.hear(UP, self._pass_on)
        dispatch.hear(_HERE, self._heard_here)

    def addresses(self, peer: Key) -> list[str]:
        """The addresses of a peer through others."""
        asked = [key for key in self.links.online() if key != peer and self._terms.asks(key)]
        return [address_of(key, peer) for key in asked if self.links.direct(key) is not None]

    def up(self, channel: Channel) -> None:
        """A channel has opened: whom its peer cannot reach may be reached through us now."""
        peer = channel.peer
        if channel.path.kind == "relay" or not self._terms.passes(peer):
            return
        for other in self.links.online():
            beside = self.links.direct(other)
            if other != peer and beside is not None and self._terms.passes(other):
                beside.send(Tell(kind=_HERE, body=peer))
                channel.send(Tell(kind=_HERE, body=other))

    def down(self, channel: Channel) -> None:
        """A channel has ended, and the circuits over it."""
        self.transport.down(channel)
        for leg in list(self._legs.values()):
            if leg.out is channel:
                self._close(leg)

    def _direct(self, peer: Key) -> Channel | None:
        return self.links.direct(peer)

    def _heard_here(self, relay: Key, body: bytes) -> None:
        """A relay says that it reaches this node now."""
        if self._terms.asks(relay) and self.links.best(Key(body)) is None:
            self.links.nudge(Key(body))

    async def _open(self, caller: Key, body: bytes) -> bytes:
        asked = read_open(body)
        called = Key(asked.peer)
        if called not in self._book.peers() or called == caller:
            raise Unavailable("the relay does not know this node")
        if not (self._terms.passes(caller) and self._terms.passes(called)):
            raise Denied("nothing is relayed here between these nodes")
        near, far = self.links.direct(caller), self.links.direct(called)
        if near is None or far is None:
            raise Unavailable("the relay does not reach it directly")
        for peer in (caller, called):
            if sum(key == peer for key, _ in self._legs) >= CIRCUITS_PER_PEER:
                raise LimitExceeded(f"relay-circuits: {CIRCUITS_PER_PEER} are open already")
        circuit = asked.circuit
        if (caller, circuit) in self._legs or (called, circuit) in self._legs:
            raise InvalidInput("there is such a circuit already")
        leg = self._legs[caller, circuit] = _Leg(circuit, caller, far)
        self._legs[called, circuit] = _Leg(circuit, called, near)
        offer = msgspec.msgpack.encode(Open(circuit=circuit, peer=caller))
        try:
            await self._dispatch.ask(called, "relay.offer", offer, _OFFER_S)
        except BaseException:
            self._close(leg)
            raise
        if (caller, circuit) not in self._legs:
            raise Unavailable("the link to one of them was lost")
        self._counters["relay.opened"] += 1
        return b""

    def _pass_on(self, source: Key, body: bytes) -> None:
        found = read(body)
        leg = self._legs.get((source, found[0])) if found else None
        if found is None or leg is None:
            self._counters["relay.unknown"] += 1
            return
        circuit, what, content = found
        if what is What.CLOSE or not leg.out.is_open:
            self._close(leg)
            return
        if what is What.FRAME:
            leg.ahead_bytes += len(content)
            self._counters["relay.bytes"] += len(content)
            if leg.ahead_bytes > WINDOW_BYTES:
                self._counters["relay.flooded"] += 1
                self._close(leg)
                return
        else:
            # It may grant what came from the other side only, and only what did.
            back = self._back(leg)
            back.ahead_bytes = max(0, back.ahead_bytes - int.from_bytes(content))
        leg.out.send(write(DOWN, circuit, what, content))

    def _back(self, leg: _Leg) -> _Leg:
        return self._legs[leg.out.peer, leg.circuit]

    def _close(self, leg: _Leg) -> None:
        """Both ends lose the circuit, if they have not yet."""
        if (leg.source, leg.circuit) not in self._legs:
            return
        for each in (leg, self._back(leg)):
            self._legs.pop((each.source, each.circuit), None)
            if each.out.is_open:
                each.out.send(write(DOWN, each.circuit, What.CLOSE))
