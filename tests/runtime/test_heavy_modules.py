"""A module that computes much has processes of its own from its second run on."""

from __future__ import annotations

import time

import anyio
import msgspec
import pytest

from orvalho.runtime.job import Ended, Jobs, Output
from orvalho.runtime.workers.pool import open_workers
from tests.runtime import wat
from tests.runtime.play import LIMITS, make_job, play, until

pytestmark = pytest.mark.anyio

AMPLE = msgspec.structs.replace(LIMITS, wall_s=60.0, cpu_s=30.0)
COUNTS = wat.module(
    '(func (export "run") (param $n i32) (result i32) (local $i i32) (loop $l'
    " (local.set $i (i32.add (local.get $i) (i32.const 1)))"
    " (br_if $l (i32.lt_u (local.get $i) (local.get $n)))) (local.get $i))"
)
LOOPS = wat.run("(call $log (i32.const 1) (i32.const 1024) (i32.const 2)) (loop $l (br $l))",
                data={1024: "on"})  # fmt: skip


def shared_runs(jobs: Jobs) -> int:
    """How many runs the workers have had that serve several guests."""
    return sum(each.runs for each in jobs.workers.list() if each.contexts)


async def counts(jobs: Jobs, to: int) -> Ended:
    ended, _ = await play(jobs, COUNTS, filename="job.wasm", params={"args": [to]}, limits=AMPLE)
    assert ended.result == str(to).encode(), ended
    return ended


async def test_what_computed_much_is_set_apart_and_what_did_not_stays() -> None:
    async with open_workers() as workers:
        jobs = Jobs(workers, heavy_s=0.02)
        for _ in range(3):
            await counts(jobs, 1000)
        assert shared_runs(jobs) == 3
        await counts(jobs, 200_000_000)
        before = shared_runs(jobs)
        assert before == 4
        await until(lambda: bool(jobs._heavy))
        await counts(jobs, 200_000_000)
        assert shared_runs(jobs) == before, "it ran elsewhere"


@pytest.mark.parametrize(("limits", "limit"), [({"cpu_s": 0.3}, "cpu"), ({"wall_s": 0.4}, "wall")])
async def test_code_that_looks_at_no_clock_is_stopped_all_the_same(
    limits: dict[str, float], limit: str
) -> None:
    async with open_workers() as workers:
        jobs = Jobs(workers, heavy_s=0)
        ended, lines = await play(
            jobs, LOOPS, filename="job.wasm", limits=msgspec.structs.replace(AMPLE, **limits)
        )
        assert (ended.outcome, ended.limit) == ("limited", limit), ended
        assert [line.text for line in lines] == ["on"]


async def test_it_is_cancelled_and_its_process_ends() -> None:
    async with open_workers() as workers:
        jobs = Jobs(workers, heavy_s=0)
        with anyio.fail_after(30):
            async with jobs.open(make_job(LOOPS, filename="job.wasm", limits=AMPLE)) as run:
                events = aiter(run)
                assert isinstance(await anext(events), Output)
                (worker,) = [each for each in jobs.workers.list() if each.running]
                started = time.monotonic()
                run.cancel()
                ended = await anext(events)
                assert isinstance(ended, Ended)
                assert ended.outcome == "cancelled"
        assert time.monotonic() - started < 30
        await until(lambda: all(each.pid != worker.pid for each in jobs.workers.list()))
