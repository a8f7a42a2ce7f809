"""docs/history.md is what happens; and what real daemons do with the past of a context."""

from __future__ import annotations

import re
import shlex
import time
from pathlib import Path

import pytest

from orvalho.cli.schema import schema
from tests.cli.test_output import misfit
from tests.scenarios.devices import Device, two_devices, wait_until

PAGE = Path(__file__).parents[2] / "docs/history.md"
ALLOWED = (
    "p, laptop, peer, fs.read, /**, allow",
    "p, laptop, peer, fs.write, /**, allow",
    "p, laptop, peer, kv.read, **, allow",
    "p, laptop, peer, kv.write, **, allow",
)
WRITE = """\
// /// orvalho
// needs = ["target.fs.write:/**", "target.kv.write:n"]
// ///
export default async ({ target, params }) => {
  await target.fs.write(`/${params.file}`, params.text);
  await target.kv.put("n", params.text);
}
"""
WRITE_BACK = """\
// /// orvalho
// needs = ["caller.fs.write:/**"]
// ///
export default async ({ caller }) => { await caller.fs.write("/out/result.txt", "made there"); }
"""


@pytest.fixture
def devices(tmp_path: Path):
    with two_devices(tmp_path) as (laptop, phone):
        phone.allow(*ALLOWED)
        (laptop.home / "write.js").write_text(WRITE)
        # What lies there from its making on is noted at the first look.
        assert [each["cause"] for each in log(phone)] == ["hand"]
        yield laptop, phone


def write(laptop: Device, file: str, text: str) -> None:
    path = str(laptop.home / "write.js")
    params = (f"file={file}", f"text={text}")
    words = [word for each in params for word in ("--param", each)]
    laptop.does("script", "send", "peer@phone2", path, *words, "--wait")


def log(device: Device, context: str = "peer") -> list[dict[str, object]]:
    commits: list[dict[str, object]] = device.types("ctx", "log", context, "--json").json["commits"]
    return commits


def plain(text: str) -> str:
    """Without what differs from day to day."""
    text = re.sub(r"\b([cr])_[0-9A-Z]{6,26}", r"\1_ID", text)
    text = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "TIME", text)
    text = re.sub(r"\d+ [sm] ago", "AGO", text)
    return "\n".join(re.sub(r"  +", "  ", line).rstrip() for line in text.strip().split("\n"))


def test_the_session_goes_as_the_page_tells_it(devices: tuple[Device, Device]) -> None:
    laptop, phone = devices
    text = PAGE.read_text().split("## A session", 1)[1].split("\n## ", 1)[0]
    script, sent, looks = re.findall(r"```(?:js)?\n(.*?)```", text, re.DOTALL)
    # given a context with a history, and the page's script
    notes = phone.tree("peer") / "notes"
    notes.mkdir()
    (notes / "todo.txt").write_text("buy milk\ncall Ana\n")
    log(phone)
    (laptop.home / "tidy.js").write_text(script)
    command, expected = sent.strip().split("\n")
    words = shlex.split(command.removeprefix("$ orvalho "))
    words[-1] = str(laptop.home / words[-1])
    assert laptop.does(*words).strip() == expected
    (notes / "mine.txt").write_text("mine\n")
    # when the page is typed, with the ids of today
    run = phone.types("script", "ls", "--json").json["runs"][0]["run"]
    for block in re.split(r"^\$ orvalho ", looks, flags=re.MULTILINE)[1:]:
        line, _, told = block.partition("\n")
        words = shlex.split(re.sub(r"r_\w+", run, line))
        # then it answers as the page says
        assert plain(phone.does(*words)) == plain(told), line
    assert (notes / "mine.txt").exists()


def test_a_commit_says_who_and_an_undo_that_would_lose_anothers_work_says_whose(
    devices: tuple[Device, Device],
) -> None:
    laptop, phone = devices
    write(laptop, "a.txt", "one")
    write(laptop, "a.txt", "two")
    later, first, _ = log(phone)
    refused = phone.types("ctx", "undo", str(first["id"]), "-y")
    assert refused.status == 1
    assert f"(run, {later['id']})" in refused.err
    assert (phone.tree("peer") / "a.txt").read_text() == "two"
    # Off a terminal nothing is taken back without a word for it.
    assert phone.types("ctx", "undo", str(later["run"])).status == 2
    done = phone.types("ctx", "undo", str(later["run"]), "-y", "--json").json
    assert misfit(done, *[schema("ctx-undo")] * 2) is None
    assert (phone.tree("peer") / "a.txt").read_text() == "one"
    shown = phone.types("ctx", "at", "now", "peer", "--json", "--", "kv").json
    assert misfit(shown, *[schema("ctx-at-values")] * 2) is None
    assert shown["values"] == [{"key": "n", "value": '"one"'}]
    # A second time there is nothing to take back.
    again = phone.types("ctx", "undo", str(later["run"]), "-y")
    assert (again.status, "taken back already" in again.err) == (1, True)


