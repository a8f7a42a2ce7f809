"""One program asked of several real nodes: their facts, their silence, their hostility."""

from __future__ import annotations

import json
import os
import pty
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from orvalho.control.client import Client
from orvalho.control.messages import RunEnded, ScriptSend
from tests.scenarios.devices import Device, wait_until
from tests.scenarios.test_names import network

EXAMPLES = Path(__file__).parents[2] / "examples"
RAM = str(EXAMPLES / "c/ram.wasm")
FACTS = "target.node.facts()"


@pytest.fixture(scope="module")
def devices(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Device, ...]]:
    with network(tmp_path_factory.mktemp("ask"), "laptop", "phone2", "tablet", "tv") as found:
        found[1].does("config", "set", "node.labels", '["gpu=yes", "env=home"]')
        found[2].does("config", "set", "node.labels", '["gpu=yes", "env=office"]')
        wait_until(
            lambda: found[0].does("resolve", "all").count("gpu=yes") == 2, "the labels are known"
        )
        yield found


@pytest.fixture
def laptop(devices: tuple[Device, ...]) -> Device:
    return devices[0]


# ---- facts --------------------------------------------------------------------------------


def test_a_program_is_told_what_its_node_has(laptop: Device, devices: tuple[Device, ...]) -> None:
    told = laptop.types("script", "send", "peer@phone2", "-e", FACTS).json
    assert (told["name"], told["os"]) == ("phone2", "linux")
    assert told["cores"] >= 1
    assert 0 < told["memory_free_bytes"] <= told["memory_total_bytes"]
    assert 0 < told["disk_free_bytes"] <= told["disk_total_bytes"]
    assert len(told["load"]) == 3
    assert {"gpu=yes", "env=home"} <= set(told["labels"])
    assert told["node_uptime_s"] <= told["uptime_s"]


def test_every_language_is_told_the_same(laptop: Device, tmp_path: Path) -> None:
    star = tmp_path / "facts.star"
    star.write_text(
        '# /// orvalho\n# needs = ["target.node.read:/"]\n# ///\n'
        "def main(job):\n    return job.target.node.facts()\n"
    )
    fixed = ("name", "os", "cores", "memory_total_bytes", "disk_total_bytes", "version")
    by_js = laptop.types("script", "send", "peer@phone2", "-e", FACTS).json
    by_star = laptop.types("script", "send", "peer@phone2", str(star)).json
    by_wasm = laptop.types("script", "send", "peer@phone2", RAM).json
    assert [by_js[key] for key in fixed] == [by_star[key] for key in fixed]
    assert by_wasm["cores"] == by_js["cores"]
    assert by_wasm["ram_percent"] in range(101)


def test_facts_must_be_declared_and_can_be_switched_off(
    laptop: Device, devices: tuple[Device, ...], tmp_path: Path
) -> None:
    bare = tmp_path / "bare.js"
    bare.write_text("export default ({ target }) => target.node.facts()\n")
    printed = laptop.types("script", "send", "peer@tv", str(bare))
    assert printed.status == 3
    assert 'add "target.node.read:/" to needs' in printed.err
    wrong = tmp_path / "wrong.js"
    wrong.write_text(
        '// /// orvalho\n// needs = ["target.node.read:/memory"]\n// ///\n'
        "export default ({ target }) => target.node.facts()\n"
    )
    printed = laptop.types("script", "send", "peer@tv", str(wrong))
    assert (printed.status, "asked as a whole" in printed.err) == (2, True), printed
    devices[3].allow("p, *, *, node.read, /, deny")
    printed = laptop.types("script", "send", "peer@tv", RAM)
    assert printed.status == 3
    assert "policy/peer.csv" in printed.err
    rows = {each["node"]: each for each in laptop.types("ask", "all", RAM, "--json").json["rows"]}
    assert (rows["tv"]["state"], rows["phone2"]["state"]) == ("refused", "done")
    rules = devices[3].rules()
    text = devices[3].policy("peer").read_text().replace("p, *, *, node.read, /, deny\n", "")
    devices[3].policy("peer").write_text(text)
    wait_until(lambda: devices[3].rules() == rules - 1, "the rules are read again")


