"""The keys of real devices: shown, written down, had again on a new device."""

from __future__ import annotations

import time
from pathlib import Path

from orvalho.contexts.identity import Identity, key_text
from tests.scenarios.devices import Device, wait_until
from tests.scenarios.test_pairing import devices, showing, words


def test_a_lost_device_comes_back_by_its_phrase(tmp_path: Path) -> None:
    with devices(tmp_path, "laptop", "phone2") as (laptop, phone):
        with showing(laptop) as shown:
            phone.does("pair", shown.first)
            assert shown.ends()[0] == 0
        assert laptop.types("key", "phrase").status == 2
        phrase = laptop.does("key", "phrase", "-y").strip()
        assert len(phrase.split()) == 24
        keys = laptop.types("key", "show", "--json").json
        said = words(phone, "laptop")
        laptop.kill()

        new = Device("laptop", tmp_path / "new")
        listen = ("--name", "laptop", "--listen", "ws://127.0.0.1:0", "--restore")
        letters = phrase.split()
        wrong = new.types("init", *listen, stdin=" ".join(["abandno", *letters[1:]]))
        assert (wrong.status, "word 1" in wrong.err, '"abandon"' in wrong.err) == (2, True, True)
        swapped = new.types("init", *listen, stdin=" ".join([*letters[12:], *letters[:12]]))
        assert (swapped.status, "checksum" in swapped.err) == (2, True), swapped
        assert not (new.home / "state").exists()

        restored = new.types("init", *listen, stdin=phrase + "\n")
        assert (restored.status, "restored laptop" in restored.out) == (0, True), restored
        assert "already initialised" in new.types("init", *listen, stdin=phrase).out
        other = new.types("init", *listen, stdin="zoo " * 23 + "vote")
        assert (other.status, "keys of its own" in other.err) == (1, True), other

        port = (laptop.home / "config/conf.d/pairing.toml").read_text()
        (new.home / "config/conf.d/pairing.toml").write_text(port)
        try:
            new.start()
            again = new.types("key", "show", "--json").json
            assert {k: again[k] for k in ("device_id", "key", "owner_key")} == {
                k: keys[k] for k in ("device_id", "key", "owner_key")
            }
            # The book of peers is not in the phrase; they know the key, and need no new trust.
            with showing(phone) as shown:
                assert new.types("pair", shown.first).status == 0
                assert shown.ends()[0] == 0
            wait_until(lambda: phone.online("laptop") and new.online("phone2"), "they are linked")
            assert phone.does("peer", "ls").count("\n") == 1
            assert words(phone, "laptop") == words(new, "phone2") == said
        finally:
            new.stop()


def paired(top: Path, laptop: Device, phone: Device) -> None:
    with showing(laptop) as shown:
        phone.does("pair", shown.first)
        assert shown.ends()[0] == 0
    wait_until(lambda: laptop.online("phone2") and phone.online("laptop"), "they are linked")


def key_of(device: Device) -> str:
    found: str = device.types("key", "show", "--json").json["key"]
    return found


def test_a_node_changes_its_key_and_keeps_its_peers(tmp_path: Path) -> None:
    with devices(tmp_path, "laptop", "phone2") as (laptop, phone):
        paired(tmp_path, laptop, phone)
        phone.does("ctx", "new", "peer")
        laptop.does("ctx", "new", "peer")
        before, said = laptop.types("key", "show", "--json").json, words(phone, "laptop")
        contexts = laptop.types("ctx", "ls", "--json").json["contexts"]

        assert laptop.types("key", "rotate").status == 2
        rotated = laptop.types("key", "rotate", "-y", "--json")
        assert rotated.status == 0, rotated
        after = laptop.types("key", "show", "--json").json
        assert after["key"] == rotated.json["key"] != before["key"] == rotated.json["old_key"]
        assert (after["owner_key"], after["rotations"]) == (before["owner_key"], 1)
        now = laptop.types("ctx", "ls", "--json").json["contexts"]
        assert [each["key"] for each in now] == [each["key"] for each in contexts]

        wait_until(lambda: laptop.online("phone2") and phone.online("laptop"), "linked again")
        new_words = words(phone, "laptop")
        assert new_words == words(laptop, "phone2") == rotated.json["peers"][0]["check_words"]
        assert new_words != said
        (peer,) = phone.types("peer", "ls", "--json").json["peers"]
        assert peer["key"] == after["key"]
        # They still run each other's scripts, and what ran before is still explained.
        for device, target in ((laptop, "peer@phone2"), (phone, "peer@laptop")):
            done = device.types("script", "send", target, "-e", "1 + 1", "--json")
            assert (done.status, done.json["result"]) == (0, 2), done

        # The phrase says that the key was changed, and gives the new one.
        phrase = laptop.does("key", "phrase", "-y").strip()
        assert phrase.endswith(" 1")
        restored = Device("copy", tmp_path / "copy")
        options = ("--name", "copy", "--listen", "ws://127.0.0.1:0", "--restore")
        assert restored.types("init", *options, stdin=phrase).status == 0
        assert before["device_id"] not in restored.does("init")
        assert after["device_id"] in restored.does("init")