def test_a_run_elsewhere_is_looked_for_there(devices: tuple[Device, Device]) -> None:
    laptop, phone = devices
    write(laptop, "a.txt", "one")
    run = str(log(phone)[0]["run"])
    told = laptop.types("ctx", "undo", run, "-y")
    assert told.status == 4
    assert "on phone2: orvalho ctx show" in told.err


def test_a_file_that_came_and_what_a_script_wrote_back_are_commits(
    devices: tuple[Device, Device], tmp_path: Path
) -> None:
    laptop, phone = devices
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(b"\xff\xd8" * 30_000)
    laptop.does("file", "send", str(photo), "peer@phone2:/inbox/", "--wait")
    (came,) = [each for each in log(phone) if each["cause"] == "file"]
    assert came["author"] == "root@laptop"
    entries = phone.types("ctx", "at", "now", "peer", "--json", "--", "find", "*.jpg").json
    assert [each["size_bytes"] for each in entries["entries"]] == [60_000]
    assert "60 kB" in phone.does("ctx", "show", str(came["id"]))

    (laptop.tree("root") / "out").mkdir()
    script = tmp_path / "back.js"
    script.write_text(WRITE_BACK)
    laptop.does("script", "send", "peer@phone2", str(script), "--expose", "/out:rw", "--wait")
    wrote = next(each for each in log(laptop, "root") if each["cause"] == "run")
    assert wrote["author"] == "peer@phone2"
    assert (laptop.tree("root") / "out/result.txt").read_text() == "made there"
    laptop.does("ctx", "undo", str(wrote["id"]), "-y")
    assert not (laptop.tree("root") / "out/result.txt").exists()


def test_the_past_is_collected_as_the_settings_say(devices: tuple[Device, Device]) -> None:
    laptop, phone = devices
    for text in ("one", "two", "three"):
        write(laptop, "a.txt", text * 20_000)
    oldest = str(log(phone)[-1]["id"])
    wait_until(lambda: gone(phone) == 4, "all are on the disk")
    assert phone.types("ctx", "gc", "--keep", "0s").status == 2, "it asks off a terminal"
    phone.does("ctx", "gc", "--max", "70kB", "-y")
    assert len(log(phone)) < 3
    assert phone.types("ctx", "show", oldest).status == 4
    assert phone.types("ctx", "at", "yesterday", "peer", "--", "ls").status == 4
    assert phone.types("ctx", "df", "--json").json["past_bytes"] <= 70_000
    phone.does("ctx", "fsck")
    bad = phone.types("config", "set", "history.keep", "soon")
    assert (bad.status, "history.keep" in bad.err) == (2, True)


def gone(phone: Device) -> int:
    planned = phone.types("ctx", "gc", "--keep", "0s", "--plan", "--json").json
    return int(planned["commits"])


def test_a_check_says_what_is_broken_and_ends_with_1(devices: tuple[Device, Device]) -> None:
    laptop, phone = devices
    write(laptop, "large.txt", "x" * 50_000)
    (content,) = (phone.home / "data").rglob("contents/??/*")
    content.write_bytes(b"rotten")
    checked = phone.types("ctx", "fsck")
    assert checked.status == 1
    assert "is damaged" in checked.out


@pytest.mark.parametrize("phase", ["before", "after"])
@pytest.mark.parametrize("commit", ["commit.undo", "run.ended", "commit.settled"])
def test_power_lost_at_a_commit_leaves_a_whole_context(
    devices: tuple[Device, Device], phase: str, commit: str
) -> None:
    laptop, phone = devices
    write(laptop, "a.txt", "one")
    write(laptop, "a.txt", "two")
    before = [each["id"] for each in log(phone)]
    phone.stop()
    phone.start(phase, commit, "1")
    wait_until(lambda: laptop.online("phone2"), "they are linked")
    if commit == "run.ended":
        path = str(laptop.home / "write.js")
        words = ("--param", "file=a.txt", "--param", "text=three", "--detach")
        laptop.types("script", "send", "peer@phone2", path, *words)
    else:
        phone.types("ctx", "undo", str(before[0]), "-y")
    wait_until(lambda: phone.has_died, "the daemon has died")
    phone.start()
    wait_until(lambda: phone.types("ctx", "fsck").status == 0, "it is whole")
    after = [each["id"] for each in log(phone)]
    assert after[-len(before) :] == before
    text = (phone.tree("peer") / "a.txt").read_text()
    assert text == {len(before): "two"}.get(len(after), "three" if commit == "run.ended" else "one")


def test_a_daemon_that_starts_notes_what_was_edited_meanwhile(
    devices: tuple[Device, Device],
) -> None:
    laptop, phone = devices
    write(laptop, "a.txt", "one")
    phone.stop()
    time.sleep(0.01)
    (phone.tree("peer") / "a.txt").write_text("by hand")
    phone.start()
    wait_until(lambda: log(phone)[0]["cause"] == "hand", "it is noted")
    assert (phone.tree("peer") / "a.txt").read_text() == "by hand"
    wait_until(lambda: laptop.online("phone2"), "they are linked")
    write(laptop, "a.txt", "two")
    phone.does("ctx", "undo", str(log(phone)[0]["id"]), "-y")
    assert (phone.tree("peer") / "a.txt").read_text() == "by hand"
