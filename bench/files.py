"""A file between two daemons, against a bare WebSocket stream with the same AEAD."""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import uvloop
from nacl.bindings import crypto_aead_chacha20poly1305_ietf_encrypt as encrypt
from websockets.asyncio.client import connect

from bench.pair import two_daemons
from bench.table import Row, times
from orvalho.control.seeing import FileSend, FileSent

SIZE = 100 * 1000 * 1000
ROUNDS = 3
# What one message carries here, and what one Noise message may carry at the most.
_MESSAGE = 1 << 18
_PIECE = 65535 - 16

_SINK = """
import asyncio, uvloop
from nacl.bindings import crypto_aead_chacha20poly1305_ietf_decrypt as decrypt
from websockets.asyncio.server import serve
async def sink(ws):
    number = taken = 0
    async for message in ws:
        for start in range(0, len(message), 65535):
            plain = decrypt(message[start:start + 65535], b"", number.to_bytes(12), bytes(32))
            number, taken = number + 1, taken + len(plain)
        if taken == SIZE:
            await ws.send(b"done")
            number = taken = 0
async def main():
    async with serve(sink, "127.0.0.1", 0, compression=None, max_size=2**24) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.sleep(600)
uvloop.run(main())
"""


def measure() -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as top, two_daemons() as pair:
        file = Path(top) / "big.bin"
        bare_s, taken_s = [], []
        with pair.laptop.client() as client:
            for _ in range(ROUNDS):  # by turns, since a shared machine drifts
                bare_s.append(stream(SIZE))
                with file.open("wb") as out:
                    out.write(os.urandom(SIZE))
                    os.fsync(out.fileno())
                sent = client.ask(FileSend(path=str(file), to="peer@phone2"), FileSent)
                taken_s.append(sent.took_ms / 1000)
        bare, taken = statistics.median(bare_s), statistics.median(taken_s)
        yield Row(
            "a file of 100 MB, on disk and hashed",
            f"{SIZE / taken / 1e6:.0f} MB/s",
            f"bare stream {SIZE / bare / 1e6:.0f} MB/s",
            times(taken, bare),
            "2x",
        )


def stream(size: int) -> float:
    """Seconds for `size` bytes to another process, sealed there and opened here."""
    sink = _SINK.replace("SIZE", str(size))
    server = subprocess.Popen([sys.executable, "-c", sink], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    port = int(server.stdout.readline())

    async def send() -> float:
        content = os.urandom(_MESSAGE)
        number = 0
        async with connect(f"ws://127.0.0.1:{port}", compression=None, proxy=None) as ws:
            started = time.perf_counter()
            left = size
            while left:
                message = content[: min(left, _MESSAGE)]
                left -= len(message)
                sealed = []
                for start in range(0, len(message), _PIECE):
                    piece = message[start : start + _PIECE]
                    sealed.append(encrypt(piece, b"", number.to_bytes(12), bytes(32)))
                    number += 1
                await ws.send(b"".join(sealed))
            await ws.recv()
            return time.perf_counter() - started

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(send())
    finally:
        server.kill()
        server.wait()
