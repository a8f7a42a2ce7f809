"""What every engine promises between two real devices: asked for, refused, stopped and accounted
for as it is typed."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.columns import COLUMNS, Column
from tests.scenarios.devices import LIMIT_S, Device, Printed, two_devices, wait_until


@pytest.fixture(scope="module")
def devices(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Device, Device]]:
    with two_devices(tmp_path_factory.mktemp("engines")) as (laptop, phone):
        for folder in ("notes", "secret"):
            (phone.tree("peer") / folder).mkdir()
            (phone.tree("peer") / folder / "a.txt").write_text("there")
        home = laptop.types("ctx", "ls", "--json").json["contexts"][0]["name"]
        (laptop.tree(home) / "open").mkdir()
        (laptop.tree(home) / "open/a.txt").write_text("exposed text")
        phone.allow(
            "p, laptop, peer, fs.read, /notes/**, allow",
            "p, laptop, peer, fs.read, /u, allow",
            "p, laptop, peer, fs.write, /u, allow",
            "p, laptop, peer, fs.read, /secret/**, deny",
        )
        yield laptop, phone


@pytest.fixture
def laptop(devices: tuple[Device, Device]) -> Device:
    return devices[0]


@pytest.fixture
def phone(devices: tuple[Device, Device]) -> Device:
    return devices[1]


# Where a guest runs is the target's own choice.
TYPED = [column for column in COLUMNS if column.name != "wasm-alone"]


@pytest.fixture(params=TYPED, ids=lambda column: column.name)
def column(request: pytest.FixtureRequest) -> Column:
    found: Column = request.param
    return found


def send(laptop: Device, file: Path, *words: str) -> Printed:
    return laptop.types("script", "send", "peer@phone2", str(file), *words)


def show(device: Device, run: str) -> Any:
    return device.types("script", "show", run, "--json").json


def test_what_it_did_not_ask_for_it_does_not_get(
    laptop: Device, column: Column, tmp_path: Path
) -> None:
    source = column.catching(("target.fs.readText", "/notes/a.txt"))
    printed = send(laptop, column.write(tmp_path, source))
    assert printed.status == 0, printed
    assert "Denied" in printed.out
    asked = column.write(tmp_path, source, 'wants = ["target.fs.read:/notes/**"]')
    got = column.calling((("target.fs.readText", "/notes/a.txt"),))
    asked = column.write(tmp_path, got, 'needs = ["target.fs.read:/notes/**"]')
    assert send(laptop, asked).json == "there"


def test_a_refusal_names_the_rule_and_nothing_runs(
    laptop: Device, column: Column, tmp_path: Path
) -> None:
    source = column.calling((("target.fs.readText", "/secret/a.txt"),))
    file = column.write(tmp_path, source, 'needs = ["target.fs.read:/secret/a.txt"]')
    printed = send(laptop, file)
    assert printed.status == 3, printed
    assert "policy/peer.csv:" in printed.err
    assert "there" not in printed.out


def test_the_callers_files_are_reached_where_they_are_exposed(
    laptop: Device, column: Column, tmp_path: Path
) -> None:
    source = column.calling((("caller.fs.readText", "/open/a.txt"),))
    file = column.write(tmp_path, source, 'needs = ["caller.fs.read:/open/**"]')
    hidden = send(laptop, file)
    assert hidden.status == 3 or "Denied" in hidden.out, hidden
    assert "exposed text" not in hidden.out
    assert send(laptop, file, "--expose", "/open").json == "exposed text"


def runs_on(phone: Device) -> int:
    workers = phone.types("worker", "ls", "--json").json["workers"]
    return sum(each["running"] for each in workers)


def test_a_loop_is_cancelled(laptop: Device, phone: Device, column: Column, tmp_path: Path) -> None:
    file = column.write(tmp_path, column.programs["loops"], 'timeout = "100s"', 'cpu = "100s"')
    run = send(laptop, file, "--detach", "--json").json["run"]
    wait_until(lambda: runs_on(phone) == 1, "it runs")
    laptop.does("script", "cancel", run)
    cancelled_at = time.monotonic()
    wait_until(lambda: show(laptop, run)["state"]["state"] == "ended", "it has ended")
    assert time.monotonic() - cancelled_at < LIMIT_S, "long before its own time was up"
    assert show(laptop, run)["state"]["outcome"] == "cancelled"


def test_both_receipts_say_what_was_used(
    laptop: Device, phone: Device, column: Column, tmp_path: Path
) -> None:
    file = column.write(
        tmp_path, column.programs["uses"], 'needs = ["target.fs.write:/u", "target.fs.read:/u"]'
    )
    sent = send(laptop, file, "--json").json
    assert sent["outcome"] == "done", sent
    ours, theirs = show(laptop, sent["run"]), show(phone, sent["run"])
    assert ours["receipt"] == theirs["receipt"]
    usage = ours["receipt"]["usage"]
    assert usage == sent["usage"]
    assert (usage["host_calls"], usage["read_bytes"], usage["written_bytes"]) == (2, 3, 3)
    assert usage["output_bytes"] == 8
    assert usage["cpu_ms"] <= usage["wall_ms"] * (os.cpu_count() or 1) + 20


def test_a_limit_ends_it_by_its_name(laptop: Device, column: Column, tmp_path: Path) -> None:
    printed = send(laptop, column.write(tmp_path, column.programs["loops"], 'cpu = "300ms"'))
    assert printed.status == 5, printed
    assert "cpu" in printed.err


def test_an_error_has_its_place(laptop: Device, column: Column, tmp_path: Path) -> None:
    printed = send(laptop, column.write(tmp_path, column.programs["throws_inside"]))
    assert printed.status == 1, printed
    assert column.stacks["throws_inside"][0].rpartition("(")[2] in printed.err


def test_what_is_not_its_language_is_never_sent(
    laptop: Device, column: Column, tmp_path: Path
) -> None:
    file = column.write(tmp_path, column.programs["no_syntax"])
    before = laptop.types("script", "ls", "--json").json["runs"]
    checked, printed = laptop.types("script", "check", str(file)), send(laptop, file)
    assert printed.status == 2, printed
    assert laptop.types("script", "ls", "--json").json["runs"] == before
    assert checked.status != 0
    if "not its language, with its place" not in column.skips:
        place = column.stacks["no_syntax"][0]
        assert place in printed.err
        assert place.partition(":")[2] in checked.out + checked.err
