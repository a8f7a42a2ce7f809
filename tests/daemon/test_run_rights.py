"""What narrows a run only ever takes away."""

from __future__ import annotations

import pytest

from orvalho.daemon.run_rights import RunRights
from orvalho.errors import InvalidInput, LimitExceeded
from orvalho.policies.capability import Grants, parse_capability


def rights(*needs: str, denied: tuple[str, ...] = ()) -> RunRights:
    return RunRights(Grants(tuple(map(parse_capability, needs))), map(parse_capability, denied))


def test_a_family_an_action_and_a_part_of_it_are_dropped() -> None:
    one = rights("target.fs.read:/**", "target.kv.write:*")
    assert one.refusal("target", "fs.read", "/a/b") is None
    one.drop("fs.read:/a/**")
    found = one.refusal("target", "fs.read", "/a/b")
    assert found is not None and found[0] == "dropped"
    assert one.refusal("target", "fs.read", "/b") is None
    assert one.list() == ["target.fs.read:/**", "target.kv.write:*"]
    one.drop("fs")
    assert one.refusal("target", "fs.read", "/b") is not None
    assert one.refusal("target", "kv.write", "a") is None
    assert one.refusal("caller", "fs.read", "/b") is None
    assert one.list() == ["target.kv.write:*"]


def test_the_callers_tree_is_dropped_whole() -> None:
    one = rights("caller.fs.write:/x/**")
    assert one.refusal_of_call("fs.write") is None
    one.drop("caller.fs.write:/x/y")
    for call in ("fs.write", "fs.mkdir", "fs.move"):
        assert one.refusal_of_call(call) is not None
    assert one.refusal_of_call("fs.read") is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "fs.",
        "fs.raed",
        "script.run",
        "FS",
        "caller.",
        "fs.read:",
        "fs.read:x",
        "fs:x",
        "node:a",
    ],
)
def test_what_is_no_right(text: str) -> None:
    one = rights("target.fs.read:/**")
    with pytest.raises(InvalidInput):
        one.drop(text)
    assert one.refusal("target", "fs.read", "/a") is None


def test_a_guest_cannot_pile_up_drops() -> None:
    one = rights()
    for number in range(256):
        one.drop(f"fs.read:/{number}")
    with pytest.raises(LimitExceeded):
        one.drop("fs.read:/x")


@pytest.mark.parametrize(
    ("denied", "object_", "refused"),
    [
        ("target.kv.read:secret*", "secret1", True),
        ("target.kv.read:secret*", "public", False),
        ("target.kv.read:secret*", "**", True),
        ("target.kv.read:secret*", "sec**", True),
        ("target.kv.read:secret*", "secrets/**", True),
        ("target.kv.read:secret*", "pub**", False),
    ],
)
def test_a_list_is_denied_where_it_would_show_what_is(
    denied: str, object_: str, refused: bool
) -> None:
    one = rights("target.kv.read:**", denied=(denied,))
    assert (one.refusal("target", "kv.read", object_) is not None) is refused
