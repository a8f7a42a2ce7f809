"""The index: what it costs, and what it says when no rule speaks."""

from __future__ import annotations

import time

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from orvalho.policies.access import AccessRequest, Subject
from orvalho.policies.indexed_engine import IndexedEngine
from orvalho.policies.rules import read_files

GIL = Subject("ed25519:gil", frozenset({"*", "@paired", "laptop", "gil@laptop", "ed25519:gil"}))


def engine(text: str) -> IndexedEngine:
    reading = read_files([("policy/peer.csv", ("#\n" + text).encode())])
    assert reading.rules is not None, reading.problems[:3]
    return IndexedEngine(reading.rules)


def request(action: str, object_: str, context: str = "peer") -> AccessRequest:
    return AccessRequest(GIL, context, action, object_)


SHAPES = {
    "/dir{}/**": "/dir77/a/b.jpg",
    "/users/*/dir{}/**": "/users/gil/dir77/a",
    "/**/x{}": "/a/b/x77",
    "/**/x{}/**": "/a/x77/c/d",
    "/photos/img-{}-*.jpg": "/photos/img-77-3.jpg",
    "/photos/*-{}.jpg": "/photos/a-77.jpg",
    "/photos/*q{}q*": "/photos/aq77qa",
    "/photos/a{}**": "/photos/a77/b",
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_decision_among_a_thousand_rules_of_one_subject_and_action_is_quick(shape: str) -> None:
    rows = (f"p, gil@laptop, peer, fs.read, {shape.format(n)}, allow" for n in range(1000))
    policy = engine("\n".join(rows))

    for asked, expected in ((SHAPES[shape], True), ("/photos/none/of/them.txt", False)):
        best_s = min(_time(policy, request("fs.read", asked), expected) for _ in range(50))
        assert best_s < 0.005, f"{best_s * 1e6:.0f} us"


def _time(policy: IndexedEngine, asked: AccessRequest, expected: bool) -> float:
    started = time.perf_counter()
    decision = policy.decide(asked)
    took_s = time.perf_counter() - started
    assert decision.allowed is expected
    return took_s


NEAR = """\
p, gil@laptop, peer, fs.read, /shared/**, allow
p, gil@laptop, peer, fs.read, /photos/2023/**, allow
p, gil@laptop, home, fs.remove, /photos/**, allow
p, @owner, peer, kv.write, settings.*, allow
"""


@pytest.mark.parametrize(
    ("action", "object_", "line"),
    [
        ("fs.read", "/photos/2024/a.jpg", 3),  # the same subject and action, another path
        ("fs.read", "/sharp", 2),
        ("fs.remove", "/photos/a.jpg", 4),  # the same subject and action, another context
        ("fs.write", "/photos/2023/a.jpg", 3),  # the same subject, another action
        ("script.run", "sha256:00", 2),
    ],
)
def test_the_closest_rule_is_named_when_none_speaks(action: str, object_: str, line: int) -> None:
    decision = engine(NEAR).decide(request(action, object_))

    assert decision.rule is None
    assert decision.nearest
    assert decision.nearest.line == line


def test_a_rule_for_somebody_else_is_close_when_it_is_about_this_very_thing() -> None:
    only_owner = engine(NEAR.splitlines()[-1])

    assert only_owner.decide(request("kv.write", "settings.x")).nearest
    assert only_owner.decide(request("kv.write", "other")).nearest is None


def test_a_deny_needs_no_nearest_rule_and_no_line_would_help() -> None:
    decision = engine("p, *, *, fs.read, /**, deny").decide(request("fs.read", "/a"))

    assert decision.rule
    assert decision.nearest is None
    assert decision.suggestion is None


def test_the_suggestion_for_a_need_is_the_need_itself() -> None:
    suggested = engine(NEAR).decide(request("fs.remove", "/photos/**")).suggestion

    assert suggested == "p, gil@laptop, peer, fs.remove, /photos/**, allow"


names = st.text(min_size=1, max_size=12).filter(lambda t: "/" not in t and t not in (".", ".."))


@settings(max_examples=300, deadline=None)
@given(st.lists(names, min_size=1, max_size=5), st.sampled_from(["fs.read", "kv.read"]))
def test_the_suggested_line_is_read_and_allows_exactly_what_was_asked(
    parts: list[str], action: str
) -> None:
    path = "/" * (action == "fs.read") + "/".join(parts)
    asked = request(action, path)
    suggested = engine("").decide(asked).suggestion
    assume(suggested is not None)

    assert engine(suggested or "").decide(asked).allowed


@pytest.mark.parametrize(
    ("path", "suggested"),
    [("/a (1), b.txt", "/a *1** b.txt"), ("/a\nb", "/a*b"), ("/it's #1?", "/it*s *1*")],
)
def test_what_the_files_refuse_is_suggested_as_a_star(path: str, suggested: str) -> None:
    line = engine("").decide(request("fs.read", path)).suggestion

    assert line == f"p, gil@laptop, peer, fs.read, {suggested.replace('**', '*')}, allow"
