"""Runs that other runs have caused: the chain that a signed call carries, and who belongs to whom.

A script that runs on one node may call what another node has. That call is an ordinary signed
script, by the context in which the first one runs, and says through which runs it came. All of them
share a trace, which is named after the first: W3C Trace Context, `traceparent`.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

from orvalho.contexts.names import parse_run_id, ulid_bytes
from orvalho.errors import InvalidInput

# Runs on top of each other, the first one included.
MAX_DEPTH: Final = 4
# Calls of other nodes by one run.
MAX_CALLS: Final = 256

_TRACEPARENT: Final = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")
_MOST_NAME: Final = 200


class Hop(msgspec.Struct, frozen=True, kw_only=True):
    """One run that led to a call, as the node that ran it says: `caller` and `target` are
    `context@node` as it knows them, `caller_key` the context's key that had signed it, `node_key`
    its own. Keys are `ed25519:...`."""

    run: str
    caller: str
    caller_key: str
    target: str
    node_key: str


class Caused(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """A run elsewhere that a run has caused, in its receipt: which, of what, where. `outcome` is
    None while it was not known."""

    run: str
    called: str
    node: str
    node_key: str
    outcome: str | None


@dataclass(frozen=True, slots=True)
class Onward:
    """What a call takes from the run that makes it: the chain up to that run, and the seconds that
    it has left."""

    chain: tuple[Hop, ...]
    wall_s: float


def tables(database: Database) -> None:
    for statement in (
        """create table caused_runs (
            run text primary key,
            parent text not null
        ) strict, without rowid""",
        "create index caused_runs_by_parent on caused_runs (parent)",
    ):
        database.conn.execute(statement)


MIGRATIONS: Final = Migrations("traces")
MIGRATIONS()(tables)


def trace_of(run: str) -> str:
    """The trace that begins with a run: its id's 16 bytes as 32 hex digits."""
    return ulid_bytes(run).hex()


def traceparent(chain: Sequence[Hop]) -> str:
    """What a call with this chain carries; nothing for one that no run has made."""
    if not chain:
        return ""
    return f"00-{trace_of(chain[0].run)}-{ulid_bytes(chain[-1].run)[8:].hex()}-01"


def check_chain(chain: Sequence[Hop], parent: str, *, caller_node: str, ours: str) -> None:
    """Whether a call may say that it came this way. `caller_node` is who signed it, `ours` who
    got it.

    Raises:
        InvalidInput: the chain is malformed, is not its sender's, is too long, or leads back here.
    """
    if not chain:
        if parent and not _TRACEPARENT.fullmatch(parent):
            raise InvalidInput("the call's traceparent is malformed")
        return
    if len(chain) >= MAX_DEPTH:
        raise InvalidInput(f"it came through {len(chain)} runs, and {MAX_DEPTH - 1} are the most")
    for hop in chain:
        if parse_run_id(hop.run) != hop.run:
            raise InvalidInput("a run of its chain is not written as a run id")
        if any(len(each) > _MOST_NAME for each in msgspec.structs.astuple(hop)):
            raise InvalidInput("a name in its chain is too long")
    keys = [hop.node_key for hop in chain]
    if keys[-1] != caller_node:
        raise InvalidInput("the last run of its chain is not its sender's")
    if ours in keys or len(set(keys)) < len(keys):
        raise InvalidInput("it leads back to a node that it came through")
    if parent != traceparent(chain):
        raise InvalidInput("its traceparent is not that of its chain")


def stage(connection: sqlite3.Connection, run: str, chain: Sequence[Hop]) -> None:
    """Write down which run has caused this one. Seen twice, it changes nothing."""
    if chain:
        connection.execute("insert or ignore into caused_runs values (?, ?)", [run, chain[-1].run])


def stage_pruned(connection: sqlite3.Connection, ids: Sequence[str]) -> None:
    """Take away what is known of the causes of these runs, where they are gone."""
    connection.executemany(
        "delete from caused_runs where run = :id"
        " and not exists (select 1 from runs where id = :id)",
        [{"id": each} for each in ids],
    )


def caused_by(connection: sqlite3.Connection, run: str) -> list[str]:
    """The runs that we sent because of this one, in the order they were made."""
    rows = connection.execute(
        "select run from caused_runs where parent = ? order by run limit ?", [run, MAX_CALLS]
    )
    return [row[0] for row in rows]


def cause_of(connection: sqlite3.Connection, run: str) -> str | None:
    """The run that has caused this one, as far as it is written down here."""
    row = connection.execute("select parent from caused_runs where run = ?", [run]).fetchone()
    return None if row is None else str(row[0])
