"""Which of several ways to a node to take, and which further ones to look for. Pure.

A way is direct, or goes through a relay: then its address has the scheme `relay`. Direct ones are
better, however slow. The choice between two of a kind sticks, so that it does not flap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["direct", "relay"]

RELAY: Final = "relay"
# Schemes that share a way through the network, so that one is no spare for the other.
_FAMILIES: Final = {"wss": "ws", "h2s": "h2"}
_LIVE_TRANSPORTS: Final = 2
# A rival must be this much quicker than the way in use.
_QUICKER_SHARE: Final = 0.75
_QUICKER_S: Final = 0.002


@dataclass(frozen=True, slots=True)
class Path:
    """An open way to a node. `rtt_s` is its round trip, None until it has been measured;
    `transport` is a URL scheme; `is_quiet` says that something should have come in by now."""

    description: str
    rtt_s: float | None
    opened_at: float
    transport: str = ""
    is_quiet: bool = False

    @property
    def kind(self) -> Kind:
        return "relay" if self.transport == RELAY else "direct"

    def __str__(self) -> str:
        return f"{self.kind} {self.description}"


def rank(paths: Sequence[Path]) -> list[int]:
    """The places of the paths, best first: one that is heard before a quiet one, a direct one
    before a relay, a measured one before one that is not, the quicker before the slower, the
    newer before the older."""

    def cost(index: int) -> tuple[bool, bool, bool, float, float]:
        path = paths[index]
        return (
            path.is_quiet,
            path.kind == "relay",
            path.rtt_s is None,
            path.rtt_s or 0.0,
            -path.opened_at,
        )

    return sorted(range(len(paths)), key=cost)


def choose(paths: Sequence[Path], current: int | None) -> int:
    """The place of the path to use from now on, where `current` is the one in use."""
    best = rank(paths)[0]
    if current is None or current == best:
        return best
    used, rival = paths[current], paths[best]
    if (used.is_quiet, used.kind) != (rival.is_quiet, rival.kind):
        return best
    if used.rtt_s is None or rival.rtt_s is None:
        return best if rival.rtt_s is not None else current
    gained_s = used.rtt_s - rival.rtt_s
    is_worth_it = gained_s > _QUICKER_S and rival.rtt_s < _QUICKER_SHARE * used.rtt_s
    return best if is_worth_it else current


def wanted(addresses: Sequence[str], paths: Sequence[Path]) -> list[str]:
    """Which addresses to dial, in this order, when these paths are open: any, direct ones first,
    when none is; direct ones when only relays are; and beside direct ones a spare over another
    transport."""
    in_order = sorted(dict.fromkeys(addresses), key=is_relay)
    if not paths:
        return in_order
    direct = [address for address in in_order if not is_relay(address)]
    used = {family(path.transport) for path in paths if path.kind == "direct"}
    if len(used) >= _LIVE_TRANSPORTS:
        return []
    return [address for address in direct if family(_scheme(address)) not in used]


def family(scheme: str) -> str:
    """`wss` is a way like `ws`, and `nats+tls` one like `nats`."""
    plain = scheme.partition("+")[0]
    return _FAMILIES.get(plain, plain)


def is_relay(address: str) -> bool:
    """Whether it leads through another node."""
    return _scheme(address) == RELAY


def _scheme(address: str) -> str:
    return address.partition("://")[0]
