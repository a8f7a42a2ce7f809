"""Where else a peer may be found than the trust book says: heard on the network, or set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import anyio

from orvalho.contexts.identity import Key
from orvalho.contexts.trust import TrustBook

# Addresses that were heard are tried first, so few of them, and none that has gone stale: who
# sends false ones delays a dial by no more than these.
_HEARD_LIMIT: Final = 3
_HEARD_S: Final = 600.0
# Nor does a flood of beacons make us dial oftener than this.
_DIAL_S: Final = 2.0


@dataclass(slots=True)
class _Heard:
    """When each address was heard last, the latest at the end; and when that led to a dial."""

    at: dict[str, float] = field(default_factory=dict)
    dialled_at: float = float("-inf")


class Hints:
    """Addresses to try besides those of the book. Nothing here is kept. `now` is in seconds of
    one steady clock."""

    def __init__(self, bootstrap: Sequence[str]) -> None:
        self._heard: dict[Key, _Heard] = {}
        self._set: dict[str, list[str]] = {}
        self.use(bootstrap)

    def use(self, bootstrap: Sequence[str]) -> None:
        """Take the setting: `laptop=ws://192.168.1.20:4455` each."""
        self._set = {}
        for entry in bootstrap:
            name, _, address = entry.partition("=")
            self._set.setdefault(name, []).append(address)

    def hear(self, key: Key, addresses: Sequence[str], now: float) -> bool:
        """A peer was heard to be there; True when it is time to dial it, if it is not linked."""
        heard = self._heard.setdefault(key, _Heard())
        for address in reversed(addresses[:_HEARD_LIMIT]):
            heard.at.pop(address, None)
            heard.at[address] = now
        for address in list(heard.at)[:-_HEARD_LIMIT]:
            del heard.at[address]
        if now - heard.dialled_at < _DIAL_S:
            return False
        heard.dialled_at = now
        return True

    def heard(self, key: Key, now: float) -> list[str]:
        """The latest first."""
        heard = self._heard.get(key)
        if heard is None:
            return []
        return [each for each, at in reversed(heard.at.items()) if now - at < _HEARD_S]

    def bootstrap(self, name: str) -> list[str]:
        return self._set.get(name, [])


class Book:
    """The trust book as the road needs it, and where else a peer may be found."""

    def __init__(self, book: TrustBook, hints: Hints) -> None:
        self._book = book
        self._hints = hints

    def peers(self) -> tuple[Key, ...]:
        return tuple(peer.node_key for peer in self._book.peers())

    def addresses(self, key: Key) -> Sequence[str]:
        peer = self._book.by_key(key)
        if peer is None:
            return ()
        hints = self._hints
        found = (
            *hints.heard(key, anyio.current_time()),
            *peer.addresses,
            *hints.bootstrap(peer.name),
        )
        return tuple(dict.fromkeys(found))

    def name(self, key: Key) -> str | None:
        peer = self._book.by_key(key)
        return peer.name if peer else None
