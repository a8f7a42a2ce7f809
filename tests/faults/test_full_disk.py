"""A disk that is full, on each side of a message: a clear error, nothing lost, and it goes on."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.faults.test_wire import COUNTING, allow_counting, all_end, handled, send
from tests.scenarios.devices import Device, wait_until


def _can_mount() -> bool:
    return os.geteuid() == 0 and not subprocess.run(
        ["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True, check=False
    ).returncode


pytestmark = pytest.mark.skipif(not _can_mount(), reason="needs root to mount a small disk")

SMALL = "32m"


def fill(device: Device) -> Path:
    """Take what is left of the device's disk; the file to remove."""
    ballast = device.home / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
    return ballast


@contextmanager
def devices(top: Path, small: str, *names: str) -> Iterator[list[Device]]:
    """Devices that run, the first paired with all; `small` has a little disk of its own."""
    made = [Device(name, top / name) for name in names]
    disk = top / small
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SMALL}", "tmpfs", str(disk)], check=True)
    try:
        for device in made:
            device.init()
            device.start()
            device.does("ctx", "new", "peer")
        first, *others = made
        for each in others:
            ticket = each.does("peer", "invite").strip().splitlines()[-1].strip()
            first.does("peer", "add", ticket)
            wait_until(lambda e=each: first.online(e.name), "they are linked")
        yield made
    finally:
        for device in made:
            device.stop()
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_the_senders_disk_is_full(tmp_path: Path) -> None:
    with devices(tmp_path, "laptop", "laptop", "phone2") as (laptop, phone):
        allow_counting(phone)
        job = tmp_path / "count.js"
        job.write_text(COUNTING)
        ballast = fill(laptop)
        printed = laptop.types("script", "send", "peer@phone2", str(job), "--params", "1")
        assert printed.status == 4, printed
        assert "disk" in printed.err
        ballast.unlink()
        laptop.does("script", "send", "peer@phone2", str(job), "--params", "2")
        assert handled(phone) == {2: 1}


def test_the_targets_disk_is_full(tmp_path: Path) -> None:
    with devices(tmp_path, "phone2", "laptop", "phone2") as (laptop, phone):
        allow_counting(phone)
        ballast = fill(phone)
        ids = send(laptop, "peer@phone2", range(20))
        assert len(ids) == 20
        ballast.unlink()
        all_end(laptop, 20, limit_s=120)
        assert handled(phone) == dict.fromkeys(range(20), 1)


def test_the_keepers_disk_is_full(tmp_path: Path) -> None:
    with devices(tmp_path, "server", "server", "laptop", "phone2") as (server, laptop, phone):
        ticket = phone.does("peer", "invite").strip().splitlines()[-1].strip()
        laptop.does("peer", "add", ticket)
        wait_until(lambda: laptop.online("phone2"), "they are linked")
        allow_counting(phone)
        phone.kill()
        wait_until(lambda: not laptop.online("phone2"), "it is missed")
        ballast = fill(server)
        job = tmp_path / "count.js"
        job.write_text(COUNTING)
        printed = laptop.types("script", "send", "peer@phone2", str(job), "--params", "1")
        assert printed.status == 7, printed
        assert "queued at laptop" in printed.err
        ballast.unlink()
        kept = lambda: server.types("depot", "ls", "--json").json["piles"]  # noqa: E731
        wait_until(lambda: kept() != [], "it is deposited once there is room", limit_s=90)
        laptop.kill()
        phone.start()
        wait_until(lambda: handled(phone) == {1: 1}, "it has run", limit_s=60)
