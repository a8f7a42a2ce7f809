"""Globs against a plain regular expression, and against hostile patterns."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orvalho.errors import InvalidInput
from orvalho.policies.glob_tree import GlobTree
from orvalho.policies.globs import compile_glob, glob_mistake

PIECES = ["a", "b", "/", "/", "*", "**", "/**", "/**/", ".", "\n", "ab"]
globs = (
    st.lists(st.sampled_from(PIECES), max_size=8)
    .map("".join)
    .filter(lambda text: glob_mistake(text) is None)
)
paths = st.lists(st.sampled_from(["a", "b", "/", "/", ".", "\n", "ab", "*"]), max_size=9).map(
    "".join
)


def reference(text: str) -> re.Pattern[str]:
    pieces = re.split(r"(/\*\*(?=/|\Z)|\*\*|\*)", text)
    wild = {"/**": "(?:/.*)?", "**": ".*", "*": "[^/]*"}
    return re.compile("".join(wild.get(p) or re.escape(p) for p in pieces) + r"\Z", re.DOTALL)


@pytest.mark.parametrize(
    ("glob", "path", "expected"),
    [
        ("/photos/*", "/photos/a.jpg", True),
        ("/photos/*", "/photos/a/b.jpg", False),
        ("/photos/**", "/photos/a/b.jpg", True),
        ("/photos/**", "/photos", True),
        ("/photos/**", "/photosynthesis", False),
        ("/**", "/", True),
        ("/**", "/.ssh/id", True),
        ("/*", "/.ssh", True),
        ("/**/.*", "/a/b/.env", True),
        ("/a/**/b", "/a/b", True),
        ("/photos/a", "/photos/a\n", False),
        ("/photos/*.jpg", "/photos/a.jpg\n", False),
        ("/photos/2024**", "/photos/2024-05/a", True),
        ("a.b", "axb", False),
        ("*@phone2", "peer@phone2", True),
        ("**", "any/key", True),
        ("/a*a", "/a", False),
    ],
)
def test_a_glob_means_what_the_manual_says(glob: str, path: str, expected: bool) -> None:
    assert compile_glob(glob).matches(path) is expected


@settings(max_examples=600, deadline=None)
@given(globs, paths)
def test_a_glob_agrees_with_the_regular_expression_of_its_meaning(glob: str, path: str) -> None:
    assert compile_glob(glob).matches(path) == bool(reference(glob).match(path))


@settings(max_examples=300, deadline=None)
@given(globs)
def test_a_glob_matches_its_own_text(glob: str) -> None:
    assert compile_glob(glob).matches(glob)


@settings(max_examples=300, deadline=None)
@given(st.lists(globs, max_size=12), paths)
def test_a_tree_finds_exactly_the_globs_that_match(texts: list[str], path: str) -> None:
    tree: GlobTree[int] = GlobTree()
    for number, text in enumerate(texts):
        tree.add(compile_glob(text), number)

    found = set(tree.find(path.split("/")))

    assert found == {n for n, text in enumerate(texts) if compile_glob(text).matches(path)}


@pytest.mark.parametrize(
    "glob", ["/***", "a**b**c**d", "/a" * 40, "x" * 1025], ids=["stars", "loose", "deep", "long"]
)
def test_a_glob_that_could_be_slow_or_means_nothing_is_refused(glob: str) -> None:
    with pytest.raises(InvalidInput):
        compile_glob(glob)


@pytest.mark.parametrize(
    ("glob", "path"),
    [
        ("/" + "*a" * 100 + "b", "/" + "a" * 255),
        ("/**/a" * 15 + "/b", "/a" * 500),
        ("a**a**b", "a/" * 500),
    ],
)
def test_a_hostile_glob_takes_no_time(glob: str, path: str) -> None:
    compiled = compile_glob(glob)
    started = time.perf_counter()

    assert not compiled.matches(path)

    assert time.perf_counter() - started < 5, "it does not blow up"
