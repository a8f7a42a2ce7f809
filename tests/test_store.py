"""The one database: durable when it says so, each job by itself, many in one commit."""

from __future__ import annotations

import sqlite3
import stat
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import anyio
import pytest
from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

from orvalho.errors import Unavailable
from orvalho.store import Store, open_store

MIGRATIONS = Migrations("test")


@MIGRATIONS()
def create(database: Database) -> None:
    database.execute("create table t (a integer primary key)")


def put(value: int):
    return lambda connection: connection.execute("insert into t values (?)", [value]).rowcount


async def values(store: Store) -> list[int]:
    rows = await store.read(lambda c: c.execute("select a from t order by a").fetchall())
    return [row[0] for row in rows]


@pytest.mark.anyio
async def test_what_was_committed_is_there_after_a_new_start(tmp_path: Path) -> None:
    for number in (1, 2):
        async with open_store(tmp_path / "db", [MIGRATIONS]) as store:
            await store.transact("t.put", put(number))
    async with open_store(tmp_path / "db", [MIGRATIONS]) as store:
        assert await values(store) == [1, 2]
    assert stat.S_IMODE((tmp_path / "db").stat().st_mode) == 0o600


@pytest.mark.anyio
async def test_a_job_that_fails_takes_nobody_else_with_it(tmp_path: Path) -> None:
    async def fails(store: Store) -> None:
        def work(connection: sqlite3.Connection) -> None:
            connection.execute("insert into t values (100)")
            raise ValueError("on purpose")

        with pytest.raises(ValueError, match="on purpose"):
            await store.transact("t.fail", work)

    async def succeeds(store: Store, number: int) -> None:
        await store.transact("t.put", put(number))

    async with (
        open_store(tmp_path / "db", [MIGRATIONS]) as store,
        anyio.create_task_group() as tasks,
    ):
        for number in range(20):
            tasks.start_soon(succeeds, store, number)
            tasks.start_soon(fails, store)
    async with open_store(tmp_path / "db", [MIGRATIONS]) as store:
        assert await values(store) == list(range(20))


@pytest.mark.anyio
async def test_what_waits_is_committed_together(tmp_path: Path) -> None:
    groups: list[int] = []

    def on_commit(phase: str, names: Sequence[str]) -> None:
        if phase == "after":
            groups.append(len(names))

    async with (
        open_store(tmp_path / "db", [MIGRATIONS], on_commit) as store,
        anyio.create_task_group() as tasks,
    ):
        for number in range(200):
            tasks.start_soon(store.transact, "t.put", put(number))
    assert sum(groups) == 200
    assert len(groups) < 100


@pytest.mark.anyio
async def test_closing_commits_what_nobody_waits_for(tmp_path: Path) -> None:
    async with open_store(tmp_path / "db", [MIGRATIONS]) as store:
        for number in range(50):
            store.transact_soon("t.put", put(number))
    async with open_store(tmp_path / "db", [MIGRATIONS]) as store:
        assert len(await values(store)) == 50


@pytest.mark.anyio
async def test_readers_cannot_write(tmp_path: Path) -> None:
    async with open_store(tmp_path / "db", [MIGRATIONS]) as store:
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            await store.read(put(1))


@pytest.mark.anyio
async def test_a_file_that_is_no_database_is_told(tmp_path: Path) -> None:
    (tmp_path / "db").write_text("not a database, but long enough to look like one" * 20)
    with pytest.raises(Unavailable, match="cannot be opened"):
        async with open_store(tmp_path / "db", [MIGRATIONS]):
            pass


@pytest.mark.anyio
async def test_the_log_is_begun_anew_while_others_write_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orvalho.store._MOVE_AFTER_S", 0.01)
    monkeypatch.setattr("orvalho.store._LOG_PAGES", 100)

    def put_much(connection: sqlite3.Connection) -> int:
        connection.execute("create table if not exists much (a text)")
        return connection.execute("insert into much values (?)", ["x" * 40_000]).rowcount

    async with open_store(tmp_path / "db", [MIGRATIONS]) as store:
        for _ in range(300):
            await store.transact("much.put", put_much)
        assert (tmp_path / "db-wal").stat().st_size < 300 * 40_000 / 2
        count = await store.read(lambda c: c.execute("select count(*) from much").fetchone())
        assert count == (300,)


class _CalledTooLate(threading.Event):
    """Whoever waits for it in vain is told so only after `close` has made all its calls."""

    def __init__(self, store: Store, closer: ThreadPoolExecutor) -> None:
        super().__init__()
        self._store, self._closer = store, closer
        self.closed: Future[None] | None = None

    def wait(self, timeout: float | None = None) -> bool:
        if super().wait(timeout):
            return True
        self.closed = self._closer.submit(self._store.close)
        for _ in range(1000):
            if self.is_set():
                break
            threading.Event().wait(0.01)
        self._store._is_dirty.set()
        return False


def test_a_store_that_is_closed_while_the_mover_looks_away_ends(tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as closer:
        store = Store(tmp_path / "db")
        calls = store._is_closing = _CalledTooLate(store, closer)
        store.transact_soon("any", lambda connection: connection.execute("select 1"))
        store._mover.join(timeout=20)
        is_stuck = store._mover.is_alive()
        if is_stuck:
            store._is_dirty.set()
        assert calls.closed is not None
        calls.closed.result(timeout=20)
    assert not is_stuck


@pytest.mark.anyio
async def test_what_is_in_no_hurry_is_done_at_once_and_committed_with_what_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orvalho.store._LINGER_S", 60.0)
    commits: list[list[str]] = []
    is_done = threading.Event()

    def work(connection: sqlite3.Connection) -> None:
        put(1)(connection)
        is_done.set()

    def on_commit(when: str, names: Sequence[str]) -> None:
        if when == "before":
            commits.append(list(names))

    async with open_store(tmp_path / "db", [MIGRATIONS], on_commit) as store:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(store.transact, "t.lazy", work, is_urgent=False))
            assert await anyio.to_thread.run_sync(is_done.wait, 20)
            assert (await values(store), commits) == ([], [])
            await store.transact("t.urgent", put(2))
        assert commits == [["t.lazy", "t.urgent"]]
        assert await values(store) == [1, 2]


@pytest.mark.anyio
async def test_what_is_in_no_hurry_is_committed_though_nothing_follows(tmp_path: Path) -> None:
    async with open_store(tmp_path / "db", [MIGRATIONS]) as store:
        with anyio.fail_after(20):
            await store.transact("t.lazy", put(1), is_urgent=False)
        assert await values(store) == [1]


@pytest.mark.anyio
async def test_a_failure_in_company_is_its_own(tmp_path: Path) -> None:
    async with open_store(tmp_path / "db", [MIGRATIONS]) as store:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(store.transact, "t.lazy", put(1), is_urgent=False))
            await anyio.lowlevel.checkpoint()
            with pytest.raises(sqlite3.IntegrityError):
                await store.transact("t.twice", put(1))
        assert await values(store) == [1]


@pytest.mark.anyio
async def test_whoever_comes_after_the_end_is_told_so(tmp_path: Path) -> None:
    async with open_store(tmp_path / "db", [MIGRATIONS]) as store:
        pass
    store.transact_soon("t.put", put(1))
    with anyio.fail_after(20):
        with pytest.raises(Unavailable, match="is closed"):
            await store.transact("t.put", put(1))
        with pytest.raises(Unavailable, match="is closed"):
            await values(store)
