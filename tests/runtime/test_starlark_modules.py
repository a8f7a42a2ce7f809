"""Starlark of several files: what is loaded, in what order, and what does not fit, with places."""

from __future__ import annotations

from dataclasses import replace

import anyio
import pytest

from orvalho.runtime.engine import ELSEWHERE, Modules
from orvalho.runtime.job import Ended, Jobs, Output
from tests.runtime.play import LIMITS, make_job

DOUBLE = """load("./deep/b.star", "add")
print("a is read")
def double(x):
    return add(x, x)
"""

pytestmark = pytest.mark.anyio


async def play(
    jobs: Jobs, source: str, names: dict[str, str] | None = None, **files: str
) -> tuple[Ended, list[Output]]:
    sources = {name.replace("__", "/") + ".star": text for name, text in files.items()}
    job = replace(
        make_job(source, filename="job.star", limits=LIMITS),
        modules=Modules(sources, names or {}),
    )
    lines: list[Output] = []
    with anyio.fail_after(30):
        async with jobs.open(job) as run:
            async for event in run:
                if isinstance(event, Ended):
                    return event, lines
                lines.append(event)
    raise AssertionError("it never ended")


async def test_a_file_is_loaded_and_its_functions_are_called(jobs: Jobs) -> None:
    ended, lines = await play(
        jobs,
        'load("./a.star", "double", plus="add")\n'
        "def main(job):\n    return [double(4), plus(1, 2)]\n",
        a=DOUBLE,
        deep__b="def add(x, y):\n    return x + y\n",
    )
    # What was loaded is not passed on by itself.
    assert (ended.outcome, "add" in (ended.error_message or "")) == ("failed", True)
    ended, lines = await play(
        jobs,
        'load("./a.star", "double")\nload("./deep/b.star", plus="add")\n'
        "def main(job):\n    return [double(4), plus(1, 2)]\n",
        a=DOUBLE,
        deep__b="def add(x, y):\n    return x + y\n",
    )
    assert (ended.outcome, ended.result) == ("done", b"[8,3]")
    assert [line.text for line in lines] == ["a is read"]


async def test_a_name_stands_for_a_file_of_the_targets(jobs: Jobs) -> None:
    job = replace(
        make_job('load("lib:counts", "one")\none()', filename="job.star"),
        modules=Modules(
            {
                "/lib/counts.star": 'load("./more.star", "two")\ndef one():\n    return two()\n',
                "/lib/more.star": "def two():\n    return 2\n",
            },
            {"lib:counts": "/lib/counts.star"},
        ),
    )
    async with jobs.open(job) as run:
        ended = [event async for event in run][-1]
    assert isinstance(ended, Ended)
    assert (ended.outcome, ended.result) == ("done", b"2")


async def test_a_file_is_evaluated_once_and_is_frozen(jobs: Jobs) -> None:
    ended, lines = await play(
        jobs,
        'load("./a.star", "seen")\nload("./b.star", "other")\nseen.append(1)\n',
        a='print("once")\nseen = []\n',
        b='load("./a.star", "seen")\nother = seen\n',
    )
    assert [line.text for line in lines] == ["once"]
    assert (ended.outcome, "Immutable" in (ended.error_message or "")) == ("failed", True)


async def test_an_error_in_a_file_names_its_line(jobs: Jobs) -> None:
    ended, _ = await play(
        jobs,
        'load("./a.star", "f")\n\ndef main(job):\n    return f(0)\n',
        a="def f(x):\n    y = 1 // x\n    return y\n",
    )
    assert ended.outcome == "failed"
    stack = ended.error_stack or ""
    assert "at a.star:2:9" in stack, stack
    assert "at main (job.star:4" in stack, stack


@pytest.mark.parametrize(
    ("source", "files", "place", "words"),
    [
        ('load("./a.star", "f")', {"a": 'load("./job.star", "g")'}, "a.star:1:6", "in a circle"),
        (
            'load("./a.star", "f")',
            {"a": '\nload("./b.star", "f")', "b": 'load("./a.star", "f")'},
            "b.star:1:6",
            "a.star loads b.star loads a.star",
        ),
        ('\n  \nload( "./gone.star", "f")', {}, "job.star:3:7", "did not come"),
        ('load("./a.star", "f")', {"a": "def f(:\n"}, "a.star:1:", "Parse error"),
        ('load("a.star", "f")', {}, "job.star:1:6", "bare name"),
        ('load("./a.js", "f")', {}, "job.star:1:6", "another language"),
        ('load("../../a.star", "f")', {}, "job.star:1:6", "leads out"),
        ('load("https://a/b.star", "f")', {}, "job.star:1:6", "nothing is fetched"),
        ('load("//tools:a.star", "f")', {}, "job.star:1:6", "./name"),
    ],
)
async def test_what_does_not_fit_is_told_with_its_place(
    jobs: Jobs, source: str, files: dict[str, str], place: str, words: str
) -> None:
    sources = {name + ".star": text for name, text in files.items()}
    if "./job.star" in str(files):
        sources["job.star"] = source
    problems = await jobs.check("job.star", source, Modules(sources))
    told = [
        f"{each.file or 'job.star'}:{each.line}:{each.column}: {each.message}" for each in problems
    ]
    assert any(each.startswith(place) for each in told), told
    if words != "Parse error":
        assert words in told[0], told


async def test_libraries_of_elsewhere_are_not_looked_at(jobs: Jobs) -> None:
    modules = Modules({}, {"lib:counts": ELSEWHERE})
    assert await jobs.check("job.star", 'load("lib:counts", "one")', modules) == ()
    (problem,) = await jobs.check("job.star", 'load("lib:counts", "one")')
    assert "no library" in problem.message


async def test_an_outline_tells_loads_and_functions(jobs: Jobs) -> None:
    source = (
        'load("./a.star", "f")\n\n\nload("lib:b",\n  "g")\n'
        'def total(rows, of = "n"):\n    """The sum."""\n    return 0\n\ndef _own(x):\n    pass\n'
    )
    outline = await jobs.outline("job.star", source)
    assert [(each.specifier, each.line, each.column) for each in outline.requests] == [
        ("./a.star", 1, 6),
        ("lib:b", 4, 6),
    ]
    (function,) = outline.functions
    assert (function.name, function.line, function.doc) == ("total", 6, "The sum.")
    assert function.signature == 'def total(rows, of = "n")'


async def test_a_loop_in_a_file_is_stopped_by_the_limit(jobs: Jobs) -> None:
    ended, _ = await play(
        jobs,
        'load("./a.star", "x")',
        a="def f():\n    for i in range(1000000000):\n        pass\nx = f()\n",
    )
    # On a busy machine its time may run out first.
    assert ended.outcome == "limited" and ended.limit in ("cpu", "wall")


async def test_two_hundred_files_on_top_of_each_other(jobs: Jobs) -> None:
    files = {f"f{n}": f'load("./f{n + 1}.star", "x")\ny = x\nx = y' for n in range(200)}
    files = {
        name: text.replace('"x")\ny = x\nx = y', 'z="x")\nx = z + 1')
        for name, text in files.items()
    }
    files["f200"] = "x = 0"
    ended, _ = await play(jobs, 'load("./f0.star", "x")\nx', **files)
    assert (ended.outcome, ended.result) == ("done", b"200")
