"""The rules that were tried, and the smallest edit: what is proposed was tried, and holds."""

from __future__ import annotations

from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orvalho.policies.access import AccessRequest, Subject
from orvalho.policies.indexed_engine import IndexedEngine
from orvalho.policies.library_guard import LibraryGuard
from orvalho.policies.mend import Edit, Imagined, applied, smallest_edit
from orvalho.policies.rule_set import failures, run_tests
from orvalho.policies.rules import read_files
from orvalho.policies.trail import closest, trail

GIL = Subject("ed25519:gil", frozenset({"*", "@paired", "laptop", "gil@laptop"}))
CONTEXTS = ("other", "peer")


def imagine(files: object) -> Imagined:
    texts = tuple(files)  # type: ignore[call-overload]
    reading = read_files(texts, contexts=CONTEXTS)
    if reading.rules is None:
        return Imagined(texts, None, None, reading.problems)
    rules = reading.rules
    engine = LibraryGuard(rules, IndexedEngine)
    failed = tuple(
        failures(
            run_tests(rules, lambda reads: LibraryGuard(rules, partial(IndexedEngine, reads=reads)))
        )
    )
    return Imagined(texts, reading.rules, None if failed else engine, failed)


def policy(*lines: str) -> Imagined:
    return imagine([("policy/peer.csv", "\n".join(lines).encode() or b"#")])


def asks(action: str, object_: str) -> AccessRequest:
    return AccessRequest(GIL, "peer", action, object_)


def edit_for(request: AccessRequest, *lines: str) -> tuple[Edit | None, Imagined]:
    now = policy(*lines)
    assert now.engine is not None, now.problems
    return smallest_edit(request, now, imagine, CONTEXTS), now


def test_each_rule_is_told_in_order_with_what_differs() -> None:
    now = policy(
        "p, ana@phone, other, fs.write, /a/**, allow",
        "p, *, peer, fs.read, /b/**, allow",
        "p, laptop, *, *, /a/**, allow",
        "p, *, *, fs.read, /**, deny",
    )
    assert now.rules
    tried = trail(now.rules, asks("fs.read", "/a/x"))
    assert [each.differs for each in tried] == [
        ("subject", "context", "action"),
        ("object",),
        (),
        (),
    ]
    assert [each.rule.line for each in tried] == [1, 2, 3, 4]


def test_code_is_opened_by_no_rule_about_everything() -> None:
    now = policy("p, *, *, fs.write, /**, allow", "p, *, *, fs.write, /lib/**, allow")
    assert now.rules
    tried = trail(now.rules, asks("fs.write", "/lib/a.js"))
    assert [each.differs for each in tried] == [("code",), ()]


def test_of_many_rules_the_closest_are_shown_in_the_order_of_the_files() -> None:
    now = policy(
        *(f"p, ana@phone, other, kv.read, k{n}, allow" for n in range(500)),
        "p, gil@laptop, peer, fs.read, /a, allow",
        *(f"p, ana@phone, other, kv.write, k{n}, allow" for n in range(500)),
    )
    assert now.rules
    shown = closest(trail(now.rules, asks("fs.read", "/a")))
    assert len(shown) == 20
    assert [each.rule.line for each in shown] == sorted(each.rule.line for each in shown)
    assert [each.rule.line for each in shown if each.matches] == [501]


def test_where_no_rule_speaks_a_line_is_added_to_the_file_of_the_context() -> None:
    edit, _ = edit_for(asks("fs.write", "/a/x"), "p, *, *, fs.read, /**, allow")
    assert edit is not None
    (change,) = edit.changes
    assert (change.file, change.line, change.old) == ("policy/peer.csv", 0, "")
    assert change.new == ("p, gil@laptop, peer, fs.write, /a/x, allow",)
    assert edit.opens == ""


