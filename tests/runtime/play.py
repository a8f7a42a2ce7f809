"""Running a source and looking at what became of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import anyio

from orvalho.policies.quota import Limits
from orvalho.runtime.bridge import HostCall
from orvalho.runtime.job import Ended, Job, Jobs, Output
from orvalho.scripts.script import Source

LIMITS = Limits(
    wall_s=3.0, cpu_s=1.0, memory_bytes=48 << 20, output_bytes=3_000_000, host_calls=100
)
CALLER = {"id": "ed25519:a", "name": "gil"}
TARGET = {"id": "ed25519:b", "name": "peer"}


def make_job(
    source: Source,
    *,
    params: object = None,
    context: str = "peer",
    filename: str = "job.js",
    limits: Limits = LIMITS,
    ops: Mapping[str, HostCall] | None = None,
) -> Job:
    return Job(
        run_id="r_1",
        context=context,
        filename=filename,
        source=source,
        params=json.dumps(params).encode(),
        caller=CALLER,
        target=TARGET,
        limits=limits,
        ops=ops or {},
    )


async def play(jobs: Jobs, source: Source, **settings: Any) -> tuple[Ended, list[Output]]:
    """How it ended, and its lines."""
    lines: list[Output] = []
    with anyio.fail_after(20):
        async with jobs.open(make_job(source, **settings)) as run:
            async for event in run:
                if isinstance(event, Ended):
                    return event, lines
                lines.append(event)
    raise AssertionError("a run ends with Ended")


async def value_of(jobs: Jobs, source: str, **settings: Any) -> Any:
    """The result, decoded; the run must be done."""
    ended, _ = await play(jobs, source, **settings)
    assert ended.outcome == "done", ended
    return None if ended.result is None else json.loads(ended.result)


async def until(holds: Callable[[], bool]) -> None:
    """Wait for what is told to nobody: the end of a process, a message in a protocol."""
    with anyio.fail_after(5):
        while not holds():
            await anyio.sleep(0.002)


def how(ended: Ended) -> str:
    """Its outcome, and the limit or error behind it, in words."""
    words = (ended.outcome, ended.limit, ended.error_name, ended.error_message)
    return " ".join(word for word in words if word)


def end_of(ended: Ended) -> str:
    """Its outcome, or the name of the limit that it was."""
    return str(ended.limit) if ended.outcome == "limited" else ended.outcome
