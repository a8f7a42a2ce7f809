"""Why a decision fell as it did, in words."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from orvalho.errors import Denied
from orvalho.policies.access import OWNER, PAIRED, AccessRequest, Decision
from orvalho.policies.audit import Entry
from orvalho.policies.globs import compile_glob
from orvalho.policies.library_guard import changes_code


@dataclass(frozen=True, slots=True)
class Explained:
    """One decision, however many `times` it was made. `rule` and `nearest` are `file:line`;
    `text` is the deciding rule itself; `unmet`: on what it hung, `only if charging; now ...`."""

    action: str
    object: str
    allowed: bool
    rule: str | None
    text: str | None
    nearest: str | None
    suggestion: str | None
    times: int
    unmet: str | None = None


def explain(entries: Iterable[Entry]) -> tuple[Explained, ...]:
    """The decisions of the audit log's `entries`, each once, in the order they first fell."""
    found: dict[tuple[str, str, str, bool, str | None], Explained] = {}
    for entry in entries:
        key = (entry.context, entry.action, entry.object, entry.allowed, entry.rule)
        known = found.get(key)
        found[key] = (
            replace(known, times=known.times + 1)
            if known
            else Explained(
                entry.action,
                entry.object,
                entry.allowed,
                entry.rule,
                entry.rule_text,
                entry.nearest,
                entry.suggestion,
                1,
                entry.unmet,
            )
        )
    return tuple(found.values())


def sentence(request: AccessRequest, decision: Decision) -> str:
    """`gil@laptop may not fs.read /secret in peer: policy/peer.csv:7 denies it.`"""
    may = "may" if decision.allowed else "may not"
    asked = f"{request.subject.spoken} {may} {request.action} {request.object}"
    verb = "allows" if decision.allowed else "denies"
    if decision.unmet:
        rule = decision.unmet.rule
        verb = "allows" if rule.effect == "allow" else "denies"
        why = f"{rule.where} {verb} it {decision.unmet.reason}"
    elif decision.rule:
        why = f"{decision.rule.where} {verb} it"
    elif decision.group:
        why = f"{decision.group} may, and it is {_outside(request, decision.group)}"
    else:
        why = "no rule allows it"
    return f"{asked} in {request.context}: {why}"


def _outside(request: AccessRequest, group: str) -> str:
    is_in_one = any(n.startswith("@") and n not in (OWNER, PAIRED) for n in request.subject.names)
    return f"not in {group}" if is_in_one else "not in any group"


def _family(action: str) -> str:
    """`fs` of `fs.read`: a line about files says nothing of values."""
    return action.partition(".")[0]


def refusal(request: AccessRequest, decision: Decision) -> Denied:
    """The error for a decision that is not allowed: the rule, and what the owner could do."""
    if decision.unmet:
        rule = decision.unmet.rule
        hint = f"look at {rule.where}: {rule.text}"
        return Denied(sentence(request, decision), rule=rule.where, hint=hint)
    if decision.rule:
        hint = f"look at {decision.rule.where}: {decision.rule.text}"
    elif decision.suggestion:
        hint = f"add to policy/{request.context}.csv: {decision.suggestion}"
    else:
        hint = "orvalho policy check"
    cited = decision.rule.where if decision.rule else None
    near = decision.nearest
    is_alike = near is not None and _family(near.action) in ("*", _family(request.action))
    where = None
    if near and is_alike and not cited:
        where = f"{near.where} comes closest: {near.text}"
        if changes_code(request) and compile_glob(near.object).matches(request.object):
            folder = request.object.split("/")[1]
            where = f"{near.where}: {near.object} does not cover /{folder}: name it"
    return Denied(sentence(request, decision), rule=cited, where=where, hint=hint)
