"""Events: bounded for each reader, and a gap is told."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from orvalho.control import messages as m
from orvalho.control import metering
from orvalho.control.metering import Event
from orvalho.control.server import open_server
from orvalho.daemon.events import Events

pytestmark = pytest.mark.anyio


def event(number: int) -> Event:
    return Event(kind="script.ended", at=float(number), level="info", text=str(number))


async def test_a_reader_gets_what_comes_and_nobody_else_is_held_up() -> None:
    events = Events()
    assert not events.is_followed
    events.publish(event(0))
    with events.follow() as one, events.follow() as two:
        assert events.is_followed
        for number in range(1, 4):
            events.publish(event(number))
        for reader in (one, two):
            got = []
            async for each in reader:
                got.append(each.text)
                if len(got) == 3:
                    break
            assert got == ["1", "2", "3"]
    assert not events.is_followed


async def test_a_slow_reader_loses_the_oldest_and_is_told_how_many() -> None:
    events = Events()
    with events.follow(10) as reader:
        for number in range(1, 26):
            events.publish(event(number))
        got = []
        async for each in reader:
            got.append(each)
            if len(got) == 11:
                break
    assert (got[0].kind, got[0].lost, got[0].level) == ("events.lost", 15, "warn")
    assert [each.text for each in got[1:]] == [str(number) for number in range(16, 26)]


async def test_a_reader_that_waits_is_woken() -> None:
    events = Events()
    got: list[str] = []
    with events.follow() as reader:

        async def read() -> None:
            async for each in reader:
                got.append(each.text)
                if len(got) == 2:
                    return

        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(read)
                await anyio.lowlevel.checkpoint()
                events.publish(event(1))
                await anyio.lowlevel.checkpoint()
                events.publish(event(2))
    assert got == ["1", "2"]


async def test_one_that_does_not_read_at_all_costs_no_more_than_its_backlog(tmp_path: Path) -> None:
    events, count = Events(), 60_000

    async def answer(_request: m.Request) -> AsyncIterator[m.Reply]:
        with events.follow(1000) as reader:
            async for each in reader:
                yield each

    with anyio.fail_after(60):
        async with (
            open_server(tmp_path / "ctl", answer),
            await anyio.connect_unix(str(tmp_path / "ctl")) as stream,
        ):
            await stream.send(json.dumps({"type": "events", "follow": True}).encode() + b"\n")
            while not events.is_followed:
                await anyio.sleep(0.01)
            for number in range(count):
                events.publish(event(number))
                if number % 500 == 0:
                    await anyio.lowlevel.checkpoint()
            seen, lost = await _read(stream, str(count - 1))
    assert lost > 0
    assert seen + lost == count
    assert not events.is_followed, "who hangs up follows no more"


async def _read(stream: anyio.abc.ByteStream, last: str) -> tuple[int, int]:
    """How many events came until the last one, and how many were said to be lost."""
    seen = lost = 0
    rest = b""
    while True:
        *lines, rest = (rest + await stream.receive()).split(b"\n")
        for line in lines:
            told = json.loads(line)
            assert told["type"] == metering.Event.__struct_config__.tag
            if told["kind"] == "events.lost":
                lost += told["lost"]
            else:
                seen += 1
                if told["text"] == last:
                    return seen, lost
