"""What engines do beside the promises that every one of them keeps (`tests/conformance`): what is
one language's own, many guests in one worker, and the programs of WASI preview 1."""

from __future__ import annotations

import base64
import dataclasses
import json
import time

import anyio
import msgspec
import pytest

from orvalho.errors import Denied
from orvalho.runtime.bridge import HostCall
from orvalho.runtime.job import Ended, Jobs
from orvalho.scripts.script import Source
from tests.runtime import component_text, wat
from tests.runtime.play import LIMITS, how, make_job, play

pytestmark = pytest.mark.anyio

LOOP = "(loop $l (br $l))"
KV = "(drop (call $call (i32.const 1024) (i32.const 13) (i32.const 2048) (i32.const 5)))"
KV_DATA = {1024: "target.kv.get", 2048: "[\\22a\\22]"}
ADD_ONE = wat.module(
    '(func (export "add1") (param i32) (result i32) (i32.add (local.get 0) (i32.const 1)))'
)
BEGINS_WITH_A_LOOP = wat.module(f'(func $s {LOOP}) (start $s) (func (export "run"))')


async def echo(argument: str) -> str:
    return argument


OPS: dict[str, HostCall] = {"target.kv.get": echo}


@pytest.mark.parametrize("module", [ADD_ONE, component_text.componentize(ADD_ONE)])
async def test_a_function_is_called_with_its_arguments(jobs: Jobs, module: bytes) -> None:
    params = {"call": "add1", "args": [1]}
    ended, _ = await play(jobs, module, filename="job.wasm", params=params)
    assert ended.result == b"2", ended


@pytest.mark.parametrize("filename", ["job.js", "job.star"])
async def test_a_script_can_be_an_expression(jobs: Jobs, filename: str) -> None:
    ended, _ = await play(jobs, "1 + 1", filename=filename)
    assert ended.result == b"2", ended


@pytest.mark.parametrize(
    ("filename", "source"),
    [
        ("job.js", "await target.kv.list('a')"),
        ("job.star", "def main(job):\n  job.target.kv.list('a')"),
    ],
)
async def test_an_operation_that_is_not_there(jobs: Jobs, filename: str, source: str) -> None:
    ended, _ = await play(jobs, source, filename=filename, ops=OPS)
    assert how(ended).startswith("failed NotFound there is no operation 'target.kv.list'")


@pytest.mark.parametrize(
    ("filename", "source"),
    [
        ("job.star", "def main(job):\n  x = 12345678\n  for i in range(60):\n    x = x * x"),
        ("job.wasm", BEGINS_WITH_A_LOOP),
        ("job.wasm", component_text.componentize(BEGINS_WITH_A_LOOP)),
    ],
    ids=["one long multiplication", "a module's start", "a component's start"],
)
async def test_a_cancelled_run_stops_wherever_it_is(
    jobs: Jobs, filename: str, source: Source
) -> None:
    limits = msgspec.structs.replace(LIMITS, wall_s=60.0, cpu_s=60.0)
    job = make_job(source, filename=filename, limits=limits)
    async with jobs.open(job) as run:
        await anyio.sleep(0.3)
        cancelled_at = time.monotonic()
        run.cancel()
        events = [event async for event in run]
    assert time.monotonic() - cancelled_at < 5, "long before its own time was up"
    assert isinstance(events[-1], Ended)
    assert events[-1].outcome == "cancelled"


async def test_what_a_host_function_raises_reaches_its_own_guest(jobs: Jobs) -> None:
    """wasmtime-py keeps the last exception of all threads in one place."""
    failed: dict[int, str | None] = {}

    async def one(number: int) -> None:
        text = f"wrong {number:03}"
        source = wat.module(
            '(func (export "run") (local $i i32) (loop $l'
            f" {KV} (local.set $i (i32.add (local.get $i) (i32.const 1)))"
            " (br_if $l (i32.lt_u (local.get $i) (i32.const 3))))"
            " (call $fail (i32.const 3000) (i32.const 9)))",
            data={**KV_DATA, 3000: text},
        )
        ended, _ = await play(jobs, source, filename="job.wasm", ops=OPS)
        failed[number] = ended.error_message

    async with anyio.create_task_group() as tasks:
        for number in range(60):
            tasks.start_soon(one, number)
    assert failed == {number: f"wrong {number:03}" for number in range(60)}


