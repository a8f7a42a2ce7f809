"""A run from its beginning to its end, in a real worker."""

from __future__ import annotations

import base64
import json
import time
from dataclasses import replace

import anyio
import msgspec
import pytest

from orvalho.errors import Denied, OrvalhoError
from orvalho.runtime.job import Ended, Jobs, Output
from tests.runtime.play import LIMITS, make_job, play, until, value_of

pytestmark = pytest.mark.anyio


async def echo(argument: str) -> str:
    return argument


async def test_a_function_gets_both_contexts_and_its_params(jobs: Jobs) -> None:
    source = """export default ({ caller, target, params }) =>
      [caller.name, caller.id, target.name, target.id, params]"""
    assert await value_of(jobs, source, params={"n": 1}) == [
        "gil", "ed25519:a", "peer", "ed25519:b", {"n": 1},
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("1 + 1", 2),
        ("await Promise.resolve([caller.name])", ["gil"]),
        ("const target = 3; target", 3),
        ("let a = 1", None),
        ("", None),
        ("export default 7", 7),
        ("const f = () => 8; export { f as default }", 8),
        ("export default async function f() { return g() }\nfunction g() { return 9 }", 9),
        ("export default () => undefined", None),
        ("export default () => null", None),
        ("#!/usr/bin/env node\n'b'", "b"),
    ],
)  # fmt: skip
async def test_forms_of_a_script(jobs: Jobs, source: str, value: object) -> None:
    assert await value_of(jobs, source) == value


async def test_undefined_is_no_result_and_null_is_one(jobs: Jobs) -> None:
    assert (await play(jobs, "undefined"))[0].result is None
    assert (await play(jobs, "null"))[0].result == b"null"


async def test_lines_come_while_it_runs_and_before_its_end(jobs: Jobs) -> None:
    source = """console.debug('a'); log('b', 1); console.warn({ c: [1] });
      await new Promise((r) => setTimeout(r, 300)); console.error('d'); 5"""
    seen: list[tuple[float, Output | Ended]] = []
    started = time.monotonic()
    async with jobs.open(make_job(source)) as run:
        async for event in run:
            seen.append((time.monotonic() - started, event))

    lines = [event for _, event in seen if isinstance(event, Output)]
    assert [(line.seq, line.level, line.text) for line in lines] == [
        (1, "debug", "a"), (2, "log", "b 1"), (3, "warn", "{ c: [ 1 ] }"), (4, "error", "d"),
    ]  # fmt: skip
    assert seen[0][0] + 0.1 < seen[-1][0], "a line comes when it is written, not at the end"
    assert abs(lines[0].at - time.time()) < 10


async def test_an_error_has_the_authors_lines_and_no_others(jobs: Jobs) -> None:
    source = "// line 1\nexport default async function main() {\n  await inner();\n}\n" \
        "async function inner() {\n  await 0;\n  throw new RangeError('far');\n}"  # fmt: skip
    ended, _ = await play(jobs, source, filename="deep.js")
    assert (ended.outcome, ended.error_name, ended.error_message) == ("failed", "RangeError", "far")
    assert ended.error_stack == "    at inner (deep.js:7:9)\n    at async main (deep.js:3:3)"


@pytest.mark.parametrize(
    ("source", "place"),
    [
        ("throw new Error('x')", "job.js:1:7"),
        ("export default () => { throw new Error('x') }", "default (job.js:1:30)"),
        ("'é😀';  null.x", "job.js:1:14"),
        ("let a = 1;\n a + b", "job.js:2:6"),
        ("let a = ;", "job.js:1:9"),
        ("  await target.fs.list('/x')", "job.js:1:19"),
        ("JSON.parse('{')", "JSON.parse (<anonymous>)\n    at job.js:1:6"),
    ],
)
async def test_every_place_is_as_it_stands_in_the_file(jobs: Jobs, source: str, place: str) -> None:
    ended, _ = await play(jobs, source)
    assert ended.error_stack == f"    at {place}"


async def test_a_stack_that_the_script_reads_is_the_same(jobs: Jobs) -> None:
    source = "export default () => new Error('x').stack"
    assert await value_of(jobs, source) == "Error: x\n    at default (job.js:1:22)"


async def test_an_import_is_refused_before_anything_runs(jobs: Jobs) -> None:
    ended, lines = await play(jobs, "log('ran');\nimport a from 'a'")
    assert (ended.error_name, lines) == ("SyntaxError", [])
    assert "bare name" in str(ended.error_message)
    assert ended.error_stack == "    at job.js:2:15"


