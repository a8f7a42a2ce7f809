"""Scripts that count, sent between hosts on a faulty wire: sent, ended, handled how often."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from orvalho.control.client import Client
from orvalho.control.messages import RunQueued, ScriptList, ScriptListReply, ScriptSend
from tests.faults.lossy_wire import Faults, Wire, lossy_wire
from tests.scenarios.devices import Device, wait_until

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


def pair(one: Device, other: Device) -> None:
    ticket = other.does("peer", "invite").strip().splitlines()[-1].strip()
    one.does("peer", "add", ticket)
    wait_until(lambda: one.online(other.name) and other.online(one.name), "they are linked")


def send(sender: Device, to: str, numbers: range, source: str = COUNTING) -> list[str]:
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


def ended(host: Device, count: int) -> list[float]:
    """From the send to its end being known, in seconds, of every run that is done."""
    with Client(host.socket) as client:
        runs = client.ask(ScriptList(limit=count), ScriptListReply).runs
    over = [run for run in runs if run.state == "ended"]
    assert all(run.outcome == "done" for run in over), Counter(run.outcome for run in over)
    return [run.ended_at - run.created_at for run in over if run.ended_at is not None]


def handled(host: Device) -> Counter[int]:
    """How often each number was counted, in the target's own store."""
    found: Counter[int] = Counter()
    with sqlite3.connect(f"file:{host.home / 'state/orvalho.db'}?mode=ro", uri=True) as database:
        for key, value in database.execute("select key, value from kv"):
            found[int(key.removeprefix("n/"))] = msgspec.json.decode(value)
    return found


def allow_counting(host: Device) -> None:
    host.allow("p, laptop, peer, kv.read, n/**, allow", "p, laptop, peer, kv.write, n/**, allow")


def all_end(host: Device, count: int, limit_s: float = 240.0) -> list[float]:
    wait_until(lambda: len(ended(host, count)) == count, "all have ended", limit_s)
    return sorted(ended(host, count))
