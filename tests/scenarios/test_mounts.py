"""Mounts and secrets, as their owner types them; and that a secret is nowhere else."""

from __future__ import annotations

import socket
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.s3_server import CREDENTIALS, get, new_bucket, put, s3_server
from tests.scenarios.devices import Device, two_devices, wait_until

READ = """\
// /// orvalho
// needs = ["target.fs.read:/**"]
// ///
export default async ({ target, params }) => await target.fs.readText(params.path)
"""
WRITE = """\
// /// orvalho
// needs = ["target.fs.write:/**"]
// ///
export default async ({ target, params }) => { await target.fs.write(params.path, "written") }
"""


@pytest.fixture(scope="module")
def devices(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Device, Device]]:
    with two_devices(tmp_path_factory.mktemp("mounts")) as (laptop, phone):
        for device, context in ((laptop, "root"), (phone, "peer")):
            device.does("config", "set", "context", context)
        phone.allow(
            *(f"p, laptop, peer, fs.{verb}, /**, allow" for verb in ("read", "write", "remove"))
        )
        yield laptop, phone


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    with s3_server() as url:
        yield url


def state(device: Device, place: str) -> dict[str, object]:
    mounts = device.types("ctx", "mounts", "--json").json["mounts"]
    return next(each for each in mounts if each["place"] == place)


def runs(laptop: Device, top: Path, script: str, path: str, *options: str):
    file = top / "job.js"
    file.write_text(script)
    return laptop.types(
        "script", "send", "peer@phone2", str(file), "--param", f"path={path}", *options, limit_s=90
    )


def test_a_directory_is_mounted_only_to_read_from(devices, tmp_path: Path) -> None:
    laptop, phone = devices
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    (pictures / "a.txt").write_text("a picture")
    phone.does("ctx", "mount", "peer:/photos", f"dir:{pictures}", "--ro")
    assert "already mounted" in phone.does(
        "ctx", "mount", "peer:/photos", f"dir:{pictures}", "--ro"
    )
    assert "a.txt" in phone.does("ctx", "ls", "/peer/photos")
    assert "a picture" in runs(laptop, tmp_path, READ, "/photos/a.txt").out
    refused = runs(laptop, tmp_path, WRITE, "/photos/b.txt")
    assert refused.status != 0
    assert "read-only" in refused.out + refused.err
    assert [each.name for each in pictures.iterdir()] == ["a.txt"]


def test_rules_see_the_whole_path(devices, tmp_path: Path) -> None:
    laptop, phone = devices
    phone.does("ctx", "mount", "peer:/hidden", "memory:")
    phone.allow("p, laptop, peer, fs.read, /hidden/**, deny")
    refused = runs(laptop, tmp_path, READ, "/hidden/x")
    assert refused.status == 3, refused


def test_a_bucket_is_mounted_with_a_secret(devices, s3: str, tmp_path: Path) -> None:
    laptop, phone = devices
    bucket = new_bucket(s3)
    put(s3, f"/{bucket}/cloud/a.txt", b"from the cloud")
    put(s3, f"/{bucket}/outside.txt", b"not to be seen")
    assert (
        phone.types("secret", "set", "cloud", "--for", "peer", stdin=CREDENTIALS + "\n").status == 0
    )
    phone.does(
        *("ctx", "mount", "peer:/cloud", f"s3://{bucket}/cloud", "--secret", "cloud"),
        *("--endpoint", s3),
    )
    assert state(phone, "peer:/cloud")["state"] == "ready"
    assert "from the cloud" in runs(laptop, tmp_path, READ, "/cloud/a.txt").out
    assert runs(laptop, tmp_path, WRITE, "/cloud/b.txt").status == 0
    assert get(s3, f"/{bucket}/cloud/b.txt") == b"written"
    assert runs(laptop, tmp_path, READ, "/cloud/../outside.txt").status != 0
    listed = phone.types("secret", "ls", "--json").json["secrets"]
    assert [(each["name"], each["mounts"]) for each in listed] == [("cloud", ["peer:/cloud"])]

    # Anything that could tell it, told: and a mount that is refused as well.
    phone.types(
        "ctx",
        "mount",
        "peer:/wrong",
        f"s3://{bucket}/x",
        "--secret",
        "cloud",
        "--endpoint",
        "http://127.0.0.1:1",
    )
    phone.types("ctx", "mount", "peer:/typed", f"s3://{CREDENTIALS}@{bucket}/x")
    runs(laptop, tmp_path, READ, "/wrong/x")
    shown = "".join(
        printed.out + printed.err
        for device in devices
        for printed in (
            device.types("bugreport"),
            device.types("config", "show"),
            device.types("ctx", "mounts"),
            device.types("ctx", "mounts", "--json"),
            device.types("secret", "ls"),
            device.types("secret", "show", "cloud"),
            device.types("secret", "show", "cloud", "--reveal"),
            device.types("events", "--since", "1h"),
            device.types("audit"),
            device.types("doctor"),
            device.types("status", "--json"),
            device.types("metrics"),
        )
    )
    for part in CREDENTIALS.split(":"):
        assert part not in shown
        for device in devices:
            for file in device.home.rglob("*"):
                if file.is_file():
                    assert part.encode() not in file.read_bytes(), file


