"""One decision, of a kind not seen before, against plain pycasbin on the same rules."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Iterator

from bench.table import Row, times
from orvalho.policies.access import AccessRequest, Subject
from orvalho.policies.casbin_engine import CasbinEngine
from orvalho.policies.engine import PolicyEngine
from orvalho.policies.indexed_engine import IndexedEngine
from orvalho.policies.rule_set import RuleSet
from orvalho.policies.rules import read_files
from orvalho.policies.shipped import shipped_model

SUBJECT = Subject("ed25519:bench", frozenset({"*", "@paired", "gil@laptop", "laptop"}))


def measure() -> Iterator[Row]:
    for count in (10, 1000, 10_000):
        rules = _rules(count)
        ours = _decision(IndexedEngine(rules), count, 2000)
        plain = _decision(CasbinEngine(rules, shipped_model()), count, 20 if count > 5000 else 100)
        yield Row(
            f"policy decision, {count} rules",
            f"{ours * 1e3:.4f} ms",
            f"pycasbin {plain * 1e3:.2f} ms",
            times(plain, ours) + " faster",
            "0.1 ms" if count == 1000 else "",
        )


def _rules(count: int) -> RuleSet:
    """All for one subject and one action: the index by subject and action helps nothing here."""
    lines = [
        f"p, gil@laptop, peer, fs.read, /albums/{number % 97}/{number}/**, "
        + ("deny" if number % 10 == 0 else "allow")
        for number in range(count)
    ]
    reading = read_files([("policy/bench.csv", "\n".join(lines).encode())])
    assert reading.rules is not None, reading.problems
    return reading.rules


def _decision(engine: PolicyEngine, rules: int, count: int) -> float:
    """The median over requests that all differ, half of them for what no rule speaks of."""
    taken = []
    allowed = 0
    for number in itertools.islice(itertools.count(), count):
        rule = number * 31 % rules
        folder = rule % 97 if number % 2 else "none"
        request = AccessRequest(SUBJECT, "peer", "fs.read", f"/albums/{folder}/{rule}/{number}.jpg")
        start = time.perf_counter()
        decision = engine.decide(request)
        taken.append(time.perf_counter() - start)
        allowed += decision.allowed
    assert 0 < allowed < count
    return statistics.median(taken)
