"""The rules in force, as values: what the policy files say, once nothing is wrong with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from orvalho.policies.access import ANY, PAIRED, AccessRequest, Effect, Rule, Subject
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
    """One `#?` line. Its subject is judged by that one word (and as a paired peer)."""

    file: str
    line: int
    subject: str
    context: str
    action: str
    object: str
    effect: Effect


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


def failed_tests(rules: RuleSet, engine: PolicyEngine) -> list[Problem]:
    """The `#?` lines that `engine` answers otherwise, each with the rule that made it so."""
    problems = []
    for test in rules.tests:
        decision = engine.decide(
            AccessRequest(_tested(test.subject), test.context, test.action, test.object)
        )
        if decision.allowed != (test.effect == "allow"):
            by = f"{decision.rule.where} ({decision.rule.text})" if decision.rule else "no rule"
            said = "allowed" if decision.allowed else "denied"
            problems.append(
                Problem(test.file, test.line, 0, f"this test fails: it is {said}, by {by}")
            )
    return problems


def _tested(word: str) -> Subject:
    names = {ANY, PAIRED, word}
    if "@" in word[1:]:
        names.add(word.partition("@")[2])
    return Subject(word if word.startswith("ed25519:") else "ed25519:(a test)", frozenset(names))
