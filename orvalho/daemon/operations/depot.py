"""What we do when the owner asks what this node keeps for others."""

from __future__ import annotations

from collections.abc import AsyncIterator

from orvalho.control import messages as control
from orvalho.control import road
from orvalho.daemon.house import House
from orvalho.daemon.peer_words import name_of

Replies = AsyncIterator[control.Reply]


class DepotOperations:
    """`orvalho depot ...`."""

    def __init__(self, house: House) -> None:
        self._house = house

    async def list(self, _request: road.DepotList) -> Replies:
        house = self._house
        yield road.DepotListReply(
            piles=tuple(
                road.DepotPile(
                    recipient=name_of(house, pile.recipient),
                    depositor=name_of(house, pile.depositor),
                    count=pile.count,
                    bytes=pile.bytes,
                    expires_at=pile.expires_at,
                )
                for pile in await house.node.depots.keeper.piles()
            )
        )

    async def remove(self, request: road.DepotRemove) -> Replies:
        house = self._house
        recipient = house.trust.by_name(request.recipient).node_key
        depositor = house.trust.by_name(request.depositor).node_key if request.depositor else None
        keeper = house.node.depots.keeper
        count = 0
        for pile in await keeper.piles():
            if pile.recipient == recipient and depositor in (None, pile.depositor):
                count += await keeper.drop_pile(pile.depositor, recipient)
        if count:
            yield control.Note(text=f"{count} kept for {request.recipient} thrown away")
        else:
            yield control.Note(text=f"nothing is kept for {request.recipient}", changed=False)
