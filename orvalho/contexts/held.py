"""Nodes that came with a good code or ticket and wait for their host's owner, or were rejected.

They are strangers still: nothing but these calls looks at this list.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec
from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

from orvalho.contexts.identity import Key, key_text
from orvalho.contexts.names import near_miss
from orvalho.errors import Conflict, NotFound
from orvalho.store import Store

MIGRATIONS: Final = Migrations("orvalho.contexts.held")
# Who holds a ticket may come with key after key.
_MOST: Final = 1000


def _create(database: Database) -> None:
    database.execute(
        "CREATE TABLE held_node (node_key BLOB PRIMARY KEY, content BLOB NOT NULL) WITHOUT ROWID"
    )


MIGRATIONS(name="create")(_create)


class HeldNode(msgspec.Struct, frozen=True, kw_only=True):
    """`name` is its own for itself; `introduction` what the road knows of it, opaque here."""

    node_key: bytes
    name: str
    is_guest: bool
    introduction: bytes
    asked_at: float
    is_rejected: bool = False


class Introducible(msgspec.Struct, frozen=True, kw_only=True):
    """What is needed to make a held node a peer later."""

    owner_key: bytes
    addresses: tuple[str, ...]
    greeting: bytes
    certificate: bytes
    by_code: bool


@dataclass(frozen=True, slots=True)
class HeldNodes:
    """The list in the store (which was opened with this file's MIGRATIONS)."""

    store: Store

    async def all(self) -> list[HeldNode]:
        """The oldest first."""
        return sorted(await self.store.read(_read_all), key=lambda node: node.asked_at)

    async def find(self, node_key: Key) -> HeldNode | None:
        """The entry of a key; None when it is not held."""
        found = [node for node in await self.all() if node.node_key == node_key]
        return found[0] if found else None

    async def named(self, name: str) -> HeldNode:
        """By its name, or by its key as text where two go by the same name.

        Raises:
            NotFound: none waits by that name.
            Conflict: several do.
        """
        nodes = await self.all()
        found = [n for n in nodes if name in (n.name, key_text(Key(n.node_key)))]
        if not found:
            near = near_miss(name, [node.name for node in nodes])
            raise NotFound(
                f"no node that waits is called {name!a}",
                hint=f"did you mean {near}?" if near else "orvalho node pending",
            )
        if len(found) > 1:
            keys = ", ".join(key_text(Key(node.node_key)) for node in found)
            raise Conflict(f"several nodes are called {name}: say which key, {keys}")
        return found[0]

    async def put(self, node: HeldNode) -> None:
        """Hold a node, durably; what was known of its key is replaced.

        Raises:
            Conflict: too many wait already.
        """
        await self.store.transact("held.put", _putting(node))

    async def remove(self, node_key: bytes) -> None:
        """It waits no more."""
        await self.store.transact(
            "held.remove",
            lambda connection: (
                connection.execute("DELETE FROM held_node WHERE node_key=?", (node_key,)).rowcount
            ),
        )


def _putting(node: HeldNode) -> Callable[[sqlite3.Connection], None]:
    def put(connection: sqlite3.Connection) -> None:
        (count,) = connection.execute(
            "SELECT count(*) FROM held_node WHERE node_key<>?", (node.node_key,)
        ).fetchone()
        if count >= _MOST:
            raise Conflict("too many nodes wait for approval there", hint="orvalho node pending")
        connection.execute(
            "INSERT OR REPLACE INTO held_node (node_key, content) VALUES (?, ?)",
            (node.node_key, msgspec.msgpack.encode(node)),
        )

    return put


def _read_all(connection: sqlite3.Connection) -> list[HeldNode]:
    rows = connection.execute("SELECT content FROM held_node").fetchall()
    return [msgspec.msgpack.decode(content, type=HeldNode) for (content,) in rows]
