"""Quotas, usage and events between two real devices: the guest is the laptop, the host phone2."""

from __future__ import annotations

import base64
import json
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.scenarios.devices import LIMIT_S, Device, Printed, two_devices, wait_until

CPU_HOG = "export default () => { for (;;) {} }"
MEMORY_HOG = (
    "export default () => { const a = []; for (;;) a.push(new Array(9999).fill(0.5 + a.length)) }"
)
NETWORK_HOG = """\
export default async () => {
  for (let i = 0; i < 9999; i++) {
    console.log("x".repeat(1000));
    if (i % 9 === 0) await new Promise((go) => setTimeout(go, 1));
  }
}"""
HELLO = "export default () => 1"
COUNTED = (
    *("wall_ms", "cpu_ms", "output_bytes", "host_calls"),
    *("read_bytes", "written_bytes", "network_bytes"),
)


@pytest.fixture
def devices(tmp_path: Path) -> Iterator[tuple[Device, Device]]:
    with two_devices(tmp_path) as (laptop, phone):
        yield laptop, phone


@pytest.fixture
def laptop(devices: tuple[Device, Device]) -> Device:
    return devices[0]


@pytest.fixture
def phone(devices: tuple[Device, Device]) -> Device:
    return devices[1]


def send(laptop: Device, source: str, *words: str) -> Printed:
    file = laptop.home / "test.js"
    file.write_text(source)
    return laptop.types("script", "send", "peer@phone2", str(file), *words, limit_s=90)


def guests(phone: Device, **limits: str) -> None:
    phone.does("group", "add", "guests", "laptop")
    for name, value in limits.items():
        phone.does("config", "set", f"quota.groups.guests.{name}", value)


def quota(phone: Device, name: str = "guests") -> dict[str, Any]:
    found = phone.types("quota", "--json").json["quotas"]
    return next(each for each in found if each["name"] == name)


def receipts(phone: Device) -> list[dict[str, Any]]:
    """What the runs that ended here were signed to have used, from the rows themselves."""
    with sqlite3.connect(phone.home / "state/orvalho.db", timeout=10) as connection:
        rows = connection.execute("select receipt from runs where receipt is not null").fetchall()
    connection.close()
    return [json.loads(base64.standard_b64decode(json.loads(blob)["payload"])) for (blob,) in rows]


def usage(phone: Device, by: str) -> dict[str, dict[str, Any]]:
    rows = phone.types("usage", "--by", by, "--json").json["rows"]
    return {row["of"]: row for row in rows}


def assert_usage_is_that_of_receipts(phone: Device) -> None:
    signed = receipts(phone)
    by_key = usage(phone, "key")
    assert set(by_key) == {each["caller_key"] for each in signed}
    for key, row in by_key.items():
        mine = [each for each in signed if each["caller_key"] == key]
        assert row["runs"] == len(mine)
        for name in COUNTED:
            assert row[name] == sum(each["usage"][name] for each in mine), name
        assert row["memory_bytes"] == max(each["usage"]["memory_bytes"] for each in mine)
    for by in ("context", "group"):
        assert sum(row["runs"] for row in usage(phone, by).values()) == len(signed)


def test_each_hog_stops_at_its_own_limit_by_that_name(laptop: Device, phone: Device) -> None:
    guests(phone, cpu="1s", memory="32MB", network="1MB")
    for source, what in ((MEMORY_HOG, "memory"), (NETWORK_HOG, "network"), (CPU_HOG, "cpu")):
        printed = send(laptop, source)
        assert printed.status == 5, printed
        assert f"quota {what} exceeded (group guests)" in printed.err
    assert "quota" in send(laptop, HELLO).err, "the next does not even start"

    shown = quota(phone)
    assert 900 <= shown["cpu_ms"] <= 1300
    assert 990_000 <= shown["network_bytes"] <= 1_000_000, "refused before they move"
    assert (shown["memory_bytes"], shown["running"]) == (0, 0)
    assert "@guests" in phone.does("quota")
    limits = Counter(each["limit"] for each in receipts(phone))
    assert limits == {
        "quota memory exceeded (group guests)": 1,
        "quota network exceeded (group guests)": 1,
        "quota cpu exceeded (group guests)": 2,
    }
    assert "limited, quota cpu exceeded (group guests)" in phone.does("audit")
    newest = phone.types("script", "ls", "--json").json["runs"][0]["run"]
    assert "quota cpu exceeded (group guests)" in phone.does("script", "show", newest)
    assert_usage_is_that_of_receipts(phone)

    # Its power goes away: what was used is not forgotten.
    phone.kill()
    phone.start()
    assert quota(phone)["cpu_ms"] == shown["cpu_ms"]
    assert quota(phone)["network_bytes"] == shown["network_bytes"]
    wait_until(lambda: laptop.online("phone2"), "they are linked again")
    assert "quota" in send(laptop, HELLO).err

    # More room counts at once.
    phone.does("config", "set", "quota.groups.guests.cpu", "10s")
    phone.does("config", "set", "quota.groups.guests.network", "2MB")
    assert send(laptop, HELLO).status == 0


