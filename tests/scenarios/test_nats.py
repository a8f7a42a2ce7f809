"""Two devices that know no address but a NATS server's, real daemons and a real server."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import nats

from orvalho.contexts.identity import parse_key
from orvalho.contexts.nkeys import user_nkey
from orvalho.control.client import Client
from orvalho.control.messages import RunQueued, ScriptSend
from tests.scenarios.devices import Device, wait_until
from tests.transports.nats_server import NatsServer, free_port

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
def nats_devices(
    top: Path, server: NatsServer, settings: str = ""
) -> Iterator[tuple[Device, Device]]:
    """Laptop and phone2, linked over the server alone."""
    laptop, phone = Device("laptop", top / "laptop"), Device("phone2", top / "phone2")
    try:
        for device in (laptop, phone):
            device.does("init", "--name", device.name, "--listen", server.url)
            with (device.home / "config/config.toml").open("a") as file:
                file.write(settings)
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


def test_a_ping_through_a_server_that_is_off_says_so(tmp_path: Path) -> None:
    with NatsServer(tmp_path) as server, nats_devices(tmp_path, server) as (laptop, _phone):
        server.kill()
        wait_until(lambda: not laptop.online("phone2"), "the link is lost")
        wait_until(lambda: "no NATS server" in laptop.does("status"), "status says so")
        printed = laptop.types("ping", "phone2", "--timeout", "0.5")
        assert printed.status == 4, printed
        assert "no NATS server answers" in printed.err
        assert "nats-server -c" in printed.err


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


def test_they_are_never_on_together_and_the_script_still_runs_once(tmp_path: Path) -> None:
    server = NatsServer(tmp_path, f'jetstream {{ store_dir: "{tmp_path}/js" }}')
    keep = '\n[nats]\nstream = "orvalho"\n'
    with server, nats_devices(tmp_path, server, keep) as (laptop, phone):
        phone.allow("p, laptop, peer, kv.read, *, allow", "p, laptop, peer, kv.write, *, allow")
        file = tmp_path / "mark.js"
        file.write_text(MARK)
        # given a phone that is off when the script is sent
        phone.stop()
        wait_until(lambda: not laptop.online("phone2"), "the phone is off")
        words = ("script", "send", "peer@phone2", str(file), "--param", "n=0", "--detach")
        assert laptop.types(*words).status in (0, 7)
        wait_until(lambda: held(server) >= 1, "the stream has it")
        before = held(server)
        # and a laptop that is off when the phone wakes
        laptop.stop()
        phone.start()
        wait_until(lambda: ended(phone) == {"done": 1}, "it has run")
        wait_until(lambda: held(server) >= before + 2, "its answers are under way")
        phone.stop()
        # then the laptop learns of it all the same
        laptop.start()
        wait_until(lambda: ended(laptop) == {"done": 1}, "the receipt has come")
        # and once both are there, it still has run once
        phone.start()
        wait_until(lambda: laptop.online("phone2"), "they are linked")
        marks = tmp_path / "marks.js"
        marks.write_text(MARKS)
        found = json.loads(laptop.does("script", "send", "peer@phone2", str(marks), "--wait"))
        assert found == [1] + [0] * (SCRIPTS - 1)


def held(server: NatsServer) -> int:
    """How many messages the stream has ever taken."""

    async def ask() -> int:
        client = await nats.connect(server.url, allow_reconnect=False)
        try:
            return (await client.jetstream().stream_info("orvalho")).state.last_seq
        finally:
            await client.close()

    return asyncio.run(ask())


def test_the_servers_configuration_follows_pairing_and_parting(tmp_path: Path) -> None:
    server = NatsServer(tmp_path, port=free_port())
    laptop, phone = Device("laptop", tmp_path / "laptop"), Device("phone2", tmp_path / "phone2")
    try:
        for device in (laptop, phone):
            device.init()
            device.start()
        listen = f"127.0.0.1:{server.port}"
        written = laptop.types("nats", "config", "--listen", listen, "--json").json
        assert written["nodes"] == ["laptop"]
        again = laptop.types("nats", "config", "--listen", listen, "--json").json
        assert not again["changed"]
        assert laptop.types("nats", "config", "--leaf-hub", "nowhere").status == 2
        server.file = Path(written["path"])
        with server:
            ticket = phone.does("peer", "invite").strip().splitlines()[-1].strip()
            laptop.does("peer", "add", ticket)
            wait_until(lambda: "# phone2" in server.file.read_text(), "the phone is let in")
            laptop.does("peer", "rm", "phone2", "-y")
            wait_until(lambda: "# phone2" not in server.file.read_text(), "it is let in no more")
    finally:
        laptop.stop()
        phone.stop()


def test_the_server_asks_the_daemon_and_pairing_and_revoking_count_at_once(tmp_path: Path) -> None:
    server = NatsServer(tmp_path)
    laptop, phone = Device("laptop", tmp_path / "laptop"), Device("phone2", tmp_path / "phone2")
    try:
        for device in (laptop, phone):
            device.init()
            config = device.home / "config/config.toml"
            both = rf'listen = [\1, "{server.url}"]'
            config.write_text(re.sub(r"listen = \[(.*)\]", both, config.read_text()))
            device.start()
        listen = f"127.0.0.1:{server.port}"
        written = laptop.types("nats", "config", "--listen", listen, "--callout", "--json").json
        assert written["callout"]
        server.file = Path(written["path"])
        with server:
            # given a phone that is not paired: the server has asked, and it stays out
            wait_until(lambda: not laptop.types("status", "--json").json["problems"], "we are in")
            wait_until(lambda: "refuses this node" in phone.does("status"), "the phone is not")
            assert user_nkey_of(phone) not in server.file.read_text()
            # when it is paired, it comes in, and nothing was written
            before = server.file.read_text()
            laptop.does("peer", "add", phone.does("peer", "invite").split()[-1])
            wait_until(lambda: not phone.types("status", "--json").json["problems"], "it is in")
            # also by a daemon that was started again
            laptop.stop()
            server.kill()
            laptop.start()
            server.start()
            wait_until(lambda: not phone.types("status", "--json").json["problems"], "it is in")
            assert server.file.read_text() == before
            # and when it is revoked, it is dropped
            laptop.does("peer", "revoke", "phone2", "-y")
            wait_until(lambda: "refuses this node" in phone.does("status"), "it is out")
    finally:
        laptop.stop()
        phone.stop()


def user_nkey_of(device: Device) -> str:
    return user_nkey(parse_key(device.types("status", "--json").json["key"]))


def test_a_daemon_starts_without_its_server_says_so_and_finds_it_later(tmp_path: Path) -> None:
    server = NatsServer(tmp_path)
    laptop = Device("laptop", tmp_path / "laptop")
    laptop.does("init", "--name", "laptop", "--listen", server.url)
    try:
        laptop.start()
        told = laptop.types("status", "--json").json["problems"]
        assert any(f"{server.url}: no NATS server answers" in each for each in told)
        findings = laptop.types("doctor", "--json").json["findings"]
        hints = [each["hint"] for each in findings if server.url in each["text"]]
        assert "start it: nats-server -c FILE" in hints
        checked = laptop.types("netcheck", "--json").json["listening"]
        assert "start it: nats-server -c FILE" in checked[0]["problem"]
        # and once this device has written the configuration, with the name of the file
        laptop.does("nats", "config", "--listen", f"127.0.0.1:{server.port}")
        wait_until(
            lambda: "nats/nats-server.conf" in laptop.types("doctor").out, "the file is named"
        )
        with server:
            wait_until(
                lambda: laptop.types("status", "--json").json["problems"] == [], "it is there"
            )
    finally:
        laptop.stop()
