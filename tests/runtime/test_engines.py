"""One table of promises, kept by every engine: the same case, written in each language, run in a
real worker. What an engine cannot keep is skipped by name, with the reason."""

from __future__ import annotations

import base64
import json
import time
from dataclasses import dataclass, field
from typing import Any

import anyio
import msgspec
import pytest

from orvalho.errors import Denied, InvalidInput
from orvalho.runtime.bridge import HostCall
from orvalho.runtime.job import Ended, Jobs
from orvalho.scripts.script import Source
from tests.runtime import component_text, wat
from tests.runtime.play import LIMITS, make_job, play

pytestmark = pytest.mark.anyio

ENGINES = {
    "javascript": "job.js",
    "starlark": "job.star",
    "wasm": "job.wasm",
    # The module of a case, made a component.
    "component": "job.wasm",
}


def calls(op: str, arguments: str) -> bytes:
    """A module that makes one call and answers what came."""
    text = arguments.replace('"', "\\22")
    body = (
        f"(local $n i32) (local.set $n (call $call (i32.const 1024) (i32.const {len(op)})"
        f" (i32.const 2048) (i32.const {len(arguments)})))"
        " (if (i32.ge_s (local.get $n) (i32.const 0))"
        " (then (call $answer (local.get $n)))"
        " (else (call $answer (i32.sub (i32.const 0) (local.get $n)))))"
    )
    return wat.run(body, data={1024: op, 2048: text})


def says(text: str, level: int = 1) -> str:
    return f"(call $log (i32.const {level}) (i32.const 1024) (i32.const {len(text)}))"


LOOP = "(loop $l (br $l))"
KV = "(drop (call $call (i32.const 1024) (i32.const 13) (i32.const 2048) (i32.const 5)))"
KV_DATA = {1024: "target.kv.get", 2048: "[\\22a\\22]"}


@dataclass(frozen=True)
class Case:
    """`javascript`, `starlark`, `wasm`: the program, or why there is none."""

    name: str
    javascript: Source
    starlark: Source
    wasm: Source
    # The result, or how it ended.
    result: Any = ...
    ends: str = "done"
    limits: dict[str, float] = field(default_factory=dict)
    lines: tuple[tuple[str, str], ...] | None = None
    params: Any = None

    @property
    def component(self) -> Source:
        if isinstance(self.wasm, str):
            return self.wasm
        if self.ends == "limited memory":
            return skip("nobody but the component sees its memory: test_components.py has it")
        try:
            return component_text.componentize(self.wasm)
        except InvalidInput:
            return self.wasm


def skip(reason: str) -> str:
    return f"SKIP {reason}"


