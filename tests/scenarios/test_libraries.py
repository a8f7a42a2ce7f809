"""Libraries on two real devices: published, listed, fetched, called; each under the policy."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runtime import wat
from tests.scenarios.devices import Device, two_devices, wait_until

EXAMPLES = Path(__file__).parents[2] / "examples"
ADD, CAT = EXAMPLES / "add.wasm", EXAMPLES / "cat.wasm"
SUBTRACT = wat.assemble(
    '(module (func (export "add") (param i32 i32) (result i32)'
    " (i32.sub (local.get 0) (local.get 1))))"
)


@pytest.fixture(scope="module")
def devices(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Device, Device]]:
    with two_devices(tmp_path_factory.mktemp("libraries")) as (laptop, phone):
        phone.does("lib", "publish", str(ADD), "--doc", "small sums")
        phone.does("lib", "publish", str(CAT))
        (phone.tree("peer") / "notes").mkdir(exist_ok=True)
        (phone.tree("peer") / "notes" / "a.txt").write_text("first\nsecond\n")
        yield laptop, phone


@pytest.fixture
def laptop(devices: tuple[Device, Device]) -> Device:
    return devices[0]


@pytest.fixture
def phone(devices: tuple[Device, Device]) -> Device:
    return devices[1]


def test_publishing_twice_says_so_and_other_bytes_ask(phone: Device, tmp_path: Path) -> None:
    assert "add: already published" in phone.does("lib", "publish", str(ADD))
    (other := tmp_path / "add.wasm").write_bytes(SUBTRACT)
    refused = phone.types("lib", "publish", str(other))
    assert (refused.status, "--replace" in refused.err) == (1, True), refused
    broken = tmp_path / "broken.wasm"
    broken.write_bytes(ADD.read_bytes()[:20])
    assert phone.types("lib", "publish", str(broken)).status == 2
    listed = phone.types("libs", "--json").json["libraries"]
    assert [each["name"] for each in listed] == ["add", "cat"]


def test_a_peer_lists_and_fetches(laptop: Device, tmp_path: Path) -> None:
    listed = laptop.types("libs", "phone2", "--json").json
    assert listed["node"] == "phone2"
    add = listed["libraries"][0]
    digest = hashlib.sha256(ADD.read_bytes()).hexdigest()
    assert (add["name"], add["kind"], add["sha256"]) == ("add", "library", digest)
    assert (add["doc"], add["exports"][0]) == ("small sums", "add(i32, i32) -> i32")

    file = tmp_path / "add.wasm"
    assert digest in laptop.does("lib", "get", "add@phone2", "-o", str(file))
    assert file.read_bytes() == ADD.read_bytes()
    again = laptop.types("wasi", "get", "add@phone2", "-o", str(file), "--json").json
    assert (again["changed"], again["sha256"]) == (False, digest)

    laptop.does("lib", "get", "cat@phone2", "-o", str(tmp_path / "cat.wasm"))
    beside = EXAMPLES / "cat.wasm.toml"
    assert (tmp_path / "cat.wasm.toml").read_text() == beside.read_text()
    absent = laptop.types("lib", "get", "ad@phone2")
    assert (absent.status, "did you mean add?" in absent.err) == (4, True), absent


def test_a_large_library_comes_in_parts(laptop: Device, phone: Device, tmp_path: Path) -> None:
    filler = os.urandom(3 << 20)
    size = len(filler) + 2
    length = bytes(
        [size & 0x7F | 0x80, size >> 7 & 0x7F | 0x80, size >> 14 & 0x7F | 0x80, size >> 21]
    )
    (file := tmp_path / "large.wasm").write_bytes(
        ADD.read_bytes() + b"\0" + length + b"\1x" + filler
    )
    phone.does("lib", "publish", str(file))
    laptop.does("lib", "get", "large@phone2", "-o", str(tmp_path / "got.wasm"))
    assert (tmp_path / "got.wasm").read_bytes() == file.read_bytes()
    assert laptop.does("wasi", "call", "large@phone2", "add", "2", "3") == "5\n"
    # Its bytes did not travel with the call.
    run = laptop.types("script", "ls", "--json").json["runs"][0]
    assert run["filename"] == "large.lib"
    phone.does("lib", "rm", "large")


def test_a_peer_tells_what_a_library_is(laptop: Device) -> None:
    shown = laptop.types("wasi", "info", "cat@phone2", "--json").json
    assert shown["metadata"]["wasi"] == ["wasi_snapshot_preview1"]
    assert "target.fs.read" in shown["needs"]
    text = laptop.does("lib", "show", "add@phone2")
    assert "export   function mean (f64, f64) -> f64" in text
    assert "doc      small sums" in text


def test_a_function_is_called_where_it_is_published(laptop: Device) -> None:
    printed = laptop.types("wasi", "call", "add@phone2", "add", "2", "3")
    assert (printed.status, printed.out) == (0, "5\n"), printed
    assert laptop.does("wasi", "call", "add@phone2", "mean", "1.5", "-2.5") == "-0.5\n"
    told = laptop.types("wasi", "call", "add@phone2", "add", "-2", "3", "--json").json
    assert (told["result"], told["outcome"]) == (1, "done")
    run = laptop.types("script", "show", told["run"], "--json").json
    assert run["state"]["filename"] == "add.lib"
    assert run["receipt"]["outcome"] == "done"
    tried = [tuple(each[:2]) for each in run["receipt"]["tried"]]
    assert tried == [("lib.call", "add")]


def test_arguments_are_checked_before_anything_is_sent(laptop: Device) -> None:
    before = sent(laptop)
    for words, why in [
        (("add", "x", "3"), "argument 1: expected i32, got text"),
        (("add", "2", "1.5"), "argument 2: expected i32, got a fraction"),
        (("add", "2"), "takes 2 arguments, not 1"),
        (("sub", "2", "3"), "no function 'sub'"),
    ]:
        refused = laptop.types("wasi", "call", "add@phone2", *words)
        assert (refused.status, why in refused.err) == (2, True), refused
    program = laptop.types("wasi", "call", "cat@phone2", "_start")
    assert (program.status, "orvalho wasi run" in program.err) == (2, True)
    library = laptop.types("wasi", "run", "add@phone2")
    assert (library.status, "orvalho wasi call" in library.err) == (2, True)
    assert sent(laptop) == before, "nothing was sent"


def sent(device: Device) -> list[str]:
    return [each["run"] for each in device.types("script", "ls", "--json").json["runs"]]


def test_a_program_runs_with_its_own_streams(laptop: Device, phone: Device) -> None:
    refused = laptop.types("wasi", "run", "cat@phone2", "--ctx", "peer", "--", "/notes/a.txt")
    assert refused.status == 3, "what it needs its caller must be allowed"
    phone.allow("p, laptop, peer, fs.read, /**, allow")
    printed = laptop.types("wasi", "run", "cat@phone2", "--ctx", "peer", "--", "/notes/a.txt")
    assert (printed.status, printed.out) == (0, "first\nsecond\n"), printed
    failed = laptop.types(
        "wasi", "run", "cat@phone2", "--ctx", "peer", "--json", "--", "/notes/none.txt"
    )
    assert (failed.status, failed.json["exit_status"]) == (1, 44), failed
    done = laptop.types(
        "wasi", "run", "cat@phone2", "--ctx", "peer", "--json", "--", "/notes/a.txt"
    ).json
    assert (done["exit_status"], done["result"]) == (0, "first\nsecond\n")


def test_files_and_own_libraries_run_on_this_node(phone: Device, tmp_path: Path) -> None:
    assert phone.does("wasi", "call", str(ADD), "add", "20", "22") == "42\n"
    assert phone.does("wasi", "call", "add", "add", "20", "22") == "42\n"
    assert phone.does("wasi", "call", "add@phone2", "add", "0x10", "1") == "17\n"
    file = tmp_path / "out.txt"
    phone.allow("p, phone2, peer, fs.read, /**, allow")
    phone.does("wasi", "run", str(CAT), "--ctx", "peer", "-o", str(file), "--", "/notes/a.txt")
    assert file.read_text() == "first\nsecond\n"


def test_a_library_that_changed_is_asked_about_again(
    laptop: Device, phone: Device, tmp_path: Path
) -> None:
    (file := tmp_path / "sum.wasm").write_bytes(ADD.read_bytes())
    phone.does("lib", "publish", str(file))
    assert laptop.does("wasi", "call", "sum@phone2", "add", "5", "3") == "8\n"
    file.write_bytes(SUBTRACT)
    phone.does("lib", "publish", str(file), "--replace")
    assert laptop.does("wasi", "call", "sum@phone2", "add", "5", "3") == "2\n"
    # Whoever signed a digest gets that or nothing.
    reference = {"library": "sum", "sha256": hashlib.sha256(ADD.read_bytes()).hexdigest()}
    (old := tmp_path / "sum.lib").write_text(json.dumps(reference))
    refused = laptop.types("script", "send", "peer@phone2", str(old), "--param", "call=add")
    assert (refused.status, "digest differs" in refused.err) == (1, True), refused
    phone.does("lib", "rm", "sum")
    gone = laptop.types("wasi", "call", "sum@phone2", "add", "5", "3")
    assert gone.status == 4, gone
    assert phone.types("lib", "rm", "sum").status == 4


def test_what_is_put_there_by_hand_is_published(laptop: Device, phone: Device) -> None:
    directory = phone.home / "data" / "libraries"
    (directory / "hand.js").write_text("export function thumb(x) { return x }\n")
    (directory / "broken.wasm").write_bytes(b"\0asm\1\0\0\0\1\xff")
    (directory / "link.wasm").symlink_to(ADD)
    listed = laptop.types("libs", "phone2", "--json").json["libraries"]
    assert [each["name"] for each in listed] == ["add", "cat", "hand"]
    assert (listed[2]["kind"], listed[2]["exports"]) == ("javascript", ["thumb"])
    refused = laptop.types("wasi", "call", "hand@phone2", "thumb", "1")
    assert (refused.status, "imported, not called" in refused.err) == (2, True)
    for name in ("hand.js", "broken.wasm", "link.wasm"):
        (directory / name).unlink()


def test_needs_that_were_signed_are_those_of_the_library(
    laptop: Device, phone: Device, tmp_path: Path
) -> None:
    """A caller does not declare more for a library than its publisher did."""
    reference = {
        "library": "add",
        "sha256": hashlib.sha256(ADD.read_bytes()).hexdigest(),
        "header": 'needs = ["target.fs.read:/shared/**"]',
    }
    (file := tmp_path / "add.lib").write_text(json.dumps(reference))
    refused = laptop.types("script", "send", "peer@phone2", str(file), "--param", "call=add")
    assert (refused.status, "digest differs" in refused.err) == (1, True), refused


def test_rules_refuse_each_of_it_by_name(laptop: Device, phone: Device) -> None:
    phone.allow(
        "p, laptop, *, lib.call, cat, deny",
        "p, laptop, *, lib.get, add, deny",
        "p, laptop, *, lib.list, cat, deny",
    )
    got = laptop.types("lib", "get", "add@phone2", "-o", "/dev/null")
    assert (got.status, "policy/peer.csv:" in got.err) == (3, True), got
    assert laptop.does("wasi", "call", "add@phone2", "add", "2", "3") == "5\n"
    called = laptop.types("wasi", "run", "cat@phone2", "--ctx", "peer", "--", "/notes/a.txt")
    assert (called.status, "may not lib.call cat" in called.err) == (3, True), called
    assert "policy/peer.csv:" in called.err
    listed = laptop.types("libs", "phone2", "--json").json["libraries"]
    assert [each["name"] for each in listed] == ["add"]


def test_what_a_failing_program_printed_is_kept_too(laptop: Device, tmp_path: Path) -> None:
    (file := tmp_path / "fails.wasm").write_bytes(
        wat.command(
            """(call $log (i32.const 1) (i32.const 1024) (i32.const 5))
            (call $log (i32.const 3) (i32.const 1024) (i32.const 3)) (call $exit (i32.const 2))""",
            data={1024: "hello"},
        )
    )
    kept = tmp_path / "kept"
    failed = laptop.types("wasi", "run", str(file), "--ctx", "root", "-o", str(kept))
    assert (failed.status, "exit status 2" in failed.err) == (1, True), failed
    assert kept.read_text() == "hello\n"
    assert (failed.out, "hel\n" in failed.err) == ("", True)


def test_a_hidden_library_is_like_one_that_is_not_there(
    laptop: Device, phone: Device, tmp_path: Path
) -> None:
    (file := tmp_path / "secret.wasm").write_bytes(ADD.read_bytes())
    phone.does("lib", "publish", str(file))
    try:
        assert laptop.types("wasi", "info", "secret@phone2").status == 0
        for actions in (("list",), ("get", "call")):
            phone.allow(*(f"p, laptop, *, lib.{each}, secret, deny" for each in actions))
            for way in (("wasi", "info"), ("lib", "show"), ("lib", "get")):
                hidden, near, none = (
                    laptop.types(*way, f"{name}@phone2") for name in ("secret", "secre", "nothin")
                )
                assert (hidden.status, near.status) == (4, 4), (hidden, near)
                assert hidden.err.replace("secret", "nothin") == none.err
                assert near.err.replace("secre", "nothin") == none.err, "no hint at it either"
    finally:
        phone.does("lib", "rm", "secret")


def test_a_stranger_does_not_learn_which_there_are(phone: Device, tmp_path: Path) -> None:
    """A guest that no line speaks of is told the same of what is there and what is not."""
    guest = Device("guest", tmp_path / "guest")
    try:
        guest.init()
        guest.start()
        ticket = phone.does("peer", "invite", "--guest").strip().splitlines()[-1].strip()
        guest.does("peer", "add", ticket, "--guest")
        wait_until(lambda: guest.online("phone2") and phone.online("guest"), "they are linked")
        for words in (("lib", "show"), ("lib", "get"), ("wasi", "info")):
            told = [
                guest.types(*words, f"{name}@phone2").err.replace(name, "NAME")
                for name in ("add", "nothing")
            ]
            assert told[0] == told[1], told
            assert "lib." in told[0]
            assert "policy" not in told[0]
        assert guest.types("libs", "phone2").status == 3
        assert guest.types("services", "phone2").status == 3
        called = [guest.types("wasi", "call", f"{n}@phone2", "add", "1") for n in ("add", "no")]
        assert [each.status for each in called] == [3, 3]
        # By a name that it made up itself, it gets no further.
        refused = []
        for name in ("add", "nothing"):
            reference = {"library": name, "sha256": "0" * 64}
            (file := tmp_path / "x.lib").write_text(json.dumps(reference))
            refused.append(guest.types("script", "send", "root@phone2", str(file)))
        assert [each.status for each in refused] == [3, 3], refused
        assert refused[0].err == refused[1].err

        phone.allow("p, guest, *, lib.call, add, allow")
        assert guest.does("wasi", "call", "add@phone2", "add", "2", "3", "--ctx", "peer") == "5\n"
        assert guest.types("lib", "get", "add@phone2").status == 3
        assert guest.types("libs", "phone2").status == 3
    finally:
        guest.stop()


def test_binaries_are_looked_at_without_a_daemon(tmp_path: Path) -> None:
    nobody = Device("nobody", tmp_path / "home")
    (directory := tmp_path / "build").mkdir()
    (directory / "add.wasm").write_bytes(ADD.read_bytes())
    (directory / "broken.wasm").write_bytes(ADD.read_bytes()[:30])
    (directory / "text.txt").write_text("nothing")
    listed = nobody.types("wasi", "ls", str(directory), "--json").json["files"]
    assert [Path(each["file"]).name for each in listed] == ["add.wasm", "broken.wasm"]
    assert listed[0]["metadata"]["signer"] == "unsigned"
    assert "malformed at byte" in listed[1]["problem"]
    assert not nobody.home.exists(), "nothing was made"
    told = nobody.types("wasi", "info", str(directory / "broken.wasm"))
    assert (told.status, "malformed at byte" in told.err) == (2, True)
    (directory / "add.wasm.toml").write_text('timeout = "7s"')
    add = str(directory / "add.wasm")
    assert 'needs    timeout = "7s"' in nobody.does("wasi", "info", add)
    (file,) = nobody.types("wasi", "info", add, "--json").json["files"]
    assert file["needs"] == 'timeout = "7s"'
    (missing,) = {nobody.types("wasi", "info", "./none.wasm").status}
    assert missing == 2


def test_a_node_that_is_away_is_told_so(laptop: Device, phone: Device) -> None:
    assert laptop.types("wasi", "call", "add@phone2", "add", "1", "2").status == 0
    phone.stop()
    away = laptop.types("libs", "phone2")
    assert (away.status, "not reachable" in away.err) == (4, True), away
    # What it takes is known: so it can be signed, and wait.
    queued = laptop.types("wasi", "call", "add@phone2", "add", "40", "2", "--json")
    assert queued.status == 7, queued
    refused = laptop.types("wasi", "call", "add@phone2", "add", "x", "2")
    assert refused.status == 2, refused
    phone.start()
    run = queued.json["run"]
    wait_until(lambda: laptop.types("script", "result", run).status == 0, "it has run")
    assert laptop.does("script", "result", run) == "42\n"


def test_the_session_of_the_page_is_what_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every line of the page's first session, typed on devices of their own."""
    page = (EXAMPLES.parent / "docs" / "libraries.md").read_text()
    lines = [line for block in page.split("```\n")[1:4:2] for line in block.splitlines()]
    typed = [number for number, line in enumerate(lines) if "$ orvalho " in line]
    assert len(typed) == 6
    (tmp_path / "examples").symlink_to(EXAMPLES)
    monkeypatch.chdir(tmp_path)
    with two_devices(tmp_path) as devices:
        named = {device.name: device for device in devices}
        for number, after in zip(typed, [*typed[1:], len(lines)], strict=True):
            name, _, words = lines[number].partition("$ orvalho ")
            printed = named[name].types(*shlex.split(words))
            seen = (printed.out + printed.err).splitlines()[: after - number - 1]
            for wanted, found in zip(lines[number + 1 : after], seen, strict=True):
                assert found.startswith(wanted.removesuffix("...")), (lines[number], found)
