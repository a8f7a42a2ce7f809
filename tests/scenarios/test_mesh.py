"""Several real daemons: who is known to whom, who is seen to go, moved, introduced, revoked."""

from __future__ import annotations

import json
import re
import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.scenarios.devices import LIMIT_S, Device, wait_until


def make(top: Path, name: str, *settings: str, heartbeat: str = "1s") -> Device:
    """A device that runs, with a short heartbeat."""
    device = Device(name, top / name)
    device.init()
    lines = (f'[mesh]\nheartbeat = "{heartbeat}"\n', *settings)
    with (device.home / "config/config.toml").open("a") as file:
        file.writelines(f"{line}\n" for line in lines)
    device.start()
    return device


def move(device: Device) -> None:
    """To another port."""
    file = device.home / "config/config.toml"
    file.write_text(re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:0", file.read_text()))


def pair(one: Device, other: Device, *options: str) -> None:
    ticket = other.does("peer", "invite", *options).strip().splitlines()[-1].strip()
    one.does("peer", "add", ticket, *options)
    wait_until(lambda: one.online(other.name) and other.online(one.name), "they are linked")


def nodes(device: Device) -> dict[str, Any]:
    return {each["name"]: each for each in device.types("nodes", "--json").json["nodes"]}


def state(device: Device, name: str) -> str | None:
    return nodes(device).get(name, {}).get("state")


@contextmanager
def devices(*made: Device) -> Iterator[tuple[Device, ...]]:
    try:
        yield made
    finally:
        for device in made:
            device.stop()


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Callable[..., Device]]:
    """`made("laptop")`: a running device; stopped at the end."""
    running: list[Device] = []

    def one(name: str, *settings: str, **options: str) -> Device:
        running.append(make(tmp_path, name, *settings, **options))
        return running[-1]

    yield one
    for device in running:
        device.stop()


def test_a_node_that_was_never_met_is_known_with_its_labels_and_seen_to_die(
    made: Callable[..., Device],
) -> None:
    laptop, server = made("laptop"), made("server")
    phone = made("phone2", '[node]\nlabels = ["env=home"]')
    pair(laptop, server)
    pair(phone, laptop)

    wait_until(lambda: state(server, "phone2") == "alive", "the server knows the phone")
    told = nodes(server)["phone2"]
    assert told["known"] == "via laptop"
    assert told["relation"] is None
    assert "env=home" in told["labels"]
    assert "engine=v8" in told["capabilities"]
    assert any(each.startswith("gpu=") for each in told["capabilities"])
    shown = server.does("nodes")
    assert "via laptop" in shown
    assert "env=home" in shown

    # To be known is not to be trusted.
    assert [each["name"] for each in server.types("peer", "ls", "--json").json["peers"]] == [
        "laptop"
    ]
    assert server.types("resolve", "phone2").status == 4

    phone.kill()
    wait_until(lambda: state(server, "phone2") == "suspect", "suspect")
    wait_until(lambda: state(server, "phone2") == "dead", "dead")

    phone.start()
    wait_until(lambda: state(server, "phone2") == "alive", "alive again")


def test_labels_change_while_it_runs(made: Callable[..., Device]) -> None:
    laptop, phone = made("laptop"), made("phone2")
    pair(laptop, phone)
    phone.does("config", "set", "node.labels", '["env=work", "room=attic"]')
    wait_until(
        lambda: nodes(laptop)["phone2"]["labels"] == ["env=work", "room=attic"], "new labels"
    )
    assert phone.types("config", "set", "node.labels", "nonsense").status == 2


def test_a_frozen_node_is_dead_and_then_alive(made: Callable[..., Device]) -> None:
    laptop, server, phone = made("laptop"), made("server"), made("phone2")
    pair(laptop, server)
    pair(phone, laptop)
    wait_until(lambda: state(server, "phone2") == "alive", "the server knows the phone")
    assert phone._daemon is not None
    phone._daemon.send_signal(signal.SIGSTOP)
    try:
        wait_until(lambda: state(server, "phone2") == "dead", "dead")
    finally:
        phone._daemon.send_signal(signal.SIGCONT)
    wait_until(lambda: state(server, "phone2") == "alive", "alive again")


