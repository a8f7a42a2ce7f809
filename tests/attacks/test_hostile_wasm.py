"""WebAssembly modules and Starlark programs that mean harm, each beside a script that does not: the
good one ends with its right answer, the daemon's process goes on, and the hostile one ends as it
should."""

from __future__ import annotations

import random
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest

from orvalho.errors import InvalidInput
from orvalho.policies.quota import Limits
from orvalho.runtime.job import Ended, Jobs
from orvalho.runtime.workers.pool import open_workers
from orvalho.scripts.script import Source
from orvalho.scripts.wasm.module import read_module
from tests.conformance.world import open_world
from tests.runtime import wat
from tests.runtime.play import end_of, play

pytestmark = pytest.mark.anyio

LIMITS = Limits(wall_s=3.0, cpu_s=0.6, memory_bytes=48 << 20, output_bytes=100_000, host_calls=200)
GOOD = "export default async ({ target }) => (await target.kv.get('a')).length"


@dataclass(frozen=True)
class Attack:
    name: str
    source: Source
    ends: tuple[str, ...]


def read_corpus() -> list[Attack]:
    text = (Path(__file__).parent / "hostile_wasm" / "modules.wat").read_text(encoding="utf-8")
    found = []
    for part in re.split(r"^;;: ", text, flags=re.MULTILINE)[1:]:
        heading, _, source = part.partition("\n")
        name, _, ends = heading.partition(" -> ")
        found.append(Attack(name, wat.assemble(source), tuple(ends.split())))
    return found


def section(number: int, content: bytes, said: int | None = None) -> bytes:
    """A section that says it has so many bytes (at most 127)."""
    return bytes([number, len(content) if said is None else said]) + content


START = b"\0asm\1\0\0\0"
MALFORMED = {
    "nothing but a beginning": START,
    "a section longer than the file": START + section(1, b"\0", said=100),
    "a section shorter than its content": START + section(1, b"\1\x60\0\0", said=1),
    "a million types": START + section(1, b"\xff\xff\x3f"),
    "a number without end": START + section(1, b"\xff" * 20),
    "a name longer than its section": START + section(0, b"\x7fabc"),
    "sections twice": START + section(1, b"\0") * 2,
    "a section of no kind": START + section(99, b"\0"),
    "code without functions": START + section(10, b"\1\2\0\x0b"),
    "an export of nothing": START + section(7, b"\1\1a\0\x05"),
}
STARLARK = {
    "a loop": ("for i in range(2000000000):\n  pass", "cpu"),
    "a number that grows": ("x = 12345678\nfor i in range(60):\n  x = x * x", "cpu"),
    "a list that doubles": ("x = [1.5]\nfor i in range(60):\n  x = x + x", "memory wall cpu"),
    "a list that grows": ("x = []\nfor i in range(900000000):\n  x.append([1.5])", "memory cpu"),
    "a text that doubles": ("x = 'ab'\nfor i in range(60):\n  x = x + x", "memory wall cpu"),
    "brackets": ("[" * 100_000, "failed"),
    "closed brackets": ("[" * 50_000 + "]" * 50_000, "failed"),
    "signs": ("x = " + "-" * 100_000 + "1", "memory failed"),
    "words": ("x = " + "not " * 50_000 + "1", "memory failed"),
    "functions": ("lambda: " * 50_000 + "1", "memory failed"),
    "recursion": ("def f():\n  return f()\nf()", "failed"),
    "a result without end": (
        "def main(job):\n  x = []\n  x.append(x)\n  return x",
        "failed memory",
    ),
    "a list of a thousand million": ("x = [0] * 1000000000", "memory cpu failed"),
    "a text of a thousand million": ("x = 'x' * 1000000000", "memory cpu failed done"),
    "a range made a list": ("x = list(range(1000000000))", "memory cpu wall"),
    "a shift without end": ("x = 1 << 100000000000", "failed memory cpu"),
    "a large shift": ("x = (1 << 400000000) * 3", "failed memory cpu done"),
    "digits of a large number": (
        "x = 7\nfor i in range(22):\n  x = x * x\ny = str(x)",
        "cpu memory wall",
    ),
    "a map that grows": ("x = {}\nfor i in range(900000000):\n  x[i] = (i, i)", "memory cpu"),
    "maps in maps": ("x = {}\nfor i in range(100000):\n  x = {'a': x}\nx", "failed memory"),
    "a result of nested lists": (
        "def main(job):\n  x = []\n  for i in range(900):\n    x = [x]\n  return x",
        "failed done",
    ),
    "a text in a text": (
        "x = 'ab'\nfor i in range(40):\n  x = '%s%s' % (x, x)",
        "memory cpu wall failed",
    ),
    "replaces without end": (
        "x = 'a'\nfor i in range(40):\n  x = x.replace('a', 'aa')",
        "memory cpu wall failed",
    ),
    "lines without end": (
        "def main(job):\n  for i in range(9000000):\n    job.log('x' * 50)",
        "output cpu",
    ),
    "one line without end": ("def main(job):\n  job.log('x' * 300000)", "output"),
    "empty lines without end": (
        "def main(job):\n  for i in range(90000000):\n    job.log('')",
        "output cpu wall",
    ),
    "calls without end": (
        "def main(job):\n  for i in range(90000):\n    job.target.kv.get('a')",
        "host_calls",
    ),
    "fails with a long text": ("fail('x' * 30000000)", "failed memory"),
    "sleeps for ever": ("def main(job):\n  job.sleep(1e300)", "wall failed"),
    "sleeps for no number": ("def main(job):\n  job.sleep('soon')", "failed"),
    "catches its own end": (
        "def main(job):\n  for i in range(90000):\n    job.attempt('target.kv.get', 'a')",
        "host_calls",
    ),
    "a call of no name": ("def main(job):\n  job.attempt('', {})", "done failed"),
    "a call with lines in its name": (
        "def main(job):\n  job.attempt('x\\nR1\\n', 'a')",
        "done failed",
    ),
    "a call with itself": (
        "def main(job):\n  x = []\n  x.append(x)\n  job.target.kv.get(x)",
        "failed memory",
    ),
    "a function for a result": ("def main(job):\n  return main", "failed"),
    "no main that can be called": ("main = 7", "failed"),
    "commas": ("x = [" + "0," * 2_000_000 + "]", "done memory failed cpu"),
    "one long name": ("a" * 3_000_000, "failed memory cpu"),
    "many names": ("\n".join(f"a{n} = {n}" for n in range(100_000)), "done memory failed cpu"),
    "a load": ("load('//etc:passwd', 'x')", "failed"),
}
ATTACKS = [
    *read_corpus(),
    *(Attack(name, source, ("failed",)) for name, source in MALFORMED.items()),
    *(Attack(f"starlark: {name}", source, tuple(ends.split()))
      for name, (source, ends) in STARLARK.items()),
]  # fmt: skip


