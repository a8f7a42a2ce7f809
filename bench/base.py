"""What we compare with: a bare WebSocket echo, an fsync, a Python that does nothing."""

from __future__ import annotations

import asyncio
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import uvloop
from websockets.asyncio.client import connect

ECHO = """
import asyncio, uvloop
from websockets.asyncio.server import serve
async def echo(ws):
    async for message in ws:
        await ws.send(message)
async def main():
    async with serve(echo, "127.0.0.1", 0, compression=None, max_size=2**24) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.sleep(600)
uvloop.run(main())
"""


def machine() -> str:
    return (
        f"{platform.system()} {platform.release()}, Python {platform.python_version()}, "
        f"{os.cpu_count()} cores"
    )


def median(action: Callable[[], object], count: int) -> float:
    """The median time of `action`, in seconds, over `count` calls after three that do not count."""
    for _ in range(3):
        action()
    taken = []
    for _ in range(count):
        start = time.perf_counter()
        action()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def fsync(count: int = 300) -> float:
    """Append 4 KiB and fsync: what one durable step costs at the least."""
    with tempfile.TemporaryFile(buffering=0) as file:
        return median(lambda: (file.write(bytes(4096)), os.fsync(file.fileno())), count)


def python(count: int = 20) -> float:
    """`python -c pass`."""
    return run([sys.executable, "-c", "pass"], count)


def run(command: list[str], count: int = 20, **options: object) -> float:
    return median(
        lambda: subprocess.run(command, check=True, capture_output=True, **options),  # type: ignore[call-overload]
        count,
    )


def websocket_echo(size: int, count: int) -> float:
    """The median round trip of `size` bytes to an echo server in another process."""
    server = subprocess.Popen([sys.executable, "-c", ECHO], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    port = int(server.stdout.readline())

    async def measure() -> float:
        message = os.urandom(size)
        taken = []
        async with connect(
            f"ws://127.0.0.1:{port}", compression=None, proxy=None, max_size=2**24
        ) as ws:
            for _ in range(count + 10):
                start = time.perf_counter()
                await ws.send(message)
                await ws.recv()
                taken.append(time.perf_counter() - start)
        return statistics.median(taken[10:])

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(measure())
    finally:
        server.kill()
        server.wait()
