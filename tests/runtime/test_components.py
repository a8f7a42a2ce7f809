"""Components in a real worker: programs of preview 2, libraries, our own world, their limits."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from orvalho.errors import Denied, NotFound
from orvalho.runtime.job import Ended, Jobs, Output
from orvalho.runtime.workers.pool import open_workers
from tests.runtime import component_text as text
from tests.runtime import wat
from tests.runtime.play import LIMITS, how, make_job, play

pytestmark = pytest.mark.anyio

AMPLE = msgspec.structs.replace(LIMITS, wall_s=30.0, cpu_s=15.0)


async def runs(jobs: Jobs, source: bytes, **settings: Any) -> tuple[Ended, list[Output]]:
    return await play(jobs, source, filename="job.wasm", **{"limits": AMPLE} | settings)


# ---- programs --------------------------------------------------------------------------------


async def test_what_a_program_prints_is_its_lines_and_its_result(jobs: Jobs) -> None:
    source = text.command(
        text.says("one\ntwo\n") + text.says("x!", 1100) + "(i32.const 0)",
        data={1024: "one\ntwo\n", 1100: "x!"},
    )
    ended, lines = await runs(jobs, source)
    assert ended.result == b'"one\\ntwo\\nx!"'
    assert [line.text for line in lines] == ["one", "two", "x!"]


async def test_it_ends_as_it_says(jobs: Jobs) -> None:
    failed = "failed ExitStatus the program ended with exit status 1"
    assert how((await runs(jobs, text.command("(i32.const 1)")))[0]) == failed
    leaves = "(call $exit (i32.const {})) unreachable"
    assert how((await runs(jobs, text.command(leaves.format(1))))[0]) == failed
    assert how((await runs(jobs, text.command(leaves.format(0))))[0]) == "done"


async def test_standard_input_is_read_to_its_end(jobs: Jobs) -> None:
    # The result of a read lies at 512: 0 for ok, then place and size; 1 for closed at the end.
    body = (
        "(local $in i32) (local.set $in (call $stdin))"
        "(loop $more (call $read (local.get $in) (i64.const 3) (i32.const 512))"
        " (if (i32.eqz (i32.load8_u (i32.const 512))) (then"
        "  (call $write (call $stdout) (i32.load (i32.const 516)) (i32.load (i32.const 520))"
        "   (i32.const 600)) (br $more)))) (i32.load8_u (i32.const 516)) (i32.const 1) i32.ne"
    )
    ended, _ = await runs(jobs, text.command(body), params={"stdin": "typed text"})
    assert how(ended) == "done"
    assert json.loads(ended.result or b"") == "typed text"


async def test_its_lines_come_while_it_runs(jobs: Jobs) -> None:
    """The second is written only after an answer that the test gives when it has the first."""
    first, go_on = anyio.Event(), anyio.Event()

    async def wait(argument: str) -> str:
        await go_on.wait()
        return "null"

    body = (
        "(call $log (i32.const 1) (i32.const 1024) (i32.const 5))"
        "(drop (call $call (i32.const 2048) (i32.const 13) (i32.const 3000) (i32.const 5)))"
        "(call $log (i32.const 1) (i32.const 1029) (i32.const 6))"
    )
    source = text.run(body, data={1024: "firstsecond", 2048: "target.kv.get", 3000: "[\\22a\\22]"})
    job = make_job(source, filename="job.wasm", limits=AMPLE, ops={"target.kv.get": wait})
    seen: list[Any] = []
    with anyio.fail_after(60):
        async with jobs.open(job) as run:
            async for event in run:
                seen.append(event)
                if len(seen) == 1:
                    first.set()
                    go_on.set()
    assert [each.text for each in seen[:2]] == ["first", "second"]


async def test_a_program_that_prints_and_sleeps_is_heard_before_it_wakes(jobs: Jobs) -> None:
    sleeps = "(call $block (call $after (i64.const 600000000000)))"
    source = text.command(text.says("awake\n") + sleeps + "(i32.const 0)", data={1024: "awake\n"})
    limits = msgspec.structs.replace(LIMITS, wall_s=60.0, cpu_s=60.0)
    job = make_job(source, filename="job.wasm", limits=limits)
    with anyio.fail_after(60):
        async with jobs.open(job) as run:
            async for event in run:
                if isinstance(event, Output):
                    assert event.text == "awake"
                    run.cancel()
    assert isinstance(event, Ended)
    assert event.outcome == "cancelled", "long before it would have woken"


async def test_a_sleep_takes_as_long_as_it_says_and_no_processor(jobs: Jobs) -> None:
    source = text.command("(call $block (call $after (i64.const 200000000))) (i32.const 0)")
    ended, _ = await runs(jobs, source)
    assert ended.outcome == "done"
    assert ended.usage.wall_ms >= 190
    assert ended.usage.cpu_ms < 190


# ---- libraries -------------------------------------------------------------------------------

CALC = text.component(
    """
    (core module $M (func (export "add") (param i32 i32) (result i32)
      (i32.add (local.get 0) (local.get 1))))
    (core instance $m (instantiate $M))
    (func $add (param "a" u32) (param "b" u32) (result u32) (canon lift (core func $m "add")))
    (instance $sums (export "add" (func $add)))
    (instance $more (export "add" (func $add)) (export "plus" (func $add)))
    (export "demo:calc/sums@0.1.0" (instance $sums))
    (export "demo:calc/more@0.1.0" (instance $more))
    """
)


@pytest.mark.parametrize("name", ["plus", "demo:calc/sums#add", "demo:calc/sums@0.1.0#add"])
async def test_a_function_of_an_interface_is_called_by_its_name(jobs: Jobs, name: str) -> None:
    ended, _ = await runs(jobs, CALC, params={"call": name, "args": [2, 3]})
    assert (how(ended), ended.result) == ("done", b"5")


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"call": "plus", "args": ["x", 3]}, "argument 1: expected u32, got text"),
        ({"call": "plus", "args": [1, -1]}, "argument 2: expected u32, got a number outside"),
        ({"call": "plus", "args": [1]}, "add: func(a: u32, b: u32) -> u32 takes 2 arguments"),
        ({"call": "add", "args": [1, 2]}, "the component exports several functions 'add'"),
        ({"call": "sub", "args": [1, 2]}, "the component exports no function 'sub'"),
        (None, "the component exports no function 'run'"),
    ],
)
async def test_arguments_are_checked_against_the_types(
    jobs: Jobs, params: object, message: str
) -> None:
    ended, _ = await runs(jobs, CALC, params=params)
    wanted = message.replace("add: func", "plus: func") if "takes 2" in message else message
    assert how(ended).startswith(f"failed InvalidInput {wanted}")


# The function of the world `script`: it gives its parameters back, as ok or as err.
def main(tag: int) -> bytes:
    return text.functions(
        "",
        '(func (export "main") (param i32 i32) (result i32)'
        f" (i32.store8 (i32.const 512) (i32.const {tag}))"
        " (i32.store (i32.const 516) (local.get 0)) (i32.store (i32.const 520) (local.get 1))"
        " (i32.const 512))",
        f'(func (export "main") (param "params" string) (result (result string (error string)))'
        f' (canon lift (core func $main "main") {text.USES}))',
    )


async def test_main_takes_the_parameters_and_gives_the_result(jobs: Jobs) -> None:
    ended, _ = await runs(jobs, main(0), params={"n": [1, None, "é"]})
    assert json.loads(ended.result or b"") == {"n": [1, None, "é"]}
    ended, _ = await runs(jobs, main(1), params="no")
    assert how(ended) == 'failed Error "no"'


# ---- our world -------------------------------------------------------------------------------

KV = f"""
  {text.ERROR}
  (import "orvalho:host/kv@0.1.0" (instance $kv
    (alias outer 1 $error (type $e1)) (export "error" (type $e (eq $e1)))
    (export "get" (func (param "key" string) (result (result string (error $e)))))))
  (core func $get (canon lower (func $kv "get") {text.USES}))
