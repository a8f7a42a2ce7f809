"""How many parts of a file are in flight."""

from __future__ import annotations

import anyio
import pytest

from orvalho.daemon.file_words import WINDOW
from orvalho.daemon.outgoing import Pace


@pytest.mark.anyio
async def test_soon_answers_open_the_window_and_late_ones_close_it() -> None:
    pace = Pace()
    for _ in range(100):
        await pace.turn()
        pace.answered(0.01)
    assert pace.limit == WINDOW
    for _ in range(10):
        await pace.turn()
        pace.answered(30.0)
    assert pace.limit == 1


@pytest.mark.anyio
async def test_no_more_than_the_limit_are_in_flight() -> None:
    pace = Pace()
    with anyio.move_on_after(0.2) as scope:
        for _ in range(WINDOW + 1):
            await pace.turn()
    assert scope.cancelled_caught