async def get(argument: str) -> str:
    return argument


@pytest.fixture(scope="module")
async def jobs(anyio_backend: str) -> AsyncIterator[Jobs]:
    async with open_workers(contexts_per_worker=1) as workers:
        yield Jobs(workers)


async def attack(jobs: Jobs, source: Source, into: list[Ended]) -> None:
    filename = "job.star" if isinstance(source, str) else "job.wasm"
    ended, _ = await play(
        jobs, source, filename=filename, context="hostile", limits=LIMITS,
        ops={"target.kv.get": get}, params={"args": []},
    )  # fmt: skip
    into.append(ended)


@pytest.mark.parametrize("case", ATTACKS, ids=lambda case: case.name)
async def test_a_hostile_program_hurts_only_itself(jobs: Jobs, case: Attack) -> None:
    ends: list[Ended] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(attack, jobs, case.source, ends)
        good, _ = await play(
            jobs, GOOD, context="peaceful", limits=LIMITS, ops={"target.kv.get": get}
        )
    assert (good.outcome, good.result) == ("done", b"1"), good
    # On a machine that others keep busy, its time is up before it has had so much of it.
    busy = ("wall",) if "cpu" in case.ends else ()
    assert end_of(ends[0]) in (*case.ends, *busy), ends[0]
    # Not even its neighbours in the same worker are hurt by a module.
    deaths = jobs.workers.statistics()["deaths"]
    again, _ = await play(jobs, wat.run(""), filename="job.wasm", context="hostile", limits=LIMITS)
    assert again.outcome == "done"
    assert jobs.workers.statistics()["deaths"] == deaths


async def test_a_module_that_takes_too_long_to_compile(jobs: Jobs) -> None:
    """Nested blocks over many locals: the compiler's time and memory grow with their product."""
    blocks, locals_ = 900, 10_000
    body = "".join(
        f"(local.set {n} (i64.add (local.get {n}) (local.get {n + 1})))"
        f"(br_if {n % blocks} (memory.size))"
        for n in range(locals_ - 1)
    )
    loops = "(loop " * blocks + body + ")" * blocks
    text = f'(module (memory 1) (func (export "run") (local {"i64 " * locals_}) {loops}))'
    bomb = wat.assemble(text)
    ends: list[Ended] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(attack, jobs, bomb, ends)
        for _ in range(3):
            good, _ = await play(jobs, GOOD, limits=LIMITS, ops={"target.kv.get": get})
            assert good.outcome == "done"
    assert ends[0].error_name == "CompileError", ends[0]
    assert "to compile" in str(ends[0].error_message)
    started = anyio.current_time()
    again: list[Ended] = []
    await attack(jobs, bomb, again)
    assert again[0].error_message == ends[0].error_message
    assert anyio.current_time() - started < 1, "a refusal is remembered"


async def test_a_thousand_instances(jobs: Jobs) -> None:
    module = wat.run("(call $sleep (i64.const 20))")
    ends: list[Ended] = []

    async def some() -> None:
        for _ in range(20):
            await attack(jobs, module, ends)

    async with anyio.create_task_group() as tasks:
        for _ in range(50):
            tasks.start_soon(some)
    assert {end_of(ended) for ended in ends} == {"done"}
    assert len(ends) == 1000


