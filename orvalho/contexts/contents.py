"""The contents of files by their SHA-256: small ones in the database, large ones a file each.

A content is written once however many versions of files have it. What is in the database is
durable with the commit that names it; a large one is on disk before that.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

from sqlite_utils.migrations import Migrations

from orvalho.contexts.changes import DIRECTORY, Content, Node, Stamp
from orvalho.contexts.durable import sync_directory
from orvalho.contexts.files import Mount
from orvalho.contexts.history import Known
from orvalho.errors import NotFound, Unavailable
from orvalho.store import Store

MIGRATIONS: Final = Migrations("orvalho.contexts.contents")

# Who needs a content: each gives the SHA-256 of all that must stay.
USERS: Final = (
    "select sha256 from file_versions",
    "select sha256 from files_now",
    "select sha256 from content_holds",
)

# What is larger has a file of its own.
SMALL_BYTES: Final = 16 << 10
_CHUNK_BYTES: Final = 1 << 20
_DRAFTS: Final = "drafts"


@MIGRATIONS()  # type: ignore[untyped-decorator]  # sqlite_utils is untyped here
def create_contents(database: Any) -> None:
    database.conn.execute(
        "create table contents (sha256 text primary key, content blob not null) strict"
    )


@MIGRATIONS()  # type: ignore[untyped-decorator]  # sqlite_utils is untyped here
def create_holds(database: Any) -> None:
    """What is kept for later without a version of a file that has it, and for whom."""
    database.conn.execute(
        """create table content_holds (
            holder text not null, sha256 text not null, primary key (holder, sha256)
        ) strict, without rowid"""
    )


class Contents:
    """The contents that the trees of this node have, or had."""

    def __init__(self, store: Store, directory: Path) -> None:
        self._store = store
        self._directory = directory

    async def read(self, sha256: str) -> bytes:
        """Raises:
        NotFound: it is not kept any more.
        """
        row = await self._store.read(lambda connection: _small(connection, sha256))
        if row is not None:
            return row
        try:
            return self._path(sha256).read_bytes()
        except OSError as error:
            raise NotFound(
                f"the content {sha256[:12]} is not kept any more", where=sha256
            ) from error

    async def content(self, sha256: str, size_bytes: int) -> Content:
        """The same without reading a large one into memory.

        Raises:
            NotFound: it is not kept any more.
        """
        path = self._path(sha256)
        if size_bytes > SMALL_BYTES and path.exists():
            return Content(sha256, size_bytes, path)
        return Content(sha256, size_bytes, await self.read(sha256))

    async def contents(self, nodes: Iterable[Node]) -> dict[str, Content]:
        """The contents of these files by SHA-256, in one read; large ones stay on disk.

        Raises:
            NotFound: one is not kept any more.
        """
        wanted = {node.sha256: node for node in nodes if node.kind == "file"}

        def read(connection: sqlite3.Connection) -> dict[str, Content]:
            found = {}
            for sha256, node in wanted.items():
                small = _small(connection, sha256)
                if small is not None:
                    found[sha256] = Content(sha256, node.size_bytes, small)
                elif (path := self._path(sha256)).exists():
                    found[sha256] = Content(sha256, node.size_bytes, path)
                else:
                    raise NotFound(f"the content {sha256[:12]} is not kept any more", where=sha256)
            return found

        return await self._store.read(read)

    # ---- from here on: in a thread ------------------------------------------------------------

    def draft(self) -> tuple[Path, IO[bytes]]:
        """A file to write a content into, for `take`; removed at the next start."""
        drafts = self._directory / _DRAFTS
        drafts.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = drafts / secrets.token_hex(8)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        return path, os.fdopen(descriptor, "w+b")

    def keep_large(self, content: Content) -> None:
        """Have a large one on disk, durably. A small one is for `stage`.

        Raises:
            Unavailable: the disk does not take it.
        """
        if content.size_bytes <= SMALL_BYTES:
            return
        path = self._path(content.sha256)
        if path.exists():
            return
        with _told(self._directory):
            self._write(path, content)

    def capture(self, file: IO[bytes], size_bytes: int) -> Content:
        """What `file` has from here on, and keep it if it is large."""
        if size_bytes <= SMALL_BYTES:
            # One byte more shows that it has grown meanwhile.
            data = file.read(SMALL_BYTES + 1)
            if len(data) <= SMALL_BYTES:
                return Content(hashlib.sha256(data).hexdigest(), len(data), data)
            file.seek(0)
        path, draft = self.draft()
        try:
            with draft:
                digest, count = hashlib.sha256(), 0
                while chunk := file.read(_CHUNK_BYTES):
                    digest.update(chunk)
                    draft.write(chunk)
                    count += len(chunk)
                draft.flush()
                os.fsync(draft.fileno())
            sha256 = digest.hexdigest()
            if count <= SMALL_BYTES:  # it has shrunk meanwhile
                return Content(sha256, count, path.read_bytes())
            with _told(self._directory):
                self._settle(path, self._path(sha256))
            return Content(sha256, count, self._path(sha256))
        finally:
            path.unlink(missing_ok=True)

    def node_at(
        self,
        mount: Mount,
        path: str,
        stamp: Stamp | None,
        known: Known | None,
        kept: list[Content],
    ) -> Node | None:
        """What is at a path that looks like `stamp`. What history does not know of it is read,
        and added to `kept`."""
        if stamp is None:
            return None
        if known is not None and known.stamp == stamp:
            return known.node
        if stamp.kind == "directory":
            return DIRECTORY
        with mount.tree.inner.openbin(path, "r") as file:
            content = self.capture(file, stamp.size_bytes)
        kept.append(content)
        return content.node

    def sweep_drafts(self) -> None:
        """Remove what a crash left. Before anything is drafted."""
        shutil.rmtree(self._directory / _DRAFTS, ignore_errors=True)

    def large(self) -> dict[str, int]:
        """SHA-256 -> bytes on disk, of those with a file of their own."""
        found = {}
        for fan in self._directory.glob("[0-9a-f][0-9a-f]"):
            for path in fan.iterdir():
                found[fan.name + path.name] = path.stat().st_size
        return found

    def remove_large(self, sha256: str) -> None:
        self._path(sha256).unlink(missing_ok=True)

    def _path(self, sha256: str) -> Path:
        return self._directory / sha256[:2] / sha256[2:]

    def _write(self, path: Path, content: Content) -> None:
        draft_path, draft = self.draft()
        try:
            with draft:
                if isinstance(content.source, bytes):
                    draft.write(content.source)
                else:
                    with content.source.open("rb") as source:
                        shutil.copyfileobj(source, draft, _CHUNK_BYTES)
                draft.flush()
                os.fsync(draft.fileno())
            self._settle(draft_path, path)
        except BaseException:
            draft_path.unlink(missing_ok=True)
            raise

    def _settle(self, draft: Path, path: Path) -> None:
        """Make a draft that is on the disk the content that it is."""
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft.rename(path)
        sync_directory(path.parent)


@contextmanager
def _told(directory: Path) -> Iterator[None]:
    """Raises:
    Unavailable: in place of an OSError within.
    """
    try:
        yield
    except OSError as error:
        raise Unavailable(
            f"a file's content cannot be kept: {error.strerror}",
            where=str(directory),
            hint="free some disk space, then try again",
        ) from error


def stage(connection: sqlite3.Connection, contents: Iterable[Content]) -> None:
    """Write the small ones down, in the transaction that names them."""
    connection.executemany(
        "insert or ignore into contents values (?, ?)",
        ((each.sha256, each.read()) for each in contents if each.size_bytes <= SMALL_BYTES),
    )


def stage_held(connection: sqlite3.Connection, holder: str, sha256s: Iterable[str]) -> None:
    """Keep contents for `holder`, until `stage_released`."""
    rows = ((holder, each) for each in sha256s)
    connection.executemany("insert or ignore into content_holds values (?, ?)", rows)


def stage_released(connection: sqlite3.Connection, holder: str) -> None:
    connection.execute("delete from content_holds where holder = ?", (holder,))


def used(connection: sqlite3.Connection) -> set[str]:
    """The SHA-256 of every content that somebody needs."""
    rows = connection.execute(" union ".join(USERS))
    return {row[0] for row in rows if row[0]}


def small_sizes(connection: sqlite3.Connection) -> dict[str, int]:
    """SHA-256 -> bytes, of those in the database."""
    return dict(connection.execute("select sha256, length(content) from contents").fetchall())


def stage_removed(connection: sqlite3.Connection, sha256s: Iterable[str]) -> None:
    """Forget small ones that nobody needs."""
    connection.executemany("delete from contents where sha256 = ?", ((s,) for s in sha256s))


def _small(connection: sqlite3.Connection, sha256: str) -> bytes | None:
    row = connection.execute("select content from contents where sha256 = ?", (sha256,)).fetchone()
    return None if row is None else bytes(row[0])
