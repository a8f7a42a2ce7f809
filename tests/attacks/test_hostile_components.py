"""Components that mean harm, each beside one that does not, in the same worker: the good one ends
with its right answer, no worker dies, and the hostile one ends as it should.

wasmtime's traps that a component could spring on its host, and what holds them:

    an exception out of an import ends the process   test_no_exception_gets_out_of_an_import
    more stack than its thread has                   "recursion" below
    wasmtime's own asynchronous WASI aborts          test_wasmtimes_own_wasi_is_not_linked
    its sleeps cannot be interrupted                 runtime/test_components.py: cancelled
    compile bombs                                    test_a_component_that_takes_too_long_to_compile
    exceptions reach another thread's guest          runtime/test_components.py: its own guest
    a store belongs to one thread                    test_each_run_has_a_store_and_a_thread
    an instance is dead after a trap                 runtime/test_components.py: after a trap
    bytes cross one by one                           runtime/test_component_values.py: as a whole
    output callbacks that raise                      "flood" below: there are none of wasmtime's
    an error of a component has no code              "recursion": its words are read from the text
    a wheel for another machine fails oddly          test_an_engine_that_cannot_be_imported
    address space of many instances                  test_many_instances_one_after_another
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import anyio
import pytest

from orvalho.errors import InvalidInput
from orvalho.policies.quota import Limits
from orvalho.runtime.engine import Engine, Start, Turn
from orvalho.runtime.engines.catalog import LANGUAGES
from orvalho.runtime.engines.wasm import components
from orvalho.runtime.engines.wasm.engine import WasmEngine, WasmIsolate
from orvalho.runtime.job import Ended, Jobs
from orvalho.runtime.workers import zygote
from orvalho.runtime.workers.pool import open_workers
from orvalho.scripts.wasm.binary import COMPONENT_MAGIC
from orvalho.scripts.wasm.interfaces import read_component
from tests.runtime import component_text as text
from tests.runtime import wat
from tests.runtime.component_text import leb
from tests.runtime.play import end_of, make_job, play

pytestmark = pytest.mark.anyio

LIMITS = Limits(wall_s=5.0, cpu_s=0.6, memory_bytes=48 << 20, output_bytes=100_000, host_calls=200)
GOOD = text.componentize(wat.run("(call $answer (call $params))"))
NOTHING = (
    '(core module $R (func (export "run"))) (core instance $r (instantiate $R))'
    '(func (export "run") (canon lift (core func $r "run")))'
)
MEMORY = "(memory (core memory $memory))"


@dataclass(frozen=True)
class Attack:
    name: str
    source: bytes
    ends: tuple[str, ...]
    params: Any = None


def gives(count: int, kind: str) -> bytes:
    """Says that so many items lie at 1024."""
    return text.functions(
        "",
        '(func (export "run") (result i32) (drop (memory.grow (i32.const 600)))'
        f" (i32.store (i32.const 512) (i32.const 1024))"
        f" (i32.store (i32.const 516) (i32.const {count})) (i32.const 512))",
        f'(func (export "run") (result {kind}) (canon lift (core func $main "run") {MEMORY}))',
    )


def allocates(body: str) -> bytes:
    """Takes a text, for which its allocator does that."""
    return text.component(
        '(core module $M (memory (export "memory") 1)'
        f' (func (export "realloc") (param i32 i32 i32 i32) (result i32) {body})'
        ' (func (export "f") (param i32 i32))) (core instance $m (instantiate $M))'
        '(func (export "run") (param "x" string) (canon lift (core func $m "f")'
        ' (memory (core memory $m "memory")) (realloc (core func $m "realloc"))))'
    )


def imports(kind: str, core: str) -> bytes:
    """Imports a function of WASI with another type than it has."""
    result = "(drop (call $f))" if "result" in core else "(call $f)"
    given = "(i32.const 1)" if "param" in core else ""
    call = result.replace("$f", f"$f {given}")
    return text.component(
        f'(import "wasi:cli/environment@0.2.0" (instance $e (export "get-arguments" {kind})))'
        '(core func $f (canon lower (func $e "get-arguments")))'
        f'(core module $M (import "e" "f" (func $f {core})) (func (export "run") {call}))'
        '(core instance $m (instantiate $M (with "e" (instance (export "f" (func $f))))))'
        '(func (export "run") (canon lift (core func $m "run")))'
    )


def has(core: str, count: int = 1) -> bytes:
    module = f"(core module $M {core})" + "(core instance (instantiate $M))" * count
    return text.component(module + NOTHING)


LOOP = "(loop $l (br $l))"
SAYS = text.says("hello\n").replace("(call $stdout)", "(local.get $o)")
TEXT = {"args": ["abc"]}
ATTACKS = [
    Attack("a list out of its memory", gives(1 << 30, "(list u8)"), ("failed",)),
    Attack("a list of 4 million bytes", gives(4_000_000, "(list u8)"), ("memory", "output")),
    Attack("a list of 30 million bytes", gives(30_000_000, "(list u8)"), ("memory", "output")),
    Attack("a list of many lists", gives(3_000_000, "(list (list u8))"), ("memory",)),
    Attack("a list of many tuples", gives(900_000, "(list (tuple u64 u64 u64 u64))"),
           ("memory", "output")),
    Attack("a text of 30 MB", gives(30_000_000, "string"), ("output", "memory")),
    Attack("a list of 30 MB for its host", text.componentize(wat.run(
        "(drop (memory.grow (i32.const 600)))"
        " (call $result_bytes (i32.const 0) (i32.const 30000000))")), ("memory",)),
    Attack("a text of 30 MB for its host", text.componentize(wat.run(
        "(drop (memory.grow (i32.const 600)))"
        " (call $result (i32.const 0) (i32.const 30000000))")), ("failed", "output", "memory")),
    Attack("too many instances", has("(func)", 300), ("failed",)),
    Attack("too many memories", has("(memory 100)", 2), ("failed",)),
    Attack("too large a memory", has("(memory 10000)"), ("memory",)),
    Attack("too large a table", has("(table 90000000 funcref)"), ("memory",)),
    Attack("a start that never ends", has(f"(func $s {LOOP}) (start $s)"), ("cpu", "wall")),
    Attack("recursion", text.functions(
        "", '(func $f (export "run") (call $f) (call $f))',
        '(func (export "run") (canon lift (core func $main "run")))'), ("failed",)),
    Attack("an end that never ends", text.functions(
        "", f'(func (export "run") (result i32) (i32.const 7))'
        f'(func (export "after") (param i32) {LOOP})',
        '(func (export "run") (result s32) (canon lift (core func $main "run")'
        ' (post-return (core func $main "after"))))'), ("cpu", "wall")),
    Attack("an allocator that never ends", allocates(f"{LOOP} (i32.const 0)"),
           ("cpu", "wall"), TEXT),
    Attack("an allocator that lies", allocates("(i32.const -8)"), ("failed",), TEXT),
    Attack("an allocator that traps", allocates("unreachable"), ("failed",), TEXT),
    Attack("resources without end", text.command(
        "(loop $l (drop (call $stdout)) (br $l)) (i32.const 0)"), ("failed",)),
    Attack("flood", text.command(
        f"(local $o i32) (local.set $o (call $stdout)) (loop $l {SAYS} (br $l)) (i32.const 0)",
        data={1024: "hello\n"}), ("output",)),
    Attack("a resource that it does not have", text.command(
        "(call $write (i32.const 77) (i32.const 0) (i32.const 9) (i32.const 512)) (i32.const 0)"),
        ("failed",)),
    Attack("one resource for another", text.command(
        "(call $block (call $stdout)) (i32.const 0)"), ("failed",)),
    Attack("another parameter", imports('(func (param "x" u32) (result u64))',
                                        "(param i32) (result i64)"), ("failed",)),
    Attack("another result", imports("(func (result u64))", "(result i64)"), ("failed",)),
    Attack("calls without end", text.componentize(wat.run(
        "(loop $l (drop (call $call (i32.const 1024) (i32.const 1) (i32.const 1025)"
        " (i32.const 2))) (br $l))", data={1024: "x[]"})), ("host_calls",)),
]  # fmt: skip


@pytest.fixture(scope="module")
async def jobs(anyio_backend: str) -> AsyncIterator[Jobs]:
    async with open_workers(contexts_per_worker=2) as workers:
        yield Jobs(workers)


async def attack(jobs: Jobs, source: bytes, into: list[Ended], params: Any = None) -> None:
    async with jobs.open(
        make_job(source, filename="job.wasm", limits=LIMITS, params=params)
    ) as run:
        async for event in run:
            if isinstance(event, Ended):
                into.append(event)


@pytest.mark.parametrize("case", ATTACKS, ids=lambda case: case.name)
async def test_a_hostile_component_hurts_only_itself(jobs: Jobs, case: Attack) -> None:
    deaths = jobs.workers.statistics()["deaths"]
    ends: list[Ended] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(attack, jobs, case.source, ends, case.params)
        for _ in range(3):
            good, _ = await play(jobs, GOOD, filename="job.wasm", params={"n": 1})
            assert (good.outcome, good.result) == ("done", b'{"n":1}'), good
    assert end_of(ends[0]) in case.ends, ends[0]
    assert jobs.workers.statistics()["deaths"] == deaths


async def test_a_component_that_takes_too_long_to_compile(jobs: Jobs) -> None:
    blocks, locals_ = 900, 10_000
    body = "".join(
        f"(local.set {n} (i64.add (local.get {n}) (local.get {n + 1})))"
        f"(br_if {n % blocks} (memory.size))"
        for n in range(locals_ - 1)
    )
    loops = "(loop " * blocks + body + ")" * blocks
    bomb = has(f"(memory 1) (func (local {'i64 ' * locals_}) {loops})")
    ends: list[Ended] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(attack, jobs, bomb, ends)
        for _ in range(3):
            good, _ = await play(jobs, GOOD, filename="job.wasm", params=None)
            assert good.outcome == "done"
    assert ends[0].error_name == "CompileError", ends[0]
    assert "to compile" in str(ends[0].error_message)


async def test_many_instances_one_after_another(jobs: Jobs) -> None:
    """Each reserves 4 GB of addresses while it lives."""
    source = text.componentize(wat.run("(call $sleep (i64.const 10))"))
    ends: list[Ended] = []

    async def some() -> None:
        for _ in range(20):
            await attack(jobs, source, ends)

    async with anyio.create_task_group() as tasks:
        for _ in range(40):
            tasks.start_soon(some)
    assert {end_of(ended) for ended in ends} == {"done"}
    assert len(ends) == 800


class Rude(WasmIsolate):
    """An isolate whose host functions raise what is no Exception."""

    def sleep(self, after_ms: float) -> None:
        raise KeyboardInterrupt


async def test_no_exception_gets_out_of_an_import() -> None:
    """One that did would end this process, whatever it is."""
    engine = WasmEngine()
    problems, code = engine.compile(
        "job.wasm", text.componentize(wat.run("(call $sleep (i64.const 1))"))
    )
    engine.load("key", code, problems)
    isolate, turns = Rude(engine), SimpleQueue[Turn]()
    isolate.start(Start("job.wasm", "key", b"{}", {}, {}, 32 << 20, 1000, 9), turns.put)
    assert turns.get(timeout=30).broken == "KeyboardInterrupt: "
    isolate.close()


async def test_an_engine_that_cannot_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine that wasmtime is not made for: the others still run."""
    for error in (OSError("not for this machine"), RuntimeError("32 bits"), ImportError("none")):

        def fails(language: str, error: Exception = error) -> Engine:
            raise error

        monkeypatch.setattr(zygote, "make_engine", fails)
        engines: dict[int, Engine] = {}
        assert zygote._import(engines, LANGUAGES.index("wasm")) is None
        assert engines == {}


