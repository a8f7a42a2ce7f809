"""Runs that wait for the owner's word: what they would change, and what is needed to end them."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from sqlite_utils.migrations import Migrations

from orvalho.contexts import contents as contents_table
from orvalho.policies.usage import Charge
from orvalho.scripts.messages import ScriptOutput
from orvalho.scripts.receipts import Receipt

MIGRATIONS: Final = Migrations("held_runs")


@MIGRATIONS()  # type: ignore[untyped-decorator]  # sqlite_utils is untyped here
def create_held_runs(database: Any) -> None:
    database.conn.execute(
        """create table held_runs (
            run text primary key, at real not null, context text not null, held blob not null
        ) strict, without rowid"""
    )


class HeldRun(msgspec.Struct, frozen=True, kw_only=True):
    """`frozen` is the run's workspace (`Workspace.freeze`); `receipt` and `charge` are those of its
    end, but for the outcome. `envelope` is the id of the envelope that it came in, None for a run
    of this very node; `rule` is the one that held it, `rule_text` what it said then."""

    run: str
    at: float
    context: str
    sender: bytes
    envelope: bytes | None
    rule: str | None
    frozen: bytes
    plan: bytes
    result: bytes | None
    is_bytes: bool
    logs: tuple[ScriptOutput, ...]
    receipt: Receipt
    charge: Charge
    rule_text: str | None = None


def stage_held(connection: sqlite3.Connection, held: HeldRun, contents: Sequence[str]) -> None:
    """`contents`: the SHA-256 of what its files would hold."""
    connection.execute(
        "insert or replace into held_runs values (?, ?, ?, ?)",
        (held.run, held.at, held.context, msgspec.msgpack.encode(held)),
    )
    contents_table.stage_held(connection, held.run, contents)


def stage_released(connection: sqlite3.Connection, run: str) -> bool:
    """Whether it was held."""
    contents_table.stage_released(connection, run)
    return connection.execute("delete from held_runs where run = ?", (run,)).rowcount == 1


def count_of(connection: sqlite3.Connection, peer_key: str) -> int:
    """How many of one sender are held."""
    (count,) = connection.execute(
        "select count(*) from held_runs join runs on runs.id = held_runs.run where peer_key = ?",
        (peer_key,),
    ).fetchone()
    return int(count)


def all_held(connection: sqlite3.Connection) -> list[HeldRun]:
    """The oldest first."""
    rows = connection.execute("select held from held_runs order by at, run")
    return [msgspec.msgpack.decode(row[0], type=HeldRun) for row in rows]


def held(connection: sqlite3.Connection, run: str) -> HeldRun | None:
    row = connection.execute("select held from held_runs where run = ?", (run,)).fetchone()
    return None if row is None else msgspec.msgpack.decode(row[0], type=HeldRun)
