"""The smallest edit of the policy files after which a refused request would be allowed.

Nothing is proposed that was not tried: the files are edited in memory, read as they would be read
from the disk, their tests are held, and the request is decided anew.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from orvalho.policies.access import ACTIONS, ANY, AccessRequest, Rule, object_mistake
from orvalho.policies.engine import PolicyEngine
from orvalho.policies.nearest import smallest_allow
from orvalho.policies.rule_set import Problem, RuleSet
from orvalho.policies.trail import trail

# More lines in place of one are no small edit.
_MOST_LINES = 12


@dataclass(frozen=True, slots=True)
class Change:
    """One line of a policy file. `line` counts from 1; 0 adds at the end. `old` is "" where a line
    is added; no `new`: it is taken out."""

    file: str
    line: int
    old: str
    new: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Edit:
    """`opens`: what else is no longer denied, in words; "" where the edit allows this one thing."""

    changes: tuple[Change, ...]
    opens: str = ""


@dataclass(frozen=True, slots=True)
class Imagined:
    """Policy files that are not in force: with rules and an engine, or with problems."""

    files: tuple[tuple[str, bytes], ...]
    rules: RuleSet | None
    engine: PolicyEngine | None
    problems: tuple[Problem, ...]


# (name, content) of every file -> what these would be.
Imagine = Callable[[Sequence[tuple[str, bytes]]], Imagined]


def smallest_edit(
    request: AccessRequest, now: Imagined, imagine: Imagine, contexts: Collection[str]
) -> Edit | None:
    """None when it is allowed already, the files have mistakes, or no edit was found that holds
    (then a test beside the rules stands against it, or a model of the owner's own)."""
    if now.rules is None or now.engine is None or now.engine.decide(request).allowed:
        return None
    matching = (each.rule for each in trail(now.rules, request) if each.matches)
    denies = [rule for rule in matching if rule.effect == "deny"]
    narrowed = [(rule, _narrowed(rule, request, contexts)) for rule in denies]
    # What stands there twice is a mistake.
    there = {rule.text for rule in now.rules.rules}
    changes = [
        Change(rule.file, rule.line, rule.text, tuple(each for each in new if each not in there))
        for rule, new in narrowed
    ]
    opens = "; ".join(_opened(rule, request, is_whole=not new) for rule, new in narrowed)
    for added in ((), _added(request)):
        edit = Edit((*changes, *added), opens)
        if edit.changes and _allows(edit, request, now, imagine):
            return edit
    return None


def applied(files: Sequence[tuple[str, bytes]], edit: Edit) -> list[tuple[str, bytes]]:
    """The files after the edit."""
    texts = {name: content.decode().split("\n") for name, content in files}
    for change in sorted(edit.changes, key=lambda each: -each.line):
        lines = texts.setdefault(change.file, [])
        if change.line:
            lines[change.line - 1 : change.line] = change.new or ("#",)
        else:
            lines += change.new
    return sorted((name, "\n".join(lines).encode()) for name, lines in texts.items())


def _allows(edit: Edit, request: AccessRequest, now: Imagined, imagine: Imagine) -> bool:
    then = imagine(applied(now.files, edit))
    return then.engine is not None and then.engine.decide(request).allowed


def _added(request: AccessRequest) -> tuple[Change, ...]:
    line = smallest_allow(request)
    return (Change(f"policy/{request.context}.csv", 0, "", (line,)),) if line else ()


def _narrowed(rule: Rule, request: AccessRequest, contexts: Collection[str]) -> tuple[str, ...]:
    """The lines that deny all that this one does but for the request's action or context. The
    language has no exception for a subject or a path: there, the line goes as a whole."""
    lines: tuple[str, ...] = ()
    if rule.action == ANY:
        others = (each for each in ACTIONS if each != request.action)
        fits = (each for each in others if object_mistake(each, rule.object) is None)
        lines = tuple(replace(rule, action=each).text for each in fits)
    elif rule.context == ANY:
        names = (each for each in sorted(contexts) if each != request.context)
        lines = tuple(replace(rule, context=each).text for each in names)
    return lines if len(lines) <= _MOST_LINES else ()


def _opened(rule: Rule, request: AccessRequest, *, is_whole: bool) -> str:
    who = "everybody" if rule.subject == ANY else rule.subject
    action, context = rule.action, rule.context
    if not is_whole:
        action = request.action if action == ANY else action
        context = request.context if rule.action != ANY else context
    what = "anything" if action == ANY else action
    where = "anywhere" if context == ANY else f"in {context}"
    return f"{rule.where} no longer denies {who} {what} {rule.object} {where}"
