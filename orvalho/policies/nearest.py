"""When no rule speaks: the rule that came closest, and the smallest line that would help."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable

from orvalho.policies.access import (
    ANY,
    OWNER,
    PAIRED,
    AccessRequest,
    Decision,
    Rule,
    is_unprintable,
    object_mistake,
)
from orvalho.policies.globs import compile_glob, glob_mistake
from orvalho.policies.rule_set import RuleSet
from orvalho.policies.rules import FORBIDDEN_CHARACTERS


class Nearest:
    """Finds the closest `allow` rule: first by what it is about (the same subject and action in
    this context, then in another one, then the same subject with another action, then this very
    object for somebody else), then by how much of the path it shares."""

    def __init__(self, rules: RuleSet) -> None:
        self._rules = rules
        self._shelves: dict[tuple[str, ...], list[tuple[str, int, Rule]]] = {}
        for rule in rules.rules:
            if rule.effect == "allow":
                for key in _keys(rule):
                    self._shelves.setdefault(key, []).append((rule.object, rule.order, rule))
        for shelf in self._shelves.values():
            shelf.sort()

    def refusal(self, request: AccessRequest) -> Decision:
        """The refusal of a request that no rule matches."""
        return Decision(
            False,
            nearest=self.closest(request),
            suggestion=smallest_allow(request),
            group=self._group(request),
        )

    def _group(self, request: AccessRequest) -> str | None:
        """A group whose members may do it."""
        for context in (request.context, ANY):
            for object_, _, rule in self._shelves.get(("", request.action, context), ()):
                is_group = rule.subject.startswith("@") and rule.subject not in (OWNER, PAIRED)
                if is_group and compile_glob(object_).matches(request.object):
                    return rule.subject
        return None

    def closest(self, request: AccessRequest) -> Rule | None:
        words = sorted(self._rules.words(request.subject))
        action, context = request.action, request.context
        tiers: tuple[Iterable[tuple[str, ...]], ...] = (
            [(word, action, name) for word in words for name in (context, ANY)],
            [(word, action) for word in words],
            [(word,) for word in words],
        )
        for tier in tiers:
            found = [rule for key in tier for rule in self._neighbours(key, request.object)]
            if found:
                return min(found, key=lambda rule: _distance(rule, request.object))
        others = self._neighbours(("", action, context), request.object)
        return next((r for r in others if compile_glob(r.object).matches(request.object)), None)

    def _neighbours(self, key: tuple[str, ...], object_: str) -> list[Rule]:
        """In the order of the alphabet, what shares the longest beginning stands beside it."""
        shelf = self._shelves.get(key, [])
        at = bisect_left(shelf, (object_,))
        return [rule for _, _, rule in shelf[max(0, at - 1) : at + 1]]


def smallest_allow(request: AccessRequest) -> str | None:
    """The line that allows this one request, as the rule files take it; None when none can.

    Characters that the files refuse become `*`.
    """
    names = request.object.split("/")
    object_ = "/".join(_writable(name) for name in names)
    if object_mistake(request.action, object_) or glob_mistake(object_):
        return None
    fields = ("p", request.subject.spoken, request.context, request.action, object_, "allow")
    return ", ".join(fields)


def _writable(name: str) -> str:
    if name in ("..", "."):
        return "*"
    edges = range(len(name) - len(name.lstrip()), len(name.rstrip()))
    letters = (c if _is_writable(c) and at in edges else "*" for at, c in enumerate(name))
    return _STARS.sub(lambda run: run[0] if run[0] in name else "*", "".join(letters))


_STARS = re.compile(r"\*{2,}")


def _is_writable(character: str) -> bool:
    blank = character.isspace() and character != " "
    return not (character in FORBIDDEN_CHARACTERS or blank or is_unprintable(character))


def _keys(rule: Rule) -> Iterable[tuple[str, ...]]:
    yield (rule.subject, rule.action, rule.context)
    yield (rule.subject, rule.action)
    yield (rule.subject,)
    yield ("", rule.action, rule.context)


def _distance(rule: Rule, object_: str) -> tuple[int, int]:
    shared = 0
    for mine, theirs in zip(rule.object, object_, strict=False):
        if mine != theirs:
            break
        shared += 1
    return (-shared, rule.order)
