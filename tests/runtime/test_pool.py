"""Which context runs where, and what is told when a worker dies."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import anyio
import pytest

from orvalho.errors import Unavailable
from orvalho.runtime.job import Ended, Jobs
from orvalho.runtime.workers.pool import WorkerInfo, open_workers
from tests.runtime.play import make_job, play, until, value_of

pytestmark = pytest.mark.anyio


def of_context(jobs: Jobs, context: str) -> WorkerInfo:
    return next(worker for worker in jobs.workers.list() if context in worker.contexts)


async def test_no_worker_is_there_before_the_first_run() -> None:
    async with open_workers() as workers:
        assert workers.list() == ()
        await value_of(Jobs(workers), "1")
        assert len(workers.list()) == 1


async def test_contexts_share_a_worker_up_to_the_number_and_keep_it(jobs: Jobs) -> None:
    for context in ("a", "b", "c", "a"):
        await value_of(jobs, "1", context=context)
    assert of_context(jobs, "a").id == of_context(jobs, "b").id != of_context(jobs, "c").id


async def test_a_worker_is_described(jobs: Jobs) -> None:
    await value_of(jobs, "1", context="a")
    async with jobs.open(make_job("await new Promise(() => {})", context="a")):
        worker = of_context(jobs, "a")
        assert worker.running == 1
    assert worker.runs >= 2
    assert worker.contexts == ("a", "b")
    assert worker.rss_bytes > 1 << 20
    assert abs(worker.started_at - time.time()) < 60
    assert _is_running(worker.pid)


async def test_nothing_is_left_behind_for_another_run_or_context(jobs: Jobs) -> None:
    trace = "globalThis.trace = 1; Object.prototype.trace = 2; Array.prototype.map = null; 1"
    for context in ("a", "b"):
        await value_of(jobs, trace, context=context)
        assert await value_of(jobs, "[typeof trace, ({}).trace ?? 0, [1].map((x) => x)]",
                              context=context) == ["undefined", 0, [1]]  # fmt: skip


async def test_when_a_worker_dies_its_runs_fail_and_say_so(jobs: Jobs) -> None:
    await value_of(jobs, "1", context="doomed")
    before = of_context(jobs, "doomed")
    async with jobs.open(make_job("await new Promise(() => {})", context="doomed")) as run:
        os.kill(before.pid, signal.SIGKILL)
        with anyio.fail_after(5):
            events = [event async for event in run]
    assert isinstance(events[-1], Ended)
    assert (events[-1].outcome, events[-1].error_name) == ("failed", "Unavailable")
    assert "SIGKILL" in str(events[-1].error_message)

    assert await value_of(jobs, "2", context="doomed") == 2
    assert of_context(jobs, "doomed").pid != before.pid


async def test_a_worker_that_hangs_is_killed_when_its_run_is_overdue(jobs: Jobs) -> None:
    jobs = Jobs(jobs.workers, grace_s=0.3)
    await value_of(jobs, "1", context="stuck")
    worker = of_context(jobs, "stuck")
    os.kill(worker.pid, signal.SIGSTOP)
    started = time.monotonic()
    async with jobs.open(make_job("1", context="stuck")) as run:
        run.cancel()
        events = [event async for event in run]
    assert isinstance(events[-1], Ended)
    assert events[-1].error_name == "Unavailable"
    assert time.monotonic() - started < 3


async def test_when_the_zygote_dies_another_one_is_started() -> None:
    async with open_workers(contexts_per_worker=1) as workers:
        jobs = Jobs(workers)
        await value_of(jobs, "1", context="a")
        zygote = _parent_of(workers.list()[0].pid)
        os.kill(zygote, signal.SIGKILL)
        await until(lambda: not workers.list())
        assert await value_of(jobs, "2", context="a") == 2


async def test_closing_the_pool_ends_every_process_and_run() -> None:
    ended: list[Ended] = []

    async def follow(jobs: Jobs) -> None:
        async with jobs.open(make_job("for (;;);")) as run:
            async for event in run:
                if isinstance(event, Ended):
                    ended.append(event)

    async with anyio.create_task_group() as tasks, open_workers() as workers:
        jobs = Jobs(workers)
        await value_of(jobs, "1")
        tasks.start_soon(follow, jobs)
        await anyio.sleep(0.1)
        pids = [workers.list()[0].pid, _parent_of(workers.list()[0].pid)]
    assert [event.outcome for event in ended] == ["lost"]
    await until(lambda: not any(map(_is_running, pids)))


async def test_the_daemons_cpu_rests_when_nothing_runs(jobs: Jobs) -> None:
    await value_of(jobs, "1")
    await anyio.sleep(0.1)
    pids = [worker.pid for worker in jobs.workers.list()]
    before = sum(map(_ticks, pids))
    await anyio.sleep(0.5)
    assert sum(map(_ticks, pids)) - before <= 1


async def test_a_run_that_nobody_awaits_ends_with_its_block(jobs: Jobs) -> None:
    async with jobs.open(make_job("for (;;);")):
        await anyio.sleep(0.05)
    ended, _ = await play(jobs, "1")
    assert ended.outcome == "done"


def _parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def _ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])


async def test_a_compiler_that_fails_leaves_no_lock_behind(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise Unavailable("no process can be started")

    monkeypatch.setattr(jobs.workers, "_compile", fail)
    for number in range(3):
        with pytest.raises(Unavailable):
            await jobs.workers.compile("a.wasm", b"\0asm" + bytes([1, 0, 0, 0, number]))
    assert not jobs.workers._compiling
