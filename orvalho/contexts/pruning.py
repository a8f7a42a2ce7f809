"""What history no longer has to keep is taken away, a little at a time.

First the horizon of a context moves: from then on nobody asks for what is older. Then go the
commits and versions behind it, but for the last version of each path, which is how the context
was there; then the contents that nobody needs any more. A crash in between leaves work for the
next time, and no question with a wrong answer.
"""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

import anyio
from anyio import to_thread

from orvalho.contexts import contents as contents_table
from orvalho.contexts.contents import Contents
from orvalho.contexts.context import Contexts
from orvalho.store import Store

T = TypeVar("T")

# What one transaction takes away, and how long others go before the next.
_AT_ONCE: Final = 500
_PAUSE_S: Final = 0.02


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was, or would be, taken away. `contents_bytes` is what the disk has back."""

    commits: int
    versions: int
    contents: int
    contents_bytes: int


@dataclass(frozen=True, slots=True)
class Kept:
    """What contents take, and the part of it that only the past needs."""

    contents: int
    contents_bytes: int
    past_bytes: int


@dataclass(frozen=True, slots=True)
class Terms:
    """What is kept: commits from `since` on (Unix seconds), and of older contents `max_bytes`
    at most; None for no limit."""

    since: float
    max_bytes: int | None = None


class Pruning:
    """Takes old history away, on one node."""

    def __init__(self, store: Store, contexts: Contexts, contents: Contents) -> None:
        self._store = store
        self._contexts = contexts
        self._contents = contents
        self._one = anyio.Lock()

    async def plan(self, terms: Terms) -> Pruned:
        """What `prune` would take away now; nothing is changed."""

        def read(connection: sqlite3.Connection) -> tuple[int, int, dict[str, int]]:
            cut = find_cut(connection, terms)
            needed = _needed_after(connection, cut)
            old = {sha256 for sha256 in contents_table.used(connection) if sha256 not in needed}
            sizes = _sizes(connection)
            gone = {sha256: sizes.get(sha256, 0) for sha256 in old}
            commits = connection.execute(
                "select count(*) from commits where seq <= ?", (cut,)
            ).fetchone()[0]
            return commits, len(_superseded(connection, _horizons(connection, cut))), gone

        commits, versions, gone = await self._store.read(read)
        unused = await self._unused()
        return Pruned(commits, versions, len(gone) + len(unused), sum((gone | unused).values()))

    async def prune(self, terms: Terms) -> Pruned:
        """Take it away."""
        async with self._one:
            cut = await self._store.read(lambda it: find_cut(it, terms))
            horizons = await self._store.read(lambda it: _horizons(it, cut))
            if horizons:
                await self._store.transact(
                    "history.horizon", lambda it: _stage_horizons(it, horizons)
                )
            commits = await self._repeat(lambda it: _drop_commits(it, _AT_ONCE))
            old = await self._store.read(lambda it: _superseded(it, _horizons(it, 0)))
            for part in _parts(old):
                await self._store.transact("history.pruned", _dropping(part))
                await anyio.sleep(_PAUSE_S)
            count, size_bytes = await self._sweep_contents()
            return Pruned(commits, len(old), count, size_bytes)

    async def kept(self) -> Kept:
        """What all histories keep."""
        large = await to_thread.run_sync(self._contents.large)
        small = await self._store.read(contents_table.small_sizes)
        return Kept(
            contents=len(large) + len(small),
            contents_bytes=sum(large.values()) + sum(small.values()),
            past_bytes=await self._store.read(_past_bytes),
        )

    async def sweep_contents(self) -> tuple[int, int]:
        """Take away the contents that nobody needs; how many, and their bytes."""
        async with self._one:
            return await self._sweep_contents()

    async def _sweep_contents(self) -> tuple[int, int]:
        unused = await self._unused()
        count = size_bytes = 0
        for part in _parts(list(unused)):
            async with AsyncExitStack() as turns:
                # Who has a turn may have written contents down that no commit names yet.
                for context in self._contexts.list():
                    await turns.enter_async_context(context.turn)
                still = set(part) - await self._store.read(contents_table.used)
                await self._store.transact(
                    "contents.pruned", partial(contents_table.stage_removed, sha256s=still)
                )
                await to_thread.run_sync(self._remove_large, still)
            count += len(still)
            size_bytes += sum(unused[each] for each in still)
            await anyio.sleep(_PAUSE_S)
        return count, size_bytes

    async def _unused(self) -> dict[str, int]:
        """SHA-256 -> bytes. A content that is just being written may be among them."""
        large = await to_thread.run_sync(self._contents.large)

        def read(connection: sqlite3.Connection) -> dict[str, int]:
            needed = contents_table.used(connection)
            found = contents_table.small_sizes(connection) | large
            return {sha256: size for sha256, size in found.items() if sha256 not in needed}

        return await self._store.read(read)

    def _remove_large(self, sha256s: Iterable[str]) -> None:
        for sha256 in sha256s:
            self._contents.remove_large(sha256)

    async def _repeat(self, take: Callable[[sqlite3.Connection], int]) -> int:
        total = 0
        while taken := await self._store.transact("history.pruned", take):
            total += taken
            await anyio.sleep(_PAUSE_S)
        return total


def find_cut(connection: sqlite3.Connection, terms: Terms) -> int:
    """The seq up to which everything may go: never one that is not on the disk yet."""
    row = connection.execute(
        "select min(seq) - 1 from commits where at >= ?", (terms.since,)
    ).fetchone()
    last = connection.execute("select max(seq) from commits").fetchone()[0] or 0
    cut: int = last if row[0] is None else row[0]
    if terms.max_bytes is not None:
        cut = max(cut, _cut_for_size(connection, terms.max_bytes))
    row = connection.execute("select min(seq) - 1 from commits where is_settled = 0").fetchone()
    return cut if row[0] is None else min(cut, row[0])


def _past_bytes(connection: sqlite3.Connection) -> int:
    row = connection.execute(
        "select coalesce(sum(size_bytes), 0) from (select distinct sha256, size_bytes from"
        " file_versions where sha256 != '') where sha256 not in (select sha256 from files_now)"
    ).fetchone()
    return int(row[0])


def _cut_for_size(connection: sqlite3.Connection, max_bytes: int) -> int:
    """The first seq up to which all must go for the rest of the past to fit."""
    # A version is needed until the next of its path is behind the horizon.
    rows = connection.execute(
        "select sha256, size_bytes, lead(seq) over (partition by context, path order by seq)"
        " from file_versions"
    )
    until: dict[str, int | None] = {}
    sizes: dict[str, int] = {}
    for sha256, size_bytes, next_seq in rows:
        if not sha256:
            continue
        sizes[sha256] = size_bytes
        old = until.get(sha256, 0)
        until[sha256] = None if old is None or next_seq is None else max(old, next_seq)
    past = sorted((seq, sizes[sha256]) for sha256, seq in until.items() if seq is not None)
    total = sum(size_bytes for _, size_bytes in past)
    cut = 0
    for seq, size_bytes in past:
        if total <= max_bytes:
            break
        cut, total = seq, total - size_bytes
    return cut


def _needed_after(connection: sqlite3.Connection, cut: int) -> set[str]:
    rows = connection.execute(
        "select sha256 from (select sha256, seq,"
        " lead(seq) over (partition by context, path order by seq) as next from file_versions)"
        " where next is null or next > ?",
        (cut,),
    )
    return {row[0] for row in rows}


def _sizes(connection: sqlite3.Connection) -> dict[str, int]:
    return dict(connection.execute("select distinct sha256, size_bytes from file_versions"))


def _horizons(connection: sqlite3.Connection, cut: int) -> dict[str, tuple[int, float]]:
    """Context -> (seq, at) of its horizon, if all up to `cut` went."""
    found: dict[str, tuple[int, float]] = {
        row[0]: (row[1], row[2])
        for row in connection.execute("select context, seq, at from history_horizon")
    }
    rows = connection.execute(
        "select context, max(seq), at from commits where seq <= ? group by context", (cut,)
    )
    for context, seq, at in rows:
        if seq > found.get(context, (0, 0.0))[0]:
            found[context] = (seq, at)
    return found


def _stage_horizons(connection: sqlite3.Connection, horizons: dict[str, tuple[int, float]]) -> None:
    connection.executemany(
        "insert or replace into history_horizon values (?, ?, ?)",
        ((context, seq, at) for context, (seq, at) in horizons.items()),
    )


def _drop_commits(connection: sqlite3.Connection, limit: int) -> int:
    seqs = connection.execute(
        "select commits.seq from commits join history_horizon using (context)"
        " where commits.seq <= history_horizon.seq limit ?",
        (limit,),
    ).fetchall()
    connection.executemany("delete from commits where seq = ?", seqs)
    return len(seqs)


_Row = tuple[str, str, str, int]


def _superseded(
    connection: sqlite3.Connection, horizons: dict[str, tuple[int, float]]
) -> list[_Row]:
    """(table, context, path or key, seq) of versions that no question from the horizon on asks
    for: older than another behind it, or the word that nothing was there."""
    found: list[_Row] = []
    for table, name, content in (
        ("file_versions", "path", "kind"),
        ("value_versions", "key", "value"),
    ):
        for context, (seq, _) in horizons.items():
            rows = connection.execute(
                f"select {name}, seq, {content} is null,"
                f" lead(seq) over (partition by {name} order by seq) from {table}"
                " where context = ? and seq <= ?",
                (context, seq),
            )
            found += [
                (table, context, row[0], row[1]) for row in rows if row[2] or row[3] is not None
            ]
    return found


def _dropping(rows: list[_Row]) -> Callable[[sqlite3.Connection], None]:
    def drop(connection: sqlite3.Connection) -> None:
        for table, context, name, seq in rows:
            column = "path" if table == "file_versions" else "key"
            connection.execute(
                f"delete from {table} where context = ? and {column} = ? and seq = ?",
                (context, name, seq),
            )

    return drop


def _parts(items: list[T]) -> Iterator[list[T]]:
    rest = iter(items)
    while part := list(itertools.islice(rest, _AT_ONCE)):
        yield part
