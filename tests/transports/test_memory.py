"""The memory network: its faults come from a seed, its time from the loop's clock."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from orvalho.errors import Unavailable
from orvalho.transports.link import Link
from orvalho.transports.memory import Faults, MemoryNetwork

DAY_S = 86400.0


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop whose clock jumps to the next timer instead of waiting for it."""

    skipped_s = 0.0

    def time(self) -> float:
        return super().time() + self.skipped_s

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:  # type: ignore[attr-defined]
            self.skipped_s += max(0.0, self._scheduled[0].when() - self.time())  # type: ignore[attr-defined]
        super()._run_once()  # type: ignore[misc]


def run(work: Callable[[], Awaitable[None]]) -> float:
    """Run it on a virtual clock; how long it took there."""
    loop = VirtualLoop()
    try:
        started = loop.time()
        loop.run_until_complete(work())
        return loop.time() - started
    finally:
        loop.close()


async def carried(faults: Faults, seed: int, count: int = 200) -> list[bytes]:
    """What of `count` frames arrives, in the order of arrival, until the last has."""
    network = MemoryNetwork(faults, seed)
    arrived: list[bytes] = []

    async def on_link(link: Link) -> None:
        try:
            while True:
                arrived.append(await link.receive())
        except Unavailable:
            return

    async with network.listen("memory://b", on_link) as listener:
        link = await network.dial(listener.address)
        try:
            for n in range(count):
                await link.send(b"%d" % n)
            await asyncio.sleep(2 * faults.delay_s + 0.1)
        except Unavailable:
            pass
        await link.aclose()
    return arrived


EVERY = [b"%d" % n for n in range(200)]


def test_a_day_of_delay_takes_no_time() -> None:
    async def work() -> None:
        arrived = await carried(Faults(delay_s=DAY_S), 1)
        assert sorted(arrived) == sorted(EVERY)
        assert arrived != EVERY

    assert run(work) >= DAY_S


@pytest.mark.parametrize(
    ("faults", "check"),
    [
        (Faults(), lambda got: got == EVERY),
        (Faults(drop=0.3), lambda got: 100 < len(got) < 180 and len(set(got)) == len(got)),
        (Faults(repeat=0.3), lambda got: len(got) > 220 and set(got) == set(EVERY)),
        (Faults(reorder=0.3), lambda got: sorted(got) != got and len(set(got)) > 190),
        (Faults(cut=0.02), lambda got: got == EVERY[: len(got)] and len(got) < 200),
    ],
)
def test_a_fault_script_does_what_it_says_and_the_same_again(
    faults: Faults, check: Callable[[list[bytes]], bool]
) -> None:
    async def work() -> None:
        first = await carried(faults, 5)
        assert check(first)
        assert await carried(faults, 5) == first
        if faults != Faults():
            assert await carried(faults, 6) != first

    run(work)


def test_a_parted_listener_is_unreachable_until_healed() -> None:
    async def work() -> None:
        network = MemoryNetwork()

        async def on_link(link: Link) -> None:
            with pytest.raises(Unavailable):
                await link.receive()

        async with network.listen("memory://b", on_link):
            link = await network.dial("memory://b")
            network.part("memory://b")
            with pytest.raises(Unavailable):
                await link.receive()
            with pytest.raises(Unavailable):
                await network.dial("memory://b")
            network.heal()
            await (await network.dial("memory://b")).aclose()

    run(work)