async def test_guests_alone_wait_for_each_other_and_keep_nobody_else(jobs: Jobs) -> None:
    done: list[str] = []

    async def one() -> None:
        source = "def main(job):\n  job.sleep(300)\n  return 1"
        ended, _ = await play(jobs, source, filename="job.star")
        done.append(ended.outcome)

    async with anyio.create_task_group() as tasks:
        for _ in range(40):
            tasks.start_soon(one)
        await anyio.sleep(0.1)
        assert await jobs.check("a.star", "x = 1") == ()
        ended, _ = await play(jobs, wat.run("(nop)"), filename="job.wasm")
        assert ended.outcome == "done"
        assert done != ["done"] * 40, "some still wait"
    assert done == ["done"] * 40


# ---- WASI preview 1 --------------------------------------------------------------------------


def prints(at: int, size: int, stream: int = 1) -> str:
    return (
        f"(i32.store (i32.const 0) (i32.const {at})) (i32.store (i32.const 4) (i32.const {size}))"
        f"(drop (call $fd_write (i32.const {stream}) (i32.const 0) (i32.const 1) (i32.const 8)))"
    )


# Opens the path at 1024 with the given rights and flags; a failure ends it with its errno.
def opens(size: int, *, how: int, rights: int) -> str:
    return (
        "(local $e i32) (local.set $e (call $open (i32.const 3) (i32.const 0) (i32.const 1024)"
        f" (i32.const {size}) (i32.const {how}) (i64.const {rights}) (i64.const 0) (i32.const 0)"
        " (i32.const 16))) (if (local.get $e) (then (call $exit (local.get $e))))"
    )


READ = (
    "(i32.store (i32.const 0) (i32.const 4096)) (i32.store (i32.const 4) (i32.const 100))"
    "(drop (call $fd_read (i32.load (i32.const 16)) (i32.const 0) (i32.const 1) (i32.const 4)))"
    "(drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))"
)


class Tree:
    """Operations on files that a test can look into."""

    def __init__(self) -> None:
        self.files = {"/a.txt": b"content"}
        self.asked: list[str] = []

    def ops(self) -> dict[str, HostCall]:
        return {
            "target.fs.stat": self.stat,
            "target.fs.read": self.read,
            "target.fs.write": self.write,
        }

    async def stat(self, argument: str) -> str:
        from orvalho.errors import NotFound

        (path,) = json.loads(argument)
        self.asked.append(path)
        if path not in self.files:
            raise NotFound("not there")
        size = len(self.files[path])
        return json.dumps({"name": path, "type": "file", "size": size, "modified": 0})

    async def read(self, argument: str) -> str:
        (path,) = json.loads(argument)
        self.asked.append(path)
        return json.dumps({"$bytes": base64.b64encode(self.files[path]).decode()})

    async def write(self, argument: str) -> str:
        path, content = json.loads(argument)
        self.asked.append(path)
        if path.startswith("/ro"):
            raise Denied("read only")
        self.files[path] = base64.b64decode(content["$bytes"])
        return "null"


async def wasi(jobs: Jobs, source: bytes, tree: Tree, params: object = None) -> Ended:
    ended, _ = await play(jobs, source, filename="job.wasm", ops=tree.ops(), params=params)
    return ended


async def test_what_a_program_prints_is_its_lines_and_its_result(jobs: Jobs) -> None:
    body = prints(1024, 10) + prints(1040, 4, stream=2)
    source = wat.command(body, data={1024: "one\ntwo\nx!", 1040: "bad\n"})
    ended, lines = await play(jobs, source, filename="job.wasm")
    assert ended.result == b'"one\\ntwo\\nx!"'
    assert [(line.level, line.text) for line in lines] == [
        ("log", "one"), ("log", "two"), ("warn", "bad"), ("log", "x!"),
    ]  # fmt: skip


