"""CPython as a component, built by componentize-py: whatever a real program imports is there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import anyio
import msgspec
import pytest

from orvalho.runtime.job import Ended, Jobs
from tests.runtime.play import LIMITS, make_job
from tests.runtime.test_engines import Tree

SOURCE = Path(__file__).parent / "python_component"
BUILDER = Path(sys.executable).with_name("componentize-py")

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(not BUILDER.exists(), reason="pip install orvalho[examples]"),
]


@pytest.fixture
def program(tmp_path: Path) -> bytes:
    made = tmp_path / "app.wasm"
    words = ["-d", str(SOURCE), "-w", "cmd", "componentize", "app", "-o", str(made)]
    subprocess.run([BUILDER, *words], cwd=SOURCE, check=True, capture_output=True, timeout=200)
    return made.read_bytes()


async def test_a_program_in_python(jobs: Jobs, program: bytes) -> None:
    tree = Tree()
    limits = msgspec.structs.replace(LIMITS, wall_s=60.0, cpu_s=30.0, memory_bytes=256 << 20)
    params = {"args": ["x"], "env": {"A": "b"}, "stdin": "typed"}
    for _ in range(2):
        job = make_job(program, filename="app.wasm", limits=limits, params=params, ops=tree.ops())
        with anyio.fail_after(200):
            async with jobs.open(job) as run:
                events = [event async for event in run]
        ended = events[-1]
        assert isinstance(ended, Ended)
        assert ended.outcome == "done", ended
        assert json.loads(ended.result or b"").splitlines() == [
            "args ['x'] b typed", "slept True", "content", "PermissionError",
        ]  # fmt: skip
        assert tree.files["/b.txt"] == b"written"
