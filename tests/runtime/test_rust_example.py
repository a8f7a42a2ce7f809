"""The Rust example: days, held against Python's own calendar."""

from __future__ import annotations

import datetime
import json
import random

import pytest

from orvalho.cli.examples import shipped_file
from orvalho.runtime.job import Jobs
from tests.runtime.play import value_of

pytestmark = pytest.mark.anyio

# Easter Sundays as the churches have published them.
EASTER = {1961: 402, 1999: 404, 2000: 423, 2008: 323, 2024: 331, 2025: 420, 2038: 425}


async def called(jobs: Jobs, function: str, *args: int) -> int:
    module = shipped_file("calendar").read_bytes()
    params = {"call": function, "args": list(args)}
    found: int = await value_of(jobs, module, filename="calendar.wasm", params=params)  # type: ignore[arg-type]
    return found


async def test_its_days_are_those_of_python(jobs: Jobs) -> None:
    chance = random.Random(7)
    first = datetime.date(1970, 1, 1).toordinal()
    days = [
        datetime.date(*each) for each in ((1, 1, 1), (2000, 2, 29), (1900, 2, 28), (9999, 12, 31))
    ]
    days += [datetime.date.fromordinal(chance.randint(1, 3_652_059)) for _ in range(20)]
    for day in days:
        args = (day.year, day.month, day.day)
        assert await called(jobs, "day_number", *args) == day.toordinal() - first, day
        assert await called(jobs, "weekday", *args) == day.isoweekday(), day


async def test_easter(jobs: Jobs) -> None:
    for year, day in EASTER.items():
        assert await called(jobs, "easter", year) == day, json.dumps([year, day])
