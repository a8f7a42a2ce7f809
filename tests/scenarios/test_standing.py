"""How a device stands with another one is said alike by every command, with what helps."""

from __future__ import annotations

from pathlib import Path

from tests.scenarios.devices import Device, two_devices, wait_until
from tests.scenarios.test_pairing import devices, showing


def state(device: Device, peer: str) -> str:
    peers = device.types("peer", "ls", "--json").json["peers"]
    return next(str(each["state"]) for each in peers if each["name"] == peer)


def test_one_that_has_yet_to_approve_is_waited_for(tmp_path: Path) -> None:
    with devices(tmp_path, "laptop", "phone2", config="approve = true\n") as (laptop, phone):
        laptop.does("ctx", "new", "peer")
        with showing(laptop) as shown:
            assert phone.types("pair", shown.first).status == 7
        wait_until(lambda: state(phone, "laptop") == "waiting", "it is refused for now")
        for words in (("ping", "laptop"), ("status",), ("doctor",)):
            printed = phone.types(*words)
            assert "laptop has not approved this device yet" in printed.out + printed.err
        assert phone.types("ping", "laptop").status == 6
        assert "orvalho node approve phone2" in phone.types("ping", "laptop").err
        sent = phone.types("script", "send", "peer@laptop", "-e", "40 + 2", "--json")
        assert sent.status == 7, sent
        laptop.does("node", "approve", "phone2")
        run = sent.json["run"]
        assert phone.does("script", "result", run, "--wait") == "42\n"
        wait_until(lambda: state(phone, "laptop") == "online", "they are linked")
        assert "approved" not in phone.does("peer", "ls", "-v")


def test_a_script_for_one_that_forgot_us_is_not_left_waiting(tmp_path: Path) -> None:
    with two_devices(tmp_path) as (laptop, phone):
        phone.does("peer", "rm", "laptop", "-y")
        wait_until(lambda: state(laptop, "phone2") == "refused", "it is refused")
        for wait in ((), ("--wait",)):
            sent = laptop.types("script", "send", "peer@phone2", "-e", "1", *wait)
            assert sent.status == 6, sent
            assert "phone2 refuses this device's key" in sent.err
            assert "orvalho peer invite" in sent.err
        each = laptop.types("script", "send", "peer@all", "-e", "1")
        assert (each.status, "refuses this device's key" in each.err) == (6, True), each
        runs = laptop.types("script", "ls", "--json").json["runs"]
        assert {run["outcome"] for run in runs} == {"refused"}
        assert laptop.types("status", "--json").json["peers"][0]["queued"] == 0
        (tmp_path / "a").write_text("a")
        file = laptop.types("file", "send", str(tmp_path / "a"), "peer@phone2:")
        assert (file.status, "refuses this device's key" in file.err) == (6, True), file


def test_all_are_pinged_and_nobody_is_no_device(tmp_path: Path) -> None:
    with two_devices(tmp_path) as (laptop, phone):
        printed = laptop.types("ping", "all")
        assert (printed.status, "pong from phone2" in printed.out) == (0, True), printed
        nobody = laptop.types("ping", "nobody")
        assert (nobody.status, "names no device" in nobody.err) == (2, True), nobody
        phone.kill()
        wait_until(lambda: not laptop.online("phone2"), "it is missed")
        printed = laptop.types("ping", "all", "--timeout", "0.5")
        assert (printed.status, "phone2 is not reached" in printed.out) == (4, True), printed


def test_a_code_that_nobody_shows_is_a_wrong_one(tmp_path: Path) -> None:
    with devices(tmp_path, "laptop") as (laptop,):
        printed = laptop.types("pair", "987-violin-orbit-lemon")
        assert (printed.status, "it is wrong, expired or used" in printed.err) == (6, True), printed