CASES = [
    Case("params come in", "export default ({ params }) => params.n + 1",
         "def main(job):\n  return job.params['n'] + 1",
         wat.module('(func (export "add1") (param i32) (result i32)'
                    " (i32.add (local.get 0) (i32.const 1)))"),
         result=2, params={"n": 1, "call": "add1", "args": [1]}),
    Case("params go out as they came", "export default ({ params }) => params",
         "def main(job):\n  return job.params", wat.run("(call $answer (call $params))"),
         result={"a": [1, None, "é"], "b": {"c": True}},
         params={"a": [1, None, "é"], "b": {"c": True}}),
    Case("no params are null", "export default ({ params }) => [params === null]",
         "def main(job):\n  return [job.params == None]",
         skip("a module reads the text null"), result=[True]),
    Case("nothing is no result", "export default () => undefined",
         "def main(job):\n  pass", wat.run(""), result=None),
    Case("text", "export default () => 'é'", "def main(job):\n  return 'é'",
         wat.run("(call $result (i32.const 1024) (i32.const 4))", data={1024: "\\22é\\22"}),
         result="é"),
    Case("a fraction", "export default () => 1.5", "def main(job):\n  return 1.5",
         wat.module('(func (export "run") (result f64) (f64.const 1.5))'), result=1.5),
    Case("a bare script", "1 + 1", "1 + 1", skip("a module is no expression"), result=2),
    Case("the caller is named", "export default ({ caller }) => caller.name",
         "def main(job):\n  return job.caller.name",
         skip("a module is told no names"), result="gil"),
    Case("the target is named", "export default ({ target }) => target.name",
         "def main(job):\n  return job.target.name",
         skip("a module is told no names"), result="peer"),
    Case("a line", "export default ({ log }) => { log('hello') }",
         "def main(job):\n  job.log('hello')", wat.run(says("hello"), data={1024: "hello"}),
         result=None, lines=(("log", "hello"),)),
    Case("lines have levels", "console.warn('a'); console.error('b'); undefined",
         "def main(job):\n  job.warn('a')\n  job.error('b')",
         wat.run(says("a", 3) + "(call $log (i32.const 4) (i32.const 1025) (i32.const 1))",
                 data={1024: "ab"}), result=None, lines=(("warn", "a"), ("error", "b"))),
    Case("target.kv", "export default ({ target }) => target.kv.get('a')",
         "def main(job):\n  return job.target.kv.get('a')",
         calls("target.kv.get", '["a"]'), result=["a"]),
    Case("target.fs", "export default ({ target }) => target.fs.readText('/f')",
         "def main(job):\n  return job.target.fs.readText('/f')",
         calls("target.fs.readText", '["/f"]'), result=["/f"]),
    Case("caller.fs", "export default ({ caller }) => caller.fs.readText('/f')",
         "def main(job):\n  return job.caller.fs.readText('/f')",
         calls("caller.fs.readText", '["/f"]'), result=["/f"]),
    Case("calls after each other",
         "let n = 0; for (let i = 0; i < 5; i++) n += (await target.kv.get('a')).length; n",
         "def main(job):\n  return len([job.target.kv.get('a') for _ in range(5)])",
         wat.module(f'(func (export "run") (result i32) {KV * 5} (i32.const 5))', data=KV_DATA),
         result=5),
    Case("a refusal can be caught",
         "let n; try { await target.kv.put('a', 1) } catch (e) { n = e.name } n",
         "def main(job):\n  return job.attempt('target.kv.put', 'a', 1).error.name",
         wat.module('(func (export "run") (result i32) (i32.lt_s (call $call (i32.const 1024)'
                    " (i32.const 13) (i32.const 2048) (i32.const 7)) (i32.const 0)))",
                    data={1024: "target.kv.put", 2048: "[\\22a\\22,1]"}),
         result={"javascript": "Denied", "starlark": "Denied", "wasm": 1}),
    Case("a refusal ends what lets it through", "await target.kv.put('a', 1)",
         "def main(job):\n  job.target.kv.put('a', 1)",
         skip("a module is answered a number, which it may ignore"), ends="failed Denied no"),
    Case("an operation that is not there", "await target.kv.list('a')",
         "def main(job):\n  job.target.kv.list('a')", skip("as above"),
         ends="failed NotFound there is no operation 'target.kv.list'"),
    Case("thrown", "throw new Error('wrong')", "def main(job):\n  fail('wrong')",
         wat.run("(call $fail (i32.const 1024) (i32.const 5))", data={1024: "wrong"}),
         ends="failed Error wrong"),
    Case("not its language", "let 1a", "let 1a", b"\0asm\1\0\0\0\1\x7f", ends="failed"),
    Case("sleep", "await new Promise((r) => setTimeout(r, 5)); 7",
         "def main(job):\n  job.sleep(5)\n  return 7",
         wat.module('(func (export "run") (result i32) (call $sleep (i64.const 5)) (i32.const 7))'),
         result=7),
    Case("bytes", "new Uint8Array([1, 2, 255])", "def main(job):\n  return {'$bytes': 'AQL/'}",
         wat.run("(call $result_bytes (i32.const 1024) (i32.const 3))",
                 data={1024: "\\01\\02\\ff"}), result=b"\x01\x02\xff"),
    Case("wall", "await new Promise(() => {})", "def main(job):\n  job.sleep(100000)",
         wat.run("(call $sleep (i64.const 100000))"), ends="limited wall", limits={"wall_s": 0.4}),
    Case("wall, while it waits for an answer", "await target.kv.get('forever')",
         "def main(job):\n  job.target.kv.get('forever')",
         calls("target.kv.get", '["forever"]'), ends="limited wall", limits={"wall_s": 0.4}),
    Case("cpu", "for (;;);", "def main(job):\n  for i in range(2000000000):\n    pass",
         wat.run(LOOP), ends="limited cpu", limits={"cpu_s": 0.3}),
    Case("output", "for (;;) log('x'.repeat(100))",
         "def main(job):\n  for i in range(100000):\n    job.log('x' * 100)",
         wat.run(f"(loop $l {says('x' * 100)} (br $l))", data={1024: "x" * 100}),
         ends="limited output", limits={"output_bytes": 1000}),
    Case("a result beyond the output", "'x'.repeat(5000)", "def main(job):\n  return 'x' * 5000",
         wat.run("(call $result_bytes (i32.const 0) (i32.const 5000))"),
         ends="limited output", limits={"output_bytes": 1000}),
    Case("host calls", "for (;;) await target.kv.get('a')",
         "def main(job):\n  for i in range(10000):\n    job.target.kv.get('a')",
         wat.run(f"(loop $l {KV} (br $l))", data=KV_DATA), ends="limited host_calls",
         limits={"host_calls": 10}),
    Case("memory", skip("tests/runtime/test_job.py has it: V8 may give up first"),
         "def main(job):\n  x = []\n  for i in range(100000000):\n    x.append([i])",
         wat.run("(loop $l (br_if $l (i32.ge_s (memory.grow (i32.const 16)) (i32.const 0))))"
                 " unreachable"), ends="limited memory"),
]  # fmt: skip


