"""A run that was recorded where it ran is made again there, and elsewhere from a file."""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from orvalho.daemon.replaying import check, decode_bundle
from orvalho.errors import InvalidInput, Untrusted
from tests.runtime import wat
from tests.scenarios.devices import Device, two_devices, wait_until

JOB = """\
// /// orvalho
// needs = ["target.fs.read:/notes/**", "target.fs.write:/notes/**", "caller.fs.read:/log/**"]
// ///
export default async function ({ target, caller, params }) {
  const text = await target.fs.readText("/notes/list.txt");
  await target.fs.write("/notes/list.txt", `${text}milk ${new Date().toISOString()}\\n`);
  try { await target.fs.readText("/secret"); } catch (error) { console.log(error.name); }
  await new Promise((done) => setTimeout(done, 20));
  return { text, at: Date.now(), id: crypto.randomUUID(), dice: Math.random(), n: params.n };
}
"""


@pytest.fixture(scope="module")
def devices(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Device, Device]]:
    with two_devices(tmp_path_factory.mktemp("replay")) as (laptop, phone):
        phone.allow(
            "p, laptop, peer, fs.read, /notes/**, allow",
            "p, laptop, peer, fs.write, /notes/**, allow",
        )
        notes = phone.tree("peer") / "notes"
        notes.mkdir()
        (notes / "list.txt").write_text("bread\n")
        (laptop.home / "job.js").write_text(JOB)
        yield laptop, phone


def send(laptop: Device, *words: str, job: str = "job.js", status: int = 0) -> Any:
    sent = laptop.types(
        *("script", "send", "peer@phone2", str(laptop.home / job), "--json", *words)
    )
    assert sent.status == status, sent
    return json.loads(sent.out.splitlines()[-1])


def replayed(device: Device, *words: str) -> Any:
    printed = device.types("replay", "--json", *words)
    assert printed.status == 0, printed
    return printed.json


@pytest.fixture(scope="module")
def run(devices: tuple[Device, Device]) -> str:
    return str(send(devices[0], "--param", "n=3")["run"])


