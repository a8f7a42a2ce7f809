"""A device that changes its key while its scripts wait and run elsewhere: they stay its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.scenarios.devices import Device, wait_until
from tests.scenarios.test_keys import paired
from tests.scenarios.test_pairing import devices

# It has begun to change something, and waits.
LONG = """\
// /// orvalho
// needs = ["caller.fs.write:/begun/**", "caller.fs.write:/begun"]
// timeout = "5m"
// ///
export default async ({ caller }) => {
  await caller.fs.mkdir("/begun");
  console.log("begun");
  await new Promise((done) => setTimeout(done, 240000));
};
"""


def the_run(device: Device) -> dict[str, Any]:
    runs = device.types("script", "ls", "--json").json["runs"]
    return dict(runs[0]) if runs else {"state": None}


def begin(top: Path, laptop: Device, phone: Device) -> str:
    """A long script of the laptop's runs on the phone, and the laptop has another key since."""
    phone.does("ctx", "new", "peer")
    laptop.does("ctx", "new", "home")
    job = top / "long.js"
    job.write_text(LONG)
    wait_until(lambda: laptop.types("resolve", "peer@phone2").status == 0, "it is known")
    sent = laptop.types(
        "script", "send", "peer@phone2", str(job), "--expose", "/:rw", "--detach", "--json"
    )
    assert sent.status == 0, sent
    run = str(the_run(laptop)["run"])
    wait_until(lambda: the_run(phone)["state"] == "running", "it has begun")
    # Its envelope is the phone's now: the change of key need not give it up.
    wait_until(lambda: laptop.types("key", "rotate", "-y").status == 0, "the key is changed")
    wait_until(lambda: laptop.online("phone2") and phone.online("laptop"), "linked again")
    return run


def test_a_run_is_cancelled_by_its_senders_new_key(tmp_path: Path) -> None:
    with devices(tmp_path, "laptop", "phone2") as (laptop, phone):
        paired(tmp_path, laptop, phone)
        run = begin(tmp_path, laptop, phone)
        laptop.does("script", "cancel", run)
        wait_until(lambda: the_run(phone)["outcome"] == "cancelled", "it is stopped")
        wait_until(lambda: the_run(laptop)["outcome"] == "cancelled", "its sender is told")


@pytest.mark.parametrize("verb", ["rm", "revoke"])
def test_a_run_ends_with_the_trust_in_its_senders_new_key(tmp_path: Path, verb: str) -> None:
    with devices(tmp_path, "laptop", "phone2") as (laptop, phone):
        paired(tmp_path, laptop, phone)
        begin(tmp_path, laptop, phone)
        phone.does("peer", verb, "laptop", "-y")
        wait_until(lambda: the_run(phone)["outcome"] == "cancelled", "it is stopped")


def test_what_a_crash_cut_is_told_to_the_senders_new_key(tmp_path: Path) -> None:
    with devices(tmp_path, "laptop", "phone2") as (laptop, phone):
        paired(tmp_path, laptop, phone)
        begin(tmp_path, laptop, phone)
        phone.kill()
        phone.start()
        wait_until(lambda: the_run(phone)["outcome"] == "interrupted", "it had begun")
        wait_until(lambda: the_run(laptop)["outcome"] == "interrupted", "its sender is told")


def test_a_new_key_counts_only_once_it_is_in_the_groups_of_the_old(tmp_path: Path) -> None:
    with devices(tmp_path, "laptop", "phone2") as (laptop, phone):
        paired(tmp_path, laptop, phone)
        phone.does("group", "add", "guests", "laptop")
        group = phone.home / "config/groups/guests"
        (group / "laptop.pub").rename(group / "by-hand.pub")
        wait_until(lambda: "by-hand.pub" in phone.does("group", "show", "guests"), "it is read")
        in_the_way = group / ".laptop.pub~"
        in_the_way.mkdir()
        wait_until(lambda: laptop.types("key", "rotate", "-y").status == 0, "the key is changed")
        told = phone.home / "state/log.jsonl"
        wait_until(lambda: "succession.failed" in told.read_text(), "the phone cannot write it")
        assert [whose for _, _, whose in members(phone)] == ["laptop"], "the old one is still its"
        assert not phone.online("laptop")
        in_the_way.rmdir()
        wait_until(lambda: phone.online("laptop"), "it is tried again with the next link")
        assert "laptop" in [whose for _, _, whose in members(phone)]
        assert len(members(phone)) == 2


def members(device: Device) -> list[tuple[str, str, str | None]]:
    (group,) = device.types("group", "show", "guests", "--json").json["groups"]
    return [tuple(each) for each in group["members"]]
