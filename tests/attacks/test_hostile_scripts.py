"""Scripts that mean harm, each beside one that does not: the good one ends with its right answer,
the daemon's process goes on, and the hostile one ends as it should."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import anyio
import pytest

from orvalho.policies.quota import Limits
from orvalho.runtime.job import Ended, Job, Jobs
from orvalho.runtime.workers.pool import open_workers

LIMITS = Limits(
    wall_s=1.2, cpu_s=0.4, memory_bytes=48 << 20, output_bytes=100_000, host_calls=200
)
DONE, FAILED, WALL, CPU = "done", "failed", "wall", "cpu"
MEMORY, OUTPUT, HOST_CALLS, DIED = "memory", "output", "host_calls", "died"


@dataclass(frozen=True)
class Attack:
    name: str
    source: str
    # How it may end: done, failed, a limit's name, or died (V8 ended its own process).
    ends: tuple[str, ...]
    result: object = field(default=...)


def attack(name: str, source: str, *ends: str, result: object = ...) -> Attack:
    return Attack(name, source, ends, result)


ATTACKS = [
    # ---- code that never ends
    attack("endless loop", "for (;;) {}", CPU),
    attack("endless loop after an await", "await 0; for (;;) {}", CPU),
    attack("endless loop in a timer", "setTimeout(() => { for (;;); }); await new Promise(() => {})", CPU),
    attack(
        "endless loop after the answer of a host call",
        "await target.kv.get('a'); for (;;) {}",
        CPU,
    ),
    attack("promises without end", "const f = () => Promise.resolve().then(f); await f()", CPU, MEMORY),
    attack("microtasks without end", "const f = () => queueMicrotask(f); f(); await new Promise(() => {})", CPU, MEMORY),
    attack("timers without end", "const f = () => { setTimeout(f); setTimeout(f); }; f(); await new Promise(() => {})", CPU, WALL, MEMORY),
    attack("an interval for ever", "setInterval(() => {}, 0); await new Promise(() => {})", WALL, CPU),
    attack("a hundred thousand timers", "for (let i = 0; i < 1e5; i++) setTimeout(() => {}, i % 7); await new Promise((r) => setTimeout(r, 50))", WALL, CPU, DONE, MEMORY),
    attack("a promise that nobody settles", "await new Promise(() => {})", WALL),
    attack("a regular expression that backtracks", "/^(a+)+$/.test('a'.repeat(40) + 'b')", CPU),
    attack("a getter without end, in the result", "export default () => ({ get x() { for (;;); } })", CPU),
    attack("a thenable without end, as the result", "export default () => ({ then() { for (;;); } })", CPU),
    attack("a thenable that never answers", "export default () => ({ then() {} })", WALL),
    attack("toJSON without end", "export default () => ({ toJSON() { for (;;); } })", CPU),
    attack("a stack getter without end", "throw Object.defineProperty(new Error('x'), 'stack', { get() { for (;;); } })", CPU),
    attack("a log line whose toString is endless", "log({ get a() { for (;;); } })", CPU),
    attack("a proxy whose traps are endless", "export default () => new Proxy({}, { ownKeys() { for (;;); } })", CPU),
    attack("generators without end", "function* g() { for (;;) yield 1; } for (const x of g());", CPU),
    attack("catching what cannot be caught", "for (;;) { try { for (;;); } catch {} finally { continue; } }", CPU),
    attack("waiting on shared memory", "Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0)", WALL, FAILED),
    attack("waiting on shared memory without blocking", "const w = Atomics.waitAsync(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 20).value; await w; for (;;);", CPU),
    attack("finalisers without end", "const r = new FinalizationRegistry(() => { for (;;); }); for (let i = 0; i < 1e5; i++) r.register({ a: new Array(100) }, i); await new Promise(() => {})", CPU, WALL, MEMORY),
    attack("a big number to a big power", "let x = 3n ** 1000000n; for (;;) x = x * x % (x - 1n)", CPU, MEMORY, FAILED),
    attack("sorting with a comparator without end", "[3, 2, 1].sort(() => { for (;;); })", CPU),
    attack("wasm that loops", "const b = new Uint8Array([0,97,115,109,1,0,0,0,1,4,1,96,0,0,3,2,1,0,7,5,1,1,102,0,0,10,9,1,7,0,3,64,12,0,11,11]); new WebAssembly.Instance(new WebAssembly.Module(b)).exports.f()", CPU),
    attack("wasm compiled aside, then a loop", "const b = new Uint8Array([0,97,115,109,1,0,0,0]); await WebAssembly.instantiate(b); for (;;);", CPU),
    attack("a loop that goes on after the result", "export default () => { Promise.resolve().then(async () => { for (let i = 0; i < 9; i++) await 0; for (;;); }); return 1 }", DONE, CPU),
    # ---- memory
    attack("an array without end", "const a = []; for (;;) a.push(new Array(1000).fill(1.5))", MEMORY),
    attack("an array without end, after an await", "await 0; const a = []; for (;;) a.push(new Array(1000).fill(1.5))", MEMORY),
    attack("a string that doubles", "let s = 'x'; for (;;) s += s", FAILED, MEMORY, CPU),
    attack("flat strings that double", "const a = []; let s = 'x'.repeat(1 << 20); for (;;) a.push((s + a.length).split('').reverse().join(''))", MEMORY, CPU, DIED),
    attack("one array of four gigabytes", "new Array(2 ** 29).fill({})", MEMORY, FAILED, DIED),
    attack("many array buffers", "const a = []; for (;;) a.push(new ArrayBuffer(1 << 24).slice(0))", MEMORY, DIED, CPU),
    attack("many small buffers", "const a = []; for (;;) a.push(new Uint8Array(4000).fill(1))", MEMORY, DIED, CPU),
    attack("wasm memory", "const a = []; for (;;) { const m = new WebAssembly.Memory({ initial: 1000 }); new Uint8Array(m.buffer).fill(1); a.push(m) }", MEMORY, FAILED, DIED, CPU),
    attack("a map without end", "const m = new Map(); for (let i = 0; ; i++) m.set(i, { i })", MEMORY, DIED),
    attack("closures without end", "let f = () => 0; for (;;) { const g = f; f = () => g }", MEMORY),
    attack("a typed array of everything", "new Float64Array(2 ** 31)", FAILED, MEMORY),
    attack("recursion", "const f = () => f() + 1; f()", FAILED),
    attack("recursion through JSON", "const a = []; let b = a; for (let i = 0; i < 1e6; i++) b = b[0] = []; JSON.stringify(a)", FAILED, MEMORY),
    attack("deeply nested result", "let a = []; for (let i = 0; i < 2000; i++) a = [a]; a", FAILED),
    attack("a JSON bomb", "JSON.parse('['.repeat(5e6) + ']'.repeat(5e6))", MEMORY, FAILED, DIED, CPU),
    # ---- what leaves the isolate
    attack("log lines without end", "for (;;) log('x'.repeat(1000))", OUTPUT),
    attack("log lines without end, caught", "for (;;) { try { log('x'.repeat(1000)) } catch {} }", CPU, OUTPUT),
    attack("one log line too long", "log('x'.repeat(1 << 24))", OUTPUT),
    attack("a result too long", "'x'.repeat(1 << 20)", OUTPUT),
    attack("a result far too long", "'x'.repeat((1 << 29) - 24)", OUTPUT, FAILED, MEMORY, DIED),
    attack("host calls without end", "for (;;) target.kv.get('a')", HOST_CALLS),
    attack("host calls without end, awaited", "for (;;) await target.kv.get('a')", HOST_CALLS),
    attack("host calls without end, caught", "for (;;) { target.kv.get('a').catch(() => {}) }", HOST_CALLS, CPU, MEMORY),
    attack("an argument too long", "await target.kv.put('a', 'x'.repeat(1 << 25))", FAILED, MEMORY),
    attack("half a character", "log('\\ud800'); '\\udc00 and \\ud83d'", DONE, result="\ufffd and \ufffd"),
    attack("half a character in a call", "(await target.kv.get('\\ud800')).length", DONE, result=6),
    attack("a symbol as the result", "export default () => Symbol('x')", FAILED),
    attack("a big number as the result", "10n", FAILED),
    attack("an invalid date as the result", "new Date(NaN)", DONE, result=None),
    attack("a function as the result", "export default () => () => 1", FAILED),
    attack("a cycle as the result", "const a = {}; a.a = a; a", FAILED),
    attack("a revoked proxy as the result", "const { proxy, revoke } = Proxy.revocable({}, {}); revoke(); proxy", FAILED),
    attack("throwing null", "throw null", FAILED),
    attack("throwing a proxy that throws", "throw new Proxy({}, { get() { throw 1 }, has() { throw 2 } })", FAILED),
    attack("a stack that throws", "throw Object.defineProperty(new Error('x'), 'stack', { get() { throw 1 } })", FAILED),
    attack("a message that throws", "throw { get message() { throw 1 } }", FAILED),
    attack("a name that is no text", "const e = new Error('x'); e.name = Symbol('a'); throw e", FAILED),
    # ---- what others rely on, replaced
    attack("then replaced", "Promise.prototype.then = () => { for (;;); }; (await target.kv.get('a')).length", DONE, CPU, WALL),
    attack("then of all objects", "Object.prototype.then = function (f) { f(7) }; 1", DONE, FAILED, WALL),
    attack("the constructor of promises", "Promise.prototype.constructor = class { constructor() { throw 1 } }; 1", DONE, FAILED),
    attack("JSON replaced", "JSON.stringify = () => '{'; JSON.parse = () => { throw 1 }; (await target.kv.get('a')).length", DONE, result=6),
    attack("toJSON of all objects", "Object.prototype.toJSON = () => 'mine'; Array.prototype.toJSON = () => 'mine'; await target.kv.get('a').catch(() => {}); ({ a: 1 })", DONE, result="mine"),
    attack("toJSON that writes records", "String.prototype.toJSON = () => 'x\\nR1'; ['a']", DONE),
    attack("arrays without iteration", "delete Array.prototype[Symbol.iterator]; (await target.kv.get('a')).length", DONE, result=6),
    attack("setters on all arrays", "Object.defineProperty(Array.prototype, 0, { set() { throw 1 } }); (await target.kv.get('a')).length", DONE, FAILED),
    attack("getters on all objects", "for (const k of ['get', 'set', 'value', 'writable', 'enumerable']) Object.defineProperty(Object.prototype, k, { get() { throw 1 } }); await target.kv.get('a'); 1", DONE, FAILED),
    attack("strings replaced", "for (const k of Object.getOwnPropertyNames(String.prototype)) try { String.prototype[k] = () => { throw 1 } } catch {}; throw new Error('x')", FAILED),
    attack("maps replaced", "for (const k of ['get', 'set', 'has', 'delete']) Map.prototype[k] = () => { throw 1 }; await new Promise((r) => setTimeout(r, 5)); 1", DONE, FAILED, WALL),
    attack("functions replaced", "Function.prototype.call = Function.prototype.apply = Function.prototype.bind = () => { throw 1 }; Reflect.apply = () => { throw 2 }; log('x'); (await target.kv.get('a')).length", DONE, result=6),
    attack("errors replaced", "Error.prepareStackTrace = () => { throw 1 }; Error.stackTraceLimit = 1e9; Error = null; null.x", FAILED),
    attack("errors with a stack that is an object", "Error.prepareStackTrace = (e, s) => s; throw new Error('x')", FAILED),
    attack("the global object emptied", "for (const k of Reflect.ownKeys(globalThis)) try { delete globalThis[k] } catch {}; log('x'); 5", DONE, FAILED, result=...),
    attack("all globals replaced", "for (const k of Reflect.ownKeys(globalThis)) try { globalThis[k] = () => { throw 1 } } catch {}; (await target.kv.get('a')).length", DONE, FAILED),
    attack("a prototype of its own for params", "Object.getPrototypeOf(params).polluted = 1; ({}).polluted", DONE, result=1),
    attack("__proto__ in the params", "params.polluted === undefined && ({}).polluted === undefined && Object.hasOwn(params, '__proto__')", DONE, result=True),
    # ---- ways out
    attack("looking for the host", "[typeof process, typeof require, typeof module, typeof Deno, typeof print, typeof load, typeof read, typeof quit, typeof d8]", DONE, result=["undefined"] * 9),
    attack("the constructor of functions", "(() => {}).constructor('return typeof process + typeof this')()", DONE, result="undefinedobject"),
    attack("an import at run time", "export default () => eval('import(\"fs\")')", FAILED),
    attack("leaving the function it is in", "1 }}); for (;;); (async () => {{", FAILED, CPU),
    attack("a name for itself that is not its own", "throw new Error('x') //# sourceURL=/etc/passwd", FAILED),
    attack("an operation that it was not given", "await target.fs.read('/etc/passwd')", FAILED),
    attack("an operation of another side", "await caller.fs.readText('/etc/passwd')", FAILED),
    attack("talking on file descriptors by an uncaught finaliser", "new FinalizationRegistry(() => { throw new Error('out') }).register({}, 1); for (let i = 0; i < 300; i++) new Array(1e4).fill(i); await new Promise((r) => setTimeout(r, 20)); 1", DONE, MEMORY),
    attack("a uncaught rejection", "Promise.reject(new Error('nobody')); await 0; 3", DONE, result=3),
]  # fmt: skip

GOOD = """
export default async function ({ target, params, log }) {
  let sum = 0;
  for (let i = 0; i < 5; i++) sum += (await target.kv.get(`k${i}`)).length;
  await new Promise((resolve) => setTimeout(resolve, 10));
  log("nearly");
  return sum + params.n;
}
"""


async def _get(argument: str) -> str:
    return json.dumps("value" + "!" * len(json.loads(argument)))


async def _put(argument: str) -> str:
    json.loads(argument)
    return "null"


def job(context: str, source: str, params: bytes) -> Job:
    return Job(
        run_id="r_1",
        context=context,
        filename="job.js",
        source=source,
        params=params,
        caller={"id": "ed25519:a", "name": "gil"},
        target={"id": "ed25519:b", "name": "peer"},
        limits=LIMITS,
        ops={"target.kv.get": _get, "target.kv.put": _put},
    )


async def end_of(jobs: Jobs, work: Job) -> Ended:
    with anyio.fail_after(30):
        async with jobs.open(work) as run:
            async for event in run:
                if isinstance(event, Ended):
                    return event
    raise AssertionError("a run ends with Ended")


def how(ended: Ended) -> str:
    if ended.outcome == "limited":
        return str(ended.limit)
    if ended.error_name == "Unavailable":
        return DIED
    return ended.outcome


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def jobs(anyio_backend: str) -> AsyncIterator[Jobs]:
    async with open_workers(contexts_per_worker=1) as workers:
        yield Jobs(workers)


@pytest.mark.anyio
@pytest.mark.parametrize("case", ATTACKS, ids=lambda case: case.name)
async def test_a_hostile_script_hurts_only_itself(jobs: Jobs, case: Attack) -> None:
    ends: list[Ended] = []

    async def attacked() -> None:
        ends.append(
            await end_of(jobs, job("hostile", case.source, b'{"__proto__":{"polluted":1}}'))
        )

    started = time.monotonic()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(attacked)
        good = await end_of(jobs, job("peaceful", GOOD, b'{"n":2}'))
    took_s = time.monotonic() - started

    assert (good.outcome, good.result) == ("done", b"32"), good
    assert how(ends[0]) in case.ends, ends[0]
    if case.result is not ... and ends[0].outcome == "done":
        assert ends[0].result is not None
        assert json.loads(ends[0].result) == case.result
    assert took_s < LIMITS.wall_s + 4, "it was stopped when its time was up"


@pytest.mark.anyio
async def test_after_all_that_the_hostile_context_still_runs_scripts(jobs: Jobs) -> None:
    ended = await end_of(jobs, job("hostile", "1 + 1", b"null"))
    assert ended.result == b"2"


@pytest.mark.anyio
async def test_hostile_scripts_beside_each_other_in_one_worker(jobs: Jobs) -> None:
    endings: list[Ended] = []

    async def one(source: str) -> None:
        endings.append(await end_of(jobs, job("crowd", source, b"{}")))

    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(one, "for (;;) {}")
            tasks.start_soon(one, "await 0; for (;;) {}")
        for n in range(4):
            tasks.start_soon(one, f"await new Promise((r) => setTimeout(r, 50)); {n}")
    assert sorted(how(ended) for ended in endings)[-4:] == ["done"] * 4 or all(
        how(ended) in (CPU, WALL, DONE) for ended in endings
    )
