"""Programs in each language: how fast they begin, and how fast they compute, each beside a base
that is measured in turns with it."""

from __future__ import annotations

import asyncio
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Final, cast

import anyio
import msgspec

from bench.pair import two_daemons
from bench.programs.build import HERE, KERNELS, build_native
from bench.scripts import TRIVIAL
from bench.table import Row, ms
from orvalho.control.client import Client
from orvalho.control.messages import RunEnded, ScriptSend
from orvalho.policies.quota import Limits
from orvalho.runtime.engine import Compiler, Start
from orvalho.runtime.engines.catalog import make_engine
from orvalho.runtime.job import Ended, Job, Jobs
from orvalho.runtime.workers.pool import open_workers

# Sizes that take some tenths of a second.
_SIZES: Final = {
    "fib": 39, "sieve": 60, "matmul": 12, "matrows": 60, "sha256": 600_000, "nbody": 4_000_000,
}  # fmt: skip
_BARS: Final = {"matmul": "2.5x", "matrows": "2.5x"}
_ROUNDS: Final = 7
_EMPTY: Final = '(module (memory (export "memory") 1) (func (export "run")))'
_JS: Final = {
    "fib(32)": (
        "const fib = (n) => (n < 2 ? n : fib(n - 1) + fib(n - 2));"
        "const work = () => fib(32);"
    ),
    "JSON of 1 MB, parsed and written": (
        "const text = JSON.stringify(Array.from({ length: 12000 }, (_, n) =>"
        " ({ id: n, name: `name ${n}`, tags: ['a', 'b'], on: true, at: n / 7 })));"
        "const work = () => JSON.stringify(JSON.parse(text)).length;"
    ),
}  # fmt: skip
# The median of some rounds, each long enough for a clock of milliseconds.
_TIMED: Final = (
    "const took = []; for (let i = 0; i < 9; i++) { const at = Date.now();"
    " for (let k = 0; k < 5; k++) work(); took.push((Date.now() - at) / 5); }"
    " took.sort((a, b) => a - b);"
)
_NODE_WASM: Final = """
const [file, name, size] = process.argv.slice(1);
WebAssembly.instantiate(require("fs").readFileSync(file), {}).then(({ instance }) => {
  const run = instance.exports[name];
  run(Number(size)); // twice: the second is of its best compiler
  const before = process.cpuUsage();
  const answer = run(Number(size));
  const { user, system } = process.cpuUsage(before);
  console.log(answer, (user + system) / 1e6);
});
"""


def measure() -> Iterator[Row]:
    yield from _starts()
    yield _instantiation()
    with tempfile.TemporaryDirectory() as directory:
        programs = build_native(Path(directory))
        yield from asyncio.run(_in_workers(programs))


# ---- through two daemons -----------------------------------------------------------------------


def _starts() -> Iterator[Row]:
    with two_daemons() as pair, pair.laptop.client() as client:
        hello = (HERE / "hello.wasm").read_bytes()
        sends = {
            "JavaScript": lambda: send(client, "bench.js", TRIVIAL, {"n": 1}),
            "WASI": lambda: send(client, "hello.wasm", hello, None),
            "Starlark": lambda: send(client, "bench.star", STARLARK, {"n": 1}),
        }
        took = in_turns(sends, 150)
        base = took["JavaScript"]
        for name, what in (("WASI", "a WASI program that says hello"),
                           ("Starlark", "a Starlark program that adds one")):  # fmt: skip
            yield Row(
                f"{what}, through a warm node",
                ms(took[name]),
                f"the trivial JavaScript {ms(base)}",
                f"{took[name] / base:.2f}x",
                "1x" if name == "WASI" else "",
            )


STARLARK: Final = "def main(job):\n  return job.params['n'] + 1"


def send(client: Client, filename: str, source: str | bytes, params: object) -> RunEnded:
    """Send, wait, and see that it is done."""
    text, module = (source, b"") if isinstance(source, str) else ("", source)
    request = ScriptSend(
        to="peer@phone2",
        filename=filename,
        source=text,
        module=module,
        params=msgspec.Raw(msgspec.json.encode(params)),
        wait=True,
    )
    ended = [reply for reply in client.stream(request) if isinstance(reply, RunEnded)]
    assert ended[0].outcome == "done", ended
    return ended[0]


def in_turns(actions: dict[str, Callable[[], Any]], count: int) -> dict[str, float]:
    """The median seconds of each, all of them `count` times in turns, after five that do not
    count."""
    taken: dict[str, list[float]] = {name: [] for name in actions}
    for number in range(count + 5):
        for name, action in actions.items():
            start = time.perf_counter()
            action()
            if number >= 5:
                taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(each) for name, each in taken.items()}


# ---- in this process ---------------------------------------------------------------------------


def _instantiation() -> Row:
    """A store, its imports, an instance and a call of it: what a warm run does in its worker
    beside its messages."""
    import wasmtime  # noqa: PLC0415 -- an extra

    engine = cast("Compiler", make_engine("wasm"))
    problems, code = engine.compile("empty.wasm", bytes(wasmtime.wat2wasm(_EMPTY)))
    engine.load("key", code, problems)
    party = {"id": "a", "name": "a"}
    start = Start("empty.wasm", "key", b"{}", party, party, 64 << 20, 1_000_000, 100)
    taken = []
    for _ in range(500):
        isolate = engine.open_isolate()
        at = time.perf_counter()
        isolate.run(start)  # type: ignore[attr-defined]
        taken.append(time.perf_counter() - at)
        isolate.close()
    return Row("warm instance of a core module", ms(statistics.median(taken)), bar="0.2 ms")


