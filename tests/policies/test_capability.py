"""What a script declares, and what of it is granted."""

from __future__ import annotations

import pytest

from orvalho.errors import Denied, InvalidInput
from orvalho.policies.access import AccessRequest, Decision, Subject
from orvalho.policies.capability import Capability, grant, parse_capability
from orvalho.policies.engine import PolicyEngine
from orvalho.policies.indexed_engine import IndexedEngine
from orvalho.policies.rules import read_files

GIL = Subject("ed25519:gil", frozenset({"*", "gil@laptop"}))
POLICY = b"""\
p, gil@laptop, peer, fs.read, /photos/**, allow
p, gil@laptop, peer, fs.read, /photos/private/**, deny
p, gil@laptop, peer, fs.write, /locked/**, deny
"""


@pytest.fixture
def engine() -> PolicyEngine:
    rules = read_files([("policy/peer.csv", POLICY)]).rules
    assert rules
    return IndexedEngine(rules)


def capabilities(*texts: str) -> list[Capability]:
    return [parse_capability(text) for text in texts]


def decider(engine: PolicyEngine):
    def decide(capability: Capability) -> tuple[AccessRequest, Decision] | None:
        if capability.side == "caller":
            return None
        request = AccessRequest(GIL, "peer", capability.action, capability.object)
        return request, engine.decide(request)

    return decide


def test_a_capability_is_written_as_it_is_read() -> None:
    text = "target.fs.read:/photos/**"

    assert str(parse_capability(text)) == text


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("target.fs:/x/**", "unknown capability"),
        ("target.fs.raed:/x", 'did you mean "target.fs.read"'),
        ("fs.read:/x", "unknown capability"),
        ("target.script.run:*", "unknown capability"),
        ("target.fs.read", "is no capability"),
        ("target.fs.read:", "missing"),
        ("target.fs.read:x", 'starts with "/"'),
        ("target.fs.read:/a/../b", '".."'),
        ("target.fs.read:/a\x1bb", "control"),
        ("target.kv.read:" + "a**" * 9, "at most"),
        ("", "is no capability"),
    ],
)
def test_what_is_no_capability_is_refused(text: str, told: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_capability(text)

    assert told in caught.value.message


def test_a_need_that_is_allowed_is_granted_as_far_as_it_was_declared(engine: PolicyEngine) -> None:
    grants = grant(capabilities("target.fs.read:/photos/2024/**"), [], decider(engine))

    assert grants.permits("target", "fs.read", "/photos/2024/a.jpg")
    assert not grants.permits("target", "fs.read", "/photos/2023/a.jpg"), "it was not declared"
    assert not grants.permits("target", "fs.write", "/photos/2024/a.jpg")
    assert not grants.permits("caller", "fs.read", "/photos/2024/a.jpg")


def test_a_need_that_a_rule_denies_names_the_rule(engine: PolicyEngine) -> None:
    with pytest.raises(Denied) as caught:
        grant(capabilities("target.fs.write:/locked/**"), [], decider(engine))

    assert caught.value.rule == "policy/peer.csv:3"
    assert caught.value.message == (
        "gil@laptop may not fs.write /locked/** in peer: policy/peer.csv:3 denies it"
    )


def test_a_need_that_no_rule_allows_says_which_line_would(engine: PolicyEngine) -> None:
    with pytest.raises(Denied) as caught:
        grant(capabilities("target.fs.remove:/photos/**"), [], decider(engine))

    assert caught.value.rule is None
    assert caught.value.where == (
        "policy/peer.csv:1 comes closest: p, gil@laptop, peer, fs.read, /photos/**, allow"
    )
    assert caught.value.hint == (
        "add to policy/peer.csv: p, gil@laptop, peer, fs.remove, /photos/**, allow"
    )


def test_what_is_only_wanted_may_be_refused(engine: PolicyEngine) -> None:
    wants = capabilities("target.fs.remove:/photos/**", "target.fs.read:/photos/*")
    grants = grant([], wants, decider(engine))

    assert [str(c) for c in grants.refused] == ["target.fs.remove:/photos/**"]
    assert not grants.permits("target", "fs.remove", "/photos/a")
    assert grants.permits("target", "fs.read", "/photos/a")


def test_the_callers_side_is_the_callers_to_decide(engine: PolicyEngine) -> None:
    grants = grant(capabilities("caller.fs.read:/notes/**"), [], decider(engine))

    assert grants.permits("caller", "fs.read", "/notes/a")


def test_a_granted_glob_does_not_open_what_a_deny_within_it_closes(engine: PolicyEngine) -> None:
    grants = grant(capabilities("target.fs.read:/photos/**"), [], decider(engine))
    path = "/photos/private/a"

    assert grants.permits("target", "fs.read", path)
    assert not engine.decide(AccessRequest(GIL, "peer", "fs.read", path)).allowed
