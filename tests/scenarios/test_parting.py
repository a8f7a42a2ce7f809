"""Whoever waits for a run is told when its target, or its own daemon, goes away."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.scenarios.devices import LIMIT_S, Device, two_devices, wait_until

SLEEP = """\
export default async ({ log }) => {
  log("here");
  await new Promise((r) => setTimeout(r, 25000));
}
"""


@pytest.fixture
def devices(tmp_path: Path) -> Iterator[tuple[Device, Device]]:
    with two_devices(tmp_path) as (laptop, phone):
        yield laptop, phone


@dataclass
class Typed:
    """A command that is at work, and what it has said on standard error."""

    process: subprocess.Popen[bytes]
    file: Path
    run: str = ""

    @property
    def said(self) -> str:
        return self.file.read_text()

    def status(self) -> int:
        return self.process.wait(LIMIT_S)


@contextmanager
def sent(device: Device, *flags: str) -> Iterator[Typed]:
    """A script that sleeps is sent, and has logged its line."""
    script, file = device.home / "sleep.js", device.home / "said"
    script.write_text(SLEEP)
    with file.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "orvalho", "script", "send", "peer@phone2", str(script), *flags],
            env=device.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
        )
    typed = Typed(process, file)
    try:
        wait_until(lambda: "here" in typed.said, "the script has begun")
        typed.run = device.types("script", "ls", "--json").json["runs"][0]["run"]
        yield typed
    finally:
        process.kill()
        process.wait(LIMIT_S)


def test_a_target_that_goes_away_is_told_and_its_run_is_there_when_it_is_back(
    devices: tuple[Device, Device],
) -> None:
    laptop, phone = devices
    with sent(laptop) as typed:
        phone.kill()
        assert typed.status() == 7, typed.said
        assert f"phone2 is gone; {typed.run} is kept there" in typed.said
        assert f"orvalho script result {typed.run} --wait" in typed.said
    assert laptop.types("script", "result", typed.run).status == 7
    phone.start()
    laptop.does("script", "cancel", typed.run)
    ended = laptop.types("script", "result", typed.run, "--wait")
    assert "cancelled" in ended.err, ended


def test_with_wait_it_is_told_once_and_waited_for(devices: tuple[Device, Device]) -> None:
    laptop, phone = devices
    with sent(laptop, "--wait") as typed:
        phone.kill()
        wait_until(lambda: "is gone" in typed.said, "it is told")
        assert typed.process.poll() is None
        phone.start()
        wait_until(lambda: laptop.online("phone2"), "they are linked again")
        laptop.does("script", "cancel", typed.run)
        assert typed.status() != 0
        assert typed.said.count("is gone") == 1, typed.said


def test_the_run_is_named_when_the_own_daemon_goes_away(devices: tuple[Device, Device]) -> None:
    laptop, _ = devices
    with sent(laptop) as typed:
        laptop.kill()
        assert typed.status() == 4, typed.said
        assert "the daemon is gone" in typed.said
        assert f"orvalho script result {typed.run} --wait" in typed.said