def test_what_cannot_be_opened_is_told_and_stops_nothing_else(devices, tmp_path: Path) -> None:
    laptop, phone = devices
    phone.does("ctx", "mount", "peer:/broken", f"zip:{tmp_path / 'none.zip'}")
    assert "not there" in str(state(phone, "peer:/broken")["error"])
    refused = runs(laptop, tmp_path, READ, "/broken/x")
    assert refused.status != 0
    assert "not there" in refused.out + refused.err
    phone.stop()
    phone.start()
    wait_until(lambda: laptop.online("phone2"), "the phone is back")
    assert "peer" in phone.does("ctx", "ls")
    assert state(phone, "peer:/broken")["place"] == "peer:/broken"
    with zipfile.ZipFile(tmp_path / "none.zip", "w") as archive:
        archive.writestr("x", "now it is")
    wait_until(lambda: "now it is" in runs(laptop, tmp_path, READ, "/broken/x").out, "it is read")
    assert state(phone, "peer:/broken")["state"] == "ready"


def test_a_store_that_hangs_holds_up_its_own_calls_alone(devices, tmp_path: Path) -> None:
    laptop, phone = devices
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(50)
        silent.settimeout(30)
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        file = phone.home / "config/mounts.toml"
        before = file.read_text() if file.exists() else ""
        file.write_text(f'{before}\n["peer:/silent"]\nurl = "s3://bucket/x"\nendpoint = "{url}"\n')
        wait_until(
            lambda: "peer:/silent" in phone.does("ctx", "mounts"), "what was edited is in force"
        )
        looking = subprocess.Popen(
            [sys.executable, "-m", "orvalho", "ctx", "ls", "/peer/silent/x"],
            env=phone.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        held, _ = silent.accept()
        phone.does("ctx", "ls", "/peer")
        assert laptop.types("ping", "phone2", "-c", "1").status == 0
        assert looking.poll() is None
        _, told = looking.communicate(timeout=90)
        assert looking.returncode == 4, told
        held.close()
    phone.does("ctx", "umount", "peer:/silent")


@pytest.mark.parametrize(
    ("line", "mistake"),
    [
        ('url = "sqlit:/x"', "did you mean sqlite"),
        ('url = "dir:relative"', "absolute path"),
        ('url = "memory:"\nread_onyl = true', "read_onyl"),
        ('url = "memory:"\nsecret = "x"', "only s3"),
        ('url = "memory:"\nquota = "much"', "quota"),
    ],
)
def test_a_mistake_names_its_line_and_keeps_the_place_closed(devices, line, mistake) -> None:
    _, phone = devices
    file = phone.home / "config/mounts.toml"
    before = file.read_text() if file.exists() else ""
    text = f'{before}\n["peer:/mistake"]\n{line}\n'
    file.write_text(text)
    wait_until(lambda: mistake in phone.types("doctor").out, mistake)
    told = phone.types("doctor").out
    number = len(text.splitlines())
    assert f"mounts.toml:{number}" in told or f"mounts.toml:{number - 1}" in told
    assert state(phone, "peer:/mistake")["state"] == "failing"
    assert phone.types("ctx", "ls", "/peer/mistake").status == 4
    file.write_text(before)
    wait_until(lambda: "peer:/mistake" not in phone.does("ctx", "mounts"), "it is gone")


def test_our_own_files_are_no_tree(devices) -> None:
    _, phone = devices
    for url in (
        f"dir:{phone.home / 'state'}",
        f"dir:{phone.home.parent}",
        f"sqlite:{phone.home / 'state/orvalho.db'}",
        f"zip:{phone.tree('peer') / 'x.zip'}",
    ):
        refused = phone.types("ctx", "mount", "peer:/own", url)
        assert refused.status == 3
        assert "own files" in refused.err
    # By hand it can be written down, and is no tree all the same.
    file = phone.home / "config/mounts.toml"
    before = file.read_text() if file.exists() else ""
    file.write_text(f'{before}\n["peer:/own"]\nurl = "dir:{phone.home / "state"}"\n')
    wait_until(lambda: "peer:/own" in phone.does("ctx", "mounts"), "it is read")
    assert phone.types("ctx", "ls", "/peer/own").status == 4
    assert "own files" in str(state(phone, "peer:/own")["error"])
    phone.does("ctx", "umount", "peer:/own")
    assert phone.types("ctx", "umount", "peer:/own").status == 4


def test_a_context_of_another_device_is_mounted(devices) -> None:
    laptop, phone = devices
    (phone.tree("peer") / "shared").mkdir(exist_ok=True)
    (phone.tree("peer") / "shared/note.txt").write_text("on the phone")
    laptop.does("ctx", "mount", "root:/phone", "peer@phone2:/shared")
    assert state(laptop, "root:/phone")["state"] == "ready"
    assert "note.txt" in laptop.does("ctx", "ls", "/root/phone")
    file = laptop.home / "job.js"
    file.write_text(READ.replace("target.", "caller.").replace("{ target", "{ caller"))
    printed = laptop.types(
        "script",
        "send",
        "peer@phone2",
        str(file),
        "--param",
        "path=/phone/note.txt",
        "--expose",
        "/phone",
        limit_s=90,
    )
    assert "on the phone" in printed.out, printed
    assert "by a mount" in phone.does("audit", "--json")
    # Its rules decide, at each question.
    phone.allow("p, laptop, peer, fs.read, /shared/**, deny")
    refused = laptop.types("ctx", "ls", "/root/phone/deeper")
    assert refused.status == 3, refused


def test_a_device_that_is_off_is_unavailable(devices) -> None:
    laptop, phone = devices
    laptop.does("ctx", "mount", "root:/away", "peer@phone2:/inbox")
    phone.stop()
    wait_until(lambda: not laptop.online("phone2"), "the phone is off")
    refused = laptop.types("ctx", "ls", "/root/away")
    assert refused.status == 4, refused
    assert "phone2" in refused.err
    phone.start()
    wait_until(lambda: laptop.online("phone2"), "the phone is back")
    wait_until(lambda: laptop.types("ctx", "ls", "/root/away").status == 0, "its tree is back")


def test_a_mount_is_replaced_only_when_told_to(devices, tmp_path: Path) -> None:
    _, phone = devices
    other = tmp_path / "other"
    other.mkdir()
    phone.does("ctx", "mount", "peer:/kept", "memory:")
    refused = phone.types("ctx", "mount", "peer:/kept", f"dir:{other}")
    assert refused.status == 1
    assert "memory: is mounted at peer:/kept already" in refused.err
    assert state(phone, "peer:/kept")["url"] == "memory:"
    phone.does("ctx", "mount", "peer:/kept", f"dir:{other}", "-y")
    assert state(phone, "peer:/kept")["url"] == f"dir:{other}"
    phone.does("ctx", "umount", "peer:/kept")


def test_what_can_never_work_is_refused_and_not_written_down(devices, tmp_path: Path) -> None:
    _, phone = devices
    broken = tmp_path / "broken.zip"
    broken.write_bytes(b"no zip")
    for url in (f"dir:{phone.home / 'state'}", f"zip:{broken}", "s3://b/p"):
        assert phone.types("ctx", "mount", "peer:/never", url).status != 0, url
    places = [each["place"] for each in phone.types("ctx", "mounts", "--json").json["mounts"]]
    assert "peer:/never" not in places


def test_the_doctor_names_a_mount_that_fails(devices, tmp_path: Path) -> None:
    _, phone = devices
    phone.does("ctx", "mount", "peer:/away", f"dir:{tmp_path / 'away'}")
    findings = phone.types("doctor", "--json").json["findings"]
    assert any(
        each["level"] == "warning" and each["text"].startswith("peer:/away cannot be used")
        for each in findings
    )
    phone.does("ctx", "umount", "peer:/away")


def test_files_are_listed_by_context_and_path_too(devices) -> None:
    _, phone = devices
    by_context = phone.types("ctx", "ls", "peer:/", "--json").json["entries"]
    assert by_context == phone.types("ctx", "ls", "/peer", "--json").json["entries"]