async def test_a_call_reaches_the_operation_of_its_name(jobs: Jobs) -> None:
    source = "await target.fs.write('/a', new Uint8Array([255, 0]), { deep: [null] }, undefined)"
    assert await value_of(jobs, source, ops={"target.fs.write": echo}) == [
        "/a", {"$bytes": "/wA="}, {"deep": [None]}, None,
    ]  # fmt: skip


async def test_bytes_are_arrays_of_bytes_on_the_guests_side(jobs: Jobs) -> None:
    async def read(argument: str) -> str:
        return json.dumps({"$bytes": base64.b64encode(b"abc").decode()})

    source = "const b = await target.fs.read('/a'); [b instanceof Uint8Array, b.length, b[0]]"
    assert await value_of(jobs, source, ops={"target.fs.read": read}) == [True, 3, 97]


async def test_a_refusal_is_an_error_with_its_rule(jobs: Jobs) -> None:
    async def refuse(argument: str) -> str:
        raise Denied("no", rule="policy/peer.csv:7", hint="ask")

    source = """let seen; try { await target.kv.put('a', 1) } catch (e) {
      seen = [e instanceof Error, e.name, e.message, e.code, e.rule, e.hint] } seen"""
    assert await value_of(jobs, source, ops={"target.kv.put": refuse}) == [
        True, "Denied", "no", "denied", "policy/peer.csv:7", "ask",
    ]  # fmt: skip
    ended, _ = await play(jobs, "\n  await target.kv.put('a')", ops={"target.kv.put": refuse})
    assert (ended.error_name, ended.error_message) == ("Denied", "no")
    assert "job.js:2:19" in str(ended.error_stack)


async def test_a_bug_in_an_operation_is_not_shown_to_the_guest(jobs: Jobs) -> None:
    async def broken(argument: str) -> str:
        raise RuntimeError("/home/gil/secret")

    ended, _ = await play(jobs, "await target.kv.get('a')", ops={"target.kv.get": broken})
    assert ended.outcome == "failed"
    assert "secret" not in str(ended)


async def test_an_operation_outside_the_table_does_not_exist(jobs: Jobs) -> None:
    ended, _ = await play(jobs, "await caller.fs.read('/a')", ops={"target.fs.read": echo})
    assert ended.error_name == "NotFound"


async def test_calls_are_answered_in_whatever_order_they_are_ready(jobs: Jobs) -> None:
    running = most = 0

    async def slow(argument: str) -> str:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await anyio.sleep(0.02)
        running -= 1
        return argument

    source = "(await Promise.all([...Array(80).keys()].map((i) => target.kv.get(i)))).flat()"
    assert await value_of(jobs, source, ops={"target.kv.get": slow}) == list(range(80))
    assert 1 < most <= 32


async def test_bytes_as_the_result(jobs: Jobs) -> None:
    ended, _ = await play(jobs, "new Uint8Array([0, 255, 10])")
    assert (ended.result, ended.is_bytes) == (b"\x00\xff\n", True)


async def test_a_megabyte_goes_in_and_out(jobs: Jobs) -> None:
    text = "é" * (1 << 19)
    assert await value_of(jobs, "export default ({ params }) => params", params=text) == text


async def test_params_are_only_params(jobs: Jobs) -> None:
    params = {"__proto__": {"a": 1}, "program": "2", "constructor": None}
    source = "[Object.keys(params), ({}).a === undefined]"
    assert await value_of(jobs, source, params=params) == [list(params), True]


async def test_params_that_are_no_json_fail(jobs: Jobs) -> None:
    for raw in (b"{", b'1,"program":"2"', b"1}]"):
        job = replace(make_job("1"), params=raw)
        async with jobs.open(job) as run:
            events = [event async for event in run]
        assert isinstance(events[-1], Ended)
        assert events[-1].outcome in ("failed", "done")


@pytest.mark.parametrize(
    ("source", "limit", "tight"),
    [
        ("await new Promise(() => {})", "wall", {"wall_s": 0.5}),
        ("for (;;);", "cpu", {"cpu_s": 0.3}),
        ("for (;;) log('x'.repeat(100))", "output", {"output_bytes": 1000}),
        ("for (;;) await target.kv.get('a')", "host_calls", {}),
    ],
)
async def test_a_limit_ends_it_by_name(
    jobs: Jobs, source: str, limit: str, tight: dict[str, float]
) -> None:
    ample = {"wall_s": 10.0, "cpu_s": 10.0}
    limits = msgspec.structs.replace(LIMITS, **ample | tight)
    ended, _ = await play(jobs, source, limits=limits, ops={"target.kv.get": echo})
    assert (ended.outcome, ended.limit) == ("limited", limit)


