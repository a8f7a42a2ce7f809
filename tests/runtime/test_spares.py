"""Workers of one guest that stand ready: they are used, replaced when they die, and not kept."""

from __future__ import annotations

import os
import signal

import anyio
import anyio.lowlevel
import pytest

from orvalho.runtime.job import Jobs
from orvalho.runtime.workers import spares
from orvalho.runtime.workers.pool import WorkerInfo, open_workers
from orvalho.runtime.workers.spares import Spares
from tests.runtime.play import play, until, value_of

pytestmark = pytest.mark.anyio

STAR = "def main(job):\n  return 7"


def ready(jobs: Jobs) -> list[WorkerInfo]:
    return [each for each in jobs.workers.list() if not each.runs and not each.contexts]


async def test_nobody_stands_ready_before_the_first_run() -> None:
    async with open_workers() as workers:
        jobs = Jobs(workers)
        assert await value_of(jobs, "1") == 1
        assert ready(jobs) == []


async def test_the_next_guest_has_a_process_that_was_there_before() -> None:
    async with open_workers() as workers:
        jobs = Jobs(workers)
        assert await value_of(jobs, STAR, filename="job.star") == 7
        await until(lambda: len(ready(jobs)) == 2 and all(each.pid for each in ready(jobs)))
        waiting = {each.pid for each in ready(jobs)}
        assert await value_of(jobs, STAR, filename="job.star") == 7
        await until(lambda: len(ready(jobs)) == 2)
        assert len(waiting & {each.pid for each in ready(jobs)}) == 1


async def test_one_that_has_died_is_not_handed_out() -> None:
    async with open_workers() as workers:
        jobs = Jobs(workers)
        await play(jobs, STAR, filename="job.star")
        await until(lambda: len(ready(jobs)) == 2 and all(each.pid for each in ready(jobs)))
        for each in ready(jobs):
            os.kill(each.pid, signal.SIGKILL)
        await until(lambda: not ready(jobs))
        assert await value_of(jobs, STAR, filename="job.star") == 7


async def test_each_guest_has_a_process_of_its_own() -> None:
    """What one leaves in its process, none of the others finds, and a limit ends one alone."""
    async with open_workers() as workers:
        jobs = Jobs(workers)
        found: list[object] = []

        async def one(number: int) -> None:
            source = f"def main(job):\n  job.sleep(50)\n  return {number}"
            found.append(await value_of(jobs, source, filename="job.star"))

        async with anyio.create_task_group() as tasks:
            for number in range(8):
                tasks.start_soon(one, number)
        assert sorted(map(str, found)) == [str(number) for number in range(8)]


class Fake:
    def __init__(self) -> None:
        self.is_gone = False


async def test_they_are_let_go_when_nobody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spares, "_KEPT_S", 0.05)
    begun: list[Fake] = []
    ended: list[Fake] = []

    def start(language: str) -> Fake:
        begun.append(Fake())
        return begun[-1]

    kept: Spares[Fake] = Spares(start, ended.append)
    taken = kept.take("starlark")
    await until(lambda: len(begun) == 3)
    await until(lambda: len(ended) == 2)
    assert taken not in ended
    kept.take("starlark")
    kept.close()
    await anyio.lowlevel.checkpoint()
    assert len(begun) == 4, "none is begun after the end"
