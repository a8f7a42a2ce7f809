"""WebSocket links against those who mean no good."""

from __future__ import annotations

import contextlib
import socket

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from orvalho.errors import InvalidInput, Unavailable
from orvalho.transports.link import Link
from orvalho.transports.websocket import MAX_FRAME_BYTES, MAX_STRANGERS, WebSocketTransport

pytestmark = pytest.mark.anyio
ADDRESS = "ws://127.0.0.1:0"


async def echo(link: Link) -> None:
    try:
        while True:
            await link.send(await link.receive())
    except Unavailable:
        return


async def test_a_flood_of_strangers_is_bounded_and_shuts_nobody_out() -> None:
    async def on_link(link: Link) -> None:
        if await link.receive() == b"known":
            link.admit()
            await link.send(b"welcome")
        await echo(link)

    transport = WebSocketTransport()
    async with transport.listen(ADDRESS, on_link) as listener:
        friend = await transport.dial(listener.address)
        await friend.send(b"known")
        assert await friend.receive() == b"welcome"
        port = int(listener.address.rpartition(":")[2])
        # Half of them never say a word, the others shake hands and then stop.
        silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(MAX_STRANGERS)]
        open_links = [await transport.dial(listener.address) for _ in range(MAX_STRANGERS)]
        for each in silent:
            each.settimeout(2)
            with contextlib.suppress(ConnectionResetError):
                assert each.recv(1) == b""
            each.close()
        late = await transport.dial(listener.address)
        await late.send(b"known")
        assert await late.receive() == b"welcome"
        for link in (friend, late):
            await link.send(b"hello")
            assert await link.receive() == b"hello"
        for link in (*open_links, friend, late):
            await link.aclose()


async def test_a_web_page_cannot_connect() -> None:
    async with WebSocketTransport().listen(ADDRESS, echo) as listener:
        with pytest.raises(InvalidStatus, match="403"):
            await connect(listener.address, origin="http://evil.example", proxy=None)  # type: ignore[arg-type]


async def test_a_frame_over_the_limit_ends_the_link_and_no_other() -> None:
    transport = WebSocketTransport()
    async with transport.listen(ADDRESS, echo) as listener:
        link = await transport.dial(listener.address)
        async with connect(listener.address, proxy=None, compression=None) as attacker:
            with pytest.raises(ConnectionClosed):
                await attacker.send(bytes(MAX_FRAME_BYTES + 1))
                await attacker.recv()
        await link.send(b"still here")
        assert await link.receive() == b"still here"
        await link.aclose()


async def test_wss_needs_a_certificate() -> None:
    with pytest.raises(InvalidInput, match="certificate"):
        async with WebSocketTransport().listen("wss://127.0.0.1:0", echo):
            pass
