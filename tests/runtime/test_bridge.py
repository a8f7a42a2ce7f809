"""Records: what is written well is read, and what is not ends in InvalidInput."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orvalho.errors import InvalidInput
from orvalho.runtime.bridge import (
    Alarm,
    Called,
    Logged,
    Reached,
    Returned,
    Threw,
    read_records,
)

WRITTEN = (
    b'C7 target.fs.read ["/a b"]\nL4"oh \\n no"\nW12.5\nE["TypeError","x","    at job.js:1:1"]\n'
    b'Houtput\nR{"a":[1]}\nBAQI=\nU\n'
)


def test_every_record_is_read() -> None:
    assert read_records(WRITTEN) == [
        Called(7, "target.fs.read", b'["/a b"]'),
        Logged("error", "oh \n no"),
        Alarm(0.0125),
        Threw("TypeError", "x", "    at job.js:1:1"),
        Reached("output"),
        Returned(b'{"a":[1]}'),
        Returned(b"AQI=", is_bytes=True),
        Returned(None),
    ]


@pytest.mark.parametrize(
    "raw", [b"X", b"Cx y z", b"C1", b'L9"a"', b"L", b"Wsoon", b"E{}", b"E[1]", b"Hwall", b"\xff"]
)
def test_what_no_engine_of_ours_writes_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidInput):
        read_records(raw)


@given(
    st.binary(max_size=80)
    | st.builds(
        lambda i, b: WRITTEN[:i] + b + WRITTEN[i:], st.integers(0, 120), st.binary(max_size=3)
    )
)
def test_damage_is_read_or_refused_and_nothing_else(raw: bytes) -> None:
    with contextlib.suppress(InvalidInput):
        read_records(raw)


def test_half_a_character_becomes_a_whole_one() -> None:
    assert read_records(rb'R["\\ud800","\ud800","\\\udc00"]') == [
        Returned(rb'["\\ud800","\ufffd","\\\ufffd"]')
    ]


def test_a_whole_character_stays_as_it_is() -> None:
    raw = rb'R["\ud83d\ude00","\uD83D\uDE00","\uD83D","\ude00\ud83d"]'
    (returned,) = read_records(raw)
    assert isinstance(returned, Returned)
    assert json.loads(returned.result or b"") == ["😀", "😀", "\ufffd", "\ufffd\ufffd"]


def test_an_alarm_rings_within_a_month() -> None:
    (alarm,) = read_records(b"W1e300\n")
    assert isinstance(alarm, Alarm)
    assert alarm.after_s < 31 * 86_400
