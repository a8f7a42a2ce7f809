"""Limits: spelled both ways, narrowed, and never beyond the hard maxima."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orvalho.errors import InvalidInput
from orvalho.policies.quota import (
    HARD_MAXIMA,
    USUAL,
    Allowance,
    Asked,
    Limits,
    excess,
    format_duration,
    format_size,
    narrow,
    parse_duration,
    parse_size,
)

ALLOWED = Allowance(USUAL, Limits(wall_s=3600, memory_bytes=512_000_000))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30), ("500ms", 0.5), ("1.5m", 90), ("1h", 3600), ("7d", 604_800), ("2 s", 2)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds
    assert parse_duration(format_duration(seconds)) == seconds


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("100B", 100),
        ("1kB", 1000),
        ("64MB", 64_000_000),
        ("64mb", 64_000_000),
        ("1.5GB", 1_500_000_000),
        ("1KiB", 1024),
        ("64MiB", 1 << 26),
        ("2GiB", 2 << 30),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "30", "s", "-1s", "1e9s", "30 parsecs", "30s ", "∞s", "1.s"])
def test_what_is_no_quantity_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(InvalidInput, match="is not a duration"):
        parse_duration(text)
    with pytest.raises(InvalidInput, match="is not a size"):
        parse_size(text)


@given(st.integers(0, 10**10))
def test_a_size_is_shown_so_that_it_can_be_read_again(size: int) -> None:
    assert abs(parse_size(format_size(size)) - size) <= size / 10**6


def test_who_asks_for_nothing_gets_the_usual() -> None:
    assert narrow(Asked(), ALLOWED) == USUAL


def test_who_asks_for_less_gets_less_and_who_asks_for_more_gets_the_most() -> None:
    granted = narrow(Asked(wall_s=5, memory_bytes=1 << 40), ALLOWED)

    assert granted.wall_s == 5
    assert granted.memory_bytes == 512_000_000


def test_no_configuration_goes_beyond_the_hard_maxima() -> None:
    generous = Limits(wall_s=1e9, cpu_s=1e9, memory_bytes=1 << 50, output_bytes=1 << 50)
    asked = Asked(wall_s=1e9, cpu_s=1e9, memory_bytes=1 << 50, output_bytes=1 << 50)

    granted = narrow(asked, Allowance(USUAL, generous))

    assert granted.memory_bytes == HARD_MAXIMA.memory_bytes
    assert granted.wall_s == HARD_MAXIMA.wall_s


def test_what_nobody_can_give_is_named() -> None:
    assert excess(Asked(wall_s=0, memory_bytes=-1, host_calls=10**12)) == (
        "wall_s",
        "memory_bytes",
        "host_calls",
    )
    assert excess(Asked(wall_s=1)) == ()
