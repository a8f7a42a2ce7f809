"""Frames between daemon and worker: whole, in pieces, and broken."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from orvalho.runtime.workers.messages import (
    FromWorker,
    Line,
    StartRun,
    StopRun,
    from_worker,
    to_worker,
)
from orvalho.runtime.workers.pipe import MAX_FRAME_BYTES, Pipe, open_pipe
from tests.runtime.play import until

pytestmark = pytest.mark.anyio


class End:
    """One end: what has come, and whether it is over."""

    def __init__(self, decoder: Any) -> None:
        self.messages: list[FromWorker] = []
        self.frames = 0
        self.over = asyncio.Event()
        self.pipe = Pipe(decoder, self._received, self.over.set)

    def _received(self, messages: list[Any]) -> None:
        self.frames += 1
        self.messages += messages


@asynccontextmanager
async def one_end(decoder: Any) -> AsyncIterator[tuple[End, socket.socket]]:
    ours, theirs = socket.socketpair()
    end = End(decoder)
    await open_pipe(ours, end.pipe)
    try:
        yield end, theirs
    finally:
        end.pipe.close()
        theirs.close()
        await anyio.lowlevel.checkpoint()


async def sent(*messages: Any) -> bytes:
    async with one_end(from_worker()) as (end, theirs):
        for message in messages:
            end.pipe.send(message)
        await anyio.sleep(0.01)
        return theirs.recv(1 << 20)


LINES = [Line(run=1, level="log", text="a"), Line(run=2, level="warn", text="é" * 100)]


async def test_messages_of_one_moment_go_as_one_frame() -> None:
    frame = await sent(*LINES)
    assert struct.unpack_from("<I", frame)[0] == len(frame) - 4
    async with one_end(from_worker()) as (end, theirs):
        theirs.sendall(frame)
        await until(lambda: bool(end.messages))
        assert (end.messages, end.frames) == (LINES, 1)


async def test_a_frame_may_come_byte_by_byte() -> None:
    frame = await sent(*LINES)
    async with one_end(from_worker()) as (end, theirs):
        for n in range(len(frame)):
            theirs.sendall(frame[n : n + 1])
            await anyio.lowlevel.checkpoint()
        theirs.sendall(frame + frame)
        await until(lambda: end.frames == 3)
        assert end.messages == LINES * 3


async def test_what_is_said_before_there_is_a_pipe_goes_out_with_it() -> None:
    ours, theirs = socket.socketpair()
    end = End(from_worker())
    end.pipe.send(LINES[0])
    await anyio.sleep(0.01)
    await open_pipe(ours, end.pipe)
    await anyio.sleep(0.01)
    assert len(theirs.recv(100)) > 4
    end.pipe.close()
    theirs.close()
    await end.over.wait()
    end.pipe.send(LINES[1])


@pytest.mark.parametrize(
    "raw",
    [
        struct.pack("<I", MAX_FRAME_BYTES + 1),
        struct.pack("<I", 3) + b"abc",
        struct.pack("<I", 1) + b"\x90"[:1] + struct.pack("<I", 1) + b"\xc1",
        struct.pack("<I", 4) + b"\x91\x92\x63\x01",
    ],
)
async def test_what_is_no_frame_ends_the_pipe(raw: bytes) -> None:
    async with one_end(from_worker()) as (end, theirs):
        theirs.sendall(raw)
        with anyio.fail_after(5):
            await end.over.wait()
        assert end.messages == []


async def test_a_worker_cannot_say_what_only_the_daemon_says() -> None:
    frame = await sent(StopRun(run=1))
    async with one_end(from_worker()) as (end, theirs):
        theirs.sendall(frame)
        with anyio.fail_after(5):
            await end.over.wait()


async def test_a_large_message_arrives_whole() -> None:
    start = StartRun(
        run=1, filename="a.js", source="1", params=b'"' + b"x" * (5 << 20) + b'"', caller={},
        target={}, wall_s=1.0, cpu_s=1.0, memory_bytes=1, output_bytes=1, host_calls=1,
    )  # fmt: skip
    one, other = socket.socketpair()
    sender, receiver = End(from_worker()), End(to_worker())
    await open_pipe(one, sender.pipe)
    await open_pipe(other, receiver.pipe)
    sender.pipe.send(start)
    await until(lambda: bool(receiver.messages))
    assert receiver.messages == [start]
    sender.pipe.close()
    await sender.over.wait()
    await receiver.over.wait()
