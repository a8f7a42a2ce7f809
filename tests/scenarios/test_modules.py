"""Scripts of several files between two real devices: sent, locked, and with libraries of the
target's."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.scenarios.devices import Device, Printed, two_devices, wait_until

EXAMPLES = Path(__file__).parents[2] / "examples"
LARGE = 2_000_000


@pytest.fixture(scope="module")
def devices(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Device, Device]]:
    with two_devices(tmp_path_factory.mktemp("modules")) as (laptop, phone):
        yield laptop, phone


@pytest.fixture
def laptop(devices: tuple[Device, Device]) -> Device:
    return devices[0]


@pytest.fixture
def phone(devices: tuple[Device, Device]) -> Device:
    return devices[1]


def write(top: Path, **files: str) -> str:
    """Files by name, `__` for a slash; the path of the script among them."""
    for name, text in files.items():
        path = top / name.replace("__", "/").replace("_ts", ".ts").replace("_js", ".js")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(top / "job.js")


def send(device: Device, file: str, *words: str) -> Printed:
    return device.types("script", "send", "peer@phone2", file, *words)


def shown(device: Device) -> Any:
    newest = device.types("script", "ls", "--json").json["runs"][0]["run"]
    return device.types("script", "show", newest, "--json").json


def test_the_album_of_the_examples_is_made_of_three_files(laptop: Device, phone: Device) -> None:
    album = phone.tree("peer") / "album"
    album.mkdir()
    for name in ("b.jpg", "a&b.png", "notes.txt"):
        (album / name).write_text("")
    phone.allow("p, laptop, peer, fs.read, /album/**, allow")

    file = str(EXAMPLES / "modules/album.js")
    page = json.loads(laptop.does("script", "send", "peer@phone2", file, "--param", "title=<1>"))

    assert page == (
        "<!doctype html><title>&lt;1&gt;</title>"
        '<img src="a&amp;b.png" alt="a&amp;b"><img src="b.jpg" alt="b">'
    )
    run = shown(laptop)
    assert sorted(run["modules"]) == ["page.js", "pictures.ts"]
    assert run["receipt"]["modules"] == run["modules"], "the target says what it ran"


def test_what_is_wrong_is_told_with_its_place_and_not_sent(laptop: Device, tmp_path: Path) -> None:
    runs = len(laptop.types("script", "ls", "--json").json["runs"])
    file = write(tmp_path, job_js='import "./gone.js"', gone_ts="")
    missing = send(laptop, file)
    assert missing.status == 2
    assert "job.js:1:8" in missing.err
    assert "./gone.ts" in missing.err, "the file of another ending is named"
    write(tmp_path, job_js='import { b } from "./a.js"', a_js="export const a = 1")
    assert "job.js:1:10" in send(laptop, file).err
    write(tmp_path, job_js='import "./a.js"', a_js='\nimport "../../../etc/passwd.js"')
    outside = send(laptop, file)
    assert (outside.status, "a.js:2:8" in outside.err) == (2, True)
    (tmp_path / "a.js").unlink()
    (tmp_path / "a.js").symlink_to("/etc/hostname")
    assert "leads out" in send(laptop, file).err
    assert len(laptop.types("script", "ls", "--json").json["runs"]) == runs


def test_a_context_overrides_what_its_node_shares(
    laptop: Device, phone: Device, tmp_path: Path
) -> None:
    shared = phone.home / "data/libraries"
    shared.mkdir(exist_ok=True)
    (shared / "notify.js").write_text('/** Tell. */\nexport const notify = (a) => "shared " + a;\n')
    phone.does("ctx", "new", "bob")
    phone.allow("p, laptop, bob, script.run, *, allow", context="bob")
    file = write(tmp_path, job_js='import { notify } from "lib:notify"; notify("x")')
    assert json.loads(laptop.does("script", "send", "peer@phone2", file)) == "shared x"

    library = phone.tree("peer") / "lib"
    library.mkdir(exist_ok=True)
    (library / "notify.ts").write_text(
        'import { notify as base } from "shared:notify";\n'
        "/** Tell loudly. */\nexport function notify(a: string): string { return base(a) + '!' }\n"
    )
    assert json.loads(laptop.does("script", "send", "peer@phone2", file)) == "shared x!"
    assert json.loads(laptop.does("script", "send", "bob@phone2", file)) == "shared x"

    which = phone.does("logic", "which", "notify", "--ctx", "peer")
    assert "contexts/peer/lib/notify.ts" in which.splitlines()[0]
    assert "comes before shared:/notify.js" in which
    assert "libraries/notify.js" in phone.does("logic", "which", "notify", "--ctx", "bob")
    show = phone.does("logic", "show", "peer")
    assert "function notify(a: string): string" in show
    assert "Tell loudly." in show


def test_a_library_that_is_not_there_names_the_nearest(
    laptop: Device, phone: Device, tmp_path: Path
) -> None:
    library = phone.tree("peer") / "lib"
    library.mkdir(exist_ok=True)
    (library / "notify.js").touch()
    file = write(tmp_path, job_js='import "lib:notfy"')
    printed = send(laptop, file)
    assert printed.status == 4
    assert "lib:notify" in printed.err


def test_a_stranger_to_the_context_learns_of_no_library(
    laptop: Device, phone: Device, tmp_path: Path
) -> None:
    phone.does("ctx", "new", "closed")
    phone.allow("p, laptop, closed, script.run, *, deny", context="closed")
    file = write(tmp_path, job_js='import "lib:notfy"')
    printed = laptop.types("script", "send", "closed@phone2", file)
    assert printed.status == 3
    assert "notify" not in printed.err


def test_what_differs_from_the_lock_is_refused(
    laptop: Device, phone: Device, tmp_path: Path
) -> None:
    library = phone.tree("peer") / "lib"
    library.mkdir(exist_ok=True)
    (library / "locked.js").write_text("export const a = 1")
    file = write(
        tmp_path,
        job_js='import { a } from "lib:locked"; import { b } from "./b.js"; a + b',
        b_js="export const b = 1",
    )
    assert send(laptop, file, "--lock").out.strip() == "2"
    assert send(laptop, file).out.strip() == "2"

    (library / "locked.js").write_text("export const a = 2")
    there = send(laptop, file)
    assert there.status == 6
    assert "digest differs from lock" in there.err

    (library / "locked.js").write_text("export const a = 1")
    (tmp_path / "b.js").write_text("export const b = 3")
    here = send(laptop, file)
    assert here.status == 6
    assert "b.js: digest differs from lock" in here.err
    laptop.does("script", "lock", file)
    assert send(laptop, file).out.strip() == "4"


def test_a_large_module_travels_once_and_again_when_it_is_lost(
    laptop: Device, phone: Device, tmp_path: Path
) -> None:
    file = write(
        tmp_path,
        job_js='import { big } from "./big.js"; big.length',
        big_js=f"export const big = '{'x' * LARGE}'",
    )
    assert send(laptop, file).out.strip() == str(LARGE)
    assert shown(laptop)["sent_bytes"] > LARGE
    assert send(laptop, file).out.strip() == str(LARGE)
    assert shown(laptop)["sent_bytes"] < 10_000, "its digest alone"

    phone.kill()
    with closing(sqlite3.connect(phone.home / "state/orvalho.db")) as database, database:
        database.execute("update runs set peer_key = 'nobody' where direction = 'received'")
    # The envelope waits at the sender, which dies as well: neither loses it.
    laptop.does("script", "send", "peer@phone2", file, "--detach")
    laptop.kill()
    phone.start()
    laptop.start()
    wait_until(
        lambda: laptop.types("script", "ls", "--json").json["runs"][0]["outcome"] == "done",
        "the run whose source was lost ends",
    )
    assert shown(laptop)["sent_bytes"] < 10_000


def test_a_link_that_leads_out_is_no_library_and_no_near_miss_of_itself(
    laptop: Device, phone: Device, tmp_path: Path
) -> None:
    library = phone.tree("peer") / "lib"
    library.mkdir(exist_ok=True)
    (library / "evil.js").symlink_to("/etc/hostname")
    printed = send(laptop, write(tmp_path, job_js='import "lib:evil"'))
    (library / "evil.js").unlink()
    assert printed.status == 4
    assert "did you mean lib:evil" not in printed.err


def test_which_libraries_there_are_is_told_only_to_whom_reasons_are_told(
    laptop: Device, phone: Device, tmp_path: Path
) -> None:
    library = phone.tree("peer") / "lib"
    library.mkdir(exist_ok=True)
    (library / "hidden.js").touch()
    file = write(tmp_path, job_js='import "lib:zzz"')
    assert "lib:hidden" in send(laptop, file).err
    phone.does("config", "set", "policy.explain_to", "none")
    printed = send(laptop, file)
    phone.does("config", "set", "policy.explain_to", "own")
    assert (printed.status, "hidden" in printed.err) == (4, False), printed.err


def test_a_locked_library_that_is_gone_is_noticed_whatever_stands_in_for_it(
    laptop: Device, phone: Device, tmp_path: Path
) -> None:
    library, shared = phone.tree("peer") / "lib", phone.home / "data/libraries"
    for folder in (library, shared):
        folder.mkdir(exist_ok=True)
    (shared / "base.js").write_text("export const a = 1")
    (library / "base.js").write_text('export { a } from "shared:base"; 2')
    file = write(tmp_path, job_js='import { a } from "lib:base"; a')
    send(laptop, file, "--lock")
    assert send(laptop, file).status == 0

    (library / "base.js").unlink()
    printed = send(laptop, file)
    assert printed.status == 6
    assert "/lib/base.js: in the lock, but not imported any more" in printed.err


def test_a_lock_that_is_written_anew_tells_what_it_said_until_then(
    laptop: Device, tmp_path: Path
) -> None:
    file = write(tmp_path, job_js='import { b } from "./b.js"; b', b_js="export const b = 1")
    assert "changed" not in send(laptop, file, "--lock").err
    (tmp_path / "b.js").write_text("export const b = 2")
    checked = laptop.types("script", "check", file)
    assert (checked.status, "b.js: digest differs from lock" in checked.err) == (6, True)
    assert "the lock was changed: b.js: digest differs" in send(laptop, file, "--lock").err
    assert laptop.types("script", "check", file).status == 0
    write(tmp_path, job_js="1")
    assert "b.js: in the lock, but not imported" in send(laptop, file).err


def test_nobody_writes_a_library_by_a_rule_about_everything(
    laptop: Device, phone: Device, tmp_path: Path
) -> None:
    (phone.tree("peer") / "lib").mkdir(exist_ok=True)
    phone.allow("p, laptop, peer, *, /**, allow")
    evil = tmp_path / "evil.js"
    evil.write_text("export const a = 1")
    sent = laptop.types("file", "send", str(evil), "peer@phone2:/lib/")
    assert sent.status == 3
    code = 'await target.fs.write("/lib/evil.js", "1")'
    assert laptop.types("script", "send", "peer@phone2", "-e", code).status == 3
    move = 'await target.fs.write("/x.js", "1"); await target.fs.move("/x.js", "/lib/evil.js")'
    assert laptop.types("script", "send", "peer@phone2", "-e", move).status == 3
    assert not (phone.tree("peer") / "lib/evil.js").exists()

    phone.allow("p, laptop, peer, fs.write, /lib/**, allow")
    assert laptop.types("script", "send", "peer@phone2", "-e", code).status == 0
    assert (phone.tree("peer") / "lib/evil.js").read_text() == "1"


def test_what_is_exposed_for_a_run_holds_no_code_unless_it_is_named(
    laptop: Device, phone: Device
) -> None:
    laptop.does("ctx", "new", "work")
    (laptop.tree("work") / "lib").mkdir()
    code = 'await caller.fs.write("/lib/evil.js", "1")'
    words = ("script", "send", "peer@phone2", "-e", code, "--as", "work", "--expose")
    assert laptop.types(*words, "/:rw").status == 3
    assert laptop.types(*words, "/lib:rw").status == 0


def test_starlark_loads_files_and_the_libraries_of_its_target(
    laptop: Device, phone: Device, tmp_path: Path
) -> None:
    library = phone.tree("peer") / "lib"
    library.mkdir(exist_ok=True)
    (library / "counts.star").write_text(
        'load("./more.star", "added")\ndef total(x):\n    """The sum."""\n    return added(x)\n'
    )
    (library / "more.star").write_text(
        "def added(x):\n    n = 0\n    for each in x:\n        n += each\n    return n\n"
    )
    # A JavaScript library of that name is another language's.
    (library / "counts.js").write_text("export const total = () => -1;")
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "twice.star").write_text("def twice(x):\n    return [2 * n for n in x]\n")
    (file := tmp_path / "job.star").write_text(
        'load("./own/twice.star", "twice")\nload("lib:counts", "total")\n'
        'def main(job):\n    return total(twice(job.params["x"]))\n'
    )
    printed = send(laptop, str(file), "--param", "x=[1, 2, 3]", "--lock")
    assert (printed.status, printed.out.strip()) == (0, "12"), printed
    run = shown(laptop)
    assert list(run["modules"]) == ["own/twice.star"]
    used = {each["path"]: each["name"] for each in run["receipt"]["libraries"]}
    assert used == {"/lib/counts.star": "lib:counts", "/lib/more.star": ""}
    assert "The sum." in phone.does("logic", "show", "peer")

    (library / "more.star").write_text("def added(x):\n    return 0\n")
    changed = send(laptop, str(file), "--param", "x=[1, 2, 3]")
    assert (changed.status, "digest differs from lock" in changed.err) == (6, True), changed
    (tmp_path / "job.lock").unlink()
    (tmp_path / "own" / "twice.star").write_text('load("../job.star", "main")\ntwice = main\n')
    circle = send(laptop, str(file))
    assert (circle.status, "in a circle" in circle.err) == (2, True), circle
    assert "own/twice.star:1:6" in circle.err


def test_data_travels_with_the_script_that_imports_it(laptop: Device, tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text('[{"n": 2}, {"n": 5}]')
    source = (
        'import rows from "./rows.json" with { type: "json" };\n'
        "export default () => rows.reduce((n, row) => n + row.n, 0);\n"
    )
    file = write(tmp_path, job_js=source)
    printed = send(laptop, file, "--lock")
    assert (printed.status, printed.out) == (0, "7\n"), printed
    assert list(shown(laptop)["modules"]) == ["rows.json"]
    (tmp_path / "rows.json").write_text("[]")
    changed = send(laptop, file)
    assert (changed.status, "digest differs from lock" in changed.err) == (6, True), changed
    (tmp_path / "job.lock").unlink()
    (tmp_path / "rows.json").write_text("[1, 2,]")
    broken = send(laptop, file)
    assert (broken.status, "rows.json:1:" in broken.err) == (2, True), broken
