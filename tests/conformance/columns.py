"""A Column a language: how the promises are written in it, and which of them it cannot keep.

To add one: a subclass with a filename, `calling`, `catching`, and a program of each name in
`PROGRAMS`; put it into COLUMNS.
"""

from __future__ import annotations

import base64
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Final

from orvalho.runtime.job import Ended
from orvalho.scripts.script import Source
from tests.conformance.promises import PROMISES, Promise
from tests.runtime import wat
from tests.runtime.component_text import componentize

# Beside those of the table: what the tests that follow a run need.
PROGRAMS: Final = {promise.program for promise in PROMISES if promise.program} | {
    "uses", "says_and_waits", "leaves_a_trace", "counts_a_map",
}  # fmt: skip


class Column(ABC):
    """`skips` is the name of a promise or program, with why this language does not keep it."""

    name: ClassVar[str]
    filename: ClassVar[str]
    # What begins a comment.
    mark: ClassVar[str] = ""
    programs: ClassVar[Mapping[str, Source]]
    skips: ClassVar[Mapping[str, str]] = {}
    # For each promise with a stack, the beginnings of its lines.
    stacks: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    @abstractmethod
    def calling(self, calls: tuple[tuple[Any, ...], ...]) -> Source:
        """A program that makes the calls and has the last one's value for its result."""

    @abstractmethod
    def catching(self, call: tuple[Any, ...]) -> Source:
        """A program that makes one call and has the name of its error for its result."""

    def write(self, directory: Path, source: Source, *header: str) -> Path:
        """The program as a file, with the lines of its header: where a language has comments, in
        front of it, and otherwise beside it."""
        file = directory / self.filename
        if isinstance(source, bytes):
            file.write_bytes(source)
            file.with_name(f"{file.name}.toml").write_text("\n".join(header))
            return file
        lines = ["/// orvalho", *header, "///"] if header else []
        file.write_text(source + "".join(f"\n{self.mark} {line}" for line in lines))
        return file

    def source(self, promise: Promise) -> Source:
        if promise.calls:
            return self.calling(promise.calls)
        if promise.caught:
            return self.catching(promise.caught)
        return self.programs[promise.program]

    def seen(self, promise: Promise, ended: Ended) -> Any:
        """The result as the table has it."""
        if ended.result is None or ended.is_bytes:
            return ended.result
        found = json.loads(ended.result)
        if isinstance(found, dict) and list(found) == ["$bytes"]:
            return base64.b64decode(found["$bytes"])
        return found


class JavaScript(Column):
    name = "javascript"
    filename = "job.js"
    mark = "//"
    programs: ClassVar = {
        "echo": "export default ({ params }) => params",
        "names": "export default ({ caller, target }) => [caller.name, target.name]",
        "nothing": "export default () => undefined",
        "text": "export default () => 'é'",
        "fraction": "export default () => 1.5",
        "bytes": "new Uint8Array([1, 2, 255])",
        "no_bytes": "new Uint8Array(0)",
        "large": "'x'.repeat(200_000)",
        "too_deep": "let a = 1; for (let i = 0; i < 3000; i++) a = [a]; a",
        "no_json": "({ n: 10n })",
        "line": "log('hello'); undefined",
        "levels": "console.debug('a'); console.log('b'); console.info('c'); console.warn('d');"
        "console.error('e'); undefined",
        "odd_line": "log('é€😀'); undefined",
        "empty_line": "log(''); undefined",
        "many_lines": "for (let i = 100; i < 200; i++) log(i); undefined",
        "rule": "let e; try { await target.fs.read('/secret/a') } catch (x) { e = x.rule } e",
        "throws": "// a comment\nthrow new Error('wrong')",
        "throws_inside": "function inner() {\n  null.x }\n"
        "export default function main() {\n  inner() }",
        "no_syntax": "// a comment\nlet 1a = 2",
        "waits": "await new Promise(() => {})",
        "sleeps": "await new Promise((r) => setTimeout(r, 100_000))",
        "calls_forever": "await target.kv.get('forever')",
        "loops": "for (;;);",
        "eats": "",
        "floods": "for (;;) log('x'.repeat(100))",
        "calls_often": "for (;;) await target.kv.get('a')",
        "naps": "await new Promise((r) => setTimeout(r, 5)); 7",
        "calls_five_times": "let n = 0; for (let i = 0; i < 5; i++)"
        " n += (await target.kv.get('a')) === null ? 1 : 0; n",
        "uses": "log('12345'); await target.fs.write('/u', 'abc'); await target.fs.read('/u');"
        "const e = Date.now() + 60; while (Date.now() < e); 'r'",
        "says_and_waits": "log('first'); await target.kv.get('held')",
        "leaves_a_trace": "const was = 'trace' in globalThis; globalThis.trace = 1; was",
        "counts_a_map": "const a = {}; for (const c of 'hello, world') a[c] = (a[c] ?? 0) + 1; a",
    }
    skips: ClassVar = {
        "memory": "V8 may give up before its limit is seen: tests/runtime/test_job.py has it",
    }
    stacks: ClassVar = {
        "throws": ("job.js:2:7",),
        "throws_inside": ("inner (job.js:2:8)", "main (job.js:4:3)"),
        "no_syntax": ("job.js:2:1",),
    }

    def calling(self, calls: tuple[tuple[Any, ...], ...]) -> Source:
        return "".join(f"var r = await {self._call(call)};" for call in calls) + " r"

    def catching(self, call: tuple[Any, ...]) -> Source:
        return f"let n; try {{ await {self._call(call)} }} catch (e) {{ n = e.name }} n"

    def _call(self, call: tuple[Any, ...]) -> str:
        return f"{call[0]}({', '.join(map(self._written, call[1:]))})"

    def _written(self, value: Any) -> str:
        if isinstance(value, dict) and "$bytes" in value:
            return f"Uint8Array.fromBase64('{value['$bytes']}')"
        return json.dumps(value)


