"""The table of runs, those we sent and those we received, with their sources and logs.

The `stage_*` functions take a connection inside a transaction of the store, so that what happens
to a run and what else must happen with it are one commit. Each may see the same thing twice, after
a crash: the second time changes nothing.
"""

from __future__ import annotations

import asyncio
import re
import sqlite3
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final, Literal

import anyio
import msgspec
from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

from orvalho.contexts.names import ulid_bytes, ulid_text
from orvalho.errors import Conflict, InvalidInput, NotFound, Untrusted
from orvalho.policies.quota import Usage, format_duration
from orvalho.scripts.messages import ScriptEnded, ScriptError, ScriptOutput
from orvalho.scripts.script import Source
from orvalho.scripts.signing import SKEW_S
from orvalho.store import Store

Direction = Literal["sent", "received"]
# held: its target's owner is to look at it.
State = Literal["queued", "running", "held", "ended"]


def tables(database: Database) -> None:
    for statement in (
        "create table sources (digest text primary key, source text not null) strict",
        """create table runs (
            id text primary key,
            direction text not null,
            caller text not null,
            target text not null,
            peer_key text not null,
            filename text not null,
            digest text not null references sources (digest),
            needs text not null,
            wants text not null,
            exposed text not null,
            state text not null,
            outcome text,
            created_at real not null,
            started_at real,
            ended_at real,
            expires_at real not null,
            usage text not null,
            error text,
            envelope blob not null,
            params blob not null,
            result blob,
            is_bytes integer not null default 0,
            receipt blob
        ) strict""",
        "create index runs_by_state on runs (state, direction) where state <> 'ended'",
        "create table large_params (run text primary key, params blob not null) strict",
        """create table run_logs (
            run text not null,
            seq integer not null,
            level text not null,
            text text not null,
            at real not null,
            primary key (run, seq)
        ) strict, without rowid""",
        "create table seen_runs (id text primary key, until real not null) strict, without rowid",
        "create index seen_runs_by_until on seen_runs (until)",
    ):
        database.conn.execute(statement)


def modules(database: Database) -> None:
    """A source that is bytes stands here, and its text is empty."""
    database.conn.execute("alter table sources add column module blob")


def sources_by_run(database: Database) -> None:
    """To see whether a source is still needed."""
    database.conn.execute("create index runs_by_digest on runs (digest)")


def recordings(database: Database) -> None:
    """See `recordings.py`."""
    database.conn.execute("alter table runs add column recorded text")
    database.conn.execute(
        "create table recordings (run text primary key, recording blob not null) strict"
    )