async def test_hostile_modules_beside_good_ones_in_one_worker(jobs: Jobs) -> None:
    ends: dict[str, list[Ended]] = {"bad": [], "good": []}
    bad, good = wat.run("(loop $l (br $l))"), wat.run("(call $answer (call $params))")
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(attack, jobs, bad, ends["bad"])
            tasks.start_soon(attack, jobs, good, ends["good"])
    assert [ended.result for ended in ends["good"]] == [b'{"args":[]}'] * 3
    assert {end_of(ended) for ended in ends["bad"]} <= {"cpu", "wall"}


async def test_a_file_is_not_reached_by_any_way_out_of_the_tree(jobs: Jobs, tmp_path: Path) -> None:
    """A preopened folder is a path of the target's tree, and no link leads out of that."""
    async with open_world(tmp_path) as world:
        (world.target / "etc").symlink_to("/etc")
        (world.target / "up").symlink_to("..")
        (world.target / "self").symlink_to(".")
        for path in (
            "notes/out", "etc/passwd", "up/caller/notes/a.txt", "../caller/notes/a.txt",
            "notes/../../caller/notes/a.txt", "/etc/passwd", "//etc/passwd", "self/etc/passwd",
            "../" * 30 + "etc/passwd", "/proc/self/environ", "notes/a.txt/../../../etc/passwd",
        ):  # fmt: skip
            body = (
                "(local $e i32) (local.set $e (call $open (i32.const 3) (i32.const 1)"
                f" (i32.const 1024) (i32.const {len(path)}) (i32.const 0) (i64.const 2)"
                " (i64.const 0) (i32.const 0) (i32.const 16)))"
                " (if (local.get $e) (then (call $exit (local.get $e))))"
                "(i32.store (i32.const 0) (i32.const 4096)) (i32.store (i32.const 4)"
                " (i32.const 4000)) (drop (call $fd_read (i32.load (i32.const 16)) (i32.const 0)"
                " (i32.const 1) (i32.const 4))) (drop (call $fd_write (i32.const 1)"
                " (i32.const 0) (i32.const 1) (i32.const 8)))"
            )
            source = wat.command(body, data={1024: path})
            ended, lines = await play(
                jobs, source, filename="job.wasm", ops=world.ops, limits=LIMITS
            )
            assert ended.outcome == "failed", (path, ended)
            assert ended.error_name == "ExitStatus", (path, ended)
            assert lines == []


async def test_what_was_eaten_is_given_back(jobs: Jobs) -> None:
    """Guests that fill their memory, one after the other and beside each other, leave none of it
    in their worker."""
    full = wat.assemble(
        '(module (memory (export "memory") 640) (func (export "run")'
        " (memory.fill (i32.const 0) (i32.const 1) (i32.const 41943040))))"
    )
    ends: list[Ended] = []
    await attack(jobs, full, ends)

    def worker_bytes() -> int:
        return max(each.rss_bytes for each in jobs.workers.list() if "hostile" in each.contexts)

    before = worker_bytes()
    async with anyio.create_task_group() as tasks:
        for _ in range(12):
            tasks.start_soon(attack, jobs, full, ends)
    assert {end_of(ended) for ended in ends} <= {"done", "cpu", "memory"}
    with anyio.fail_after(30):
        while worker_bytes() > before + (24 << 20):
            await anyio.sleep(0.05)


async def test_hostile_modules_in_processes_of_their_own(jobs: Jobs) -> None:
    """The same corpus where the code looks at no clock: the kernel ends it."""
    alone = Jobs(jobs.workers, heavy_s=0)
    wrong: list[str] = []

    async def one(case: Attack) -> None:
        ends: list[Ended] = []
        await attack(alone, case.source, ends)
        busy = ("wall",) if "cpu" in case.ends else ()
        if end_of(ends[0]) not in (*case.ends, *busy):
            wrong.append(f"{case.name}: {ends[0]}")

    cases = read_corpus()
    for at in range(0, len(cases), 4):
        async with anyio.create_task_group() as tasks:
            for case in cases[at : at + 4]:
                tasks.start_soon(one, case)
    assert not wrong, "\n".join(wrong)
    good, _ = await play(jobs, GOOD, limits=LIMITS, ops={"target.kv.get": get})
    assert good.outcome == "done"


async def test_the_reader_of_modules_takes_twenty_thousand_damaged_ones() -> None:
    whole = wat.command("(call $exit (i32.const 0))", data={1024: "abc"})
    chance = random.Random(7)
    refused = 0
    for _ in range(20_000):
        raw = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            raw[chance.randrange(8, len(raw))] = chance.randrange(256)
        cut = bytes(raw[: chance.choice([len(raw), chance.randrange(8, len(raw))])])
        try:
            read_module(cut)
        except InvalidInput:
            refused += 1
    assert 1000 < refused < 20_000
