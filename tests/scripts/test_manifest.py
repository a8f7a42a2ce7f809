"""The header of a script: every mistake is told at once, with its line."""

from __future__ import annotations

import pytest

from orvalho.errors import InvalidInput
from orvalho.policies.quota import Asked
from orvalho.scripts.manifest import Manifest, find_problems, read_manifest
from orvalho.scripts.script import make_script


def header(*lines: str) -> str:
    return "\n".join(["// /// orvalho", *(f"// {line}" for line in lines), "// ///", "1 + 1"])


def read(source: str) -> Manifest:
    return read_manifest(make_script("job.js", source))


def problems(source: str) -> tuple[str, ...]:
    return find_problems(make_script("job.js", source))


def test_a_header_says_what_a_script_needs_and_wants() -> None:
    manifest = read(
        header(
            'needs = ["target.fs.read:/photos/**", "caller.fs.read:/notes/**"]',
            'wants = ["target.fs.write:/**"]  # may be refused',
            'timeout = "30s"',
            'memory = "64MB"',
            'cpu = "5s"',
            'output = "2MB"',
            "host_calls = 100",
        )
    )

    assert [str(c) for c in manifest.needs] == [
        "target.fs.read:/photos/**",
        "caller.fs.read:/notes/**",
    ]
    assert [str(c) for c in manifest.wants] == ["target.fs.write:/**"]
    assert manifest.limits == Asked(
        wall_s=30, memory_bytes=64_000_000, cpu_s=5, output_bytes=2_000_000, host_calls=100
    )


@pytest.mark.parametrize(
    "source", ["", "1 + 1", "// /// script\n// x = 1\n// ///\n", "// a comment\n", "'// ///'"]
)
def test_a_script_without_a_header_asks_for_nothing(source: str) -> None:
    assert read(source) == Manifest()


def test_a_header_may_stand_below_a_licence_and_span_lines() -> None:
    source = "/* licence */\n" + header("needs = [", '  "target.kv.read:*",', "]").replace(
        "\n", "\r\n"
    )

    assert [str(c) for c in read(source).needs] == ["target.kv.read:*"]


def test_every_mistake_is_told_with_its_line() -> None:
    source = "#!/usr/bin/env orvalho\n" + header(
        'neds = ["target.fs.read:/a"]',
        "needs = [",
        '  "target.fs.read:/a",',
        '  "target.fs.raed:/b",',
        '  "target.fs.read:c",',
        "]",
        'timeout = "48h"',
        "memory = 64",
        'cpu = "fast"',
        "host_calls = 0",
        'wants = "target.fs.read:/a"',
    )

    assert problems(source) == (
        '3: unknown key "neds", did you mean "needs"?',
        '6: unknown capability "target.fs.raed", did you mean "target.fs.read"?',
        '7: "target.fs.read:c": a path starts with "/": write "/c"',
        "9: timeout is more than nothing and at most 1d",
        '10: memory is a text: memory = "64MB"',
        '11: "fast" is not a duration: write one like 30s',
        "12: host_calls is at least 1 and at most 10000000",
        '13: wants is a list of texts: wants = ["target.fs.read:/photos/**"]',
    )
    with pytest.raises(InvalidInput, match="8 mistakes") as caught:
        read(source)
    assert caught.value.where == "job.js:3"
    assert caught.value.detail
    assert caught.value.detail.splitlines()[1].startswith("job.js:6: unknown capability")


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (header('needs = ["a'), "2: the header is not TOML: "),
        (header("timeout = "), "2: the header is not TOML: "),
        (header("a = 1", "a = 2"), "3: the header is not TOML: "),
        ("// /// orvalho\n// x = 1\n1 + 1", '1: this header never ends: its last line is "// ///"'),
        ("// /// orvalho\n//x = 1\n// ///", "1: this header never ends"),
        (header() + "\n" + header(), "4: a second header: the first is on line 1"),
        ("// /// orvalo\n// ///", '1: did you mean "// /// orvalho"?'),
        (header("host_calls = true"), "2: host_calls is a whole number"),
        (header("needs = [1]"), "2: needs is a list of texts"),
        (
            header(f"needs = {[f'target.kv.read:{n}' for n in range(65)]}".replace("'", '"')),
            "2: a script asks for at most 64 things",
        ),
    ],
)
def test_a_header_that_says_something_else_than_meant_is_refused(source: str, told: str) -> None:
    assert problems(source)[0].startswith(told), problems(source)