MIGRATIONS: Final = Migrations("runs")
MIGRATIONS()(tables)
MIGRATIONS()(modules)
MIGRATIONS()(sources_by_run)
MIGRATIONS()(recordings)


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One run. `caller` and `target` are `context@node`; `peer_key` is the node at the other end;
    `outcome` is None until it has ended; `exposed` are the caller's own paths that this run may
    read, or write with `:rw`, known to the caller's side alone; `recorded` is the state of its
    recording where it ran, see `recordings.py`."""

    id: str
    direction: Direction
    caller: str
    target: str
    peer_key: str
    filename: str
    digest: str
    needs: tuple[str, ...]
    wants: tuple[str, ...] = ()
    exposed: tuple[str, ...] = ()
    created_at: float
    expires_at: float
    state: State = "queued"
    outcome: str | None = None
    started_at: float | None = None
    ended_at: float | None = None
    usage: Usage = Usage()
    error: ScriptError | None = None
    recorded: str | None = None


class RunBodies(msgspec.Struct, frozen=True, kw_only=True):
    """What is large about a run. `result` is JSON, or bytes when `is_bytes`."""

    envelope: bytes
    source: Source
    params: bytes
    result: bytes | None
    is_bytes: bool
    receipt: bytes | None


_TWICE: Final = "this script was sent once before, and runs once"
_COLUMNS: Final = tuple(field.name for field in msgspec.structs.fields(Run))
_AT_HAND: Final = 1024
# A disk that takes longer to write an ending has other troubles.
_SETTLED_S: Final = 2.0
_LARGE_BYTES: Final = 4096
_JSON: Final = ("needs", "wants", "exposed", "usage", "error")
# Where a run may come from to get into a state.
_BEFORE: Final[Mapping[State, tuple[State, ...]]] = {
    "running": ("queued",),
    "held": ("queued", "running"),
    "ended": ("queued", "running", "held"),
}


def stage_moved(connection: sqlite3.Connection, old: str, new: str) -> None:
    """A peer has a new key: it answers with that what was sent to the old one. What has ended
    keeps the key that signed its receipt."""
    connection.execute(
        "update runs set peer_key = ? where peer_key = ? and state <> 'ended'",
        (new, old),
    )


def was_seen(connection: sqlite3.Connection, run: str) -> bool:
    """Whether a run of this id has come from elsewhere: its row is here, or was."""
    found = connection.execute(
        "select 1 from runs where id = :run and direction = 'received'"
        " union all select 1 from seen_runs where id = :run",
        {"run": run},
    ).fetchone()
    return found is not None


def stage_outlived(connection: sqlite3.Connection, ids: Iterable[str], now: float) -> None:
    """The rows of these runs are about to go. The ids of those that came from elsewhere are
    remembered until their signature no longer holds, and others forgotten for which that is so."""
    connection.execute("delete from seen_runs where until < ?", [now])
    connection.executemany(
        "insert or ignore into seen_runs select id, expires_at + :late from runs"
        " where id = :run and direction = 'received' and expires_at + :late >= :now",
        [{"run": run, "late": 2 * SKEW_S, "now": now} for run in ids],
    )


def seen_ids(connection: sqlite3.Connection, limit: int) -> list[str]:
    """At most so many of the ids that are taken, the newest of those whose rows are here."""
    rows = connection.execute(
        "select id from seen_runs union all select * from"
        " (select id from runs order by id desc limit :limit) limit :limit",
        {"limit": limit},
    )
    return [row[0] for row in rows]


def stage_params(connection: sqlite3.Connection, run: str, params: bytes) -> None:
    """Write large parameters down ahead of their run, for which others need not wait then."""
    connection.execute("insert or ignore into large_params values (?, ?)", [run, params])


def stage_new(
    connection: sqlite3.Connection,
    run: Run,
    *,
    envelope: bytes,
    source: Source,
    params: bytes,
    ended: ScriptEnded | None = None,
) -> None:
    """Write a run down; one that has `ended` already, together with how.

    Raises:
        Conflict: there is a run of that id.
        Untrusted: one of that id came from elsewhere before.
    """
    if run.direction == "received" and _has_outlived(connection, run.id):
        raise Untrusted(_TWICE, where=run.id)
    text, module = (source, None) if isinstance(source, str) else ("", source)
    connection.execute("insert or ignore into sources values (?, ?, ?)", [run.digest, text, module])
    row = _row(run) | {"envelope": envelope, "params": params}
    if len(params) > _LARGE_BYTES:
        # Apart: a run's row is written again when it starts and ends.
        stage_params(connection, run.id, params)
        row["params"] = b""
    if ended is not None:
        row |= {"state": "ended", **_ending(ended)}
        stage_output(connection, ended.logs)
    marks = ", ".join(f":{name}" for name in row)
    try:
        connection.execute(f"insert into runs ({', '.join(row)}) values ({marks})", row)
    except sqlite3.IntegrityError as error:
        if was_seen(connection, run.id):
            raise Untrusted(_TWICE, where=run.id) from error
        raise Conflict("there is a run of that id already", where=run.id) from error


def _has_outlived(connection: sqlite3.Connection, run: str) -> bool:
    return connection.execute("select 1 from seen_runs where id = ?", [run]).fetchone() is not None


def stage_started(connection: sqlite3.Connection, run: str, at: float) -> bool:
    """Whether it had not started, nor ended."""
    return _move(connection, run, "running", started_at=at)


def stage_held(connection: sqlite3.Connection, run: str) -> bool:
    """Whether it had not ended, nor been held."""
    return _move(connection, run, "held")


def stage_output(connection: sqlite3.Connection, lines: Iterable[ScriptOutput]) -> None:
    """Keep lines; one that is kept already stays as it is."""
    rows = [(line.run, line.seq, line.level, line.text, line.at) for line in lines]
    connection.executemany("insert or ignore into run_logs values (?, ?, ?, ?, ?)", rows)


def stage_ended(
    connection: sqlite3.Connection,
    ended: ScriptEnded,
    *,
    at: float,
    usage: Usage | None = None,
    recorded: str | None = None,
) -> bool:
    """Whether it had not ended before; how it ended the first time stays."""
    moved = _move(
        connection,
        ended.run,
        "ended",
        ended_at=at,
        usage=_json(usage or Usage()),
        **({} if recorded is None else {"recorded": recorded}),
        **_ending(ended),
    )
    if moved:
        # Lines of some other run do not belong here, whoever sends them.
        stage_output(connection, (line for line in ended.logs if line.run == ended.run))
    return moved


def stage_expired(connection: sqlite3.Connection, now: float) -> list[str]:
    """End what we sent and nobody ran in time; the ids of those runs."""
    where = "direction = 'sent' and state = 'queued' and expires_at < ?"
    return _end_all(connection, where, [now], outcome="expired", at=now)


def ended_before(connection: sqlite3.Connection, at: float, limit: int) -> list[str]:
    """Of the runs that were made and had ended before that moment, the oldest `limit`."""
    rows = connection.execute(
        "select id from runs where id < ? and state = 'ended' and ended_at < ? order by id limit ?",
        [f"r_{ulid_text(round(max(at, 0.0) * 1000).to_bytes(6) + bytes(10))}", at, limit],
    )
    return [row[0] for row in rows]


class Runs:
    """Reads the table in `store`, whose migrations include MIGRATIONS."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._open: OrderedDict[str, Run] = OrderedDict()
        self._endings: dict[str, asyncio.Event] = {}
        # How long a run is kept, where they are not kept for ever.
        self.kept_s: Callable[[], float] | None = None

    def opened(self, run: Run) -> None:
        """Keep a run at hand that will soon be asked for; `closed` when it has ended."""
        self._open[run.id] = run
        if len(self._open) > _AT_HAND:
            self._open.popitem(last=False)

    def at_hand(self, run: str) -> Run | None:
        """A run that was `opened` and not `closed`."""
        return self._open.get(run)

    def ending(self, run: str) -> bool:
        """The end of a run is about to be written, and then `closed`: whoever reads runs until
        then waits for it. False when that was known."""
        if run in self._endings:
            return False
        self._endings[run] = asyncio.Event()
        return True

    def keep_params(self, run: str, params: bytes) -> None:
        """Begin to write large parameters, ahead of a run that is about to be written."""
        if len(params) > _LARGE_BYTES:
            self._store.transact_soon("run.params", partial(stage_params, run=run, params=params))

    def moved(self, old: str, new: str) -> None:
        """A peer has a new key, and `stage_moved` is committed."""
        for run in [each for each in self._open.values() if each.peer_key == old]:
            self._open[run.id] = msgspec.structs.replace(run, peer_key=new)

    def closed(self, run: str) -> None:
        self._open.pop(run, None)
        if (ending := self._endings.pop(run, None)) is not None:
            ending.set()

    async def _settled(self) -> None:
        """Until the endings that are under way now have been written."""
        endings = dict(self._endings)
        with anyio.move_on_after(_SETTLED_S) as scope:
            for ending in endings.values():
                await ending.wait()
        if scope.cancelled_caught:
            # They were not written after all. Nobody waits for them a second time.
            for run in endings:
                self._endings.pop(run, None)

    async def newest(self, limit: int) -> list[Run]:
        """Newest first."""
        await self._settled()
        return await self._store.read(partial(_select, rest="order by id desc limit ?", by=[limit]))

    async def find(self, prefix: str) -> Run:
        """The run whose id begins so, with or without its `r_`, in whatever case.

        Raises:
            NotFound: none does.
            InvalidInput: several do.
        """
        await self._settled()
        try:
            return await self._store.read(partial(find, prefix=prefix))
        except NotFound as error:
            kept_s = self.kept_s() if self.kept_s else None
            made_at = _made_at(prefix)
            if kept_s is None or made_at is None or made_at > time.time() - kept_s:
                raise
            days = format_duration(kept_s).replace("d", " d")
            raise NotFound(
                f"there is no run {prefix}: it was pruned after {days}", hint=error.hint
            ) from error

    async def peek(self, run: str) -> Run | None:
        """The run of exactly this id, if there is one."""
        if (at_hand := self._open.get(run)) is not None:
            return at_hand
        found = await self._store.read(partial(_select, rest="where id = ?", by=[run]))
        return found[0] if found else None

    async def bodies(self, run: str) -> RunBodies:
        """Raises:
        NotFound: there is no run of that id.
        """
        await self._settled()
        return await self._store.read(partial(bodies, run=run))

    async def logs(self, run: str, after: int = -1) -> list[ScriptOutput]:
        """Its lines, in order, those with a `seq` beyond `after`."""
        await self._settled()
        return await self._store.read(partial(_logs, run=run, after=after))

    async def open_runs(self, direction: Direction, *, held: bool = False) -> list[Run]:
        """Those that have not ended, oldest first; without those held, unless asked for."""
        states = "state <> 'ended'" + ("" if held else " and state <> 'held'")
        rest = f"where {states} and direction = ? order by id"
        return await self._store.read(partial(_select, rest=rest, by=[direction]))