def test_a_node_that_moved_while_its_peer_was_off_is_found_through_a_third(
    made: Callable[..., Device],
) -> None:
    laptop, server, phone = made("laptop"), made("server"), made("phone2")
    pair(laptop, server)
    pair(phone, server)
    pair(phone, laptop)
    wait_until(lambda: state(server, "phone2") == "alive", "all know all")
    before = nodes(laptop)["phone2"]["addresses"]

    # Both move: neither finds the other where it was.
    for device in (laptop, phone):
        device.stop()
        move(device)
    phone.start()
    wait_until(lambda: phone.online("server"), "the phone is back")
    laptop.start()

    wait_until(lambda: laptop.online("phone2"), "the laptop finds the phone")
    assert nodes(laptop)["phone2"]["addresses"] != before


def test_a_bootstrap_address_finds_a_peer_that_moved_meanwhile(
    made: Callable[..., Device],
) -> None:
    laptop, phone = made("laptop"), made("phone2")
    pair(laptop, phone)
    for device in (laptop, phone):
        device.stop()
        move(device)
    for device in (laptop, phone):
        device.start()
    assert not laptop.online("phone2")
    (address,) = json.loads(phone.does("status", "--json"))["listening"]
    assert laptop.types("config", "set", "mesh.bootstrap", "phone2").status == 2

    laptop.does("config", "set", "mesh.bootstrap", f'["phone2={address}"]')

    wait_until(lambda: laptop.online("phone2"), "it is found")


def test_a_revocation_reaches_a_device_that_was_off(made: Callable[..., Device]) -> None:
    laptop, server, phone = made("laptop"), made("server"), made("phone2")
    pair(laptop, server)
    pair(phone, server)
    pair(phone, laptop)
    server.kill()
    laptop.does("peer", "revoke", "phone2", "-y")
    laptop.kill()
    server.start()
    wait_until(lambda: server.online("phone2"), "it does not know yet")
    laptop.start()
    wait_until(lambda: state(server, "phone2") == "revoked", "it has heard")
    wait_until(lambda: not phone.online("server"), "the link is dropped")


@pytest.mark.parametrize("moment", [("after", "refused.add"), ("before", "peer.remove")])
def test_a_crash_amid_a_revocation_leaves_the_key_refused(
    tmp_path: Path, moment: tuple[str, str]
) -> None:
    with devices(make(tmp_path, "laptop"), make(tmp_path, "phone2")) as (laptop, phone):
        pair(laptop, phone)
        laptop.stop()
        laptop.start(*moment, "1")
        wait_until(lambda: laptop.online("phone2"), "linked again")
        assert laptop.types("peer", "revoke", "phone2", "-y").status != 0
        wait_until(lambda: laptop.has_died, "the power went away")
        laptop.start()
        wait_until(lambda: state(laptop, "phone2") == "revoked", "it is revoked")
        assert laptop.types("peer", "ls", "--json").json["peers"] == []
        wait_until(lambda: not phone.online("laptop"), "refused")


def test_a_revocation_that_cannot_be_written_is_tried_again(made: Callable[..., Device]) -> None:
    laptop, server, phone = made("laptop"), made("server"), made("phone2")
    pair(laptop, server)
    pair(phone, server)
    pair(phone, laptop)
    database = sqlite3.connect(server.home / "state/orvalho.db", timeout=LIMIT_S)
    database.execute(
        "create trigger full before insert on refused begin select raise(abort, 'disk full'); end"
    )
    database.commit()
    laptop.does("peer", "revoke", "phone2", "-y")
    log = server.home / "state/log.jsonl"
    wait_until(lambda: "disk full" in log.read_text(), "it has failed")
    assert state(server, "phone2") != "revoked"

    database.execute("drop trigger full")
    database.commit()
    database.close()
    wait_until(lambda: state(server, "phone2") == "revoked", "it is done after all")


