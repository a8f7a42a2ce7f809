# ruff: noqa: E501, PLR0917 -- a table reads best with a case a line
"""Several modules in one run: bindings, order, errors, and what a hostile one cannot do."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import anyio
import msgspec
import pytest

from orvalho.runtime.engine import ELSEWHERE, Modules
from orvalho.runtime.job import Ended, Jobs
from tests.runtime.play import make_job

pytestmark = pytest.mark.anyio


async def end_of(
    jobs: Jobs, source: str, files: Mapping[str, str], names: Mapping[str, str] | None = None
) -> Ended:
    job = dataclasses.replace(make_job(source), modules=Modules(files, names or {}))
    with anyio.fail_after(30):
        async with jobs.open(job) as run:
            async for event in run:
                if isinstance(event, Ended):
                    return event
    raise AssertionError("a run ends with Ended")


async def value_of(jobs: Jobs, source: str, files: Mapping[str, str], **names: str) -> Any:
    ended = await end_of(jobs, source, files, names)
    assert ended.outcome == "done", ended
    return None if ended.result is None else msgspec.json.decode(ended.result)


COUNTER = "export let n = 0;\nexport function inc() { n++; }\nexport default 'd'"


@pytest.mark.parametrize(
    ("source", "files", "expected"),
    [
        ("import { n, inc } from './c.js'; const b = n; inc(); [b, n]", {"c.js": COUNTER}, [0, 1]),
        ("import d, * as c from './c.js'; c.inc(); [d, c.n]", {"c.js": COUNTER}, ["d", 1]),
        ("import { n as m, inc as i } from './c.js'; i(); ({ m })", {"c.js": COUNTER}, {"m": 1}),
        ("import { n } from './c.js'; ((n) => n)(7)", {"c.js": COUNTER}, 7),
        ("import { n } from './c.js'; { let n = 5; var k = n } k", {"c.js": COUNTER}, 5),
        ("import { n } from './c.js'; let { n: k } = { n: 9 }; k", {"c.js": COUNTER}, 9),
        ("import { n } from './c.js'; ({ n })", {"c.js": COUNTER}, {"n": 0}),
        ("import * as c from './c.js'; Object.keys(c)", {"c.js": COUNTER}, ["default", "inc", "n"]),
        ("import * as c from './c.js'; Object.isExtensible(c)", {"c.js": COUNTER}, False),
        ("import { f } from './f.js'\nconst a = 1\nf()", {"f.js": "export function f() { return this === undefined }"}, True),
        ("const { n } = await import('./c.js'); n", {"c.js": COUNTER}, 0),
        ("import { x } from './r.js'; x", {"r.js": "export { n as x } from './c.js'", "c.js": COUNTER}, 0),
        ("import { n } from './r.js'; n", {"r.js": "export * from './c.js'", "c.js": COUNTER}, 0),
        ("import { c } from './r.js'; c.n", {"r.js": "export * as c from './c.js'", "c.js": COUNTER}, 0),
        ("export { f as default } from './f.js'", {"f.js": "export const f = () => 3"}, 3),
        ("import { v } from './t.js'; v", {"t.js": "export const v = await Promise.resolve(4)"}, 4),
        ("import { u } from './a/u.js'; u", {"a/u.js": "export const u = import.meta.url"}, "orvalho://script/a/u.js"),
        ("import { b } from './a/b.js'; b", {"a/b.js": "export { b } from '../b.js'", "b.js": "export const b = 2"}, 2),
        ("import { __proto__ as p } from './p.js'; p", {"p.js": "const p = 6; export { p as __proto__ }"}, 6),
        ("import * as p from './p.js'; [p.__proto__, Object.getPrototypeOf(p)]", {"p.js": "const p = 6; export { p as __proto__ }"}, [6, None]),
        ("import { 'a b' as x } from './p.js'; x", {"p.js": "const p = 1; export { p as 'a b' }"}, 1),
    ],
)  # fmt: skip
async def test_what_is_imported_is_what_the_other_exports(
    jobs: Jobs, source: str, files: dict[str, str], expected: object
) -> None:
    assert await value_of(jobs, source, files) == expected


async def test_modules_run_once_and_each_after_those_that_it_imports(jobs: Jobs) -> None:
    files = {
        "a.js": "import './c.js'; import { log } from './log.js'; log.push('a')",
        "b.js": "import './c.js'; import { log } from './log.js'; log.push('b')",
        "c.js": "import { log } from './log.js'; log.push('c')",
        "log.js": "export const log = []",
    }
    source = "import './a.js'; import './b.js'; import { log } from './log.js'; log"
    assert await value_of(jobs, source, files) == ["c", "a", "b"]


async def test_in_a_circle_functions_are_there_and_values_not_yet(jobs: Jobs) -> None:
    files = {
        "a.js": "import { early } from './b.js'; export function f() { return 1 }\n"
        "export const v = 2; export { early }",
        "b.js": "import { f, v } from './a.js'; let why; try { v } catch (e) { why = e.name }\n"
        "export const early = [f(), why]",
    }
    source = "import { early } from './a.js'; early"
    assert await value_of(jobs, source, files) == [1, "ReferenceError"]


async def test_an_import_cannot_be_assigned(jobs: Jobs) -> None:
    ended = await end_of(jobs, "import { n } from './c.js'\nn = 1", {"c.js": COUNTER})
    assert (ended.outcome, ended.error_name) == ("failed", "TypeError")


async def test_a_stack_names_each_file_and_the_place_as_it_was_written(jobs: Jobs) -> None:
    thumb = "type A = string;\nexport function thumb(a: number): A {\n  throw new Error('é');\n}"
    source = "import { thumb } from './thumb.ts';\nexport default () => {\n  thumb(1);\n}"
    ended = await end_of(jobs, source, {"thumb.ts": thumb})
    places = (ended.error_stack or "").splitlines()
    assert places[0] == "    at thumb (thumb.ts:3:9)"
    assert places[1].startswith("    at default (job.js:3:")


@pytest.mark.parametrize(
    ("source", "files", "file", "line", "message"),
    [
        ("\nimport { m } from './c.js'", {"c.js": COUNTER}, "", 2, 'no export named "m"'),
        ("import d from './c.js'", {"c.js": "export let a"}, "", 1, "no default export"),
        ("import './gone.js'", {"c.js": COUNTER}, "", 1, "did not come with"),
        ("import './c.js'", {"c.js": "\nimport 'react'"}, "c.js", 2, "bare name"),
        ("import './c.js'", {"c.js": "import 'https://x/y.js'"}, "c.js", 1, "nothing is fetched"),
        ("import './c.js'", {"c.js": "import '../../x.js'"}, "c.js", 1, "leads out"),
        ("import './c.ts'", {"c.ts": "\n enum A {}"}, "c.ts", 2, "enum"),
        ("import { a } from './c.js'", {"c.js": "export let a = ;"}, "c.js", 1, "Unexpected"),
        ("import 'lib:none'", {"c.js": ""}, "", 1, "no \"lib:none\""),
        ("import { x } from './s.js'", {"s.js": "export * from './a.js'; export * from './b.js'",
            "a.js": "export let x", "b.js": "export let x"}, "", 1, "two different"),
    ],
)  # fmt: skip
async def test_what_does_not_fit_is_told_before_anything_runs(
    jobs: Jobs, source: str, files: dict[str, str], file: str, line: int, message: str
) -> None:
    problems = await jobs.check("job.js", source, Modules(files))
    assert [(each.file, each.line) for each in problems] == [(file, line)], problems
    assert message in problems[0].message
    ended = await end_of(jobs, "log('ran');" + source, files)
    assert (ended.outcome, ended.error_name) == ("failed", "SyntaxError")


async def test_what_only_the_target_has_is_not_looked_for_at_home(jobs: Jobs) -> None:
    modules = Modules({}, {"lib:images": ELSEWHERE})
    source = "import { a } from 'lib:images'; export * from 'lib:images'; a"
    assert await jobs.check("job.js", source, modules) == ()


async def test_a_guest_that_breaks_the_built_ins_breaks_only_itself(jobs: Jobs) -> None:
    files = {
        "a.js": "Promise.prototype.then = () => {}; Array.prototype.push = null;\n"
        "Object.defineProperty(Array.prototype, 0, { set() {} }); export const a = 1"
    }
    ended = await end_of(jobs, "import { a } from './a.js'; a", files)
    assert ended.outcome in ("done", "failed", "limited")
    assert await value_of(jobs, "import { n } from './c.js'; n", {"c.js": COUNTER}) == 0


def _layers(count: int) -> dict[str, str]:
    """Each file passes on all of both files of the next layer: 2 ** count ways to the last."""
    files = {
        f"{side}{n}.js": f"export * from './a{n + 1}.js'; export * from './b{n + 1}.js'"
        for n in range(count)
        for side in "ab"
    }
    return {**files, f"a{count}.js": "export const x = 1", f"b{count}.js": "export const y = 2"}


async def test_many_ways_to_one_name_are_each_gone_once(jobs: Jobs) -> None:
    source = "import * as a from './a0.js'; import { x } from './a0.js'; [x, Object.keys(a)]"
    assert await value_of(jobs, source, _layers(40)) == [1, ["x", "y"]]
    problems = await jobs.check("job.js", "import { z } from './a0.js'", Modules(_layers(40)))
    assert ['no export named "z"' in each.message for each in problems] == [True]


async def test_modules_that_name_each_other_in_too_many_ways_are_refused(jobs: Jobs) -> None:
    names = ", ".join(f"f{n}" for n in range(5000))
    files = {
        "c.js": f"let {names}; export {{ {names} }}",
        **{f"p{n}.js": "export * from './c.js'" for n in range(200)},
    }
    source = "".join(f"import * as p{n} from './p{n}.js';" for n in range(200))
    problems = await jobs.check("job.js", source, Modules(files, {"lib:c": "c.js"}))
    assert "more ways than can be looked through" in problems[0].message


async def test_a_run_that_is_cancelled_while_it_is_read_keeps_nobody_waiting(jobs: Jobs) -> None:
    many = "".join(f"export const a{n} = [{n}, {n}, {n}];\n" for n in range(1000))
    files = {f"m{n}.js": f"// {n}\n{many}" for n in range(250)}
    source = "".join(f"import './m{n}.js';" for n in range(250))
    job = dataclasses.replace(make_job(source), modules=Modules(files))
    async with jobs.open(job) as run:
        run.cancel()
    with anyio.fail_after(30):
        assert await value_of(jobs, "import { n } from './c.js'; n", {"c.js": COUNTER}) == 0


async def test_modules_of_a_language_that_has_none_mean_nothing(jobs: Jobs) -> None:
    job = dataclasses.replace(make_job("1 + 1", filename="job.star"), modules=Modules({"a.js": ""}))
    ended = None
    with anyio.fail_after(30):
        async with jobs.open(job) as run:
            async for event in run:
                ended = event
    assert isinstance(ended, Ended)
    assert ended.outcome == "done", ended


JSON = 'import d from "./d.json" with { type: "json" };'


@pytest.mark.parametrize(
    ("source", "files", "expected"),
    [
        (
            f"{JSON} d",
            {"d.json": ' {"a": [1, "é\\u2028\\n"], "b": null}\n'},
            {"a": [1, "é\u2028\n"], "b": None},
        ),
        (f"{JSON} d", {"d.json": "3"}, 3),
        (
            f"{JSON} [Object.keys(d), d.x === undefined]",
            {"d.json": '{"__proto__": {"x": 1}}'},
            [["__proto__"], True],
        ),
        (
            f"{JSON} import {{ seen }} from './b.js'; d.n = 1; seen()",
            {"d.json": "{}", "b.js": f"{JSON} export const seen = () => d.n"},
            1,
        ),
        (
            "import { default as d } from './d.json' with { 'type': 'json', }; d",
            {"d.json": "[]"},
            [],
        ),
        (
            "import * as all from './d.json' with { type: 'json' }; Object.keys(all)",
            {"d.json": "[]"},
            ["default"],
        ),
    ],
)
async def test_data_is_imported_as_it_stands(
    jobs: Jobs, source: str, files: Mapping[str, str], expected: object
) -> None:
    assert await value_of(jobs, source, files) == expected


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ('{\n  "a": 1,\n}', (3, 1), "this is no JSON"),
        ("", (1, 1), "this is no JSON"),
        ("{a: 1}", (1, 2), "this is no JSON"),
        ("[NaN]", (1, 1), "no NaN"),
        ("1; globalThis.x = 1", (1, 2), "this is no JSON"),
        ("[" * 100_000, (1, 1), "nested too deeply"),
    ],
)
async def test_data_that_is_none_is_told_with_its_place(
    jobs: Jobs, text: str, place: tuple[int, int], words: str
) -> None:
    problem = (await jobs.check("job.js", JSON, Modules({"d.json": text})))[0]
    assert (problem.file, (problem.line, problem.column)) == ("d.json", place)
    assert words in problem.message


async def test_webassembly_is_not_imported_and_what_to_do_instead_is_said(jobs: Jobs) -> None:
    (problem,) = await jobs.check("job.js", 'import { f } from "./m.wasm"; f()')
    assert (problem.line, problem.column) == (1, 19)
    assert "orvalho lib publish" in problem.message


async def test_data_in_typescript(jobs: Jobs) -> None:
    job = dataclasses.replace(
        make_job(f"{JSON}\nconst n: number = d.n; n", filename="job.ts"),
        modules=Modules({"d.json": '{"n": 4}'}, {}),
    )
    async with jobs.open(job) as run:
        ended = [event async for event in run][-1]
    assert isinstance(ended, Ended)
    assert ended.result == b"4"
