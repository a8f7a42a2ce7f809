"""The audit log: every decision and event, in order, never changed, and taken out by age alone."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

import anyio
import msgspec
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

from orvalho.policies.access import AccessRequest, Decision
from orvalho.store import Store


def append_only_table(database: Database) -> None:
    # The triggers hold against a mistake in this program; whoever can write the file can drop them.
    for statement in (
        """create table audit (
            seq integer primary key autoincrement,
            at real not null,
            actor text not null,
            context text not null,
            action text not null,
            object text not null,
            allowed integer not null,
            rule text,
            rule_text text,
            nearest text,
            suggestion text,
            run text,
            text text not null
        ) strict""",
        "create index audit_by_run on audit (run, seq) where run is not null",
        """create trigger audit_is_not_changed before update on audit
            begin select raise(abort, 'the audit log is append-only'); end""",
        """create trigger audit_is_not_deleted before delete on audit
            begin select raise(abort, 'the audit log is append-only'); end""",
    ):
        database.conn.execute(statement)


def kept_by_age(database: Database) -> None:
    """What is younger than `audit_kept.since` cannot be deleted."""
    for statement in (
        "create table audit_kept (since real not null) strict",
        "insert into audit_kept values (0)",
        "drop trigger audit_is_not_deleted",
        """create trigger audit_is_not_deleted before delete on audit
            when old.at >= (select since from audit_kept)
            begin select raise(abort, 'the audit log is append-only'); end""",
    ):
        database.conn.execute(statement)


def told_apart(database: Database) -> None:
    """Who asked, as the rules saw it: all the words that held, once for each different set; and
    the condition on which a refusal hung."""
    for statement in (
        "create table audit_subject (id integer primary key, words text not null) strict",
        "alter table audit add column subject integer",
        "alter table audit add column unmet text",
    ):
        database.conn.execute(statement)


def by_what(database: Database) -> None:
    for column in ("cause", "call"):
        database.conn.execute(f"alter table audit add column {column} text")


MIGRATIONS: Final = Migrations("audit")
MIGRATIONS()(append_only_table)
MIGRATIONS()(kept_by_age)
MIGRATIONS()(told_apart)
MIGRATIONS()(by_what)


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One line. `actor` is who asked, a name or a key; `at` is Unix seconds; `rule` and `nearest`
    are `file:line`. `unmet`: the condition on which a refusal hung, and what was so. `words`: the
    key of who asked, then all that rules may call it; written, but not read back. `cause`: what
    refused it where that was no rule (CAUSES); `call`: the host call, `3 target.fs.write`. `seq`
    grows with each entry; it is 0 until the entry is written."""

    at: float
    actor: str
    context: str
    action: str
    object: str
    allowed: bool
    rule: str | None = None
    rule_text: str | None = None
    nearest: str | None = None
    suggestion: str | None = None
    run: str | None = None
    text: str = ""
    cause: str | None = None
    call: str | None = None
    seq: int = 0
    unmet: str | None = None
    words: tuple[str, ...] = ()


# header: the script did not declare it; narrowed: its sender denied it; dropped: the script itself
# did; broker: the owner's program; path: the tree, since it leads out; disabled: in this context.
CAUSES: Final = ("header", "narrowed", "dropped", "broker", "path", "disabled")