class TestHere:
    def test_it_is_the_same_again(self, devices: tuple[Device, Device], run: str) -> None:
        phone = devices[1]
        before = (phone.tree("peer") / "notes/list.txt").read_text()
        printed = phone.types("replay", "--calls", run)
        assert printed.status == 0, printed
        assert printed.out.startswith("deterministic: yes\n")
        assert "by the receipt of this node: done" in printed.out
        assert 'target.fs.readText ["/notes/list.txt"]\n        = "bread\\n"' in printed.out
        assert 'target.fs.readText ["/secret"]\n        ! {' in printed.out
        # Nothing was done a second time, and nothing is asked of the context any more.
        assert (phone.tree("peer") / "notes/list.txt").read_text() == before
        assert before.count("milk") == 1

    def test_the_context_is_not_asked(self, devices: tuple[Device, Device], run: str) -> None:
        notes = devices[1].tree("peer") / "notes"
        notes.rename(notes.with_name("away"))
        try:
            assert replayed(devices[1], run)["deterministic"] is True
        finally:
            notes.with_name("away").rename(notes)

    def test_and_after_a_restart(self, devices: tuple[Device, Device], run: str) -> None:
        phone = devices[1]
        phone.kill()
        phone.start()
        told = replayed(phone, run)
        assert told["deterministic"] is True
        assert (told["host_calls"], told["lines"], told["difference"]) == (3, 1, None)

    def test_one_that_got_nothing_has_no_row_and_is_made_again(
        self, devices: tuple[Device, Device]
    ) -> None:
        laptop, phone = devices
        (laptop.home / "sum.js").write_text("export default ({ params }) => params.n + 1")
        id_ = send(laptop, "--param", "n=3", job="sum.js")["run"]
        assert replayed(phone, id_)["deterministic"] is True
        with closing(sqlite3.connect(database(phone))) as connection:
            found = connection.execute("select count(*) from recordings where run = ?", [id_])
            assert found.fetchone() == (0,)

    def test_one_that_failed_and_one_that_was_refused(self, devices: tuple[Device, Device]) -> None:
        laptop, phone = devices
        (laptop.home / "bad.js").write_text(
            "export default async ({ target }) => { console.warn(Date.now());"
            " throw new TypeError(`at ${Date.now()}`); }"
        )
        id_ = send(laptop, job="bad.js", status=1)["run"]
        assert replayed(phone, id_)["deterministic"] is True
        (laptop.home / "no.js").write_text(
            '// /// orvalho\n// needs = ["target.fs.read:/etc/**"]\n// ///\n'
            "export default () => 1\n"
        )
        id_ = send(laptop, job="no.js", status=3)["run"]
        printed = phone.types("replay", id_)
        assert printed.status == 4 and "did not run" in printed.err

    @pytest.mark.parametrize(
        ("limit", "body"),
        [
            ('timeout = "300ms"', "await new Promise(() => {});"),
            ("host_calls = 2", 'for (;;) await target.fs.readText("/notes/list.txt");'),
        ],
    )
    def test_one_that_hit_a_limit(
        self, devices: tuple[Device, Device], limit: str, body: str
    ) -> None:
        laptop, phone = devices
        (laptop.home / "limit.js").write_text(
            f'// /// orvalho\n// needs = ["target.fs.read:/notes/**"]\n// {limit}\n// ///\n'
            f"export default async ({{ target }}) => {{ console.log(Date.now()); {body} }}\n"
        )
        printed = laptop.types(
            "script", "send", "peer@phone2", str(laptop.home / "limit.js"), "--json"
        )
        id_ = json.loads(printed.out.splitlines()[-1])["run"]
        assert replayed(phone, id_)["deterministic"] is True

    def test_webassembly_and_starlark(self, devices: tuple[Device, Device]) -> None:
        laptop, phone = devices
        program = wat.module(
            """(func (export "run")
              (drop (call $clock (i32.const 0) (i64.const 1) (i32.const 2048)))
              (drop (call $random (i32.const 2056) (i32.const 8)))
              (call $result_bytes (i32.const 2048) (i32.const 16)))""",
            imports=wat.HEAD + '(import "wasi_snapshot_preview1" "clock_time_get"'
            "  (func $clock (param i32 i64 i32) (result i32)))"
            '(import "wasi_snapshot_preview1" "random_get"'
            "  (func $random (param i32 i32) (result i32)))",
        )
        (laptop.home / "job.wasm").write_bytes(program)
        (laptop.home / "job.star").write_text(
            '# /// orvalho\n# needs = ["target.fs.read:/notes/**"]\n# ///\n'
            'def main(job):\n  print("hello")\n  return job.target.fs.list("/notes")\n'
        )
        for job, calls in (("job.wasm", 0), ("job.star", 1)):
            id_ = send(laptop, job=job)["run"]
            told = replayed(phone, id_)
            assert (told["deterministic"], told["host_calls"]) == (True, calls), job

    def test_a_plan_and_one_with_modules_of_its_own(self, devices: tuple[Device, Device]) -> None:
        laptop, phone = devices
        printed = laptop.types(
            *("script", "send", "--plan", "peer@phone2", str(laptop.home / "job.js")),
            *("--param", "n=1", "--json"),
        )
        assert printed.status == 0, printed
        id_ = json.loads(printed.out.splitlines()[-1])["run"]
        assert replayed(phone, id_)["outcome"] == "planned"
        (laptop.home / "words.js").write_text("export const now = () => Date.now();")
        (laptop.home / "main.js").write_text(
            'import { now } from "./words.js"; export default () => now();'
        )
        assert replayed(phone, send(laptop, job="main.js")["run"])["deterministic"] is True

    def test_one_that_uses_what_the_target_has(
        self, devices: tuple[Device, Device], tmp_path: Path
    ) -> None:
        """Its library, and its hook, may be others by now, or gone."""
        laptop, phone = devices
        library = phone.tree("peer") / "lib"
        library.mkdir(exist_ok=True)
        (library / "words.js").write_text("export const twice = (n) => 2 * n;")
        (library / "interpret.js").write_text(
            "export default ({ params }) => ({ params: { n: params.params.n + 1 } });"
        )
        (laptop.home / "uses.js").write_text(
            'import { twice } from "lib:words"; export default ({ params }) => twice(params.n);'
        )
        sent = send(laptop, "--param", "n=3", job="uses.js")
        assert sent["result"] == 8
        shutil.rmtree(library)
        assert replayed(phone, sent["run"])["deterministic"] is True

    def test_a_called_library_and_a_service(
        self, devices: tuple[Device, Device], tmp_path: Path
    ) -> None:
        laptop, phone = devices
        program = wat.assemble(
            '(module (func (export "add") (param i32 i32) (result i32)'
            " (i32.add (local.get 0) (local.get 1))))"
        )
        (file := tmp_path / "adder.wasm").write_bytes(program)
        phone.does("lib", "publish", str(file))
        assert (
            laptop.does("wasi", "call", "adder@phone2", "add", "2", "3", "--ctx", "peer") == "5\n"
        )
        id_ = phone.types("script", "ls", "--json").json["runs"][0]["run"]
        assert replayed(phone, id_)["deterministic"] is True
        phone.does("service", "start", "adder", "--ctx", "peer")
        laptop.does("wasi", "call", "adder@phone2", "add", "2", "3", "--ctx", "peer")
        id_ = phone.types("script", "ls", "--json").json["runs"][0]["run"]
        printed = phone.types("replay", id_)
        assert printed.status == 4 and "a service answered it" in printed.err


