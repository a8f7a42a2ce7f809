"""Power lost at every commit, on either side: what a script changes is there once, and whole."""

from __future__ import annotations

import getpass
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.scenarios.devices import Device, two_devices, wait_until

COUNT = """\
// /// orvalho
// needs = ["target.kv.read:count", "target.kv.write:count", "target.fs.write:/inbox/**"]
// ///
export default async function ({ target, params }) {
  await new Promise((resolve) => setTimeout(resolve, params?.wait ?? 0));
  const count = ((await target.kv.get("count")) ?? 0) + 1;
  await target.kv.put("count", count);
  await target.fs.mkdir("/inbox");
  await target.fs.write("/inbox/count.txt", `${count}`);
  await target.fs.mkdir("/inbox/" + count);
  await target.fs.write("/inbox/" + count + "/page.txt", "x".repeat(20000));
  return count;
}
"""
NOTE = """\
// /// orvalho
// needs = ["caller.fs.write:/notes/**"]
// ///
export default async ({ caller }) => { await caller.fs.write("/notes/a.txt", "once"); };
"""
PURE = "export default ({ params }) => params.n + 1"

# Each commit that a script's way has, and on which device.
SENDER = ("run.queued", "outbox.acknowledge", "mailbox.stage")
TARGET = ("mailbox.stage", "run.ended", "commit.settled", "outbox.acknowledge")


def outcome(device: Device) -> str | None:
    runs = device.types("script", "ls", "--json").json["runs"]
    return runs[0]["outcome"] if runs else None


def counted(phone: Device, laptop: Device) -> int:
    read = (
        "// /// orvalho\n// needs = ['target.kv.read:count']\n// ///\nawait target.kv.get('count')"
    )
    file = laptop.home / "read.js"
    file.write_text(read)
    count = json.loads(laptop.does("script", "send", "peer@phone2", str(file), "--wait")) or 0
    # What is still to be acknowledged would be a commit before those that a test waits for.
    wait_until(lambda: not queued(phone) and not queued(laptop), "all is acknowledged")
    return count


def queued(device: Device) -> int:
    with closing(sqlite3.connect(device.home / "state" / "orvalho.db")) as database:
        return database.execute("select count(*) from outbox").fetchone()[0]


@pytest.fixture(scope="module")
def devices(tmp_path_factory: pytest.TempPathFactory):
    with two_devices(tmp_path_factory.mktemp("crash")) as (laptop, phone):
        phone.allow(
            "p, laptop, peer, fs.write, /inbox/**, allow",
            "p, laptop, peer, kv.read, count, allow",
            "p, laptop, peer, kv.write, count, allow",
        )
        (laptop.home / "count.js").write_text(COUNT)
        yield laptop, phone


@pytest.mark.parametrize("phase", ["before", "after"])
@pytest.mark.parametrize("commit", SENDER)
def test_a_sender_that_dies_loses_nothing_and_sends_nothing_twice(
    devices: tuple[Device, Device], phase: str, commit: str
) -> None:
    laptop, phone = devices
    before = counted(phone, laptop)
    laptop.stop()
    laptop.start(phase, commit, "1")
    # given a sender that dies somewhere on the way
    sent = laptop.types("script", "send", "peer@phone2", str(laptop.home / "count.js"))
    if sent.status == 0 and not laptop.has_died:
        wait_until(lambda: laptop.has_died, "the commit comes")
    wait_until(lambda: laptop.has_died, "the daemon has died")
    # when it comes back
    laptop.start()

    # then the script ran once; or it was never queued, and the sender was not told that it was
    if (phase, commit) == ("before", "run.queued"):
        assert sent.status != 0
        assert counted(phone, laptop) == before
    else:
        wait_until(lambda: outcome(laptop) == "done", "the run has ended")
        assert counted(phone, laptop) == before + 1


@pytest.mark.parametrize("phase", ["before", "after"])
@pytest.mark.parametrize("commit", TARGET)
def test_a_target_that_dies_has_what_it_changed_once_and_whole(
    devices: tuple[Device, Device], phase: str, commit: str
) -> None:
    laptop, phone = devices
    before = counted(phone, laptop)
    phone.stop()
    phone.start(phase, commit, "1")
    wait_until(lambda: laptop.online("phone2"), "they are linked")
    # Only an envelope whose run takes a while is kept before its end.
    wait = "wait=500" if commit == "mailbox.stage" else "wait=0"
    script = str(laptop.home / "count.js")
    laptop.does("script", "send", "peer@phone2", script, "--param", wait, "--detach")
    wait_until(lambda: phone.has_died, "the daemon has died")
    phone.start()

    wait_until(lambda: outcome(laptop) is not None, "the run has ended")
    assert outcome(laptop) == "done"
    count = before + 1
    assert counted(phone, laptop) == count
    tree = phone.tree("peer") / "inbox"
    assert (tree / "count.txt").read_text() == str(count)
    assert (tree / str(count) / "page.txt").stat().st_size == 20_000


