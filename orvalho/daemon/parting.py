"""Dropping a peer, whoever decided it: the owner here, or a revocation from another device."""

from __future__ import annotations

from orvalho.contexts.trust import Peer
from orvalho.daemon.handlers.caller import CallerHandler
from orvalho.daemon.handlers.script import ScriptHandler
from orvalho.daemon.house import House


class Parting:
    """What has to end when a peer leaves the trust book."""

    def __init__(self, house: House, scripts: ScriptHandler, caller: CallerHandler) -> None:
        self._house = house
        self._scripts = scripts
        self._caller = caller

    async def part(self, peer: Peer) -> None:
        """The peer leaves the book; its key is refused, what it runs here is stopped, and what
        waits for it, or of it, is dropped.

        Raises:
            NotFound: it has left already.
        """
        await self._house.trust.remove(peer.name)
        self._scripts.stop_all_of(peer.node_key)
        await self._scripts.holding.part_from(peer.node_key)
        await self._house.node.forget(peer.node_key)
        await self._caller.part_from(peer.node_key)