def database(device: Device) -> Path:
    return device.home / "state/orvalho.db"


@pytest.fixture(scope="module")
def file(devices: tuple[Device, Device], run: str) -> Path:
    laptop, phone = devices
    phone.does("replay", "--export", run, "-o", str(phone.home / "run.orvreplay"))
    assert (phone.home / "run.orvreplay").stat().st_mode & 0o077 == 0
    return Path(shutil.copy(phone.home / "run.orvreplay", laptop.home / "run.orvreplay"))


class TestElsewhere:
    def test_the_sender_makes_the_run_of_the_other_device_again(
        self, devices: tuple[Device, Device], run: str, file: Path
    ) -> None:
        laptop = devices[0]
        told = replayed(laptop, str(file))
        assert told["deterministic"] is True
        assert (told["run"], told["signed_by"]) == (run, "phone2")

    def test_by_its_id_it_is_told_where_to_look(
        self, devices: tuple[Device, Device], run: str
    ) -> None:
        printed = devices[0].types("replay", run)
        assert printed.status == 4 and "ran on phone2" in printed.err

    @pytest.mark.parametrize(
        ("field", "change", "words"),
        [
            ("recording", lambda it: it.replace(b"bread", b"brie!"), "recording"),
            ("result", lambda it: it.replace(b"bread", b"brie!"), "result"),
            ("text", lambda it: it.replace("20", "21"), "script is not the one"),
            ("params", lambda it: b'{"n":4}', "parameters are not the ones"),
            ("lines", lambda it: [["log", "Allowed"]], "output"),
            ("receipt", lambda it: it.replace(b"payload", b"pbyload"), ""),
            ("node_key", lambda it: it[:-3] + "aaa", ""),
            ("format", lambda it: 2, "format 2"),
        ],
    )
    def test_what_was_changed_on_the_way_is_refused(
        self, devices: tuple[Device, Device], file: Path, field: str, change: Any, words: str
    ) -> None:
        laptop = devices[0]
        bundle = msgspec.msgpack.decode(file.read_bytes())
        bundle[field] = change(bundle[field])
        forged = laptop.home / "forged.orvreplay"
        forged.write_bytes(msgspec.msgpack.encode(bundle))
        printed = laptop.types("replay", str(forged))
        assert printed.status in (2, 6), printed
        assert words in printed.err

    def test_ten_thousand_broken_files_are_refused_and_break_nothing(self, file: Path) -> None:
        whole = file.read_bytes()
        assert check(decode_bundle(whole)).receipt.outcome == "done"
        dice = random.Random(7)
        passed = 0
        for _ in range(10_000):
            broken = bytearray(whole)
            for _ in range(dice.randint(1, 3)):
                broken[dice.randrange(len(broken))] ^= dice.randint(1, 255)
            try:
                # The names of fields, and levels of lines, are signed by nobody.
                passed += check(decode_bundle(bytes(broken))).receipt.outcome != "done"
            except (InvalidInput, Untrusted):
                continue
        assert passed == 0

    def test_a_file_that_was_cut_is_refused(
        self, devices: tuple[Device, Device], file: Path
    ) -> None:
        laptop, whole = devices[0], file.read_bytes()
        cut = laptop.home / "cut.orvreplay"
        for size in (0, 1, len(whole) // 2, len(whole) - 1):
            cut.write_bytes(whole[:size])
            printed = laptop.types("replay", str(cut))
            assert printed.status == 2, printed


class TestWithout:
    def test_a_script_that_goes_another_way_is_told(self, devices: tuple[Device, Device]) -> None:
        """What V8 hides from everybody, such as when it collects, no recording holds."""
        laptop, phone = devices
        (laptop.home / "odd.js").write_text(
            '// /// orvalho\n// needs = ["target.fs.read:/notes/**"]\n// ///\n'
            'export default async ({ target }) => { const T = globalThis["Tem" + "poral"];'
            " const at = T.Now.instant().epochMilliseconds;"
            " await target.fs.exists(`/notes/${at}`); return at; }\n"
        )
        id_ = send(laptop, job="odd.js")["run"]
        printed = phone.types("replay", id_)
        assert printed.status == 1, printed
        assert printed.out.startswith("deterministic: no\n  call 1  target.fs.exists\n")
        told = phone.types("replay", "--json", id_)
        assert told.status == 1
        assert told.json["difference"]["recorded"].startswith('target.fs.exists ["/notes/1')

    def test_no_recording_says_why(self, devices: tuple[Device, Device]) -> None:
        laptop, phone = devices
        (laptop.home / "big.js").write_text(
            '// /// orvalho\n// needs = ["target.fs.read:/notes/**"]\n// ///\n'
            "export default async ({ target }) => {"
            ' for (let i = 0; i < 50; i++) await target.fs.readText("/notes/list.txt"); }\n'
        )
        phone.does("config", "set", "recorder.max_bytes", "500B")
        big = send(laptop, job="big.js")["run"]
        phone.does("config", "set", "recorder.keep", "off")
        off = send(laptop, job="big.js")["run"]
        phone.does("config", "set", "recorder.keep", "on")
        phone.does("config", "set", "recorder.max_bytes", "1MB")
        for id_, words in ((big, "recorder.max_bytes"), (off, "the recorder is off")):
            printed = phone.types("replay", id_)
            assert printed.status == 4 and words in printed.err, printed
        printed = phone.types("replay", "r_01HZZZZZZZZZZZZZZZZZZZZZZZ")
        assert printed.status == 4

    def test_of_one_that_was_run_twice_the_second_is_made_again(
        self, devices: tuple[Device, Device]
    ) -> None:
        laptop, phone = devices
        listed = phone.tree("peer") / "notes/twice.txt"
        listed.write_text("first")
        (laptop.home / "twice.js").write_text(
            "// /// orvalho\n"
            '// needs = ["target.fs.read:/notes/**", "target.fs.write:/notes/**"]\n// ///\n'
            "export default async ({ target }) => {"
            ' const text = await target.fs.readText("/notes/twice.txt"); console.log(text);'
            " await new Promise((done) => setTimeout(done, text === 'first' ? 4000 : 1));"
            ' await target.fs.write("/notes/twice.txt", text + "."); return text; }\n'
        )
        words = ["script", "send", "peer@phone2", str(laptop.home / "twice.js")]
        with subprocess.Popen(
            [sys.executable, "-m", "orvalho", *words], env=laptop.environ, stderr=subprocess.PIPE
        ) as sending:
            assert sending.stderr is not None
            assert any(b"first" in line for line in sending.stderr)
            listed.write_text("second")
            sending.communicate()
        id_ = phone.types("script", "ls", "--json").json["runs"][0]["run"]
        assert listed.read_text() == "second."
        told = replayed(phone, id_)
        assert (told["deterministic"], told["lines"], told["outcome"]) == (True, 1, "done")

    def test_a_held_run_is_made_again_once_it_was_accepted(
        self, devices: tuple[Device, Device]
    ) -> None:
        laptop, phone = devices
        rules = phone.policy("peer").read_text()
        phone.allow("p, laptop, peer, script.run, *, hold")
        try:
            printed = laptop.types(
                "script", "send", "peer@phone2", str(laptop.home / "job.js"), "--param", "n=9"
            )
            assert printed.status == 7, printed
            (held,) = phone.types("inbox", "--json").json["held"]
            assert phone.types("replay", held["run"]).status == 4
            phone.does("inbox", "accept", held["run"])
            assert replayed(phone, held["run"])["deterministic"] is True
        finally:
            count = phone.rules()
            phone.policy("peer").write_text(rules)
            wait_until(lambda: phone.rules() < count, "the policy is read again")
