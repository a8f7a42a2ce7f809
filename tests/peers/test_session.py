"""Sessions: who gets in, and what breaks the seal. Each test of an attack names it."""

from __future__ import annotations

import gc
import os
import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orvalho.contexts.identity import Key, Signer
from orvalho.errors import Untrusted
from orvalho.peers import session as sessions
from orvalho.peers.session import MAX_FRAME_BYTES, Mode, Refusal, Session

LINK_BYTES = 1 << 18
DIALER, LISTENER, OTHER = (Signer(bytes([n]) * 32) for n in (1, 2, 3))


def dial(signer: Signer = DIALER, expected: Key = LISTENER.key, wish: Mode = Mode.FULL) -> Session:
    return sessions.dial_session(
        signer=signer,
        noise_static=os.urandom(32),
        ephemeral=os.urandom(32),
        max_message_bytes=LINK_BYTES,
        expected=expected,
        wish=wish,
    )


def listen(
    allow: Callable[[Key], Mode | None] = lambda _: Mode.FULL, signer: Signer = LISTENER
) -> Session:
    return sessions.listen_session(
        signer=signer,
        noise_static=os.urandom(32),
        ephemeral=os.urandom(32),
        max_message_bytes=LINK_BYTES,
        allow=allow,
    )


def shake(near: Session, far: Session) -> None:
    """Carry the handshake's messages to its end."""
    message = near.start()
    sides = [far, near]
    while message is not None:
        message = sides[0].receive(message)
        sides.reverse()


def opened() -> tuple[Session, Session]:
    near, far = dial(), listen()
    shake(near, far)
    near.check()
    far.check()
    return near, far


def one(session: Session, frame: bytes) -> bytes:
    (message,) = session.seal([frame])
    return message


def test_both_sides_know_each_other_afterwards() -> None:
    near, far = opened()
    assert (near.peer, far.peer) == (LISTENER.key, DIALER.key)
    assert near.mode is far.mode is Mode.FULL


def test_a_stranger_is_refused_and_told() -> None:
    near, far = dial(), listen(lambda _: None)
    with pytest.raises(Untrusted, match="does not know this one"):
        shake(near, far)
    assert near.refusal is far.refusal is Refusal.STRANGER
    with pytest.raises(Untrusted):
        far.check()


@pytest.mark.parametrize(
    ("allowed", "wish", "refusal"),
    [
        (Mode.PAIRING, Mode.PAIRING, None),
        (Mode.FULL, Mode.PAIRING, None),
        (Mode.PAIRING, Mode.FULL, Refusal.STRANGER),
        (None, Mode.PAIRING, Refusal.NOT_INVITING),
    ],
)
def test_a_session_is_what_was_wished_if_that_is_allowed(
    allowed: Mode | None, wish: Mode, refusal: Refusal | None
) -> None:
    near, far = dial(wish=wish), listen(lambda _: allowed)
    try:
        shake(near, far)
    except Untrusted:
        assert near.refusal is refusal
    else:
        assert refusal is None
        assert near.mode is far.mode is wish


def test_a_dialer_that_meets_another_node_does_not_show_itself() -> None:
    near, far = dial(expected=OTHER.key), listen()
    answer = far.receive(near.start() or b"")
    assert answer is not None
    with pytest.raises(Untrusted, match="another node"):
        near.receive(answer)
    assert near.refusal is Refusal.WRONG_PEER


def test_a_dialer_whose_messages_are_reflected_to_its_own_listener_notices() -> None:
    near, mirror = dial(expected=DIALER.key), listen(signer=DIALER)
    answer = mirror.receive(near.start() or b"")
    with pytest.raises(Untrusted, match="own key"):
        near.receive(answer or b"")
    assert near.refusal is Refusal.REFLECTION


def test_a_proof_made_as_listener_is_none_as_dialer() -> None:
    """An attacker in the middle cannot pass our own proof, made for it, on as its own."""
    victim, attacked = listen(), listen()
    attacker = dial(signer=OTHER)
    answer = victim.receive(attacker.start() or b"")
    attacker.receive(answer or b"")
    # The attacker now holds the victim's proof, for a transcript that is not `attacked`'s.
    replay = dial(signer=OTHER)
    attacked.receive(replay.start() or b"")
    with pytest.raises(Untrusted):
        attacked.receive(answer or b"")
    assert attacked.refusal is Refusal.MALFORMED


def messages_of_a_handshake() -> list[tuple[bool, bytes]]:
    """Each message, and whether the listener reads it."""
    near, far = dial(), listen()
    first = near.start() or b""
    second = far.receive(first) or b""
    third = near.receive(second) or b""
    fourth = far.receive(third) or b""
    return [(True, first), (False, second), (True, third), (False, fourth)]


