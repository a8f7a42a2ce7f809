"""Who may change the code that a context's scripts import: only who is named for it."""

from __future__ import annotations

from functools import partial

import pytest

from orvalho.policies.access import AccessRequest, Decision, Subject
from orvalho.policies.casbin_engine import CasbinEngine
from orvalho.policies.engine import PolicyEngine
from orvalho.policies.explain import refusal
from orvalho.policies.indexed_engine import IndexedEngine
from orvalho.policies.library_guard import LibraryGuard
from orvalho.policies.rules import read_files
from orvalho.policies.shipped import shipped_model

GIL = Subject("ed25519:gil", frozenset({"*", "@paired", "laptop", "gil@laptop", "ed25519:gil"}))
WIDE = "p, laptop, peer, fs.write, /**, allow\np, laptop, peer, *, **, allow\n"
NAMED = WIDE + "p, laptop, peer, fs.write, /lib/own/**, allow\n"


@pytest.fixture(params=["indexed", "casbin"])
def engine(request: pytest.FixtureRequest) -> type[PolicyEngine]:
    casbin = partial(CasbinEngine, model=shipped_model())
    return IndexedEngine if request.param == "indexed" else casbin


def ask(engine: type[PolicyEngine], policy: str, action: str, path: str) -> Decision:
    reading = read_files([("policy/peer.csv", policy.encode())])
    assert reading.rules is not None, reading.problems
    return LibraryGuard(reading.rules, engine).decide(AccessRequest(GIL, "peer", action, path))


@pytest.mark.parametrize(
    "path", ["/lib", "/lib/a.js", "/LIB/a.js", "/lib/**", "/schema", "/Schema/x.json"]
)
@pytest.mark.parametrize("action", ["fs.write", "fs.remove"])
def test_a_rule_about_everything_does_not_speak_of_code(
    engine: type[PolicyEngine], action: str, path: str
) -> None:
    decision = ask(engine, WIDE, action, path)
    assert (decision.allowed, decision.rule) == (False, None)
    assert decision.nearest is not None
    assert decision.suggestion == f"p, gil@laptop, peer, {action}, {path}, allow"


@pytest.mark.parametrize(
    ("action", "path"),
    [
        ("fs.write", "/library/a.js"),
        ("fs.write", "/a/lib/b.js"),
        ("fs.read", "/lib/a.js"),
        ("kv.write", "/lib/a.js"),
        ("kv.write", "lib"),
    ],
)
def test_all_else_is_covered_by_it(engine: type[PolicyEngine], action: str, path: str) -> None:
    assert ask(engine, WIDE, action, path).allowed


def test_a_rule_that_names_it_holds_and_so_does_a_deny(engine: type[PolicyEngine]) -> None:
    allowed = ask(engine, NAMED, "fs.write", "/lib/own/a.js")
    assert allowed.allowed
    assert allowed.rule is not None
    assert allowed.rule.object == "/lib/own/**"
    assert not ask(engine, NAMED, "fs.write", "/lib/a.js").allowed
    denied = NAMED + "p, *, peer, fs.write, /**/a.js, deny\n"
    assert not ask(engine, denied, "fs.write", "/lib/own/a.js").allowed


@pytest.mark.parametrize("folder", ["lib", "schema"])
def test_the_refusal_says_that_a_wide_rule_does_not_cover_it(
    engine: type[PolicyEngine], folder: str
) -> None:
    path = f"/{folder}/a.json"
    decision = ask(engine, WIDE, "fs.write", path)
    told = refusal(AccessRequest(GIL, "peer", "fs.write", path), decision)
    assert told.where is not None
    assert told.where.endswith(f"does not cover /{folder}: name it")
    assert "comes closest" not in told.where
    assert told.hint == f"add to policy/peer.csv: p, gil@laptop, peer, fs.write, {path}, allow"
