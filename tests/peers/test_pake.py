"""The code exchange: equal codes agree, and nothing else does."""

from __future__ import annotations

import os
import random

import pytest

from orvalho.contexts.identity import Key
from orvalho.errors import Untrusted
from orvalho.peers.pake import MESSAGE_BYTES, Pake, PakeKeys, Side

ANN, BEN = Key(b"a" * 32), Key(b"b" * 32)
BINDING = b"h" * 32


def side(
    which: Side,
    secret: bytes = b"417-violin-orbit-lemon",
    joiner: Key = ANN,
    inviter: Key = BEN,
    binding: bytes = BINDING,
) -> Pake:
    return Pake(which, secret, joiner=joiner, inviter=inviter, binding=binding, entropy=os.urandom)


def agree(joiner: Pake, inviter: Pake) -> tuple[PakeKeys, PakeKeys]:
    return joiner.finish(inviter.message), inviter.finish(joiner.message)


def believe(one: PakeKeys, other: PakeKeys) -> bool:
    sealed = one.seal(b"hello")
    return other.is_confirmed(one.confirm(sealed), sealed)


def test_equal_codes_confirm_each_other_and_open_each_others_seals() -> None:
    ours, theirs = agree(side(Side.JOINER), side(Side.INVITER))
    assert believe(ours, theirs)
    assert believe(theirs, ours)
    assert theirs.open(ours.seal(b"my introduction")) == b"my introduction"
    assert ours.open(theirs.seal(b"mine")) == b"mine"


@pytest.mark.parametrize(
    "other",
    [
        {"secret": b"417-violin-orbit-lemons"},
        {"binding": b"i" * 32},
        {"joiner": Key(b"m" * 32)},
        {"inviter": Key(b"m" * 32)},
        {"joiner": BEN, "inviter": ANN},
    ],
    ids=["another code", "another session", "another joiner", "another inviter", "swapped"],
)
def test_nothing_agrees_when_code_keys_or_session_differ(other: dict[str, bytes]) -> None:
    ours, theirs = agree(side(Side.JOINER), side(Side.INVITER, **other))  # type: ignore[arg-type]
    assert not believe(ours, theirs)
    assert not believe(theirs, ours)
    with pytest.raises(Untrusted):
        theirs.open(ours.seal(b"my introduction"))


def test_a_confirmation_sent_back_does_not_confirm() -> None:
    ours, _ = agree(side(Side.JOINER), side(Side.INVITER))
    sealed = ours.seal(b"hello")
    assert not ours.is_confirmed(ours.confirm(sealed), sealed)


def test_a_confirmation_is_for_one_sealed_text_only() -> None:
    ours, theirs = agree(side(Side.JOINER), side(Side.INVITER))
    assert not theirs.is_confirmed(ours.confirm(ours.seal(b"hello")), ours.seal(b"hullo"))


def test_a_reflected_message_is_refused() -> None:
    ours = side(Side.JOINER)
    with pytest.raises(Untrusted, match="malformed"):
        ours.finish(ours.message)
    again = side(Side.JOINER)
    with pytest.raises(Untrusted, match="malformed"):
        again.finish(b"B" + again.message[1:])


# y = 2 belongs to no x; y = 1 is the neutral point, y = 0 has order 4, y = -1 order 2.
P = 2**255 - 19
BAD_POINTS = {"off the curve": 2, "neutral": 1, "order 4": 0, "order 2": P - 1}


@pytest.mark.parametrize("y", BAD_POINTS.values(), ids=BAD_POINTS)
def test_a_point_off_the_group_is_refused(y: int) -> None:
    with pytest.raises(Untrusted, match="malformed"):
        side(Side.INVITER).finish(b"A" + y.to_bytes(32, "little"))


@pytest.mark.parametrize("message", [b"", b"A", b"A" * 32, b"A" * 34, b"S" + bytes(32)])
def test_a_message_of_another_form_is_refused(message: bytes) -> None:
    with pytest.raises(Untrusted, match="malformed"):
        side(Side.INVITER).finish(message)


def test_a_thousand_random_messages_are_refused_or_never_confirmed() -> None:
    chance = random.Random(417)
    refused = 0
    for _ in range(1000):
        inviter = side(Side.INVITER)
        try:
            keys = inviter.finish(b"A" + chance.randbytes(MESSAGE_BYTES - 1))
        except Untrusted:
            refused += 1
            continue
        assert not keys.is_confirmed(chance.randbytes(32), b"")
    # Half of all strings are no point, and seven of eight points are not in the group.
    assert refused > 800
