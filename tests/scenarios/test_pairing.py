"""Three real devices come together by short codes; what a person sees, with its exit status."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.peers.test_seeker import free_port
from tests.scenarios.devices import LIMIT_S, Device, wait_until


class Showing:
    """`orvalho pair`, which waits on one device while others type."""

    def __init__(self, device: Device, *options: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "orvalho", "pair", *options],
            env=device.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.first = self._process.stdout.readline().strip()

    def ends(self) -> tuple[int, str, str]:
        out, err = self._process.communicate(timeout=LIMIT_S)
        return self._process.returncode, out, err

    def interrupt(self) -> tuple[int, str, str]:
        self._process.send_signal(signal.SIGINT)
        return self.ends()

    def kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate(timeout=LIMIT_S)


@contextmanager
def showing(device: Device, *options: str) -> Iterator[Showing]:
    shown = Showing(device, *options)
    try:
        yield shown
    finally:
        shown.kill()


@contextmanager
def devices(top: Path, *names: str, config: str = "") -> Iterator[tuple[Device, ...]]:
    """Homes of this machine that look for each other at one port."""
    made = tuple(Device(name, top / name) for name in names)
    settings = f"[pairing]\nport = {free_port()}\n{config}"
    try:
        for device in made:
            device.init()
            (device.home / "config/conf.d/pairing.toml").write_text(settings)
            device.start()
        yield made
    finally:
        for device in made:
            device.stop()


def wrong(code: str) -> str:
    return code.rpartition("-")[0] + ("-zoo" if not code.endswith("-zoo") else "-zone")


def words(device: Device, peer: str) -> str:
    peers = device.types("peer", "ls", "--json").json["peers"]
    found: str = next(each["check_words"] for each in peers if each["name"] == peer)
    return found


def test_three_devices_pair_by_code_alone(tmp_path: Path) -> None:
    with devices(tmp_path, "laptop", "phone2", "server") as (laptop, phone, server):
        for device in (phone, server):
            with showing(laptop) as shown:
                assert re.fullmatch(r"[1-9]\d\d(-[a-z]+){3}", shown.first), shown.first
                typed = device.types("pair", shown.first)
                status, out, _ = shown.ends()
            assert (typed.status, status) == (0, 0), typed
            assert "paired with laptop" in typed.out
            assert f"paired with {device.name}" in out
            # Both screens show the same words, at once and later.
            said = re.findall(r"words {2}(\S+)", typed.out + out)
            assert said == [words(device, "laptop")] * 2 == [words(laptop, device.name)] * 2
        for peer in ("phone2", "server"):
            wait_until(lambda peer=peer: laptop.online(peer), f"{peer} is linked")
        assert "code, shown here" in laptop.does("peer", "ls", "-v")

        with showing(laptop, "--guest", "--json") as told:
            event = json.loads(told.first)
            assert (event["type"], event["guest"]) == ("pair.shown", True)
            typed = server.types("pair", "-", "--name", "top", "--json", stdin=event["code"] + "\n")
            assert (typed.status, typed.json["changed"]) == (0, False), typed
            last = json.loads(told.ends()[1].splitlines()[-1])
            assert (last["type"], last["peer"]["name"], last["held"]) == (
                "pair.arrived",
                "server",
                False,
            )


def test_each_refusal_has_its_exit_status(tmp_path: Path) -> None:
    with devices(tmp_path, "laptop", "phone2", "server") as (laptop, phone, server):
        assert phone.types("pair", "no-code").status == 2
        assert phone.types("pair", "417-violin-orbit-lemmon").status == 2
        assert phone.types("pair", "--at", "127.0.0.1").status == 2

        with showing(laptop) as shown:
            first = shown.first
            assert shown.interrupt()[0] == 130
        late = phone.types("pair", first)
        assert (late.status, "withdrawn by its owner" in late.err) == (6, True), late

        with showing(laptop, "--expires", "1s") as shown:
            status, _, err = shown.ends()
            assert (status, "nobody came" in err) == (4, True)
        late = phone.types("pair", shown.first)
        assert (late.status, "has expired" in late.err) == (6, True), late

        with showing(laptop) as shown:
            # Tries by two devices, and a loss of power in between: each one counts.
            assert "the code is wrong" in phone.types("pair", wrong(shown.first)).err
            laptop.kill()
            assert shown.ends()[0] == 4
            laptop.start()
            assert "the code is wrong" in server.types("pair", wrong(shown.first)).err
            locked = phone.types("pair", wrong(shown.first))
            assert (locked.status, "withdrawn after 3 wrong tries" in locked.err) == (6, True)
            assert phone.types("pair", shown.first).status == 6

        with showing(laptop) as shown:
            for _ in range(3):
                assert server.types("pair", wrong(shown.first)).status == 6
            status, _, err = shown.ends()
            assert (status, "somebody tried a wrong code; 1 more" in err) == (6, True), err

        with showing(laptop, "--qr", "--json") as shown:
            event = json.loads(shown.first)
            address = laptop.types("status", "--json").json["listening"][0]
            assert phone.types("pair", event["code"], "--at", address).status == 0
            assert shown.ends()[0] == 0
        assert server.types("pair", event["code"]).status == 6
        assert server.types("pair", event["ticket"]).status == 6

        with showing(laptop) as shown:
            pass
        assert "phone2" in laptop.does("peer", "ls")
        assert "server" not in laptop.does("peer", "ls")


def test_the_text_of_the_qr_code_pairs_too(tmp_path: Path) -> None:
    with devices(tmp_path, "laptop", "phone2") as (laptop, phone):
        with showing(laptop, "--json") as shown:
            ticket = json.loads(shown.first)["ticket"]
            assert phone.types("pair", "-", stdin=ticket).status == 0
            assert shown.ends()[0] == 0
        # It fits into a terminal of 80 columns, as a picture.
        from orvalho.cli.qr import qr_text

        assert max(len(line) for line in qr_text(ticket).splitlines()) <= 80


def test_a_node_waits_until_it_is_approved(tmp_path: Path) -> None:
    with devices(tmp_path, "laptop", "phone2", "server", config="approve = true\n") as three:
        laptop, phone, server = three
        with showing(laptop) as shown:
            typed = phone.types("pair", shown.first)
            assert (typed.status, "waits for approval at laptop" in typed.err) == (7, True), typed
            status, out, err = shown.ends()
            assert (status, "phone2 waits for your approval" in out) == (0, True)
            assert "orvalho node approve phone2" in err
        assert laptop.does("peer", "ls") == ""
        (held,) = laptop.types("node", "pending", "--json").json["nodes"]
        assert (held["name"], held["state"]) == ("phone2", "waits")
        assert held["check_words"] == words(phone, "laptop")
        assert not phone.online("laptop")

        assert laptop.types("node", "approve", "phone9").status == 4
        laptop.does("node", "approve", "phone2")
        wait_until(lambda: phone.online("laptop") and laptop.online("phone2"), "they are linked")
        assert laptop.types("node", "pending", "--json").json["nodes"] == []

        ticket = laptop.does("peer", "invite").strip()
        assert server.types("peer", "add", ticket).status == 7
        laptop.does("node", "reject", "server")
        assert "already rejected" in laptop.does("node", "reject", "server")
        for code in (ticket, laptop.does("peer", "invite").strip()):
            again = server.types("peer", "add", code)
            assert (again.status, "has rejected this node" in again.err) == (6, True), again
        assert not laptop.online("server")
        # A second thought.
        laptop.does("node", "approve", "server")
        wait_until(lambda: laptop.online("server"), "server is linked")


@pytest.mark.parametrize("value", ["-1", "65536", '"x"'])
def test_a_port_that_is_none_is_named_with_its_place(tmp_path: Path, value: str) -> None:
    device = Device("laptop", tmp_path / "laptop")
    device.init()
    (device.home / "config/conf.d/p.toml").write_text(f"[pairing]\nport = {value}\n")
    printed = device.types("status")
    assert printed.status == 2
    assert "pairing.port" in printed.err
    assert "conf.d/p.toml:2" in printed.err


def test_a_crash_while_a_code_is_judged_leaves_both_or_none(tmp_path: Path) -> None:
    with devices(tmp_path, "laptop", "phone2") as (laptop, phone):
        for phase, status in (("after", 6), ("before", 0)):
            laptop.stop()
            laptop.start(phase, "pairing.judge", "1")
            with showing(laptop) as shown:
                assert phone.types("pair", shown.first).status == 4
                wait_until(lambda: laptop.has_died, "the laptop dies")
            laptop.start()
            # Not judged yet: the code is as good as it was. Judged: it is used up.
            assert phone.types("pair", shown.first).status == status
            assert ("phone2" in laptop.does("peer", "ls")) is ("laptop" in phone.does("peer", "ls"))