class Starlark(Column):
    name = "starlark"
    filename = "job.star"
    mark = "#"
    programs: ClassVar = {
        "echo": "def main(job):\n  return job.params",
        "names": "def main(job):\n  return [job.caller.name, job.target.name]",
        "nothing": "def main(job):\n  pass",
        "text": "def main(job):\n  return 'é'",
        "fraction": "def main(job):\n  return 1.5",
        "bytes": "def main(job):\n  return {'$bytes': 'AQL/'}",
        "no_bytes": "def main(job):\n  return {'$bytes': ''}",
        "large": "def main(job):\n  return 'x' * 200000",
        "too_deep": "def main(job):\n  x = 1\n  for i in range(3000):\n    x = [x]\n  return x",
        "no_json": "def main(job):\n  return {'n': main}",
        "line": "def main(job):\n  job.log('hello')",
        "levels": "def main(job):\n  job.debug('a')\n  job.log('b')\n  job.info('c')\n"
        "  job.warn('d')\n  job.error('e')",
        "odd_line": "def main(job):\n  job.log('é€😀')",
        "empty_line": "def main(job):\n  job.log('')",
        "many_lines": "def main(job):\n  for i in range(100, 200):\n    job.log(i)",
        "rule": "def main(job):\n  return job.attempt('target.fs.read', '/secret/a').error.rule",
        "throws": "def main(job):\n  fail('wrong')",
        "throws_inside": "def inner():\n  fail('x')\ndef main(job):\n  inner()",
        "no_syntax": "# a comment\nlet 1a = 2",
        "waits": "",
        "sleeps": "def main(job):\n  job.sleep(100000)",
        "calls_forever": "def main(job):\n  job.target.kv.get('forever')",
        "loops": "def main(job):\n  for i in range(2000000000):\n    pass",
        "eats": "def main(job):\n  x = []\n  for i in range(100000000):\n    x.append([i])",
        "floods": "def main(job):\n  for i in range(100000):\n    job.log('x' * 100)",
        "calls_often": "def main(job):\n  for i in range(10000):\n    job.target.kv.get('a')",
        "naps": "def main(job):\n  job.sleep(5)\n  return 7",
        "calls_five_times": "def main(job):\n"
        "  return len([1 for _ in range(5) if job.target.kv.get('a') == None])",
        "uses": "def main(job):\n  job.log('12345')\n  job.target.fs.write('/u', 'abc')\n"
        "  job.target.fs.read('/u')\n  for i in range(3000000):\n    pass\n  return 'r'",
        "says_and_waits": "def main(job):\n  job.log('first')\n  job.target.kv.get('held')",
        "leaves_a_trace": "def main(job):\n  was = 'trace' in job.params\n"
        "  job.params['trace'] = 1\n  return was",
        "counts_a_map": "def main(job):\n  a = {}\n  for c in 'hello, world'.elems():\n"
        "    a[c] = a.get(c, 0) + 1\n  return a",
    }
    skips: ClassVar = {"wall: it waits for nothing": "it has no promise to wait for"}
    stacks: ClassVar = {
        "throws": ("main (job.star:2:3)",),
        "throws_inside": ("inner (job.star:2:3)", "main (job.star:4:1)"),
        "no_syntax": ("job.star:2:5",),
    }

    def calling(self, calls: tuple[tuple[Any, ...], ...]) -> Source:
        lines = "\n".join(f"  r = {self._call(call)}" for call in calls)
        return f"def main(job):\n{lines}\n  return r"

    def catching(self, call: tuple[Any, ...]) -> Source:
        written = ", ".join(map(repr, call))
        return f"def main(job):\n  return job.attempt({written}).error.name"

    def _call(self, call: tuple[Any, ...]) -> str:
        return f"job.{call[0]}({', '.join(map(repr, call[1:]))})"


