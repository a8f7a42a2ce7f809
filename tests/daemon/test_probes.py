"""The readings of a machine: what its files and programs tell, and that nonsense is not known."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orvalho.daemon.probes import (
    Probes,
    network_manager,
    read_power,
    read_route,
    termux_battery,
    termux_wifi,
)


def supply(directory: Path, name: str, **files: str) -> None:
    (directory / name).mkdir(parents=True)
    for file, text in files.items():
        (directory / name / file).write_text(f"{text}\n")


def probes(tmp_path: Path, file: Path | None = None) -> Probes:
    return Probes(
        lambda: str(file or ""),
        power=tmp_path / "power",
        net=tmp_path / "net",
        routes=tmp_path / "route",
    )


def test_a_laptop_on_its_battery(tmp_path: Path) -> None:
    supply(tmp_path, "AC", type="Mains", online="0")
    supply(tmp_path, "BAT0", type="Battery", capacity="81", status="Discharging")
    supply(tmp_path, "BAT1", type="Battery", capacity="31", status="Discharging")
    supply(tmp_path, "mouse", type="Battery", scope="Device", capacity="3", status="Discharging")

    assert read_power(tmp_path) == (31, False)


@pytest.mark.parametrize(
    ("online", "status", "charging"),
    [("1", "Not charging", True), ("0", "Charging", True), ("0", "Unknown", False)],
)
def test_whether_it_charges(tmp_path: Path, online: str, status: str, charging: bool) -> None:
    supply(tmp_path, "AC", type="Mains", online=online)
    supply(tmp_path, "BAT0", type="Battery", capacity="50", status=status)

    assert read_power(tmp_path) == (50, charging)


@pytest.mark.parametrize("capacity", ["", "-1", "101", "9999", "half", "\u0664\u0660"])
def test_a_capacity_that_is_none_is_not_known(tmp_path: Path, capacity: str) -> None:
    supply(tmp_path, "BAT0", type="Battery", capacity=capacity, status="Unknown")

    assert read_power(tmp_path) == (None, None)


def test_a_machine_without_any_tells_nothing(tmp_path: Path) -> None:
    assert read_power(tmp_path) == (None, None)
    assert read_power(tmp_path / "none") == (None, None)


def test_a_mobile_network_is_metered_and_another_may_be(tmp_path: Path) -> None:
    routes, net = tmp_path / "route", tmp_path / "net"
    supply(net, "wwan0", uevent="DEVTYPE=wwan\nINTERFACE=wwan0")
    supply(net, "eth0", uevent="INTERFACE=eth0")
    head = "Iface\tDestination\tGateway\n"

    routes.write_text(f"{head}wwan0\t00000000\t0100A8C0\n")
    assert read_route(routes, net) is True
    routes.write_text(f"{head}eth0\t00000000\t0100A8C0\nwwan0\t0000FEA9\t0\n")
    assert read_route(routes, net) is None
    routes.write_text(f"{head}../net/wwan0\t00000000\t0\n\x00\n")
    assert read_route(routes, net) is None


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (b'{"percentage": 31, "plugged": "UNPLUGGED", "status": "DISCHARGING"}', (31, False)),
        (b'{"percentage": 100, "status": "FULL"}', (100, True)),
        (b'{"percentage": 200, "status": "?"}', (None, None)),
        (b'{"percentage": "31"}', (None, None)),
        (b"", (None, None)),
        (b"[" * 4096, (None, None)),
    ],
)
def test_what_termux_says_of_the_battery(
    answer: bytes, found: tuple[int | None, bool | None]
) -> None:
    assert termux_battery(answer) == found


def test_what_programs_say_of_the_network() -> None:
    assert [network_manager(f"u {n}\n".encode()) for n in range(6)] == [
        *(None, True, False, True, False, None)
    ]
    assert network_manager(b"") is None
    assert termux_wifi(b'{"supplicant_state": "COMPLETED"}') is False
    assert termux_wifi(b'{"supplicant_state": "DISCONNECTED"}') is True
    assert termux_wifi(b"{}") is None


def test_the_owners_file_speaks_first_and_is_read_each_time(tmp_path: Path) -> None:
    supply(tmp_path / "power", "BAT0", type="Battery", capacity="80", status="Charging")
    file = tmp_path / "readings.json"
    machine = probes(tmp_path, file)

    assert (machine.readings().battery, machine.readings().charging) == (80, True)
    file.write_text('{"battery": 31}')
    assert (machine.readings().battery, machine.readings().charging) == (31, True)
    file.write_text('{"battery": 30, "charging": false, "metered": true}')
    now = machine.readings()
    assert (now.battery, now.charging, now.metered) == (30, False, True)
    assert now.moment is not None


@pytest.mark.parametrize("text", ["", "{", '{"battery": 500}', '{"battery": "x"}', "[]", "null"])
def test_a_file_of_nonsense_tells_nothing(tmp_path: Path, text: str) -> None:
    file = tmp_path / "readings.json"
    file.write_text(text)

    assert probes(tmp_path, file).readings().battery is None


def test_a_pipe_as_the_file_keeps_nobody_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    assert probes(tmp_path, tmp_path / "pipe").readings().battery is None
