"""Messages of 256 bytes on an open link with its seal, transport by transport, beside a bare
WebSocket echo. Both ends are processes of their own."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio
import uvloop
from websockets.asyncio.client import connect

from bench import base
from bench.table import Row
from orvalho.contexts.identity import Key, Signer, certify, check_certificate
from orvalho.peers.node import MIGRATIONS, Node
from orvalho.peers.node_config import NodeConfig
from orvalho.peers.opening import open_node
from orvalho.store import open_store

SCHEMES = ("ws", "h2", "h2s", "quic")
_SIZE_BYTES = 256
_COUNT = 30_000
_ASKS = 300
_BAR = {"ws": "10,000/s"}


def signer(name: str) -> Signer:
    return Signer(name.encode().ljust(32, b"."))


class Book:
    def __init__(self, peer: Key, *addresses: str) -> None:
        self._peer, self._addresses = peer, addresses

    def peers(self) -> tuple[Key, ...]:
        return (self._peer,)

    def addresses(self, key: Key) -> tuple[str, ...]:
        return self._addresses

    def name(self, key: Key) -> str:
        return "peer"


@asynccontextmanager
async def node(name: str, other: str, top: str, *addresses: str, listen: str = "") -> Any:
    async def nothing(*_: object) -> None: ...

    def check(blob: bytes, owner: Key) -> tuple[str, Key]:
        checked = check_certificate(blob, owner, "node")
        return checked.name, Key(checked.key)

    own = signer(name)
    async with open_store(Path(top) / name, MIGRATIONS) as store:
        config = NodeConfig(
            name=name,
            signer=own,
            noise_static=own.sign(b"bench", b"noise")[:32],
            owner_key=own.key,
            certificate=certify(own, "node", name, own.key, 0.0),
            listen=[listen] if listen else [],
            advertise=lambda heard: heard,
            store=store,
            blobs=Path(top) / f"{name}-blobs",
            book=Book(signer(other).key, *addresses),
            check_certificate=check,
            on_greeting=nothing,
            on_paired=nothing,
            on_undelivered=lambda *_: None,
        )
        async with open_node(config) as running:
            yield running


async def far_side(scheme: str, top: str) -> None:
    """Counts what it is told, and answers how much that was."""
    heard = 0

    def hear(_: Key, __: bytes) -> None:
        nonlocal heard
        heard += 1

    async def answer(_: Key, body: bytes) -> bytes:
        return str(heard).encode() if body == b"count" else body

    async with node("far", "near", top, listen=f"{scheme}://127.0.0.1:0") as running:
        running.hear("message", hear)
        running.answer("echo", answer)
        print(running.addresses[0], flush=True)
        await asyncio.sleep(600)


async def near_side(address: str, top: str) -> tuple[float, float]:
    """Messages in a second, and the median round trip of a question."""
    body = os.urandom(_SIZE_BYTES)
    far = signer("far").key
    async with node("near", "far", top, address) as running:
        running: Node
        with anyio.fail_after(20):
            while not running.is_online(far):  # noqa: ASYNC110 -- once, and soon over
                await asyncio.sleep(0.01)
        rates = []
        for turn in (1, 2, 3):
            began = time.perf_counter()
            for _ in range(_COUNT):
                await running.tell(far, "message", body)
            heard = 0
            while heard < turn * _COUNT:
                heard = int(await running.ask(far, "echo", b"count", 30.0))
            rates.append(_COUNT / (time.perf_counter() - began))
        taken = []
        for _ in range(_ASKS):
            began = time.perf_counter()
            await running.ask(far, "echo", body, 30.0)
            taken.append(time.perf_counter() - began)
        return sorted(rates)[1], sorted(taken)[_ASKS // 2]


async def bare(port: int) -> tuple[float, float]:
    """The same of a WebSocket echo without anything: 200 messages are under way at once."""
    message = os.urandom(_SIZE_BYTES)
    async with connect(f"ws://127.0.0.1:{port}", compression=None, proxy=None) as ws:
        began = time.perf_counter()
        for n in range(_COUNT + 200):
            if n < _COUNT:
                await ws.send(message)
            if n >= 200:
                await ws.recv()
        rate = _COUNT / (time.perf_counter() - began)
        taken = []
        for _ in range(_ASKS):
            began = time.perf_counter()
            await ws.send(message)
            await ws.recv()
            taken.append(time.perf_counter() - began)
        return rate, sorted(taken)[_ASKS // 2]


def measure() -> Iterator[Row]:
    server = subprocess.Popen([sys.executable, "-c", base.ECHO], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        rate, round_trip = _run(bare(int(server.stdout.readline())))
    finally:
        server.kill()
        server.wait()
    yield Row("256 B messages, bare websockets echo", f"{rate:,.0f}/s; {round_trip * 1e6:.0f} us")
    for scheme in SCHEMES:
        yield _measure(scheme, rate)


def _measure(scheme: str, base_rate: float) -> Row:
    with TemporaryDirectory() as top:
        far = subprocess.Popen(
            [sys.executable, "-m", "bench.links", scheme, top], stdout=subprocess.PIPE, text=True
        )
        assert far.stdout is not None
        try:
            rate, round_trip = _run(near_side(far.stdout.readline().strip(), top))
        finally:
            far.kill()
            far.wait()
    return Row(
        f"256 B messages over {scheme}, sealed; a question and its answer",
        f"{rate:,.0f}/s; {round_trip * 1e6:.0f} us",
        f"{base_rate:,.0f}/s bare",
        f"{rate / base_rate:.2f}x",
        _BAR.get(scheme, ""),
    )


def _run(work: Any) -> Any:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as far_runner:
        far_runner.run(far_side(*sys.argv[1:3]))
