"""What we do when the owner wants a NATS server for the devices."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

from orvalho.control import messages as control
from orvalho.control import road
from orvalho.daemon.house import House
from orvalho.daemon.nats_config import FILE, STREAM, NatsConfigFile, NatsSettings

Replies = AsyncIterator[control.Reply]


class NatsOperations:
    """`orvalho nats ...`."""

    def __init__(self, house: House, file: NatsConfigFile) -> None:
        self._house = house
        self._file = file

    async def config(self, request: road.NatsConfig) -> Replies:
        house = self._house
        out = request.out or str(house.home.state / "nats")
        settings = NatsSettings(
            out=out,
            listen=request.listen,
            tls=request.tls,
            leaf=request.leaf,
            stream=house.settings.config.nats.stream or STREAM,
        )
        changed = await self._file.use(settings)
        port = request.listen.rpartition(":")[2]
        scheme = "nats+tls" if request.tls else "nats"
        yield road.NatsConfigured(
            path=str(Path(out) / FILE),
            nodes=(house.name, *sorted(peer.name for peer in house.trust.peers())),
            address=f"{scheme}://HOST:{port}",
            changed=changed,
        )