# ---- ask ----------------------------------------------------------------------------------


def test_every_node_has_a_row_and_the_sum_is_that_of_the_rows(laptop: Device) -> None:
    printed = laptop.types("ask", "all", RAM, "--here", "--json")
    assert printed.status == 0, printed
    rows = {each["node"]: each for each in printed.json["rows"]}
    assert {name: row["hops"] for name, row in rows.items()} == {
        "laptop": 0,
        "phone2": 1,
        "tablet": 1,
        "tv": 1,
    }
    cores = sum(row["result"]["cores"] for row in rows.values())
    summed = laptop.types("ask", "all", RAM, "--here", "--reduce", "sum").json
    assert summed["cores"] == cores
    table = laptop.does("ask", "all", RAM).splitlines()
    assert [line.split()[:2] for line in table] == [
        [name, "done"] for name in ("phone2", "tablet", "tv")
    ]


def test_a_label_a_group_and_one_node_can_be_asked(laptop: Device) -> None:
    def asked(name: str) -> list[str]:
        printed = laptop.types("ask", name, "-e", "target.name", "--json")
        assert printed.status == 0, printed
        return [each["result"] for each in printed.json["rows"]]

    assert asked("any@gpu=yes,env=office") == ["peer@tablet"]
    assert asked("tv") == ["peer@tv"]
    assert asked("peer@phone2") == ["peer@phone2"]
    assert laptop.types("ask", "nobody2", "-e", "1").status == 4


def test_a_program_in_starlark_reduces_the_answers_here(laptop: Device, tmp_path: Path) -> None:
    star = str(EXAMPLES / "starlark/roomiest.star")
    printed = laptop.types("ask", "all", RAM, "--reduce", f"star:{star}")
    assert printed.status == 0, printed
    assert sorted(printed.json["order"]) == ["phone2", "tablet", "tv"]
    newest = laptop.types("script", "ls", "--json").json["runs"][0]
    assert newest["filename"] == "roomiest.star"
    assert newest["target"].endswith("@laptop"), "an ordinary run, of this node's own"
    broken = tmp_path / "broken.star"
    broken.write_text("def reduce(rows):\n    return rows[99]\n")
    printed = laptop.types("ask", "all", "-e", "1", "--reduce", f"star:{broken}")
    assert printed.status == 1
    assert "broken.star:2" in printed.err


def test_who_is_silent_is_told_and_its_run_is_stopped(
    laptop: Device, devices: tuple[Device, ...]
) -> None:
    code = "target.name === 'peer@tv' ? await new Promise(() => setTimeout(() => 0, 60000)) : 1"
    printed = laptop.types("ask", "all", "-e", code, "--timeout", "2s", "--json")
    assert printed.status == 0, printed
    rows = {each["node"]: each for each in printed.json["rows"]}
    assert {name: row["state"] for name, row in rows.items()} == {
        "phone2": "done",
        "tablet": "done",
        "tv": "silent",
    }
    assert rows["tv"]["error"]["message"] == "no answer within 2 s"

    def ended() -> bool:
        runs = devices[3].types("script", "ls", "--json").json["runs"]
        return runs[0]["outcome"] == "cancelled"

    wait_until(ended, "the run of the silent one is stopped")


