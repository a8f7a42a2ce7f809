"""A model of the owner's own: served as written, from any thread, or refused when it is read."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from orvalho.errors import InvalidInput
from orvalho.policies.access import AccessRequest, Subject
from orvalho.policies.casbin_engine import CasbinEngine
from orvalho.policies.rule_set import RuleSet
from orvalho.policies.rules import read_files
from orvalho.policies.shipped import shipped_model

MATCHER = shipped_model().rsplit("m = ", 1)[1].strip()
GIL = Subject("ed25519:gil", frozenset({"*", "laptop", "gil@laptop"}))


def rule_set(text: str) -> RuleSet:
    reading = read_files([("policy/x.csv", text.encode())])
    assert reading.rules is not None, reading.problems
    return reading.rules


RULES = rule_set(
    "p, laptop, *, fs.read, /a/**, deny\n"
    "p, gil@laptop, *, fs.read, /a/**, allow\n"
    "p, gil@laptop, *, fs.write, /b/**, allow\n"
)


def model(matcher: str) -> str:
    return shipped_model().replace(MATCHER, matcher)


def may(engine: CasbinEngine, action: str, object_: str) -> bool:
    return engine.decide(AccessRequest(GIL, "peer", action, object_)).allowed


def test_a_changed_matcher_is_served() -> None:
    engine = CasbinEngine(RULES, model(f'({MATCHER}) && r.obj != "/b/secret"'))

    assert may(engine, "fs.write", "/b/x")
    assert not may(engine, "fs.write", "/b/secret")


def test_a_changed_effect_is_served_in_the_order_of_the_files() -> None:
    first_wins = shipped_model().replace(
        "some(where (p.eft == allow)) && !some(where (p.eft == deny))",
        "priority(p.eft) || deny",
    )
    allow_first = rule_set(
        "p, gil@laptop, *, fs.read, /a/b, allow\np, laptop, *, fs.read, /a/**, deny\n"
    )
    engine = CasbinEngine(allow_first, first_wins)

    assert may(engine, "fs.read", "/a/b")
    assert not may(engine, "fs.read", "/a/c")
    decision = engine.decide(AccessRequest(GIL, "peer", "fs.read", "/a/b"))
    assert decision.rule
    assert decision.rule.line == 1


@pytest.mark.parametrize(
    "text",
    [
        model("g(r.sub, p.sub) && noSuchFunction(r.obj, p.obj)"),
        model("g(r.sub, p.sub) && r.obj == p.nosuchfield"),
        model("g(r.sub, p.sub) && && r.obj == p.obj"),
        model("g(r.sub, p.sub"),
        model('g(r.sub, p.sub) && r.obj != "#x"'),
        model("eval(p.obj)"),
        model(f"({MATCHER}) && true == true"),
        model("r.act == 'never' && noSuchFunction(r.obj)"),
        "",
        "[matchers]\nm = true\n",
        shipped_model().replace("r = sub, dom, act, obj", "r = sub, act, obj"),
        shipped_model().replace("dom, act, obj, eft", "dom, obj, act, eft"),
        shipped_model().replace("g = _, _", "g = _, _, _"),
        shipped_model().replace(
            "some(where (p.eft == allow)) &&", "sum(where (p.eft == allow)) &&"
        ),
    ],
)
def test_a_model_that_would_fail_in_the_midst_of_a_decision_is_refused_when_read(text: str) -> None:
    with pytest.raises(InvalidInput, match="Casbin cannot use this model") as caught:
        CasbinEngine(RULES, text)

    assert caught.value.where == "model.conf"


def test_a_pattern_that_a_function_of_casbins_cannot_take_is_found_when_read() -> None:
    with pytest.raises(InvalidInput, match="Casbin cannot use"):
        CasbinEngine(
            RULES, model(MATCHER.replace("resMatch(r.obj, p.obj)", "regexMatch(r.obj, p.obj)"))
        )


def test_a_matcher_that_fails_for_one_request_denies_it() -> None:
    engine = CasbinEngine(RULES, model(f"({MATCHER}) && (r.obj != '/b/x' || 1 / 0 == 1)"))

    assert may(engine, "fs.write", "/b/y")
    assert not may(engine, "fs.write", "/b/x")


def test_no_rules_deny_even_under_a_matcher_that_likes_everybody() -> None:
    assert not may(CasbinEngine(RuleSet(), model("r.act == 'fs.read'")), "fs.read", "/a")


def test_a_group_in_a_group_counts_beyond_casbins_own_ten_levels() -> None:
    chain = "".join(f"g, @g{n}, @g{n + 1}\n" for n in range(20))
    rules = rule_set(f"g, gil@laptop, @g0\n{chain}p, @g20, *, fs.read, /x, allow\n")

    assert may(CasbinEngine(rules, shipped_model()), "fs.read", "/x")


def test_many_threads_get_the_answers_of_one() -> None:
    engine = CasbinEngine(RULES, model(f"({MATCHER}) && 1 == 1"))
    asked = [("fs.read", "/a/x"), ("fs.write", "/b/x"), ("fs.write", "/a/x")] * 60
    subjects = [GIL, Subject("ed25519:other", frozenset({"*"}))]

    def ask(number: int) -> bool:
        action, object_ = asked[number % len(asked)]
        subject = subjects[number % 2]
        return engine.decide(AccessRequest(subject, "peer", action, object_)).allowed

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(len(asked) * 2)))

    assert answers == [
        asked[number % len(asked)] == ("fs.write", "/b/x") and number % 2 == 0
        for number in range(len(asked) * 2)
    ]
