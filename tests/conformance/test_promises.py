"""Every promise of `promises.py`, kept by every engine in real workers over real trees."""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncIterator
from typing import Any

import anyio
import msgspec
import pytest

from orvalho.policies.quota import Limits
from orvalho.runtime.job import Ended, Job, Jobs, Output
from orvalho.runtime.workers.pool import Workers, open_workers
from tests.conformance.columns import COLUMNS, PROGRAMS, Column
from tests.conformance.promises import PROMISES, Promise
from tests.conformance.world import World, open_world
from tests.runtime.play import LIMITS, how, make_job

pytestmark = pytest.mark.anyio

AMPLE = msgspec.structs.replace(LIMITS, wall_s=30.0, cpu_s=20.0)
PATIENCE_S = 30.0
# Every promise that some engine cannot keep, so that none is left out unseen.
SKIPPED = {
    ("javascript", "memory"),
    ("starlark", "wall: it waits for nothing"),
    ("wasm", "caller and target are named"),
    ("wasm", "thrown, with its place"),
    ("wasm", "not its language, with its place"),
    ("wasm", "a refusal ends what lets it through"),
    ("wasm", "wall: it waits for nothing"),
    ("wasm", "counts_a_map"),
    ("component", "memory"),
    ("component", "a refusal tells its rule"),
    ("component", "caller and target are named"),
    ("component", "thrown, with its place"),
    ("component", "not its language, with its place"),
    ("component", "a refusal ends what lets it through"),
    ("component", "wall: it waits for nothing"),
    ("component", "counts_a_map"),
}


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def workers(anyio_backend: str) -> AsyncIterator[Workers]:
    async with open_workers(contexts_per_worker=2) as workers:
        yield workers


@pytest.fixture
def jobs(workers: Workers, column: Column) -> Jobs:
    return Jobs(workers, heavy_s=0) if column.name == "wasm-alone" else Jobs(workers, heavy_s=1e9)


@pytest.fixture
async def world(tmp_path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as world:
        yield world


@pytest.fixture(params=COLUMNS, ids=lambda column: column.name)
def column(request) -> Column:
    return request.param


def job_of(column: Column, world: World, program: str, **settings: Any) -> Job:
    if program in column.skips:
        pytest.skip(column.skips[program])
    source = column.programs[program]
    return make_job(source, filename=column.filename, ops=world.ops, **settings)


async def follow(jobs: Jobs, job: Job) -> tuple[Ended, list[Output]]:
    lines = []
    with anyio.fail_after(PATIENCE_S):
        async with jobs.open(job) as run:
            async for event in run:
                if isinstance(event, Ended):
                    return event, lines
                lines.append(event)
    raise AssertionError("a run ends with Ended")


def agrees(wanted: Any, found: Any) -> bool:
    """An entry of a folder also says when it was written; `...` stands for anything."""
    if isinstance(wanted, dict) and {"name", "type", "size"} == set(wanted):
        return isinstance(found, dict) and all(
            value is ... or found.get(key) == value for key, value in wanted.items()
        )
    if isinstance(wanted, list) and isinstance(found, list) and wanted:
        return len(wanted) == len(found) and all(map(agrees, wanted, found))
    return bool(found == wanted) and type(found) is type(wanted)


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.name)
async def test_a_promise_is_kept(
    jobs: Jobs, world: World, column: Column, promise: Promise
) -> None:
    if promise.name in column.skips:
        pytest.skip(column.skips[promise.name])
    limits = msgspec.structs.replace(AMPLE, **promise.limits)
    ended, lines = await follow(
        jobs,
        make_job(
            column.source(promise),
            filename=column.filename,
            params=promise.params,
            limits=limits,
            ops=world.ops,
        ),
    )
    assert how(ended).startswith(promise.ends), ended
    if promise.ends == "done":
        assert agrees(promise.result, column.seen(promise, ended)), ended
    if promise.lines is not None:
        assert tuple((line.level, line.text) for line in lines) == promise.lines
        assert [line.seq for line in lines] == list(range(1, len(lines) + 1))
    if promise.stack:
        places = column.stacks[promise.program]
        found = str(ended.error_stack).splitlines()
        assert len(found) >= len(places), ended
        for line, place in zip(found, places, strict=False):
            assert line.startswith(f"    at {place}"), ended
    if promise.ends.startswith("limited"):
        assert_within(ended, limits)