"""
# Asks for the key `a`; what came is its result, or ends it with the error's message.
ASKS = text.component(
    f"""{text.LIBC} {KV}
    (core module $Main (import "libc" "memory" (memory 4))
      (import "kv" "get" (func $get (param i32 i32 i32))) (data (i32.const 1024) "a")
      (func (export "main") (param i32 i32) (result i32)
        (call $get (i32.const 1024) (i32.const 1) (i32.const 512))
        (if (i32.load8_u (i32.const 512)) (then
          (i64.store (i32.const 516) (i64.load (i32.const 524)))))
        (i32.const 512)))
    (core instance $main (instantiate $Main (with "libc" (instance $libc))
      (with "kv" (instance (export "get" (func $get))))))
    (func (export "main") (param "params" string) (result (result string (error string)))
      (canon lift (core func $main "main") {text.USES}))"""
)


async def test_its_keys_are_the_targets(jobs: Jobs) -> None:
    async def get(argument: str) -> str:
        return json.dumps({"asked": json.loads(argument)})

    ended, _ = await runs(jobs, ASKS, ops={"target.kv.get": get})
    assert json.loads(ended.result or b"") == {"asked": ["a"]}


@pytest.mark.parametrize("error", [Denied("not for you"), NotFound("nothing there")])
async def test_a_refusal_is_an_error_that_it_can_read(jobs: Jobs, error: Exception) -> None:
    async def get(argument: str) -> str:
        raise error

    ended, _ = await runs(jobs, ASKS, ops={"target.kv.get": get})
    assert how(ended) == f"failed Error {error}"


async def test_what_is_not_in_its_table_cannot_be_called(jobs: Jobs) -> None:
    ended, _ = await runs(jobs, ASKS)
    assert how(ended).startswith("failed Error there is no operation 'target.kv.get'")


async def test_a_check_tells_what_a_component_lacks(jobs: Jobs) -> None:
    for imported in (
        '(import "wasi:http/types@0.2.0" (instance (export "f" (func))))',
        '(import "orvalho:host/actors@0.1.0" (instance (export "f" (func))))',
        '(import "f" (func))',
    ):
        (problem,) = await jobs.check("a.wasm", text.component(imported))
        assert problem.message.endswith("which is not offered here")
    (problem,) = await jobs.check(
        "a.wasm",
        text.component('(import "wasi:cli/exit@0.2.0" (instance (export "quit" (func))))'),
    )
    assert problem.message == "it imports wasi:cli/exit@0.2.0#quit, which is not offered here"
    assert await jobs.check("a.wasm", CALC) == ()


# ---- limits ----------------------------------------------------------------------------------


async def test_all_its_memories_together_are_what_it_may_have(jobs: Jobs) -> None:
    """Grows two memories as far as they go and answers how many pages there are."""
    one = (
        '(core module $M{0} (memory 1) (func (export "run") (result i32)'
        " (loop $l (br_if $l (i32.ge_s (memory.grow (i32.const 1)) (i32.const 0)))) memory.size))"
        "(core instance $m{0} (instantiate $M{0}))"
    )
    source = text.component(
        one.format(1) + one.format(2) + '(core module $S (import "a" "run" (func $a (result i32)))'
        ' (import "b" "run" (func $b (result i32))) (func (export "run") (result i32)'
        " (i32.add (call $a) (call $b))))"
        '(core instance $s (instantiate $S (with "a" (instance $m1)) (with "b" (instance $m2))))'
        '(func (export "run") (result u32) (canon lift (core func $s "run")))'
    )
    ended, _ = await runs(jobs, source)
    assert how(ended) == "done"
    assert AMPLE.memory_bytes * 0.9 < int(ended.result or b"0") * 65536 <= AMPLE.memory_bytes


async def test_after_a_trap_another_run_of_it_is_as_good_as_new(jobs: Jobs) -> None:
    source = text.functions(
        "",
        '(func (export "run") (param i32) (result i32)'
        " (if (local.get 0) (then unreachable)) (i32.const 7))",
        '(func (export "run") (param "fails" bool) (result u32)'
        ' (canon lift (core func $main "run")))',
    )
    for _ in range(3):
        ended, _ = await runs(jobs, source, params={"args": [True]})
        assert "unreachable" in how(ended)
        ended, _ = await runs(jobs, source, params={"args": [False]})
        assert ended.result == b"7"


async def test_what_a_host_function_raises_reaches_its_own_guest(jobs: Jobs) -> None:
    failed: dict[int, str | None] = {}

    async def one(number: int) -> None:
        message = f"wrong {number:03}"

        async def get(argument: str) -> str:
            raise Denied(message)

        ended, _ = await runs(jobs, ASKS, ops={"target.kv.get": get})
        failed[number] = ended.error_message

    async with anyio.create_task_group() as tasks:
        for number in range(60):
            tasks.start_soon(one, number)
    assert failed == {number: f"wrong {number:03}" for number in range(60)}


async def test_a_component_is_cancelled_within_a_moment(jobs: Jobs) -> None:
    """The least of several tries: a busy machine makes any single one late."""
    limits = msgspec.structs.replace(LIMITS, wall_s=60.0, cpu_s=60.0)
    took: list[float] = []
    for source in (
        text.componentize(wat.run("(loop $l (br $l))")),
        text.command("(call $block (call $after (i64.const 600000000000))) (i32.const 0)"),
    ):
        least = 60.0
        for _ in range(8):
            job = make_job(source, filename="job.wasm", limits=limits)
            async with jobs.open(job) as run:
                await anyio.sleep(0.1)
                began = time.monotonic()
                run.cancel()
                events = [event async for event in run]
                least = min(least, time.monotonic() - began)
            assert isinstance(events[-1], Ended)
            assert events[-1].outcome == "cancelled"
        took.append(least)
    assert max(took) < 0.1, took


def files_of(folder: Path) -> list[Path]:
    return list(folder.iterdir())


async def test_code_is_read_again_only_for_a_worker_that_lacks_it(tmp_path: Path) -> None:
    source = text.run("(call $answer (call $params))")
    async with open_workers(contexts_per_worker=1, cache=tmp_path) as workers:
        jobs = Jobs(workers)
        assert (await runs(jobs, source, params=1))[0].result == b"1"
        (file,) = files_of(tmp_path)
        file.unlink()
        assert (await runs(jobs, source, params=2))[0].result == b"2"
        assert files_of(tmp_path) == [], "nobody asked for it"
        workers._codes._recent.clear()
        assert (await runs(jobs, source, params=3, context="other"))[0].result == b"3"
        assert files_of(tmp_path) == [file], "it was compiled again, for the other's worker"
