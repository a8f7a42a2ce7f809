"""Sources that break off: told with their place by a real worker, which lives on."""

from __future__ import annotations

import dataclasses

import anyio
import pytest

from orvalho.runtime.engine import Modules
from orvalho.runtime.job import Ended, Jobs
from tests.runtime.play import make_job, play, value_of

pytestmark = pytest.mark.anyio

_END = "Unexpected end"
_PLACES = [
    ("1 +", 1, 4, _END),
    ("f(", 1, 3, _END),
    ("1 +\n// a remark\n\n", 1, 4, _END),
    ("if (1", 1, 6, _END),
    ("`abc", 1, 5, _END),
    ('"é𝒳" +', 1, 8, _END),
    ("export default () => 1;\n}", 2, 2, _END),
    ("export default () => 1 +", 1, 25, _END),
    ("export default () => {", 1, 23, _END),
    ("export const a = 1;\nexport default function () {\n  f(;\n}", 3, 5, "token ';'"),
    ('import { a from "./b.js"', 1, 1, "this import cannot be read"),
]


@pytest.mark.parametrize("filename", ["job.js", "job.ts"])
@pytest.mark.parametrize("told", _PLACES)
async def test_what_breaks_off_is_told_with_its_place(
    jobs: Jobs, filename: str, told: tuple[str, int, int, str]
) -> None:
    source, line, column, message = told
    problems = await jobs.check(filename, source)
    assert [(each.line, each.column) for each in problems] == [(line, column)], problems
    assert message in problems[0].message
    ended, _ = await play(jobs, source, filename=filename)
    assert (ended.outcome, ended.error_name) == ("failed", "SyntaxError"), ended
    assert f"{filename}:{line}:{column}" in (ended.error_stack or "")
    assert await value_of(jobs, "1") == 1


async def test_a_module_that_breaks_off_is_named(jobs: Jobs) -> None:
    source = "import { a } from './b.js'; export default () => a +"
    files = {"b.js": "export const a = 1"}
    problems = await jobs.check("job.js", source, Modules(files))
    assert [(each.file, each.line, each.column) for each in problems] == [("", 1, 53)]
    assert _END in problems[0].message
    broken = Modules({"b.js": "export const a = () => {"})
    problems = await jobs.check("job.js", "import { a } from './b.js'; a", broken)
    assert [(each.file, each.line, each.column) for each in problems] == [("b.js", 1, 25)]
    job = dataclasses.replace(make_job("import { a } from './b.js'; a"), modules=broken)
    ended = None
    with anyio.fail_after(30):
        async with jobs.open(job) as run:
            async for event in run:
                ended = event
    assert isinstance(ended, Ended)
    assert "b.js:1:25" in (ended.error_stack or "")