async def echo(argument: str) -> str:
    if "forever" in argument:
        await anyio.sleep_forever()
    return argument


async def refuse(argument: str) -> str:
    raise Denied("no")


OPS: dict[str, HostCall] = {
    "target.kv.get": echo,
    "target.kv.put": refuse,
    "target.fs.readText": echo,
    "caller.fs.readText": echo,
}
AMPLE = {"wall_s": 15.0, "cpu_s": 10.0}


def how(ended: Ended) -> str:
    words = (ended.outcome, ended.limit, ended.error_name, ended.error_message)
    return " ".join(word for word in words if word)


@pytest.mark.parametrize("language", ENGINES)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_a_promise_is_kept(jobs: Jobs, case: Case, language: str) -> None:
    source = case.component if language == "component" else getattr(case, language)
    if isinstance(source, str) and source.startswith("SKIP "):
        pytest.skip(source[5:])
    limits = msgspec.structs.replace(LIMITS, **AMPLE | case.limits)
    settings: dict[str, Any] = {"params": case.params, "ops": OPS, "limits": limits}
    ended, lines = await play(jobs, source, filename=ENGINES[language], **settings)

    assert how(ended).startswith(case.ends), ended
    if case.ends == "done":
        wanted = case.result
        written_in = "wasm" if language == "component" else language
        if isinstance(wanted, dict) and written_in in wanted:
            wanted = wanted[written_in]
        got = ended.result
        if not ended.is_bytes and got is not None:
            assert json.loads(got) == wanted
        else:
            assert got == wanted
    if case.lines is not None:
        assert tuple((line.level, line.text) for line in lines) == case.lines


FAILING: dict[str, tuple[Any, list[str]]] = {
    "javascript": ("function inner() {\n  null.x }\nexport default function main() {\n  inner() }",
                   ["inner (job.js:2:8)", "main (job.js:4:3)"]),
    "starlark": ("def inner():\n  fail('x')\ndef main(job):\n  inner()",
                 ["inner (job.star:2:3)", "main (job.star:4:1)"]),
    # A place in a module is a byte, in what its tools show as well.
    "wasm": (wat.module('(func $inner unreachable) (func $run (export "run") (call $inner))'),
             ["inner (job.wasm:1:", "run (job.wasm:1:"]),
}  # fmt: skip
FAILING["component"] = (component_text.componentize(FAILING["wasm"][0]), FAILING["wasm"][1])