async def test_wasmtimes_own_wasi_is_not_linked() -> None:
    """What a component can reach is the tables of this engine, none of which knows a file."""
    folder = Path(components.__file__).parent
    source = "".join(file.read_text(encoding="utf-8") for file in folder.glob("*.py"))
    for word in ("add_wasip2", "define_wasi", "set_wasi", "preopen_dir", "_async("):
        assert word not in source


async def test_each_run_has_a_store_and_a_thread(jobs: Jobs) -> None:
    """Counters of forty runs at once: none sees another's."""
    source = text.functions(
        "",
        '(global $n (mut i32) (i32.const 0)) (func (export "run") (result i32)'
        " (loop $l (global.set $n (i32.add (global.get $n) (i32.const 1)))"
        " (br_if $l (i32.lt_u (global.get $n) (i32.const 1000)))) (global.get $n))",
        '(func (export "run") (result u32) (canon lift (core func $main "run")))',
    )
    ends: list[Ended] = []
    async with anyio.create_task_group() as tasks:
        for _ in range(40):
            tasks.start_soon(attack, jobs, source, ends)
    assert [ended.result for ended in ends] == [b"1000"] * 40


# ---- the reader ------------------------------------------------------------------------------


def section(number: int, content: bytes) -> bytes:
    return bytes([number]) + leb(len(content)) + content


