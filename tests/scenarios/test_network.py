"""The whole road, on three real devices: they pair by code, find each other, wait for one that is
off, run its script once, bring the receipt home, and shut out one that was lost."""

from __future__ import annotations

import json
from pathlib import Path

from tests.scenarios.devices import Device, wait_until
from tests.scenarios.test_pairing import devices, showing

MARK = """\
// /// orvalho
// needs = ["target.kv.read:count", "target.kv.write:count"]
// ///
export default async ({ params, target }) => {
  const count = ((await target.kv.get("count")) ?? 0) + 1;
  await target.kv.put("count", count);
  return `${params.word} ${count}`;
};
"""


def pair(shows: Device, types: Device) -> None:
    with showing(shows) as shown:
        typed = types.types("pair", shown.first)
        assert (typed.status, shown.ends()[0]) == (0, 0), typed


def runs(device: Device) -> list[dict[str, str]]:
    found: list[dict[str, str]] = device.types("script", "ls", "--json").json["runs"]
    return found


def states(device: Device) -> dict[str, str]:
    nodes = device.types("nodes", "--json").json["nodes"]
    return {each["name"]: each["state"] for each in nodes}


def test_the_story_of_three_devices(tmp_path: Path) -> None:
    heartbeat = '[mesh]\nheartbeat = "1s"\n'
    with devices(tmp_path, "laptop", "server", "phone2", config=heartbeat) as all_three:
        laptop, server, phone = all_three
        phone.does("ctx", "new", "peer")
        # given a server that both others have paired with, and take for one that introduces
        pair(server, laptop)
        pair(server, phone)
        for device in (laptop, phone):
            device.does("peer", "set", "server", "--introducer")
        # then they find each other
        for one, other in ((laptop, "phone2"), (phone, "laptop")):
            wait_until(lambda a=one, b=other: a.online(b), f"{one.name} has met {other}")
        assert "introduced by server" in laptop.does("peer", "ls", "-v")
        assert "pong from phone2 via direct" in laptop.does("ping", "phone2", "-c", "1")
        assert set(states(laptop).values()) == {"alive"}

        # when the phone is off
        phone.allow(
            "p, laptop, peer, kv.read, count, allow", "p, laptop, peer, kv.write, count, allow"
        )
        phone.stop()
        wait_until(lambda: states(laptop)["phone2"] == "dead", "it is missed")
        (tmp_path / "mark.js").write_text(MARK)
        script = ("script", "send", "peer@phone2", str(tmp_path / "mark.js"), "--param")
        sent = laptop.types(*script, "word=hello")
        assert sent.status == 7
        assert "queued at server, expires in 7 d" in sent.err
        # and the sender goes as well
        laptop.stop()
        phone.start()
        wait_until(lambda: [each["outcome"] for each in runs(phone)] == ["done"], "it has run")
        wait_until(lambda: phone.online("server"), "it is linked")
        # then it runs once, and the receipt comes home though they never met
        wait_until(
            lambda: (
                server.types("depot", "ls", "--json").json["piles"] != []
                and all(
                    pile["recipient"] == "laptop"
                    for pile in server.types("depot", "ls", "--json").json["piles"]
                )
            ),
            "the answer lies at the server",
        )
        phone.stop()
        laptop.start()
        wait_until(lambda: runs(laptop)[0]["outcome"] == "done", "the receipt has come")
        run = runs(laptop)[0]["run"]
        assert json.loads(laptop.does("script", "result", run)) == "hello 1"
        assert laptop.types("script", "show", run, "--json").json["receipt"]["run"] == run

        # when the laptop is lost
        phone.start()
        wait_until(lambda: laptop.online("phone2") and server.online("phone2"), "all are here")
        server.does("peer", "revoke", "laptop", "-y")
        wait_until(lambda: states(phone)["laptop"] == "revoked", "the phone has heard")
        wait_until(lambda: not laptop.online("phone2"), "its link is dropped")
        # then nobody runs anything of it, and it is told
        assert laptop.types(*script, "word=again").status in (6, 7)
        wait_until(lambda: laptop.types("ping", "phone2", "-c", "1").status == 6, "it is refused")
        assert [each["outcome"] for each in runs(phone)] == ["done"]
