"""What we do when the owner asks which ways there are to a peer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from typing import Final

from orvalho.contexts.names import Several, parse_target
from orvalho.contexts.trust import Peer
from orvalho.control import messages as control
from orvalho.control import seeing
from orvalho.daemon.house import House
from orvalho.daemon.netcheck import netcheck
from orvalho.daemon.peer_words import path_to
from orvalho.daemon.reach import ask_ping, away, comes
from orvalho.daemon.selection import Selection, milliseconds
from orvalho.errors import InvalidInput, Unavailable

Replies = AsyncIterator[control.Reply]

_MOST_WITHOUT_DIRECT: Final = 10
_PAUSE_S: Final = 1.0


class ReachOperations:
    """`orvalho ping` and `netcheck`."""

    def __init__(self, house: House, environ: Mapping[str, str]) -> None:
        self._house = house
        self._environ = environ
        self._selection = Selection(house)

    async def ping(self, request: seeing.Ping) -> Replies:
        house = self._house
        name = parse_target(request.name)
        if isinstance(name, Several):
            async for reply in self._ping_each(name, request):
                yield reply
            return
        if name.node == house.name:
            raise InvalidInput(f"{name.node} is this very node", hint="orvalho status")
        peer = house.trust.by_name(name.node)
        if not await comes(house, peer, request.timeout_s):
            raise await away(house, peer)
        answered = 0
        for number in range(1, (request.count or _MOST_WITHOUT_DIRECT) + 1):
            if number > 1:
                await asyncio.sleep(_PAUSE_S)
            pong = await self._pong(peer, number, request.timeout_s)
            yield pong
            answered += pong.rtt_ms is not None
            if request.count is None and answered and pong.path.startswith("direct"):
                break
        if not answered:
            raise await away(house, peer)

    async def _ping_each(self, name: Several, request: seeing.Ping) -> Replies:
        """Each of several, `count` times (once); a line for each that is away.

        Raises:
            Unavailable: none of them answers.
        """
        house, answered = self._house, 0
        members = self._selection.members(name)
        peers = [peer for each in members if (peer := house.trust.by_key(each.node_key))]
        for peer in [peer for peer in peers if not house.node.is_online(peer.node_key)]:
            house.node.nudge(peer.node_key)
        for peer in peers:
            if not await comes(house, peer, request.timeout_s):
                text = f"{peer.name} is not reached: {path_to(house, peer) or 'no address'}"
                yield _silent(peer, 1, text)
                continue
            for number in range(1, (request.count or 1) + 1):
                if number > 1:
                    await asyncio.sleep(_PAUSE_S)
                pong = await self._pong(peer, number, request.timeout_s)
                answered += pong.rtt_ms is not None
                yield pong
        if not answered:
            raise Unavailable(f"none of {name} answers", where=str(name), hint="orvalho status")

    async def netcheck(self, request: seeing.Netcheck) -> Replies:
        yield await netcheck(self._house, self._environ, request.timeout_s)

    async def _pong(self, peer: Peer, number: int, timeout_s: float) -> seeing.Pong:
        at = time.time()
        try:
            answered = await ask_ping(self._house, peer, timeout_s)
        except Unavailable as error:
            return _silent(peer, number, error.message)
        took = milliseconds(answered.rtt_s)
        return seeing.Pong(
            peer=peer.name,
            number=number,
            path=answered.path,
            rtt_ms=round(1000 * answered.rtt_s, 3),
            at=at,
            level="info",
            text=f"pong from {peer.name} via {answered.path} in {took}",
        )


def _silent(peer: Peer, number: int, text: str) -> seeing.Pong:
    return seeing.Pong(
        peer=peer.name, number=number, path="", rtt_ms=None, at=time.time(), level="warn", text=text
    )
