"""What is old goes, what is young stays, and what was used stays counted."""

from __future__ import annotations

import random
import sqlite3
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from orvalho.contexts import contents, history
from orvalho.contexts.contents import Contents
from orvalho.contexts.names import new_run_id
from orvalho.contexts.pruning import Pruning
from orvalho.daemon import retention
from orvalho.daemon.config import LoadedConfig
from orvalho.daemon.retention import Retention as Sweeper
from orvalho.daemon.settings import Config, Retention
from orvalho.errors import NotFound
from orvalho.policies import audit, usage
from orvalho.policies.audit import Audit, Entry
from orvalho.policies.quota import Usage
from orvalho.policies.usage import Charge
from orvalho.scripts import recordings, runs, sources, traces
from orvalho.scripts.messages import ScriptEnded, ScriptOutput
from orvalho.scripts.modules import digest_of
from orvalho.scripts.runs import Run, Runs
from orvalho.store import Store, open_store

pytestmark = pytest.mark.anyio

DAY = 86_400.0
NOW = time.time()
MIGRATIONS = (
    runs.MIGRATIONS,
    sources.MIGRATIONS,
    traces.MIGRATIONS,
    usage.MIGRATIONS,
    audit.MIGRATIONS,
    usage.MIGRATIONS,
    audit.MIGRATIONS,
    contents.MIGRATIONS,
    history.MIGRATIONS,
)


def stage(connection: sqlite3.Connection, days_ago: float, source: str, *, open_: bool) -> str:
    at = NOW - days_ago * DAY
    id_ = new_run_id(at, random.randbytes(10))
    run = Run(
        id=id_,
        direction="received",
        caller="gil@laptop",
        target="peer@phone2",
        peer_key="ed25519:n",
        filename="a.js",
        digest=f"{source:0>64}",
        needs=(),
        created_at=at,
        expires_at=at + DAY,
    )
    line = ScriptOutput(run=id_, seq=1, level="log", text="x", at=at)
    runs.stage_new(connection, run, envelope=b"e", source=source, params=b"1" * 5000)
    if open_:
        return id_
    used = Usage(cpu_ms=7, memory_bytes=int(days_ago))
    ended = ScriptEnded(run=id_, outcome="done", logs=(line,))
    runs.stage_ended(connection, ended, at=at, usage=used)
    recordings.stage(connection, id_, "kept", b"what it read")
    usage.stage(
        connection,
        Charge(
            at=at,
            run=id_,
            caller="gil@laptop",
            caller_key="ed25519:k",
            node_key="ed25519:n",
            context="peer",
            groups=("guests",),
            digest=run.digest,
            filename="a.js",
            outcome="done",
            usage=used,
        ),
    )
    return id_


def house(store: Store, **kept: str) -> Any:
    config = Config(name="phone2", retention=Retention(**kept))
    no_contexts: Any = SimpleNamespace(list=tuple)
    return SimpleNamespace(
        store=store,
        runs=Runs(store),
        settings=LoadedConfig(config, ()),
        quotas=SimpleNamespace(longest_window_s=3600.0),
        past=SimpleNamespace(pruning=Pruning(store, no_contexts, Contents(store, Path("/none")))),
    )


async def rows(store: Store, table: str) -> int:
    def count(connection: sqlite3.Connection) -> int:
        return int(connection.execute(f"select count(*) from {table}").fetchone()[0])

    return await store.read(count)


async def test_old_runs_go_and_what_they_used_stays_counted(tmp_path: Path) -> None:
    async with open_store(tmp_path / "x.db", MIGRATIONS) as store:

        def fill(connection: sqlite3.Connection) -> list[str]:
            return [
                *(stage(connection, 100 + n / 10, "old", open_=False) for n in range(450)),
                stage(connection, 100, "both", open_=False),
                stage(connection, 100, "waits", open_=True),
                stage(connection, 1, "both", open_=False),
            ]

        ids = await store.transact("fill", fill)
        before = await store.read(lambda it: usage.sums(it, "group"))
        here = house(store, runs="90d")
        await Sweeper(here).sweep(NOW)

        assert await rows(store, "runs") == 2, "the young one, and the one that has not ended"
        assert await rows(store, "run_logs") == 1
        assert await rows(store, "recordings") == 1
        assert await rows(store, "large_params") == 2
        assert await rows(store, "sources") == 2
        assert await rows(store, "charges") == 1
        assert await store.read(lambda it: usage.sums(it, "group")) == before
        with pytest.raises(NotFound, match="pruned after 90 d"):
            await here.runs.find(ids[0])
        with pytest.raises(NotFound) as caught:
            await here.runs.find(new_run_id(NOW, bytes(10)))
        assert "pruned" not in caught.value.message
        with pytest.raises(NotFound) as caught:
            await here.runs.find("r_ZZZ")
        assert "pruned" not in caught.value.message
        assert (await here.runs.find(ids[-1])).id == ids[-1]


