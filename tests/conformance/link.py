"""What every transport's links must do."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import anyio
import pytest

from orvalho.errors import InvalidInput, Unavailable
from orvalho.transports.link import Link, Transport


class LinkSuite:
    """Subclass it with a transport and an address to listen on."""

    address: str
    nobody: str

    def make(self) -> Transport:
        raise NotImplementedError

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