async def test_its_status_is_how_it_ended(jobs: Jobs) -> None:
    ended = await wasi(jobs, wat.command("(call $exit (i32.const 3))"), Tree())
    assert how(ended) == "failed ExitStatus the program ended with exit status 3"
    assert (await wasi(jobs, wat.command("(call $exit (i32.const 0))"), Tree())).outcome == "done"


async def test_arguments_and_standard_input_come_from_the_parameters(jobs: Jobs) -> None:
    args = (
        "(drop (call $args_sizes (i32.const 20) (i32.const 24)))"
        "(drop (call $args (i32.const 2000) (i32.const 4096)))"
    )
    source = wat.command(args + prints(4096 + len("job.wasm") + 1, 2))
    assert (await wasi(jobs, source, Tree(), {"args": ["ab"]})).result == b'"ab"'
    reads = "(i32.store (i32.const 16) (i32.const 0))" + READ
    ended = await wasi(jobs, wat.command(reads), Tree(), {"stdin": "typed"})
    assert json.loads(ended.result or b"").rstrip("\0") == "typed"


async def test_files_are_the_targets_own(jobs: Jobs) -> None:
    tree = Tree()
    source = wat.command(opens(5, how=0, rights=2) + READ, data={1024: "a.txt"})
    ended = await wasi(jobs, source, tree)
    assert json.loads(ended.result or b"").rstrip("\0") == "content"
    assert set(tree.asked) == {"/a.txt"}


async def test_what_is_written_is_there_when_it_has_ended(jobs: Jobs) -> None:
    tree = Tree()
    body = opens(5, how=9, rights=64) + (
        "(i32.store (i32.const 0) (i32.const 1024)) (i32.store (i32.const 4) (i32.const 5))"
        "(drop (call $fd_write (i32.load (i32.const 16)) (i32.const 0) (i32.const 1)"
        " (i32.const 8)))"
    )
    ended = await wasi(jobs, wat.command(body, data={1024: "b.txt"}), tree)
    assert ended.outcome == "done", ended
    assert tree.files["/b.txt"] == b"b.txt"


async def test_where_it_may_not_write_it_is_told_when_it_opens(jobs: Jobs) -> None:
    source = wat.command(opens(4, how=9, rights=64), data={1024: "ro.t"})
    assert how(await wasi(jobs, source, Tree())).endswith("exit status 2"), "EACCES"


async def test_where_nothing_may_be_written_the_folder_says_so(jobs: Jobs) -> None:
    """fd_fdstat_get tells no right to write, and opening for writing answers EROFS."""
    tree = Tree()
    source = wat.command(opens(5, how=0, rights=66), data={1024: "a.txt"})
    for read_only, status in (((), None), (("caller",), None), (("target", "caller"), 69)):
        job = dataclasses.replace(
            make_job(source, filename="job.wasm", ops=tree.ops()), read_only=read_only
        )
        async with jobs.open(job) as run:
            ended = [event async for event in run][-1]
        assert isinstance(ended, Ended)
        if status is None:
            assert ended.outcome == "done", ended
        else:
            assert how(ended).endswith(f"exit status {status}"), "EROFS"
    created = wat.command(opens(5, how=1, rights=64), data={1024: "b.txt"})
    job = dataclasses.replace(
        make_job(created, filename="job.wasm", ops=tree.ops()), read_only=("target",)
    )
    async with jobs.open(job) as run:
        ended = [event async for event in run][-1]
    assert isinstance(ended, Ended)
    assert how(ended).endswith("exit status 69"), "EROFS"
    assert "/b.txt" not in tree.files