LENGTHS = [len(message) for _, message in messages_of_a_handshake()]


@pytest.mark.parametrize("step", range(4))
def test_a_handshake_message_changed_or_cut_anywhere_is_refused(step: int) -> None:
    def attempt(change: Callable[[bytes], bytes]) -> None:
        near, far = dial(), listen()
        message: bytes | None = near.start()
        reader, other = far, near
        with pytest.raises(Untrusted):
            for at in range(4):
                assert message is not None
                message = reader.receive(change(message) if at == step else message)
                reader, other = other, reader
        assert not (near.mode is Mode.FULL and not near.is_shaking and near.refusal is None)

    for at in range(0, LENGTHS[step], 9):
        attempt(lambda message, at=at: message[:at])
        flip = 1 << (at % 8)
        attempt(lambda m, at=at, flip=flip: m[:at] + bytes([m[at] ^ flip]) + m[at + 1 :])
    attempt(lambda message: message + b"x")


@settings(max_examples=60, deadline=None)
@given(
    frames=st.lists(
        st.one_of(st.binary(max_size=200), st.integers(60_000, 70_000).map(lambda n: b"x" * n)),
        max_size=6,
    )
)
def test_frames_of_any_size_pass_in_order(frames: list[bytes]) -> None:
    near, far = opened()
    messages = list(near.seal(frames))
    assert all(0 < len(message) <= LINK_BYTES for message in messages)
    assert [frame for message in messages for frame in far.open(message)] == frames


def test_a_large_frame_spans_messages() -> None:
    near, far = opened()
    frame = os.urandom(3_000_000)
    messages = list(near.seal([b"before", frame, b"after"]))
    assert len(messages) > 10
    assert [f for m in messages for f in far.open(m)] == [b"before", frame, b"after"]


def broken(far: Session, message: bytes) -> None:
    """Refused, and the session with it."""
    with pytest.raises(Untrusted):
        far.open(message)
    assert far.refusal in (Refusal.BAD_SEAL, Refusal.MALFORMED)
    with pytest.raises(Untrusted, match="has ended"):
        far.open(message)


def test_a_flipped_bit_ends_the_session() -> None:
    size = len(one(opened()[0], b"hello world"))
    for at in range(size):
        near, far = opened()
        message = bytearray(one(near, b"hello world"))
        message[at] ^= 1 << (at % 8)
        broken(far, bytes(message))


def test_a_cut_message_ends_the_session() -> None:
    for keep in range(0, 31, 3):
        near, far = opened()
        broken(far, one(near, b"hello world")[:keep])


def test_a_replayed_message_ends_the_session() -> None:
    near, far = opened()
    message = one(near, b"pay 10")
    assert far.open(message) == [b"pay 10"]
    broken(far, message)


def test_a_late_message_ends_the_session() -> None:
    near, far = opened()
    one(near, b"first")
    broken(far, one(near, b"second"))


def test_a_reflected_message_ends_the_session() -> None:
    near, _ = opened()
    broken(near, one(near, b"mine"))


def test_pieces_of_a_large_frame_cannot_be_dropped_or_swapped() -> None:
    near, far = opened()
    first, second, *_ = near.seal([bytes(1_000_000)])
    assert far.open(first[: 2 * 65535]) == []
    broken(far, second)
    near, far = opened()
    (message,) = near.seal([bytes(200_000)])
    broken(far, message[65535 : 2 * 65535] + message[:65535] + message[2 * 65535 :])


def test_an_impossible_length_ends_the_session_before_it_fills_memory() -> None:
    near, far = opened()
    sealed = near._encrypt((MAX_FRAME_BYTES + 1).to_bytes(4) + b"x")
    broken(far, sealed)


def test_the_keys_change_with_many_messages_and_both_sides_follow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sessions, "_REKEY_MESSAGES", 4)
    near, far = opened()
    keys = set()
    for n in range(40):
        assert far.open(one(near, b"%d" % n)) == [b"%d" % n]
        assert near.open(one(far, b"back")) == [b"back"]
        keys.add(near._sending._aead)
    assert len(keys) == 11


def test_ten_thousand_random_messages_leave_nothing_behind() -> None:
    def attack(count: int) -> None:
        for n in range(count):
            far = listen()
            size = int.from_bytes(os.urandom(2)) % 300 if n % 2 else 32
            message = os.urandom(size)
            try:
                answer = far.receive(message)
                far.receive(os.urandom(64 + 97 + 16) if answer else b"")
            except Untrusted:
                assert far.refusal is Refusal.MALFORMED
                continue
            raise AssertionError("noise was taken for a handshake")

    attack(100)
    tracemalloc.start()
    attack(1000)
    gc.collect()
    before, _ = tracemalloc.get_traced_memory()
    attack(9000)
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after - before < 20_000
