"""Scripts and messages through a NATS server, beside bare request and reply on the same server."""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import nats
import uvloop

from bench import base
from bench.pair import two_daemons
from bench.scripts import round_trip
from bench.table import Row, ms, times
from orvalho.contexts.identity import Key, Signer, certify, check_certificate
from orvalho.daemon.loopback import measure_loopback
from orvalho.peers.frames import Hello
from orvalho.peers.node import MIGRATIONS, Node, NodeConfig
from orvalho.peers.opening import open_node
from orvalho.peers.pairing import Paired
from orvalho.policies.quota import Limits
from orvalho.runtime.job import Ended, Job, Jobs
from orvalho.runtime.workers.pool import open_workers
from orvalho.store import open_store
from orvalho.transports.catalog import Catalog
from orvalho.transports.nats import NatsTransport

_SERVICE = """
import asyncio, sys, nats, uvloop
async def answer(message):
    await message.respond(message.data)
async def main():
    client = await nats.connect(sys.argv[1])
    await client.subscribe("service", cb=answer)
    await client.flush()
    print("ready", flush=True)
    await asyncio.sleep(600)
uvloop.run(main())
"""
_MESSAGE = os.urandom(256)
_MESSAGES = 40_000
_BINARY = Path(sys.executable).with_name("nats-server")

T = TypeVar("T")


def measure() -> Iterator[Row]:
    with _server() as url:
        bare, sync = _request_reply(url, 1000), base.fsync()
        with two_daemons(url) as pair, pair.laptop.client() as client:
            warm = round_trip(client, 500)
        with two_daemons() as pair, pair.laptop.client() as client:
            direct = round_trip(client, 500)
        yield Row(
            "round trip of a trivial script over NATS, p50",
            ms(warm),
            f"bare nats-py request and reply {ms(bare)}"
            f" (an fsync: {ms(sync)}; the same script over WebSocket: {ms(direct)})",
            times(warm, bare),
            "6x",
        )
        yield from _pieces(bare, sync, warm - direct)
        rate = _told(url)
        yield Row(
            "messages of 256 B on an open link over NATS, both nodes in one process",
            f"{rate:,.0f}/s",
            bar="8,000/s",
        )


def _pieces(bare: float, sync: float, above: float) -> Iterator[Row]:
    """What the round trip is made of, each alone: its floor."""
    sealed = {
        scheme: _run(measure_loopback(scheme, len(_MESSAGE), 3.0, str(_BINARY))).p50_ms / 1e3
        for scheme in ("nats", "ws")
    }
    isolate = _run(_isolate())
    yield Row(
        "a sealed question and its answer over NATS, p50, both nodes in one process",
        ms(sealed["nats"]),
        f"bare nats-py request and reply {ms(bare)}; over WebSocket {ms(sealed['ws'])}",
        times(sealed["nats"], bare),
    )
    yield Row(
        "the script over NATS, beyond the same over WebSocket",
        ms(above),
        f"bare nats-py request and reply {ms(bare)}",
    )
    floor = bare + 2 * sync + isolate
    yield Row(
        "floor of the script over NATS: bare request and reply, two fsyncs, a worker that runs it",
        ms(floor),
        f"{ms(bare)} + 2 x {ms(sync)} + {ms(isolate)}",
        times(floor, bare),
    )


async def _isolate() -> float:
    """The median time of a trivial script in a worker of its own, nothing else around it."""
    limits = Limits(
        wall_s=3.0, cpu_s=1.0, memory_bytes=48 << 20, output_bytes=1 << 20, host_calls=100
    )
    someone = {"id": "ed25519:a", "name": "gil"}
    taken = []
    async with open_workers(contexts_per_worker=8) as workers:
        jobs = Jobs(workers)
        for _ in range(210):
            job = Job(
                run_id="r_1",
                context="peer",
                filename="job.js",
                source="1 + 1",
                params=b"null",
                caller=someone,
                target=someone,
                limits=limits,
                ops={},
            )
            start = time.perf_counter()
            async with jobs.open(job) as run:
                async for event in run:
                    if isinstance(event, Ended):
                        assert event.outcome == "done", event
            taken.append(time.perf_counter() - start)
    return statistics.median(taken[10:])


