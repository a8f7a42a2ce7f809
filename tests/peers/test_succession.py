"""A changed key: who must believe it, and who must not."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orvalho.contexts.identity import Key, Signer, certify
from orvalho.errors import Unavailable, Untrusted
from orvalho.peers import session as sessions
from orvalho.peers import succession
from orvalho.peers.session import Mode, Refusal, Session
from orvalho.peers.succession import NEWS_LIFE_S
from tests.peers.world import Person, check, until

OWNER, THIEF, OLD, OLDER, NEW, PEER = (Signer(bytes([n]) * 32) for n in range(1, 7))
NOW = 1_700_000_000.0
WORD = certify(OWNER, "node", "laptop", NEW.key, NOW)


def owner_of(key: Key) -> Key | None:
    return OWNER.key if key in (OLD.key, OLDER.key) else None


def believed(said: bytes, new: Key = NEW.key, now: float = NOW) -> Key | None:
    return succession.forerunner(said, new, now=now, owner_of=owner_of, check=check)


def test_the_word_of_old_key_and_owner_is_believed_for_thirty_days() -> None:
    said = succession.write(WORD, [(OLD, NOW)], NEW.key, NOW)
    assert believed(said) == OLD.key
    assert believed(said, now=NOW + NEWS_LIFE_S - 1) == OLD.key
    assert believed(said, now=NOW + NEWS_LIFE_S + 301) is None
    assert believed(said, now=NOW - 301) is None
    assert succession.write(WORD, [(OLD, NOW)], NEW.key, NOW + NEWS_LIFE_S) == b""


def test_who_slept_through_two_changes_follows_both() -> None:
    said = succession.write(WORD, [(OLDER, NOW - 9), (OLD, NOW)], NEW.key, NOW)

    def only_older(key: Key) -> Key | None:
        return OWNER.key if key == OLDER.key else None

    found = succession.forerunner(said, NEW.key, now=NOW, owner_of=only_older, check=check)
    assert found == OLDER.key


def test_a_stolen_key_names_no_successor_of_its_own() -> None:
    thief = certify(THIEF, "node", "laptop", THIEF.key, NOW)
    assert believed(succession.write(thief, [(OLD, NOW)], THIEF.key, NOW), THIEF.key) is None
    # Nor with the owner's true word for another key.
    assert believed(succession.write(WORD, [(OLD, NOW)], THIEF.key, NOW), THIEF.key) is None


def test_the_owner_alone_does_not_replace_a_node() -> None:
    # Another node of the same owner, with a good certificate, but without the old key.
    other = certify(OWNER, "node", "phone", PEER.key, NOW)
    forged = succession.write(other, [(THIEF, NOW)], PEER.key, NOW).replace(THIEF.key, OLD.key)
    assert believed(forged, PEER.key) is None


def test_one_nodes_word_is_worth_nothing_from_another() -> None:
    said = succession.write(WORD, [(OLD, NOW)], NEW.key, NOW)
    assert believed(said, PEER.key) is None


@given(at=st.integers(0, 400), bit=st.integers(0, 7))
def test_no_changed_bit_is_believed(at: int, bit: int) -> None:
    said = bytearray(succession.write(WORD, [(OLD, NOW)], NEW.key, NOW))
    if at < len(said):
        said[at] ^= 1 << bit
        # msgpack can say the same in two ways; a signature cannot.
        assert believed(bytes(said)) is None or bytes(said).endswith(b"\0")


@given(st.binary(max_size=800))
def test_any_bytes_are_refused(said: bytes) -> None:
    assert believed(said) is None


# ---- in the handshake


def dial(expected: Key, **options: Any) -> Session:
    return sessions.dial_session(
        signer=PEER, noise_static=os.urandom(32), ephemeral=os.urandom(32),
        max_message_bytes=1 << 16, expected=expected, **options,
    )  # fmt: skip


def listen(signer: Signer, known: Key, **options: Any) -> Session:
    return sessions.listen_session(
        signer=signer, noise_static=os.urandom(32), ephemeral=os.urandom(32),
        max_message_bytes=1 << 16,
        allow=lambda key: Mode.FULL if key == known else None, **options,
    )  # fmt: skip


def shake(near: Session, far: Session) -> None:
    message, sides = near.start(), [far, near]
    while message is not None:
        message = sides[0].receive(message)
        sides.reverse()


def heir(key: Key, said: bytes) -> Key | None:
    """Of who knows the node by one key, as a book does."""
    return succession.forerunner(
        said, key, now=NOW, owner_of=lambda k: OWNER.key if k == OLD.key else None, check=check
    )


SAID = succession.write(WORD, [(OLDER, NOW - 9), (OLD, NOW), (THIEF, NOW)], NEW.key, NOW)


def test_a_dialer_follows_who_listens_with_a_new_key() -> None:
    near, far = dial(OLD.key, heir=heir), listen(NEW, PEER.key, succession=SAID)
    shake(near, far)
    assert (near.peer, far.peer, far.forerunner) == (NEW.key, PEER.key, None)
    assert near.forerunner == OLD.key


def test_a_listener_follows_who_dials_with_a_new_key() -> None:
    near = sessions.dial_session(
        signer=NEW, noise_static=os.urandom(32), ephemeral=os.urandom(32),
        max_message_bytes=1 << 16, expected=PEER.key,
        succession=succession.write(WORD, [(OLD, NOW)], NEW.key, NOW),
    )  # fmt: skip
    far = listen(PEER, OLD.key, heir=heir)
    shake(near, far)
    far.check()
    assert (far.peer, far.forerunner, far.mode) == (NEW.key, OLD.key, Mode.FULL)


def test_without_the_word_a_new_key_is_another_node() -> None:
    for said in (b"", b"\x92\xc4\x00\x90", SAID[:-1]):
        near = dial(OLD.key, heir=heir)
        with pytest.raises(Untrusted, match="another node"):
            shake(near, listen(NEW, PEER.key, succession=said))
        assert near.refusal is Refusal.WRONG_PEER


def test_the_longest_word_fits_into_a_handshake() -> None:
    word = certify(OWNER, "node", "n" * 63, NEW.key, NOW)
    changes = [(THIEF, NOW), (OLDER, NOW), (PEER, NOW), (OLD, NOW)]
    said = succession.write(word, changes, NEW.key, NOW)
    near, far = dial(OLD.key, heir=heir), listen(NEW, PEER.key, succession=said)
    shake(near, far)
    assert near.forerunner == OLD.key


def test_more_than_fits_is_no_handshake() -> None:
    near = dial(OLD.key, heir=heir)
    with pytest.raises(Untrusted):
        shake(near, listen(NEW, PEER.key, succession=bytes(769)))
    assert near.refusal is Refusal.MALFORMED


# ---- two nodes


@pytest.mark.anyio
@pytest.mark.parametrize("is_dialer", [True, False], ids=["it dials", "it is dialed"])
async def test_nodes_stay_linked_when_one_has_a_new_key(tmp_path: Path, is_dialer: bool) -> None:
    import time

    changed, peer = Person("changed", tmp_path), Person("peer", tmp_path)
    old, new = changed.signer, Signer(os.urandom(32))
    word = certify(changed.owner, "node", "changed", new.key, 0.0)
    followed: list[tuple[Key, Key]] = []

    async def follow(before: Key, after: Key) -> None:
        followed.append((before, after))
        peer.book.known[after] = peer.book.known.pop(before)

    def proven(key: Key, said: bytes) -> Key | None:
        return succession.forerunner(
            said, key, now=time.time(), owner_of=lambda _: changed.owner.key, check=check
        )

    async with peer.awake("ws://127.0.0.1:0", heir=proven, on_succeeded=follow) as there:
        changed.signer = new
        said = succession.write(word, [(old, time.time())], new.key, time.time())
        changed.knows(peer, *(there.addresses if is_dialer else ()))
        async with changed.awake("ws://127.0.0.1:0", succession=said, certificate=word) as here:
            peer.book.known[old.key] = () if is_dialer else here.addresses
            there.refresh()
            await until(lambda: here.is_online(peer.key) and there.is_online(new.key))
            assert followed == [(old.key, new.key)]
            assert not there.is_online(old.key)
        # The old key is a stranger's from now on, also with the old word beside it.
        thief = Person("thief", tmp_path)
        thief.signer = old
        thief.knows(peer, *there.addresses)
        async with thief.awake() as stolen:
            await until(lambda: stolen.problem(peer.key) is not None)
            assert "does not know this one" in str(stolen.problem(peer.key))
            assert not there.is_online(old.key)


@pytest.mark.anyio
@pytest.mark.parametrize("is_dialer", [True, False], ids=["it dials", "it is dialed"])
async def test_a_book_that_cannot_be_written_costs_the_link_only(
    tmp_path: Path, is_dialer: bool
) -> None:
    changed, peer = Person("changed", tmp_path), Person("peer", tmp_path)
    old, new = changed.signer, Signer(os.urandom(32))
    tries: list[Key] = []

    async def follow(before: Key, after: Key) -> None:
        tries.append(after)
        if len(tries) < 3:
            raise Unavailable("the disk is full")
        peer.book.known[after] = peer.book.known.pop(before)

    options: dict[str, Any] = {"heir": lambda *_: old.key, "on_succeeded": follow}
    async with peer.awake("ws://127.0.0.1:0", **options) as there:
        changed.signer = new
        changed.knows(peer, *(there.addresses if is_dialer else ()))
        async with changed.awake("ws://127.0.0.1:0", succession=b"said") as here:
            peer.book.known[old.key] = () if is_dialer else here.addresses
            there.refresh()
            await until(lambda: here.is_online(peer.key) and there.is_online(new.key))
            assert tries == [new.key] * 3
