"""The trust book: which node key is known by which name, how far, and where it was last found.

The book lies in memory (a network of devices has tens of them) and is read without waiting;
a change is durable before the call returns and before a reader sees it.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, get_args

import msgspec
from nacl import pwhash
from sqlite_utils.migrations import Migrations

from orvalho.contexts.identity import Key, key_text
from orvalho.contexts.names import Address, check_label, near_miss
from orvalho.contexts.words import WORD_BITS, words
from orvalho.errors import Conflict, InvalidInput, NotFound
from orvalho.store import Store

Relation = Literal["own", "guest"]

MIGRATIONS: Final = Migrations("orvalho.contexts.trust")

_ADDRESS_LIMIT: Final = 32
_CONTEXT_LIMIT: Final = 1000
_COLUMNS: Final = (
    "node_key, name, owner_key, relation, addresses, contexts, added_at, introduced, last_seen_at,"
    " is_introducer"
)
_WORDS: Final = 4
_WORDS_SALT: Final = b"orvalho/words/1\0"


@MIGRATIONS()  # type: ignore[untyped-decorator]  # sqlite_utils is untyped here
def create_peer(database: Any) -> None:
    """One row a node."""
    database["peer"].create(
        {
            "node_key": bytes,
            "name": str,
            "owner_key": bytes,
            "relation": str,
            "addresses": str,
            "contexts": str,
            "added_at": float,
            "introduced": str,
            "last_seen_at": float,
        },
        pk="node_key",
        not_null={
            *("node_key", "name", "owner_key", "relation", "addresses", "contexts"),
            *("added_at", "introduced", "last_seen_at"),
        },
        strict=True,
    )
    database["peer"].create_index(["name"], unique=True)


@MIGRATIONS()  # type: ignore[untyped-decorator]  # sqlite_utils is untyped here
def add_introducer(database: Any) -> None:
    """Whose own peers become ours."""
    database["peer"].add_column("is_introducer", int, not_null_default=0)


@MIGRATIONS()  # type: ignore[untyped-decorator]  # sqlite_utils is untyped here
def create_formerly(database: Any) -> None:
    """The keys that nodes had, and the one each has now."""
    database["formerly"].create(
        {"old_key": bytes, "node_key": bytes}, pk="old_key", not_null={"node_key"}, strict=True
    )


class ContextEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A context of a peer: its name there and its key, which the peer's node certified."""

    name: str
    key: bytes


@dataclass(frozen=True, slots=True)
class Peer:
    """A node we trust. `name` is ours for it; `introduced` says how we came to know it;
    `last_seen_at` is 0.0 for never; the own peers of an `is_introducer` become ours."""

    node_key: Key
    name: str
    owner_key: Key
    relation: Relation
    addresses: tuple[str, ...]
    contexts: tuple[ContextEntry, ...]
    added_at: float
    introduced: str
    last_seen_at: float = 0.0
    is_introducer: bool = False

    def context(self, name: str) -> ContextEntry | None:
        return next((entry for entry in self.contexts if entry.name == name), None)


@dataclass(frozen=True, slots=True)
class Target:
    """What an address stands for: a peer, and one of its contexts if the address names one."""

    peer: Peer
    context: ContextEntry | None