async def test_a_heap_without_end_ends_at_its_limit_or_with_its_worker(jobs: Jobs) -> None:
    limits = msgspec.structs.replace(LIMITS, wall_s=10.0, cpu_s=10.0)
    ended, _ = await play(jobs, "const a = []; for (;;) a.push([1.5, 2.5])", limits=limits)
    # V8 may give up before anybody else does.
    assert ended.limit == "memory" or ended.error_name == "Unavailable", ended


async def test_what_it_used_is_told(jobs: Jobs) -> None:
    source = """log('12345'); await target.kv.get('a'); const end = Date.now() + 60;
      const a = new Uint8Array(20e6).fill(1); while (Date.now() < end); 'r'"""
    ended, _ = await play(jobs, source, ops={"target.kv.get": echo})
    usage = ended.usage
    assert usage.wall_ms >= 60
    assert 0 < usage.cpu_ms <= usage.wall_ms + 20
    assert usage.memory_bytes > 10_000_000
    assert (usage.output_bytes, usage.host_calls) == (5 + 3, 1)
    assert (usage.read_bytes, usage.written_bytes) == (5, 5)


@pytest.mark.parametrize(
    "source", ["for (;;);", "await 0; for (;;);", "await new Promise(() => {})"]
)
async def test_a_cancelled_run_stops_at_once(jobs: Jobs, source: str) -> None:
    async with jobs.open(make_job(source)) as run:
        await anyio.sleep(0.1)
        cancelled_at = time.monotonic()
        run.cancel()
        events = [event async for event in run]
    assert time.monotonic() - cancelled_at < 2, "long before its own time was up"
    assert isinstance(events[-1], Ended)
    assert events[-1].outcome == "cancelled"


async def test_leaving_the_block_stops_the_run_and_its_calls(jobs: Jobs) -> None:
    stopped = anyio.Event()

    async def wait(argument: str) -> str:
        try:
            await anyio.sleep_forever()
        finally:
            stopped.set()
        return ""

    job = make_job("target.kv.get('a'); log('x'); for (;;);", ops={"target.kv.get": wait})
    waiting = make_job("log('x'); await target.kv.get('a')", ops={"target.kv.get": wait})
    for each in (job, waiting):
        with anyio.move_on_after(0.2):
            async with jobs.open(each) as run:
                async for _ in run:
                    pass
    with anyio.fail_after(1):
        await stopped.wait()
    await until(lambda: not any(worker.running for worker in jobs.workers.list()))


async def test_many_runs_at_once_each_get_their_own(jobs: Jobs) -> None:
    results: dict[int, object] = {}

    async def one(n: int) -> None:
        source = "globalThis.n = params; await target.kv.get(n); globalThis.n"
        results[n] = await value_of(jobs, source, params=n, ops={"target.kv.get": echo})

    async with anyio.create_task_group() as tasks:
        for n in range(60):
            tasks.start_soon(one, n)
    assert results == {n: n for n in range(60)}


async def test_more_runs_than_a_worker_has_room_for_wait_for_their_turn(jobs: Jobs) -> None:
    limits = msgspec.structs.replace(LIMITS, wall_s=2.0)
    done: list[str] = []

    async def one() -> None:
        source = "await new Promise((r) => setTimeout(r, 200))"
        ended, _ = await play(jobs, source, limits=limits)
        done.append(ended.outcome)

    async with anyio.create_task_group() as tasks:
        for _ in range(300):
            tasks.start_soon(one)
    assert done == ["done"] * 300


async def test_a_check_tells_what_is_wrong_and_runs_nothing(jobs: Jobs) -> None:
    assert await jobs.check("a.js", "for (;;);") == ()
    (problem,) = await jobs.check("a.js", "let a;\n  let a;")
    assert (problem.line, problem.column) == (2, 7)
    assert "already been declared" in problem.message
    (problem,) = await jobs.check("a.js", "(" * 100_000)
    assert problem.line == 1
    problems = await jobs.check("a.js", "import 'a';\nimport('b')")
    assert [p.line for p in problems] == [1, 2]


async def test_an_error_class_that_javascript_knows_nothing_of(jobs: Jobs) -> None:
    async def fail(argument: str) -> str:
        raise OrvalhoError("plain")

    ended, _ = await play(jobs, "await target.kv.get('a')", ops={"target.kv.get": fail})
    assert (ended.error_name, ended.error_message) == ("Error", "plain")