def test_a_run_that_the_deadline_falls_on_while_it_is_queued_is_stopped(
    laptop: Device, devices: tuple[Device, ...]
) -> None:
    code = "await new Promise(() => setTimeout(() => 0, 60000))"
    with closing(sqlite3.connect(laptop.home / "state/orvalho.db")) as disk:
        disk.execute("BEGIN IMMEDIATE")
        asking = subprocess.Popen(
            [sys.executable, "-m", "orvalho", "ask", "tv", "-e", code, "--timeout", "1s", "--json"],
            env=laptop.environ,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            # The node cannot commit anything until well after the deadline.
            threading.Event().wait(4)
            disk.rollback()
            printed, _ = asking.communicate(timeout=30)
        finally:
            asking.kill()
            asking.wait(30)
    (row,) = json.loads(printed)["rows"]
    assert (row["state"], row["error"]["message"]) == ("silent", "no answer within 1 s")

    def newest() -> dict[str, object]:
        return dict(laptop.types("script", "ls", "--json").json["runs"][0])

    assert newest()["run"] == row["run"]
    wait_until(lambda: newest()["outcome"] == "cancelled", "it is taken back")


def test_the_failed_and_the_refused_say_why_and_none_is_status_1(
    laptop: Device, devices: tuple[Device, ...]
) -> None:
    printed = laptop.types("ask", "all", "-e", "throw new Error('no ' + target.name)")
    assert printed.status == 1
    assert "tablet  failed" in printed.out
    assert "no peer@tablet" in printed.out
    laptop.allow("p, *, *, script.send, peer@tv, deny", context="root")
    printed = laptop.types("ask", "all", "-e", "1", "--json")
    states = {each["node"]: each["state"] for each in printed.json["rows"]}
    assert states == {"phone2": "done", "tablet": "done", "tv": "not sent"}
    rules = laptop.rules()
    laptop.policy("root").write_text("# none\n")
    wait_until(lambda: laptop.rules() < rules, "the rules are read again")


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("'x'.repeat(300000)", "at most 262144 are taken"),
        ("Object.fromEntries([...Array(1e5).keys()].map((k) => ['k' + k, k]))", "are taken"),
        ("let a = []; for (let i = 0; i < 500; i++) a = [a]; a", "nested too deeply"),
        ("new Uint8Array(300000)", "at most 262144 are taken"),
    ],
)
def test_a_hostile_answer_is_a_row_that_failed(laptop: Device, code: str, said: str) -> None:
    printed = laptop.types("ask", "tv", "-e", code)
    assert printed.status == 1, printed
    assert len(printed.out.splitlines()) == 1
    assert said in printed.out, printed


def test_hostile_texts_and_columns_stay_one_short_line_a_node(laptop: Device) -> None:
    code = """Object.fromEntries([...Array(3000).keys()].map(
      (k) => ['\\u001b[31m\\n' + k, ['\\u001b]0;x\\u0007', NaN, Infinity, '\\u202e']]))"""
    printed = laptop.types("ask", "all", "-e", code)
    assert printed.status == 0, printed
    lines = printed.out.splitlines()
    assert len(lines) == 3
    assert all(line.isprintable() and len(line) < 1000 for line in lines)
    bytes_ = laptop.types("ask", "tv", "-e", "new Uint8Array([1, 2, 3])")
    assert "3 B of bytes" in bytes_.out


def test_a_node_with_several_contexts_is_asked_in_the_first_that_we_may_send_to(
    laptop: Device, devices: tuple[Device, ...]
) -> None:
    phone = devices[1]
    phone.does("ctx", "new", "work")
    phone.does("config", "set", "context", "")
    wait_until(lambda: "several contexts" in laptop.does("resolve", "all"), "it is in doubt")
    printed = laptop.types("ask", "phone2", "-e", "target.name", "--json")
    assert printed.status == 0, printed
    (row,) = printed.json["rows"]
    assert row["result"] == row["to"], "the row says which one it was"
    first = row["to"].partition("@")[0]
    laptop.allow(f"p, *, *, script.send, {first}@phone2, deny", context="root")
    (row,) = laptop.types("ask", "phone2", "-e", "target.name", "--json").json["rows"]
    assert row["result"] not in (None, f"{first}@phone2")
    rules = laptop.rules()
    laptop.policy("root").write_text("# none\n")
    wait_until(lambda: laptop.rules() < rules, "the rules are read again")
    phone.does("config", "set", "context", "peer")
    wait_until(lambda: "several contexts" not in laptop.does("resolve", "all"), "it is clear")