@pytest.mark.parametrize("language", ENGINES)
async def test_an_error_has_its_places(jobs: Jobs, language: str) -> None:
    source, places = FAILING[language]
    ended, _ = await play(jobs, source, filename=ENGINES[language])
    assert ended.outcome == "failed"
    found = str(ended.error_stack).splitlines()
    for line, place in zip(found[: len(places)], places, strict=True):
        assert line.startswith(f"    at {place}"), found


BUSY: dict[str, list[Any]] = {
    "javascript": ["for (;;);", "await new Promise(() => {})", "await target.kv.get('forever')"],
    "starlark": [
        "def main(job):\n  for i in range(2000000000):\n    pass",
        "def main(job):\n  x = 12345678\n  for i in range(60):\n    x = x * x",
        "def main(job):\n  job.sleep(100000)",
        "def main(job):\n  job.target.kv.get('forever')",
    ],
    "wasm": [
        wat.run(LOOP),
        wat.module(f'(func $s {LOOP}) (start $s) (func (export "run"))'),
        wat.run("(call $sleep (i64.const 100000))"),
        calls("target.kv.get", '["forever"]'),
    ],
}


BUSY["component"] = [component_text.componentize(module) for module in BUSY["wasm"]]


@pytest.mark.parametrize(
    ("language", "source"), [(name, source) for name, many in BUSY.items() for source in many]
)
async def test_a_cancelled_run_stops_wherever_it_is(
    jobs: Jobs, language: str, source: Source
) -> None:
    limits = msgspec.structs.replace(LIMITS, wall_s=60.0, cpu_s=60.0)
    job = make_job(source, filename=ENGINES[language], limits=limits, ops=OPS)
    async with jobs.open(job) as run:
        await anyio.sleep(0.3)
        cancelled_at = time.monotonic()
        run.cancel()
        events = [event async for event in run]
    assert time.monotonic() - cancelled_at < 5, "long before its own time was up"
    assert isinstance(events[-1], Ended)
    assert events[-1].outcome == "cancelled"


USING: dict[str, Any] = {
    "javascript": "log('12345'); await target.kv.get('a'); const e = Date.now() + 60;"
    " while (Date.now() < e); 'r'",
    "starlark": "def main(job):\n  job.log('12345')\n  job.target.kv.get('a')\n"
    "  for i in range(3000000):\n    pass\n  return 'r'",
    "wasm": wat.run(
        f"(local $i i32) {KV} (call $log (i32.const 1) (i32.const 3000) (i32.const 5))"
        "(loop $l (local.set $i (i32.add (local.get $i) (i32.const 1)))"
        " (br_if $l (i32.lt_u (local.get $i) (i32.const 300000000))))"
        "(call $result (i32.const 3008) (i32.const 3))",
        data={**KV_DATA, 3000: "12345", 3008: "\\22r\\22"},
    ),
}


USING["component"] = component_text.componentize(USING["wasm"])


@pytest.mark.parametrize("language", ENGINES)
async def test_what_was_used_adds_up(jobs: Jobs, language: str) -> None:
    limits = msgspec.structs.replace(LIMITS, **AMPLE)
    ended, lines = await play(
        jobs, USING[language], filename=ENGINES[language], ops=OPS, limits=limits
    )
    usage = ended.usage
    assert ended.outcome == "done", ended
    assert usage.output_bytes == len(ended.result or b"") + sum(len(line.text) for line in lines)
    assert usage.output_bytes == 8
    assert (usage.host_calls, usage.read_bytes, usage.written_bytes) == (1, 5, 5)
    assert 0 < usage.cpu_ms <= usage.wall_ms + 20


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