def decided(
    request: AccessRequest,
    decision: Decision,
    *,
    at: float,
    run: str | None = None,
    text: str = "",
    call: str | None = None,
) -> Entry:
    """The entry for a decision."""
    rule, nearest = decision.rule, decision.nearest
    return Entry(
        at=at,
        actor=request.subject.spoken,
        context=request.context,
        action=request.action,
        object=request.object,
        allowed=decision.allowed,
        rule=rule.where if rule else None,
        rule_text=rule.text if rule else None,
        nearest=f"{nearest.where}: {nearest.text}" if nearest else None,
        suggestion=decision.suggestion,
        run=run,
        text=text,
        unmet=decision.unmet.reason if decision.unmet else None,
        words=(request.subject.key, *sorted(request.subject.names - {request.subject.key})),
        call=call,
    )


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which entries: all that is given must hold. `actor` is a name as the log has it, or that of a
    node for all its contexts; `since` is Unix seconds."""

    run: str | None = None
    actor: str | None = None
    action: str | None = None
    context: str | None = None
    allowed: bool | None = None
    since: float | None = None

    def where(self) -> tuple[str, list[str | int | float]]:
        """SQL conditions, and what stands for their question marks."""
        parts: list[tuple[str, tuple[str | int | float, ...]]] = []
        if self.actor is not None:
            at_node = f"@{self.actor}"
            parts.append(
                ("(actor = ? or substr(actor, -?) = ?)", (self.actor, len(at_node), at_node))
            )
        if self.action is not None:
            family = f"{self.action}."
            parts.append(
                ("(action = ? or substr(action, 1, ?) = ?)", (self.action, len(family), family))
            )
        for name, value in (("run", self.run), ("context", self.context)):
            if value is not None:
                parts.append((f"{name} = ?", (value,)))
        if self.allowed is not None:
            parts.append(("allowed = ?", (int(self.allowed),)))
        if self.since is not None:
            parts.append(("at >= ?", (self.since,)))
        sql = " and ".join(text for text, _ in parts) or "1"
        return sql, [value for _, values in parts for value in values]


@dataclass(frozen=True, slots=True, eq=False)
class _Follower:
    """Someone who waits. The stream holds one token: there is something new to read."""

    loop: asyncio.AbstractEventLoop
    bell: MemoryObjectSendStream[None]

    def ring(self) -> None:
        try:
            self.loop.call_soon_threadsafe(self._ring)
        except RuntimeError:  # the loop has closed: nobody waits any more
            return

    def _ring(self) -> None:
        try:
            self.bell.send_nowait(None)
        except (anyio.WouldBlock, anyio.BrokenResourceError, anyio.ClosedResourceError):
            return  # it rings already, or the follower has gone


class Audit:
    """The log in `store`, whose migrations include MIGRATIONS."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._followers: frozenset[_Follower] = frozenset()

    def note(self, entry: Entry) -> None:
        """Write `entry` without waiting; it is lost only in a crash right now. From any thread."""
        self._store.transact_soon("audit.note", lambda connection: self.stage(connection, entry))

    def stage(self, connection: sqlite3.Connection, entry: Entry) -> int:
        """Write `entry` in the caller's transaction of the store; its `seq`."""
        row = msgspec.structs.asdict(entry)
        subject = _stage_subject(connection, entry.words) if entry.words else None
        cursor = connection.execute(_INSERT, [*(row[name] for name in _COLUMNS), subject])
        for follower in self._followers:
            follower.ring()
        return int(cursor.lastrowid or 0)

    async def newest(
        self, limit: int, run: str | None = None, wanted: Wanted | None = None
    ) -> list[Entry]:
        """The newest `limit` entries, of one run, or those that are `wanted`, oldest first."""
        arguments: list[str | int | float]
        where, arguments = (wanted or Wanted(run=run)).where()
        sql = f"{_SELECT} where {where} order by seq desc limit ?"
        newest_first = await self._store.read(
            partial(_entries, sql=sql, arguments=[*arguments, limit])
        )
        return newest_first[::-1]

    @asynccontextmanager
    async def follow(
        self, after: int, run: str | None = None, wanted: Wanted | None = None
    ) -> AsyncIterator[AsyncIterator[Entry]]:
        """For the block's length, each entry after seq `after`, as soon as it is durable. A slow
        reader misses nothing and holds nobody up: it reads on from where it was."""
        send, receive = anyio.create_memory_object_stream[None](1)
        follower = _Follower(asyncio.get_running_loop(), send)
        self._followers |= {follower}
        try:
            with send, receive:
                yield self._each(receive, after, wanted or Wanted(run=run))
        finally:
            self._followers -= {follower}

    async def _each(
        self, bell: MemoryObjectReceiveStream[None], after: int, wanted: Wanted
    ) -> AsyncIterator[Entry]:
        where, rest = wanted.where()
        sql = f"{_SELECT} where seq > ? and {where} order by seq limit {_PAGE}"
        while True:
            arguments = [after, *rest]
            # On the writer's thread: it answers after the commit that rang the bell.
            read = partial(_entries, sql=sql, arguments=arguments)
            found = await self._store.transact("audit.follow", read)
            for entry in found:
                after = entry.seq
                yield entry
            if len(found) < _PAGE:
                await bell.receive()


_PAGE: Final = 256
_FIELDS: Final = tuple(f.name for f in msgspec.structs.fields(Entry) if f.name != "words")
_COLUMNS: Final = tuple(name for name in _FIELDS if name != "seq")
_INSERT: Final = (
    f"insert into audit ({', '.join(_COLUMNS)}, subject) values ({'?, ' * len(_COLUMNS)}?)"
)
_SELECT: Final = f"select {', '.join(_FIELDS)} from audit"


def _stage_subject(connection: sqlite3.Connection, words: tuple[str, ...]) -> int:
    """The number of a set of words, made from it: nothing has to be looked up for it first."""
    text = "\n".join(words)
    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], signed=True)
    connection.execute("insert or ignore into audit_subject values (?, ?)", [number, text])
    return number


def _entries(
    connection: sqlite3.Connection, sql: str, arguments: Sequence[str | int | float]
) -> list[Entry]:
    rows = connection.execute(sql, arguments)
    return [
        msgspec.convert(dict(zip(_FIELDS, row, strict=True)), Entry, strict=False) for row in rows
    ]


def entries_since(connection: sqlite3.Connection, at: float, limit: int) -> list[Entry]:
    """The newest `limit` entries, as far as they are not older, oldest first."""
    newest_first: list[Entry] = []
    before, page = 1 << 62, _PAGE
    while page == _PAGE and len(newest_first) < limit:
        sql = f"{_SELECT} where seq < ? order by seq desc limit {_PAGE}"
        found = _entries(connection, sql, [before])
        recent = [entry for entry in found if entry.at >= at]
        newest_first += recent
        page, before = len(recent), found[-1].seq if found else 0
    return newest_first[:limit][::-1]


def stage_pruned(connection: sqlite3.Connection, before: float, limit: int) -> int:
    """Take out the oldest entries, `limit` at most, as far as they are older than that moment; how
    many these were."""
    rows = connection.execute("select seq, at from audit order by seq limit ?", [limit])
    old = [seq for seq, at in itertools.takewhile(lambda row: row[1] < before, rows.fetchall())]
    if old:
        connection.execute("update audit_kept set since = max(since, ?)", [before])
        connection.executemany("delete from audit where seq = ?", [[seq] for seq in old])
    if 0 < len(old) < limit:
        connection.execute(
            "delete from audit_subject where id not in"
            " (select subject from audit where subject is not null)"
        )
    return len(old)
