"""What was used here, and by whom: one row a receipt, later folded into one a day and requester.

A row is written in the transaction that writes the receipt, so the two never differ. Rows outlive
their runs: what `fold` takes away stays in the sums.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec
from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

from orvalho.policies.quota import Usage
from orvalho.policies.quotas import Spent

By = Literal["key", "group", "context"]
DAY_S: Final = 86_400.0


def tables(database: Database) -> None:
    counted = "".join(f"{name} integer not null, " for name in _COUNTED)
    for statement in (
        f"""create table charges (
            seq integer primary key,
            at real not null,
            run text not null,
            caller text not null,
            caller_key text not null,
            node_key text not null,
            context text not null,
            groups text not null,
            digest text not null,
            filename text not null,
            outcome text not null,
            rule text,
            "limit" text,
            {counted.removesuffix(", ")}
        ) strict""",
        "create index charges_by_at on charges (at)",
        f"""create table charges_by_day (
            day integer not null,
            caller text not null,
            caller_key text not null,
            context text not null,
            groups text not null,
            runs integer not null,
            {counted}
            primary key (day, caller_key, context, groups)
        ) strict, without rowid""",
    ):
        database.conn.execute(statement)


_COUNTED: Final = tuple(field.name for field in msgspec.structs.fields(Usage))
MIGRATIONS: Final = Migrations("usage")
MIGRATIONS()(tables)


class Charge(msgspec.Struct, frozen=True, kw_only=True):
    """What one run of `caller` used here, in `context`. `node_key` and `groups` are its node's;
    `rule` is the `file:line` that let it run, `limit` what ended it. `seq` is 0 until it is
    written."""

    at: float
    run: str
    caller: str
    caller_key: str
    node_key: str
    context: str
    groups: tuple[str, ...]
    digest: str
    filename: str
    outcome: str
    rule: str | None = None
    limit: str | None = None
    usage: Usage = Usage()
    seq: int = 0


@dataclass(frozen=True, slots=True)
class Sum:
    """The use of one key, group or context. `names` are the callers whose key it is, or none;
    the memory is the highest peak, all else is added up."""

    of: str
    names: tuple[str, ...]
    runs: int
    usage: Usage


_FIELDS: Final = tuple(
    field.name
    for field in msgspec.structs.fields(Charge)
    if field.name not in ("seq", "usage", "groups")
)
_QUOTED: Final = tuple(f'"{name}"' for name in (*_FIELDS, "groups", *_COUNTED))
_INSERT: Final = (
    f"insert into charges ({', '.join(_QUOTED)}) values ({', '.join('?' * len(_QUOTED))})"
)
_SELECT: Final = f"select {', '.join(_QUOTED)}, seq from charges"


def stage(connection: sqlite3.Connection, charge: Charge) -> int:
    """Write it down in the caller's transaction of the store; its `seq`."""
    values = [getattr(charge, name) for name in _FIELDS]
    values.append(" ".join(charge.groups))
    values += [getattr(charge.usage, name) for name in _COUNTED]
    return int(connection.execute(_INSERT, values).lastrowid or 0)


def since(connection: sqlite3.Connection, at: float, limit: int = 100_000) -> list[Charge]:
    """The newest `limit` charges from that moment on, oldest first."""
    rows = connection.execute(
        f"{_SELECT} where at >= ? order by at desc, seq desc limit ?", [at, limit]
    )
    return [_charge(row) for row in rows][::-1]


def spent_since(connection: sqlite3.Connection, at: float) -> tuple[int, list[Spent]]:
    """For `Quotas`: what a window may hold, and the last `seq`."""
    (last,) = connection.execute("select coalesce(max(seq), 0) from charges").fetchone()
    rows = connection.execute(
        "select seq, at, cpu_ms, network_bytes, groups from charges"
        " where at >= ? and (cpu_ms > 0 or network_bytes > 0)",
        [at],
    )
    return last, [Spent(seq, at, cpu, net, groups.split()) for seq, at, cpu, net, groups in rows]


def sums(connection: sqlite3.Connection, by: By, at: float = 0.0) -> list[Sum]:
    """What was used from that moment on, by whom, the most processor time first. Of days whose
    runs are folded, a whole one counts if it began then or later. A run of a sender in two groups
    counts in both, and one in none in the group "-"."""
    column = {"key": "caller_key", "group": "groups", "context": "context"}[by]
    added = ", ".join(_adding(name) for name in _COUNTED)
    plain = ", ".join(_COUNTED)
    first_day = -(-at // DAY_S)
    rows = connection.execute(
        f"""select {column}, group_concat(distinct caller), sum(runs), {added} from (
            select {column}, caller, 1 as runs, {plain} from charges where at >= ?
            union all
            select {column}, caller, runs, {plain} from charges_by_day where day >= ?
        ) group by {column}""",
        [at, first_day],
    )
    found: dict[str, Sum] = {}
    for of, names, runs, *counted in rows:
        used = Usage(**dict(zip(_COUNTED, counted, strict=True)))
        for one in (of.split() or ["-"]) if by == "group" else [of]:
            spoken = tuple(sorted(names.split(","))) if by == "key" else ()
            before = found.get(one, Sum(one, spoken, 0, Usage()))
            found[one] = Sum(one, spoken, before.runs + runs, add(before.usage, used))
    return sorted(found.values(), key=lambda each: (-each.usage.cpu_ms, each.of))


def add(one: Usage, other: Usage) -> Usage:
    """Both together: the higher peak of memory, and the sums of all else."""
    both = {name: getattr(one, name) + getattr(other, name) for name in _COUNTED}
    both["memory_bytes"] = max(one.memory_bytes, other.memory_bytes)
    return Usage(**both)


def fold(connection: sqlite3.Connection, before: float, limit: int) -> list[str]:
    """Add the oldest `limit` charges from before that moment to their days, and take them away;
    the runs that they were about. The newest one stays, so that no `seq` is used twice."""
    rows = connection.execute(
        f"{_SELECT} where at < ? and seq < (select max(seq) from charges) order by at limit ?",
        [before, limit],
    )
    charges = [_charge(row) for row in rows]
    if not charges:
        return []
    marks = ", ".join("?" * (6 + len(_COUNTED)))
    raised = ", ".join(
        f"{name} = max({name}, excluded.{name})"
        if name == "memory_bytes"
        else f"{name} = {name} + excluded.{name}"
        for name in ("runs", *_COUNTED)
    )
    connection.executemany(
        f"insert into charges_by_day values ({marks})"
        f" on conflict (day, caller_key, context, groups) do update set {raised}",
        list(_by_day(charges)),
    )
    connection.executemany(
        "delete from charges where seq = ?", [[charge.seq] for charge in charges]
    )
    return [charge.run for charge in charges]


def _by_day(charges: Iterable[Charge]) -> Iterator[list[Any]]:
    for each in charges:
        head = [int(each.at // DAY_S), each.caller, each.caller_key, each.context]
        counted = [getattr(each.usage, name) for name in _COUNTED]
        yield [*head, " ".join(each.groups), 1, *counted]


def _adding(name: str) -> str:
    return f"{'max' if name == 'memory_bytes' else 'sum'}({name})"


def _charge(row: tuple[Any, ...]) -> Charge:
    named = dict(zip((*_FIELDS, "groups", *_COUNTED, "seq"), row, strict=True))
    usage = Usage(**{name: named.pop(name) for name in _COUNTED})
    groups = tuple(str(named.pop("groups")).split())
    return Charge(**named, groups=groups, usage=usage)