class TrustBook:
    """The peers of this node. Made by `open_trust_book`; all methods on the event loop."""

    def __init__(
        self, store: Store, peers: Sequence[Peer], formerly: Mapping[Key, Key] | None = None
    ) -> None:
        self._store = store
        self._formerly = dict(formerly or {})
        self._watchers: list[Callable[[], None]] = []
        self._by_key = {peer.node_key: peer for peer in peers}
        self._by_name = {peer.name: peer for peer in peers}

    def peers(self) -> tuple[Peer, ...]:
        """All of them, by name."""
        return tuple(self._by_name[name] for name in sorted(self._by_name))

    def by_key(self, node_key: Key) -> Peer | None:
        """The peer with this node key; None for a stranger."""
        return self._by_key.get(node_key)

    def heir(self, key: Key) -> Key:
        """The key that a node has now which had `key` when we knew it by that; `key` itself where
        nothing else is known. Trusts nobody: only what was taken while the old key was good may
        be looked up by it."""
        return key if key in self._by_key else self._formerly.get(key, key)

    def by_name(self, name: str) -> Peer:
        """Raises:
        NotFound: no peer of that name; the hint names the nearest one.
        """
        peer = self._by_name.get(name)
        if peer is None and not self._by_name:
            raise NotFound(
                f"no peer is called {name!a}: no other device is paired", hint="orvalho pair"
            )
        if peer is None:
            raise NotFound(
                f"no peer is called {name!a}",
                hint=_did_you_mean(near_miss(name, self._by_name)) or "orvalho peer ls",
            )
        return peer

    def resolve(self, address: Address) -> Target:
        """Raises:
        NotFound: the node, or the context on it, is not known here.
        """
        peer = self.by_name(address.node)
        if address.context is None:
            return Target(peer, None)
        entry = peer.context(address.context)
        if entry is None:
            near = near_miss(address.context, [known.name for known in peer.contexts])
            raise NotFound(
                f'{peer.name} has no context "{address.context}" that we know of',
                where=str(address),
                hint=_did_you_mean(f"{near}@{peer.name}" if near else None),
            )
        return Target(peer, entry)

    async def add(self, peer: Peer) -> bool:
        """Write the peer down; False when the book already says exactly this. The same node key
        again replaces what was known of it, its name included.

        Raises:
            Conflict: another node has this name already.
            InvalidInput: the name is no label, or there is too much of something.
        """
        _check(peer)
        self._refuse_taken_name(peer)
        if self._by_key.get(peer.node_key) == peer:
            return False
        try:
            await self._store.transact("peer.add", lambda connection: _put(connection, peer))
        except sqlite3.IntegrityError as error:
            # Two additions were under way at once, and the other one got the name.
            raise _name_taken(peer.name) from error
        self._remember(peer)
        self._tell_watchers()
        return True

    async def remove(self, name: str) -> Peer:
        """Forget the peer of this name; returns what was known of it.

        Raises:
            NotFound: no peer of that name.
        """
        peer = self.by_name(name)
        await self._store.transact(
            "peer.remove",
            lambda connection: (
                connection.execute("delete from peer where node_key = ?", (peer.node_key,)).rowcount
            ),
        )
        self._forget(peer.node_key)
        self._tell_watchers()
        return peer

    def watch(self, watcher: Callable[[], None]) -> None:
        """From now on `watcher` is called when a node has come into the book, or has left it."""
        self._watchers.append(watcher)

    async def update_addresses(self, node_key: Key, addresses: Sequence[str]) -> bool:
        """Where the node listens now, most promising first; False when that is no news.

        Raises:
            NotFound: the key is a stranger's.
        """
        return await self._change(node_key, addresses=tuple(dict.fromkeys(addresses)))

    async def update_contexts(self, node_key: Key, contexts: Sequence[ContextEntry]) -> bool:
        """The contexts that the node certifies now; False when that is no news.

        Raises:
            NotFound: the key is a stranger's.
        """
        return await self._change(node_key, contexts=tuple(contexts))

    async def rename(self, name: str, new_name: str) -> bool:
        """Call a peer otherwise from now on; False when it is called so already.

        Raises:
            NotFound: no peer of that name.
            Conflict: another node has the new name.
            InvalidInput: the new name is no label.
        """
        return await self.add(replace(self.by_name(name), name=new_name))

    async def set_introducer(self, name: str, is_introducer: bool) -> bool:
        """Whether the own peers of this one become ours; False when that is so already.

        Raises:
            NotFound: no peer of that name.
            InvalidInput: it is a guest, whose peers are other people's.
        """
        peer = self.by_name(name)
        if is_introducer and peer.relation != "own":
            raise InvalidInput(
                f"{name} is a guest: only a device of your own can introduce others", where=name
            )
        return await self.add(replace(peer, is_introducer=is_introducer))

    async def reintroduce(self, node_key: Key, introduced: str) -> bool:
        """Say otherwise how we came to know a peer; False when that is no news."""
        peer = self._by_key.get(node_key)
        return peer is not None and await self.add(replace(peer, introduced=introduced))

    async def succeed(
        self, old: Key, new: Key, also: Callable[[sqlite3.Connection], None]
    ) -> Peer | None:
        """A peer has a new key, which the caller has checked: all else that is known of it stays.
        `also` runs in the same transaction. None when nobody is known by the old key (any more).
        """
        peer = self._by_key.get(old)
        if peer is None or new in self._by_key:
            return None

        def work(connection: sqlite3.Connection) -> None:
            connection.execute("update peer set node_key = ? where node_key = ?", (new, old))
            connection.execute("update formerly set node_key = ? where node_key = ?", (new, old))
            connection.execute("insert or replace into formerly values (?, ?)", (old, new))
            also(connection)

        await self._store.transact("peer.succeed", work)
        self._formerly = {
            key: new if heir == old else heir for key, heir in self._formerly.items()
        } | {old: new}
        current = self._by_key.get(old)
        if current is None:
            return None
        self._forget(old)
        self._remember(replace(current, node_key=new))
        return self._by_key[new]

    def seen(self, node_key: Key, now: float) -> None:
        """The node answered just now. Written soon: a crash may lose it."""
        peer = self._by_key.get(node_key)
        if peer is None or now <= peer.last_seen_at:
            return
        self._remember(replace(peer, last_seen_at=now))
        self._store.transact_soon(
            "peer.seen",
            lambda connection: (
                connection.execute(
                    "update peer set last_seen_at = ? where node_key = ?", (now, node_key)
                ).rowcount
            ),
        )

    async def _change(self, node_key: Key, **changes: Any) -> bool:
        peer = self._by_key.get(node_key)
        if peer is None:
            raise NotFound("no peer has this key", where=key_text(node_key))
        changed = replace(peer, **changes)
        if changed == peer:
            return False
        _check(changed)
        columns = {name: msgspec.json.encode(value).decode() for name, value in changes.items()}
        assignments = ", ".join(f"{name} = ?" for name in columns)
        await self._store.transact(
            "peer.update",
            lambda connection: (
                connection.execute(
                    f"update peer set {assignments} where node_key = ?",
                    (*columns.values(), node_key),
                ).rowcount
            ),
        )
        # From the book again: while we waited, the peer may have been seen, or removed.
        if current := self._by_key.get(node_key):
            self._remember(replace(current, **changes))
        return True

    def _tell_watchers(self) -> None:
        for watcher in self._watchers:
            watcher()

    def _refuse_taken_name(self, peer: Peer) -> None:
        holder = self._by_name.get(peer.name)
        if holder is not None and holder.node_key != peer.node_key:
            raise _name_taken(peer.name)

    def _remember(self, peer: Peer) -> None:
        self._forget(peer.node_key)
        self._by_key[peer.node_key] = peer
        self._by_name[peer.name] = peer

    def _forget(self, node_key: Key) -> None:
        old = self._by_key.pop(node_key, None)
        if old is not None:
            del self._by_name[old.name]


