"""docs/quotas.md is what happens."""

from __future__ import annotations

import re
import shlex
import sqlite3
from pathlib import Path

import pytest

from tests.scenarios.devices import Device, two_devices, wait_until

PAGE = Path(__file__).parents[2] / "docs/quotas.md"


def session() -> list[list[str]]:
    """The lines of each block of the page's session."""
    text = PAGE.read_text().split("## A session", 1)[1].split("\n## ", 1)[0]
    return [block.strip().splitlines() for block in re.findall(r"```\n(.*?)```", text, re.DOTALL)]


def typed(device: Device, line: str) -> str:
    words = shlex.split(line.removeprefix("$ orvalho "))
    printed = device.types(*words, limit_s=90)
    return printed.out + printed.err


def test_the_session_goes_as_the_page_tells_it(tmp_path: Path) -> None:
    settings, hog, looks = session()
    with two_devices(tmp_path) as (laptop, phone):
        for line in settings:
            assert "error" not in typed(phone, line), line
        command, told = hog
        assert told in typed(laptop, command)
        said = [typed(phone, line) for line in looks]
        assert "@guests" in said[0]
        assert "guests" in said[1]
        assert "quota cpu exceeded (group guests)" in said[2]


@pytest.mark.parametrize("setting", re.findall(r"^\| `(\w+) = (\S+)` \|", PAGE.read_text(), re.M))
def test_each_setting_of_the_page_is_one(tmp_path: Path, setting: tuple[str, str]) -> None:
    name, value = setting
    device = Device("laptop", tmp_path / "laptop")
    device.init()
    file = device.home / "config/config.toml"
    file.write_text(f"{file.read_text()}\n[quota.groups.guests]\n{name} = {value}\n")
    device.start()
    try:
        shown = device.types("config", "show", "--json").json["settings"]
        found = next(each for each in shown if each["key"] == f"quota.groups.guests.{name}")
        assert found["origin"].startswith("config.toml:")
    finally:
        device.stop()


def test_what_is_old_is_pruned_while_the_daemon_runs(tmp_path: Path) -> None:
    device = Device("laptop", tmp_path / "laptop")
    device.init()
    device.start()
    try:
        device.does("ctx", "new", "mine")
        for _ in range(2):
            assert device.types("script", "send", "mine@laptop", "-e", "1").json == 1
        run = device.types("script", "ls", "--json").json["runs"][-1]["run"]
        before = device.types("usage", "--json").json["rows"]
        device.kill()
        # A hundred days and more ago, by its id as well.
        old = f"r_0100000000{run[12:]}"
        with sqlite3.connect(device.home / "state/orvalho.db") as connection:
            connection.execute("update runs set id = ?, ended_at = 1000 where id = ?", [old, run])
            connection.execute("update charges set run = ?, at = 1000 where run = ?", [old, run])
        connection.close()
        device.start()
        wait_until(lambda: device.types("script", "show", old).status == 4, "it is pruned")
        assert "pruned after 90 d" in device.types("script", "show", old).err
        assert device.types("usage", "--json").json["rows"] == before
        assert len(device.types("script", "ls", "--json").json["runs"]) == 1
    finally:
        device.stop()
