"""A wire that loses a fifth of its frames: how long a thousand scripts take to be done, each once,
and how soon a peer that is cut off or frozen is missed. Without root, on the memory network."""

from __future__ import annotations

import asyncio
import signal
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import uvloop

from bench.table import Row
from orvalho.peers.sending import Outcome
from orvalho.transports.memory import Faults as MemoryFaults
from orvalho.transports.memory import MemoryNetwork
from tests.faults.counting import BAD, COUNT, all_end, allow_counting, handled, paired, send
from tests.faults.lossy_wire import Faults, Host, cut_off, is_possible
from tests.faults.test_delivery import pair, wake

_BAR = "3 s"


def measure() -> Iterator[Row]:
    with TemporaryDirectory() as top:
        if not is_possible():
            yield from _in_memory(Path(top))
            return
        yield from _on_a_wire(Path(top))
    for scheme in ("ws", "h2", "quic"):
        with TemporaryDirectory() as top, paired(Path(top), "a", "b", scheme=scheme) as wire:
            wire.set(Faults(cut=cut_off(1, 2)))
            yield Row(f"a dead {scheme} link is noticed", _missed(wire.hosts[0], "b"), bar=_BAR)


def _on_a_wire(top: Path) -> Iterator[Row]:
    with paired(top, "laptop", "phone2") as wire:
        laptop, phone = wire.hosts
        allow_counting(phone)
        wire.set(BAD)
        send(laptop, "peer@phone2", range(COUNT))
        took = all_end(laptop, COUNT)
        counted = handled(phone)
        once = sum(times == 1 for times in counted.values())
        yield _row(f"{COUNT} scripts at once, 20 % of frames lost, {once} handled once", took)
        wire.set(Faults())
        phone.signal(signal.SIGSTOP)
        try:
            yield Row("a frozen peer is noticed", _missed(laptop, "phone2"), bar=_BAR)
        finally:
            phone.signal(signal.SIGCONT)


def _missed(host: Host, peer: str) -> str:
    began = time.monotonic()
    while host.online(peer):
        pass
    return f"{time.monotonic() - began:.1f} s"


def _in_memory(top: Path) -> Iterator[Row]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        yield _row(f"{COUNT} letters, 5 % lost, in memory", runner.run(_letters(top)))


async def _letters(top: Path) -> list[float]:
    network = MemoryNetwork(MemoryFaults(drop=0.05, repeat=0.1, reorder=0.05), seed=1)
    a, b = pair(top)
    took: list[float] = []
    async with AsyncExitStack() as stack:
        await wake(stack, a, network)
        await wake(stack, b, network)
        began = time.monotonic()
        ids = [await a.post(b, b"%d" % number) for number in range(COUNT)]
        for each in ids:
            assert await a.node.delivered(each) is Outcome.DELIVERED
            took.append(time.monotonic() - began)
    return took


def _row(what: str, took: Sequence[float]) -> Row:
    ordered = sorted(took)
    p99 = ordered[len(ordered) * 99 // 100]
    return Row(what, f"p50 {statistics.median(ordered):.2f} s, p99 {p99:.2f} s")
