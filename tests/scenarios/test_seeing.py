"""Seeing the road: ping, refusals, names of several, files, reports, on real daemons."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.scenarios.devices import Device, two_devices, wait_until


@pytest.fixture(scope="module")
def devices(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Device, Device]]:
    with two_devices(tmp_path_factory.mktemp("seeing")) as pair:
        yield pair


def test_ping_tells_the_path_and_the_time(devices: tuple[Device, Device]) -> None:
    laptop, _ = devices
    printed = laptop.types("ping", "phone2")
    assert printed.status == 0
    assert printed.out.startswith("pong from phone2 via direct ")
    assert printed.out.rstrip().endswith(" ms")
    assert len(printed.out.splitlines()) == 1, "a direct pong is enough"


def test_ping_counts_and_speaks_json(devices: tuple[Device, Device]) -> None:
    laptop, _ = devices
    pongs = [
        json.loads(line) for line in laptop.does("ping", "phone2", "-c", "2", "--json").splitlines()
    ]
    assert [pong["number"] for pong in pongs] == [1, 2]
    assert all(pong["type"] == "ping.pong" and pong["rtt_ms"] > 0 for pong in pongs)


def test_a_mistyped_name_is_offered_the_near_one(devices: tuple[Device, Device]) -> None:
    laptop, _ = devices
    printed = laptop.types("ping", "phon2")
    assert printed.status == 4
    assert "did you mean phone2?" in printed.err


def test_a_peer_that_is_off_and_one_that_forgot_us(tmp_path: Path) -> None:
    with two_devices(tmp_path) as (laptop, phone):
        phone.kill()
        laptop.types("script", "send", "peer@phone2", "-e", "1")
        printed = laptop.types("ping", "phone2", "--timeout", "0.5")
        assert printed.status == 4, printed
        assert "phone2 is not reachable, last seen " in printed.err
        assert "tried   ws://127.0.0.1:" in printed.err
        assert "queued  1 for it" in printed.err

        phone.start()
        wait_until(lambda: laptop.online("phone2"), "they are linked again")
        phone.does("peer", "rm", "laptop", "-y")
        wait_until(lambda: "refuses our key" in laptop.does("status"), "the refusal is shown")
        printed = laptop.types("ping", "phone2", "--timeout", "20")
        assert printed.status == 6, printed
        assert "phone2 refuses our key: pair again" in printed.err
        assert "phone2 refuses our key: pair again" in laptop.types("doctor").out

        ticket = phone.does("peer", "invite").strip()
        laptop.does("peer", "add", ticket)
        wait_until(lambda: laptop.online("phone2"), "paired again")
        assert laptop.types("ping", "phone2").status == 0
