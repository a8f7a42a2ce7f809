"""Rehearsal: what other rules would have answered to the requests of the audit log, and which rules
no request needed. Nothing is decided here for anybody."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from orvalho.policies.access import ACTIONS, AccessRequest, Decision, Rule, Subject
from orvalho.policies.conditions import Readings, local_moment
from orvalho.policies.rule_set import MakeEngine, RuleSet

# Of the newest; what is beyond is told.
MAX_REQUESTS: Final = 100_000
_SHOWN_OBJECTS: Final = 5
# Entries are written in the order of their moments, as far as clocks and threads allow.
_OUT_OF_ORDER_S: Final = 3600.0

STRANGERS: Final = "who asked is no peer any more"
ESCAPES: Final = "a path that led out of the tree, which no rule decides"
HANGING: Final = "hang on the battery or the network, which are not recorded"
OLDER: Final = f"beyond the newest {MAX_REQUESTS} requests"


@dataclass(frozen=True, slots=True)
class Recorded:
    """One request of the audit log, the answer it got, and the text of the rule that gave it. `at`
    is in Unix seconds."""

    at: float
    request: AccessRequest
    allowed: bool
    rule_text: str | None


@dataclass(slots=True)
class Past:
    """The requests since a moment. `skipped`: why others cannot be rehearsed -> how many."""

    requests: list[Recorded] = field(default_factory=list)
    skipped: dict[str, int] = field(default_factory=dict)

    def skip(self, why: str) -> None:
        self.skipped[why] = self.skipped.get(why, 0) + 1


# From the name in the audit log to who that is today; None when it is nobody any more.
Recall = Callable[[str], Subject | None]


def read_rows(connection: sqlite3.Connection, since_at: float) -> list[tuple[object, ...]]:
    """The decisions of the audit log since that moment, newest first: for `past`."""
    cursor = connection.execute(
        "select at, actor, context, action, object, allowed, rule_text, words from audit"
        " left join audit_subject on audit_subject.id = audit.subject order by seq desc"
    )
    rows: list[tuple[object, ...]] = []
    for row in cursor:
        if row[0] < since_at - _OUT_OF_ORDER_S or len(rows) > MAX_REQUESTS:
            break
        if row[0] >= since_at and row[3] in ACTIONS:
            rows.append(row)
    return rows


def past(rows: Sequence[tuple[object, ...]], recall: Recall) -> Past:
    """The requests that can be asked again. Who asked is what was written down with the request;
    an older entry has only a name, and `recall` says who that is."""
    found = Past()
    subjects: dict[tuple[object, object], Subject | None] = {}
    for at, actor, context, action, object_, allowed, rule_text, words in rows[:MAX_REQUESTS]:
        who = (actor, words)
        if who not in subjects:
            subjects[who] = _subject(str(words)) if words else recall(str(actor))
        subject = subjects[who]
        if subject is None:
            found.skip(STRANGERS)
        elif str(action).startswith("fs.") and {"..", "."} & set(str(object_).split("/")):
            found.skip(ESCAPES)
        else:
            request = AccessRequest(subject, str(context), str(action), str(object_))
            text = None if rule_text is None else str(rule_text)
            found.requests.append(Recorded(float(str(at)), request, bool(allowed), text))
    if len(rows) > MAX_REQUESTS:
        found.skip(OLDER)
    return found


def _subject(words: str) -> Subject:
    key, *_ = names = words.split("\n")
    # The key is one of the names only where it was one then.
    return Subject(key, frozenset(names))


@dataclass(slots=True)
class Changed:
    """Requests of one kind whose answer changes: the same asker, action and rules. `before` and
    `after` are the rules that decide, `file:line: text`; None where none does."""

    actor: str
    context: str
    action: str
    before: str | None
    after: str | None
    times: int = 0
    objects: dict[str, None] = field(default_factory=dict)

    @property
    def shown(self) -> tuple[str, ...]:
        return tuple(self.objects)[:_SHOWN_OBJECTS]


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What would change. `requests`: how many were asked again."""

    requests: int
    refused: tuple[Changed, ...]
    allowed: tuple[Changed, ...]
    skipped: dict[str, int]


