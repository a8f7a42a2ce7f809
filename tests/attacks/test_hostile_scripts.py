"""Scripts that mean harm, each beside one that does not: the good one ends with its right answer,
the daemon's process goes on, and the hostile one ends as it should."""

from __future__ import annotations

import json
import re
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest

from orvalho.policies.quota import Limits
from orvalho.runtime.job import Ended, Job, Jobs
from orvalho.runtime.workers.pool import open_workers

LIMITS = Limits(wall_s=1.2, cpu_s=0.4, memory_bytes=48 << 20, output_bytes=100_000, host_calls=200)
WALL, CPU, DIED = "wall", "cpu", "died"


@dataclass(frozen=True)
class Attack:
    name: str
    source: str
    # How it may end: done, failed, a limit's name, or died (V8 ended its own process).
    ends: tuple[str, ...]
    result: object


_HEADING = re.compile(r"//: (.+) -> ([a-z_ ]+?)(?: = (.+))?")


def read_corpus() -> list[Attack]:
    found: list[Attack] = []
    text = (Path(__file__).parent / "hostile_scripts.js").read_text(encoding="utf-8")
    for part in re.split(r"^(?=//: )", text, flags=re.MULTILINE)[1:]:
        heading, _, source = part.partition("\n")
        parts = _HEADING.fullmatch(heading)
        assert parts, heading
        result = json.loads(parts[3]) if parts[3] else ...
        found.append(Attack(parts[1], source.strip(), tuple(parts[2].split()), result))
    return found


ATTACKS = read_corpus()

GOOD = """
export default async function ({ target, params, log }) {
  let sum = 0;
  for (let i = 0; i < 5; i++) sum += (await target.kv.get(`k${i}`)).length;
  await new Promise((resolve) => setTimeout(resolve, 10));
  log("nearly");
  return sum + params.n;
}
"""


async def _get(argument: str) -> str:
    return json.dumps("value" + "!" * len(json.loads(argument)))


async def _put(argument: str) -> str:
    json.loads(argument)
    return "null"


def job(context: str, source: str, params: bytes) -> Job:
    return Job(
        run_id="r_1",
        context=context,
        filename="job.js",
        source=source,
        params=params,
        caller={"id": "ed25519:a", "name": "gil"},
        target={"id": "ed25519:b", "name": "peer"},
        limits=LIMITS,
        ops={"target.kv.get": _get, "target.kv.put": _put},
    )


async def end_of(jobs: Jobs, work: Job) -> Ended:
    with anyio.fail_after(30):
        async with jobs.open(work) as run:
            async for event in run:
                if isinstance(event, Ended):
                    return event
    raise AssertionError("a run ends with Ended")


def how(ended: Ended) -> str:
    if ended.outcome == "limited":
        return str(ended.limit)
    if ended.error_name == "Unavailable":
        return DIED
    return ended.outcome


@pytest.fixture(scope="module")
async def jobs(anyio_backend: str) -> AsyncIterator[Jobs]:
    async with open_workers(contexts_per_worker=1) as workers:
        yield Jobs(workers)


@pytest.mark.anyio
@pytest.mark.parametrize("case", ATTACKS, ids=lambda case: case.name)
async def test_a_hostile_script_hurts_only_itself(jobs: Jobs, case: Attack) -> None:
    ends: list[Ended] = []

    async def attacked() -> None:
        ends.append(
            await end_of(jobs, job("hostile", case.source, b'{"__proto__":{"polluted":1}}'))
        )

    started = time.monotonic()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(attacked)
        good = await end_of(jobs, job("peaceful", GOOD, b'{"n":2}'))
    took_s = time.monotonic() - started

    assert (good.outcome, good.result) == ("done", b"32"), good
    # What fills the heap meets one of three walls first, depending on the machine's speed: the
    # limit, its time, or V8 that gives up before either.
    walls = ("memory", DIED, CPU) if "memory" in case.ends else ()
    if CPU in (*case.ends, *walls):
        # On a machine that others keep busy, its time is up before it has had so much of it.
        walls = (*walls, WALL)
    assert how(ends[0]) in (*case.ends, *walls), ends[0]
    if case.result is not ... and ends[0].outcome == "done":
        assert ends[0].result is not None
        assert json.loads(ends[0].result) == case.result
    assert took_s < LIMITS.wall_s + 4, "it was stopped when its time was up"


@pytest.mark.anyio
async def test_the_corpus_is_read_whole() -> None:
    assert len(ATTACKS) >= 90
    assert len({case.name for case in ATTACKS}) == len(ATTACKS)


@pytest.mark.anyio
@pytest.mark.parametrize("bracket", ["(", "[", "{", "`${", "a=>", "!"])
async def test_a_source_that_is_nested_without_end(jobs: Jobs, bracket: str) -> None:
    ended = await end_of(jobs, job("hostile", bracket * 100_000, b"null"))
    assert how(ended) in ("failed", CPU), ended
    good = await end_of(jobs, job("hostile", "1 + 1", b"null"))
    assert good.result == b"2"


@pytest.mark.anyio
async def test_after_all_that_the_hostile_context_still_runs_scripts(jobs: Jobs) -> None:
    ended = await end_of(jobs, job("hostile", "1 + 1", b"null"))
    assert ended.result == b"2"


@pytest.mark.anyio
async def test_hostile_scripts_beside_each_other_in_one_worker(jobs: Jobs) -> None:
    endings: dict[str, Ended] = {}

    async def one(name: str, source: str) -> None:
        endings[name] = await end_of(jobs, job("crowd", source, b"{}"))

    async with anyio.create_task_group() as tasks:
        for n in range(3):
            tasks.start_soon(one, f"bad {n}", "for (;;) {}")
            tasks.start_soon(one, f"worse {n}", "await 0; for (;;) {}")
            tasks.start_soon(one, f"good {n}", f"await new Promise((r) => setTimeout(r, 50)); {n}")

    assert [endings[f"good {n}"].result for n in range(3)] == [b"0", b"1", b"2"]
    assert {how(endings[name]) for name in endings if "good" not in name} <= {CPU, WALL}
