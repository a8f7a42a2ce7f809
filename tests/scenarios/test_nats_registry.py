"""Devices that find each other by what they leave on a NATS server, which they do not believe."""

from __future__ import annotations

import asyncio
import os
import random
import re
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import nats
from nats.js.client import JetStreamContext

from orvalho.contexts.identity import Signer, certify, parse_key
from orvalho.contexts.nkeys import user_nkey
from orvalho.peers.records import Record, sign_record
from orvalho.transports.nats_bucket import BUCKET, SUBJECTS
from tests.scenarios.devices import Device, wait_until
from tests.transports.nats_server import NatsServer, free_port

# No link may go through the server: what is left is what lies there.
NO_LINKS = """
authorization { users: [
  { user: node, password: word, permissions: { publish: { deny: ["orvalho.link.>"] } } }
  { user: admin, password: word }
] }
"""
SETTINGS = '\n[nats]\nstream = "orvalho"\n[mesh]\nbeacons = false\nheartbeat = "1s"\n'


@contextmanager
def registry_devices(top: Path, server: NatsServer) -> Iterator[tuple[Device, Device]]:
    """Laptop and phone2, linked directly for as long as both are where they were."""
    laptop, phone = Device("laptop", top / "laptop"), Device("phone2", top / "phone2")
    try:
        for device in (laptop, phone):
            device.init()
            with (device.home / "config/config.toml").open("a") as file:
                file.write(SETTINGS)
            settle(device, server)
            device.start()
        phone.does("ctx", "new", "peer")
        ticket = phone.does("peer", "invite").strip().splitlines()[-1].strip()
        laptop.does("peer", "add", ticket)
        wait_until(lambda: laptop.online("phone2") and phone.online("laptop"), "they are linked")
        yield laptop, phone
    finally:
        laptop.stop()
        phone.stop()


def settle(device: Device, server: NatsServer) -> None:
    """Have it listen elsewhere than before, and on the server."""
    config = device.home / "config/config.toml"
    listen = f'["ws://127.0.0.1:{free_port()}", "{server.url.replace("//", "//node:word@")}"]'
    config.write_text(re.sub(r"listen = .*", f"listen = {listen}", config.read_text()))


def keeper(top: Path) -> NatsServer:
    return NatsServer(top, f'jetstream {{ store_dir: "{top}/js" }}\n{NO_LINKS}')


def on_server(server: NatsServer, work: Callable[[JetStreamContext], Awaitable[None]]) -> None:
    """Do something there that no node may: the server's owner, or who has taken it over."""

    async def do() -> None:
        url = server.url.replace("//", "//admin:word@")
        client = await nats.connect(url, allow_reconnect=False)
        try:
            await work(client.jetstream())
        finally:
            await client.close()

    asyncio.run(do())


def lying_there(server: NatsServer) -> dict[str, bytes]:
    found: dict[str, bytes] = {}

    async def read(stream: JetStreamContext) -> None:
        bucket = await stream.key_value(BUCKET)
        for key in await bucket.keys():
            found[key] = (await bucket.get(key)).value or b""

    try:
        on_server(server, read)
    except nats.js.errors.NotFoundError:
        return {}
    return found


def test_two_that_both_moved_find_each_other_by_the_records_on_the_server(tmp_path: Path) -> None:
    with keeper(tmp_path) as server, registry_devices(tmp_path, server) as (laptop, phone):
        wait_until(lambda: len(lying_there(server)) == 2, "both records are there")
        # when both are elsewhere, and neither knows where the other one is
        for device in (laptop, phone):
            device.stop()
            settle(device, server)
        old = lying_there(server)
        laptop.start()
        phone.start()
        # then each new record has come to the other one, and they are linked
        wait_until(lambda: laptop.online("phone2") and phone.online("laptop"), "linked again", 60)
        path = laptop.types("status", "--json").json["peers"][0]["path"]
        assert path.startswith("direct 127.0.0.1:")
        new = lying_there(server)
        assert new.keys() == old.keys()
        assert all(new[key] != old[key] for key in new)