def rehearse(found: Past, now: MakeEngine, then: MakeEngine) -> Rehearsal:
    """Put each request to the rules in force and to those that would be, at the time of day at
    which it came."""
    skipped = dict(found.skipped)
    refused: dict[tuple[str | None, ...], Changed] = {}
    allowed: dict[tuple[str | None, ...], Changed] = {}
    asked = 0
    for each, answers in _answers(found, now, then):
        old, new = (_settled(each, answer) for answer in answers)
        if _hangs(old) or _hangs(new):
            skipped[HANGING] = skipped.get(HANGING, 0) + 1
            continue
        asked += 1
        if old.allowed != new.allowed:
            _count(allowed if new.allowed else refused, each.request, old, new)
    return Rehearsal(asked, _by_times(refused), _by_times(allowed), skipped)


def _answers(found: Past, *make: MakeEngine) -> Iterator[tuple[Recorded, tuple[Decision, ...]]]:
    at = [0.0]
    engines = [each(lambda: Readings(moment=local_moment(at[0]))) for each in make]
    known: dict[tuple[str, frozenset[str], str, str, str], tuple[Decision, ...]] = {}
    for each in found.requests:
        asked = each.request
        subject = asked.subject
        key = (subject.key, subject.names, asked.context, asked.action, asked.object)
        answers = known.get(key)
        if answers is None:
            at[0] = each.at
            answers = tuple(engine.decide(asked) for engine in engines)
            if all(answer.lasting for answer in answers):
                known[key] = answers
        yield each, answers


def _settled(each: Recorded, decision: Decision) -> Decision:
    """The answer that is known after all: the very rule on whose condition it hangs gave it then,
    so that the condition held or did not."""
    rule = decision.unmet.rule if decision.unmet else None
    if rule is None or not _hangs(decision) or rule.text != each.rule_text:
        return decision
    return Decision(each.allowed, rule, lasting=False)


def _hangs(decision: Decision) -> bool:
    return decision.unmet is not None and decision.unmet.truth is None


def _count(
    groups: dict[tuple[str | None, ...], Changed],
    request: AccessRequest,
    old: Decision,
    new: Decision,
) -> None:
    before, after = _told(old), _told(new)
    key = (request.subject.spoken, request.context, request.action, before, after)
    group = groups.get(key)
    if group is None:
        spoken = request.subject.spoken
        group = groups[key] = Changed(spoken, request.context, request.action, before, after)
    group.times += 1
    group.objects[request.object] = None


def _told(decision: Decision) -> str | None:
    return f"{decision.rule.where}: {decision.rule.text}" if decision.rule else None


def _by_times(groups: dict[tuple[str | None, ...], Changed]) -> tuple[Changed, ...]:
    return tuple(sorted(groups.values(), key=lambda group: -group.times))


@dataclass(frozen=True, slots=True)
class Unused:
    """The rules that decided none of the requests, in the order of the files."""

    requests: int
    allow: tuple[Rule, ...]
    deny: tuple[Rule, ...]
    skipped: dict[str, int]


def unused(found: Past, rules: RuleSet, make: MakeEngine) -> Unused:
    """Which of `rules` no request needed. A rule also counts as needed when the audit log names it,
    word for word: on what its condition hung then is not known any more."""
    needed: set[int] = set()
    texts = {each.rule_text for each in found.requests}
    for _, (decision,) in _answers(found, make):
        if decision.rule is not None:
            needed.add(decision.rule.order)
    idle = [r for r in rules.rules if r.order not in needed and r.text not in texts]
    return Unused(
        len(found.requests),
        tuple(rule for rule in idle if rule.effect == "allow"),
        tuple(rule for rule in idle if rule.effect == "deny"),
        found.skipped,
    )
