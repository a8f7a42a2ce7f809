"""A tree in one SQLite file: portable, and good for many small files.

The file is opened by rules of its own, since it may come from somewhere else: no schema but ours
(so no trigger and no view runs), no extension, checked cells. It has a rollback journal and no
write-ahead log: between two writes it is one file that can be copied, and a file put in its place
meets no log of another.
"""

from __future__ import annotations

import errno
import sqlite3
import stat
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

from orvalho.contexts.fs_shim import fs_errors
from orvalho.contexts.mounts.stored import PART_BYTES, Status, StoredTree, changed_meanwhile
from orvalho.errors import Unavailable

# "Orvt", so that no other program's database is taken for a tree.
_APPLICATION_ID: Final = 0x4F727674
_SCHEMA: Final = (
    "create table entry (place text primary key, parent text not null, name text not null,"
    " is_directory integer not null, size_bytes integer not null, modified_at real not null,"
    " file integer) strict, without rowid",
    "create index entry_parent on entry (parent, name)",
    "create table part (file integer not null, number integer not null, content blob not null,"
    " primary key (file, number)) strict",
    "create table next (file integer not null) strict",
)
_BUSY_S: Final = 5.0


class SQLiteTree(StoredTree):
    """The tree in `file`, which is made if it is not there. Writing is atomic and durable."""

    def __init__(self, file: Path) -> None:
        """Raises:
        Unavailable: it is no plain file, no tree of ours, or damaged.
        OSError: it cannot be opened.
        """
        super().__init__()
        self._path = file
        self._using = threading.Lock()
        # The library closes what was never opened, too.
        self._connection: sqlite3.Connection | None = None
        _require_plain(file)
        with _translated(file):
            self._connection = _connect(file)
        self._opened = _identity(file)

    def close(self) -> None:
        with self._using:
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()
        super().close()

    def measure(self, most_files: int) -> tuple[int, int]:
        """See `StoredTree.measure`."""
        with self._reading() as connection:
            files, size = connection.execute(
                "select count(*), coalesce(sum(size_bytes), 0) from entry"
            ).fetchone()
        return int(files), int(size)

    def _status(self, place: str) -> Status | None:
        with self._reading() as connection:
            row = connection.execute(
                "select is_directory, size_bytes, modified_at, file from entry where place = ?",
                (place,),
            ).fetchone()
        return None if row is None else _status(row)

    def _children(self, place: str) -> Iterable[tuple[str, Status]]:
        with self._reading() as connection:
            rows = connection.execute(
                "select name, is_directory, size_bytes, modified_at, file from entry"
                " where parent = ? order by name",
                (place,),
            ).fetchall()
        return [(str(row[0]), _status(row[1:])) for row in rows]

    def _read(self, place: str, offset: int, count: int, version: str) -> bytes:
        first = offset // PART_BYTES
        with self._reading() as connection:
            row = connection.execute("select file from entry where place = ?", (place,)).fetchone()
            if row is None or row[0] is None:
                raise fs_errors.ResourceNotFound(place)
            if version and str(row[0]) != version:
                raise changed_meanwhile(place)
            parts = connection.execute(
                "select content from part where file = ? and number between ? and ?"
                " order by number",
                (row[0], first, (offset + max(count, 1) - 1) // PART_BYTES),
            ).fetchall()
            start = offset - first * PART_BYTES
            return b"".join(part for (part,) in parts)[start : start + count]

    def _store(self, place: str, source: IO[bytes], size_bytes: int) -> None:
        with self._writing() as connection:
            old = connection.execute(
                "select file, is_directory from entry where place = ?", (place,)
            ).fetchone()
            if old is not None and old[1]:
                raise fs_errors.FileExpected(place)
            file = connection.execute("update next set file = file + 1 returning file").fetchone()
            number = stored_bytes = 0
            while content := source.read(PART_BYTES):
                connection.execute("insert into part values (?, ?, ?)", (file[0], number, content))
                number, stored_bytes = number + 1, stored_bytes + len(content)
            if old is not None:
                connection.execute("delete from part where file = ?", (old[0],))
            _put(connection, place, is_directory=False, size_bytes=stored_bytes, file=file[0])

    def _make(self, place: str) -> None:
        with self._writing() as connection:
            _put(connection, place, is_directory=True, size_bytes=0, file=None)

    def _remove(self, place: str) -> None:
        with self._writing() as connection:
            gone = connection.execute(
                "delete from entry where place = ? and not is_directory returning file", (place,)
            ).fetchone()
            if gone is None:
                raise fs_errors.ResourceNotFound(place)
            connection.execute("delete from part where file = ?", gone)

    def _remove_directory(self, place: str) -> None:
        with self._writing() as connection:
            inside = connection.execute("select 1 from entry where parent = ? limit 1", (place,))
            if inside.fetchone():
                raise fs_errors.DirectoryNotEmpty(place)
            connection.execute("delete from entry where place = ? and is_directory", (place,))

    def _touch(self, place: str, modified_at: float) -> None:
        with self._writing() as connection:
            connection.execute(
                "update entry set modified_at = ? where place = ?", (modified_at, place)
            )

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        # Another file in this place is not ours to read on as if nothing were: what we hold open
        # would be nobody's any more.
        if _identity(self._path) != self._opened:
            raise OSError(errno.ESTALE, f"{self._path.name} has been replaced by another file")
        with self._using, _translated(self._path):
            if self._connection is None:
                raise fs_errors.FilesystemClosed
            yield self._connection

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._reading() as connection:
            connection.execute("begin immediate")
            try:
                yield connection
            except BaseException:
                connection.rollback()
                raise
            connection.commit()


def _put(
    connection: sqlite3.Connection,
    place: str,
    *,
    is_directory: bool,
    size_bytes: int,
    file: int | None,
) -> None:
    above, _, name = place.rpartition("/")
    connection.execute(
        "insert or replace into entry values (?, ?, ?, ?, ?, ?, ?)",
        (place, above, name, int(is_directory), size_bytes, time.time(), file),
    )


def _status(row: tuple[Any, ...]) -> Status:
    is_directory, size_bytes, modified_at, file = row
    return Status(bool(is_directory), int(size_bytes), float(modified_at), str(file or ""))


def _require_plain(file: Path) -> None:
    try:
        status = file.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISREG(status.st_mode):
        raise Unavailable("the tree is no plain file, or a link", where=str(file))


def _identity(file: Path) -> tuple[int, int]:
    status = file.lstat()
    return status.st_dev, status.st_ino


def _connect(file: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        file, timeout=_BUSY_S, isolation_level=None, check_same_thread=False
    )
    try:
        connection.execute("pragma trusted_schema = off")
        connection.execute("pragma cell_size_check = on")
        connection.execute("pragma mmap_size = 0")
        connection.execute("pragma synchronous = full")
        _check_or_make(connection, file)
        connection.execute("pragma journal_mode = delete")
    except BaseException:
        connection.close()
        raise
    return connection


def _check_or_make(connection: sqlite3.Connection, file: Path) -> None:
    if file.stat().st_size == 0:
        connection.execute("begin immediate")
        for statement in _SCHEMA:
            connection.execute(statement)
        connection.execute("insert into next values (0)")
        connection.execute(f"pragma application_id = {_APPLICATION_ID}")
        connection.commit()
        file.chmod(0o600)
    found = {row[0] for row in connection.execute("select sql from sqlite_master where sql <> ''")}
    (application,) = connection.execute("pragma application_id").fetchone()
    if application != _APPLICATION_ID or {_plain(each) for each in found} != set(
        map(_plain, _SCHEMA)
    ):
        raise Unavailable(
            "the file is a database of another program, or holds more than a tree", where=str(file)
        )


def _plain(sql: str) -> str:
    return " ".join(sql.split()).lower()


@contextmanager
def _translated(file: Path) -> Iterator[None]:
    """SQLite's errors as those of the disk."""
    try:
        yield
    except sqlite3.Error as error:
        full = getattr(error, "sqlite_errorname", "") == "SQLITE_FULL"
        if full:
            raise fs_errors.InsufficientStorage(file.name) from error
        raise OSError(errno.EIO, f"the file {file.name} is damaged or in use: {error}") from error
    except (UnicodeError, ValueError, TypeError) as error:
        # What a damaged row or schema becomes on its way into Python.
        raise OSError(errno.EIO, f"the file {file.name} is damaged") from error
