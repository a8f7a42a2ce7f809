"""What is held ends with what it needs: its mount, its sender."""

from __future__ import annotations

from pathlib import Path

from tests.scenarios.devices import Device, two_devices, wait_until

WRITES = """\
// /// orvalho
// needs = ["target.fs.write:/**"]
// ///
export default async ({ target, params }) => target.fs.write(params.path, "x")
"""


def held(phone: Device) -> list[str]:
    return [each["run"] for each in phone.types("inbox", "--json").json["held"]]


def test_what_is_held_is_void_without_its_mount_and_rejected_without_its_sender(
    tmp_path: Path,
) -> None:
    (outside := tmp_path / "outside").mkdir()
    with two_devices(tmp_path) as (laptop, phone):
        phone.allow("p, laptop, peer, fs.write, /**, allow", "p, laptop, peer, script.run, *, hold")
        phone.does("ctx", "mount", "peer:/ext", f"dir:{outside}")
        (file := laptop.home / "job.js").write_text(WRITES)
        words = ("script", "send", "peer@phone2", str(file), "--param")
        assert laptop.types(*words, "path=/ext/a.txt").status == 7
        (run,) = held(phone)
        assert " s " in phone.types("inbox").out, "since when it waits"
        phone.does("ctx", "umount", "peer:/ext")
        refused = phone.types("inbox", "accept", run)
        assert "nothing is mounted at /ext" in refused.err, refused
        assert held(phone) == []
        assert laptop.types("script", "result", run, "--wait").status == 1

        phone.does("config", "set", "policy.explain_to", "none")
        assert laptop.types(*words, "path=/b.txt").status == 7
        (run,) = held(phone)
        assert "fs.write /b.txt" in phone.does("inbox", "show", run), "its owner is told all"
        phone.does("peer", "rm", "laptop", "--yes")
        assert held(phone) == []
        assert phone.types("inbox", "accept", run).status == 4
        assert not (phone.tree("peer") / "b.txt").exists()


DOCUMENT = """\
// /// orvalho
// needs = ["target.kv.write:**"]
// ///
export default async ({ target }) => target.docs("people").put("ada", { age: "old" });
"""


def test_what_is_accepted_fits_the_schemas_of_now(tmp_path: Path) -> None:
    with two_devices(tmp_path) as (laptop, phone):
        phone.allow("p, laptop, peer, kv.write, **, allow", "p, laptop, peer, script.run, *, hold")
        (file := laptop.home / "job.js").write_text(DOCUMENT)
        assert laptop.types("script", "send", "peer@phone2", str(file)).status == 7
        (run,) = held(phone)
        (schemas := phone.tree("peer") / "schema").mkdir()
        (schemas / "person.json").write_text('{"properties": {"age": {"type": "integer"}}}')
        (schemas / "bindings.toml").write_text('[person]\nkv = "people"\n')
        wait_until(
            lambda: "person" in phone.types("ctx", "schema", "ls", "peer").out, "it is in force"
        )
        refused = phone.types("inbox", "accept", run)
        assert (refused.status, "age" in refused.err) == (2, True), refused
        assert held(phone) == [run], "it may be accepted once it fits again"
        (schemas / "person.json").write_text('{"properties": {"age": {"type": "string"}}}')
        wait_until(lambda: phone.types("inbox", "accept", run).status == 0, "it fits")
