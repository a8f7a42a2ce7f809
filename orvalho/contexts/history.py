"""What became of each context: its commits, and every version of its files and values.

A commit is one changeset with its origin. The tree at a commit is, for each path, its last version
up to there. `files_now` says how each file looked when we last wrote or read it, so that an edit by
hand is noticed: it becomes a commit of its own before anything overwrites it.

The `stage_*` functions take a connection inside a transaction of the store.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal

import msgspec
from sqlite_utils.migrations import Migrations

from orvalho.contexts.changes import Changeset, Node, Stamp
from orvalho.contexts.names import new_ulid

MIGRATIONS: Final = Migrations("orvalho.contexts.history")

# run: a script; hand: an edit behind our back; undo: taken back by the owner; file: a file came;
# accept: a plan that the owner accepted.
Cause = Literal["run", "hand", "undo", "file", "accept"]
_MANY: Final = 500


@MIGRATIONS()  # type: ignore[untyped-decorator]  # sqlite_utils is untyped here
def create_history(database: Any) -> None:
    for statement in (
        """create table commits (
            seq integer primary key autoincrement,
            id text not null unique,
            context text not null,
            at real not null,
            author text not null,
            cause text not null,
            run text,
            note text not null,
            is_settled integer not null
        ) strict""",
        "create index commits_by_context on commits (context, seq)",
        "create index commits_by_run on commits (run) where run is not null",
        "create index commits_unsettled on commits (seq) where is_settled = 0",
        """create table file_versions (
            context text not null,
            path text not null,
            seq integer not null,
            kind text,
            sha256 text not null,
            size_bytes integer not null,
            primary key (context, path, seq)
        ) strict, without rowid""",
        "create index file_versions_by_seq on file_versions (seq)",
        """create table value_versions (
            context text not null,
            key text not null,
            seq integer not null,
            value text,
            primary key (context, key, seq)
        ) strict, without rowid""",
        "create index value_versions_by_seq on value_versions (seq)",
        """create table files_now (
            context text not null,
            path text not null,
            kind text not null,
            sha256 text not null,
            size_bytes integer not null,
            modified_ns integer not null,
            inode integer not null,
            primary key (context, path)
        ) strict, without rowid""",
    ):
        database.conn.execute(statement)


@MIGRATIONS()  # type: ignore[untyped-decorator]  # sqlite_utils is untyped here
def create_horizon(database: Any) -> None:
    """Up to which commit of a context retention has taken history away."""
    database.conn.execute(
        "create table history_horizon (context text primary key, seq integer not null,"
        " at real not null) strict"
    )


@MIGRATIONS()  # type: ignore[untyped-decorator]  # sqlite_utils is untyped here
def create_boots(database: Any) -> None:
    """Since which start of the machine commits were written."""
    database.conn.execute("create table history_boot (boot text not null) strict")


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """Where a commit comes from. `author` is `gil@laptop`, or `owner`."""

    context: str
    author: str
    cause: Cause
    at: float
    run: str | None = None
    note: str = ""


class Commit(msgspec.Struct, frozen=True, kw_only=True):
    """One commit. `seq` grows with each, over all contexts."""

    seq: int
    id: str
    context: str
    at: float
    author: str
    cause: Cause
    run: str | None
    note: str
    is_settled: bool


class Known(msgspec.Struct, frozen=True):
    """A path as we last left or found it."""

    node: Node
    stamp: Stamp


def new_commit_id(now: float) -> str:
    """`c_` and a ULID. `now`: Unix seconds."""
    return f"c_{new_ulid(now, os.urandom(10))}"


def stage_commit(
    connection: sqlite3.Connection, origin: Origin, changes: Changeset, *, id_: str, settled: bool
) -> int:
    """Write a commit down; its seq."""
    seq = connection.execute(
        "insert into commits (id, context, at, author, cause, run, note, is_settled)"
        " values (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            id_,
            origin.context,
            origin.at,
            origin.author,
            origin.cause,
            origin.run,
            origin.note,
            settled,
        ),
    ).lastrowid
    assert seq is not None, "an insert has a row"
    for each in changes.files:
        node = each.after
        connection.execute(
            "insert into file_versions values (?, ?, ?, ?, ?, ?)",
            (
                origin.context,
                each.path,
                seq,
                node.kind if node else None,
                node.sha256 if node else "",
                node.size_bytes if node else 0,
            ),
        )
    for value in changes.values:
        connection.execute(
            "insert into value_versions values (?, ?, ?, ?)",
            (origin.context, value.key, seq, value.after),
        )
    return seq


def stage_now(
    connection: sqlite3.Connection,
    context: str,
    now: Mapping[str, Known | None],
) -> None:
    """How paths look from now on; None where nothing is."""
    for path, known in now.items():
        if known is None:
            connection.execute(
                "delete from files_now where context = ? and path = ?", (context, path)
            )
            continue
        node, stamp = known.node, known.stamp
        connection.execute(
            "insert or replace into files_now values (?, ?, ?, ?, ?, ?, ?)",
            (
                context,
                path,
                node.kind,
                node.sha256,
                node.size_bytes,
                stamp.modified_ns,
                stamp.inode,
            ),
        )


def stage_settled(connection: sqlite3.Connection, seqs: Iterable[int]) -> None:
    """These commits are on the disk."""
    connection.executemany(
        "update commits set is_settled = 1 where seq = ?", ((seq,) for seq in seqs)
    )


def known(connection: sqlite3.Connection, context: str, paths: Iterable[str]) -> dict[str, Known]:
    """How paths looked when we last left or found them, of those that were there."""
    found = {}
    wanted = list(paths)
    for start in range(0, len(wanted), _MANY):
        part = wanted[start : start + _MANY]
        marks = ", ".join("?" * len(part))
        rows = connection.execute(
            "select path, kind, sha256, size_bytes, modified_ns, inode from files_now"
            f" where context = ? and path in ({marks})",
            (context, *part),
        )
        found.update({row[0]: _known(row[1:]) for row in rows})
    return found


def all_known(connection: sqlite3.Connection, context: str) -> dict[str, Known]:
    """How every path of a context looked when we last left or found it."""
    rows = connection.execute(
        "select path, kind, sha256, size_bytes, modified_ns, inode from files_now"
        " where context = ?",
        (context,),
    )
    return {row[0]: _known(row[1:]) for row in rows}


def values_unknown(connection: sqlite3.Connection, context: str) -> dict[str, str]:
    """Key -> JSON text of those values of which no version is known."""
    rows = connection.execute(
        "select key, value from kv where context = ? and not exists (select 1 from value_versions"
        " known where known.context = kv.context and known.key = kv.key) order by key",
        (context,),
    )
    return dict(rows.fetchall())


def first_values(
    connection: sqlite3.Connection, context: str, keys: Iterable[str]
) -> frozenset[str]:
    """Those of these keys of which no version is known."""
    return frozenset(
        key
        for key in keys
        if connection.execute(
            "select 1 from value_versions where context = ? and key = ? limit 1", (context, key)
        ).fetchone()
        is None
    )


def last_seq(connection: sqlite3.Connection, context: str) -> int:
    """The number of a context's last commit; 0 before the first."""
    row = connection.execute(
        "select max(seq) from commits where context = ?", (context,)
    ).fetchone()
    return int(row[0] or 0)