def _run(work: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


@contextmanager
def _server() -> Iterator[str]:
    """A nats-server of its own, the one beside this Python."""
    with tempfile.TemporaryDirectory(prefix="orvalho-bench-") as top:
        ports = Path(top)
        command = [str(_BINARY), "-a", "127.0.0.1", "-p", "-1", "--ports_file_dir", top]
        server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + 10
            while not (found := list(ports.glob("*.ports"))) and time.monotonic() < deadline:
                time.sleep(0.05)
            port = found[0].read_text().partition("127.0.0.1:")[2].partition('"')[0]
            yield f"nats://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait()


def _request_reply(url: str, count: int) -> float:
    """The median round trip of 256 bytes to a service in another process."""
    service = subprocess.Popen(
        [sys.executable, "-c", _SERVICE, url], stdout=subprocess.PIPE, text=True
    )
    assert service.stdout is not None
    service.stdout.readline()

    async def measure() -> float:
        client = await nats.connect(url)
        taken = []
        for _ in range(count + 10):
            start = time.perf_counter()
            await client.request("service", _MESSAGE)
            taken.append(time.perf_counter() - start)
        await client.close()
        return statistics.median(taken[10:])

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(measure())
    finally:
        service.kill()
        service.wait()


class _Book:
    """Two nodes that know each other."""

    def __init__(self, other: Key, *addresses: str) -> None:
        self._other = other
        self._addresses = addresses

    def peers(self) -> tuple[Key, ...]:
        return (self._other,)

    def addresses(self, _key: Key) -> tuple[str, ...]:
        return self._addresses

    def name(self, _key: Key) -> str:
        return "other"


def _told(url: str) -> float:
    """Tells a second from one node to another over a session on a link."""
    with (
        tempfile.TemporaryDirectory() as top,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        return runner.run(_tell(url, Path(top)))


async def _tell(url: str, top: Path) -> float:
    one, other = Signer(os.urandom(32)), Signer(os.urandom(32))
    heard, done = 0, asyncio.Event()

    def hear(_sender: Key, _body: bytes) -> None:
        nonlocal heard
        heard += 1
        if heard == _MESSAGES:
            done.set()

    async with (
        open_store(top / "a", MIGRATIONS) as store_a,
        open_store(top / "b", MIGRATIONS) as store_b,
        open_node(_config(other, url, store_b, top / "bb", _Book(one.key))) as listener,
    ):
        listener.hear("note", hear)
        book = _Book(other.key, *listener.addresses)
        async with open_node(_config(one, None, store_a, top / "aa", book)) as dialer:
            await _linked(dialer, other.key)
            start = time.perf_counter()
            for _ in range(_MESSAGES):
                await dialer.tell(other.key, "note", _MESSAGE)
            await asyncio.wait_for(done.wait(), 60)
            return _MESSAGES / (time.perf_counter() - start)


async def _linked(node: Node, peer: Key) -> None:
    with node.watch() as events:
        while not node.is_online(peer):
            await asyncio.wait_for(events.receive(), 10)


def _config(signer: Signer, listen: str | None, store, blobs: Path, book: _Book) -> NodeConfig:
    async def nothing(*_: Key | Hello | Paired) -> None:
        return

    def check(blob: bytes, owner: Key) -> tuple[str, Key]:
        checked = check_certificate(blob, owner, "node")
        return checked.name, Key(checked.key)

    return NodeConfig(
        name="bench",
        signer=signer,
        noise_static=os.urandom(32),
        owner_key=signer.key,
        certificate=certify(signer, "node", "bench", signer.key, 0.0),
        listen=[listen] if listen else [],
        advertise=lambda addresses: addresses,
        store=store,
        blobs=blobs,
        book=book,
        check_certificate=check,
        on_greeting=nothing,
        on_paired=nothing,
        on_undelivered=lambda *_: None,
        catalog=Catalog({"nats": NatsTransport(signer)}),
    )
