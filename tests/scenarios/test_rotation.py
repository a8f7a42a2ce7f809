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
// needs = ["target.kv.write:begun"]
// timeout = "5m"
// ///
export default async ({ target }) => {
  await target.kv.put("begun", true);
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
    phone.allow("p, laptop, peer, kv.write, begun, allow")
    job = top / "long.js"
    job.write_text(LONG)
    wait_until(lambda: laptop.types("resolve", "peer@phone2").status == 0, "it is known")
    sent = laptop.types("script", "send", "peer@phone2", str(job), "--detach", "--json")
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
