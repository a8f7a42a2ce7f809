"""What every policy engine answers under the shipped model."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from orvalho.policies.access import AccessRequest, Decision, Subject
from orvalho.policies.engine import PolicyEngine
from orvalho.policies.rule_set import RuleSet
from orvalho.policies.rules import read_files

GIL = Subject("ed25519:gil", frozenset({"*", "@paired", "laptop", "gil@laptop", "ed25519:gil"}))
OWN = Subject("ed25519:own", frozenset({"*", "@paired", "@owner", "phone", "me@phone"}))

POLICY = """\
g, gil@laptop, @family
g, @family, @friends
p, @owner, *, *, **, allow
p, @friends, peer, fs.read, /photos/**, allow
p, gil@laptop, peer, fs.read, /photos/a/**, allow
p, *, peer, fs.read, /**/.*, deny
p, laptop, peer, fs.read, /photos/private/**, deny
p, gil@laptop, peer, kv.read, settings.*, allow
p, @family, *, script.run, *, allow
"""


def rule_set(text: str) -> RuleSet:
    reading = read_files([("policy/peer.csv", text.encode())])
    assert reading.rules is not None, reading.problems
    return reading.rules


class PolicyEngineSuite:
    """Subclasses say how an engine is made."""

    make: Callable[[RuleSet], PolicyEngine]

    def ask(
        self, action: str, object_: str, subject: Subject = GIL, context: str = "peer"
    ) -> Decision:
        engine = type(self).make(rule_set(POLICY))
        return engine.decide(AccessRequest(subject, context, action, object_))

    def test_an_allow_cites_the_first_line_that_matches(self) -> None:
        decision = self.ask("fs.read", "/photos/a/1.jpg")

        assert decision.allowed
        assert decision.rule
        assert decision.rule.where == "policy/peer.csv:4"

    def test_deny_wins_over_any_allow_and_is_cited(self) -> None:
        decision = self.ask("fs.read", "/photos/private/1.jpg")

        assert not decision.allowed
        assert decision.rule
        assert decision.rule.where == "policy/peer.csv:7"

    def test_the_first_of_two_denies_is_cited(self) -> None:
        decision = self.ask("fs.read", "/photos/private/.x")

        assert decision.rule
        assert decision.rule.line == 6

    @pytest.mark.parametrize(
        ("action", "object_"),
        [
            ("fs.write", "/photos/1.jpg"),
            ("fs.read", "/photo"),
            ("fs.read", "/photosynthesis/1"),
            ("kv.read", "settings/x"),
            ("kv.read", "settingsx"),
            ("no.such.action", "/photos/1.jpg"),
        ],
    )
    def test_what_no_line_speaks_of_is_denied(self, action: str, object_: str) -> None:
        decision = self.ask(action, object_)

        assert not decision.allowed
        assert decision.rule is None

    def test_a_deny_reaches_files_that_start_with_a_dot(self) -> None:
        assert not self.ask("fs.read", "/photos/.hidden").allowed
        assert not self.ask("fs.read", "/.ssh/.id", OWN).allowed

    def test_a_newline_does_not_slip_past_a_deny(self) -> None:
        assert not self.ask("fs.read", "/photos/private/a\n").allowed

    def test_another_context_is_another_world(self) -> None:
        assert not self.ask("fs.read", "/photos/1.jpg", context="home").allowed
        assert self.ask("script.run", "sha256:00", context="home").allowed

    def test_a_subject_that_is_called_like_a_group_gains_nothing(self) -> None:
        stranger = Subject("ed25519:@owner", frozenset({"*", "@paired"}))

        assert not self.ask("fs.read", "/photos/1.jpg", stranger).allowed
        with pytest.raises(ValueError, match="is a key"):
            Subject("@owner", frozenset({"*"}))

    def test_many_strangers_leave_the_engine_as_it_was(self) -> None:
        engine = type(self).make(rule_set(POLICY))
        for number in range(300):
            stranger = Subject(f"ed25519:{number}", frozenset({"*"}))
            assert not engine.decide(AccessRequest(stranger, "peer", "fs.read", "/x")).allowed

        assert engine.decide(AccessRequest(OWN, "peer", "fs.read", "/x")).allowed

    def test_no_rules_at_all_deny(self) -> None:
        engine = type(self).make(RuleSet())

        assert engine.decide(AccessRequest(OWN, "peer", "fs.read", "/x")).rule is None
        assert not engine.decide(AccessRequest(OWN, "peer", "fs.read", "/x")).allowed
