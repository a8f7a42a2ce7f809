"""Two devices that know no address but a NATS server's, real daemons and a real server."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from orvalho.control.client import Client
from orvalho.control.messages import RunQueued, ScriptSend
from tests.scenarios.devices import Device, wait_until
from tests.transports.nats_server import NatsServer

SCRIPTS = 300
MARK = """\
// /// orvalho
// needs = ["target.kv.read:*", "target.kv.write:*"]
// ///
export default async function ({ params, target }) {
  const key = `n${params.n}`;
  await target.kv.put(key, ((await target.kv.get(key)) ?? 0) + 1);
}
"""
MARKS = f"""\
// /// orvalho
// needs = ["target.kv.read:*"]
// ///
export default async function ({{ target }}) {{
  const marks = [];
  for (let n = 0; n < {SCRIPTS}; n++) marks.push((await target.kv.get(`n${{n}}`)) ?? 0);
  return marks;
}}
"""


@contextmanager
def nats_devices(top: Path, server: NatsServer) -> Iterator[tuple[Device, Device]]:
    """Laptop and phone2, linked over the server alone."""
    laptop, phone = Device("laptop", top / "laptop"), Device("phone2", top / "phone2")
    try:
        for device in (laptop, phone):
            device.does("init", "--name", device.name, "--listen", server.url)
            device.start()
        phone.does("ctx", "new", "peer")
        ticket = phone.does("peer", "invite").strip().splitlines()[-1].strip()
        laptop.does("peer", "add", ticket)
        wait_until(lambda: laptop.online("phone2") and phone.online("laptop"), "they are linked")
        yield laptop, phone
    finally:
        laptop.stop()
        phone.stop()


def test_a_script_runs_over_nats_alone(tmp_path: Path) -> None:
    with NatsServer(tmp_path) as server, nats_devices(tmp_path, server) as (laptop, _phone):
        file = tmp_path / "add.js"
        file.write_text("export default ({ params }) => params.a + params.b")
        sent = laptop.does(
            *("script", "send", "peer@phone2", str(file)),
            *("--param", "a=40", "--param", "b=2", "--wait"),
        )
        assert json.loads(sent) == 42
        peer = laptop.types("status", "--json").json["peers"][0]
        assert server.url in peer["path"]


def test_the_server_dies_twice_under_load_nothing_is_lost_or_run_twice(tmp_path: Path) -> None:
    with NatsServer(tmp_path) as server, nats_devices(tmp_path, server) as (laptop, phone):
        phone.allow("p, laptop, peer, kv.read, *, allow", "p, laptop, peer, kv.write, *, allow")
        # given scripts that are sent without a pause, while the server dies and comes back
        with Client(laptop.socket, 30) as client:
            for n in range(SCRIPTS):
                if n in (60, 180):
                    server.kill()
                if n in (120, 240):
                    server.start()
                params = msgspec.Raw(msgspec.json.encode({"n": n}))
                request = ScriptSend(
                    to="peer@phone2", filename="m.js", source=MARK, params=params, detach=True
                )
                replies = list(client.stream(request))
                assert isinstance(replies[0], RunQueued)
        # then each has ended well
        wait_until(lambda: ended(laptop) == {"done": SCRIPTS}, "all runs have ended", 120)
        # and each has run once
        file = tmp_path / "marks.js"
        file.write_text(MARKS)
        marks = laptop.does("script", "send", "peer@phone2", str(file), "--wait")
        assert json.loads(marks) == [1] * SCRIPTS


def ended(laptop: Device) -> Counter[str | None]:
    """How many of the laptop's runs have come to which end."""
    runs = laptop.types("script", "ls", "--json", "--limit", "1000").json["runs"]
    return Counter(each["outcome"] for each in runs)
