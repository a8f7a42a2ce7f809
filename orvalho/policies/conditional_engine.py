"""Conditions before an engine that knows none: it is given the rules that count now."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from orvalho.policies.access import AccessRequest, Decision, Rule, Unmet
from orvalho.policies.conditions import Condition, Readings, Reads, Truth
from orvalho.policies.engine import PolicyEngine
from orvalho.policies.rule_set import RuleSet

_ENGINES: Final = 16


class ConditionalEngine:
    """A PolicyEngine before those that `make` makes, one for each set of rules that can count at a
    moment; the newest few are kept. Casbin's models may weigh rules in any way, so it is not asked
    which of them match: what does not count now is left out."""

    def __init__(
        self, rules: RuleSet, reads: Reads, make: Callable[[RuleSet], PolicyEngine]
    ) -> None:
        """Raises:
        InvalidInput: as `make` does, of all the rules.
        """
        self._rules = rules
        self._reads = reads
        self._make = make
        found = {rule.condition: None for rule in rules.rules if rule.condition}
        self._conditions: tuple[Condition, ...] = tuple(found)
        self._everything = make(rules)
        self._engines: OrderedDict[tuple[bool, tuple[Truth, ...]], PolicyEngine] = OrderedDict()
        self._lock = threading.Lock()

    def decide(self, request: AccessRequest) -> Decision:
        if not self._conditions:
            return self._everything.decide(request)
        now = self._reads()
        truths = tuple(condition.holds(now) for condition in self._conditions)
        decision = replace(self._engine(truths, hopes=False).decide(request), lasting=False)
        rule = decision.rule
        if decision.allowed:
            return decision
        if rule is not None and rule.effect == "deny":
            # A rule of the same words may stand there twice, under two conditions.
            truth = rule.condition.holds(now) if rule.condition else True
            return decision if truth else replace(decision, unmet=_unmet(rule, truth, now))
        hoped = self._engine(truths, hopes=True).decide(request)
        if hoped.allowed and hoped.rule is not None and hoped.rule.condition is not None:
            truth = hoped.rule.condition.holds(now)
            unmet = _unmet(hoped.rule, truth, now)
            return Decision(False, hoped.rule, unmet=unmet, lasting=False)
        return decision

    def _engine(self, truths: tuple[Truth, ...], *, hopes: bool) -> PolicyEngine:
        key = (hopes, truths)
        with self._lock:
            engine = self._engines.get(key)
            if engine is None:
                engine = self._engines[key] = self._make(self._counting(truths, hopes=hopes))
                if len(self._engines) > _ENGINES:
                    self._engines.popitem(last=False)
            self._engines.move_to_end(key)
            return engine

    def _counting(self, truths: tuple[Truth, ...], *, hopes: bool) -> RuleSet:
        """The rules that count; with `hopes`, also each allow whose condition does not hold."""
        known = dict(zip(self._conditions, truths, strict=True))

        def counts(rule: Rule) -> bool:
            if rule.condition is None:
                return True
            truth = known[rule.condition]
            return truth is not False if rule.effect == "deny" else hopes or truth is True

        return replace(self._rules, rules=tuple(filter(counts, self._rules.rules)))


def _unmet(rule: Rule, truth: Truth, now: Readings) -> Unmet:
    return Unmet(rule, truth, rule.condition.now(now) if rule.condition else "")