async def test_the_rights_of_a_preopened_folder_are_those_that_were_declared(jobs: Jobs) -> None:
    # The two halves of `fs_rights_base`, then of `fs_rights_inheriting`, as the exit status tells
    # whether path_create_file (bit 10) and fd_write (bit 6) are there.
    body = """
      (drop (call $fdstat (i32.const 3) (i32.const 2048)))
      (call $exit (i32.or
        (i32.and (i32.shr_u (i32.load (i32.const 2056)) (i32.const 10)) (i32.const 1))
        (i32.shl (i32.and (i32.shr_u (i32.load (i32.const 2064)) (i32.const 6)) (i32.const 1))
          (i32.const 1))))
    """
    source = wat.assemble(
        '(module (import "wasi_snapshot_preview1" "fd_fdstat_get"'
        " (func $fdstat (param i32 i32) (result i32)))"
        ' (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))'
        f' (memory (export "memory") 1) (func (export "_start") {body}))'
    )
    for read_only, status in (((), 3), (("target",), 0)):
        job = dataclasses.replace(make_job(source, filename="job.wasm"), read_only=read_only)
        async with jobs.open(job) as run:
            ended = [event async for event in run][-1]
        assert isinstance(ended, Ended)
        if status:
            assert how(ended).endswith(f"exit status {status}")
        else:
            assert ended.outcome == "done", ended


async def test_who_has_a_module_compiled_is_charged_for_it(jobs: Jobs) -> None:
    """The first run of a module uses what its compiler used; the second does not."""
    functions = "".join(
        f'(func (export "f{n}") (param i32) (result i32)'
        + "(local.get 0)"
        + "(i32.const 3)(i32.mul)(i32.const 5)(i32.xor)" * 200
        + ")"
        for n in range(150)
    )
    source = wat.assemble(f'(module (memory (export "memory") 1) {functions})')
    used = []
    for _ in range(2):
        told: list[int] = []
        job = dataclasses.replace(
            make_job(source, filename="job.wasm", params={"call": "f0", "args": [1]}),
            on_metered=told.append,
        )
        async with jobs.open(job) as run:
            ended = [event async for event in run][-1]
        assert isinstance(ended, Ended)
        assert ended.outcome == "done", ended
        used.append(ended.usage.cpu_ms)
    assert used[0] >= 20, used
    assert used[1] < used[0], used


@pytest.mark.parametrize("path", ["../a.txt", "x/../../a.txt", "/etc/passwd", "..", "a\\00.txt"])
async def test_no_path_leads_out(jobs: Jobs, path: str) -> None:
    tree = Tree()
    size = len(path.replace("\\00", "0"))
    ended = await wasi(jobs, wat.command(opens(size, how=0, rights=2), data={1024: path}), tree)
    assert how(ended).endswith("exit status 76"), "ENOTCAPABLE"
    assert tree.asked == []


async def test_a_second_run_of_a_module_is_not_compiled_again(jobs: Jobs) -> None:
    source = wat.run("(call $answer (call $params))")
    started = jobs.workers.statistics()
    for n in range(3):
        ended, _ = await play(jobs, source, filename="job.wasm", params={"n": n})
        assert json.loads(ended.result or b"") == {"n": n}
    assert jobs.workers.statistics()["deaths"] == started["deaths"]


async def test_a_check_tells_what_a_module_lacks(jobs: Jobs) -> None:
    source = wat.assemble('(module (import "env" "puts" (func)) (func (export "run")))')
    (problem,) = await jobs.check("a.wasm", source)
    assert problem.message == "it imports env.puts, which is not offered here"
    assert await jobs.check("a.wasm", wat.run(LOOP)) == ()
    (problem,) = await jobs.check("a.star", "x = = 2")
    assert (problem.line, problem.column) == (1, 5)
    assert await jobs.check("a.star", "def main(job):\n  pass") == ()


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"call": "add", "args": ["x", 3]}, "argument 1: expected i32, got text"),
        ({"call": "add", "args": [1, 2.5]}, "argument 2: expected i32, got a fraction"),
        ({"call": "add", "args": [1, 1 << 32]}, "argument 2: expected i32, got a number beyond"),
        ({"call": "add", "args": [1]}, "add (i32, i32) -> i32 takes 2 arguments, not 1"),
        ({"call": "sub", "args": []}, "the module exports no function 'sub'"),
        (None, "the module exports no function 'run'"),
    ],
)
async def test_arguments_are_checked_against_the_types(
    jobs: Jobs, params: object, message: str
) -> None:
    source = wat.module(
        '(func (export "add") (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1)))'
    )
    ended, _ = await play(jobs, source, filename="job.wasm", params=params)
    assert how(ended).startswith(f"failed InvalidInput {message}")
