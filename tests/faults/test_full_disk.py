"""A disk that is full, on each side of a message: a clear error, nothing lost, and it goes on."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.faults.counting import allow_counting, handled, send
from tests.scenarios.devices import Device, Printed, wait_until


def _can_mount() -> bool:
    return (
        os.geteuid() == 0
        and not subprocess.run(
            ["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", "/mnt"],
            capture_output=True,
            check=False,
        ).returncode
    )


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


def add(device: Device, *words: str) -> Printed:
    return device.types("script", "send", "peer@phone2", "-e", "1 + 1", *words)


def received(device: Device) -> list[str]:
    runs = device.types("script", "ls", "--json").json["runs"]
    return [each["outcome"] for each in runs if each["direction"] == "received"]


def test_the_senders_disk_is_full(tmp_path: Path) -> None:
    with devices(tmp_path, "laptop", "laptop", "phone2") as (laptop, phone):
        ballast = fill(laptop)
        printed = add(laptop)
        assert printed.status == 4, printed
        assert "full" in printed.err
        ballast.unlink()
        assert add(laptop).out == "2\n"
        assert received(phone) == ["done"]


def test_the_targets_disk_is_full(tmp_path: Path) -> None:
    with devices(tmp_path, "phone2", "laptop", "phone2") as (laptop, phone):
        allow_counting(phone)
        ballast = fill(phone)
        for _ in range(10):
            assert add(laptop, "--detach").status == 0
        (writes,) = send(laptop, "peer@phone2", range(1))
        assert "full" in str(phone.types("doctor").out)
        ballast.unlink()
        # What only computes is done once there is room to write its receipt.
        wait_until(lambda: received(phone).count("done") >= 10, "all have run", limit_s=120)
        # What wanted to write was done before or after, or is told why not.
        wait_until(lambda: ended_words(laptop, writes) is not None, "it has ended", limit_s=60)
        outcome, why = ended_words(laptop, writes) or ("", "")
        assert (outcome, handled(phone)) == ("done", {0: 1}) or (
            outcome == "failed" and "full" in why and handled(phone) == {}
        )
        assert len(received(phone)) == 11


def ended_words(device: Device, run: str) -> tuple[str, str] | None:
    shown = device.types("script", "show", run, "--json").json
    if shown["state"]["state"] != "ended":
        return None
    return shown["state"]["outcome"], str(shown["error"])


def test_the_keepers_disk_is_full(tmp_path: Path) -> None:
    with devices(tmp_path, "server", "server", "laptop", "phone2") as (server, laptop, phone):
        pair(laptop, phone)
        pair(server, laptop)
        phone.kill()
        wait_until(lambda: not laptop.online("phone2"), "it is missed")
        ballast = fill(server)
        # A small one may still fit into the log of the database.
        job = tmp_path / "job.js"
        job.write_text("1 + 1 //" + "x" * 500_000)
        printed = laptop.types("script", "send", "peer@phone2", str(job))
        assert printed.status == 7, printed
        assert "queued at laptop" in printed.err
        ballast.unlink()
        wait_until(lambda: kept(server) == 1, "it is deposited once there is room", limit_s=90)
        laptop.kill()
        phone.start()
        wait_until(lambda: received(phone) == ["done"], "it has run", limit_s=60)


def kept(device: Device) -> int:
    piles = device.types("depot", "ls", "--json").json["piles"]
    return sum(each["count"] for each in piles if each["recipient"] == "phone2")


def pair(one: Device, other: Device) -> None:
    if not one.online(other.name):
        ticket = other.does("peer", "invite").strip().splitlines()[-1].strip()
        one.does("peer", "add", ticket)
        wait_until(lambda: one.online(other.name), "they are linked")
