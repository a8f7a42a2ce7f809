"""Moments as they are typed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orvalho.daemon.moments import Named, parse_moment
from orvalho.errors import InvalidInput

NOW = datetime(2026, 11, 21, 15, 30, tzinfo=UTC).timestamp()
LISBON = timezone(timedelta(hours=1))


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("now", datetime(2026, 11, 21, 15, 30, tzinfo=UTC)),
        ("@{1h}", datetime(2026, 11, 21, 14, 30, tzinfo=UTC)),
        ("90m ago", datetime(2026, 11, 21, 14, 0, tzinfo=UTC)),
        ("yesterday", datetime(2026, 11, 20, 15, 30, tzinfo=UTC)),
        ("today", datetime(2026, 11, 21, tzinfo=UTC)),
        ("2026-11-20", datetime(2026, 11, 20, tzinfo=UTC)),
        ("2026-11-20 14:00", datetime(2026, 11, 20, 14, tzinfo=UTC)),
        ("2026-11-20T14:00:05", datetime(2026, 11, 20, 14, 0, 5, tzinfo=UTC)),
        ("2026-11-20T14:00:00.250Z", datetime(2026, 11, 20, 14, 0, 0, 250_000, tzinfo=UTC)),
        ("2026-11-20 14:00+01:00", datetime(2026, 11, 20, 13, tzinfo=UTC)),
        ("14:05", datetime(2026, 11, 21, 14, 5, tzinfo=UTC)),
    ],
)
def test_a_moment_is_read(text: str, moment: datetime) -> None:
    assert parse_moment(text, NOW, UTC) == moment.timestamp()


def test_a_time_without_a_zone_is_of_ours() -> None:
    expected = datetime(2026, 11, 20, 14, tzinfo=LISBON).timestamp()
    assert parse_moment("2026-11-20 14:00", NOW, LISBON) == expected
    midnight = datetime(2026, 11, 21, tzinfo=LISBON).timestamp()
    assert parse_moment("today", NOW, LISBON) == midnight


def test_a_commit_or_a_run_is_named() -> None:
    assert parse_moment("c_01abcd", NOW, UTC) == Named("c_01ABCD", False)
    assert parse_moment("R_01ABCD^", NOW, UTC) == Named("r_01ABCD", True)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("yesteday", 'did you mean "yesterday"?'),
        ("tody", 'did you mean "today"?'),
        ("last week", "write one like"),
        ("", "write one like"),
        ("@{1 fortnight}", "its unit is one of"),
        ("@{}", "is not a duration"),
        ("2026-13-01", "there is no such moment"),
        ("25:00", "there is no such moment"),
        ("2026-11-22", "lies ahead"),
        ("23:59", "lies ahead"),
        ("c_", "write one like"),
    ],
)
def test_what_is_no_moment_is_refused_with_the_nearest(text: str, says: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_moment(text, NOW, UTC)
    assert says in caught.value.message


@given(st.text(max_size=40))
def test_any_text_is_a_moment_or_is_refused(text: str) -> None:
    try:
        parse_moment(text, NOW, None)
    except InvalidInput:
        return
