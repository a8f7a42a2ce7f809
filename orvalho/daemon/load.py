"""How busy nodes are: what each tells its owner's other nodes, and what we were told of late."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable, Mapping
from typing import Final

import anyio
import msgspec

from orvalho.contexts.identity import Key
from orvalho.daemon.house import House
from orvalho.daemon.wire import decode, encode
from orvalho.errors import Denied, OrvalhoError

LOAD: Final = "node.load"

# What was told is used for so long: a burst of scripts asks once.
_FRESH_S: Final = 1.0
# A node that takes longer is chosen as if it were idle, and will be slower by its round trip.
_ANSWER_S: Final = 0.5
_MOST: Final = 10_000.0


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """`busy`: runs under way or waiting, and other processes that want to run (the kernel's load of
    the last minute), for each core."""

    busy: float


class Loads:
    """Tells ours, and keeps what others told."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._known: dict[Key, tuple[float, float | None]] = {}

    async def answer(self, sender: Key, _body: bytes) -> bytes:
        """Raises:
        Denied: the asker is another person's.
        """
        peer = self._house.trust.by_key(sender)
        if peer is None or peer.relation != "own":
            raise Denied("this node tells how busy it is to its owner's devices alone")
        return encode(Load(busy=self.here()))

    def here(self) -> float:
        """How busy this node is."""
        runs = sum(self._house.ledger.statistics().values())
        try:
            load = os.getloadavg()[0]
        except (OSError, AttributeError):
            load = 0.0
        return round((runs + load) / (os.cpu_count() or 1), 2)

    async def of(self, nodes: Iterable[Key]) -> Mapping[Key, float | None]:
        """How busy these are, all asked at once; None for one that does not tell."""
        wanted = tuple(nodes)
        async with anyio.create_task_group() as tasks:
            for node in wanted:
                if self._known.get(node, (-math.inf, None))[0] < time.monotonic() - _FRESH_S:
                    tasks.start_soon(self._ask, node)
        return {node: self._known[node][1] for node in wanted}

    def known(self, node: Key) -> float | None:
        """What was told last."""
        return self._known.get(node, (0.0, None))[1]

    async def _ask(self, node: Key) -> None:
        busy: float | None = None
        if node == self._house.identity.node.key:
            busy = self.here()
        else:
            try:
                told = decode(await self._house.node.ask(node, LOAD, b"", _ANSWER_S), Load).busy
                busy = told if 0 <= told <= _MOST else None
            except OrvalhoError:
                busy = None
        self._known[node] = (time.monotonic(), busy)
