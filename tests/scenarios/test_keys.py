"""The keys of real devices: shown, written down, had again on a new device."""

from __future__ import annotations

from pathlib import Path

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