async def open_trust_book(store: Store) -> TrustBook:
    """The book that lies in the store (which was opened with this file's MIGRATIONS)."""
    return TrustBook(store, await store.read(_read_all), await store.read(_read_formerly))


def check_words(key_a: Key, key_b: Key) -> tuple[str, str, str, str]:
    """Four words for two keys, the same on both screens, whichever key comes first.

    44 bits of Argon2id (RFC 9106; 64 MiB, about 0.1 s) over both keys, in words of BIP-39. The
    hash is slow on purpose: somebody in the middle needs two keys of his own whose words agree,
    about 2**23 tries, which takes minutes with a fast hash and CPU-weeks with this one.
    """
    material = hashlib.sha256(b"".join(sorted((key_a, key_b)))).digest()
    digest = pwhash.argon2id.kdf(
        16,
        material,
        _WORDS_SALT,
        opslimit=pwhash.argon2id.OPSLIMIT_INTERACTIVE,
        memlimit=pwhash.argon2id.MEMLIMIT_INTERACTIVE,
    )
    number = int.from_bytes(digest) >> (8 * len(digest) - _WORDS * WORD_BITS)
    listed = words()
    mask = len(listed) - 1
    first, second, third, fourth = (
        listed[number >> shift & mask] for shift in range((_WORDS - 1) * WORD_BITS, -1, -WORD_BITS)
    )
    return first, second, third, fourth


def _check(peer: Peer) -> None:
    check_label(peer.name)
    for entry in peer.contexts:
        check_label(entry.name)
    if len(peer.contexts) > _CONTEXT_LIMIT or len(peer.addresses) > _ADDRESS_LIMIT:
        raise InvalidInput(
            f"a peer has at most {_CONTEXT_LIMIT} contexts and {_ADDRESS_LIMIT} addresses",
            where=peer.name,
        )
    if peer.relation not in get_args(Relation):
        raise InvalidInput(f"a relation is own or guest, not {peer.relation}", where=peer.name)


def _name_taken(name: str) -> Conflict:
    return Conflict(
        f'another node is called "{name}" already',
        where=name,
        hint=f"give this one another name (--name NAME), or orvalho peer rm {name}",
    )


def _did_you_mean(name: str | None) -> str | None:
    return f"did you mean {name}?" if name else None


def _put(connection: sqlite3.Connection, peer: Peer) -> None:
    row = (
        peer.node_key,
        peer.name,
        peer.owner_key,
        peer.relation,
        msgspec.json.encode(peer.addresses).decode(),
        msgspec.json.encode(peer.contexts).decode(),
        peer.added_at,
        peer.introduced,
        peer.last_seen_at,
        int(peer.is_introducer),
    )
    marks = ", ".join("?" * len(row))
    # Not "or replace": that would silently push out whoever holds the name.
    connection.execute("delete from peer where node_key = ?", (peer.node_key,))
    connection.execute(f"insert into peer ({_COLUMNS}) values ({marks})", row)


def _read_formerly(connection: sqlite3.Connection) -> dict[Key, Key]:
    rows = connection.execute("select old_key, node_key from formerly")
    return {Key(old): Key(now) for old, now in rows}


def _read_all(connection: sqlite3.Connection) -> list[Peer]:
    rows = connection.execute(f"select {_COLUMNS} from peer").fetchall()
    return [
        Peer(
            node_key=Key(node_key),
            name=name,
            owner_key=Key(owner_key),
            relation=relation,
            addresses=msgspec.json.decode(addresses, type=tuple[str, ...]),
            contexts=msgspec.json.decode(contexts, type=tuple[ContextEntry, ...]),
            added_at=added_at,
            introduced=introduced,
            last_seen_at=last_seen_at,
            is_introducer=bool(is_introducer),
        )
        for (
            node_key,
            name,
            owner_key,
            relation,
            addresses,
            contexts,
            added_at,
            introduced,
            last_seen_at,
            is_introducer,
        ) in rows
    ]