def values_changed(
    connection: sqlite3.Connection, context: str, low: str, high: str | None, seq: int
) -> bool:
    """Whether a commit after `seq` changed a key from `low` on; up to `high`, if there is one."""
    bound = "" if high is None else " and key < ?"
    found = connection.execute(
        f"select 1 from value_versions where seq > ? and context = ? and key >= ?{bound} limit 1",
        (seq, context, low, *(() if high is None else (high,))),
    )
    return found.fetchone() is not None


def unsettled(connection: sqlite3.Connection) -> list[Commit]:
    """Commits that may not be on the disk yet, from the first to the last."""
    rows = connection.execute(
        f"select {COMMIT_COLUMNS} from commits where is_settled = 0 order by seq"
    ).fetchall()
    return [read_commit(row) for row in rows]


def is_boot(connection: sqlite3.Connection, boot: str) -> bool:
    """Whether we ran under this start of the machine last."""
    return (
        connection.execute("select 1 from history_boot where boot = ?", (boot,)).fetchone()
        is not None
    )


def stage_boot(connection: sqlite3.Connection, boot: str) -> None:
    """Note under which start of the machine we run."""
    connection.execute("delete from history_boot")
    connection.execute("insert into history_boot values (?)", (boot,))


def files_of(connection: sqlite3.Connection, seq: int) -> dict[str, Node | None]:
    """What a commit left at each path that it changed, by path."""
    rows = connection.execute(
        "select path, kind, sha256, size_bytes from file_versions where seq = ? order by path",
        (seq,),
    )
    return {row[0]: read_node(row[1:]) for row in rows}


def latest_before(connection: sqlite3.Connection, context: str, path: str, seq: int) -> Node | None:
    """What was at a path before a commit, as far as history knows."""
    row = connection.execute(
        "select kind, sha256, size_bytes from file_versions"
        " where context = ? and path = ? and seq < ? order by seq desc limit 1",
        (context, path, seq),
    ).fetchone()
    return None if row is None else read_node(row)


def has_later(connection: sqlite3.Connection, context: str, path: str, seq: int) -> bool:
    """Whether a path was changed after a commit."""
    return (
        connection.execute(
            "select 1 from file_versions where context = ? and path = ? and seq > ? limit 1",
            (context, path, seq),
        ).fetchone()
        is not None
    )


def read_commit(row: tuple[Any, ...]) -> Commit:
    """A row of the columns `COMMIT_COLUMNS`."""
    return Commit(
        seq=row[0],
        id=row[1],
        context=row[2],
        at=row[3],
        author=row[4],
        cause=row[5],
        run=row[6],
        note=row[7],
        is_settled=bool(row[8]),
    )


def read_node(row: tuple[Any, ...]) -> Node | None:
    """A row of kind, sha256, size_bytes."""
    return None if row[0] is None else Node(row[0], row[1], row[2])


def _known(row: tuple[Any, ...]) -> Known:
    kind, sha256, size_bytes, modified_ns, inode = row
    stamp = Stamp(kind) if kind == "directory" else Stamp(kind, size_bytes, modified_ns, inode)
    return Known(Node(kind, sha256, size_bytes), stamp)


COMMIT_COLUMNS: Final = "seq, id, context, at, author, cause, run, note, is_settled"
