"""Reading policy files: every way in which Casbin takes a mistake for permission is refused."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from orvalho.policies.rule_set import RuleSet
from orvalho.policies.rules import MAX_FILE_BYTES, Reading, read_directory, read_files

GOOD = "p, gil@laptop, peer, fs.read, /photos/**, allow\n"
DENY = "p, gil@laptop, peer, fs.read, /secret/**, deny\n"
KEY = "ed25519:" + "A" * 43


def read(text: str | bytes, **known: object) -> Reading:
    content = text.encode() if isinstance(text, str) else text
    known = {"contexts": ["peer", "home"]} | known
    return read_files([("policy/peer.csv", content)], **known)  # type: ignore[arg-type]


def problems(text: str | bytes) -> list[str]:
    reading = read(text)
    assert reading.rules is None, "a file with a mistake is not used"
    return [str(problem) for problem in reading.problems]


def rules(text: str) -> RuleSet:
    reading = read(text)
    assert reading.rules is not None, reading.problems
    return reading.rules


def test_the_package_is_the_maintained_casbin_and_the_stale_one_is_not_beside_it() -> None:
    assert version("pycasbin") == "2.8.0"
    with pytest.raises(PackageNotFoundError):
        version("casbin")


def test_a_rule_knows_where_it_stands() -> None:
    found = rules("# about gil\n\n" + GOOD).rules[0]

    assert found.where == "policy/peer.csv:3"
    assert found.text == GOOD.strip()
    assert found.fields == ("gil@laptop", "peer", "fs.read", "/photos/**", "allow")


def test_a_typo_is_told_with_its_place_and_what_was_meant() -> None:
    text = GOOD * 1 + "p, gil@laptop, peer, fs.raed, /shared/**, allow\n"

    assert problems(text) == [
        'policy/peer.csv:2:22: unknown action "fs.raed", did you mean "fs.read"?'
    ]


def test_all_mistakes_of_all_files_are_told_at_once_in_order() -> None:
    reading = read_files(
        [
            ("policy/a.csv", b"p, *, peer, fs.read, /x, alow\np, *, peer\n"),
            ("policy/b.csv", b"q, *\n"),
        ]
    )

    assert [str(p).partition(": ")[0] for p in reading.problems] == [
        "policy/a.csv:1:26",
        "policy/a.csv:2:7",
        "policy/b.csv:1:1",
    ]


@pytest.mark.parametrize(
    "line",
    [
        "p, *, peer, fs.read, /secret, Deny",
        "p, *, peer, fs.read, /secret, DENY",
        "p, *, peer, fs.read, /secret, deny # a note",
        'p, *, peer, fs.read, /secret, "deny"',
        "p, *, peer, fs.read, /secret, 'deny'",
        "p, *, peer, fs.read, /secret, deni",
        "p, *, peer, fs.read, /secret, deny\u00a0",
        "pp, *, peer, fs.read, /secret, deny",
        "P, *, peer, fs.read, /secret, deny",
        "deny, *, peer, fs.read, /secret, deny",
        "p; *, peer, fs.read, /secret, deny",
        "p2, *, peer, fs.read, /secret, deny",
        ", *, peer, fs.read, /secret, deny",
    ],
)
def test_a_broken_deny_line_never_means_allow(line: str) -> None:
    assert problems(f"p, *, peer, fs.read, /**, allow\n{line}\n")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("p, *, peer, fs.read, /secret", "has 6 fields"),
        ("p, *, peer, fs.read, /secret, deny, x", 'unknown condition "x"'),
        ("p, *, peer, fs.read, /a,b, deny", "has 6 fields"),
        ("g, gil@laptop", "has 3 fields"),
        ("g, gil@laptop, @a, @b", "has 3 fields"),
        ("p, *, peer, , /secret, deny", "action is missing"),
        ("p, , peer, fs.read, /secret, deny", "subject is missing"),
        ("p, *, peer, fs.read, /secret(1), deny", "brackets"),
        ("p, *, peer, fs.read, [/secret, deny", "brackets"),
        ("p, *, peer, fs.read, /secret), deny", "brackets"),
        ("p, *, peer, fs.read, /{a}, deny", "brackets"),
        ("p, *, peer, fs.read, /secret?, deny", "wildcards"),
        ("p, *, peer, fs.read, \\/secret, deny", "escape"),
        ("p, *, peer, fs.read, /a/../b, deny", '".."'),
        ("p, *, peer, fs.read, /a//b, deny", '"//"'),
        ("p, *, peer, kv.read, ../b, deny", '".."'),
        ("p, *, peer, fs.read, secret/**, deny", 'write "/secret/**"'),
        ("p, *, peer, fs.read, /secret/, deny", 'write "/secret/**"'),
        ("p, *, peer, fs.read, /cafe\u0301, deny", "normal form C"),
        ("p, *, peer, fs.read, /***, deny", "***"),
        ("p, *, peer, script.run, sha256:XYZ, deny", "sha256:<hex>"),
        ("p, *, peer, script.send, a@b@c, deny", "context@node"),
        ("p, *, paer, fs.read, /secret, deny", 'did you mean "peer"?'),
        ("p, Gil@laptop, peer, fs.read, /secret, deny", "a-z and 0-9"),
        ("p, gil@lap@top, peer, fs.read, /secret, deny", "context@node"),
        ("p, owner, peer, fs.read, /secret, deny", 'did you mean "@owner"?'),
        ("p, @Family, peer, fs.read, /secret, deny", "a-z and 0-9"),
        ("p, @a@b, peer, fs.read, /secret, deny", "a group"),
        ("p, ed25519:abc, peer, fs.read, /secret, deny", "43 characters"),
        ("g, gil@laptop, family", 'write "@family"'),
        ("g, gil@laptop, @owner", "decided by keys"),
        ("g, gil@laptop, @paired", "decided by keys"),
        ("g, *, @family", "everybody"),
    ],
)
def test_a_line_that_no_request_can_match_is_refused(line: str, told: str) -> None:
    assert told in problems(line + "\n")[0]


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf" + DENY.encode(),
        DENY.encode("utf-16"),
        DENY.encode() + b"# \xff\n",
        b"p, *, peer, fs.read, /a\x00b, deny\n",
        b"p, *, peer, fs.read, /a\x1b[1mb, deny\n",
        b"# harmless\rp, *, peer, fs.read, /**, allow\n",
        "# \u202eynad\n".encode(),
        "p, *, peer, fs.read, /a\u200bb, deny\n".encode(),
        "p, *, peer, fs.read, /a\u2028b, deny\n".encode(),
        b"p, *, peer, fs.read, /a\tb, deny\n",
        b"",
        b"#" * (MAX_FILE_BYTES + 1),
    ],
    ids=[
        "bom",
        "utf16",
        "latin",
        "nul",
        "escape",
        "return",
        "bidi",
        "zero-width",
        "line-sep",
        "tab",
        "empty",
        "huge",
    ],
)
def test_a_file_that_editors_show_otherwise_than_we_read_it_is_refused(content: bytes) -> None:
    assert problems(content)


def test_the_place_of_a_byte_that_is_not_utf8_is_told() -> None:
    assert problems(b"# a\n# b\xff\n") == ["policy/peer.csv:2:4: is not UTF-8"]


def test_windows_line_ends_and_tabs_between_fields_are_read_like_any_other() -> None:
    assert rules("p,\t*, peer, fs.read,\t/x, deny\r\n# y\r\n").rules[0].fields[-1] == "deny"


def test_a_rule_that_stands_twice_is_refused_and_the_first_one_named() -> None:
    assert problems(GOOD + DENY + GOOD.replace(", ", ","))[0] == (
        "policy/peer.csv:3:3: stands already at policy/peer.csv:1"
    )
    assert "stands already" in problems("g, a, @x\ng, a, @x\n")[0]


@pytest.mark.parametrize("text", ["g, @a, @a\n", "g, @a, @b\ng, @b, @c\ng, @c, @a\n"])
def test_a_group_that_is_in_itself_is_refused(text: str) -> None:
    assert "in a circle" in problems(text)[0]


def test_groups_reach_through_groups_however_deep() -> None:
    deep = "".join(f"g, @g{n}, @g{n + 1}\n" for n in range(30))

    found = rules("g, gil@laptop, @g0\n" + deep)

    assert "@g30" in found.groups["gil@laptop"]


def test_a_group_without_members_is_a_warning_since_a_directory_may_be_empty() -> None:
    text = "p, @famly, peer, fs.read, /x, allow\n"

    assert read(text, groups=["famly"]).warnings == ()
    warning = read(text + "g, gil@laptop, @family\n").warnings
    assert str(warning[0]) == ('policy/peer.csv:1: nobody is in @famly, did you mean "@family"?')


@pytest.mark.parametrize("subject", ["*", "@owner", "@paired", "@x", "laptop", "gil@laptop", KEY])
def test_every_spelling_of_a_subject_is_read(subject: str) -> None:
    assert rules(f"p, {subject}, *, *, **, deny\n").rules[0].subject == subject


@pytest.mark.parametrize(
    "line",
    [
        "#? allow gil@laptop peer fs.read",
        "#? maybe gil@laptop peer fs.read /x",
        "#? deny gil@laptop peer fs.raed /x",
        "#? deny gil@laptop paer fs.read /x",
        "#?",
    ],
)
def test_a_test_line_with_a_mistake_is_refused(line: str) -> None:
    assert problems(line)


def test_the_column_of_a_mistake_in_a_test_is_told() -> None:
    assert problems("#? deny peer peer fs.raed /x")[0].startswith("policy/peer.csv:1:19: unknown")


def test_any_context_may_be_named_when_those_that_exist_are_not_told() -> None:
    assert read("p, *, later, fs.read, /x, allow\n", contexts=None).rules
    assert read("p, *, a@b, fs.read, /x, allow\n", contexts=None).problems


def test_a_directory_is_read_in_the_order_of_its_names(tmp_path: Path) -> None:
    (tmp_path / "policy").mkdir()
    for name in ("b.csv", "a.csv"):
        (tmp_path / "policy" / name).write_text(f"p, {name[0]}, *, fs.read, /x, allow\n")
    (tmp_path / "policy" / ".a.csv.swp").write_bytes(b"\xff")
    (tmp_path / "policy" / "notes.txt").write_bytes(b"\xff")

    reading = read_directory(tmp_path)

    assert reading.rules
    assert reading.files == ("policy/a.csv", "policy/b.csv")
    assert [rule.subject for rule in reading.rules.rules] == ["a", "b"]


def test_a_directory_that_is_not_there_is_a_problem(tmp_path: Path) -> None:
    assert "cannot be read" in str(read_directory(tmp_path).problems[0])


def test_a_file_cut_short_anywhere_never_loses_half_a_rule() -> None:
    text = GOOD + DENY
    whole = {rule.fields for rule in rules(text).rules}

    for cut in range(1, len(text)):
        reading = read(text[:cut])
        assert reading.rules is None or {r.fields for r in reading.rules.rules} <= whole