# Where a module of the table has its texts: first of a call's name, then of its arguments.
_NAME, _ARGUMENTS, _APART = 1024, 2048, 4096
_NUMBERS: Final = "".join(str(n) for n in range(100, 200))


def _log(at: int, size: int, level: int = 1) -> str:
    return f"(call $log (i32.const {level}) (i32.const {at}) (i32.const {size}))"


def _quoted(text: str) -> str:
    """As the text form has it."""
    return "".join(f"\\{byte:02x}" for byte in text.encode())


def _make(number: int, call: tuple[Any, ...], data: dict[int, str]) -> str:
    """A call, whose answer's size stands in $n."""
    at = number * _APART
    name, arguments = str(call[0]), json.dumps(call[1:], ensure_ascii=False)
    data[at + _NAME], data[at + _ARGUMENTS] = _quoted(name), _quoted(arguments)
    return (
        f"(local.set $n (call $call (i32.const {at + _NAME}) (i32.const {len(name)})"
        f" (i32.const {at + _ARGUMENTS}) (i32.const {len(arguments.encode())})))"
    )


def _calls(
    *calls: tuple[Any, ...],
    last: str = "(call $answer (local.get $n))",
    data: Mapping[int, str] | None = None,
) -> bytes:
    data = dict(data or {})
    made = [_make(number, call, data) for number, call in enumerate(calls)]
    refused = (
        " (if (i32.lt_s (local.get $n) (i32.const 0)) (then"
        " (call $answer (i32.sub (i32.const 0) (local.get $n))) (return)))"
    )
    return wat.run(f"(local $n i32) {refused.join(made)} {refused} {last}", data=data)


_GET: Final = ("target.kv.get", "a")
_WAITING: Final[dict[int, str]] = {9000: "first"}
_USED: Final[dict[int, str]] = {9000: "12345", 9008: "\\22r\\22"}
_USE: Final = "".join(
    _make(number, call, _USED)
    for number, call in enumerate(
        (("target.fs.write", "/u", "abc"), ("target.fs.read", "/u")))
)  # fmt: skip


def _filled(size: int, byte: str, at: int = 4096) -> str:
    return f"(memory.fill (i32.const {at}) (i32.const {ord(byte)}) (i32.const {size}))"