def test_a_deny_of_every_action_keeps_denying_the_others() -> None:
    edit, now = edit_for(
        asks("fs.read", "/a/x"),
        "p, *, *, *, /a/**, deny",
        "p, *, *, fs.read, /**, allow",
        "p, *, *, fs.write, /**, allow",
    )
    assert edit is not None
    after = imagine(applied(now.files, edit))
    assert after.engine is not None
    assert after.engine.decide(asks("fs.read", "/a/x")).allowed
    assert not after.engine.decide(asks("fs.write", "/a/x")).allowed
    assert "no longer denies everybody fs.read /a/** anywhere" in edit.opens


def test_every_deny_in_the_way_is_part_of_the_edit_and_an_allow_besides() -> None:
    edit, now = edit_for(
        asks("fs.read", "/a/x"),
        "p, laptop, peer, fs.read, /a/**, deny",
        "p, *, *, fs.read, /**, deny",
    )
    assert edit is not None
    assert [each.line for each in edit.changes] == [1, 2, 0]
    after = imagine(applied(now.files, edit))
    assert after.engine is not None and after.engine.decide(asks("fs.read", "/a/x")).allowed


def test_an_edit_against_a_test_beside_the_rules_is_not_proposed() -> None:
    edit, _ = edit_for(
        asks("fs.read", "/a/x"),
        "p, *, *, fs.read, /a/**, deny",
        "#? deny gil@laptop peer fs.read /a/x",
    )
    assert edit is None


def test_what_is_allowed_takes_no_edit() -> None:
    edit, _ = edit_for(asks("fs.read", "/a"), "p, *, *, fs.read, /a, allow")
    assert edit is None


@pytest.mark.parametrize(
    "object_",
    [
        "/a\np, *, *, *, /**, allow",
        "/a, allow\n#",
        "/a,b",
        "/ a",
        "/a\u202eb",
        "/a\x00b",
        '/"a"',
        "/[a]",
        "/a\r\np, *, *, fs.write, /**, allow",
        "/**",
        "/a#b",
    ],
)
def test_no_name_of_a_file_writes_a_rule_of_its_own(object_: str) -> None:
    """The object comes from a stranger's script: what it is called must not become a line."""
    edit, now = edit_for(asks("fs.write", object_), "p, *, *, fs.read, /x, allow")
    if edit is None:
        return
    after = imagine(applied(now.files, edit))
    assert after.rules is not None
    assert now.rules is not None
    assert len(after.rules.rules) == len(now.rules.rules) + 1
    assert after.rules.rules[-1].subject == "gil@laptop"


_WORDS = st.sampled_from(("*", "laptop", "gil@laptop", "ana@phone", "@paired"))
_ACTIONS = st.sampled_from(("*", "fs.read", "fs.write", "kv.read"))
_OBJECTS = st.sampled_from(("/**", "/a/**", "/a/b", "/lib/**", "/lib/a", "/*/b", "/b"))
_LINES = st.builds(
    lambda *parts: ", ".join(("p", *parts)),
    _WORDS,
    st.sampled_from(("*", "peer", "other")),
    _ACTIONS,
    _OBJECTS,
    st.sampled_from(("allow", "deny")),
)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(_LINES, max_size=8, unique=True),
    st.sampled_from(("fs.read", "fs.write")),
    st.sampled_from(("/a/b", "/a/c", "/lib/a", "/b", "/")),
)
def test_trail_and_engine_agree_and_every_edit_holds(
    lines: list[str], action: str, object_: str
) -> None:
    request = asks(action, object_)
    edit, now = edit_for(request, *lines)
    assert now.rules is not None and now.engine is not None
    matching = [each.rule for each in trail(now.rules, request) if each.matches]
    decision = now.engine.decide(request)
    denies = [rule for rule in matching if rule.effect == "deny"]
    assert decision.allowed == (bool(matching) and not denies)
    assert decision.rule == (denies or matching or [None])[0]
    if decision.allowed:
        assert edit is None
        return
    assert edit is not None
    after = imagine(applied(now.files, edit))
    assert after.engine is not None and after.engine.decide(request).allowed
