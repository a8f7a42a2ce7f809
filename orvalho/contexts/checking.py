"""Whether what is kept of the contexts is whole: every version, every file, nothing left over."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Final

from anyio import to_thread

from orvalho.contexts import contents as contents_table
from orvalho.contexts import history, timeline
from orvalho.contexts.commit import Committer
from orvalho.contexts.context import Context
from orvalho.contexts.filesystem import VirtualPath
from orvalho.contexts.fs_shim import fs_errors
from orvalho.contexts.hand_edits import HandEdits
from orvalho.contexts.history import Known
from orvalho.errors import NotFound, OrvalhoError
from orvalho.store import Store

_CHUNK_BYTES: Final = 1 << 20


@dataclass(slots=True)
class Checked:
    """What was looked at, and each thing that is wrong, a line each."""

    contexts: int = 0
    files: int = 0
    versions: int = 0
    contents: int = 0
    problems: list[str] = field(default_factory=list)


class Checking:
    """Checks the contexts of one node. It reads all that they hold, and holds."""

    def __init__(self, store: Store, committer: Committer, hand_edits: HandEdits) -> None:
        self._store = store
        self._committer = committer
        self._contents = committer.contents
        self._hand_edits = hand_edits

    async def check(self, contexts: tuple[Context, ...]) -> Checked:
        """Edits by hand are noted first: they are nothing wrong."""
        checked = Checked()
        await self._committer.settle()
        for context in contexts:
            checked.contexts += 1
            try:
                await self._hand_edits.note(context)
                async with context.turn:
                    await self._check_tree(context, checked)
                    checked.problems += await self._store.read(
                        partial(_disagreements, context=context.name)
                    )
            except OrvalhoError as error:
                checked.problems.append(f"{context.name}: {error.message}")
        await self._check_contents(checked)
        late = await self._store.read(history.unsettled)
        for commit in late:
            if self._committer.is_late(commit.seq):
                checked.problems.append(f"{commit.context}: {commit.id} is not in its tree yet")
        return checked

    async def _check_tree(self, context: Context, checked: Checked) -> None:
        known = await self._store.read(lambda it: history.all_known(it, context.name))
        problems = await to_thread.run_sync(lambda: list(self._read_tree(context, known)))
        checked.files += len(known)
        checked.problems += problems

    def _read_tree(self, context: Context, known: dict[str, Known]) -> Iterator[str]:
        for place, mount in context.mounts.items():
            drafts = getattr(mount.tree.inner, "drafts", None)
            for draft in drafts() if drafts else ():
                yield f"{context.name}: a draft was left at {place.rstrip('/')}{draft}"
        for whole, each in known.items():
            resolved = context.mounts.resolve(VirtualPath(whole))
            if resolved is None:
                continue
            mount, path = resolved
            if each.node.kind == "directory":
                continue  # the look before has compared these
            try:
                with mount.tree.inner.openbin(path, "r") as file:
                    sha256 = _digest(file)
            except (fs_errors.FSError, OSError) as error:
                yield f"{context.name}: {whole} cannot be read: {error}"
                continue
            if sha256 != each.node.sha256:
                yield f"{context.name}: {whole} is not what was written there, by its digest"

    async def _check_contents(self, checked: Checked) -> None:
        needed = await self._store.read(_needed)
        checked.versions = await self._store.read(
            lambda it: int(it.execute("select count(*) from file_versions").fetchone()[0])
        )
        checked.contents = len(needed)
        for sha256, whose in sorted(needed.items()):
            try:
                content = await self._contents.content(sha256, whose[1])
                found = await to_thread.run_sync(_digest_of, content.source)
            except NotFound:
                checked.problems.append(f"the content {sha256[:12]} of {whose[0]} is missing")
                continue
            except OSError as error:
                checked.problems.append(f"the content {sha256[:12]} cannot be read: {error}")
                continue
            if found != sha256:
                checked.problems.append(f"the content {sha256[:12]} of {whose[0]} is damaged")
        large = await to_thread.run_sync(self._contents.large)
        small = await self._store.read(contents_table.small_sizes)
        used = await self._store.read(contents_table.used)
        checked.problems += [
            f"the content {sha256[:12]} is needed by nobody"
            for sha256 in sorted((large.keys() | small.keys()) - used)
        ]


def _needed(connection: sqlite3.Connection) -> dict[str, tuple[str, int]]:
    """SHA-256 -> (one place that needs it, its bytes)."""
    rows = connection.execute(
        "select sha256, context || ':' || path, size_bytes from file_versions where kind = 'file'"
    )
    return {row[0]: (row[1], row[2]) for row in rows}


def _disagreements(connection: sqlite3.Connection, context: str) -> list[str]:
    """Where the newest versions and what is there now differ, by the database alone."""
    newest = timeline.newest(connection, context)
    tree = timeline.tree_at(connection, context, newest)
    now = {path: each.node for path, each in history.all_known(connection, context).items()}
    problems = [
        f"{context}: {path} is not as its newest version says"
        for path in sorted(tree.keys() | now.keys())
        if tree.get(path) != now.get(path)
    ]
    values = timeline.values_at(connection, context, newest)
    kept = dict(
        connection.execute("select key, value from kv where context = ?", (context,)).fetchall()
    )
    problems += [
        f"{context}: the value {key} is not as its newest version says"
        for key in sorted(values.keys() | kept.keys())
        if values.get(key) != kept.get(key)
    ]
    edge = timeline.horizon(connection, context).seq
    for table in ("file_versions", "value_versions"):
        rows = connection.execute(
            f"select distinct seq from {table} where context = ? and seq > ?"
            " and seq not in (select seq from commits)",
            (context, edge),
        ).fetchall()
        problems += [f"{context}: versions of a commit {row[0]} that is not there" for row in rows]
    return problems


def _digest(file: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while chunk := file.read(_CHUNK_BYTES):
        digest.update(chunk)
    return digest.hexdigest()


def _digest_of(source: bytes | Path) -> str:
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()
    with source.open("rb") as file:
        return _digest(file)
