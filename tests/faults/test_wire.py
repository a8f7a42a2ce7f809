"""Real daemons on a wire that loses, repeats, reorders and cuts frames."""

from __future__ import annotations

import json
import signal
import statistics
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults.counting import (
    BAD,
    COUNT,
    COUNTING,
    all_end,
    allow_counting,
    handled,
    pair,
    paired,
    send,
)
from tests.faults.lossy_wire import Faults, Host, cut_off, is_possible, lossy_wire
from tests.scenarios.devices import wait_until
from tests.transports.nats_server import binary

pytestmark = pytest.mark.skipif(
    not is_possible(), reason="needs root, `ip netns` and /dev/net/tun to make hosts"
)

DAY_S = 86_400
SKEWED = Path(__file__).with_name("skewed_daemon.py")


def test_a_thousand_scripts_are_handled_once_at_twenty_percent_loss(tmp_path: Path) -> None:
    with paired(tmp_path, "laptop", "phone2") as wire:
        laptop, phone = wire.hosts
        allow_counting(phone)
        wire.set(BAD)
        send(laptop, "peer@phone2", range(COUNT))
        took = all_end(laptop, COUNT)
        print(f"p50 {statistics.median(took):.2f} s, p99 {took[COUNT * 99 // 100]:.2f} s")
        counts = wire.counts()
        assert min(counts["lost"], counts["repeated"], counts["reordered"]) > 20, counts
        assert handled(phone) == Counter(dict.fromkeys(range(COUNT), 1))


def test_a_partition_of_ten_seconds_heals_and_loses_nothing(tmp_path: Path) -> None:
    with paired(tmp_path, "laptop", "phone2") as wire:
        laptop, phone = wire.hosts
        allow_counting(phone)
        send(laptop, "peer@phone2", range(50))
        wire.set(Faults(cut=cut_off(1, 2)))
        parted = time.monotonic()
        send(laptop, "peer@phone2", range(50, 100))
        wait_until(lambda: not laptop.online("phone2"), "the partition is seen")
        wait_until(lambda: not phone.online("laptop"), "on both sides")
        time.sleep(max(0.0, parted + 10 - time.monotonic()))
        assert set(handled(phone)) < set(range(100))
        wire.set(Faults())
        all_end(laptop, 100, limit_s=90)
        assert handled(phone) == Counter(dict.fromkeys(range(100), 1))


def test_a_way_that_is_cut_in_one_direction_is_noticed_by_both(tmp_path: Path) -> None:
    with paired(tmp_path, "laptop", "phone2") as wire:
        laptop, phone = wire.hosts
        wire.set(Faults(cut=((0, 1),)))
        wait_until(lambda: not laptop.online("phone2"), "who hears, but is not heard")
        wait_until(lambda: not phone.online("laptop"), "who does not hear")
        wire.set(Faults())
        wait_until(lambda: laptop.online("phone2"), "it is linked again", limit_s=90)


def test_a_peer_that_is_frozen_is_noticed_and_nothing_is_lost(tmp_path: Path) -> None:
    with paired(tmp_path, "laptop", "phone2") as wire:
        laptop, phone = wire.hosts
        allow_counting(phone)
        phone.signal(signal.SIGSTOP)
        try:
            frozen = time.monotonic()
            wait_until(lambda: not laptop.online("phone2"), "it is missed")
            print(f"noticed after {time.monotonic() - frozen:.1f} s")
            send(laptop, "peer@phone2", range(50))
        finally:
            phone.signal(signal.SIGCONT)
        all_end(laptop, 50, limit_s=90)
        assert handled(phone) == Counter(dict.fromkeys(range(50), 1))


def test_a_wire_that_swallows_large_frames_carries_small_ones_and_heals(tmp_path: Path) -> None:
    """A black hole for large packets: what is small gets through, what is large when it can."""
    with paired(tmp_path, "laptop", "phone2") as wire:
        laptop, phone = wire.hosts
        allow_counting(phone)
        wire.set(Faults(mtu_bytes=600))
        large = COUNTING + "//" + "x" * 100_000
        send(laptop, "peer@phone2", range(1), large)
        wait_until(lambda: wire.counts().get("too-large", 0) > 3, "frames are swallowed")
        assert handled(phone) == Counter()
        wire.set(Faults())
        all_end(laptop, 1, limit_s=120)
        assert handled(phone) == Counter({0: 1})