def test_a_peer_that_was_off_learns_of_two_changes(tmp_path: Path) -> None:
    with devices(tmp_path, "laptop", "phone2") as (laptop, phone):
        paired(tmp_path, laptop, phone)
        laptop.does("ctx", "new", "peer")
        phone.kill()
        for _ in range(2):
            assert laptop.types("key", "rotate", "-y").status == 0
        laptop.kill()
        # Mail for the old key waits at the phone, and reaches the node under its new one.
        phone.start()
        waits = phone.types("script", "send", "peer@laptop", "-e", "40 + 2", "--json")
        assert waits.status == 7, waits
        laptop.start()
        run = waits.json["run"]
        done = phone.types("script", "result", run, "--wait", "--json")
        assert (done.status, done.json["result"]) == (0, 42), done
        assert words(phone, "laptop") == words(laptop, "phone2")
        assert phone.types("peer", "ls", "--json").json["peers"][0]["key"] == key_of(laptop)

        assert laptop.types("key", "rotate", "-y").status == 0
        fourth = laptop.types("key", "rotate", "-y")
        assert (fourth.status, "3 times within 30 days" in fourth.err) == (5, True), fourth


def test_mail_that_waits_holds_a_change_back(tmp_path: Path) -> None:
    with devices(tmp_path, "laptop", "phone2") as (laptop, phone):
        paired(tmp_path, laptop, phone)
        phone.does("ctx", "new", "peer")
        wait_until(lambda: "peer@" in laptop.types("resolve", "peer@phone2").out, "it is known")
        phone.kill()
        wait_until(lambda: not laptop.online("phone2"), "the phone is gone")
        waits = laptop.types("script", "send", "peer@phone2", "-e", "1", "--json")
        assert waits.status == 7, waits
        old = key_of(laptop)
        held = laptop.types("key", "rotate", "-y")
        assert (held.status, "1 for phone2" in held.err) == (1, True), held
        assert key_of(laptop) == old
        assert laptop.types("key", "rotate", "-y", "--force").status == 0
        assert key_of(laptop) != old
        # Nobody waits for what was given up: its owner is told.
        ended = laptop.types("script", "result", waits.json["run"])
        assert ended.status not in (0, 7), ended
        phone.start()
        wait_until(lambda: laptop.online("phone2") and phone.online("laptop"), "linked again")


def test_a_crash_around_a_change_leaves_one_of_the_keys(tmp_path: Path) -> None:
    with devices(tmp_path, "laptop", "phone2") as (laptop, phone):
        paired(tmp_path, laptop, phone)
        old = key_of(laptop)
        # The moment before: a draft that no rename made good.
        (laptop.home / "state/keys/rotation.draft").write_bytes(b"[17")
        laptop.kill()
        laptop.start()
        assert key_of(laptop) == old
        # The moment after: the key lies there, and the daemon died before it used it.
        laptop.kill()
        phone.stop()
        keys = laptop.home / "state/keys"
        new = key_text(Identity.load(keys).rotated(keys, time.time()).node.key)
        laptop.start()
        assert key_of(laptop) == new != old
        # The phone dies as it writes the new key down: just before, and just after.
        for phase in ("before", "after"):
            laptop.stop()
            phone.start(phase, "peer.succeed", "1")
            laptop.start()
            wait_until(lambda: phone.has_died, f"the phone dies {phase}")
        phone.start()
        wait_until(lambda: laptop.online("phone2") and phone.online("laptop"), "linked again")
        assert phone.types("peer", "ls", "--json").json["peers"][0]["key"] == new


def test_a_revoked_device_does_not_come_back_by_changing_its_key(tmp_path: Path) -> None:
    heartbeat = '[mesh]\nheartbeat = "1s"\n'
    with devices(tmp_path, "laptop", "server", "phone2", config=heartbeat) as (
        laptop,
        server,
        phone,
    ):
        for one, other in ((server, laptop), (server, phone), (laptop, phone)):
            with showing(one) as shown:
                other.does("pair", shown.first)
                assert shown.ends()[0] == 0
        laptop.does("peer", "set", "server", "--introducer")
        # given a phone that is revoked while the server is off
        server.stop()
        laptop.does("peer", "revoke", "phone2", "-y")
        laptop.stop()
        # when it changes its key and is the first whom the server meets
        assert phone.types("key", "rotate", "-y").status == 0
        server.start()
        wait_until(lambda: server.online("phone2"), "the server does not know yet")
        # then it is shut out all the same once the server hears, and introduced by nobody
        laptop.start()
        wait_until(lambda: not server.online("phone2"), "the server has heard")
        wait_until(lambda: laptop.online("server"), "they are linked")
        peers = [each["name"] for each in laptop.types("peer", "ls", "--json").json["peers"]]
        assert peers == ["server"]
        peers = [each["name"] for each in server.types("peer", "ls", "--json").json["peers"]]
        assert peers == ["laptop"]
