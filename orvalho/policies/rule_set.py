"""The rules in force, as values: what the policy files say, once nothing is wrong with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from orvalho.policies.access import ANY, PAIRED, AccessRequest, Decision, Effect, Rule, Subject
from orvalho.policies.conditions import UNKNOWN, Probe, Readings, Reads
from orvalho.policies.engine import PolicyEngine


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake. `column` counts characters from 1; 0 means the whole line."""

    file: str
    line: int
    column: int
    message: str

    def __str__(self) -> str:
        place = [self.file, *(str(n) for n in (self.line, self.column) if n)]
        return f"{':'.join(place)}: {self.message}"


@dataclass(frozen=True, slots=True)
class Membership:
    """One `g` line: who is `member` is also `group`."""

    file: str
    line: int
    member: str
    group: str


@dataclass(frozen=True, slots=True)
class RuleTest:
    """One `#?` line. Its subject is judged by that one word (and as a paired peer), its conditions
    by what is `given` in it: not by the time or the machine on which it is read."""

    file: str
    line: int
    subject: str
    context: str
    action: str
    object: str
    effect: Effect
    given: Readings = UNKNOWN

    @property
    def where(self) -> str:
        return f"{self.file}:{self.line}"

    @property
    def text(self) -> str:
        return f"{self.effect} {self.subject} {self.context} {self.action} {self.object}"


@dataclass(frozen=True, slots=True)
class Tested:
    """A test and what the rules answer."""

    test: RuleTest
    decision: Decision

    @property
    def passed(self) -> bool:
        return self.decision.allowed == (self.test.effect == "allow")

    @property
    def by(self) -> str:
        """The rule that decided, in words."""
        decision = self.decision
        if decision.unmet:
            rule = decision.unmet.rule
            verb = "allows" if rule.effect == "allow" else "denies"
            return f"{rule.where} ({rule.text}), which {verb} it {decision.unmet.reason}"
        return f"{decision.rule.where} ({decision.rule.text})" if decision.rule else "no rule"


@dataclass(frozen=True, slots=True)
class RuleSet:
    """Rules in the order of their files and lines. `groups`: a name -> all it is a member of.
    `holds` are those that allow a script only once the owner has looked at it; they are among the
    rules as well."""

    rules: tuple[Rule, ...] = ()
    memberships: tuple[Membership, ...] = ()
    tests: tuple[RuleTest, ...] = ()
    groups: Mapping[str, frozenset[str]] = field(default_factory=dict)
    holds: tuple[Rule, ...] = ()

    def words(self, subject: Subject) -> frozenset[str]:
        """All the words that hold for the subject, the groups of the `g` lines included."""
        if not self.groups:
            return subject.names
        more = [self.groups[name] for name in subject.names if name in self.groups]
        return subject.names.union(*more)

    @property
    def probes(self) -> frozenset[Probe]:
        """What the conditions ask of the machine."""
        return frozenset[Probe]().union(*(r.condition.probes for r in self.rules if r.condition))


# Makes the engine of some rules, which asks for readings as these are given.
MakeEngine = Callable[[Reads], PolicyEngine]


def run_tests(rules: RuleSet, make: MakeEngine) -> tuple[Tested, ...]:
    """What an engine of these rules answers to each `#?` line, in the order of the files."""
    given = [UNKNOWN]
    engine = make(lambda: given[0])
    results = []
    for test in rules.tests:
        given[0] = test.given
        request = AccessRequest(_tested(test.subject), test.context, test.action, test.object)
        results.append(Tested(test, engine.decide(request)))
    return tuple(results)


def failures(results: Sequence[Tested]) -> list[Problem]:
    """The tests that fail: what was expected, and which rule decided; the first hundred."""
    failed = [each for each in results if not each.passed]
    problems = [
        Problem(each.test.file, each.test.line, 0, _failure(each)) for each in failed[:_TOLD]
    ]
    if more := failed[_TOLD:]:
        text = f"this test fails, and {len(more) - 1} after it" if len(more) > 1 else "fails too"
        problems.append(Problem(more[0].test.file, more[0].test.line, 0, text))
    return problems


def _failure(result: Tested) -> str:
    said = "allowed" if result.decision.allowed else "denied"
    return f"this test fails: {result.test.effect} was expected, but it is {said}, by {result.by}"


_TOLD: Final = 100


def _tested(word: str) -> Subject:
    names = {ANY, PAIRED, word}
    if "@" in word[1:]:
        names.add(word.partition("@")[2])
    return Subject(word if word.startswith("ed25519:") else "ed25519:(a test)", frozenset(names))