def test_who_hangs_up_leaves_nothing_running(laptop: Device, devices: tuple[Device, ...]) -> None:
    words = [sys.executable, "-m", "orvalho", "ask", "all", "--timeout", "60s", "-e"]
    asking = subprocess.Popen(
        [*words, "await new Promise(() => setTimeout(() => 0, 90000))"],
        env=laptop.environ,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def running() -> int:
        return devices[2].types("worker", "ls", "--json").out.count('"running": 1')

    try:
        wait_until(lambda: running() == 1, "it runs on the tablet")
        asking.send_signal(signal.SIGINT)
        assert asking.wait(30) == 130
        wait_until(lambda: running() == 0, "it is stopped on the tablet")
    finally:
        asking.kill()
        asking.wait(30)


# ---- top ----------------------------------------------------------------------------------


def test_top_once_has_a_row_a_node_and_this_one(laptop: Device) -> None:
    rows = laptop.does("top", "--once").splitlines()
    assert [line.split()[0] for line in rows] == ["laptop", "phone2", "tablet", "tv"]
    assert "GB" in rows[0]
    document = laptop.types("top", "--once", "--json").json
    assert "ram_free_bytes" in document["rows"][0]["result"]
    javascript = str(EXAMPLES / "javascript/ram.js")
    by_js = laptop.types("top", "--once", "--json", "--program", javascript).json
    assert by_js["rows"][0]["result"].keys() == document["rows"][0]["result"].keys()


def test_top_draws_itself_anew_on_a_terminal_until_it_is_interrupted(laptop: Device) -> None:
    ours, theirs = pty.openpty()
    top = subprocess.Popen(
        [sys.executable, "-m", "orvalho", "top", "--interval", "1s"],
        env=laptop.environ | {"TERM": "xterm"},
        stdin=theirs,
        stdout=theirs,
        stderr=subprocess.DEVNULL,
    )
    os.close(theirs)
    seen = b""
    try:
        deadline = time.monotonic() + 30
        while seen.count(b"\x1b[2J") < 3:
            assert time.monotonic() < deadline, seen
            seen += os.read(ours, 4096)
        top.send_signal(signal.SIGINT)
        assert top.wait(30) == 130
    finally:
        top.kill()
        top.wait(30)
        os.close(ours)
    screens = seen.split(b"\x1b[2J")
    assert b"4 of 4 answered" in screens[1]
    assert b"RAM_PERCENT" in screens[1]


def test_a_device_that_is_alone_sees_itself(tmp_path: Path) -> None:
    alone = Device("alone", tmp_path / "alone")
    try:
        alone.init()
        alone.start()
        assert alone.does("top", "--once").split()[:2] == ["alone", "done"]
        printed = alone.types("ask", "all", "-e", "1")
        assert (printed.status, "no other device is paired" in printed.err) == (4, True)
    finally:
        alone.stop()


# ---- labels, and equal services -----------------------------------------------------------


def test_the_one_that_was_chosen_and_those_that_were_not_say_why(laptop: Device) -> None:
    words = ("script", "send", "any@gpu=yes,env=home", "-e", "target.name")
    printed = laptop.types(*words, "-v")
    assert printed.json == "peer@phone2"
    assert "peer@phone2: gpu=yes, env=home; direct 127.0.0.1:" in printed.err
    assert "not peer@tablet: it has no env=home" in printed.err
    assert "not peer@tv: it has no env=home and no gpu=yes" in printed.err
    told = laptop.types(*words, "--json").err
    placed = next(
        line for line in map(json.loads, told.splitlines()) if line["type"] == "script.placed"
    )
    assert placed["choices"][0]["to"] == "peer@phone2"
    assert {each["to"]: each["why"] for each in placed["others"]} == {
        "peer@tablet": "it has no env=home",
        "peer@tv": "it has no env=home and no gpu=yes",
    }
    equal = laptop.types("script", "send", "any@gpu=yes", "-e", "target.name", "-v").err
    assert "takes another turn" in equal or "farther away" in equal


def test_all_with_a_label_is_each_that_has_it(laptop: Device) -> None:
    rows = laptop.types("ask", "all@gpu=yes", "-e", "target.name", "--json").json["rows"]
    assert [each["node"] for each in rows] == ["phone2", "tablet"]
    sent = laptop.types("script", "send", "peer@all@gpu=yes,env=home", "-e", "target.name")
    assert (sent.status, "peer@phone2" in sent.out, "tablet" in sent.out) == (0, True, False), sent
    none = laptop.types("ask", "all@gpu=maybe", "-e", "1")
    assert (none.status, "no paired node has gpu=maybe" in none.err) == (4, True), none


def test_a_busy_node_is_passed_over_and_why_is_told(
    laptop: Device, devices: tuple[Device, ...]
) -> None:
    spin = laptop.home / "spin.js"
    spin.write_text('// /// orvalho\n// timeout = "2m"\n// cpu = "2m"\n// ///\nfor (;;) {}\n')
    held = [
        laptop.types("script", "send", "peer@tablet", str(spin), "--detach", "--json").json["run"]
        for _ in range(3 * (os.cpu_count() or 1))
    ]

    def is_told() -> bool:
        told = laptop.types("script", "send", "any@gpu=yes", "-e", "target.name", "-v")
        return "phone2" in told.out and "not peer@tablet: it is busier: load" in told.err

    wait_until(is_told, "the busy one is passed over")
    chosen = laptop.types("script", "send", "any@gpu=yes", "-e", "target.name", "-v").err
    assert "a core" in chosen
    for run in held:
        laptop.does("script", "cancel", run)


def test_three_equal_services_share_three_hundred_calls(laptop: Device) -> None:
    # Who is slow for a while on a busy machine counts as farther away, and misses turns until it
    # has been measured again: one round of several is even.
    for _ in range(4):
        took = three_hundred_calls(laptop)
        assert took.total() == 300
        if set(took) == {"peer@phone2", "peer@tablet", "peer@tv"} and min(took.values()) >= 90:
            return
    raise AssertionError(f"never about even: {took}")


def three_hundred_calls(laptop: Device) -> Counter[str]:
    request = ScriptSend(to="peer@any", filename="a.js", source="target.name", wait=True)
    took: Counter[str] = Counter()
    with Client(laptop.socket) as client:
        for _ in range(300):
            ended = [each for each in client.stream(request) if isinstance(each, RunEnded)]
            took[msgspec.json.decode(bytes(ended[0].result or b""))] += 1
    return took


# ---- hops ---------------------------------------------------------------------------------


def test_an_introduced_node_is_two_hops_away_and_can_be_left_out(tmp_path: Path) -> None:
    with network(tmp_path, "laptop", "phone2") as (laptop, phone):
        attic = Device("attic", tmp_path / "attic")
        try:
            attic.init()
            attic.start()
            attic.does("ctx", "new", "peer")
            attic.does("config", "set", "context", "peer")
            phone.does("peer", "add", attic.does("peer", "invite").strip())
            laptop.does("peer", "set", "phone2", "--introducer")
            # Neither talks to the other before it has been introduced too.
            attic.does("peer", "set", "phone2", "--introducer")
            wait_until(lambda: laptop.online("attic"), "it is introduced and linked")
            wait_until(
                lambda: "peer@attic" in laptop.does("resolve", "all"), "its context is known"
            )
            rows = laptop.types("ask", "all", "-e", "1", "--json").json["rows"]
            assert {each["node"]: each["hops"] for each in rows} == {"attic": 2, "phone2": 1}
            near = laptop.types("ask", "all", "-e", "1", "--hops", "1")
            assert near.out.split()[:2] == ["phone2", "done"]
            assert "attic is left out: it is 2 hops away" in near.err
        finally:
            attic.stop()