def find(connection: sqlite3.Connection, prefix: str) -> Run:
    """See `Runs.find`."""
    letters = re.sub(r"\Ar_", "", prefix, flags=re.IGNORECASE).upper()
    if not re.fullmatch(r"[0-9A-Z]{1,26}", letters):
        raise InvalidInput("this is no run id, nor the beginning of one", where=ascii(prefix[:80]))
    start = f"r_{letters}"
    rest = "where id >= ? and id < ? order by id desc limit 3"
    found = _select(connection, rest=rest, by=[start, start + "~"])
    if not found:
        raise NotFound(f"there is no run {prefix}", hint="orvalho script ls")
    if len(found) > 1:
        some = ", ".join(run.id for run in found)
        raise InvalidInput(f"{prefix} is the beginning of several runs", hint=f"one of {some}")
    return found[0]


def _made_at(prefix: str) -> float | None:
    """When the run whose id begins so was made, in Unix seconds; None for too short a beginning."""
    letters = re.sub(r"\Ar_", "", prefix, flags=re.IGNORECASE).upper()
    if len(letters) < 10:
        return None
    try:
        return int.from_bytes(ulid_bytes(f"r_{letters[:26]:0<26}")[:6]) / 1000
    except (ValueError, OverflowError):
        return None


def bodies(connection: sqlite3.Connection, run: str) -> RunBodies:
    """See `Runs.bodies`."""
    row = connection.execute(
        "select envelope, coalesce(module, source), coalesce(large.params, runs.params), result,"
        " is_bytes, receipt from runs join sources using (digest)"
        " left join large_params as large on run = id where id = ?",
        [run],
    ).fetchone()
    if row is None:
        raise NotFound("there is no such run", where=run, hint="orvalho script ls")
    envelope, source, params, result, is_bytes, receipt = row
    return RunBodies(
        envelope=envelope,
        source=source,
        params=params,
        result=result,
        is_bytes=bool(is_bytes),
        receipt=receipt,
    )


