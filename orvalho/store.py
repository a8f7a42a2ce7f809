"""The one SQLite file: open it, migrate it, run transactions off the event loop.

One thread writes. Jobs that wait while it commits are committed together, each in a savepoint
of its own, so a hundred small transactions cost about one fsync (group commit). A job that is in no
hurry is done at once, and committed with the next one that is, or a moment later. A caller's
`await` returns after the commit, which is durable: WAL with `synchronous=FULL`. A second thread
moves what is committed from the log into the database file, so that no commit has to.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Final, TypeVar

from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

from orvalho.errors import Unavailable

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]
# Called on the writer thread with the names in the group: "before" the commit and "after" it.
# A test kills the process here, to see what a crash at each commit leaves behind.
CommitHook = Callable[[str, Sequence[str]], None]

_GROUP: Final = 512
# So long a job that is in no hurry waits for another to be committed with.
_LINGER_S: Final = 0.005
# What is committed is moved into the file at the latest so long after.
_MOVE_AFTER_S: Final = 0.25
# A log beyond this is begun anew, for which the writer has to pause.
_LOG_PAGES: Final = 16_384
_PRAGMAS: Final = (
    "journal_mode=WAL",
    "synchronous=FULL",
    "foreign_keys=1",
    "busy_timeout=10000",
    # What a job has changed so far is kept in case it is rolled back, page by page: in memory, or
    # a file of its own would be written besides the log. A crash needs none of it.
    "temp_store=MEMORY",
)


class _Job:
    __slots__ = ("error", "future", "is_urgent", "loop", "name", "result", "work")

    def __init__(
        self,
        name: str,
        work: Work[Any],
        loop: asyncio.AbstractEventLoop | None,
        future: asyncio.Future[Any] | None,
        *,
        is_urgent: bool,
    ) -> None:
        self.is_urgent = is_urgent
        self.name = name
        self.work = work
        self.loop = loop
        self.future = future
        self.result: Any = None
        self.error: BaseException | None = None

    def settle(self) -> None:
        if self.future is None or self.future.done():
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.result)


class Store:
    """Transactions on the one database. Made by `open_store`, which also closes it."""

    def __init__(self, path: Path, on_commit: CommitHook | None = None) -> None:
        self.path = path
        self._on_commit = on_commit
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        # Nothing is queued behind the end of the queue: nobody would ever answer it.
        self._gate = threading.Lock()
        self._is_closed = False
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="store-read")
        self._local = threading.local()
        self._is_dirty = threading.Event()
        self._is_closing = threading.Event()
        self._is_log_long = False
        self._mover = threading.Thread(target=self._move, name="store-move", daemon=True)
        self._mover.start()
        self._writer = threading.Thread(target=self._write, name="store-write", daemon=True)
        self._writer.start()

    async def transact(self, name: str, work: Work[T], *, is_urgent: bool = True) -> T:
        """Run `work(connection)` in a transaction; return its value once that is durable.

        `name` says which transaction this is, `noun.verb`. `work` runs on the writer thread: it
        must not wait for anything but SQLite. An exception in it rolls back this work alone. With
        `is_urgent` False it may be some milliseconds until the commit.

        Raises:
            Unavailable: the disk is full, the database cannot be written, or it is closed.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        if not self._put(_Job(name, work, loop, future, is_urgent=is_urgent)):
            raise self._closed()
        return await future

    def transact_soon(self, name: str, work: Work[Any]) -> None:
        """Like `transact`, for a writer who need not know when: lost only if we crash first, or
        are closed already. May be called from any thread."""
        self._put(_Job(name, work, None, None, is_urgent=False))

    async def read(self, work: Work[T]) -> T:
        """Run `work(connection)` on a read-only connection, in a thread.

        Raises:
            Unavailable: the database is closed.
        """
        if self._is_closed:
            raise self._closed()
        return await asyncio.get_running_loop().run_in_executor(self._reader, self._read, work)

    def _put(self, job: _Job) -> bool:
        """Queue a job; False when the store is closed."""
        with self._gate:
            if not self._is_closed:
                self._jobs.put(job)
            return not self._is_closed

    def _closed(self) -> Unavailable:
        return Unavailable("the database is closed: this node is stopping", where=str(self.path))

    def _read(self, work: Work[T]) -> T:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = _connect(self.path)
            connection.execute("PRAGMA query_only=1")
            self._local.connection = connection
        return work(connection)

    def _move(self) -> None:
        """From the log into the file, again and again."""
        connection = _connect(self.path)
        # `close` may call while the pause runs out: then its call is cleared here, unseen.
        while not self._is_closing.is_set():
            self._is_dirty.wait()
            if self._is_closing.wait(_MOVE_AFTER_S):
                break
            self._is_dirty.clear()
            with suppress(sqlite3.Error):  # a full disk: later, then
                _, pages, _ = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
                self._is_log_long = pages > _LOG_PAGES
        connection.close()

    def _write(self) -> None:
        connection = _connect(self.path)
        connection.execute("PRAGMA wal_autocheckpoint=0")
        running = True
        while running:
            job = self._jobs.get()
            if job is None:
                break
            running = self._commit_with(connection, job)
            self._is_dirty.set()
            if self._is_log_long:
                self._is_log_long = False
                with suppress(sqlite3.Error):
                    connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
        connection.close()

    def _commit_with(self, connection: sqlite3.Connection, first: _Job) -> bool:
        """Do a job, and what else comes until a commit is due. False when the store closes."""
        group: list[_Job] = []
        job: _Job | None = first
        linger_until = time.monotonic() + _LINGER_S
        try:
            connection.execute("BEGIN IMMEDIATE")
            while job is not None:
                group.append(job)
                _run(connection, job)
                if job.is_urgent:
                    linger_until = 0.0
                if len(group) >= _GROUP:
                    break
                try:
                    job = self._jobs.get(timeout=max(0.0, linger_until - time.monotonic()))
                except Empty:
                    break
            self._commit(connection, [each.name for each in group])
        except sqlite3.Error as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            for each in group or [first]:
                each.error = each.error or Unavailable(
                    f"the database could not be written: {error}",
                    where=str(self.path),
                    hint="free some disk space, then try again",
                )
        _tell(group or [first])
        return job is not None

    def _commit(self, connection: sqlite3.Connection, names: Sequence[str]) -> None:
        if self._on_commit:
            self._on_commit("before", names)
        connection.execute("COMMIT")
        if self._on_commit:
            self._on_commit("after", names)

    def close(self) -> None:
        """Commit what is queued, then let the files go. Blocks until the writer has ended."""
        with self._gate:
            self._is_closed = True
            self._jobs.put(None)
        self._writer.join()
        self._is_closing.set()
        self._is_dirty.set()
        self._mover.join()
        self._reader.shutdown()