@pytest.mark.parametrize("phase", ["before", "after"])
def test_what_was_done_to_the_caller_is_done_once_or_told_to_be_cut(
    devices: tuple[Device, Device], tmp_path: Path, phase: str
) -> None:
    laptop, phone = devices
    note = tmp_path / "note.js"
    note.write_text(NOTE)
    tree = laptop.tree(getpass.getuser()) / "notes"
    tree.mkdir(exist_ok=True)
    phone.stop()
    phone.start(phase, "run.started", "1")
    wait_until(lambda: laptop.online("phone2"), "they are linked")
    words = ("script", "send", "peer@phone2", str(note), "--expose", "/notes:rw", "--detach")
    laptop.does(*words)
    wait_until(lambda: phone.has_died, "the daemon has died")
    phone.start()

    wait_until(lambda: outcome(laptop) is not None, "the run has ended")
    # A mark that is written means that the note may be: it is not made twice.
    assert outcome(laptop) == ("interrupted" if phase == "after" else "done")
    assert (tree / "a.txt").exists() == (phase == "before")
    (tree / "a.txt").unlink(missing_ok=True)


def test_a_pure_script_is_run_again_after_a_crash_since_it_did_nothing(
    devices: tuple[Device, Device], tmp_path: Path
) -> None:
    laptop, phone = devices
    pure = tmp_path / "pure.js"
    pure.write_text(PURE)
    phone.stop()
    phone.start("before", "run.ended", "1")
    wait_until(lambda: laptop.online("phone2"), "they are linked")
    laptop.does("script", "send", "peer@phone2", str(pure), "--param", "n=1", "--detach")
    wait_until(lambda: phone.has_died, "the daemon has died")
    phone.start()

    wait_until(lambda: outcome(laptop) is not None, "the run has ended")
    assert outcome(laptop) == "done"


def test_a_phone_that_is_off_runs_it_when_it_wakes(
    devices: tuple[Device, Device], tmp_path: Path
) -> None:
    laptop, phone = devices
    pure = tmp_path / "pure.js"
    pure.write_text(PURE)
    phone.stop()

    queued = laptop.types("script", "send", "peer@phone2", str(pure), "--param", "n=41")
    assert queued.status == 7
    assert "queued at laptop, expires in 7 d" in queued.err
    # The sender is off as well when the phone wakes: its mail waits at home, not with it.
    laptop.kill()
    laptop.start()
    phone.start()

    wait_until(lambda: outcome(laptop) is not None, "the run has ended")
    run = laptop.types("script", "ls", "--json").json["runs"][0]["run"]
    assert json.loads(laptop.does("script", "result", run)) == 42
    assert json.loads(phone.does("script", "result", run)) == 42


LARGE = COUNT.replace("return count;", "return [count, params.text, 'y'.repeat(200000)];")


@pytest.mark.parametrize(
    ("side", "phase", "commit"),
    [
        ("phone", "before", "run.ended"),
        ("phone", "after", "run.ended"),
        ("laptop", "before", "mailbox.stage"),
        ("laptop", "after", "mailbox.stage"),
    ],
)
def test_large_parameters_and_results_come_through_a_crash(
    devices: tuple[Device, Device], tmp_path: Path, side: str, phase: str, commit: str
) -> None:
    laptop, phone = devices
    large, text = tmp_path / "large.js", tmp_path / "params.json"
    large.write_text(LARGE)
    text.write_text(json.dumps({"text": "x" * 200_000}))
    before = counted(phone, laptop)
    dies = phone if side == "phone" else laptop
    dies.stop()
    dies.start(phase, commit, "1")
    wait_until(lambda: laptop.online("phone2"), "they are linked")
    words = ("script", "send", "peer@phone2", str(large), "--params-file", str(text))
    laptop.types(*words, "--detach")
    wait_until(lambda: dies.has_died, "the daemon has died")
    dies.start()

    wait_until(lambda: outcome(laptop) is not None, "the run has ended")
    assert outcome(laptop) == "done"
    run = laptop.types("script", "ls", "--json").json["runs"][0]["run"]
    count, echoed, made = json.loads(laptop.does("script", "result", run))
    assert (count, len(echoed), len(made)) == (before + 1, 200_000, 200_000)
    assert counted(phone, laptop) == before + 1
