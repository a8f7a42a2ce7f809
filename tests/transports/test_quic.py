"""QUIC links: what the library would do otherwise, and those who mean no good."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import iroh as _iroh
import pytest
from iroh import iroh_ffi

from orvalho.errors import InvalidInput, Unavailable
from orvalho.transports import quic
from orvalho.transports.link import Link
from orvalho.transports.quic import MAX_FRAME_BYTES, MAX_STRANGERS, QuicTransport

iroh: Any = _iroh

pytestmark = pytest.mark.anyio
ADDRESS = "quic://127.0.0.1:0"


async def echo(link: Link) -> None:
    with contextlib.suppress(Unavailable):
        while True:
            await link.send(await link.receive())


async def well_known(link: Link) -> None:
    """Admits who says so."""
    with contextlib.suppress(Unavailable):
        if await link.receive() == b"known":
            link.admit()
        while True:
            await link.send(await link.receive())


@asynccontextmanager
async def stranger(alpn: bytes = b"orvalho/1") -> AsyncIterator[Any]:
    """An endpoint by hand."""
    endpoint = await quic._bind("127.0.0.1", 0, os.urandom(32), "here")
    endpoint.set_alpns([alpn])
    try:
        yield endpoint
    finally:
        await endpoint.close()


def target(address: str) -> Any:
    where = quic._parse(address)
    id_ = iroh.EndpointId.from_bytes(where.id)
    return iroh.EndpointAddr(id_, None, [f"{where.host}:{where.port}"])


async def still_serves(transport: QuicTransport, address: str) -> None:
    friend = await transport.dial(address)
    await friend.send(b"known")
    await friend.send(b"hello")
    with anyio.fail_after(10):
        assert await friend.receive() == b"hello"
    await friend.aclose()


def test_large_frames_are_not_copied_byte_by_byte() -> None:
    builder = iroh_ffi._UniffiRustBufferBuilder()
    content = os.urandom(1 << 20)
    builder.write(content)
    buffer = builder.finalize()
    assert buffer.len == len(content)
    assert bytes(buffer.data[: len(content)]) == content
    assert iroh_ffi._UniffiRustBufferBuilder.write is quic._write_at_once


async def test_listening_on_loopback_opens_no_other_interface() -> None:
    """Of its own: the library asks routers for a port mapping besides, from a socket apart."""
    endpoint = await quic._bind("127.0.0.1", 0, os.urandom(32), ADDRESS)
    hosts = {bound.rpartition(":")[0] for bound in endpoint.bound_sockets()}
    await endpoint.close()
    assert hosts == {"127.0.0.1", "[::1]"}


async def test_a_kept_key_keeps_the_address(tmp_path: Path) -> None:
    file = tmp_path / "quic.key"
    ids = []
    for _ in range(2):
        async with QuicTransport().listen(f"{ADDRESS}?key={file}", echo) as listener:
            ids.append(listener.address.partition("@")[0])
    assert ids[0] == ids[1]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.write_bytes(b"short")
    with pytest.raises(InvalidInput, match="a key has 32 bytes"):
        async with QuicTransport().listen(f"{ADDRESS}?key={file}", echo):
            pass


async def test_another_endpoint_at_the_address_is_unavailable() -> None:
    async with QuicTransport().listen(ADDRESS, echo) as listener:
        wrong = f"quic://{os.urandom(32).hex()}@{listener.address.partition('@')[2]}"
        with pytest.raises(Unavailable) as refused:
            await QuicTransport().dial(wrong)
        assert "/github" not in refused.value.message


async def test_an_address_without_an_id_cannot_be_dialed() -> None:
    for address in ("quic://127.0.0.1:4600", "quic://abcd@127.0.0.1:4600", "quic://zz@h:1"):
        with pytest.raises(InvalidInput):
            await QuicTransport().dial(address)


async def test_another_protocol_is_refused() -> None:
    transport = QuicTransport()
    async with transport.listen(ADDRESS, well_known) as listener, stranger() as endpoint:
        with pytest.raises(iroh.IrohError):
            await endpoint.connect(target(listener.address), b"something/else")
        await still_serves(transport, listener.address)


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"orvalho2",
        b"orvalho1" + (MAX_FRAME_BYTES + 1).to_bytes(4, "big") + b"x",
    ],
)
async def test_a_stream_that_says_something_else_is_ended(said: bytes) -> None:
    transport = QuicTransport()
    async with transport.listen(ADDRESS, well_known) as listener, stranger() as endpoint:
        connection = await endpoint.connect(target(listener.address), b"orvalho/1")
        stream = await connection.open_bi()
        await stream.send().write_all(said)
        with anyio.fail_after(10):
            await connection.closed()
        await still_serves(transport, listener.address)


async def test_ten_thousand_datagrams_of_nonsense_and_hundreds_of_streams() -> None:
    transport = QuicTransport()
    draw = random.Random(3)
    async with transport.listen(ADDRESS, well_known) as listener, stranger() as endpoint:
        port = int(listener.address.rpartition(":")[2])
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as attacker:
            for n in range(10_000):
                # Long headers of version 1 among them, which look like a handshake.
                head = b"\xc0\0\0\0\1" if n % 2 else b""
                attacker.sendto(
                    head + draw.randbytes(draw.choice((1, 20, 1195))), ("127.0.0.1", port)
                )
                if n % 100 == 0:
                    await asyncio.sleep(0)
        for _ in range(100):
            connection = await endpoint.connect(target(listener.address), b"orvalho/1")
            stream = await connection.open_bi()
            with contextlib.suppress(iroh.IrohError):
                await stream.send().write_all(draw.randbytes(draw.choice((1, 8, 12, 5000))))
            connection.close(0, b"")
        await still_serves(transport, listener.address)


async def test_a_crowd_of_strangers_is_bounded_and_shuts_nobody_out() -> None:
    transport = QuicTransport()
    async with transport.listen(ADDRESS, well_known) as listener, stranger() as endpoint:
        friend = await transport.dial(listener.address)
        await friend.send(b"known")
        crowd = []
        for _ in range(2 * MAX_STRANGERS):
            connection = await endpoint.connect(target(listener.address), b"orvalho/1")
            stream = await connection.open_bi()
            await stream.send().write_all(b"orvalho1")
            crowd.append(connection)
        with anyio.fail_after(20):
            await crowd[0].closed()
        await still_serves(transport, listener.address)
        await friend.send(b"hello")
        assert await friend.receive() == b"hello"
        await friend.aclose()


def test_a_process_that_ends_with_an_open_link_ends_well() -> None:
    program = """
import asyncio
from orvalho.transports.quic import QuicTransport
async def main():
    transport = QuicTransport()
    async def on_link(link):
        await link.send(await link.receive())
        await link.receive()
    async with transport.listen("quic://127.0.0.1:0", on_link) as listener:
        link = await QuicTransport().dial(listener.address)
        await link.send(b"x")
        assert await link.receive() == b"x"
    await link.aclose()
asyncio.run(main())
print("well")
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.returncode, ended.stdout) == (0, "well\n"), ended.stderr
    assert "FATAL" not in ended.stderr


def test_the_library_is_loaded_on_first_use() -> None:
    program = (
        "import sys; import orvalho.daemon.wiring; from orvalho.transports.catalog import Catalog\n"
        "c = Catalog(); c.offers(); assert 'iroh' not in sys.modules and 'h2' not in sys.modules\n"
        "c.find('quic://a:1'); assert 'iroh' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
