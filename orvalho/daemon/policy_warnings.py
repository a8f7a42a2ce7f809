"""What is no mistake in a file of rules, and yet can have no effect: names that nobody has."""

from __future__ import annotations

from collections.abc import Iterator

from orvalho.daemon.house import House
from orvalho.policies.access import ANY, OWNER, PAIRED
from orvalho.policies.rule_set import RuleSet


def warnings(house: House, rules: RuleSet) -> tuple[str, ...]:
    """One line for each `file:line` that names a group or a device that there is not (yet)."""
    groups = {name.lstrip("@") for name in (*house.groups.names(), OWNER, PAIRED)}
    groups |= {each.group.lstrip("@") for each in rules.memberships}
    nodes = {house.name, *(peer.name for peer in house.trust.peers())}
    found = []
    for where, word in _named(rules):
        if why := _unknown(word, groups, nodes):
            found.append(f"{where}: {word}: {why}")
    return tuple(dict.fromkeys(found))


def _named(rules: RuleSet) -> Iterator[tuple[str, str]]:
    for rule in (*rules.rules, *rules.holds):
        yield rule.where, rule.subject
    for each in rules.memberships:
        yield f"{each.file}:{each.line}", each.member


def _unknown(word: str, groups: set[str], nodes: set[str]) -> str | None:
    if word == ANY or word.startswith("ed25519:"):
        return None
    if word.startswith("@"):
        return None if word[1:] in groups else "there is no such group"
    node = word.rpartition("@")[2]
    if node in nodes or word in groups:
        return None
    return "no such device is paired"
