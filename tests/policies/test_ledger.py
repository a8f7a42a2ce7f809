"""Leases: bounded, fair, and given back whatever happens."""

from __future__ import annotations

import anyio
import pytest
from anyio.lowlevel import checkpoint

from orvalho.errors import Unavailable
from orvalho.policies.ledger import Ledger
from orvalho.policies.quota import Limits, Usage

pytestmark = pytest.mark.anyio


class Runs:
    """Runs that hold a lease until they are told to end, and remember the order they began in."""

    def __init__(self, ledger: Ledger, tasks: anyio.abc.TaskGroup) -> None:
        self.ledger = ledger
        self.tasks = tasks
        self.began: list[str] = []
        self.ends: dict[str, anyio.Event] = {}

    async def start(self, name: str, subject: str) -> anyio.CancelScope:
        scope = anyio.CancelScope()
        self.ends[name] = anyio.Event()
        self.tasks.start_soon(self.run, name, subject, scope)
        await self.settle()
        return scope

    async def run(self, name: str, subject: str, scope: anyio.CancelScope) -> None:
        with scope:
            async with self.ledger.reserve(subject, Limits()) as lease:
                self.began.append(name)
                await self.ends[name].wait()
                lease.settle(Usage(wall_ms=10, memory_bytes=100))

    async def end(self, name: str) -> None:
        self.ends[name].set()
        await self.settle()

    async def settle(self) -> None:
        for _ in range(5):
            await checkpoint()


async def test_runs_wait_for_a_place_and_begin_in_the_order_they_came() -> None:
    async with anyio.create_task_group() as tasks:
        runs = Runs(Ledger(2, 2, waiting_per_subject=10), tasks)
        for name in ("a1", "b1", "c1", "d1"):
            await runs.start(name, name[0])
        assert runs.began == ["a1", "b1"]
        assert runs.ledger.statistics() == {"running": 2, "waiting": 2}

        await runs.end("b1")
        assert runs.began == ["a1", "b1", "c1"]
        for name in ("a1", "c1", "d1"):
            await runs.end(name)
        assert runs.began == ["a1", "b1", "c1", "d1"]
        assert runs.ledger.statistics() == {"running": 0, "waiting": 0}


async def test_a_greedy_subject_holds_up_only_itself() -> None:
    async with anyio.create_task_group() as tasks:
        runs = Runs(Ledger(2, 1, waiting_per_subject=10), tasks)
        for name in ("a1", "a2", "a3", "b1"):
            await runs.start(name, name[0])

        assert runs.began == ["a1", "b1"]
        for name in ("a1", "a2", "b1", "a3"):
            await runs.end(name)
        assert runs.began == ["a1", "b1", "a2", "a3"]


async def test_a_subject_with_too_many_waiting_is_told_to_come_later() -> None:
    async with anyio.create_task_group() as tasks:
        runs = Runs(Ledger(1, 1, waiting_per_subject=1), tasks)
        await runs.start("a1", "a")
        await runs.start("a2", "a")
        with pytest.raises(Unavailable, match="a has 1 runs waiting"):
            async with runs.ledger.reserve("a", Limits()):
                raise AssertionError("there is no place")
        await runs.start("b1", "b")
        assert runs.ledger.statistics()["waiting"] == 2
        for name in ("a1", "a2", "b1"):
            await runs.end(name)


async def test_one_that_is_cancelled_while_it_waits_leaves_no_hole() -> None:
    async with anyio.create_task_group() as tasks:
        runs = Runs(Ledger(1, 1, waiting_per_subject=10), tasks)
        await runs.start("a1", "a")
        scope = await runs.start("b1", "b")
        await runs.start("c1", "c")
        scope.cancel()
        await runs.settle()
        await runs.end("a1")

        assert runs.began == ["a1", "c1"]
        await runs.end("c1")
        assert runs.ledger.statistics() == {"running": 0, "waiting": 0}


async def test_one_that_is_cancelled_as_it_is_let_in_passes_its_place_on() -> None:
    async with anyio.create_task_group() as tasks:
        runs = Runs(Ledger(1, 1, waiting_per_subject=10), tasks)
        first = await runs.start("a1", "a")
        second = await runs.start("b1", "b")
        await runs.start("c1", "c")
        runs.ends["a1"].set()
        first.cancel()
        second.cancel()
        await runs.settle()

        assert runs.began == ["a1", "c1"]
        await runs.end("c1")
        assert runs.ledger.statistics() == {"running": 0, "waiting": 0}


async def test_more_places_let_more_in_and_fewer_end_nothing() -> None:
    async with anyio.create_task_group() as tasks:
        runs = Runs(Ledger(1, 1, waiting_per_subject=10), tasks)
        for name in ("a1", "b1", "c1"):
            await runs.start(name, name[0])
        runs.ledger.resize(2, 1)
        await runs.settle()
        assert runs.began == ["a1", "b1"]

        runs.ledger.resize(1, 1)
        await runs.end("a1")
        assert runs.began == ["a1", "b1"], "one place, and it is taken"
        for name in ("b1", "c1"):
            await runs.end(name)
        assert runs.began == ["a1", "b1", "c1"]


async def test_a_run_that_fails_gives_its_place_back_and_its_use_counts() -> None:
    ledger = Ledger(1, 1, waiting_per_subject=0)
    for memory_bytes in (7, 5):
        with pytest.raises(RuntimeError):
            async with ledger.reserve("a", Limits()) as lease:
                lease.settle(Usage(wall_ms=10, memory_bytes=memory_bytes))
                raise RuntimeError("the run failed")

    assert ledger.statistics()["running"] == 0
    assert ledger.used("a") == Usage(wall_ms=20, memory_bytes=7)
    assert ledger.used("b") == Usage()