def test_many_hogs_at_once_get_no_more_than_one(laptop: Device, phone: Device) -> None:
    guests(phone, cpu="2s")
    printed: list[Printed] = []
    file = laptop.home / "hog.js"
    file.write_text(CPU_HOG)

    def one() -> None:
        words = ("script", "send", "peer@phone2", str(file))
        printed.append(laptop.types(*words, limit_s=120))

    # From contexts of its own making: they are one node all the same.
    threads = [threading.Thread(target=one) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(150)
    assert [each.status for each in printed] == [5] * 6, printed
    assert all("quota cpu exceeded (group guests)" in each.err for each in printed)
    # What each may get beyond is a tenth of a second, and what telling takes on a busy machine.
    assert quota(phone)["cpu_ms"] <= 2000 + 6 * 500
    assert_usage_is_that_of_receipts(phone)


def test_another_context_of_the_node_is_in_the_same_quota(laptop: Device, phone: Device) -> None:
    guests(phone, cpu="1ms")
    laptop.does("ctx", "new", "other")
    wait_until(lambda: "other" in phone.does("peer", "ls", "--json"), "the phone knows of it")
    assert send(laptop, CPU_HOG).status == 5
    printed = send(laptop, HELLO, "--as", "other")
    assert printed.status == 5
    assert "quota cpu exceeded (group guests)" in printed.err


def test_a_new_key_of_the_node_is_in_the_same_quota(laptop: Device, phone: Device) -> None:
    guests(phone, cpu="1ms")
    assert send(laptop, CPU_HOG).status == 5
    new = laptop.types("key", "rotate", "-y", "--json").json["key"]
    wait_until(lambda: new in phone.does("group", "show", "guests"), "the new key is in the group")
    wait_until(lambda: laptop.online("phone2"), "they are linked again")
    assert "quota cpu exceeded (group guests)" in send(laptop, HELLO).err


def test_the_total_is_live_at_once_and_after_a_restart(laptop: Device, phone: Device) -> None:
    phone.does("config", "set", "quota.total.memory", "16MB")
    assert "quota memory exceeded (total)" in send(laptop, MEMORY_HOG).err
    phone.stop()
    phone.start()
    wait_until(lambda: laptop.online("phone2"), "they are linked again")
    assert quota(phone, "total")["memory_limit_bytes"] == 16_000_000
    assert "quota memory exceeded (total)" in send(laptop, MEMORY_HOG).err
    wrong = phone.types("config", "set", "quota.total.memory", "1MB")
    assert wrong.status == 2
    assert "at least 8MB" in wrong.err
    assert phone.types("config", "set", "quota.total.memroy", "1MB").status == 2
    phone.does("config", "set", "quota.groups.guets.cpu", "1s")
    assert "there is no group guets" in phone.types("quota").err
    phone.does("config", "set", "quota.groups.guets.cpu", '""')
    phone.does("config", "set", "quota.total.memory", '""')
    assert phone.types("quota", "--json").json["quotas"] == []


def test_a_quota_that_queues_lets_it_wait_for_the_window(laptop: Device, phone: Device) -> None:
    guests(phone, cpu="200ms", window="4s", queue="true")
    assert "quota cpu exceeded" in send(laptop, CPU_HOG).err
    began = time.monotonic()
    printed = send(laptop, HELLO)
    assert printed.json == 1
    assert time.monotonic() - began > 1, "it waited until the use had left the window"


def test_a_run_has_a_limit_of_network_bytes(laptop: Device, phone: Device) -> None:
    printed = send(laptop, '// /// orvalho\n// network = "20kB"\n// ///\n' + NETWORK_HOG)
    assert printed.status == 5
    assert "network: the run used up its limit" in printed.err
    (receipt,) = receipts(phone)
    assert receipt["limit"] == "network"
    assert 19_000 <= receipt["usage"]["network_bytes"] <= 20_000


def test_an_answer_of_the_caller_counts_before_it_moves(laptop: Device, phone: Device) -> None:
    context = laptop.types("ctx", "ls", "--json").json["contexts"][0]["name"]
    notes = laptop.tree(context) / "notes"
    notes.mkdir()
    (notes / "large.txt").write_text("x" * 100_000)
    (notes / "small.txt").write_text("x" * 1000)
    header = (
        '// /// orvalho\n// needs = ["caller.fs.read:/notes/**"]\n// network = "50kB"\n// ///\n'
    )
    read = """\
export default async ({ caller, params }) => {
  try { return (await caller.fs.read(params.path)).length } catch (e) { return "caught" }
}"""
    small = send(laptop, header + read, "--expose", "/notes", "--param", "path=/notes/small.txt")
    assert small.json == 1000
    large = send(laptop, header + read, "--expose", "/notes", "--param", "path=/notes/large.txt")
    assert large.status == 5, "the guest cannot catch the end of its limit"
    assert "network: the run used up its limit" in large.err
    used = [each["usage"]["network_bytes"] for each in receipts(phone)]
    assert 1000 < max(used) < 5000, "the large answer never went over the link"


def test_usage_is_the_sum_of_receipts_whatever_happened(laptop: Device, phone: Device) -> None:
    phone.does("group", "add", "guests", "laptop")
    phone.does("group", "add", "family", "laptop")
    sources = [
        HELLO,
        "export default () => { throw new Error('x') }",
        '// /// orvalho\n// cpu = "50ms"\n// ///\n' + CPU_HOG,
        '// /// orvalho\n// needs = ["target.fs.read:/secret/**"]\n// ///\n' + HELLO,
        "export default () => 'x'.repeat(100000)",
        "export default () => { for (let i = 0; i < 99; i++) console.log(i) }",
    ]
    for source in sources:
        send(laptop, source)
    own = phone.types("script", "send", "peer@phone2", "-e", "1 + 1")
    assert own.json == 2
    # One is cancelled, and one cut by a crash.
    run = json.loads(send(laptop, CPU_HOG, "--detach", "--json").out)["run"]
    wait_until(lambda: _running(phone) > 0, "it runs")
    laptop.does("script", "cancel", run)
    wait_until(lambda: _state(laptop, run) == "ended", "it is cancelled")
    assert_usage_is_that_of_receipts_in_two_groups(phone)
    phone.kill()
    phone.start()
    assert_usage_is_that_of_receipts_in_two_groups(phone)


@pytest.mark.parametrize("phase", ["before", "after"])
def test_a_crash_at_the_end_of_a_run_loses_no_charge(
    laptop: Device, phone: Device, phase: str
) -> None:
    phone.stop()
    phone.start(phase, "run.ended", "1")
    wait_until(lambda: laptop.online("phone2"), "they are linked again")
    run = json.loads(send(laptop, HELLO, "--detach", "--json").out)["run"]
    wait_until(lambda: phone.has_died, "its power is gone")
    phone.start()
    wait_until(lambda: _state(laptop, run) == "ended", "it has ended, once")
    assert len(receipts(phone)) == 1
    assert_usage_is_that_of_receipts(phone)


def _running(device: Device) -> int:
    workers = device.types("worker", "ls", "--json").json["workers"]
    return sum(each["running"] for each in workers)


def _state(device: Device, run: str) -> str:
    runs = device.types("script", "ls", "--json").json["runs"]
    return next((str(each["state"]) for each in runs if each["run"] == run), "")


def assert_usage_is_that_of_receipts_in_two_groups(phone: Device) -> None:
    signed = receipts(phone)
    remote = [each for each in signed if not each["caller"].endswith("@phone2")]
    by_group = usage(phone, "group")
    assert by_group["guests"]["runs"] == by_group["family"]["runs"] == len(remote)
    assert by_group["-"]["runs"] == len(signed) - len(remote) == 1
    for name in COUNTED:
        assert by_group["guests"][name] == sum(each["usage"][name] for each in remote)
    by_key = usage(phone, "key")
    for name in COUNTED:
        assert sum(row[name] for row in by_key.values()) == sum(
            each["usage"][name] for each in signed
        )
    assert "counts in both" in phone.types("usage", "--by", "group").err


# ---- groups -------------------------------------------------------------------------------


def test_a_key_that_is_taken_out_is_refused_and_told_why(laptop: Device, phone: Device) -> None:
    key = laptop.types("status", "--json").json["key"]
    directory = phone.home / "config/groups/family"
    directory.mkdir(parents=True)
    phone.policy("default").write_text("p, @family, peer, script.run, *, allow\n")
    wait_until(lambda: phone.rules() >= 1, "the policy is read again")
    wait_until(lambda: send(laptop, HELLO).status == 3, "the policy is in force")
    assert "not in any group" in send(laptop, HELLO).err

    (directory / "laptop.pub").write_text(key)
    wait_until(lambda: key in phone.does("group", "show", "family"), "the key counts")
    assert send(laptop, HELLO).json == 1
    (directory / "laptop.pub").unlink()
    wait_until(lambda: key not in phone.does("group", "show", "family"), "it counts no more")
    printed = send(laptop, HELLO)
    assert printed.status == 3
    assert "not in any group" in printed.err


def test_groups_are_edited_from_the_command_line(laptop: Device, phone: Device) -> None:
    assert "groups/family/laptop.pub" in phone.does("group", "add", "family", "laptop")
    assert "already" in phone.does("group", "add", "@family", "laptop")
    (row,) = phone.types("group", "show", "family", "--json").json["groups"][0]["members"]
    assert row[1:] == ["groups/family/laptop.pub", "laptop"]
    assert phone.types("group", "add", "family", "ghost").status == 4
    assert phone.types("group", "add", "Fam ily", "laptop").status == 2
    assert "no longer" in phone.does("group", "rm", "family", "laptop")
    assert "is not in" in phone.does("group", "rm", "family", "laptop")
    assert phone.types("group", "rm", "nobodies", "laptop").status == 4


# ---- events -------------------------------------------------------------------------------


@contextmanager
def followed(phone: Device, *words: str) -> Iterator[tuple[subprocess.Popen[str], list[Any]]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "orvalho", "events", "-f", "--json", *words],
        env=phone.environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    lines: list[Any] = []

    thread = threading.Thread(target=_reading, args=(process, lines), daemon=True)
    thread.start()
    try:
        yield process, lines
    finally:
        process.kill()
        process.wait(LIMIT_S)
        thread.join(LIMIT_S)
        assert process.stdout is not None
        process.stdout.close()


def _reading(process: subprocess.Popen[str], lines: list[Any]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(json.loads(line))


def test_events_are_good_enough_to_bill_by(laptop: Device, phone: Device) -> None:
    with followed(phone) as (process, lines):

        def kinds() -> Counter[str]:
            return Counter(line["type"] for line in lines)

        # It follows once it has told of a run that came after it began.
        wait_until(lambda: bool(send(laptop, HELLO).status == 0 and lines), "it follows")
        send(laptop, NETWORK_HOG.replace("9999", "20"))
        send(laptop, "export default () => { throw new Error('x') }")
        refused = '// /// orvalho\n// needs = ["target.fs.read:/secret/**"]\n// ///\n' + HELLO
        assert send(laptop, refused).status == 3
        wait_until(lambda: kinds()["script.ended"] >= 4, "all four have ended")
        process.send_signal(signal.SIGINT)
        assert process.wait(LIMIT_S) == 130

    ended = {line["run"]: line for line in lines if line["type"] == "script.ended"}
    signed = {each["run"]: each for each in receipts(phone)}
    assert len(ended) >= 4
    for run, line in ended.items():
        assert line["usage"] == signed[run]["usage"]
        assert line["key"] == signed[run]["caller_key"]
        assert line["digest"] == signed[run]["script_sha256"]
        assert line["outcome"] == signed[run]["outcome"]
        assert line["requester"] == signed[run]["caller"]
    last = [line for line in lines if line.get("run") == list(ended)[-1]]
    assert [line["type"] for line in last][:2] == ["script.received", "script.decided"]
    assert last[1]["rule"].startswith("policy/")
    assert any(line["type"] == "access.decided" and not line["allowed"] for line in last)
    assert kinds()["script.started"] >= 3
    node_key = laptop.types("status", "--json").json["key"]
    assert {line["node_key"] for line in ended.values()} == {node_key}

    # What is kept says the same afterwards.
    told = [json.loads(line) for line in phone.does("events", "--json").splitlines()]
    kept = {line["run"]: line for line in told if line["type"] == "script.ended"}
    assert {run: kept[run] for run in ended} == ended


def test_peers_that_come_and_go_are_events(laptop: Device, phone: Device) -> None:
    with followed(phone) as (_, lines):
        wait_until(lambda: bool(send(laptop, HELLO).status == 0 and lines), "it follows")
        laptop.stop()
        wait_until(lambda: any(each["type"] == "peer.lost" for each in lines), "it is gone")
        laptop.start()
        wait_until(lambda: any(each["type"] == "peer.linked" for each in lines), "it is back")