def test_a_revoked_device_is_refused_everywhere(made: Callable[..., Device]) -> None:
    laptop, server, phone = made("laptop"), made("server"), made("phone2")
    pair(laptop, server)
    pair(phone, server)
    pair(phone, laptop)
    wait_until(lambda: state(server, "phone2") == "alive", "all know all")

    assert laptop.types("peer", "revoke", "phone2").status == 2  # off a terminal it needs -y
    laptop.does("peer", "revoke", "phone2", "-y")

    wait_until(lambda: state(server, "phone2") == "revoked", "the server has heard of it")
    assert nodes(server)["phone2"]["known"] == "revoked by laptop"
    assert nodes(laptop)["phone2"]["known"] == "revoked by this node"
    wait_until(lambda: not phone.online("server") and not phone.online("laptop"), "refused")
    assert [peer["name"] for peer in server.types("peer", "ls", "--json").json["peers"]] == [
        "laptop"
    ]
    assert "laptop has revoked this device" in phone.does("nodes")
    assert server.types("resolve", "phone2").status == 4

    # It outlives a restart, and the phone's own knocking.
    server.stop()
    server.start()
    wait_until(lambda: server.online("laptop"), "the server is back")
    assert state(server, "phone2") == "revoked"
    assert not server.online("phone2")

    # A new pairing lifts it, where it is made.
    pair(phone, server)
    wait_until(lambda: state(server, "phone2") == "alive", "taken back")
    assert state(laptop, "phone2") == "revoked"
    server.stop()
    server.start()
    wait_until(lambda: server.online("laptop") and server.online("phone2"), "still taken")


def test_a_guest_revokes_nothing_and_is_told_nothing(made: Callable[..., Device]) -> None:
    laptop, guest, phone = made("laptop"), made("guest"), made("phone2")
    pair(guest, laptop, "--guest")
    pair(phone, laptop)
    pair(guest, phone)
    guest.does("peer", "revoke", "phone2", "-y")
    wait_until(lambda: state(phone, "guest") is not None, "it has heard")
    assert laptop.online("phone2")
    assert "phone2" in nodes(laptop)
    assert nodes(laptop)["phone2"]["known"] == "paired"
    # What the laptop knows of others is not for a guest.
    held = sqlite3.connect(guest.home / "state/orvalho.db").execute("select * from record")
    assert len(held.fetchall()) <= 2


def test_an_introducers_peers_become_ours_and_can_be_removed(
    made: Callable[..., Device],
) -> None:
    laptop, phone, tablet = made("laptop"), made("phone2"), made("tablet")
    pair(phone, laptop)
    pair(tablet, laptop)
    wait_until(lambda: state(phone, "tablet") == "alive", "the phone hears of the tablet")
    assert nodes(phone)["tablet"]["known"] == "via laptop"

    phone.does("peer", "set", "laptop", "--introducer")
    tablet.does("peer", "set", "laptop", "--introducer")

    wait_until(lambda: phone.online("tablet") and tablet.online("phone2"), "they are linked")
    assert nodes(phone)["tablet"]["known"] == "introduced by laptop"
    assert nodes(phone)["laptop"]["is_introducer"]
    peers = json.loads(phone.does("peer", "ls", "--json"))["peers"]
    assert {peer["name"]: peer["introduced"] for peer in peers}["tablet"] == "introduced by laptop"

    phone.does("peer", "rm", "tablet", "-y")
    laptop.does("config", "set", "node.labels", "env=home")  # its record comes again
    wait_until(lambda: nodes(phone)["laptop"]["labels"] == ["env=home"], "it has come")
    assert "tablet" not in nodes(phone)


def test_a_name_that_is_taken_waits_for_its_owner(made: Callable[..., Device]) -> None:
    laptop, phone, tablet = made("laptop"), made("phone2"), made("tablet")
    pair(phone, laptop)
    pair(tablet, laptop)
    phone.does("peer", "rename", "laptop", "tablet")
    phone.does("peer", "set", "tablet", "--introducer")

    def clash() -> bool:
        return "another one is called so here" in phone.does("doctor")

    wait_until(clash, "the clash is told")
    assert phone.types("peer", "rename", "tablet", "phone2").status == 1  # its own name
    phone.does("peer", "rename", "tablet", "laptop")
    wait_until(lambda: "tablet" in nodes(phone) and not clash(), "it is settled")
    assert nodes(phone)["tablet"]["known"] == "introduced by laptop"
