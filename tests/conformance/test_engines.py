"""The engine suite, on each engine there is."""

from __future__ import annotations

from typing import cast

import pytest

from orvalho.errors import NotFound
from orvalho.runtime.bridge import Threw
from orvalho.runtime.engine import Compiler, Engine
from orvalho.runtime.engines.catalog import make_engine
from tests.conformance.engine import EngineSuite, Programs, playing
from tests.runtime import component_text, wat

JAVASCRIPT = Programs(
    filename="job.js",
    adds_one_to_n="export default ({ params }) => params.n + 1",
    leaves_a_trace_and_answers_whether_there_was_one=(
        "const was = 'trace' in globalThis || 'trace' in Array.prototype;"
        "globalThis.trace = Array.prototype.trace = 1; was"
    ),
    calls_target_kv_get_and_answers_that="await target.kv.get('key')",
    calls_it_and_answers_the_name_of_the_error=(
        "let name; try { await target.kv.get('key') } catch (e) { name = e.name } name"
    ),
    logs_hello="log('hello'); undefined",
    sleeps_5_ms_and_answers_7="await new Promise((r) => setTimeout(r, 5)); 7",
    throws_wrong_on_line_2="// a comment\nthrow new Error('wrong')",
    is_not_syntax_on_line_2="// a comment\nlet 1a = 2",
    loops="for (;;) {}",
    loops_after_its_first_turn="await 0; for (;;) {}",
    eats_memory="const a = []; for (;;) a.push(new Array(1000).fill(1.5))",
    answers_three_bytes="new Uint8Array([1, 2, 3])",
)


STARLARK = Programs(
    filename="job.star",
    adds_one_to_n="def main(job):\n  return job.params['n'] + 1",
    leaves_a_trace_and_answers_whether_there_was_one=(
        "def main(job):\n  was = 'trace' in job.params\n  job.params['trace'] = 1\n  return was"
    ),
    calls_target_kv_get_and_answers_that="def main(job):\n  return job.target.kv.get('key')",
    calls_it_and_answers_the_name_of_the_error=(
        "def main(job):\n  return job.attempt('target.kv.get', 'key').error.name"
    ),
    logs_hello="def main(job):\n  job.log('hello')",
    sleeps_5_ms_and_answers_7="def main(job):\n  job.sleep(5)\n  return 7",
    throws_wrong_on_line_2="def main(job):\n  fail('wrong')",
    is_not_syntax_on_line_2="# a comment\nlet 1a = 2",
    loops="for i in range(2000000000):\n  pass",
    loops_after_its_first_turn=(
        "def main(job):\n  job.log('x')\n  for i in range(2000000000):\n    pass"
    ),
    eats_memory="x = []\nfor i in range(2000000000):\n  x.append([i])",
    answers_three_bytes="{'$bytes': 'AQID'}",
)
KEY = "(call $call (i32.const 1024) (i32.const 13) (i32.const 2048) (i32.const 7))"
KEY_DATA = {1024: "target.kv.get", 2048: "[\\22key\\22]"}
ONE_MORE = (
    "(drop (call $params)) (call $take (i32.const 65536))"
    " (i32.sub (i32.load8_u (i32.const 65541)) (i32.const 47))"
)
# Each by the key that its code is loaded under.
MODULES = {
    # The parameters are {"n":1}: the digit is their sixth byte.
    "adds": wat.module(f'(func (export "run") (result i32) {ONE_MORE})'),
    "trace": wat.module(
        '(global $was (mut i32) (i32.const 0)) (func (export "run")'
        " (call $result (i32.const 1024) (i32.const 5)) (global.set $was (i32.const 1))"
        " (i32.store (i32.const 1024) (i32.const 0x65757274)))",
        data={1024: "false"},
    ),
    "calls": wat.run(f"(call $answer {KEY})", data=KEY_DATA),
    # Negative: what came is an error; its name is the tenth byte on.
    "error": wat.run(
        f"(if (i32.lt_s {KEY} (i32.const 0)) (then (call $take (i32.const 65536))"
        " (call $result (i32.const 65544) (i32.const 8))))",
        data=KEY_DATA,
    ),
    "logs": wat.run(
        "(call $log (i32.const 1) (i32.const 1024) (i32.const 5))", data={1024: "hello"}
    ),
    "sleeps": wat.module(
        '(func (export "run") (result i32) (call $sleep (i64.const 5)) (i32.const 7))'
    ),
    "throws": wat.run("(call $fail (i32.const 1024) (i32.const 5))", data={1024: "wrong"}),
    "loops": wat.run("(loop $l (br $l))"),
    "loops later": wat.run(
        "(call $log (i32.const 1) (i32.const 0) (i32.const 1))(loop $l (br $l))"
    ),
    "eats": wat.run(
        "(loop $l (br_if $l (i32.ge_s (memory.grow (i32.const 8)) (i32.const 0)))) unreachable"
    ),
    "bytes": wat.run(
        "(call $result_bytes (i32.const 1024) (i32.const 3))", data={1024: "\\01\\02\\03"}
    ),
}
# Code is loaded under a key, whether it is a module's or a component's.
WASM = Programs(
    filename="job.wasm",
    adds_one_to_n="adds",
    leaves_a_trace_and_answers_whether_there_was_one="trace",
    calls_target_kv_get_and_answers_that="calls",
    calls_it_and_answers_the_name_of_the_error="error",
    logs_hello="logs",
    sleeps_5_ms_and_answers_7="sleeps",
    throws_wrong_on_line_2="throws",
    is_not_syntax_on_line_2="never loaded",
    loops="loops",
    loops_after_its_first_turn="loops later",
    eats_memory="eats",
    answers_three_bytes="bytes",
)