class Wasm(Column):
    """A core module with the imports named `orvalho`."""

    name = "wasm"
    filename = "job.wasm"
    programs: ClassVar = {
        "echo": wat.run("(drop (memory.grow (i32.const 20))) (call $answer (call $params))"),
        "names": b"",
        "nothing": wat.run(""),
        "text": wat.run("(call $result (i32.const 1024) (i32.const 4))", data={1024: "\\22é\\22"}),
        "fraction": wat.module('(func (export "run") (result f64) (f64.const 1.5))'),
        "bytes": wat.run(
            "(call $result_bytes (i32.const 1024) (i32.const 3))", data={1024: "\\01\\02\\ff"}
        ),
        "no_bytes": wat.run("(call $result_bytes (i32.const 0) (i32.const 0))"),
        "large": wat.run(
            f"{_filled(200_002, 'x')} (i32.store8 (i32.const 4096) (i32.const 34))"
            " (i32.store8 (i32.const 204097) (i32.const 34))"
            " (call $result (i32.const 4096) (i32.const 200002))"
        ),
        "too_deep": wat.run(
            f"{_filled(3000, '[')} {_filled(3000, ']', 7096)}"
            " (call $result (i32.const 4096) (i32.const 6000))"
        ),
        "no_json": wat.run("(call $result (i32.const 1024) (i32.const 3))", data={1024: "1 2"}),
        "line": wat.run(_log(1024, 5), data={1024: "hello"}),
        "levels": wat.run(
            "".join(_log(1024 + level, 1, level) for level in range(5)), data={1024: "abcde"}
        ),
        "odd_line": wat.run(_log(1024, 9), data={1024: "é€😀"}),
        "empty_line": wat.run(_log(1024, 0)),
        "many_lines": wat.run(
            "(local $i i32) (loop $l (call $log (i32.const 1)"
            " (i32.add (i32.const 1024) (i32.mul (local.get $i) (i32.const 3))) (i32.const 3))"
            " (local.set $i (i32.add (local.get $i) (i32.const 1)))"
            " (br_if $l (i32.lt_u (local.get $i) (i32.const 100))))",
            data={1024: _NUMBERS},
        ),
        "rule": _calls(("target.fs.read", "/secret/a")),
        "throws": wat.run("(call $fail (i32.const 1024) (i32.const 5))", data={1024: "wrong"}),
        "throws_inside": wat.module(
            '(func $inner unreachable) (func $run (export "run") (call $inner))'
        ),
        "no_syntax": b"\0asm\1\0\0\0\1\x7f",
        "waits": b"",
        "sleeps": wat.run("(call $sleep (i64.const 100000))"),
        "calls_forever": _calls(("target.kv.get", "forever")),
        "loops": wat.run("(loop $l (br $l))"),
        "eats": wat.run(
            "(loop $l (br_if $l (i32.ge_s (memory.grow (i32.const 16)) (i32.const 0)))) unreachable"
        ),
        "floods": wat.run(f"(loop $l {_log(1024, 100)} (br $l))", data={1024: "x" * 100}),
        "calls_often": _calls(*([_GET] * 12)),
        "naps": wat.module(
            '(func (export "run") (result i32) (call $sleep (i64.const 5)) (i32.const 7))'
        ),
        "calls_five_times": _calls(
            *([_GET] * 5), last="(call $result (i32.const 1000) (i32.const 1))", data={1000: "5"}
        ),
        "uses": wat.run(
            f"(local $n i32) (local $i i32) {_log(9000, 5)} {_USE}"
            "(loop $l (local.set $i (i32.add (local.get $i) (i32.const 1)))"
            " (br_if $l (i32.lt_u (local.get $i) (i32.const 300000000))))"
            "(call $result (i32.const 9008) (i32.const 3))",
            data=_USED,
        ),
        "says_and_waits": wat.run(
            "(local $n i32) (call $log (i32.const 1) (i32.const 9000) (i32.const 5))"
            + _make(0, ("target.kv.get", "held"), _WAITING),
            data=_WAITING,
        ),
        "leaves_a_trace": wat.module(
            '(global $was (mut i32) (i32.const 0)) (func (export "run")'
            " (call $result (i32.const 1024) (i32.const 5)) (global.set $was (i32.const 1))"
            " (i32.store (i32.const 1024) (i32.const 0x65757274)))",
            data={1024: "false"},
        ),
        "counts_a_map": b"",
    }
    skips: ClassVar = {
        "caller and target are named": "a core module is told no names",
        "thrown, with its place": "where a module calls `fail` its frames are not told",
        "not its language, with its place": "a module has no lines",
        "a refusal ends what lets it through": "a call answers a number, which it may ignore",
        "wall: it waits for nothing": "it has no promise to wait for",
        "counts_a_map": "a core module has no maps",
    }
    stacks: ClassVar = {
        # A place in a module is a byte, as in what its tools show.
        "throws_inside": ("inner (job.wasm:1:", "run (job.wasm:1:"),
    }

    def calling(self, calls: tuple[tuple[Any, ...], ...]) -> Source:
        return _calls(*calls)

    def catching(self, call: tuple[Any, ...]) -> Source:
        return _calls(call)

    def seen(self, promise: Promise, ended: Ended) -> Any:
        """A call's error is the JSON of all that it tells."""
        found = super().seen(promise, ended)
        if promise.caught:
            return found["name"]
        return found["rule"] if promise.program == "rule" else found


class LoneWasm(Wasm):
    """The same in a process of its own, without a look at the clock."""

    name = "wasm-alone"


_WHOLE: Final = {name: raw for name, raw in Wasm.programs.items() if name != "no_syntax"}


class Component(Wasm):
    """The same modules, each made a component over our own world."""

    name = "component"
    programs: ClassVar = {
        **{name: componentize(module) if module else b"" for name, module in _WHOLE.items()},
        "no_syntax": b"\0asm\x0d\0\1\0\7\x7f",
    }
    skips: ClassVar = {
        **Wasm.skips,
        "a refusal tells its rule": "the world's errors have a name and a message alone",
        "memory": "only the component sees its memory: tests/runtime/test_components.py has it",
    }

    def calling(self, calls: tuple[tuple[Any, ...], ...]) -> Source:
        return componentize(_calls(*calls))

    def catching(self, call: tuple[Any, ...]) -> Source:
        return componentize(_calls(call))


COLUMNS: Final[tuple[Column, ...]] = (
    JavaScript(), Starlark(), Wasm(), LoneWasm(), Component(),
)  # fmt: skip
