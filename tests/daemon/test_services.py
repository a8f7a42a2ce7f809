"""What stays, in real workers: what a call costs, and whose a line is."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import anyio
import msgspec
import pytest

from orvalho.daemon.services import Service, Services
from orvalho.policies.quota import Limits
from orvalho.runtime.job import Ended, Job, Jobs, Output
from orvalho.runtime.workers.pool import open_workers
from orvalho.scripts.library import Library
from orvalho.scripts.reference import Reference
from tests.runtime import wat
from tests.runtime.play import make_job

pytestmark = pytest.mark.anyio

CONTENT = wat.module(
    """
    (func (export "_initialize") (local $n i32)
      (loop $l (local.set $n (i32.add (local.get $n) (i32.const 1)))
        (br_if $l (i32.lt_u (local.get $n) (i32.const 500000000)))))
    (func (export "nothing"))
    (func (export "spin") (loop $l (br $l)))
    (func (export "grow") (drop (memory.grow (i32.const 40))))
    (func (export "say") (local $n i32)
      (loop $l (call $log (i32.const 1) (i32.const 1024) (i32.const 5))
        (local.set $n (i32.add (local.get $n) (i32.const 1)))
        (br_if $l (i32.lt_u (local.get $n) (i32.const 5)))))
    """,
    data={1024: "hello"},
)
DIGEST = hashlib.sha256(CONTENT).hexdigest()
LIBRARY = Library("thing", ".wasm", CONTENT, DIGEST, "", None, 0.0)
LIMITS = Limits(wall_s=60.0, cpu_s=60.0)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def job_of(function: str, limits: Limits = LIMITS) -> Job:
    job = make_job("", filename="thing.wasm", limits=limits)
    params = msgspec.json.encode({"call": function, "args": []})
    return replace(job, source=CONTENT, params=params, digest=DIGEST)


@asynccontextmanager
async def started() -> AsyncIterator[Service]:
    async with open_workers(contexts_per_worker=2) as workers, anyio.create_task_group() as tasks:
        services = Services(Jobs(workers), tasks)
        job = job_of("nothing")
        await services.start(LIBRARY, job)
        service = services.find(Reference(library="thing", sha256=DIGEST, header=""), job.context)
        assert service is not None
        yield service
        services.stop("thing", None)


async def call(
    service: Service, function: str, **limits: float
) -> tuple[Ended, list[int], list[str]]:
    """How it ended, what was metered meanwhile, and its lines."""
    metered: list[int] = []
    lines: list[str] = []

    async def tell(output: Output) -> None:
        lines.append(output.text)

    job = job_of(function, msgspec.structs.replace(LIMITS, **limits))
    ended = await service.call(replace(job, on_metered=metered.append), tell)
    return ended, metered, lines


async def test_a_call_is_ended_by_its_own_limits_and_charged_what_it_used() -> None:
    async with started() as service:
        quick, _, _ = await call(service, "nothing")
        assert (quick.outcome, quick.usage.cpu_ms < 50) == ("done", True), "its start was not its"
        for _ in range(2):
            ended, metered, _ = await call(service, "spin", cpu_s=0.3)
            assert (ended.outcome, ended.limit) == ("limited", "cpu")
            assert ended.usage.cpu_ms >= 300
            assert metered[-1] == ended.usage.cpu_ms
        ended, metered, _ = await call(service, "spin", wall_s=5.0)
        assert (ended.outcome, ended.limit) == ("limited", "wall")
        assert ended.usage.cpu_ms >= 100
        assert len(metered) > 1, "a quota learns of it while it computes"


async def test_a_call_that_is_cancelled_is_charged_what_it_used() -> None:
    async with started() as service:
        metered: list[int] = []
        computes = anyio.Event()

        def meter(cpu_ms: int) -> None:
            metered.append(cpu_ms)
            if cpu_ms > 200:
                computes.set()

        async def tell(_: Output) -> None:
            raise AssertionError("it says nothing")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(service.call, replace(job_of("spin"), on_metered=meter), tell)
            with anyio.fail_after(30):
                await computes.wait()
            before = len(metered)
            tasks.cancel_scope.cancel()
        assert len(metered) > before, "and that is told at its end once more"
        assert metered[-1] >= metered[before - 1]


async def test_a_call_takes_no_more_memory_than_it_may_have() -> None:
    async with started() as service:
        await call(service, "nothing")
        ended, _, _ = await call(service, "grow", memory_bytes=1_000_000)
        assert (ended.outcome, ended.limit) == ("limited", "memory")
        ended, _, _ = await call(service, "grow")
        assert ended.outcome == "done"


async def test_the_lines_of_a_slow_caller_do_not_go_to_the_next() -> None:
    async with started() as service:
        first: list[str] = []

        async def slow(output: Output) -> None:
            await anyio.sleep(0.1)
            first.append(output.text)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(service.call, job_of("say"), slow)
            await anyio.sleep(0.05)
            _, _, lines = await call(service, "nothing")
        assert lines == []
        assert first == ["hello"] * 5
