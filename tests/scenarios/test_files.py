"""Files from device to device: whole, hashed, resumed, under the target's rules."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.scenarios.devices import Device, two_devices, wait_until

MB = 1 << 20


@pytest.fixture(scope="module")
def devices(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Device, Device]]:
    with two_devices(tmp_path_factory.mktemp("files")) as (laptop, phone):
        phone.does("config", "set", "context", "peer")
        yield laptop, phone


def a_file(top: Path, name: str, size: int) -> Path:
    file = top / name
    file.write_bytes(os.urandom(size))
    return file


def drafts(device: Device) -> list[Path]:
    return list((device.home / "state/incoming").glob("*"))


def test_a_file_lands_in_the_inbox_of_the_usual_context(devices, tmp_path: Path) -> None:
    laptop, phone = devices
    file = a_file(tmp_path, "a.jpg", 3 * MB + 17)
    printed = laptop.types("file", "send", str(file), "phone2:", "--json")
    assert printed.status == 0, printed
    (sent,) = printed.json["files"]
    assert (sent["to"], sent["path"]) == ("peer@phone2", "/inbox/a.jpg")
    assert sent["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert (phone.tree("peer") / "inbox/a.jpg").read_bytes() == file.read_bytes()
    assert not drafts(phone)
    entry = phone.does("audit", "--json").splitlines()[-1]
    assert "fs.write" in entry and sent["sha256"] in entry


def test_the_same_again_lies_there_already_and_another_of_that_name_beside_it(
    devices, tmp_path: Path
) -> None:
    laptop, phone = devices
    file = a_file(tmp_path, "note.txt", 1000)
    laptop.does("file", "send", str(file), "peer@phone2:")
    assert "lay there already" in laptop.does("file", "send", str(file), "peer@phone2:")
    first = file.read_bytes()
    file.write_bytes(b"another")
    assert "/inbox/note (2).txt" in laptop.does("file", "send", str(file), "peer@phone2:")
    inbox = phone.tree("peer") / "inbox"
    assert (inbox / "note.txt").read_bytes() == first
    assert (inbox / "note (2).txt").read_bytes() == b"another"


def test_an_empty_file_and_several_at_once(devices, tmp_path: Path) -> None:
    laptop, phone = devices
    files = [a_file(tmp_path, "empty", 0), a_file(tmp_path, "b.bin", 262_144)]
    laptop.does("file", "send", *map(str, files), "peer@phone2:/inbox/deep/er")
    for file in files:
        assert (phone.tree("peer") / "inbox/deep/er" / file.name).read_bytes() == file.read_bytes()


def test_the_targets_rule_refuses_and_is_named(devices, tmp_path: Path) -> None:
    laptop, phone = devices
    file = a_file(tmp_path, "a.jpg", 10)
    printed = laptop.types("file", "send", str(file), "phone2:", "--to", "/photos")
    assert printed.status == 3, printed
    assert "/photos/a.jpg" in printed.err
    phone.allow("p, laptop, peer, fs.write, /photos/*.jpg, allow")
    phone.allow("p, laptop, peer, fs.write, /photos, allow")
    laptop.does("file", "send", str(file), "phone2:/photos/")
    phone.allow("p, *, peer, fs.write, /photos/**, deny")
    printed = laptop.types("file", "send", str(file), "phone2:/photos/")
    assert printed.status == 3
    assert "policy/peer.csv:" in printed.err
    assert not drafts(phone)


@pytest.mark.parametrize("directory", ["/../up", "/inbox/../../x", "/inbox/\\x", "/a\x00b"])
def test_a_directory_that_climbs_out_is_refused(devices, tmp_path: Path, directory: str) -> None:
    if "\x00" in directory:
        directory = directory.replace("\x00", "\u202e")
    laptop, _ = devices
    file = a_file(tmp_path, "a.jpg", 10)
    assert laptop.types("file", "send", str(file), f"phone2:{directory}").status in (2, 3)


def test_a_file_beyond_the_quota_is_refused_before_a_byte_of_it_is_sent(tmp_path: Path) -> None:
    with two_devices(tmp_path) as (laptop, phone):
        phone.does("config", "set", "quota.context_bytes", "1MB")
        file = a_file(tmp_path, "big.bin", 2 * MB)
        printed = laptop.types("file", "send", str(file), "peer@phone2:")
        assert printed.status == 5, printed
        assert "storage_bytes" in printed.err
        assert not drafts(phone)


def queued(device: Device) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = device.types("file", "ls", "--json").json["files"]
    return found


def states(device: Device) -> list[str]:
    return [each["state"] for each in queued(device)]


def test_a_file_for_a_target_that_is_off_waits_and_is_sent(tmp_path: Path) -> None:
    with two_devices(tmp_path) as (laptop, phone):
        file = a_file(tmp_path, "late.bin", MB)
        phone.kill()
        wait_until(lambda: not laptop.online("phone2"), "it is missed")
        for _ in range(2):  # the same again waits once
            printed = laptop.types("file", "send", str(file), "peer@phone2:")
            assert printed.status == 7, printed
            assert "queued at laptop" in printed.err
            assert "expires in 7 d" in printed.err
        assert states(laptop) == ["waiting"]
        laptop.kill()  # it is kept
        laptop.start()
        phone.start()
        wait_until(lambda: states(laptop) == ["sent"], "it is sent")
        assert (phone.tree("peer") / "inbox/late.bin").read_bytes() == file.read_bytes()
        assert queued(laptop)[0]["text"] == "peer@phone2:/inbox/late.bin"


def test_a_target_that_is_off_may_be_waited_for(tmp_path: Path) -> None:
    with two_devices(tmp_path) as (laptop, phone):
        file = a_file(tmp_path, "late.bin", MB)
        phone.kill()
        wait_until(lambda: not laptop.online("phone2"), "it is missed")
        with sending(laptop, file, "--wait") as command:
            phone.start()
            assert command.wait(60) == 0
        assert (phone.tree("peer") / "inbox/late.bin").read_bytes() == file.read_bytes()
        assert queued(laptop) == []


def test_a_file_that_is_changed_or_taken_back_while_it_waits_is_not_sent(tmp_path: Path) -> None:
    with two_devices(tmp_path) as (laptop, phone):
        changed = a_file(tmp_path, "changed.bin", MB)
        gone = a_file(tmp_path, "gone.bin", 10)
        taken = a_file(tmp_path, "taken.bin", 10)
        phone.kill()
        wait_until(lambda: not laptop.online("phone2"), "it is missed")
        files = map(str, (changed, gone, taken))
        assert laptop.types("file", "send", *files, "peer@phone2:").status == 7
        before = changed.stat()
        with changed.open("r+b") as stream:
            stream.write(b"another")
        os.utime(changed, ns=(before.st_atime_ns, before.st_mtime_ns))  # and nobody sees it
        gone.unlink()
        laptop.does("file", "cancel", queued(laptop)[2]["file"])
        assert laptop.types("file", "cancel", "f_0").status == 4
        phone.start()
        wait_until(
            lambda: states(laptop) == ["failed", "failed", "cancelled"], "they are looked at"
        )
        assert "changed after it was queued" in queued(laptop)[0]["text"]
        assert "cannot be read" in queued(laptop)[1]["text"]
        assert not list((phone.tree("peer")).glob("inbox/*"))


def test_a_queued_file_goes_on_after_crashes_of_both_sides(tmp_path: Path) -> None:
    with two_devices(tmp_path) as (laptop, phone):
        file = a_file(tmp_path, "big.bin", 200 * MB)
        phone.kill()
        wait_until(lambda: not laptop.online("phone2"), "it is missed")
        assert laptop.types("file", "send", str(file), "peer@phone2:").status == 7
        phone.start()
        wait_until(lambda: arrived(phone) > 10 * MB, "a part has arrived")
        phone.kill()
        had = arrived(phone)
        assert states(laptop) in (["waiting"], ["sending"])
        phone.start()
        wait_until(lambda: arrived(phone) > had, "it goes on")
        laptop.kill()
        laptop.start()
        wait_until(lambda: states(laptop) == ["sent"], "it is sent", limit_s=120)
        assert _digest(phone.tree("peer") / "inbox/big.bin") == _digest(file)


def test_a_file_that_is_changed_while_it_is_sent_is_not_placed(tmp_path: Path) -> None:
    with two_devices(tmp_path) as (laptop, phone):
        file = a_file(tmp_path, "big.bin", 200 * MB)
        with sending(laptop, file) as command:
            wait_until(lambda: arrived(phone) > 10 * MB, "a part has arrived")
            with file.open("r+b") as stream:
                stream.seek(199 * MB)
                stream.write(b"new")
            assert command.wait(60) == 1
        assert not (phone.tree("peer") / "inbox/big.bin").exists(), "half old, half new"


def test_a_file_for_several_says_a_line_for_each(tmp_path: Path) -> None:
    with two_devices(tmp_path) as (laptop, phone):
        off = Device("tablet", tmp_path / "tablet")
        off.init()
        off.start()
        try:
            off.does("ctx", "new", "peer")
            ticket = off.does("peer", "invite").strip().splitlines()[-1].strip()
            laptop.does("peer", "add", ticket)
            wait_until(lambda: laptop.online("tablet"), "they are linked")
            off.kill()
            wait_until(lambda: not laptop.online("tablet"), "it is missed")
            phone.does("config", "set", "node.labels", "kind=phone")
            file = a_file(tmp_path, "plan.pdf", 1000)
            printed = laptop.types("file", "send", str(file), "peer@all:")
            assert printed.status == 7, printed
            assert "peer@phone2:/inbox/plan.pdf" in printed.out
            assert "queued at laptop for peer@tablet" in printed.err
            as_json = laptop.types("file", "send", str(file), "peer@all:", "--json").json["files"]
            assert {each["to"]: each["state"] for each in as_json} == {
                "peer@phone2": "sent",
                "peer@tablet": "queued",
            }
            nearest = laptop.types("file", "send", str(file), "peer@any@kind=phone:")
            assert (nearest.status, "peer@phone2:" in nearest.out) == (0, True), nearest
            assert laptop.types("file", "send", str(file), "@friends:").status == 4
            off.start()
            wait_until(lambda: states(laptop) == ["sent"], "it comes")
            assert (off.tree("peer") / "inbox/plan.pdf").read_bytes() == file.read_bytes()
        finally:
            off.stop()


def sending(device: Device, file: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "orvalho", "file", "send", str(file), "peer@phone2:", *words],
        env=device.environ,
        stdout=subprocess.PIPE,
        text=True,
    )


def arrived(device: Device) -> int:
    return sum(draft.stat().st_size for draft in drafts(device))


def test_a_killed_target_goes_on_where_its_draft_ends(tmp_path: Path) -> None:
    with two_devices(tmp_path) as (laptop, phone):
        file = a_file(tmp_path, "big.bin", 200 * MB)
        with sending(laptop, file, "--json") as command:
            wait_until(lambda: arrived(phone) > 20 * MB, "a good part has arrived")
            phone.kill()
            had = arrived(phone)
            assert not (phone.tree("peer") / "inbox/big.bin").exists(), "nothing half is seen"
            phone.start()
            assert command.wait(120) == 0
            assert command.stdout is not None
            said = command.stdout.read()
        assert _digest(phone.tree("peer") / "inbox/big.bin") == _digest(file)
        moved = int(said.split('"sent_bytes": ')[1].split(",")[0])
        assert moved < 2 * file.stat().st_size - had, "what had arrived was not sent twice"


def test_a_killed_sender_goes_on_by_the_same_command(tmp_path: Path) -> None:
    with two_devices(tmp_path) as (laptop, phone):
        file = a_file(tmp_path, "big.bin", 200 * MB)
        with sending(laptop, file) as command:
            wait_until(lambda: arrived(phone) > 20 * MB, "a good part has arrived")
            laptop.kill()
            assert command.wait(60) == 4
        had = arrived(phone)
        laptop.start()
        wait_until(lambda: laptop.online("phone2"), "they are linked again")
        printed = laptop.types("file", "send", str(file), "peer@phone2:", "--json", limit_s=120)
        assert printed.status == 0, printed
        assert printed.json["files"][0]["sent_bytes"] <= file.stat().st_size - had + 4 * MB
        assert _digest(phone.tree("peer") / "inbox/big.bin") == _digest(file)


def test_a_draft_that_was_changed_is_noticed_and_sent_again(tmp_path: Path) -> None:
    with two_devices(tmp_path) as (laptop, phone):
        file = a_file(tmp_path, "big.bin", 200 * MB)
        with sending(laptop, file) as command:
            wait_until(lambda: arrived(phone) > 20 * MB, "a good part has arrived")
            command.send_signal(signal.SIGINT)
            command.wait(60)
        phone.stop()
        (draft,) = drafts(phone)
        with draft.open("r+b") as stream:
            stream.write(bytes(16))
        phone.start()
        wait_until(lambda: laptop.online("phone2"), "they are linked again")
        printed = laptop.types("file", "send", str(file), "peer@phone2:", limit_s=120)
        assert printed.status == 6, printed
        assert not (phone.tree("peer") / "inbox/big.bin").exists()
        assert not drafts(phone)


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
