"""Our own evaluator of the shipped model: what Casbin would answer, without reading every rule."""

from __future__ import annotations

from orvalho.policies.access import ANY, AccessRequest, Decision, Rule
from orvalho.policies.glob_tree import GlobTree
from orvalho.policies.globs import compile_glob
from orvalho.policies.nearest import Nearest
from orvalho.policies.rule_set import RuleSet


class IndexedEngine:
    """A PolicyEngine. Rules are filed by subject word, action and context, and by path below that,
    so a decision costs what its path is long, hardly more for ten thousand rules than for ten."""

    def __init__(self, rules: RuleSet) -> None:
        self._rules = rules
        self._trees: dict[tuple[str, str, str], GlobTree[Rule]] = {}
        for rule in rules.rules:
            key = (rule.subject, rule.action, rule.context)
            self._trees.setdefault(key, GlobTree()).add(compile_glob(rule.object), rule)
        self._nearest = Nearest(rules)

    def decide(self, request: AccessRequest) -> Decision:
        names = request.object.split("/")
        deny: Rule | None = None
        allow: Rule | None = None
        for tree in self._trees_for(request):
            for rule in tree.find(names):
                if rule.effect == "deny":
                    deny = rule if deny is None or rule.order < deny.order else deny
                else:
                    allow = rule if allow is None or rule.order < allow.order else allow
        if deny or allow:
            return Decision(deny is None, deny or allow)
        return self._nearest.refusal(request)

    def _trees_for(self, request: AccessRequest) -> list[GlobTree[Rule]]:
        return [
            tree
            for word in self._rules.words(request.subject)
            for action in (request.action, ANY)
            for context in (request.context, ANY)
            if (tree := self._trees.get((word, action, context)))
        ]