def _tell(group: Sequence[_Job]) -> None:
    """Have each loop settle its jobs."""
    loops: dict[asyncio.AbstractEventLoop, list[_Job]] = {}
    for job in group:
        if job.loop is not None:
            loops.setdefault(job.loop, []).append(job)
    for loop, jobs in loops.items():
        try:
            loop.call_soon_threadsafe(_settle_all, jobs)
        except RuntimeError:  # the loop has closed: nobody waits any more
            continue


def _settle_all(jobs: list[_Job]) -> None:
    for job in jobs:
        job.settle()


def _run(connection: sqlite3.Connection, job: _Job) -> None:
    connection.execute("SAVEPOINT job")
    try:
        job.result = job.work(connection)
    except Exception as error:  # noqa: BLE001 -- it belongs to whoever queued the job
        connection.execute("ROLLBACK TO job")
        job.error = error
    connection.execute("RELEASE job")


def _connect(path: Path) -> sqlite3.Connection:
    # check_same_thread is off because `close` may run on another thread than the opener's.
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)
    for pragma in _PRAGMAS:
        connection.execute(f"PRAGMA {pragma}")
    return connection


def _prepare(path: Path, migrations: Sequence[Migrations]) -> None:
    try:
        if not path.exists():
            os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
        connection = _connect(path)
        database = Database(connection, execute_plugins=False)
        for migration in migrations:
            migration.apply(database)
        connection.close()
    except (OSError, sqlite3.Error) as error:
        raise Unavailable(f"the database cannot be opened: {error}", where=str(path)) from error


@asynccontextmanager
async def open_store(
    path: Path, migrations: Sequence[Migrations], on_commit: CommitHook | None = None
) -> AsyncIterator[Store]:
    """The database at `path`, made (mode 0600) and brought up to date, for the block's length.

    Raises:
        Unavailable: it cannot be opened, or was written by a newer version.
    """
    await asyncio.get_running_loop().run_in_executor(None, _prepare, path, migrations)
    store = Store(path, on_commit)
    try:
        yield store
    finally:
        # In a thread: a commit may be waiting for the disk, and the loop must go on meanwhile.
        await asyncio.get_running_loop().run_in_executor(None, store.close)


def look(path: Path, read: Callable[[sqlite3.Connection], T]) -> T:
    """What `read` finds in the file, which is not changed: for when no daemon serves it.

    Raises:
        Unavailable: there is no such file, or it is damaged.
    """
    try:
        connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=2.0)
        try:
            return read(connection)
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise Unavailable(f"the database cannot be read: {error}", where=str(path)) from error


def summary(connection: sqlite3.Connection) -> dict[str, object]:
    """Tables with their rows, the migrations that were applied, and what SQLite finds wrong."""
    tables = [
        row[0]
        for row in connection.execute(
            "select name from sqlite_master where type = 'table' and name not like 'sqlite_%'"
            " order by name"
        )
    ]
    return {
        "rows": {
            name: connection.execute(f'select count(*) from "{name}"').fetchone()[0]
            for name in tables
        },
        "check": connection.execute("pragma quick_check(1)").fetchone()[0],
    }
