"""Bodies kept apart: durable, resumed, checked, swept."""

from __future__ import annotations

import os
import time
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orvalho.contexts.identity import Key
from orvalho.errors import Unavailable, Untrusted
from orvalho.peers.blobs import PART_BYTES, Blobs, incoming_name, outgoing_name
from orvalho.peers.envelope import EnvelopeId, refer

ID = EnvelopeId(bytes(16))
NAME = outgoing_name(ID)


def test_what_is_written_is_read_whole_and_in_parts(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    body = os.urandom(PART_BYTES + 10)
    blobs.write(NAME, body)
    assert blobs.read(NAME) == body
    assert blobs.part(NAME, 0) + blobs.part(NAME, PART_BYTES) == body
    assert blobs.part(NAME, len(body)) == blobs.part(NAME, -1) == blobs.part("none", 0) == b""
    assert (tmp_path / NAME).stat().st_mode & 0o077 == 0
    blobs.remove(NAME)
    with pytest.raises(Unavailable):
        blobs.read(NAME)


@given(cuts=st.lists(st.integers(1, 99), max_size=5))
def test_a_body_that_arrives_in_any_parts_resumes_after_a_restart(
    cuts: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("blobs")
    body = os.urandom(100)
    bounds = [0, *sorted(set(cuts)), 100]
    for start, end in pairwise(bounds):
        blobs = Blobs(directory)
        assert blobs.arrived_bytes(NAME) == start
        assert blobs.add(NAME, refer(body), start, body[start:end]) == (end == 100)
    assert Blobs(directory).read(NAME) == body


def test_a_body_that_is_not_what_was_announced_starts_anew(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    expected = refer(b"the right one")
    for lie in (b"the wrong one", b"too long a one", b""):
        with pytest.raises(Untrusted):
            blobs.add(NAME, expected, 0, lie)
        assert blobs.arrived_bytes(NAME) == 0
        assert not blobs.has(NAME)
    with pytest.raises(Untrusted):
        blobs.write_checked(NAME, b"another", expected)
    assert not blobs.has(NAME)


def test_two_senders_never_share_a_file() -> None:
    assert incoming_name(Key(b"a" * 32), ID) != incoming_name(Key(b"b" * 32), ID)


def test_the_sweep_takes_what_a_crash_left_and_nothing_else(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    for name in ("needed", "left"):
        blobs.write(name, b"x")
    blobs.add("arriving", refer(b"12345"), 0, b"123")
    now = time.time()
    assert blobs.sweep({"needed"}, now) == 0
    assert blobs.sweep({"needed"}, now + 7200) == 2
    assert blobs.has("needed")
    assert not blobs.has("left")
    assert blobs.arrived_bytes("arriving") == 0
