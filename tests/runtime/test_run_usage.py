"""What a run is said to have used, by a worker that may be broken or in a guest's hands."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import anyio
import pytest

from orvalho.policies.quota import Limits, Usage
from orvalho.runtime.job import Ended, Job, Jobs, Run, _cpu_ms
from orvalho.runtime.workers.messages import Metered, RunEnded, StartRun
from orvalho.runtime.workers.pool import open_workers
from tests.runtime import wat
from tests.runtime.play import value_of

pytestmark = pytest.mark.anyio


class FakeWorker:
    pid = 1
    is_alone = False

    def __init__(self) -> None:
        self.started: list[StartRun] = []

    def start(self, start: StartRun, _guest: Any) -> None:
        self.started.append(start)

    def send(self, _message: Any) -> None: ...
    def forget(self, _number: int) -> None: ...
    def kill(self) -> None: ...


def job(told: list[int]) -> Job:
    who = {"id": "ed25519:k", "name": "gil@laptop"}
    return Job(
        run_id="r_1",
        context="peer",
        filename="a.js",
        source="1",
        params=b"null",
        caller=who,
        target=who,
        limits=Limits(),
        ops={},
        metering_s=0.1,
        on_metered=told.append,
    )


async def last_of(run: Run) -> Ended:
    async for event in run:
        if isinstance(event, Ended):
            return event
    raise AssertionError("it never ended")


def ended(**numbers: int) -> RunEnded:
    usual = dict.fromkeys(("wall_ms", "cpu_ms", "memory_bytes", "output_bytes"), 1)
    return RunEnded(run=1, outcome="done", host_calls=0, **usual | numbers)


async def test_processor_time_is_told_while_it_runs_and_kept_when_the_worker_dies() -> None:
    told: list[int] = []
    worker: Any = FakeWorker()
    async with anyio.create_task_group() as tasks:
        run = Run(job(told), "1", 1, worker, tasks=tasks, grace_s=5)
        assert worker.started[0].metering_s == 0.1
        run.metered(Metered(run=1, cpu_ms=70))
        run.metered(Metered(run=1, cpu_ms=140))
        run.lost("failed", "it died")
        run.metered(Metered(run=1, cpu_ms=999))
        found = await last_of(run)
        await run.leave()
        run._overdue.cancel()
    assert told == [70, 140]
    assert found.usage.cpu_ms == 140


@pytest.mark.parametrize(
    "numbers", [{"cpu_ms": 1 << 63}, {"memory_bytes": -1}, {"wall_ms": (1 << 44) + 1}]
)
async def test_numbers_that_cannot_be_are_not_believed(numbers: dict[str, int]) -> None:
    worker: Any = FakeWorker()
    async with anyio.create_task_group() as tasks:
        run = Run(job([]), "1", 1, worker, tasks=tasks, grace_s=5)
        run.ended(ended(**numbers))
        found = await last_of(run)
        run._overdue.cancel()
    assert (found.outcome, found.error_message) == ("failed", "worker is broken")
    assert found.usage == Usage()


async def test_numbers_that_can_be_are_passed_on() -> None:
    worker: Any = FakeWorker()
    async with anyio.create_task_group() as tasks:
        run = Run(job([]), "1", 1, worker, tasks=tasks, grace_s=5)
        run.ended(ended(cpu_ms=1 << 40))
        found = await last_of(run)
        run._overdue.cancel()
    assert (found.outcome, found.usage.cpu_ms) == ("done", 1 << 40)


BUSY = """\
let sum = 0;
for (let i = 0; i < 300000000; i++) sum += i % 7;
export default async ({ target }) => { await target.kv.put("sum", sum); for (;;) sum++; };
"""


async def test_a_run_that_is_left_tells_what_it_has_used() -> None:
    told: list[int] = []
    has_used = anyio.Event()

    async def put(_argument: str) -> str:
        has_used.set()
        await anyio.sleep_forever()
        return ""

    async with open_workers() as workers:
        busy = replace(
            job(told), source=BUSY, metering_s=0.0, ops={"target.kv.put": put}, params=b"null"
        )
        async with Jobs(workers).open(busy):
            with anyio.fail_after(60):
                await has_used.wait()
        await value_of(Jobs(workers), "1")
    assert len(told) == 1
    assert told[0] >= 20


async def test_a_module_that_is_left_in_a_worker_of_its_own_is_charged_as_well() -> None:
    told: list[int] = []
    loops = wat.run("(loop $l (br $l))")
    async with open_workers() as workers:
        spins = replace(job(told), filename="a.wasm", source=loops, metering_s=0.0)
        async with Jobs(workers, heavy_s=0).open(spins):
            with anyio.fail_after(60):
                while not any(_cpu_ms(w.pid) >= 300 for w in workers.list() if w.running):
                    await anyio.sleep(0.02)
    assert len(told) == 1
    assert told[0] >= 20