def _logs(connection: sqlite3.Connection, run: str, after: int) -> list[ScriptOutput]:
    rows = connection.execute(
        "select run, seq, level, text, at from run_logs where run = ? and seq > ? order by seq",
        [run, after],
    )
    return [
        ScriptOutput(run=run, seq=seq, level=level, text=text, at=at)
        for run, seq, level, text, at in rows
    ]


def _select(connection: sqlite3.Connection, rest: str, by: Sequence[str | int]) -> list[Run]:
    rows = connection.execute(f"select {', '.join(_COLUMNS)} from runs {rest}", by)
    return [_run(dict(zip(_COLUMNS, row, strict=True))) for row in rows]


def _run(row: dict[str, Any]) -> Run:
    decoded = {name: msgspec.json.decode(row[name]) for name in _JSON if row[name] is not None}
    return msgspec.convert(row | decoded, Run)


def _ending(ended: ScriptEnded) -> dict[str, Any]:
    return {
        "outcome": ended.outcome,
        "result": ended.result,
        "is_bytes": int(ended.is_bytes),
        "receipt": ended.receipt,
        "error": _json(ended.error) if ended.error else None,
    }


def _row(run: Run) -> dict[str, Any]:
    row = msgspec.structs.asdict(run)
    encoded = {name: _json(row[name]) for name in _JSON if row[name] is not None}
    return row | encoded


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _move(connection: sqlite3.Connection, run: str, state: State, **columns: object) -> bool:
    sets = ", ".join(f"{name} = :{name}" for name in ("state", *columns))
    before = ", ".join(f"'{name}'" for name in _BEFORE[state])
    cursor = connection.execute(
        f"update runs set {sets} where id = :id and state in ({before})",
        {"id": run, "state": state, **columns},
    )
    return cursor.rowcount == 1


def _end_all(
    connection: sqlite3.Connection, where: str, by: Sequence[float], *, outcome: str, at: float
) -> list[str]:
    ids = [row[0] for row in connection.execute(f"select id from runs where {where}", by)]
    for run in ids:
        _move(connection, run, "ended", outcome=outcome, ended_at=at)
    return ids