async def test_a_window_that_is_longer_than_runs_are_kept_is_not_forgotten(tmp_path: Path) -> None:
    async with open_store(tmp_path / "x.db", MIGRATIONS) as store:
        await store.transact("fill", lambda it: stage(it, 5, "a", open_=False))
        await store.transact("fill", lambda it: stage(it, 0, "b", open_=False))
        here = house(store, runs="1d")
        here.quotas.longest_window_s = 7 * DAY
        await Sweeper(here).sweep(NOW)
        assert await rows(store, "runs") == 1
        _, spent = await store.read(lambda it: usage.spent_since(it, NOW - 7 * DAY))
        assert sum(each.cpu_ms for each in spent) == 14


async def test_the_audit_log_is_pruned_by_age_and_cannot_be_otherwise(tmp_path: Path) -> None:

    async with open_store(tmp_path / "x.db", MIGRATIONS) as store:
        log = Audit(store)
        for days in (*range(800, 100, -1), 1):
            log.note(
                Entry(
                    at=NOW - days * DAY,
                    actor="a",
                    context="peer",
                    action="script.run",
                    object="x",
                    allowed=True,
                )
            )
        await Sweeper(house(store, audit="365d")).sweep(NOW)
        left = await log.newest(10_000)
        assert {round((NOW - each.at) / DAY) for each in left} == {*range(365, 100, -1), 1}

        for seq in (left[0].seq, left[-1].seq):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                await store.transact(
                    "bad",
                    lambda it, seq=seq: it.execute("delete from audit where seq = ?", [seq]),  # type: ignore[misc]
                )
        found = await store.read(lambda it: audit.entries_since(it, NOW - 200 * DAY, 1000))
        assert [each.seq for each in found] == [
            each.seq for each in left if each.at >= NOW - 200 * DAY
        ]


async def test_a_source_goes_when_neither_a_run_nor_a_module_needs_it(tmp_path: Path) -> None:
    async with open_store(tmp_path / "x.db", MIGRATIONS) as store:

        def fill(connection: sqlite3.Connection) -> tuple[str, str]:
            old, young = (stage(connection, days, str(days), open_=False) for days in (100, 1))
            shared, alone = "export const shared = 1", "export const alone = 1"
            sources.stage_modules(connection, old, {"a.js": shared, "b.js": alone})
            sources.stage_modules(connection, young, {"a.js": shared})
            # The text of an old run that is a module of a young one.
            connection.execute("update runs set digest = ? where id = ?", [digest_of(shared), old])
            sources.stage_sent(connection, old, 5)
            return old, young

        old, young = await store.transact("fill", fill)
        await Sweeper(house(store, runs="90d")).sweep(NOW)

        kept = await store.read(lambda it: it.execute("select digest from sources").fetchall())
        assert digest_of("export const shared = 1") in {digest for (digest,) in kept}
        assert digest_of("export const alone = 1") not in {digest for (digest,) in kept}
        assert await rows(store, "sent_bodies") == 0
        assert not await store.read(lambda it: sources.digests_of(it, old))
        assert await store.read(lambda it: sources.digests_of(it, young))


async def test_a_sweep_that_breaks_does_not_end_the_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(retention, "_FIRST_S", 0.0)
    async with open_store(tmp_path / "x.db", MIGRATIONS) as store:
        await store.transact("break", lambda it: it.execute("drop table charges"))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(Sweeper(house(store)).run)
            with anyio.fail_after(30):
                while "retention.failed" not in caplog.text:
                    await anyio.sleep(0.01)
            tasks.cancel_scope.cancel()