@pytest.fixture(scope="module")
def v8() -> Engine:
    return make_engine("javascript")


class TestV8(EngineSuite):
    @pytest.fixture
    def engine(self, v8: Engine) -> Engine:
        return v8

    @pytest.fixture
    def programs(self) -> Programs:
        return JAVASCRIPT


class TestStarlark(EngineSuite):
    @pytest.fixture
    def engine(self) -> Engine:
        return make_engine("starlark")

    @pytest.fixture
    def programs(self) -> Programs:
        return STARLARK


@pytest.fixture(scope="module")
def wasm() -> Engine:
    engine = cast("Compiler", make_engine("wasm"))
    for key, module in MODULES.items():
        problems, code = engine.compile("job.wasm", module)
        assert problems == (), key
        engine.load(key, code, problems)
    return engine


class TestWasm(EngineSuite):
    @pytest.fixture
    def engine(self, wasm: Engine) -> Engine:
        return wasm

    @pytest.fixture
    def programs(self) -> Programs:
        return WASM

    def test_what_is_thrown_has_its_place(self, engine: Engine, programs: Programs) -> None:
        pytest.skip("a module has no lines: test_promises.py has its places")

    def test_a_syntax_error_is_thrown_with_its_place(
        self, engine: Engine, programs: Programs
    ) -> None:
        with playing(engine, programs, programs.is_not_syntax_on_line_2) as played:
            (thrown,) = played.records()
            assert isinstance(thrown, Threw)
            assert thrown.name == "CompileError"

    def test_a_check_finds_it_too_and_runs_nothing(
        self, engine: Engine, programs: Programs
    ) -> None:
        (problem,) = cast("Compiler", engine).compile("job.wasm", b"\0asm\1\0\0\0\1\x7f")[0]
        assert "unexpected end" in problem.message


@pytest.fixture(scope="module")
def components() -> Engine:
    engine = cast("Compiler", make_engine("wasm"))
    for key, module in MODULES.items():
        problems, code = engine.compile("job.wasm", component_text.componentize(module))
        assert problems == (), key
        engine.load(key, code, problems)
    return engine


class TestComponent(TestWasm):
    @pytest.fixture
    def engine(self, components: Engine) -> Engine:
        return components

    def test_a_guest_cannot_have_more_than_its_memory(
        self, engine: Engine, programs: Programs
    ) -> None:
        pytest.skip(
            "a component's memory cannot be seen: one that traps for want of it has just trapped;"
            " tests/runtime/test_components.py holds that it gets no more"
        )


def test_a_language_that_nothing_runs_is_not_found() -> None:
    with pytest.raises(NotFound):
        make_engine("cobol")