@pytest.mark.parametrize("scheme", ["ws", "h2", "h2s", "quic"])
def test_a_dead_link_is_noticed(tmp_path: Path, scheme: str) -> None:
    with paired(tmp_path, "laptop", "phone2", scheme=scheme) as wire:
        laptop, phone = wire.hosts
        (link,) = {each["transport"] for each in links(laptop)}
        assert link == scheme
        wire.set(Faults(cut=cut_off(1, 2)))
        cut = time.monotonic()
        wait_until(lambda: not laptop.online("phone2"), "it is missed")
        print(f"{scheme}: noticed after {time.monotonic() - cut:.1f} s")
        wait_until(lambda: not phone.online("laptop"), "on both sides")
        wire.set(Faults())
        wait_until(lambda: laptop.online("phone2"), "it is linked again", limit_s=90)


def test_a_dead_link_over_nats_is_noticed_although_the_server_lives(tmp_path: Path) -> None:
    with lossy_wire(tmp_path, "laptop", "phone2", "server") as wire:
        laptop, phone, server = wire.hosts
        with nats_server(server) as url:
            for host in (laptop, phone):
                host.does("init", "--name", host.name, "--listen", url)
                host.start()
            pair(laptop, phone)
            wire.set(Faults(cut=cut_off(1, 3)))
            cut = time.monotonic()
            wait_until(lambda: not laptop.online("phone2"), "it is missed")
            print(f"nats: noticed after {time.monotonic() - cut:.1f} s")
            wire.set(Faults())
            wait_until(lambda: laptop.online("phone2"), "it is linked again", limit_s=90)


@contextmanager
def nats_server(host: Host) -> Iterator[str]:
    """A server in a host's namespace, and where it listens."""
    words = [*host.wrapper, binary(), "-a", host.address, "-p", "4222"]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield f"nats://{host.address}:4222"
    finally:
        process.kill()
        process.wait()


@dataclass
class Skewed(Host):
    """A host whose clock is a day ahead."""

    @property
    def program(self) -> Path:
        return SKEWED

    @property
    def environ(self) -> dict[str, str]:
        return super().environ | {"ORVALHO_TEST_AHEAD_S": str(DAY_S)}


def test_a_clock_that_is_a_day_ahead_is_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    with lossy_wire(tmp_path, "laptop", "phone2", "server") as wire:
        right, phone, server = wire.hosts
        laptop = Skewed(right.name, right.home, namespace=right.namespace, address=right.address)
        wire.hosts[0] = laptop
        for host in wire.hosts:
            host.init()
            with (host.home / "config/config.toml").open("a") as file:
                file.write('[mesh]\nheartbeat = "1s"\n')
            host.start()
            host.does("ctx", "new", "peer")
        # They pair all the same: tickets of either side, and introductions by the third.
        pair(server, laptop)
        pair(server, phone)
        for host in (laptop, phone):
            host.does("peer", "set", "server", "--introducer")
        wait_until(lambda: laptop.online("phone2"), "they are introduced")
        job = tmp_path / "job.js"
        job.write_text("1 + 1")
        # From the future: refused, in numbers.
        words = ("script", "send", "peer@phone2", str(job))
        printed = laptop.types(*words)
        assert printed.status == 6, printed
        assert "from the future by 86,4" in printed.err
        assert "compare the clocks" in printed.err
        # What comes from the past has not expired.
        assert json.loads(phone.does("script", "send", "peer@laptop", str(job))) == 2
        # Gossip goes on: what changes here is heard there.
        phone.does("peer", "rename", "server", "box")
        laptop.does("config", "set", "node.labels", "room=attic")
        wait_until(
            lambda: "room=attic" in phone.types("nodes", "--json").out, "its new label is heard"
        )
        # And what is amiss is said where one looks.
        checked = phone.types("netcheck", "--json").json["peers"]
        ahead_ms = {each["name"]: each["clock_ahead_ms"] for each in checked}["laptop"]
        assert abs(ahead_ms / 1000 - DAY_S) < 60


def links(host: Host) -> list[dict[str, str]]:
    found: list[dict[str, str]] = host.types("transports", "--json").json["links"]
    return found
