"""Three real devices: the server keeps sealed mail for a phone that is off."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.scenarios.devices import Device, wait_until

MARKER = "9f1c07d2e4b85a63"
SCRIPT = f"""\
// source-{MARKER}
export default ({{ params }}) => `result-{MARKER}-${{params.word}}`
"""


@contextmanager
def three_devices(top: Path) -> Iterator[tuple[Device, Device, Device]]:
    """Laptop, server and phone2, each paired with both others; context `peer` on the phone."""
    laptop, server, phone = (Device(name, top / name) for name in ("laptop", "server", "phone2"))
    try:
        for device in (laptop, server, phone):
            device.init()
            device.start()
        phone.does("ctx", "new", "peer")
        for inviter, guest in ((server, laptop), (server, phone), (phone, laptop)):
            ticket = inviter.does("peer", "invite").strip().splitlines()[-1].strip()
            guest.does("peer", "add", ticket)
        for one in (laptop, server, phone):
            for other in {"laptop", "server", "phone2"} - {one.name}:
                wait_until(lambda a=one, b=other: a.online(b), f"{one.name} sees {other}")
        yield laptop, server, phone
    finally:
        for device in (laptop, server, phone):
            device.stop()


@pytest.fixture
def devices(tmp_path: Path) -> Iterator[tuple[Device, Device, Device]]:
    with three_devices(tmp_path) as found:
        yield found


def kept(server: Device) -> dict[tuple[str, str], int]:
    piles = server.types("depot", "ls", "--json").json["piles"]
    return {(pile["depositor"], pile["recipient"]): pile["count"] for pile in piles}


def waiting(device: Device, peer: str) -> int:
    peers = device.types("status", "--json").json["peers"]
    return sum(each["queued"] for each in peers if each["name"] == peer)


def outcome(device: Device) -> str | None:
    runs = device.types("script", "ls", "--json").json["runs"]
    return runs[0]["outcome"] if runs else None


def test_a_script_runs_once_though_its_sender_and_its_target_are_never_on_together(
    devices: tuple[Device, Device, Device],
) -> None:
    laptop, server, phone = devices
    script = laptop.home / "job.js"
    script.write_text(SCRIPT)
    phone.allow("p, laptop, peer, kv.write, *, allow")
    phone.stop()
    wait_until(lambda: not server.online("phone2"), "the phone is gone")
    wait_until(lambda: not laptop.online("phone2"), "the phone is gone")

    # given a script for a phone that is off
    queued = laptop.types(
        "script", "send", "peer@phone2", str(script), "--param", f"word=param-{MARKER}"
    )
    assert queued.status == 7
    assert "queued at server, expires in 7 d" in queued.err
    run = laptop.types("script", "ls", "--json").json["runs"][0]["run"]
    assert kept(server) == {("laptop", "phone2"): 1}
    assert "1 queued at server" in laptop.does("status")
    laptop.stop()
    assert_reads_nothing(server)

    # when the phone wakes while the laptop is off, and goes again
    phone.start()
    wait_until(lambda: outcome(phone) == "done", "the phone has run it")
    wait_until(lambda: ("laptop", "phone2") not in kept(server), "the server may forget it")
    # The result, and the word that the script was taken.
    wait_until(lambda: kept(server) == {("phone2", "laptop"): 2}, "the answer is kept")
    phone.stop()
    assert_reads_nothing(server)

    # then the laptop gets the receipt from the server
    laptop.start()
    wait_until(lambda: outcome(laptop) == "done", "the laptop knows")
    assert json.loads(laptop.does("script", "result", run)) == f"result-{MARKER}-param-{MARKER}"
    assert "receipt" in laptop.types("script", "show", run, "--json").out
    wait_until(lambda: ("phone2", "laptop") not in kept(server), "the server may forget it")
    # and nothing of it is left waiting at the laptop
    wait_until(lambda: waiting(laptop, "phone2") == 0, "the outbox is empty")

    # and it ran once
    phone.start()
    wait_until(lambda: phone.online("laptop"), "they meet")
    wait_until(lambda: kept(server) == {}, "the server keeps nothing")
    assert len(phone.types("script", "ls", "--json").json["runs"]) == 1


def assert_reads_nothing(server: Device) -> None:
    """No byte of the script, its parameters, its result or the context's name in its files."""
    files = [path for path in (server.home / "state").rglob("*") if path.is_file()]
    assert any(path.name.endswith("-wal") for path in files)
    everything = b"".join(path.read_bytes() for path in files)
    assert MARKER.encode() not in everything
    assert b"peer@phone2" not in everything
    assert b"script.run" not in everything