# ---- in workers, without a daemon --------------------------------------------------------------


async def _in_workers(programs: dict[str, Path]) -> list[Row]:
    async with open_workers() as workers:
        jobs = Jobs(workers)
        rows = [row for name in KERNELS for row in await _kernel(jobs, programs, name)]
        return rows + [await _javascript(jobs, name) for name in _JS]


async def _kernel(jobs: Jobs, programs: dict[str, Path], name: str) -> list[Row]:
    """Processor time, which others on the machine do not lengthen as much as the clock's."""
    size = str(_SIZES[name])
    files = {"": "kernels.wasm"}
    if name == "matrows":
        files[" with vectors"] = "kernels-simd.wasm"
    ours = {f"wasm{suffix}": _ran(jobs, file, name, int(size)) for suffix, file in files.items()}
    bases = {
        compiler: _printed([str(program), name, size]) for compiler, program in programs.items()
    }
    node = shutil.which("node")
    if node:
        for suffix, file in files.items():
            command = [node, "-e", _NODE_WASM, str(HERE / file), name, size]
            bases[f"node{suffix}"] = _printed(command)
    taken = await _paired(ours | bases)
    rows = []
    for mine in ours:
        suffix = mine.removeprefix("wasm")
        for base in bases:
            if base.startswith("node") and base != f"node{suffix}":
                continue
            bar = "1x" if base.startswith("node") else _BARS.get(name, "1.5x")
            ratio = statistics.median(a / b for a, b in zip(taken[mine], taken[base], strict=True))
            rows.append(
                Row(
                    f"{name} as WebAssembly{suffix}",
                    ms(statistics.median(taken[mine])),
                    f"{'node' if base.startswith('node') else 'native, ' + base} "
                    f"{ms(statistics.median(taken[base]))}",
                    f"{ratio:.2f}x",
                    bar,
                )
            )
        if not node:
            rows.append(Row(f"{name} as WebAssembly{suffix}", "", "node is not installed"))
    return rows


Timed = Callable[[], Awaitable[tuple[int, float]]]


async def _paired(actions: dict[str, Timed]) -> dict[str, list[float]]:
    """Seconds of each, in turns, after a round that does not count: from then on a module that
    computes much has a process of its own. All of them must have computed the same."""
    taken: dict[str, list[float]] = {name: [] for name in actions}
    for action in actions.values():
        await action()
    await anyio.sleep(1)
    for _ in range(_ROUNDS):
        answers = set()
        for name, action in actions.items():
            answer, seconds = await action()
            answers.add(answer)
            taken[name].append(seconds)
        assert len(answers) == 1, answers
    return taken


def _ran(jobs: Jobs, file: str, name: str, size: int) -> Timed:
    module = (HERE / file).read_bytes()

    async def ran() -> tuple[int, float]:
        ended = await run_job(jobs, file, module, {"call": name, "args": [size]})
        return json.loads(ended.result or b""), ended.usage.cpu_ms / 1000

    return ran


def _printed(command: list[str]) -> Timed:
    async def printed() -> tuple[int, float]:
        done = await anyio.run_process(command)
        answer, seconds = done.stdout.split()
        return int(answer), float(seconds)

    return printed


async def run_job(
    jobs: Jobs, filename: str, source: str | bytes, params: object, context: str = "bench"
) -> Ended:
    """Run it in a worker of this process's own pool."""
    party = {"id": "a", "name": "a"}
    job = Job(
        run_id="r_1",
        context=context,
        filename=filename,
        source=source,
        params=msgspec.json.encode(params),
        caller=party,
        target=party,
        limits=Limits(wall_s=120.0, cpu_s=60.0),
        ops={},
    )
    async with jobs.open(job) as run:
        async for event in run:
            if isinstance(event, Ended):
                assert event.outcome == "done", event
                return event
    raise AssertionError("a run ends with Ended")


async def _javascript(jobs: Jobs, name: str) -> Row:
    node = shutil.which("node")
    source = f"{_JS[name]} {_TIMED} took[4]"
    ours, bases = [], []
    for _ in range(_ROUNDS):
        ended = await run_job(jobs, "bench.js", source, None)
        ours.append(json.loads(ended.result or b""))
        if node:
            text = f"{_JS[name]} {_TIMED} console.log(took[4])"
            done = await anyio.run_process([node, "-e", text])
            bases.append(float(done.stdout))
    mine = statistics.median(ours) / 1000
    if not node:
        return Row(f"JavaScript: {name}", ms(mine), "node is not installed")
    ratio = statistics.median(a / b for a, b in zip(ours, bases, strict=True))
    base = statistics.median(bases) / 1000
    return Row(f"JavaScript: {name}", ms(mine), f"node {ms(base)}", f"{ratio:.2f}x", "1.3x")
