"""What we do when the owner wants a NATS server for the devices."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from orvalho.control import messages as control
from orvalho.control import road
from orvalho.daemon.house import House
from orvalho.daemon.nats_config import FILE, LEAF_USER, STREAM, NatsConfigFile, NatsSettings
from orvalho.errors import InvalidInput
from orvalho.transports.nats_address import read_address

Replies = AsyncIterator[control.Reply]

# How a server that listens everywhere is reached from its own machine.
_LOOPBACK: Final = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104 -- recognised, not bound


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
            leaf_hub=request.leaf_hub,
            callout=self._here(request) if request.callout else None,
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
            leaf=await self._leaf(request.leaf_hub),
            callout=request.callout,
        )

    async def _leaf(self, leaf_hub: str | None) -> str | None:
        if leaf_hub is None:
            return None
        password = (await self._file.secrets()).leaf_password
        return f"nats-leaf://{LEAF_USER}:{password}@HOST:{leaf_hub.rpartition(':')[2]}"

    def _here(self, request: road.NatsConfig) -> str:
        """Where this daemon reaches the server itself.

        Raises:
            InvalidInput: by TLS, and no address of its settings says how.
        """
        host, _, port = request.listen.rpartition(":")
        for address in self._house.settings.config.listen:
            if address.startswith("nats") and f":{port}" in address:
                place = read_address(address)
                query = f"?ca={place.ca}" if place.ca else ""
                return f"{place.server}{query}"
        if request.tls is not None:
            raise InvalidInput(
                "the server asks this node by TLS, and its name is in no address of `listen`",
                where=request.listen,
                hint=f"add nats+tls://HOST:{port} to `listen` in config.toml, then try again",
            )
        return f"nats://{_LOOPBACK.get(host, host)}:{port}"
