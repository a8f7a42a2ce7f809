"""Where else a peer may be found than the trust book says: heard on the network, or set."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from orvalho.contexts.identity import Key

# Addresses that were heard are tried first, so few of them, and none that has gone stale: who
# sends false ones delays a dial by no more than these.
_HEARD_LIMIT: Final = 3
_HEARD_S: Final = 600.0


class Hints:
    """Addresses to try besides those of the book. Nothing here is kept."""

    def __init__(self, bootstrap: Sequence[str]) -> None:
        self._heard: dict[Key, dict[str, float]] = {}
        self._set: dict[str, list[str]] = {}
        self.use(bootstrap)

    def use(self, bootstrap: Sequence[str]) -> None:
        """Take the setting: `laptop=ws://192.168.1.20:4455` each."""
        self._set = {}
        for entry in bootstrap:
            name, _, address = entry.partition("=")
            self._set.setdefault(name, []).append(address)

    def hear(self, key: Key, addresses: Sequence[str]) -> bool:
        """The node was heard to be there; False when that is no news."""
        now = time.monotonic()
        known = self._heard.setdefault(key, {})
        news = [address for address in addresses if address not in known]
        for address in addresses:
            known.pop(address, None)
            known[address] = now
        for address in list(known)[:-_HEARD_LIMIT]:
            del known[address]
        return bool(news)

    def heard(self, key: Key) -> list[str]:
        """The latest first."""
        now = time.monotonic()
        found = self._heard.get(key, {})
        return [each for each, at in reversed(found.items()) if now - at < _HEARD_S]

    def bootstrap(self, name: str) -> list[str]:
        return self._set.get(name, [])
