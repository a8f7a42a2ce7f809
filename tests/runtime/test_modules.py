"""Lowering: what becomes of exports and imports, and that every position stays the author's."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orvalho.runtime.engines.v8.modules import lower


def text(source: str) -> str:
    return lower("job.js", source).text


@pytest.mark.parametrize(
    ("source", "kept"),
    [
        ("export default function main() {}", "               function main() {}"),
        ("export default async (a) => a", ";const  $out = async (a) => a;"),
        ("export default class {}", ";const  $out = class {};"),
        ("const a = 1;\nexport { a as default };", "const a = 1;\n"),
        ("export const a = 1;", "       const a = 1;"),
        ("#!/usr/bin/env orvalho\n1", "///usr/bin/env orvalho\n"),
    ],
)
def test_an_export_is_overwritten_in_its_place(source: str, kept: str) -> None:
    assert kept in text(source)


def test_a_default_export_makes_a_module_and_its_lack_a_bare_script() -> None:
    assert not lower("job.js", "export default 1").is_bare
    assert lower("job.js", "export const a = 1").is_bare


def test_a_bare_script_returns_its_last_expression() -> None:
    assert "return a + 1" in text("const a = 1;\na + 1\n// done")
    assert "return main()" in text("main();\nfunction main() {}")
    assert "return" not in text("1;\nconst a = 2")


@pytest.mark.parametrize(
    ("source", "line", "column", "word"),
    [
        ("\n  const a = await import(name)", 2, 19, "import() takes one text"),
        ("import a from './a.json' with { type: 'css' }", 1, 15, "takes one attribute"),
        ("import a from './a.json'", 1, 15, 'with { type: "json" }'),
        ("import a from './a.js' with { type: 'json' }", 1, 15, "end in .json"),
        ("export { default as a } from './a.json'", 1, 30, "import it first"),
        ("await import('./a.json')", 1, 7, 'with { type: "json" }'),
        ("import a, { b as a } from './a.js'", 1, 18, "already been declared"),
        ("import { a } from './a.js';\nlet a", 2, 5, "already been declared"),
        ("export default 1;\nexport default 2", 2, 1, "more than one"),
        ("let b; export { b as a }; export let a", 1, 27, "exported twice"),
    ],
)
def test_what_cannot_be_is_refused_with_its_place(
    source: str, line: int, column: int, word: str
) -> None:
    (problem,) = lower("job.js", source).problems
    assert (problem.line, problem.column) == (line, column)
    assert word in problem.message


def test_what_is_asked_for_is_told_in_its_order_with_its_place() -> None:
    source = "import('./b.js')\nimport a from './a.js'\n export * from './c.js'"
    program = lower("job.js", source)
    assert [(r.specifier, r.line, r.column) for r in program.requests] == [
        ("./a.js", 2, 15),
        ("./c.js", 3, 16),
    ]
    assert [(r.specifier, r.line, r.column) for r in program.dynamic] == [("./b.js", 1, 8)]


@given(
    st.lists(
        st.sampled_from(
            [
                "let é = '😀'",
                "f()",
                "export default x",
                "export const y = 1",
                "// c",
                "",
                "({})",
                ";",
            ]
        ),
        max_size=6,
    )
)
def test_no_line_moves_and_every_column_can_be_told(lines: list[str]) -> None:
    source = "\n".join(lines)
    program = lower("job.js", source)
    for number, (before, after) in enumerate(zip(lines, program.text.split("\n"), strict=False), 1):
        at = after.find("😀")
        if at >= 0:
            units = len(after[:at].encode("utf-16-le")) // 2
            assert program.original_column(number, units + 1) == before.find("😀") + 1


@pytest.mark.parametrize(
    "part",
    ["(", "{", "`${", "!", "a;\n", "import('a');", "export default 1;\n", "import a from 'a'\n"],
)
def test_a_source_made_to_be_slow_is_read_soon(part: str) -> None:
    started = time.monotonic()
    lower("job.js", part * (300_000 // len(part)))
    assert time.monotonic() - started < 3


@given(st.text(max_size=60))
def test_whatever_the_text_is_there_is_a_program(source: str) -> None:
    assert lower("job.js", source).text.endswith("//# sourceURL=job.js")


def test_a_filename_cannot_end_its_comment() -> None:
    assert text("1").count("\n") == lower("a b\n'\".js", "1").text.count("\n")
    assert lower("größe 1.js", "1").text.endswith("sourceURL=größe%201.js")


def test_a_long_line_of_names_is_counted_through_once() -> None:
    names = ", ".join(f"é{n}" for n in range(100_000))
    program = lower("job.js", f"export {{ {names} }} from './c.js'", is_entry=False)
    last = program.passed_on[-1].request
    assert (last.line, last.column) == (1, len("export { ") + names.rindex("é") + 1)