def nested(depth: int) -> bytes:
    """Types, each a list of the one before it."""
    types = [b"\x70\x7d", *(b"\x70" + leb(number) for number in range(depth))]
    return COMPONENT_MAGIC + section(7, leb(len(types)) + b"".join(types))


def doubled(count: int) -> bytes:
    """Types, each a pair of the one before it: written out, they are two to the power of that."""
    types = [b"\x6f\x01\x7d", *(b"\x6f\x02" + leb(n) * 2 for n in range(count))]
    return COMPONENT_MAGIC + section(7, leb(len(types)) + b"".join(types))


def inside_each_other(depth: int) -> bytes:
    raw = COMPONENT_MAGIC
    for _ in range(depth):
        raw = COMPONENT_MAGIC + section(4, raw)
    return raw


MALFORMED = {
    "types nested ten thousand deep": nested(10_000),
    "types that double sixty times": doubled(60),
    "components in components": inside_each_other(2_000),
    "a section longer than the file": COMPONENT_MAGIC + b"\x07\x7f\x01",
    "a million types": COMPONENT_MAGIC + section(7, b"\xff\xff\x3f"),
    "a number without end": COMPONENT_MAGIC + section(7, b"\xff" * 20),
    "a name of 10,000 bytes": COMPONENT_MAGIC + section(
        10, b"\x01\x00" + leb(10_000) + b"a" * 10_000),
    "a type of itself": COMPONENT_MAGIC + section(7, b"\x01\x70\x00"),
    "an alias out of it": COMPONENT_MAGIC + section(6, b"\x01\x03\x02\x05\x00"),
    "an instance of nothing": COMPONENT_MAGIC + section(5, b"\x01\x00\x09\x00"),
    "an export of nothing": COMPONENT_MAGIC + section(11, b"\x01\x00\x01a\x01\x05\x00"),
    "a hundred memories": COMPONENT_MAGIC + section(
        1, b"\0asm\1\0\0\0" + section(5, leb(100) + b"\0\1" * 100)),
}  # fmt: skip


@pytest.mark.parametrize("name", MALFORMED)
async def test_a_malformed_component_is_refused_at_once(jobs: Jobs, name: str) -> None:
    with pytest.raises(InvalidInput, match="malformed at byte"):
        read_component(MALFORMED[name])
    ends: list[Ended] = []
    await attack(jobs, MALFORMED[name], ends)
    assert ends[0].error_name == "CompileError", ends[0]


async def test_the_reader_takes_twenty_thousand_damaged_components() -> None:
    wholes = [text.command("(i32.const 0)"), GOOD]
    chance = random.Random(7)
    refused = 0
    for number in range(20_000):
        raw = bytearray(wholes[number % 2])
        for _ in range(chance.randint(1, 4)):
            raw[chance.randrange(8, len(raw))] = chance.randrange(256)
        cut = bytes(raw[: chance.choice([len(raw), chance.randrange(8, len(raw))])])
        try:
            read_component(cut)
        except InvalidInput:
            refused += 1
    assert 1000 < refused < 20_000
