"""Who is there: alive, suspect or dead, judged by who is linked with whom. Sans-IO.

Every link is watched by its two ends already (`peers/links.py`), so nobody sends heartbeats of
his own across the network: a node says with whom it is linked, once, whenever that changes. A
node is alive when a chain of links leads to it from here, each confirmed by both of its ends (our
own links we know ourselves). A node that dies cannot withdraw what it said; the other ends do.

Only spans of this machine's own steady clock are compared, never moments of two clocks.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final, Literal

from orvalho.contexts.identity import Key
from orvalho.peers.records import short_key

State = Literal["alive", "suspect", "dead"]

# Suspect for so many intervals, then dead. The links need up to one to notice a silence, so that
# a dead node is called dead within three.
SUSPECT_INTERVALS: Final = 1.5


class Sights:
    """The links of the network as far as they are told, and what follows for each node. `now` is
    in seconds of any clock that only goes forward."""

    def __init__(self, me: Key, interval_s: float, now: float) -> None:
        self.interval_s = interval_s
        self._me = me
        self._began_at = now
        self._ours: frozenset[Key] = frozenset()
        self._told: dict[Key, frozenset[bytes]] = {}
        self._alive: frozenset[Key] = frozenset({me})
        self._lost_at: dict[Key, float] = {}

    def linked(self, peers: Iterable[Key], now: float) -> None:
        """The nodes that we are linked with now."""
        ours = frozenset(peers)
        if ours != self._ours:
            self._ours = ours
            self._judge(now)

    def told(self, node: Key, links: Collection[bytes], now: float) -> None:
        """A node says whom it is linked with, by `short_key`."""
        self._told[node] = frozenset(links)
        self._judge(now)

    def forget(self, node: Key, now: float) -> None:
        self._told.pop(node, None)
        self._judge(now)
        self._lost_at.pop(node, None)

    def state(self, node: Key, now: float) -> State:
        """A node that was never seen counts from our own start."""
        if node in self._alive:
            return "alive"
        lost_for_s = now - self._lost_at.get(node, self._began_at)
        return "suspect" if lost_for_s < SUSPECT_INTERVALS * self.interval_s else "dead"

    def lost_for_s(self, node: Key, now: float) -> float | None:
        """How long the node has not been alive; 0 when it is, None when it never was."""
        if node in self._alive:
            return 0.0
        lost_at = self._lost_at.get(node)
        return None if lost_at is None else now - lost_at

    def _judge(self, now: float) -> None:
        alive = self._reached()
        for node in self._alive - alive:
            self._lost_at[node] = now
        for node in alive - self._alive:
            self._lost_at.pop(node, None)
        self._alive = alive

    def _reached(self) -> frozenset[Key]:
        by_short = {short_key(node): node for node in self._told}
        ours = short_key(self._me)
        reached = {self._me, *self._ours}
        edge = list(self._ours)
        while edge:
            node = edge.pop()
            for short in self._told.get(node, ()):
                other = by_short.get(short)
                if other is None or other in reached or short == ours:
                    continue
                if short_key(node) in self._told[other]:
                    reached.add(other)
                    edge.append(other)
        return frozenset(reached)
