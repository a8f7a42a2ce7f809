"""Ten thousand strangers who talk nonsense to a running daemon."""

from __future__ import annotations

import random
from pathlib import Path

import anyio
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from tests.scenarios.devices import two_devices

pytestmark = pytest.mark.anyio

_STRANGERS = 10_000
_AT_ONCE = 32


async def talk(address: str, draw: random.Random) -> None:
    """One connection and a few frames that are no handshake, of every length."""
    try:
        async with connect(address, compression=None, ping_interval=None) as connection:
            for _ in range(3):
                await connection.send(draw.randbytes(draw.choice((0, 1, 31, 32, 96, 4000))))
            await connection.recv()
    except (WebSocketException, OSError):
        return


async def test_ten_thousand_malformed_frames_are_counted_and_kept_nowhere(tmp_path: Path) -> None:
    with two_devices(tmp_path) as (laptop, phone):
        address = phone.types("status", "--json").json["listening"][0]
        draw = random.Random(5)
        room = anyio.CapacityLimiter(_AT_ONCE)

        async def one() -> None:
            async with room:
                await talk(address, draw)

        async def flood(count: int) -> None:
            async with anyio.create_task_group() as tasks:
                for _ in range(count):
                    tasks.start_soon(one)

        def refused() -> int:
            counters = phone.types("metrics", "handshakes", "--json").json["counters"]
            return sum(counters.values())

        await flood(_STRANGERS // 10)
        before_bytes = phone.types("metrics", "--json").json["rss_bytes"]
        before = refused()
        assert before >= _STRANGERS // 10
        await flood(_STRANGERS - _STRANGERS // 10)
        assert refused() - before >= _STRANGERS - _STRANGERS // 10
        grown = phone.types("metrics", "--json").json["rss_bytes"] - before_bytes
        assert grown < 8 << 20, f"{grown} bytes more"
        assert "handshakes.refused" in phone.does("metrics", "refused")
        assert laptop.does("script", "send", "peer@phone2", "-e", "1 + 1") == "2\n"
