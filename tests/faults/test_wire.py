"""Real daemons on a wire that loses, repeats, reorders and cuts frames."""

from __future__ import annotations

import json
import signal
import sqlite3
import statistics
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from orvalho.control.client import Client
from orvalho.control.messages import RunQueued, ScriptList, ScriptListReply, ScriptSend
from tests.faults.lossy_wire import Faults, Host, Wire, cut_off, is_possible, lossy_wire
from tests.scenarios.devices import wait_until
from tests.transports.nats_server import binary

pytestmark = pytest.mark.skipif(
    not is_possible(), reason="needs root, `ip netns` and /dev/net/tun to make hosts"
)

BAD = Faults(loss=0.2, repeat=0.1, reorder=0.1, delay_s=0.002, jitter_s=0.004)
# Reads and writes the target's store, so a script that runs twice is seen.
COUNTING = """\
// /// orvalho
// needs = ["target.kv.read:n/**", "target.kv.write:n/**"]
// ///
export default async ({ target, params }) => {
  const key = `n/${params}`;
  await target.kv.put(key, ((await target.kv.get(key)) ?? 0) + 1);
}
"""
COUNT = 1000
DAY_S = 86_400
SKEWED = Path(__file__).with_name("skewed_daemon.py")


@contextmanager
def paired(top: Path, *names: str, seed: int = 1, scheme: str = "ws") -> Iterator[Wire]:
    """Hosts whose daemons run, all paired with the first, each with a context `peer`."""
    with lossy_wire(top, *names, seed=seed, scheme=scheme) as wire:
        for host in wire.hosts:
            host.init()
            host.start()
            host.does("ctx", "new", "peer")
        first, *others = wire.hosts
        for host in others:
            pair(first, host)
        yield wire


def pair(one: Host, other: Host) -> None:
    ticket = other.does("peer", "invite").strip().splitlines()[-1].strip()
    one.does("peer", "add", ticket)
    wait_until(lambda: one.online(other.name) and other.online(one.name), "they are linked")


def send(sender: Host, to: str, numbers: range, source: str = COUNTING) -> list[str]:
    """Durable when it returns; nobody waits for the ends."""
    ids = []
    with Client(sender.socket) as client:
        for number in numbers:
            request = ScriptSend(
                to=to,
                filename="count.js",
                source=source,
                params=msgspec.Raw(str(number).encode()),
                detach=True,
            )
            for reply in client.stream(request):
                if isinstance(reply, RunQueued):
                    ids.append(reply.run)
    return ids


def ended(host: Host, count: int) -> list[float]:
    """From the send to its end being known, in seconds, of every run that is done."""
    with Client(host.socket) as client:
        runs = client.ask(ScriptList(limit=count), ScriptListReply).runs
    over = [run for run in runs if run.state == "ended"]
    assert all(run.outcome == "done" for run in over), Counter(run.outcome for run in over)
    return [run.ended_at - run.created_at for run in over if run.ended_at is not None]


def handled(host: Host) -> Counter[int]:
    """How often each number was counted, in the target's own store."""
    found: Counter[int] = Counter()
    with sqlite3.connect(f"file:{host.home / 'state/orvalho.db'}?mode=ro", uri=True) as database:
        for key, value in database.execute("select key, value from kv"):
            found[int(key.removeprefix("n/"))] = msgspec.json.decode(value)
    return found


def allow_counting(host: Host) -> None:
    host.allow("p, laptop, peer, kv.read, n/**, allow", "p, laptop, peer, kv.write, n/**, allow")


def all_end(host: Host, count: int, limit_s: float = 240.0) -> list[float]:
    wait_until(lambda: len(ended(host, count)) == count, "all have ended", limit_s)
    return sorted(ended(host, count))


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
