"""Both engines pass the suite, and agree on rules and requests that nobody thought of."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from orvalho.policies.access import AccessRequest, Subject
from orvalho.policies.casbin_engine import CasbinEngine
from orvalho.policies.globs import glob_mistake
from orvalho.policies.indexed_engine import IndexedEngine
from orvalho.policies.rule_set import RuleSet
from orvalho.policies.rules import read_files
from orvalho.policies.shipped import shipped_model
from tests.conformance.policy_engine import PolicyEngineSuite


def make_casbin(rules: RuleSet) -> CasbinEngine:
    return CasbinEngine(rules, shipped_model())


class TestIndexedEngine(PolicyEngineSuite):
    make = IndexedEngine


class TestCasbinEngine(PolicyEngineSuite):
    make = staticmethod(make_casbin)


WORDS = ["*", "@paired", "@owner", "laptop", "gil@laptop", "@a", "@b", "@c"]
NAMES = ["a", "b", ".x", "a.b", "*", "*", "**", "**", "a*", "*.b", "a**", "x y"]
# Without those that no file of rules may hold: the loader refuses them, which has its own tests.
objects = (
    st.lists(st.sampled_from(NAMES), min_size=1, max_size=3)
    .map(lambda names: "/" + "/".join(names))
    .filter(lambda text: glob_mistake(text) is None)
)
asked = st.lists(st.sampled_from(["a", "b", ".x", "a.b", "axb", "x y", "a\n"]), max_size=3).map(
    lambda names: "/" + "/".join(names)
)
contexts = st.sampled_from(["*", "peer", "home"])
actions = st.sampled_from(["*", "fs.read", "fs.write"])
rows = st.tuples(
    st.just("p"),
    st.sampled_from(WORDS),
    contexts,
    actions,
    objects,
    st.sampled_from(["allow", "allow", "deny"]),
)
members = st.sampled_from(
    [("laptop", "@a"), ("gil@laptop", "@b"), ("@a", "@b"), ("@b", "@c"), ("@owner", "@c")]
).map(lambda pair: ("g", *pair))
policies = st.tuples(
    st.lists(rows, min_size=2, max_size=16, unique=True), st.lists(members, max_size=4, unique=True)
)
subjects = st.sets(st.sampled_from(WORDS[1:5])).map(
    lambda names: Subject("ed25519:k", frozenset({"*", *names}))
)
requests = st.builds(
    AccessRequest,
    subjects,
    st.sampled_from(["peer", "home"]),
    st.sampled_from(["fs.read", "fs.write"]),
    asked,
)


def parse(policy: tuple[list[tuple[str, ...]], list[tuple[str, ...]]]) -> RuleSet:
    lines = [", ".join(row) for part in policy for row in part]
    reading = read_files([("policy/x.csv", ("#\n" + "\n".join(lines)).encode())])
    assert reading.rules is not None, reading.problems
    return reading.rules


@settings(max_examples=150, deadline=None)
@given(policies, st.lists(requests, min_size=20, max_size=40))
def test_the_index_answers_what_casbin_answers(
    policy: tuple[list[tuple[str, ...]], list[tuple[str, ...]]], asked: list[AccessRequest]
) -> None:
    rules = parse(policy)
    ours, casbins = IndexedEngine(rules), make_casbin(rules)

    for request in asked:
        mine, theirs = ours.decide(request), casbins.decide(request)
        assert (mine.allowed, mine.rule) == (theirs.allowed, theirs.rule), request
