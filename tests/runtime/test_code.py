"""Compiled modules: found again, and never in a form that is damaged."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import cast

import anyio
import pytest

from orvalho.errors import InvalidInput, Unavailable
from orvalho.runtime.engine import Compiler
from orvalho.runtime.engines import catalog
from orvalho.runtime.engines.catalog import Kind, make_engine, pick_language
from orvalho.runtime.job import Jobs
from orvalho.runtime.workers import pool
from orvalho.runtime.workers.code import Code, CodeCache, code_key
from orvalho.runtime.workers.pool import open_workers
from tests.runtime import wat
from tests.runtime.play import play

SOURCE = wat.run("(call $answer (call $params))")


def files(directory: Path) -> list[int]:
    """What is in it, by inode."""
    return [path.stat().st_ino for path in directory.iterdir()]


def test_what_is_kept_is_found_unless_it_is_damaged(tmp_path: Path) -> None:
    cache, key = CodeCache(tmp_path / "new"), code_key(b"module")
    assert cache.find(key) is None
    cache.keep(Code(key, b"code"))
    assert cache.find(key) == Code(key, b"code")
    file = tmp_path / "new" / key
    assert file.stat().st_mode & 0o077 == 0
    for damaged in (b"", file.read_bytes()[:-1], file.read_bytes()[:-1] + b"x"):
        file.write_bytes(damaged)
        assert cache.find(key) is None


def test_the_oldest_go_when_there_is_too_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orvalho.runtime.workers.code._MOST_BYTES", 1000)
    cache = CodeCache(tmp_path)
    for n in range(4):
        cache.keep(Code(f"{n}", bytes(300)))
        os.utime(tmp_path / f"{n}", (n, n))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2", "3"]


@pytest.mark.anyio
async def test_a_later_pool_takes_the_code_of_an_earlier_one(tmp_path: Path) -> None:
    made: list[int] = []
    for n in range(2):
        async with open_workers(cache=tmp_path) as workers:
            ended, _ = await play(Jobs(workers), SOURCE, filename="job.wasm", params={"n": n})
            assert json.loads(ended.result or b"") == {"n": n}
        made += files(tmp_path)
    assert len(made) == 2
    assert made[0] == made[1], "it was not made a second time"


@pytest.mark.anyio
async def test_code_of_another_engine_fails_and_hurts_nobody(tmp_path: Path) -> None:
    CodeCache(tmp_path).keep(Code(code_key(SOURCE), b"\x7fELF not code at all" * 100))
    async with open_workers(cache=tmp_path) as workers:
        ended, _ = await play(Jobs(workers), SOURCE, filename="job.wasm")
        assert (ended.outcome, ended.error_name) == ("failed", "CompileError")
        other = wat.run("")
        assert (await play(Jobs(workers), other, filename="job.wasm"))[0].outcome == "done"
        assert workers.statistics()["deaths"] == 0


@pytest.mark.anyio
async def test_many_at_once_compile_a_module_once(tmp_path: Path) -> None:
    async with open_workers(cache=tmp_path) as workers:
        jobs, outcomes = Jobs(workers), []

        async def one() -> None:
            ended, _ = await play(jobs, SOURCE, filename="job.wasm")
            outcomes.append(ended.outcome)

        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(one)
        assert outcomes == ["done"] * 20
        # One for the compiler, one for the guests; a busy context gets a few more.
        assert max(worker.id for worker in workers.list()) <= 6


def test_an_engine_that_is_not_installed_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = Kind("wasm.engine", "WasmEngine", "no_such_library", "wasm", is_shared=True)
    monkeypatch.setitem(catalog._KINDS, "wasm", kind)
    with pytest.raises(Unavailable, match="cannot run wasm") as raised:
        pick_language("a.wasm", SOURCE)
    assert raised.value.hint == "pip install orvalho[wasm]"


def test_each_language_has_its_engine() -> None:
    for language in catalog.LANGUAGES:
        make_engine(language).open_isolate().close()


@pytest.mark.anyio
async def test_an_engine_that_does_not_load_here_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The zygote cannot import what stands at that number; it and the other languages go on."""
    monkeypatch.setattr(pool, "LANGUAGES", (*catalog.LANGUAGES[:1], "-", "-", "-", "wasm"))
    async with open_workers(cache=tmp_path) as workers:
        with pytest.raises(Unavailable, match="cannot be loaded on this machine"):
            await workers.compile("job.wasm", SOURCE)
        ended, _ = await play(Jobs(workers), "1 + 1")
        assert ended.result == b"2"


def test_compiled_code_is_not_taken_for_a_module() -> None:
    engine = cast("Compiler", make_engine("wasm"))
    _, code = engine.compile("job.wasm", SOURCE)
    with pytest.raises(InvalidInput, match="no WebAssembly module"):
        pick_language("job.wasm", code)
