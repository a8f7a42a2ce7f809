"""What a script changes is all there, or not at all; and two of them never make half of each."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.scenarios.devices import Device, two_devices

HEADER = """\
// /// orvalho
// needs = ["target.fs.read:/inbox/**", "target.fs.write:/inbox/**", "target.fs.remove:/inbox/**",
//          "target.kv.read:**", "target.kv.write:**", "caller.fs.write:/notes/**"]
// timeout = "20s"
// cpu = "1s"
// ///
"""
ADD = """
export default async ({ target }) => {
  const count = (await target.kv.get("count") ?? 0) + 1;
  await target.kv.put("count", count);
  return count;
};
"""


@pytest.fixture(scope="module")
def devices(tmp_path_factory: pytest.TempPathFactory):
    with two_devices(tmp_path_factory.mktemp("changes")) as (laptop, phone):
        phone.allow(
            *(f"p, laptop, peer, fs.{act}, /inbox/**, allow" for act in ("read", "remove")),
            *(f"p, laptop, peer, kv.{act}, **, allow" for act in ("read", "write")),
        )
        (phone.tree("peer") / "inbox").mkdir(exist_ok=True)
        yield laptop, phone


def sends(laptop: Device, tmp_path: Path, source: str, *options: str):
    file = tmp_path / "job.js"
    file.write_text(HEADER + source)
    return laptop.types("script", "send", "peer@phone2", str(file), *options)


def begun(laptop: Device, file: Path, line: str, *options: str) -> subprocess.Popen[str]:
    """Send a script; returns once it has printed `line`."""
    sending = subprocess.Popen(
        [sys.executable, "-m", "orvalho", "script", "send", "peer@phone2", str(file), *options],
        env=laptop.environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert sending.stderr is not None
    assert any(line in each for each in iter(sending.stderr.readline, ""))
    return sending


def ended(sending: subprocess.Popen[str]) -> tuple[int, str]:
    _, errors = sending.communicate(timeout=30)
    return sending.returncode, errors


@pytest.mark.parametrize(
    ("end", "status"),
    [
        ('throw new Error("no");', 1),
        ("for (;;);", 5),
        ('await target.fs.read("/secret.txt");', 3),
    ],
)
def test_a_script_that_does_not_come_to_its_end_changes_nothing(
    devices: tuple[Device, Device], tmp_path: Path, end: str, status: int
) -> None:
    laptop, phone = devices
    inbox = phone.tree("peer") / "inbox"
    (inbox / "kept.txt").write_text("as it was")
    source = f"""
    await target.fs.write("/inbox/new.txt", "new");
    await target.fs.write("/inbox/kept.txt", "changed");
    await target.fs.mkdir("/inbox/folder");
    await target.kv.put("half", 1);
    {end}
    """

    assert sends(laptop, tmp_path, source).status == status

    assert sorted(path.name for path in inbox.iterdir()) == ["kept.txt"]
    assert (inbox / "kept.txt").read_text() == "as it was"
    assert json.loads(sends(laptop, tmp_path, 'await target.kv.get("half")').out) is None


def test_a_cancelled_script_changes_nothing(devices: tuple[Device, Device], tmp_path: Path) -> None:
    laptop, phone = devices
    file = tmp_path / "slow.js"
    file.write_text(
        HEADER
        + """
        await target.fs.write("/inbox/slow.txt", "x");
        console.log("written");
        await new Promise((resolve) => setTimeout(resolve, 15000));
        """
    )
    sending = begun(laptop, file, "written")

    laptop.does("script", "cancel", laptop.types("script", "ls", "--json").json["runs"][0]["run"])

    assert ended(sending)[0] == 1
    assert not (phone.tree("peer") / "inbox/slow.txt").exists()


def test_what_a_script_changed_it_sees_itself_and_others_see_at_its_end(
    devices: tuple[Device, Device], tmp_path: Path
) -> None:
    laptop, phone = devices
    source = """
    await target.fs.mkdir("/inbox/a");
    await target.fs.write("/inbox/a/b.txt", "one");
    await target.fs.move("/inbox/a/b.txt", "/inbox/a/c.txt");
    await target.kv.put("x/1", { n: 1 });
    await target.kv.put("x/2", 2);
    await target.kv.delete("x/2");
    [(await target.fs.list("/inbox/a")).map((each) => each.name), await target.kv.list("x/"),
     await target.fs.readText("/inbox/a/c.txt"), await target.kv.get("x/1")]
    """
    assert json.loads(sends(laptop, tmp_path, source).out) == [
        ["c.txt"],
        ["x/1"],
        "one",
        {"n": 1},
    ]
    assert (phone.tree("peer") / "inbox/a/c.txt").read_text() == "one"
    assert (
        sends(laptop, tmp_path, 'await target.fs.remove("/inbox/a", {recursive: true})').status == 0
    )
    assert not (phone.tree("peer") / "inbox/a").exists()


def test_twenty_that_add_one_at_once_add_twenty(
    devices: tuple[Device, Device], tmp_path: Path
) -> None:
    laptop, _ = devices
    file = tmp_path / "add.js"
    file.write_text(HEADER + ADD)
    before = json.loads(laptop.does("script", "send", "peer@phone2", str(file)))

    with ThreadPoolExecutor(4) as pool:
        words = ("script", "send", "peer@phone2", str(file))
        results = list(pool.map(lambda _: laptop.types(*words), range(20)))

    # Whoever was overtaken twice is told so, and has added nothing.
    done = [each for each in results if each.status == 0]
    assert all("changed meanwhile" in each.err for each in results if each.status != 0)
    after = json.loads(laptop.does("script", "send", "peer@phone2", str(file)))
    assert after == before + len(done) + 1
    assert sorted(json.loads(each.out) for each in done) == list(
        range(before + 1, before + 1 + len(done))
    )


def test_an_edit_by_hand_under_a_running_script_is_not_overwritten(
    devices: tuple[Device, Device], tmp_path: Path
) -> None:
    laptop, phone = devices
    inbox = phone.tree("peer") / "inbox"
    (inbox / "list.txt").write_text("bread")
    file = tmp_path / "append.js"
    file.write_text(
        HEADER
        + """
        const old = await target.fs.readText("/inbox/list.txt");
        console.log("read");
        await new Promise((resolve) => setTimeout(resolve, old.includes("milk") ? 0 : 3000));
        await target.fs.write("/inbox/list.txt", old + " eggs");
        """
    )
    sending = begun(laptop, file, "read")

    (inbox / "list.txt").write_text("bread milk")

    status, errors = ended(sending)
    assert status == 0
    # It was made again with what was there then, and says why its lines stand there twice.
    again = "(run again: peer:/inbox/list.txt was changed by another meanwhile)"
    assert again in errors
    run = laptop.types("script", "ls", "--json").json["runs"][0]["run"]
    for device in devices:
        assert device.does("script", "logs", run).splitlines() == ["read", again, "read"]
    assert (inbox / "list.txt").read_text() == "bread milk eggs"


def test_what_was_done_at_its_caller_is_not_said_to_be_undone(
    devices: tuple[Device, Device], tmp_path: Path
) -> None:
    laptop, phone = devices
    mine = laptop.types("ctx", "ls", "--json").json["contexts"][0]["name"]
    (laptop.tree(mine) / "notes").mkdir(exist_ok=True)
    file = tmp_path / "both.js"
    file.write_text(
        HEADER
        + """
        const old = await target.fs.readText("/inbox/list.txt");
        await caller.fs.write("/notes/done.txt", "done");
        console.log("read");
        await new Promise((resolve) => setTimeout(resolve, 3000));
        await target.fs.write("/inbox/list.txt", old + " eggs");
        """
    )
    inbox = phone.tree("peer") / "inbox"
    (inbox / "list.txt").write_text("bread")
    sending = begun(laptop, file, "read", "--expose", "/notes:rw")

    (inbox / "list.txt").write_text("bread milk")

    status, errors = ended(sending)
    assert status == 1
    assert "nothing at phone2 was kept; what it did at its caller's stays" in errors
    assert (inbox / "list.txt").read_text() == "bread milk"
    assert (laptop.tree(mine) / "notes/done.txt").read_text() == "done"


def test_a_call_of_a_node_that_is_away_is_no_run_that_was_lost(
    devices: tuple[Device, Device], tmp_path: Path
) -> None:
    laptop, phone = devices
    context = laptop.types("ctx", "ls", "--json").json["contexts"][0]["name"]
    laptop.allow(f"p, laptop, {context}, node.call, *, allow", context=context)
    file = tmp_path / "call.js"
    file.write_text(
        '// /// orvalho\n// needs = ["target.node.call:add@phone2"]\n// ///\n'
        'export default ({ target }) => target.node.call("add@phone2", "add", [2, 3]);'
    )
    phone.stop()
    try:
        failed = laptop.types("script", "send", f"{context}@laptop", str(file))
    finally:
        phone.start()

    assert "the run was lost" not in failed.err
    assert "a call of the script failed: phone2 is not reachable" in failed.err, failed
    assert "send it again once that is there" in failed.err
