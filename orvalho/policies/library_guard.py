"""Writing below `/lib` of a context's tree: its files are code, which runs with the rights of
whoever imports it. And below `/schema`, which says what others may write. So a rule about
everything does not speak of these, only one that names them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from orvalho.policies.access import AccessRequest, Decision
from orvalho.policies.engine import PolicyEngine
from orvalho.policies.nearest import smallest_allow
from orvalho.policies.rule_set import RuleSet

_FOLDERS: Final = ("lib", "schema")
_CHANGING: Final = ("fs.write", "fs.remove")


def names_code(path: str) -> bool:
    """Whether a path or glob is `/lib` or `/schema`, or begins there. Capitals count as well: some
    systems take them for the same."""
    return path.startswith("/") and path[1:].partition("/")[0].casefold() in _FOLDERS


def changes_code(request: AccessRequest) -> bool:
    """Whether it takes a rule that names its folder to allow this."""
    return request.action in _CHANGING and names_code(request.object)


class LibraryGuard:
    """A PolicyEngine before those that `make` makes: one of all rules, and one for what changes
    code, of those that may allow it and all that deny."""

    def __init__(self, rules: RuleSet, make: Callable[[RuleSet], PolicyEngine]) -> None:
        """Raises:
        InvalidInput: as `make` does.
        """
        strict = tuple(
            rule for rule in rules.rules if rule.effect == "deny" or names_code(rule.object)
        )
        self._engine = make(rules)
        self._strict = make(replace(rules, rules=strict))

    def decide(self, request: AccessRequest) -> Decision:
        if not changes_code(request):
            return self._engine.decide(request)
        decision = self._strict.decide(request)
        if decision.allowed or decision.rule is not None:
            return decision
        loose = self._engine.decide(request)
        return replace(
            decision,
            nearest=loose.rule if loose.allowed else decision.nearest,
            suggestion=decision.suggestion or smallest_allow(request),
        )
