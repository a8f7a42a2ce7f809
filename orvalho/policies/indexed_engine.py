"""Our own evaluator of the shipped model: what Casbin would answer, without reading every rule."""

from __future__ import annotations

from dataclasses import replace

from orvalho.policies.access import ANY, AccessRequest, Decision, Rule, Unmet
from orvalho.policies.conditions import Readings, Reads, Truth, clock_alone
from orvalho.policies.glob_tree import GlobTree
from orvalho.policies.globs import compile_glob
from orvalho.policies.nearest import Nearest
from orvalho.policies.rule_set import RuleSet


class IndexedEngine:
    """A PolicyEngine. Rules are filed by subject word, action and context, and by path below that,
    so a decision costs what its path is long, hardly more for ten thousand rules than for ten."""

    def __init__(self, rules: RuleSet, reads: Reads = clock_alone) -> None:
        """`reads` is asked for what is so now, when a rule with a condition matches."""
        self._rules = rules
        self._reads = reads
        self._trees: dict[tuple[str, str, str], GlobTree[Rule]] = {}
        for rule in rules.rules:
            key = (rule.subject, rule.action, rule.context)
            self._trees.setdefault(key, GlobTree()).add(compile_glob(rule.object), rule)
        self._nearest = Nearest(rules)

    def decide(self, request: AccessRequest) -> Decision:
        names = request.object.split("/")
        deny: Rule | None = None
        allow: Rule | None = None
        conditional: list[Rule] = []
        for tree in self._trees_for(request):
            for rule in tree.find(names):
                if rule.condition is not None:
                    conditional.append(rule)
                elif rule.effect == "deny":
                    deny = rule if deny is None or rule.order < deny.order else deny
                else:
                    allow = rule if allow is None or rule.order < allow.order else allow
        if conditional:
            return self._weigh(request, deny, allow, conditional)
        if deny or allow:
            return Decision(deny is None, deny or allow)
        return self._nearest.refusal(request)

    def _weigh(
        self, request: AccessRequest, deny: Rule | None, allow: Rule | None, matching: list[Rule]
    ) -> Decision:
        """The same, when rules match that have conditions: at one moment for all of them."""
        now = self._reads()
        unmet: list[Unmet] = []
        unclear: list[Unmet] = []
        for rule in sorted(matching, key=lambda rule: rule.order):
            truth = rule.condition.holds(now) if rule.condition else True
            if truth is not True and (rule.effect == "allow" or truth is None):
                (unmet if rule.effect == "allow" else unclear).append(_unmet(rule, truth, now))
            elif truth and rule.effect == "deny":
                deny = rule if deny is None or rule.order < deny.order else deny
            elif truth:
                allow = rule if allow is None or rule.order < allow.order else allow
        if deny is not None:
            return Decision(False, deny, lasting=deny.condition is None)
        if unclear:
            return Decision(False, unclear[0].rule, unmet=unclear[0], lasting=False)
        if allow is not None:
            return Decision(True, allow, lasting=False)
        if unmet:
            return Decision(False, unmet[0].rule, unmet=unmet[0], lasting=False)
        # A deny that does not count now is all that matches.
        return replace(self._nearest.refusal(request), lasting=False)

    def _trees_for(self, request: AccessRequest) -> list[GlobTree[Rule]]:
        return [
            tree
            for word in self._rules.words(request.subject)
            for action in (request.action, ANY)
            for context in (request.context, ANY)
            if (tree := self._trees.get((word, action, context)))
        ]


def _unmet(rule: Rule, truth: Truth, now: Readings) -> Unmet:
    return Unmet(rule, truth, rule.condition.now(now) if rule.condition else "")
