"""What we do when the owner asks which nodes there are."""

from __future__ import annotations

from collections.abc import AsyncIterator

from orvalho.contexts.identity import key_text
from orvalho.control import mesh as wire
from orvalho.control import messages as control
from orvalho.daemon.house import House

Replies = AsyncIterator[control.Reply]


class NodesOperations:
    """`orvalho nodes`."""

    def __init__(self, house: House) -> None:
        self._house = house

    async def nodes(self, request: wire.Nodes) -> Replies:
        house = self._house
        yield wire.NodesReply(
            nodes=() if request.lan else self._known(),
            lan=self._heard() if request.lan else (),
            is_listening=house.lan is not None,
            problems=tuple(text for text, _ in house.mesh.problems()),
        )

    def _known(self) -> tuple[wire.NodeState, ...]:
        return tuple(
            wire.NodeState(
                name=view.name,
                key=key_text(view.key),
                state=view.state,
                known=view.known,
                relation=view.relation,
                is_introducer=view.is_introducer,
                capabilities=view.capabilities,
                labels=view.labels,
                contexts=view.contexts,
                addresses=view.addresses,
                last_seen_at=view.last_seen_at,
                note=view.note,
            )
            for view in self._house.mesh.nodes()
        )

    def _heard(self) -> tuple[wire.LanNode, ...]:
        house = self._house
        if house.lan is None:
            return ()
        found = []
        for heard in house.lan.heard():
            peer = house.trust.by_key(heard.key)
            found.append(
                wire.LanNode(
                    name=peer.name if peer else heard.name,
                    key=key_text(heard.key),
                    addresses=heard.addresses,
                    paired=peer is not None,
                    revoked=house.refused.revoked(heard.key) is not None,
                )
            )
        return tuple(found)
