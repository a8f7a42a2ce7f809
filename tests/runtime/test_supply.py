"""Isolates change hands between three threads: each that is asked for comes, once."""

from __future__ import annotations

import asyncio
import threading
from functools import partial
from typing import Any, cast

import pytest

from orvalho.runtime.engine import Engine
from orvalho.runtime.workers.supply import Supply

pytestmark = pytest.mark.anyio

LIMIT_S = 30.0


class Thing:
    """In an isolate's place."""

    def __init__(self, engine: Things) -> None:
        self.engine = engine

    def close(self) -> None:
        with self.engine.lock:
            self.engine.alive -= 1


class Things:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.alive = self.made = 0

    def open_isolate(self) -> Thing:
        with self.lock:
            self.alive += 1
            self.made += 1
        return Thing(self)


async def until(what: str, holds: Any) -> None:
    deadline = asyncio.get_running_loop().time() + LIMIT_S
    while not holds():
        assert asyncio.get_running_loop().time() < deadline, what
        await asyncio.sleep(0.01)


async def test_whoever_asks_is_served_once_and_in_order() -> None:
    engine, counts = Things(), [0]
    supply = Supply(cast("Engine", engine), counts.append, on_first=counts.append)
    served: list[int] = []
    given: list[object] = []

    def use(number: int, isolate: Any) -> None:
        served.append(number)
        given.append(isolate)
        supply.give_back(isolate)

    for number in range(3000):
        supply.take(partial(use, number))
        if number % 50 == 0:
            await asyncio.sleep(0)
    await until("all are served", lambda: len(served) == 3000)

    assert served == list(range(3000))
    assert len({id(each) for each in given}) == 3000, "nobody gets what another has had"
    assert max(counts) <= 128


async def test_what_was_closed_is_counted_no_more_when_the_next_guest_comes() -> None:
    engine, counts = Things(), [0]
    supply = Supply(cast("Engine", engine), counts.append, on_first=counts.append)
    held: list[Any] = []
    for _ in range(60):
        supply.take(held.append)
    await until("all are served", lambda: len(held) == 60)
    assert counts[-1] > 60

    for isolate in held:
        supply.stop(isolate)

    def next_guest() -> bool:
        supply.take(supply.give_back)
        return counts[-1] <= 10

    await until("only the spares are left", next_guest)