def assert_within(ended: Ended, limits: Limits) -> None:
    """A limit lets nothing through that it should not, but for the look that comes too late."""
    assert ended.usage.host_calls <= limits.host_calls
    assert ended.result is None
    if ended.limit == "wall":
        assert ended.usage.wall_ms >= limits.wall_s * 1000 - 1
    if ended.limit == "cpu":
        assert ended.usage.cpu_ms >= limits.cpu_s * 1000 - 1


async def test_a_line_is_seen_while_its_run_goes_on(
    jobs: Jobs, world: World, column: Column
) -> None:
    with anyio.fail_after(PATIENCE_S):
        async with jobs.open(job_of(column, world, "says_and_waits", limits=AMPLE)) as run:
            events = aiter(run)
            first = await anext(events)
            assert isinstance(first, Output)
            assert first.text == "first"
            # It cannot have ended: what it waits for has not come.
            world.release.set()
            assert isinstance(await anext(events), Ended)


async def test_what_was_used_adds_up(jobs: Jobs, world: World, column: Column) -> None:
    ended, lines = await follow(jobs, job_of(column, world, "uses", limits=AMPLE))
    usage = ended.usage
    assert ended.outcome == "done", ended
    assert usage.output_bytes == len(ended.result or b"") + sum(len(line.text) for line in lines)
    assert usage.host_calls == len(world.calls) == 2
    assert (world.gate.read_bytes, world.gate.written_bytes) == (3, 3)
    assert world.gate.effects == 1
    assert 0 < usage.cpu_ms <= usage.wall_ms + 20
    assert (world.target / "u").read_text() == "abc"


async def test_runs_beside_and_after_each_other_leave_no_trace(
    jobs: Jobs, world: World, column: Column
) -> None:
    found: list[bytes | None] = []

    async def one() -> None:
        ended, _ = await follow(jobs, job_of(column, world, "leaves_a_trace", params={}))
        found.append(ended.result)

    for _ in range(2):
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(one)
    assert found == [b"false"] * 6


async def test_the_same_run_twice_has_the_same_result_to_the_byte(
    jobs: Jobs, world: World, column: Column
) -> None:
    digests = set()
    for _ in range(3):
        ended, _ = await follow(jobs, job_of(column, world, "counts_a_map"))
        assert ended.outcome == "done", ended
        digests.add(hashlib.sha256(ended.result or b"").hexdigest())
    assert len(digests) == 1


@pytest.mark.parametrize("program", ["loops", "sleeps", "calls_forever", "waits"])
async def test_a_cancelled_run_ends_wherever_it_is(
    jobs: Jobs, world: World, column: Column, program: str
) -> None:
    if not column.programs[program]:
        pytest.skip(column.skips["wall: it waits for nothing"])
    limits = msgspec.structs.replace(LIMITS, wall_s=120.0, cpu_s=120.0)
    with anyio.fail_after(PATIENCE_S):
        async with jobs.open(job_of(column, world, program, limits=limits)) as run:
            await anyio.sleep(0.2)
            cancelled_at = time.monotonic()
            run.cancel()
            events = [event async for event in run]
    assert time.monotonic() - cancelled_at < PATIENCE_S, "long before its own time was up"
    assert isinstance(events[-1], Ended)
    assert events[-1].outcome == "cancelled"


def test_every_column_is_whole_and_its_skips_are_known(column: Column) -> None:
    assert set(column.programs) == PROGRAMS
    names = {promise.name for promise in PROMISES} | PROGRAMS
    assert set(column.skips) <= names, "a skip names what there is"
    kind = column.name.removesuffix("-alone")
    assert {(kind, name) for name in column.skips} == {pair for pair in SKIPPED if pair[0] == kind}
    assert all(len(reason) > 10 for reason in column.skips.values())


def test_the_table_is_as_long_as_it_says() -> None:
    assert len({promise.name for promise in PROMISES}) == len(PROMISES) >= 60
