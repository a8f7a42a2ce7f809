"""What a script would do, as its sender or the target's owner is shown it before it is done."""

from __future__ import annotations

import sqlite3
from typing import Any, Final

import msgspec
from sqlite_utils.migrations import Migrations

from orvalho.errors import Untrusted

MIGRATIONS: Final = Migrations("plans")


@MIGRATIONS()  # type: ignore[untyped-decorator]  # sqlite_utils is untyped here
def create_plans(database: Any) -> None:
    database.conn.execute(
        "create table plans (run text primary key, plan blob not null) strict, without rowid"
    )


class PlannedFile(msgspec.Struct, frozen=True, kw_only=True):
    """One path. `mark`: + added, ~ changed, - gone. `diff` is a unified diff of text; None where
    the content is no text, too large, or not for the reader: `why` says which."""

    path: str
    mark: str
    is_directory: bool = False
    before_bytes: int | None = None
    after_bytes: int | None = None
    after_sha256: str | None = None
    diff: str | None = None
    why: str | None = None


class PlannedValue(msgspec.Struct, frozen=True, kw_only=True):
    """One key. `before` and `after` are JSON texts; None for no value, or one not for the reader,
    of which `why` tells."""

    key: str
    mark: str
    before: str | None = None
    after: str | None = None
    why: str | None = None


class PlannedCall(msgspec.Struct, frozen=True, kw_only=True):
    """A call that reaches beyond the target, which was not made."""

    call: str
    argument: str


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """All of it. `left_out` counts changes beyond those listed; `held_by` is the `file:line` by
    which the target's owner would look at it before it is done."""

    files: tuple[PlannedFile, ...] = ()
    values: tuple[PlannedValue, ...] = ()
    not_run: tuple[PlannedCall, ...] = ()
    left_out: int = 0
    held_by: str | None = None


def encode_plan(plan: Plan) -> bytes:
    return msgspec.msgpack.encode(plan)


def decode_plan(raw: bytes) -> Plan:
    """Raises:
    Untrusted: it is none.
    """
    try:
        return msgspec.msgpack.decode(raw, type=Plan)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Untrusted(f"the plan is malformed: {error}") from error


def stage_plan(connection: sqlite3.Connection, run: str, plan: bytes) -> None:
    """Keep a run's plan; the first one stays."""
    connection.execute("insert or ignore into plans values (?, ?)", (run, plan))


def stage_dropped(connection: sqlite3.Connection, run: str) -> None:
    connection.execute("delete from plans where run = ?", (run,))


def plan_of(connection: sqlite3.Connection, run: str) -> bytes | None:
    row = connection.execute("select plan from plans where run = ?", (run,)).fetchone()
    return None if row is None else bytes(row[0])
