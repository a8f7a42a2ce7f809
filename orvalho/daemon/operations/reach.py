"""What we do when the owner asks which ways there are to a peer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from typing import Final

from orvalho.contexts.names import parse_address
from orvalho.contexts.trust import Peer
from orvalho.control import messages as control
from orvalho.control import seeing
from orvalho.daemon.house import House
from orvalho.daemon.netcheck import netcheck
from orvalho.daemon.reach import ask_ping, away, comes
from orvalho.errors import InvalidInput, Unavailable

Replies = AsyncIterator[control.Reply]

_MOST_WITHOUT_DIRECT: Final = 10
_PAUSE_S: Final = 1.0


class ReachOperations:
    """`orvalho ping` and `netcheck`."""

    def __init__(self, house: House, environ: Mapping[str, str]) -> None:
        self._house = house
        self._environ = environ

    async def ping(self, request: seeing.Ping) -> Replies:
        house = self._house
        node = parse_address(request.name).node
        if node == house.name:
            raise InvalidInput(f"{node} is this very node", hint="orvalho status")
        peer = house.trust.by_name(node)
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

    async def netcheck(self, request: seeing.Netcheck) -> Replies:
        yield await netcheck(self._house, self._environ, request.timeout_s)

    async def _pong(self, peer: Peer, number: int, timeout_s: float) -> seeing.Pong:
        at = time.time()
        try:
            answered = await ask_ping(self._house, peer, timeout_s)
        except Unavailable as error:
            return seeing.Pong(
                peer=peer.name,
                number=number,
                path="",
                rtt_ms=None,
                at=at,
                level="warn",
                text=error.message,
            )
        took = _milliseconds(answered.rtt_s)
        return seeing.Pong(
            peer=peer.name,
            number=number,
            path=answered.path,
            rtt_ms=round(1000 * answered.rtt_s, 3),
            at=at,
            level="info",
            text=f"pong from {peer.name} via {answered.path} in {took}",
        )


def _milliseconds(seconds: float) -> str:
    value = 1000 * seconds
    return f"{value:.1f} ms" if value < 10 else f"{value:.0f} ms"
