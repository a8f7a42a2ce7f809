"""What every transport's links must do."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import socket
import tracemalloc
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import anyio
import pytest

from orvalho.errors import InvalidInput, Unavailable
from orvalho.transports.link import Link, Transport


class LinkSuite(ABC):
    """Subclass it with a transport and an address to listen on."""

    address: str
    nobody: str

    @abstractmethod
    def make(self) -> Transport:
        """A transport of its own for each test."""

    @asynccontextmanager
    async def pair(self) -> AsyncIterator[tuple[Link, Link]]:
        """Both ends of one link: the dialer's, the listener's."""
        transport = self.make()
        arrived, ended = anyio.Event(), anyio.Event()
        ends: list[Link] = []

        async def on_link(link: Link) -> None:
            ends.append(link)
            arrived.set()
            await ended.wait()

        async with transport.listen(self.address, on_link) as listener:
            near = await transport.dial(listener.address)
            await arrived.wait()
            try:
                yield near, ends[0]
            finally:
                ended.set()
                await near.aclose()

    def open(self) -> AbstractAsyncContextManager[tuple[Link, Link]]:
        return self.pair()

    @pytest.mark.anyio
    async def test_frames_arrive_whole_and_in_order_both_ways(self) -> None:
        async with self.open() as (near, far):
            frames = [bytes([n]) * (n * 97) for n in range(60)]
            for one, other in ((near, far), (far, near)):
                for frame in frames:
                    await one.send(frame)
                assert [await other.receive() for _ in frames] == frames

    @pytest.mark.anyio
    async def test_the_largest_frame_passes_and_a_larger_one_is_a_bug(self) -> None:
        async with self.open() as (near, far):
            frame = b"x" * near.max_frame_bytes
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(near.send, frame)
                assert await far.receive() == frame
            with pytest.raises(ValueError, match="at most"):
                await near.send(frame + b"x")

    @pytest.mark.anyio
    async def test_every_size_passes(self) -> None:
        async with self.open() as (near, far):
            most = near.max_frame_bytes
            sizes = [0, 1, 125, 126, 4095, 16_383, 16_384, 65_535, 65_536, most - 1, most, 0]
            for size in sizes:
                frame = os.urandom(size)
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(near.send, frame)
                    assert await far.receive() == frame

    @pytest.mark.anyio
    async def test_both_ways_at_once_and_more_than_any_buffer_holds(self) -> None:
        async with self.open() as (near, far):
            frames = [bytes([n]) * (near.max_frame_bytes - n) for n in range(60)]

            async def send(link: Link) -> None:
                for frame in frames:
                    await link.send(frame)

            async def receive(link: Link) -> None:
                for frame in frames:
                    assert await link.receive() == frame

            with anyio.fail_after(30):
                async with anyio.create_task_group() as tasks:
                    for link in (near, far):
                        tasks.start_soon(send, link)
                        tasks.start_soon(receive, link)

    @pytest.mark.anyio
    async def test_receives_cancelled_in_the_midst_of_traffic_lose_nothing(self) -> None:
        async with self.open() as (near, far):
            frames = [b"%d " % n + bytes(n * 37) for n in range(300)]
            came: list[bytes] = []

            async def send() -> None:
                for frame in frames:
                    await near.send(frame)

            draw = random.Random(1)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(send)
                with anyio.fail_after(30):
                    while len(came) < len(frames):
                        with anyio.move_on_after(draw.random() * 0.002):
                            while True:
                                came.append(await far.receive())
            assert came == frames

    @pytest.mark.anyio
    async def test_the_listeners_side_may_leave_too(self) -> None:
        async with self.open() as (near, far):
            await far.send(b"last words")
            await far.aclose()
            assert await near.receive() == b"last words"
            with pytest.raises(Unavailable), anyio.fail_after(10):
                await near.receive()
            with pytest.raises(Unavailable), anyio.fail_after(10):
                while True:
                    await near.send(bytes(1000))
                    await anyio.sleep(0.001)

    @pytest.mark.anyio
    async def test_a_waiting_sender_and_a_waiting_reader_learn_of_the_end(self) -> None:
        async with self.open() as (near, far):
            ended: list[str] = []

            async def send() -> None:
                with pytest.raises(Unavailable):
                    while True:
                        await near.send(bytes(near.max_frame_bytes))
                ended.append("sender")

            async def receive() -> None:
                with pytest.raises(Unavailable):
                    await near.receive()
                ended.append("reader")

            with anyio.fail_after(10):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(send)
                    tasks.start_soon(receive)
                    await anyio.sleep(0.1)
                    await far.aclose()
            assert sorted(ended) == ["reader", "sender"]

    @pytest.mark.anyio
    async def test_many_links_at_once_keep_apart(self) -> None:
        transport = self.make()

        async def echo(link: Link) -> None:
            with contextlib.suppress(Unavailable):
                while True:
                    await link.send(await link.receive())

        async def talk(address: str, name: int) -> None:
            link = await transport.dial(address)
            for n in range(20):
                await link.send(b"%d %d" % (name, n))
                assert await link.receive() == b"%d %d" % (name, n)
            await link.aclose()

        async with (
            transport.listen(self.address, echo) as listener,
            anyio.create_task_group() as tasks,
        ):
            for name in range(20):
                tasks.start_soon(talk, listener.address, name)

    @pytest.mark.anyio
    async def test_the_far_side_leaving_is_unavailable(self) -> None:
        async with self.open() as (near, far):
            await near.send(b"last words")
            await near.aclose()
            assert await far.receive() == b"last words"
            with pytest.raises(Unavailable):
                await far.receive()
            with pytest.raises(Unavailable):
                for _ in range(100):
                    await far.send(b"x")
                    await anyio.sleep(0.01)

    @pytest.mark.anyio
    async def test_a_closed_link_is_a_bug_to_use_and_fine_to_close_again(self) -> None:
        async with self.open() as (near, _):
            await near.aclose()
            await near.aclose()
            with pytest.raises(anyio.ClosedResourceError):
                await near.send(b"x")
            with pytest.raises(anyio.ClosedResourceError):
                await near.receive()

    @pytest.mark.anyio
    async def test_a_sender_waits_for_a_slow_reader(self) -> None:
        async with self.open() as (near, far):
            sent = 0

            async def flood() -> None:
                nonlocal sent
                while True:
                    await near.send(b"x" * near.max_frame_bytes)
                    sent += 1

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(flood)
                with anyio.move_on_after(0.3):
                    await anyio.sleep_forever()
                stuck_at = sent
                await anyio.sleep(0.05)
                assert sent == stuck_at
                assert stuck_at < 200
                for _ in range(10):
                    await far.receive()
                await anyio.sleep(0.05)
                assert sent > stuck_at
                tasks.cancel_scope.cancel()

    @pytest.mark.anyio
    async def test_a_cancelled_receive_loses_nothing(self) -> None:
        async with self.open() as (near, far):
            for _ in range(5):
                with anyio.move_on_after(0.01):
                    await far.receive()
            await near.send(b"still here")
            assert await far.receive() == b"still here"

    @pytest.mark.anyio
    async def test_leaving_the_listener_ends_its_links(self) -> None:
        transport = self.make()
        ended = anyio.Event()

        async def on_link(link: Link) -> None:
            await link.receive()
            try:
                await link.receive()
            except Unavailable:
                ended.set()

        async with transport.listen(self.address, on_link) as listener:
            near = await transport.dial(listener.address)
            await near.send(b"")
            await anyio.sleep(0.02)
        assert ended.is_set()
        with pytest.raises(Unavailable):
            await near.receive()
        await near.aclose()
        with pytest.raises(Unavailable):
            await transport.dial(listener.address)

    @pytest.mark.anyio
    async def test_an_address_is_taken_once(self) -> None:
        transport = self.make()

        async def on_link(_: Link) -> None: ...

        async with transport.listen(self.address, on_link) as listener:
            with pytest.raises(Unavailable):
                async with transport.listen(listener.address, on_link):
                    pass

    @pytest.mark.anyio
    async def test_a_wrong_address_is_named(self) -> None:
        transport = self.make()
        for address in ("nonsense", "gopher://x:1", f"{self.address.partition('://')[0]}://"):
            with pytest.raises(InvalidInput):
                await transport.dial(address)
        with pytest.raises(Unavailable):
            await transport.dial(self.nobody)


class TcpLinkSuite(LinkSuite):
    """What listeners on TCP endure from those who mean no good. `greeting` is what an attacker
    says first to be heard at all; `max_strangers` how many may wait."""

    greeting = b""
    max_strangers: int

    def port(self, address: str) -> tuple[str, int]:
        return "127.0.0.1", int(address.rpartition(":")[2])

    async def attack(self, address: str, draw: random.Random, count: int) -> None:
        """Connections that say `count` strings of nonsense, ten each."""
        for _ in range(count // 10):
            stream = await anyio.connect_tcp(*self.port(address))
            with contextlib.suppress(anyio.BrokenResourceError, OSError):
                await stream.send(self.greeting if draw.random() < 0.8 else b"")
                for _ in range(10):
                    await stream.send(draw.randbytes(draw.choice((1, 9, 30, 300, 3000))))
            with contextlib.suppress(anyio.BrokenResourceError, OSError):
                await stream.aclose()

    @pytest.mark.anyio
    async def test_ten_thousand_strings_of_nonsense(self) -> None:
        """Nobody but the attacker notices, and the memory stays flat."""
        transport = self.make()

        async def echo(link: Link) -> None:
            with contextlib.suppress(Unavailable):
                while True:
                    await link.send(await link.receive())

        async with transport.listen(self.address, echo) as listener:
            friend = await transport.dial(listener.address)
            await self.attack(listener.address, random.Random(1), 500)
            gc.collect()
            tracemalloc.start()
            before, _ = tracemalloc.get_traced_memory()
            async with anyio.create_task_group() as tasks:
                for seed in range(4):
                    tasks.start_soon(self.attack, listener.address, random.Random(seed), 2500)
            await friend.send(b"still here")
            assert await friend.receive() == b"still here"
            other = await transport.dial(listener.address)
            await other.send(b"and others")
            assert await other.receive() == b"and others"
            with anyio.fail_after(30):
                while True:
                    gc.collect()
                    after, _ = tracemalloc.get_traced_memory()
                    if after - before < 1_000_000:
                        break
                    await anyio.sleep(0.2)
            tracemalloc.stop()
            for link in (friend, other):
                await link.aclose()

    @pytest.mark.anyio
    async def test_a_crowd_of_strangers_is_bounded_and_shuts_nobody_out(self) -> None:
        async def on_link(link: Link) -> None:
            with contextlib.suppress(Unavailable):
                if await link.receive() == b"known":
                    link.admit()
                while True:
                    await link.send(await link.receive())

        transport = self.make()
        async with transport.listen(self.address, on_link) as listener:
            friend = await transport.dial(listener.address)
            await friend.send(b"known")
            await friend.send(b"hello")
            assert await friend.receive() == b"hello"
            silent = [
                socket.create_connection(self.port(listener.address))
                for _ in range(self.max_strangers)
            ]
            crowd = [await transport.dial(listener.address) for _ in range(self.max_strangers)]
            late = await transport.dial(listener.address)
            await late.send(b"known")
            for link in (friend, late):
                await link.send(b"hello")
                with anyio.fail_after(10):
                    assert await link.receive() == b"hello"
            with pytest.raises(Unavailable), anyio.fail_after(10):
                await crowd[0].receive()
            for each in silent:
                each.close()
            for link in (*crowd, friend, late):
                await link.aclose()
