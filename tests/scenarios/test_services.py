"""Libraries that stay, on two real devices: one memory for all calls, each call its caller's."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.runtime import wat
from tests.scenarios.devices import Device, Printed, two_devices, wait_until

NEEDS = 'needs = ["target.fs.read:/notes/**"]\ntimeout = "3s"\n'
COUNTER = wat.module(
    """
    (global $n (mut i32) (i32.const 0))
    (func (export "_initialize") (global.set $n (i32.const 100)))
    (func (export "next") (result i32)
      (global.set $n (i32.add (global.get $n) (i32.const 1))) (global.get $n))
    (func (export "trap") unreachable)
    (func (export "spin") (loop $l (br $l)))
    (func (export "say") (call $log (i32.const 1) (i32.const 1024) (i32.const 5)))

    (func (export "flood") (loop $l
      (call $log (i32.const 1) (i32.const 1024) (i32.const 0)) (br $l)))
    (func (export "read") (result i32)
      (call $call (i32.const 1040) (i32.const 14) (i32.const 1060) (i32.const 16)))
    """,
    data={1024: "hello", 1040: "target.fs.read", 1060: "[\\22/notes/a.txt\\22]"},
)


@pytest.fixture(scope="module")
def devices(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Device, Device]]:
    top = tmp_path_factory.mktemp("services")
    (file := top / "counter.wasm").write_bytes(COUNTER)
    file.with_name("counter.wasm.toml").write_text(NEEDS)
    with two_devices(top) as (laptop, phone):
        (phone.tree("peer") / "notes").mkdir(exist_ok=True)
        (phone.tree("peer") / "notes" / "a.txt").write_text("first")
        phone.does("lib", "publish", str(file))
        phone.allow("p, laptop, peer, fs.read, /**, allow", "p, phone2, peer, fs.read, /**, allow")
        yield laptop, phone


@pytest.fixture
def laptop(devices: tuple[Device, Device]) -> Device:
    return devices[0]


@pytest.fixture
def phone(devices: tuple[Device, Device]) -> Iterator[Device]:
    phone = devices[1]
    phone.does("service", "start", "counter", "--ctx", "peer")
    yield phone
    phone.types("service", "stop", "counter")


def calls(device: Device, function: str, *words: str) -> Printed:
    node = "counter" if device.name == "phone2" else "counter@phone2"
    return device.types("wasi", "call", node, function, *words, "--ctx", "peer")


def running(device: Device, *words: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = device.types("services", *words, "--json").json["services"]
    return found


def test_memory_lives_on_from_call_to_call(laptop: Device, phone: Device) -> None:
    assert [calls(laptop, "next").out for _ in range(3)] == ["101\n", "102\n", "103\n"]
    assert calls(phone, "next").out == "104\n", "the same instance, whoever calls"
    (told,) = running(laptop, "phone2")
    assert (told["library"], told["context"], told["calls"]) == ("counter", "peer", 4)
    assert (told["failures"], told["problem"], told["memory_bytes"]) == (0, None, 4 * 65_536)
    assert "running" in phone.does("services")
    assert "runs already" in phone.does("service", "start", "counter", "--ctx", "peer")
    assert calls(laptop, "next", "--json").json["usage"]["wall_ms"] < 30_000
    phone.does("service", "stop", "counter")
    assert running(laptop, "phone2") == []
    assert [calls(laptop, "next").out for _ in range(2)] == ["101\n", "101\n"], "fresh each time"
    assert phone.types("service", "stop", "counter").status == 4


def test_a_trap_ends_the_instance_and_the_next_call_starts_anew(
    laptop: Device, phone: Device
) -> None:
    assert calls(laptop, "next").out == "101\n"
    trapped = calls(laptop, "trap")
    assert (trapped.status, "unreachable" in trapped.err) == (1, True), trapped
    (told,) = running(phone)
    assert (told["calls"], told["failures"]) == (2, 1)
    assert "unreachable" in told["problem"]
    assert "the next call starts it anew" in phone.does("services")
    assert calls(laptop, "next").out == "101\n"
    assert running(phone)[0]["problem"] is None


def test_a_call_without_end_is_ended_by_its_own_limit(laptop: Device, phone: Device) -> None:
    assert calls(laptop, "next").out == "101\n"
    spun = calls(laptop, "spin")
    assert (spun.status, "wall" in spun.err) == (5, True), spun
    assert calls(laptop, "next").out == "101\n"


def test_a_call_acts_as_its_caller(laptop: Device, phone: Device) -> None:
    assert calls(laptop, "read").out == "21\n", "as much as the answer has bytes"
    # What the one may touch the other may not, though both speak to one instance.
    phone.allow("p, laptop, peer, fs.read, /notes/a.txt, deny")
    refused = calls(laptop, "read")
    assert (refused.status, refused.out[:1]) == (0, "-"), "the guest is told of an error"
    assert calls(phone, "read").out == "21\n"


def test_a_flood_of_empty_lines_ends_one_instance(laptop: Device, phone: Device) -> None:
    assert calls(laptop, "next").out == "101\n"
    flooded = calls(laptop, "flood")
    assert (flooded.status, "error[limit-exceeded]" in flooded.err) == (5, True), flooded.err[-500:]
    assert calls(laptop, "next").out == "101\n", "the daemon lives, and a fresh instance"


def test_a_service_that_is_stopped_lets_its_callers_go(laptop: Device, phone: Device) -> None:
    found: list[Printed] = []
    thread = threading.Thread(target=lambda: found.append(calls(laptop, "spin")))
    thread.start()
    wait_until(lambda: phone.types("status", "--json").json["runs"] == 1, "it computes")
    phone.does("service", "stop", "counter")
    thread.join(30)
    assert (found[0].status, "stopped" in found[0].err) == (4, True), found
    assert running(phone) == []
    assert calls(laptop, "next").out == "101\n"


def test_its_lines_go_to_whoever_called(laptop: Device, phone: Device) -> None:
    assert "hello" in calls(laptop, "say").err
    assert "hello" not in calls(phone, "next").err


def test_calls_at_once_are_made_one_after_the_other(laptop: Device, phone: Device) -> None:
    found: list[Printed] = []
    threads = [
        threading.Thread(target=lambda: found.append(calls(laptop, "next"))) for _ in range(4)
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join(30)
    assert sorted(each.out for each in found) == ["101\n", "102\n", "103\n", "104\n"], found


def test_a_wrong_call_leaves_it_running(laptop: Device, phone: Device) -> None:
    assert calls(laptop, "next").out == "101\n"
    assert calls(laptop, "nothing").status == 2
    assert calls(laptop, "next", "1").status == 2
    assert calls(laptop, "next").out == "102\n"


def test_another_library_of_that_name_takes_its_place(
    laptop: Device, phone: Device, tmp_path: Path
) -> None:
    assert calls(laptop, "next").out == "101\n"
    (file := tmp_path / "counter.wasm").write_bytes(
        COUNTER.replace(b"\x41\xe4\x00\x24", b"\x41\xc8\x01\x24")
    )
    assert file.read_bytes() != COUNTER
    file.with_name("counter.wasm.toml").write_text(NEEDS)
    phone.does("lib", "publish", str(file), "--replace")
    try:
        assert calls(laptop, "next").out == "201\n"
    finally:
        file.write_bytes(COUNTER)
        phone.does("lib", "publish", str(file), "--replace")
    assert calls(laptop, "next").out == "101\n"


def test_what_cannot_stay_is_told(phone: Device, tmp_path: Path) -> None:
    examples = Path(__file__).parents[2] / "examples"
    phone.does("lib", "publish", str(examples / "cat.wasm"))
    refused = phone.types("service", "start", "cat")
    assert (refused.status, "a library or a reactor" in refused.err) == (2, True), refused
    (file := tmp_path / "broken.wasm").write_bytes(
        wat.assemble('(module (func $s unreachable) (start $s) (func (export "f")))')
    )
    phone.does("lib", "publish", str(file))
    broken = phone.types("service", "start", "broken", "--ctx", "peer")
    assert (broken.status, "cannot be started" in broken.err) == (1, True), broken
    assert [each["library"] for each in running(phone)] == ["counter"]
    assert phone.types("service", "start", "nothing").status == 4


def test_calls_count_in_their_callers_quotas(laptop: Device, phone: Device) -> None:
    assert calls(laptop, "next").out == "101\n"
    phone.does("group", "add", "spinners", "laptop")
    phone.does("config", "set", "quota.groups.spinners.cpu", "1s")
    try:
        spun = calls(laptop, "spin")
        assert (spun.status, "spinners" in spun.err) == (5, True), spun
        found = phone.types("quota", "--json").json["quotas"]
        (used,) = (each for each in found if each["name"] == "spinners")
        assert used["cpu_ms"] >= 1000, used
        assert calls(phone, "next").out == "101\n", "others go on"
    finally:
        phone.does("group", "rm", "spinners", "laptop")
