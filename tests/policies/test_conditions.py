"""Conditions of rules: how they are read, when they hold, and that both engines agree on it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orvalho.errors import Denied
from orvalho.policies.access import AccessRequest, Decision, Subject
from orvalho.policies.book import PolicyBook
from orvalho.policies.casbin_engine import CasbinEngine
from orvalho.policies.conditional_engine import ConditionalEngine
from orvalho.policies.conditions import (
    UNKNOWN,
    Condition,
    Moment,
    Readings,
    parse_condition,
    parse_given,
)
from orvalho.policies.engine import PolicyEngine
from orvalho.policies.explain import refusal
from orvalho.policies.indexed_engine import IndexedEngine
from orvalho.policies.rule_set import RuleSet
from orvalho.policies.rules import read_files
from orvalho.policies.shipped import shipped_model, write_defaults

GIL = Subject("ed25519:gil", frozenset({"*", "@paired", "laptop", "gil@laptop", "ed25519:gil"}))
ASKED = AccessRequest(GIL, "peer", "fs.read", "/photos/a")
RULE = "p, gil@laptop, peer, fs.read, /photos/**, allow"


def at(clock: str) -> Readings:
    given = parse_given([f"time={clock}"])
    assert isinstance(given, Readings)
    return given


def condition(text: str) -> Condition:
    found = parse_condition(text)
    assert isinstance(found, Condition), found
    return found


def rule_set(text: str) -> RuleSet:
    reading = read_files([("policy/peer.csv", text.encode())])
    assert reading.rules is not None, reading.problems
    return reading.rules


def engines(rules: RuleSet, now: Readings) -> tuple[PolicyEngine, PolicyEngine]:
    def casbin(some: RuleSet) -> PolicyEngine:
        return CasbinEngine(some, shipped_model())

    return IndexedEngine(rules, lambda: now), ConditionalEngine(rules, lambda: now, casbin)


@pytest.mark.parametrize(
    ("text", "now", "holds"),
    [
        ("hours=08:00-20:00", at("mon/08:00"), True),
        ("hours=08:00-20:00", at("mon/19:59"), True),
        ("hours=08:00-20:00", at("mon/20:00"), False),
        ("hours=08:00-20:00", UNKNOWN, None),
        ("hours=22:00-06:00", at("mon/23:00"), True),
        ("hours=22:00-06:00", at("mon/05:59"), True),
        ("hours=22:00-06:00", at("mon/06:00"), False),
        ("hours=00:00-24:00", at("mon/23:59"), True),
        ("days=mon-fri", at("fri/00:00"), True),
        ("days=mon-fri", at("sat/00:00"), False),
        ("days=fri-mon", at("sun/00:00"), True),
        ("days=fri-mon", at("tue/00:00"), False),
        ("days=mon+wed-thu", at("thu/00:00"), True),
        ("days=mon+wed-thu", at("tue/00:00"), False),
        ("battery>40", Readings(battery=41), True),
        ("battery>40", Readings(battery=40), False),
        ("battery>=40", Readings(battery=40), True),
        ("battery<40", Readings(battery=40), False),
        ("battery<=40", Readings(battery=40), True),
        ("battery>40", UNKNOWN, None),
        ("charging", Readings(charging=True), True),
        ("charging=yes", Readings(charging=False), False),
        ("charging=no", Readings(charging=False), True),
        ("metered=no", Readings(metered=True), False),
        ("metered=no", UNKNOWN, None),
        ("charging or battery>40", Readings(charging=True), True),
        ("charging or battery>40", Readings(charging=False, battery=50), True),
        ("charging or battery>40", Readings(charging=False, battery=31), False),
        ("charging or battery>40", Readings(charging=False), None),
        ("charging battery>40", Readings(battery=31), False),
        ("charging and battery>40", Readings(battery=50), None),
        ("charging battery>40 or metered=no", Readings(metered=False), True),
    ],
)
def test_a_condition_holds_or_does_not_or_cannot_be_told(
    text: str, now: Readings, holds: bool | None
) -> None:
    assert condition(text).holds(now) is holds


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("batery>40", 'unknown condition "batery>40", did you mean "battery"?'),
        ("battery=40", "write it like battery>40"),
        ("battery>101", "at most 100 percent"),
        ("battery>\u0664\u0660", "write it like battery>40"),
        ("hours=8-20", "write it like hours=08:00-20:00"),
        ("hours=08:00-25:00", "00:00 to 24:00"),
        ("hours=08:61-09:00", "00:00 to 24:00"),
        ("hours=08:00-08:00", "begin where they end"),
        ("days=monday", '"monday" is no day'),
        ("days=mon-", '"" is no day'),
        ("charging=maybe", "write it like charging"),
        ("or charging", '"or" stands between'),
        ("charging or", "is missing"),
        ("charging or or metered", '"or" stands between'),
        ("Charging", "unknown condition"),
        ("charging " * 17, "at most 16 parts"),
        ("", "is missing"),
    ],
)
def test_what_is_no_condition_is_told(text: str, told: str) -> None:
    found = parse_condition(text)
    assert isinstance(found, str)
    assert told in found


def test_a_rules_mistake_names_its_line_and_column() -> None:
    reading = read_files([("policy/peer.csv", f"#\n{RULE}, charging or batery>40\n".encode())])

    assert reading.rules is None
    assert str(reading.problems[0]) == (
        'policy/peer.csv:2:50: unknown condition "batery>40", did you mean "battery"?'
    )


@pytest.mark.parametrize("line", [f"{RULE},", f"{RULE}, charging, metered", f"{RULE}, #x"])
def test_a_sixth_column_that_is_none_is_refused(line: str) -> None:
    assert read_files([("policy/peer.csv", line.encode())]).rules is None


def test_one_rule_may_stand_there_under_two_conditions_but_not_twice_under_one() -> None:
    assert len(rule_set(f"{RULE}, charging\n{RULE}, hours=08:00-09:00\n{RULE}\n").rules) == 3
    again = read_files([("policy/peer.csv", f"{RULE}, charging\n{RULE},  charging\n".encode())])
    assert "stands already at policy/peer.csv:1" in str(again.problems[0])


def decide_both(text: str, now: Readings, asked: AccessRequest = ASKED) -> Decision:
    mine, theirs = (engine.decide(asked) for engine in engines(rule_set(text), now))
    assert (mine.allowed, mine.rule, mine.unmet) == (theirs.allowed, theirs.rule, theirs.unmet)
    return mine


def test_an_allow_counts_only_when_its_condition_holds() -> None:
    text = f"{RULE}, charging or battery>40"

    assert decide_both(text, Readings(charging=True)).allowed
    refused = decide_both(text, Readings(charging=False, battery=31))
    assert not refused.allowed
    assert refused.unmet
    assert refused.unmet.reason == ("only if charging or battery>40; now not charging, battery 31")
    unknown = decide_both(text, UNKNOWN)
    assert not unknown.allowed
    assert unknown.unmet
    assert unknown.unmet.truth is None
    assert "charging unknown, battery unknown" in unknown.unmet.reason


def test_a_deny_counts_unless_its_condition_does_not() -> None:
    text = f"{RULE}\np, *, peer, fs.read, /**, deny, metered"

    assert decide_both(text, Readings(metered=False)).allowed
    assert not decide_both(text, Readings(metered=True)).allowed
    unknown = decide_both(text, UNKNOWN)
    assert not unknown.allowed
    assert unknown.unmet
    assert unknown.unmet.reason == "if metered; now metered unknown"


def test_a_refusal_tells_the_condition_and_what_is_so() -> None:
    decision = decide_both(f"{RULE}, charging", Readings(charging=False))
    error = refusal(ASKED, decision)

    assert isinstance(error, Denied)
    assert error.message == (
        "gil@laptop may not fs.read /photos/a in peer: policy/peer.csv:1 allows it"
        " only if charging; now not charging"
    )
    assert error.rule == "policy/peer.csv:1"
    assert error.hint
    assert "charging" in error.hint


def test_only_a_decision_without_a_condition_may_be_kept() -> None:
    text = f"{RULE}, charging\np, *, peer, kv.read, x, allow\n"
    engine = IndexedEngine(rule_set(text), lambda: Readings(charging=True))

    assert not engine.decide(ASKED).lasting
    assert engine.decide(AccessRequest(GIL, "peer", "kv.read", "x")).lasting
    denied = IndexedEngine(
        rule_set("p, *, *, *, **, deny, metered"), lambda: Readings(metered=False)
    )
    assert not denied.decide(ASKED).lasting


@pytest.mark.parametrize("model", ["shipped", "changed"])
def test_a_book_answers_by_what_is_so_at_each_decision(tmp_path: Path, model: str) -> None:
    write_defaults(tmp_path)
    if model == "changed":
        path = tmp_path / "model.conf"
        path.write_text(path.read_text().replace("m = g(", "m = 1 == 1 && g("))
    (tmp_path / "policy/peer.csv").write_text(f"{RULE}, charging\n")
    now = [Readings(charging=True)]
    book = PolicyBook(tmp_path, lambda: ["peer"], lambda: now[0])
    assert book.problems == ()

    answers = []
    for charging in (True, False, None, True):
        now[0] = Readings(charging=charging)
        answers.append(book.decide(ASKED).allowed)

    assert answers == [True, False, False, True]
    assert book.probes == {"charging"}


def test_the_guard_of_libraries_knows_conditions(tmp_path: Path) -> None:
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy/x.csv").write_text("p, laptop, *, fs.write, /lib/**, allow, charging\n")
    now = [Readings(charging=True)]
    book = PolicyBook(tmp_path, lambda: ["peer"], lambda: now[0])
    asked = AccessRequest(GIL, "peer", "fs.write", "/lib/a.js")

    assert book.decide(asked).allowed
    now[0] = Readings(charging=False)
    refused = book.decide(asked)
    assert not refused.allowed
    assert refused.unmet


def test_a_test_line_says_what_it_supposes_and_nothing_else_counts(tmp_path: Path) -> None:
    write_defaults(tmp_path)
    file = tmp_path / "policy/peer.csv"
    file.write_text(
        f"{RULE}, charging hours=08:00-20:00\n"
        "#? when charging=yes time=mon/09:00 allow gil@laptop peer fs.read /photos/a b\n"
        "#? when charging=yes time=mon/21:00 deny gil@laptop peer fs.read /photos/a\n"
        "#? deny gil@laptop peer fs.read /photos/a\n"
    )
    # As it is here now, each of the two denies would be an allow.
    noon = Readings(Moment(0, 720), charging=True)
    assert PolicyBook(tmp_path, lambda: ["peer"], lambda: noon).problems == ()

    file.write_text(f"{file.read_text()}#? when charging=no allow laptop peer fs.read /photos\n")
    assert PolicyBook(tmp_path, lambda: ["peer"]).problems == (
        "policy/peer.csv:5: this test fails: allow was expected, but it is denied, by no rule",
    )


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("#? when chargin=yes allow * peer fs.read /x", 'did you mean "charging"?'),
        ("#? when battery=101 allow * peer fs.read /x", "write it like battery=31"),
        ("#? when time=mon/24:00 allow * peer fs.read /x", "write it like time=mon/09:30"),
        ("#? when time=may/09:00 allow * peer fs.read /x", '"may" is no day'),
        ("#? when charging=yes alow * peer fs.read /x", 'did you mean "allow"?'),
        ("#? when charging=yes", "a test is"),
        ("#? alow * peer fs.read /x", 'unknown effect "alow", did you mean "allow"?'),
        ("#? allow * peer fs.raed /x", 'did you mean "fs.read"?'),
        ("#? allow * peer fs.read", "a test is"),
        ("#? allow \x1b[2J peer fs.read /x", "U+001B"),
        ("#? allow * peer fs.read /\u202ex", "U+202E"),
    ],
)
def test_a_test_line_with_a_mistake_is_one_of_the_file(line: str, told: str) -> None:
    reading = read_files([("policy/peer.csv", f"#\n{line}\n".encode())])

    assert reading.rules is None
    assert str(reading.problems[0]).startswith("policy/peer.csv:2")
    assert told in str(reading.problems[0])


def test_ten_thousand_tests_are_asked_and_their_failures_told_in_short(tmp_path: Path) -> None:
    (tmp_path / "policy").mkdir()
    lines = "".join(f"#? allow gil@laptop peer fs.read /photos/{n}\n" for n in range(10_000))
    file = tmp_path / "policy/peer.csv"
    file.write_text(f"{RULE}\n{lines}")
    book = PolicyBook(tmp_path, lambda: ["peer"])
    assert book.problems == ()
    assert len(book.check().tests) == 10_000

    file.write_text(f"# none\n{lines}")
    told = book.reload().problems
    assert len(told) == 101
    assert "9899 after it" in told[-1]
    assert book.decide(ASKED).allowed, "the last good rules stay"


def test_a_pipe_in_the_place_of_a_file_keeps_nobody_waiting(tmp_path: Path) -> None:

    (tmp_path / "policy").mkdir()
    os.mkfifo(tmp_path / "policy/peer.csv")

    assert "is not a file" in PolicyBook(tmp_path, lambda: ["peer"]).problems[0]


texts = st.sampled_from(
    ["", "charging", "metered=no", "battery>40", "charging or battery>40", "hours=08:00-20:00"]
)
rows = st.tuples(
    st.sampled_from(["*", "laptop", "gil@laptop", "@owner"]),
    st.sampled_from(["/**", "/photos/**", "/photos/a", "/b"]),
    st.sampled_from(["allow", "allow", "deny"]),
    texts,
).map(lambda r: f"p, {r[0]}, peer, fs.read, {r[1]}, {r[2]}" + (f", {r[3]}" if r[3] else ""))
truths = st.sampled_from([True, False, None])
readings = st.builds(
    Readings,
    st.sampled_from([None, Moment(0, 0), Moment(0, 720)]),
    st.sampled_from([None, 10, 90]),
    truths,
    truths,
)


@settings(max_examples=150, deadline=None)
@given(st.lists(rows, min_size=1, max_size=8, unique=True), readings, truths)
def test_both_engines_agree_and_knowing_less_never_allows_more(
    lines: list[str], now: Readings, charging: bool | None
) -> None:
    rules = rule_set("\n".join(lines))
    for path in ("/photos/a", "/b", "/c"):
        asked = AccessRequest(GIL, "peer", "fs.read", path)
        mine, theirs = (engine.decide(asked) for engine in engines(rules, now))
        assert mine.allowed == theirs.allowed
        blind = IndexedEngine(rules, lambda: UNKNOWN).decide(asked)
        assert not blind.allowed or mine.allowed


def test_conditions_leave_the_speed_of_other_decisions_as_it_was() -> None:
    lines = [f"p, gil@laptop, peer, fs.read, /a/{n}/**, allow, charging" for n in range(1000)]
    engine = IndexedEngine(
        rule_set("\n".join([*lines, RULE])), lambda: pytest.fail("nothing hangs on it")
    )
    best_s = min(_time(engine) for _ in range(50))
    assert best_s < 0.005


def _time(engine: PolicyEngine) -> float:
    started = time.perf_counter()
    assert engine.decide(ASKED).allowed
    return time.perf_counter() - started
