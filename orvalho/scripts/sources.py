"""The sources of runs by their digests: which modules a run has, what a peer sent us, and what a
peer has confirmed to hold, so that a large one travels once.

The sources themselves stand in the table of `runs.py`. A peer is given, and is taken to mean, only
what came from it or went to it: a digest alone opens nobody else's source.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

from orvalho.scripts import runs
from orvalho.scripts.modules import digest_of
from orvalho.scripts.runs import Direction, Run
from orvalho.scripts.script import Source

# Smaller ones are sent each time: a round trip to ask for one would cost more.
LARGE_BYTES: Final = 64 << 10
_MOST_HELD: Final = 10_000


def tables(database: Database) -> None:
    for statement in (
        """create table run_modules (
            run text not null,
            path text not null,
            digest text not null references sources (digest),
            primary key (run, path)
        ) strict, without rowid""",
        "create index run_modules_by_digest on run_modules (digest)",
        """create table held_sources (
            peer_key text not null,
            digest text not null,
            at real not null,
            primary key (peer_key, digest)
        ) strict, without rowid""",
        "create table sent_bodies (run text primary key, bytes integer not null)"
        " strict, without rowid",
    ):
        database.conn.execute(statement)


MIGRATIONS: Final = Migrations("sources")
MIGRATIONS()(tables)


def large(source: Source, modules: Mapping[str, str]) -> dict[str, str]:
    """Path -> digest of what is not sent twice; the script itself has the path ""."""
    all_ = {"": source, **modules}
    return {path: digest_of(each) for path, each in all_.items() if len(each) >= LARGE_BYTES}


def stage_modules(connection: sqlite3.Connection, run: str, modules: Mapping[str, str]) -> None:
    """Write the modules of a run down. A second time changes nothing."""
    for path, source in modules.items():
        digest = digest_of(source)
        connection.execute("insert or ignore into sources values (?, ?, null)", [digest, source])
        connection.execute(
            "insert or ignore into run_modules values (?, ?, ?)", [run, path, digest]
        )


def stage_held(
    connection: sqlite3.Connection, peer_key: str, digests: Iterable[str], at: float
) -> None:
    """A peer says that it holds these. The oldest of too many are forgotten: they are sent once
    more."""
    rows = [(peer_key, digest, at) for digest in digests]
    connection.executemany("insert or replace into held_sources values (?, ?, ?)", rows)
    connection.execute(
        "delete from held_sources where (peer_key, digest) in (select peer_key, digest from"
        " held_sources order by at desc limit -1 offset ?)",
        [_MOST_HELD],
    )


def sent_in(connection: sqlite3.Connection, run: Run, digests: Collection[str]) -> list[str]:
    """Those of the digests that are the run's own: a peer tells of nothing else."""
    own = {run.digest, *digests_of(connection, run.id).values()}
    return [digest for digest in digests if digest in own]


def held_by(connection: sqlite3.Connection, peer_key: str, digests: Iterable[str]) -> set[str]:
    """Which of these a peer holds."""
    query = "select 1 from held_sources where peer_key = ? and digest = ?"
    return {
        digest for digest in digests if connection.execute(query, [peer_key, digest]).fetchone()
    }


def stage_sent(connection: sqlite3.Connection, run: str, size_bytes: int) -> None:
    """How large the body was that a script travelled in."""
    connection.execute("insert or ignore into sent_bodies values (?, ?)", [run, size_bytes])


def sent_bytes(connection: sqlite3.Connection, run: str) -> int | None:
    """See `stage_sent`; None for a run that came from elsewhere."""
    row = connection.execute("select bytes from sent_bodies where run = ?", [run]).fetchone()
    return None if row is None else int(row[0])


def modules_of(connection: sqlite3.Connection, run: str) -> dict[str, str]:
    """Path -> text of a run's modules."""
    query = "select path, source from run_modules join sources using (digest) where run = ?"
    return dict(connection.execute(query, [run]))


def digests_of(connection: sqlite3.Connection, run: str) -> dict[str, str]:
    """Path -> digest of a run's modules, by path."""
    query = "select path, digest from run_modules where run = ? order by path"
    return dict(connection.execute(query, [run]))


def between(
    connection: sqlite3.Connection, peer_key: str, digest: str, direction: Direction
) -> Source | None:
    """A source that went to that peer in a run, or came from it; None when none of that digest
    did."""
    row = connection.execute(
        "select coalesce(module, source) from sources where digest = :digest and ("
        " exists (select 1 from runs where runs.digest = :digest and peer_key = :peer"
        "  and direction = :direction)"
        " or exists (select 1 from run_modules join runs on runs.id = run"
        "  where run_modules.digest = :digest and peer_key = :peer and direction = :direction))",
        {"digest": digest, "peer": peer_key, "direction": direction},
    ).fetchone()
    return None if row is None else row[0]


def stage_pruned(connection: sqlite3.Connection, ids: Sequence[str]) -> None:
    """Take away those of the runs that have ended, with their lines and modules, and the sources
    that no other run needs. A peer that leaves one of these out is asked for it."""
    marks = ", ".join("?" * len(ids))
    ended = connection.execute(
        f"select id, digest from runs where id in ({marks}) and state = 'ended'", ids
    ).fetchall()
    digests = {digest for _, digest in ended}
    for run, _ in ended:
        digests |= set(digests_of(connection, run).values())
    runs.stage_outlived(connection, [run for run, _ in ended], time.time())
    by_id = [[run] for run, _ in ended]
    for statement in (
        "delete from run_logs where run = ?",
        "delete from large_params where run = ?",
        "delete from run_modules where run = ?",
        "delete from sent_bodies where run = ?",
        "delete from recordings where run = ?",
        "delete from runs where id = ?",
    ):
        connection.executemany(statement, by_id)
    connection.executemany(
        "delete from sources where digest = :digest"
        " and not exists (select 1 from runs where digest = :digest)"
        " and not exists (select 1 from run_modules where digest = :digest)",
        [{"digest": digest} for digest in digests],
    )
