"""How a decision came about, rule by rule: which matched, and where the others did not."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal

from orvalho.policies.access import ANY, AccessRequest, Rule
from orvalho.policies.conditions import UNKNOWN, Readings
from orvalho.policies.globs import compile_glob
from orvalho.policies.library_guard import changes_code, names_code
from orvalho.policies.rule_set import RuleSet

# `code`: a rule about everything does not speak of what lies under /lib; `condition`: it does not
# count now.
Column = Literal["subject", "context", "action", "object", "code", "condition"]

# The most that a person is shown of one decision.
MOST_TRIED: Final = 20


@dataclass(frozen=True, slots=True)
class Tried:
    """One rule, and the columns in which the request is not what it says; none: it matches."""

    rule: Rule
    differs: tuple[Column, ...]

    @property
    def matches(self) -> bool:
        return not self.differs


def trail(rules: RuleSet, request: AccessRequest, now: Readings = UNKNOWN) -> tuple[Tried, ...]:
    """Every rule in the order of the files, as the shipped model takes it: some 5 us each."""
    words = rules.words(request.subject)
    guarded = changes_code(request)
    return tuple(Tried(rule, _differs(rule, request, words, guarded, now)) for rule in rules.rules)


def closest(tried: tuple[Tried, ...], most: int = MOST_TRIED) -> tuple[Tried, ...]:
    """At most so many: those that differ least, in the order of the files."""
    if len(tried) <= most:
        return tried
    chosen = sorted(range(len(tried)), key=lambda at: (len(tried[at].differs), at))[:most]
    return tuple(tried[at] for at in sorted(chosen))


# A run has many decisions, and each is held against every rule.
_glob = lru_cache(16_384)(compile_glob)


def _differs(
    rule: Rule,
    request: AccessRequest,
    words: frozenset[str],
    guarded: bool,
    now: Readings,
) -> tuple[Column, ...]:
    found: list[Column] = []
    if rule.subject not in words:
        found.append("subject")
    if rule.context not in (request.context, ANY):
        found.append("context")
    if rule.action not in (request.action, ANY):
        found.append("action")
    if not _glob(rule.object).matches(request.object):
        found.append("object")
    elif guarded and rule.effect == "allow" and not names_code(rule.object):
        found.append("code")
    if rule.condition is not None:
        holds = rule.condition.holds(now)
        # What cannot be told lets no allow count, and every deny.
        if holds is False or (holds is None and rule.effect == "allow"):
            found.append("condition")
    return tuple(found)