def known(device: Device) -> dict[str, str]:
    nodes = device.types("nodes", "--json").json["nodes"]
    return {each["name"]: each["known"] for each in nodes}


def rss_bytes(device: Device) -> int:
    pid = device.types("status", "--json").json["pid"]
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def strangers(count: int) -> Iterator[tuple[str, bytes]]:
    """Records that are in order, of nodes that nobody vouches for."""
    for number in range(count):
        signer = Signer(number.to_bytes(32))
        record = Record(
            name=f"n{number}",
            owner_key=signer.key,
            certificate=certify(signer, "node", f"n{number}", signer.key, 0.0),
            addresses=("ws://192.0.2.1:1",),
            contexts=(),
            capabilities=(),
            labels=(),
            vouches=(),
            revocations=(),
            issued_at=0.0,
        )
        yield user_nkey(signer.key), sign_record(signer, 1, record).blob


def test_one_that_was_never_met_is_known_by_its_record_and_a_lying_server_changes_nothing(
    tmp_path: Path,
) -> None:
    tablet = Device("tablet", tmp_path / "tablet")
    with keeper(tmp_path) as server, registry_devices(tmp_path, server) as (laptop, phone):
        try:
            # given a tablet that the phone alone has met, while the laptop was off
            wait_until(lambda: len(lying_there(server)) == 2, "both records are there")
            first = lying_there(server)
            laptop.stop()
            tablet.init()
            with (tablet.home / "config/config.toml").open("a") as file:
                file.write(SETTINGS)
            settle(tablet, server)
            tablet.start()
            tablet.does("peer", "add", phone.does("peer", "invite").split()[-1])
            wait_until(lambda: len(lying_there(server)) == 3, "its record is there")
            wait_until(lambda: changed(server, first) >= 2, "the phone vouches for it there")
            phone.stop()
            # when the laptop is on alone
            laptop.start()
            # then it knows the tablet by the server, and when it last said something
            wait_until(lambda: known(laptop).get("tablet") == "via nats", "it is known")
            nodes = laptop.types("nodes", "--json").json["nodes"]
            assert all(each["last_seen_at"] for each in nodes if each["name"] == "tablet")

            # and when the server holds garbage, old and forged records, and 10,000 strangers
            before, size = known(laptop), rss_bytes(laptop)
            true = lying_there(server)

            async def lie(stream: JetStreamContext) -> None:
                draw = random.Random(7)
                for key, value in true.items():
                    newer = bytearray(value)
                    newer[33:41] = (1 << 40).to_bytes(8)
                    for lied in (
                        bytes(newer),
                        draw.randbytes(1000),
                        first.get(key, b"x"),
                        true[draw.choice(list(true))],
                        b"\x01" + bytes(200),
                    ):
                        await stream.publish(f"{SUBJECTS}.{key}", lied)
                for key, value in strangers(10_000):
                    await stream._nc.publish(f"{SUBJECTS}.{key}", value)
                for name in ("x", "a.b", "U" * 56):
                    await stream._nc.publish(f"{SUBJECTS}.{name}", b"x")
                await stream._nc.flush()

            on_server(server, lie)
            assert known(laptop) == before
            assert rss_bytes(laptop) - size < 32 << 20
            # and the tablet, when it says something new, is still heard
            tablet.does("config", "set", "node.labels", '["env=road"]')
            wait_until(lambda: "env=road" in labels(laptop, "tablet"), "it is heard")
            # and the laptop's own record is put right when it looks again
            laptop.stop()
            laptop.start()
            own = next(key for key in true if key == nkey_of(laptop))
            wait_until(
                lambda: lying_there(server).get(own, b"")[:33] == true[own][:33], "put right"
            )
        finally:
            tablet.stop()


def changed(server: NatsServer, before: dict[str, bytes]) -> int:
    """How many records are new, or others than before."""
    return sum(before.get(key) != value for key, value in lying_there(server).items())


def labels(device: Device, name: str) -> list[str]:
    nodes = device.types("nodes", "--json").json["nodes"]
    return next(each["labels"] for each in nodes if each["name"] == name)


def nkey_of(device: Device) -> str:
    return user_nkey(parse_key(device.types("status", "--json").json["key"]))
