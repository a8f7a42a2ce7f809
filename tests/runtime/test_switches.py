"""What a context switches off: what each word takes away, and where a source names it."""

from __future__ import annotations

import time

import pytest

from orvalho.runtime.engines.v8.forbidden import find_forbidden
from orvalho.runtime.web.switches import WORDS, switched_off


def places(source: str, *words: str, name: str = "job.js") -> list[tuple[int, int]]:
    return [(each.line, each.column) for each in find_forbidden(name, source, words)]


def test_all_parts_are_the_whole() -> None:
    assert switched_off(["kv.read", "kv.write"]).rooms == ("kv", "docs")
    assert switched_off(["kv"]).ops == switched_off(["kv.read", "kv.write"]).ops
    assert switched_off(["fs.read", "fs.write"]).rooms == ()
    assert "target.fs.move" in switched_off(["fs.remove"]).ops
    assert switched_off(["eval"]).code and switched_off(["Function"]).code
    assert not switched_off(["timers"]).code


@pytest.mark.parametrize("word", WORDS)
def test_each_word_takes_something_away(word: str) -> None:
    off = switched_off([word])
    assert off.ops or off.names


@pytest.mark.parametrize(
    ("source", "words", "found"),
    [
        ("eval('1')", ("eval",), [(1, 1)]),
        ("globalThis.eval('1')", ("eval",), [(1, 1)]),
        ("const { setTimeout: s } = globalThis", ("timers",), []),
        ("f({ eval })", ("eval",), [(1, 5)]),
        ("a.eval('1'); const b = { eval: 1 }", ("eval",), []),
        ("'eval'; // eval\n/eval/.test(`eval`)", ("eval",), []),
        ("`${eval('1')}`", ("eval",), [(1, 4)]),
        ("target\n  .kv\n  .get('a')", ("kv",), [(1, 1)]),
        ("job.target.fs.write('/a', 1)", ("fs.write",), [(1, 1)]),
        ("target.fs.writeText; other.fs.write", ("fs.write",), []),
        ("'\U0001f600'; eval", ("eval",), [(1, 7)]),
        ("let x = (", ("eval",), []),
    ],
)
def test_where_a_word_is_named(
    source: str, words: tuple[str, ...], found: list[tuple[int, int]]
) -> None:
    assert places(source, *words) == found


def test_types_are_no_code() -> None:
    source = "let f: Function | null = null;\nconst g: number = eval('1') as number;"
    assert (2, 19) in places(source, "eval", name="job.ts")


def test_a_source_that_is_all_of_it_does_not_take_long() -> None:
    """Deep and wide, from a stranger: bounded, and told a hundred times at most."""
    wide = "eval;" * 50_000
    deep = "target." * 20_000 + "kv"
    began = time.monotonic()
    assert len(find_forbidden("job.js", wide, ("eval",))) == 100
    find_forbidden("job.js", deep, ("kv",))
    find_forbidden("job.js", "(" * 50_000, ("eval",))
    assert time.monotonic() - began < 30
