"""A home that cannot be served says why, with the exit status of the reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.scenarios.devices import Device


@pytest.fixture
def device(tmp_path: Path) -> Device:
    device = Device("solo", tmp_path / "solo")
    device.init()
    return device


def test_keys_that_others_can_read_are_refused(device: Device) -> None:
    (device.home / "state/keys/seed").chmod(0o644)
    printed = device.types("status")
    assert printed.status == 6
    assert "chmod 600" in printed.err


def test_a_broken_file_of_settings_names_its_line(device: Device) -> None:
    (device.home / "config/conf.d/10-q.toml").write_text('[quota]\nkv_byte = "1MB"\n')
    printed = device.types("doctor")
    assert printed.status == 1
    assert "10-q.toml:2" in printed.out
    assert "quota.kv_bytes" in printed.out
    assert device.types("status").status == 2


def test_a_home_without_keys_is_told_how_to_begin(tmp_path: Path) -> None:
    printed = Device("none", tmp_path / "none").types("status")
    assert printed.status == 4
    assert "orvalho init" in printed.err


def test_the_second_init_changes_nothing(device: Device) -> None:
    before = {p: p.read_bytes() for p in device.home.rglob("*") if p.is_file()}
    assert "already initialised" in device.does("init", "--name", "solo")
    assert {p: p.read_bytes() for p in device.home.rglob("*") if p.is_file()} == before
    assert (device.home / "state/keys/seed").stat().st_mode & 0o777 == 0o600


def test_two_commands_at_once_start_one_daemon(device: Device) -> None:
    import subprocess
    import sys

    both = [
        subprocess.Popen(
            [sys.executable, "-m", "orvalho", "status", "--json"],
            env=device.environ,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    try:
        said = [each.communicate(timeout=30)[0] for each in both]
        assert [each.returncode for each in both] == [0, 0]
        assert said[0].split('"pid":')[1].split(",")[0] == said[1].split('"pid":')[1].split(",")[0]
    finally:
        device.does("daemon", "stop")
