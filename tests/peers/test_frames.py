"""Frames: what is written is read, and nothing that is read can hurt."""

from __future__ import annotations

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from orvalho.errors import Denied
from orvalho.peers import frames


def test_a_newer_nodes_frame_may_say_more_and_an_unknown_one_is_ignored() -> None:
    longer = msgspec.msgpack.encode([7, 1, "kind", b"body", 1, "something new"])
    assert frames.decode(longer) == frames.Ask(call=1, kind="kind", body=b"body", settled=1)
    assert frames.decode(msgspec.msgpack.encode([200, "new"])) is None


def test_text_that_is_none_and_nesting_without_end_are_no_frames() -> None:
    assert frames.decode(b"\x93\x06\xa2\xff\xff\xc4\x00") is None
    assert frames.decode(b"\x93\x04\xcb" + bytes(8) + b"\x91" * 100_000) is None


def test_an_error_crosses_with_all_its_parts() -> None:
    error = Denied("m", where="w", rule="r", hint="h", detail="d")
    frame = frames.decode(frames.encode(frames.fail(3, error)))
    assert frame == frames.Fail(
        call=3, code="denied", message="m", where="w", rule="r", hint="h", detail="d"
    )


@settings(max_examples=500)
@given(st.binary(max_size=80))
def test_noise_is_a_frame_or_nothing(noise: bytes) -> None:
    frame = frames.decode(noise)
    assert frame is None or frames.decode(frames.encode(frame)) is not None
