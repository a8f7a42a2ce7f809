"""Power lost at every commit of the depot, on any of the three devices: the script runs once, and
its sender gets the receipt."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.scenarios.devices import Device, wait_until
from tests.scenarios.test_crash import COUNT, counted, outcome
from tests.scenarios.test_depot import kept, three_devices, waiting

# Whose power goes, at which commit.
COMMITS = (
    ("laptop", "deposit.made"),
    ("server", "depot.keep"),
    ("server", "depot.taken"),
    ("phone2", "mailbox.stage"),
    ("phone2", "depot.tell"),
)


@pytest.fixture(scope="module")
def devices(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Device, Device, Device]]:
    with three_devices(tmp_path_factory.mktemp("crash")) as (laptop, server, phone):
        phone.allow(
            "p, laptop, peer, kv.read, count, allow", "p, laptop, peer, kv.write, count, allow"
        )
        (laptop.home / "count.js").write_text(COUNT)
        yield laptop, server, phone


@pytest.mark.parametrize("phase", ["before", "after"])
@pytest.mark.parametrize(("victim", "commit"), COMMITS)
def test_a_script_left_with_a_keeper_runs_once_whoever_crashes(
    devices: tuple[Device, Device, Device], phase: str, victim: str, commit: str
) -> None:
    laptop, server, phone = devices
    for device in devices:
        if not device.is_answering():
            device.start()
    wait_until(lambda: laptop.online("phone2") and server.online("phone2"), "all are there")
    before = counted(phone, laptop)
    # Nothing else is to be deposited: the power goes at the first commit of its kind.
    wait_until(lambda: not (waiting(laptop, "phone2") or waiting(phone, "laptop")), "all is said")
    wait_until(lambda: kept(server) == {}, "the depot is empty")
    phone.stop()
    wait_until(lambda: not laptop.online("phone2"), "the phone is gone")

    # given a script that is left with the server, though its power or the laptop's goes
    early = {"laptop": laptop, "server": server}.get(victim) if commit != "depot.taken" else None
    if early is not None:
        early.stop()
        early.start(phase, commit, "1")
        wait_until(lambda: laptop.online("server"), "they are linked")
    # Only an envelope whose run takes a while is kept before its end.
    wait = "wait=500" if commit == "mailbox.stage" else "wait=0"
    script = str(laptop.home / "count.js")
    laptop.does("script", "send", "peer@phone2", script, "--param", wait, "--detach")
    if early is not None:
        wait_until(lambda: early.has_died, "the power goes")
        early.start()
    wait_until(lambda: kept(server).get(("laptop", "phone2")) == 1, "it is kept")

    # when the phone takes it from there alone, though its power or the server's goes
    laptop.stop()
    late = {"phone2": phone, "server": server}.get(victim) if early is None else None
    if late is server:
        server.stop()
        server.start(phase, commit, "1")
        phone.start()
    elif late is phone:
        phone.start(phase, commit, "1")
    else:
        phone.start()
    if late is not None:
        wait_until(lambda: late.has_died, "the power goes")
        late.start()
    wait_until(lambda: ("laptop", "phone2") not in kept(server), "the server may forget it")
    wait_until(lambda: outcome(phone) in ("done", "interrupted"), "it has run")
    how = outcome(phone)
    if commit != "depot.tell":
        assert how == "done"  # else the power may have gone while it ran

    # then it ran once, and the laptop learns of it
    laptop.start()
    wait_until(lambda: outcome(laptop) == how, "the laptop has the receipt")
    wait_until(lambda: laptop.online("phone2"), "they meet")
    assert counted(phone, laptop) - before in ((1,) if how == "done" else (0, 1))
