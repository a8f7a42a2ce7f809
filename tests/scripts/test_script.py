"""What a script is, before anything runs it."""

from __future__ import annotations

import hashlib

import pytest

from orvalho.errors import InvalidInput
from orvalho.scripts.script import MAX_SOURCE_BYTES, Language, make_script


@pytest.mark.parametrize("filename", ["job.js", "deploy/job.mjs", "ação.js"])
def test_a_script_is_named_by_the_digest_of_its_source(filename: str) -> None:
    script = make_script(filename, "1 + é")

    assert script.language is Language.JAVASCRIPT
    assert script.digest == hashlib.sha256("1 + é".encode()).hexdigest()
    assert script.id == f"sha256:{script.digest}"


@pytest.mark.parametrize("filename", ["job.py", "job", "job.JS", ".js", ""])
def test_what_cannot_be_run_is_refused_and_what_can_is_named(filename: str) -> None:
    with pytest.raises(InvalidInput, match=r"\.js or \.mjs.* or \.star:"):
        make_script(filename, "")


@pytest.mark.parametrize("filename", ["a\x1b[2J.js", "a\n.js", "a\u202ejs.js", "a" * 300 + ".js"])
def test_a_filename_that_could_deceive_a_terminal_is_refused(filename: str) -> None:
    with pytest.raises(InvalidInput, match="printable"):
        make_script(filename, "")


def test_a_script_has_a_largest_size() -> None:
    make_script("a.js", "x" * MAX_SOURCE_BYTES)
    with pytest.raises(InvalidInput, match="more than"):
        make_script("a.js", "é" * (MAX_SOURCE_BYTES // 2 + 1))


def test_a_source_that_is_not_unicode_is_refused() -> None:
    with pytest.raises(InvalidInput, match="Unicode"):
        make_script("a.js", "\ud800")
