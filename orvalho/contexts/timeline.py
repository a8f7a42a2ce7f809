"""Questions to the history of a context: its commits, and how it was at each. All of it reads.

The functions take a connection, and a context's name. A seq stands for the moment right after the
commit of that number; 0 is before the first. What retention took away is not there any more:
`horizon` says from which seq on history is whole.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from orvalho.contexts.changes import Changeset, FileChange, Node, ValueChange, changeset
from orvalho.contexts.history import COMMIT_COLUMNS, Commit, read_commit, read_node

_MANY: Final = 500


@dataclass(frozen=True, slots=True)
class Logged:
    """A commit, and how many paths and keys it added, changed and took away."""

    commit: Commit
    added: int
    changed: int
    gone: int


@dataclass(frozen=True, slots=True)
class Horizon:
    """Before this commit, which was made at `at`, nothing is kept. (0, 0.0) for all of it."""

    seq: int
    at: float


@dataclass(frozen=True, slots=True)
class Held:
    """What a history comes to: `past_bytes` are contents that only the past needs."""

    commits: int
    past_bytes: int
    begins_at: float | None


def horizon(connection: sqlite3.Connection, context: str) -> Horizon:
    """Where the history of a context begins."""
    row = connection.execute(
        "select seq, at from history_horizon where context = ?", (context,)
    ).fetchone()
    return Horizon(0, 0.0) if row is None else Horizon(row[0], row[1])


def newest(connection: sqlite3.Connection, context: str) -> int:
    """The seq of the last commit; 0 where there is none."""
    row = connection.execute(
        "select max(seq) from commits where context = ?", (context,)
    ).fetchone()
    return max(row[0] or 0, horizon(connection, context).seq)


def log(connection: sqlite3.Connection, context: str, limit: int) -> list[Logged]:
    """The newest `limit` commits, newest first."""
    rows = connection.execute(
        f"select {COMMIT_COLUMNS} from commits where context = ? and seq > ?"
        " order by seq desc limit ?",
        (context, horizon(connection, context).seq, limit),
    ).fetchall()
    return [counted(connection, read_commit(row)) for row in rows]


def commits_named(connection: sqlite3.Connection, name: str) -> list[Commit]:
    """The commits that a text may mean, of any context, oldest first: the id of one, or of the
    run that made it; or the beginning of such an id. At most 50."""
    column = "id" if name[:2].lower() == "c_" else "run"
    start = name[:2].lower() + name[2:].upper()
    rows = connection.execute(
        f"select {COMMIT_COLUMNS} from commits where {column} >= ? and {column} < ?"
        " order by seq limit 50",
        (start, start + "\x7f"),
    ).fetchall()
    found = [read_commit(row) for row in rows]
    return [each for each in found if each.seq > horizon(connection, each.context).seq]


def has_history(connection: sqlite3.Connection, context: str) -> bool:
    """Whether anything was ever committed there."""
    return newest(connection, context) > 0


def first_at(connection: sqlite3.Connection, context: str) -> float | None:
    """When its history begins, as far as it is kept; None where there is none."""
    edge = horizon(connection, context)
    if edge.seq:
        return edge.at
    row = connection.execute(
        "select at from commits where context = ? order by seq limit 1", (context,)
    ).fetchone()
    return None if row is None else float(row[0])


def seq_at(connection: sqlite3.Connection, context: str, at: float) -> int:
    """The seq of the last commit up to a moment (Unix seconds); 0 where there was none yet."""
    row = connection.execute(
        "select max(seq) from commits where context = ? and at <= ?", (context, at)
    ).fetchone()
    if row[0] is not None:
        return int(row[0])
    edge = horizon(connection, context)
    return edge.seq if edge.seq and edge.at <= at else 0


def before(connection: sqlite3.Connection, context: str, seq: int) -> int:
    """The seq of the commit before one; the horizon, or 0, where there is none."""
    row = connection.execute(
        "select max(seq) from commits where context = ? and seq < ?", (context, seq)
    ).fetchone()
    return max(row[0] or 0, horizon(connection, context).seq)


def id_of(connection: sqlite3.Connection, seq: int) -> str | None:
    """The id of a commit; None where it is not kept any more."""
    row = connection.execute("select id from commits where seq = ?", (seq,)).fetchone()
    return None if row is None else str(row[0])


def changed_at(
    connection: sqlite3.Connection, context: str, seq: int, paths: Iterable[str]
) -> dict[str, float]:
    """When each path became what it was, of those where that is still known."""
    found = {}
    for path in paths:
        row = connection.execute(
            "select at from commits where seq = (select max(seq) from file_versions"
            " where context = ? and path = ? and seq <= ?)",
            (context, path, seq),
        ).fetchone()
        if row is not None:
            found[path] = float(row[0])
    return found


def held(connection: sqlite3.Connection, context: str) -> Held:
    """What the history of one context comes to."""
    commits = connection.execute(
        "select count(*) from commits where context = ? and seq > ?",
        (context, horizon(connection, context).seq),
    ).fetchone()[0]
    past_bytes = connection.execute(
        "select coalesce(sum(size_bytes), 0) from (select distinct sha256, size_bytes from"
        " file_versions where context = ? and sha256 != '') where sha256 not in"
        " (select sha256 from files_now)",
        (context,),
    ).fetchone()[0]
    return Held(commits, past_bytes, first_at(connection, context))


def tree_at(
    connection: sqlite3.Connection, context: str, seq: int, under: str = "/"
) -> dict[str, Node]:
    """Path -> what was there, by path; of what lies at or below `under`."""
    top = under.rstrip("/")
    rows = connection.execute(
        "select path, kind, sha256, size_bytes, max(seq) from file_versions"
        " where context = ? and seq <= ? and (path = ? or (path >= ? and path < ?))"
        " group by path order by path",
        (context, seq, top, f"{top}/", f"{top}0"),
    )
    found = ((row[0], read_node(row[1:4])) for row in rows)
    return {path: node for path, node in found if node is not None}


def node_at(connection: sqlite3.Connection, context: str, seq: int, path: str) -> Node | None:
    """What was at one path."""
    row = connection.execute(
        "select kind, sha256, size_bytes from file_versions"
        " where context = ? and path = ? and seq <= ? order by seq desc limit 1",
        (context, path, seq),
    ).fetchone()
    return None if row is None else read_node(row)


def values_at(
    connection: sqlite3.Connection, context: str, seq: int, prefix: str = ""
) -> dict[str, str]:
    """Key -> JSON text, by key; of those that start with `prefix`."""
    rows = connection.execute(
        "select key, value, max(seq) from value_versions"
        " where context = ? and seq <= ? group by key order by key",
        (context, seq),
    )
    return {row[0]: row[1] for row in rows if row[1] is not None and row[0].startswith(prefix)}


def value_at(connection: sqlite3.Connection, context: str, seq: int, key: str) -> str | None:
    """What one key had."""
    row = connection.execute(
        "select value from value_versions"
        " where context = ? and key = ? and seq <= ? order by seq desc limit 1",
        (context, key, seq),
    ).fetchone()
    return None if row is None else row[0]


def difference(connection: sqlite3.Connection, context: str, start: int, end: int) -> Changeset:
    """What has to change for the context as it was at `start` to be as at `end`, which may be
    the earlier one."""
    first, last = min(start, end), max(start, end)
    paths, keys = _touched(connection, context, first, last)
    files = (
        FileChange(
            path=path,
            before=node_at(connection, context, start, path),
            after=node_at(connection, context, end, path),
        )
        for path in paths
    )
    values = (
        ValueChange(
            key=key,
            before=value_at(connection, context, start, key),
            after=value_at(connection, context, end, key),
        )
        for key in keys
    )
    return changeset(files, values)


def changes_of(connection: sqlite3.Connection, commits: Iterable[Commit]) -> Changeset:
    """What these commits of one context have changed, taken together, and not what others
    changed meanwhile."""
    files: dict[str, FileChange] = {}
    values: dict[str, ValueChange] = {}
    for commit in commits:
        seq, context = commit.seq, commit.context
        for path, kind, sha256, size_bytes in connection.execute(
            "select path, kind, sha256, size_bytes from file_versions where seq = ?", (seq,)
        ).fetchall():
            before = files[path].before if path in files else None
            if path not in files:
                before = node_at(connection, context, seq - 1, path)
            after = read_node((kind, sha256, size_bytes))
            files[path] = FileChange(path=path, before=before, after=after)
        for key, value in connection.execute(
            "select key, value from value_versions where seq = ?", (seq,)
        ).fetchall():
            old = values[key].before if key in values else None
            if key not in values:
                old = value_at(connection, context, seq - 1, key)
            values[key] = ValueChange(key=key, before=old, after=value)
    return changeset(files.values(), values.values())


def last_changes(
    connection: sqlite3.Connection, context: str, paths: Iterable[str], keys: Iterable[str]
) -> dict[str, Commit]:
    """Who changed each of these paths and keys last: `/path` or `kv:key` -> its commit."""
    seqs: dict[str, int] = {}
    for path in paths:
        row = connection.execute(
            "select max(seq) from file_versions where context = ? and path = ?", (context, path)
        ).fetchone()
        if row[0] is not None:
            seqs[path] = row[0]
    for key in keys:
        row = connection.execute(
            "select max(seq) from value_versions where context = ? and key = ?", (context, key)
        ).fetchone()
        if row[0] is not None:
            seqs[f"kv:{key}"] = row[0]
    commits = _by_seq(connection, set(seqs.values()))
    return {name: commits[seq] for name, seq in seqs.items() if seq in commits}


def _touched(
    connection: sqlite3.Connection, context: str, first: int, last: int
) -> tuple[list[str], list[str]]:
    def column(name: str, table: str) -> list[str]:
        rows = connection.execute(
            # The plus keeps SQLite from walking all that the context ever had.
            f"select distinct {name} from {table} where seq > ? and seq <= ? and +context = ?",
            (first, last, context),
        )
        return [row[0] for row in rows]

    return column("path", "file_versions"), column("key", "value_versions")


def _by_seq(connection: sqlite3.Connection, seqs: Iterable[int]) -> dict[int, Commit]:
    wanted = list(seqs)
    found: dict[int, Commit] = {}
    for start in range(0, len(wanted), _MANY):
        part = wanted[start : start + _MANY]
        marks = ", ".join("?" * len(part))
        rows = connection.execute(
            f"select {COMMIT_COLUMNS} from commits where seq in ({marks})", part
        ).fetchall()
        found.update({row[0]: read_commit(row) for row in rows})
    return found


def counted(connection: sqlite3.Connection, commit: Commit) -> Logged:
    """A commit with what it came to."""
    counts = {"+": 0, "~": 0, "-": 0}
    for was, is_now in (
        *connection.execute(
            "select (select kind from file_versions old where old.context = new.context"
            "   and old.path = new.path and old.seq < new.seq order by old.seq desc limit 1),"
            " kind from file_versions new where seq = ?",
            (commit.seq,),
        ),
        *connection.execute(
            "select (select value from value_versions old where old.context = new.context"
            "   and old.key = new.key and old.seq < new.seq order by old.seq desc limit 1),"
            " value from value_versions new where seq = ?",
            (commit.seq,),
        ),
    ):
        counts["+" if was is None else "-" if is_now is None else "~"] += 1
    return Logged(commit, counts["+"], counts["~"], counts["-"])
