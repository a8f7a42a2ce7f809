"""Keys that are no longer taken: removed or revoked, by whom, and as what they were known.

Kept beside the trust book, because a key that has left it could come back: an introducer may
vouch for it again. Pairing again by ticket lifts what stands here, for this node alone.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from sqlite_utils.migrations import Migrations

from orvalho.contexts.identity import Key
from orvalho.store import Store

Why = Literal["removed", "revoked"]

MIGRATIONS: Final = Migrations("orvalho.contexts.refused")


@MIGRATIONS()  # type: ignore[untyped-decorator]  # sqlite_utils is untyped here
def create_refused(database: Any) -> None:
    """One row a key and node that says so. A lifted one stays: else it would be news again."""
    database["refused"].create(
        {
            "node_key": bytes,
            "by_key": bytes,
            "why": str,
            "name": str,
            "by_name": str,
            "at": float,
            "is_lifted": int,
        },
        pk=("node_key", "by_key"),
        not_null={"why", "name", "by_name", "at", "is_lifted"},
        strict=True,
    )


@MIGRATIONS()  # type: ignore[untyped-decorator]  # sqlite_utils is untyped here
def add_owner_key(database: Any) -> None:
    """A node may change its key, but not its owner's."""
    database["refused"].add_column("owner_key", bytes)


@dataclass(frozen=True, slots=True)
class Refusal:
    """`node_key`, which was called `name`, is refused since `by_key` said so, and with it every
    other key of a node of `owner_key`: each home has an owner key of its own, and keeps it when it
    changes its node key. None refuses the one key alone. `at` is the moment on the clock of
    `by_key`."""

    node_key: Key
    by_key: Key
    why: Why
    name: str
    by_name: str
    at: float
    is_lifted: bool = False
    owner_key: Key | None = None


class RefusedKeys:
    """What is refused here. Made by `open_refused_keys`; it lies in memory, and a change is
    durable before the call returns."""

    def __init__(self, store: Store, refusals: Sequence[Refusal]) -> None:
        self._store = store
        self._held = {(each.node_key, each.by_key): each for each in refusals}

    def __contains__(self, node_key: object) -> bool:
        return any(each.node_key == node_key for each in self.in_force())

    def refuses(self, node_key: Key, owner_key: Key) -> bool:
        """Whether a node is refused, by its present key or one that it had."""
        return any(
            each.node_key == node_key or each.owner_key == owner_key for each in self.in_force()
        )

    def in_force(self) -> list[Refusal]:
        return [each for each in self._held.values() if not each.is_lifted]

    def revoked(self, node_key: Key) -> Refusal | None:
        """The revocation of a key that is in force; None when there is none."""
        found = [
            each for each in self.in_force() if each.node_key == node_key and each.why == "revoked"
        ]
        return found[0] if found else None

    def is_news(self, node_key: Key, by_key: Key, at: float) -> bool:
        """Whether this revocation is later than what its maker said before."""
        held = self._held.get((node_key, by_key))
        return held is None or held.at < at

    def next_at(self, node_key: Key, by_key: Key, now: float) -> float:
        """The moment for a further revocation: later than the one before, also when the clock has
        been set back since."""
        held = self._held.get((node_key, by_key))
        return max(now, held.at + 1.0) if held else now

    async def add(self, refusal: Refusal) -> None:
        await self._store.transact("refused.add", lambda connection: _put(connection, refusal))
        self._held[refusal.node_key, refusal.by_key] = refusal

    async def lift(self, node_key: Key, owner_key: Key) -> None:
        """The owner has paired with this node again."""
        if not self.refuses(node_key, owner_key):
            return
        await self._store.transact(
            "refused.lift",
            lambda connection: (
                connection.execute(
                    "update refused set is_lifted = 1 where node_key = ? or owner_key = ?",
                    (node_key, owner_key),
                ).rowcount
            ),
        )
        for id_, each in list(self._held.items()):
            if each.node_key == node_key or each.owner_key == owner_key:
                self._held[id_] = replace(each, is_lifted=True)


async def open_refused_keys(store: Store) -> RefusedKeys:
    """What lies in the store (which was opened with this file's MIGRATIONS)."""
    return RefusedKeys(store, await store.read(_read_all))


def _put(connection: sqlite3.Connection, refusal: Refusal) -> None:
    connection.execute(
        "insert or replace into refused"
        " (node_key, by_key, why, name, by_name, at, is_lifted, owner_key)"
        " values (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            refusal.node_key,
            refusal.by_key,
            refusal.why,
            refusal.name,
            refusal.by_name,
            refusal.at,
            int(refusal.is_lifted),
            refusal.owner_key,
        ),
    )


def _read_all(connection: sqlite3.Connection) -> list[Refusal]:
    rows = connection.execute(
        "select node_key, by_key, why, name, by_name, at, is_lifted, owner_key from refused"
    ).fetchall()
    return [
        Refusal(
            node_key=Key(node),
            by_key=Key(by),
            why=why,
            name=name,
            by_name=by_name,
            at=at,
            is_lifted=bool(lifted),
            owner_key=Key(owner) if owner else None,
        )
        for node, by, why, name, by_name, at, lifted, owner in rows
    ]
