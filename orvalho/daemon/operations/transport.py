"""What we do when the owner asks by which ways peers are reached."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterator

from orvalho.control import messages as control
from orvalho.control import road
from orvalho.daemon.house import House
from orvalho.transports.catalog import Catalog

Replies = AsyncIterator[control.Reply]


class TransportOperations:
    """`orvalho transports`."""

    def __init__(self, house: House, catalog: Catalog) -> None:
        self._house = house
        self._catalog = catalog

    async def list(self, _request: road.TransportList) -> Replies:
        links = tuple(self._links())
        count = Counter(link.transport for link in links)
        listening = self._house.node.addresses
        transports = tuple(
            road.TransportState(
                scheme=offer.scheme,
                module=offer.module,
                install=offer.install,
                listening=tuple(
                    address for address in listening if address.startswith(f"{offer.scheme}://")
                ),
                links=count[offer.scheme],
            )
            for offer in self._catalog.offers()
        )
        yield road.TransportListReply(transports=transports, links=links)

    def _links(self) -> Iterator[road.LinkState]:
        house = self._house
        for peer in house.trust.peers():
            for place, way in enumerate(house.node.ways(peer.node_key)):
                yield road.LinkState(
                    peer=peer.name,
                    path=str(way),
                    transport=way.transport,
                    used=place == 0,
                    rtt_ms=None if way.rtt_s is None else round(way.rtt_s * 1000),
                    opened_at=house.node.unix_time(way.opened_at),
                )
