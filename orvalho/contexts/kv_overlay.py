"""Changes on top of a key-value store, which stays as it is until they are committed."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

import msgspec

from orvalho.contexts.bindings import Bindings
from orvalho.contexts.changes import ContextChanged, ValueChange
from orvalho.contexts.kv import LIST_LIMIT, KeyValue, KvUse, check_key
from orvalho.errors import InvalidInput


class FrozenValues(msgspec.Struct, frozen=True, kw_only=True):
    """A KeyValueOverlay as a value."""

    pending: dict[str, str | None]
    seen: dict[str, str | None]
    lists: list[tuple[str, int, tuple[str, ...]]]
    watched: dict[str, int] = msgspec.field(default_factory=dict)
    unbound: tuple[str, ...] = ()


class KeyValueOverlay:
    """`lower` with changes on top: the same calls, and the same errors.

    It remembers what `lower` answered, so that `refuse_stale` can tell whether that still holds.
    """

    def __init__(self, lower: KeyValue) -> None:
        self._lower = lower
        self._pending: dict[str, str | None] = {}
        self._seen: dict[str, str | None] = {}
        self._lists: dict[tuple[str, int], tuple[str, ...]] = {}
        self._watched: dict[str, int] = {}
        # Keys of no collection with a schema.
        self._unbound: set[str] = set()
        self._use: KvUse | None = None

    @property
    def is_changed(self) -> bool:
        return bool(self._pending)

    @property
    def has_looked(self) -> bool:
        """Whether anything of the store below was asked for."""
        return bool(self._seen or self._lists or self._watched)

    def changes(self) -> list[ValueChange]:
        """By key; some may stay as they are."""
        return [
            ValueChange(key=key, before=self._seen[key], after=value)
            for key, value in sorted(self._pending.items())
        ]

    async def get(self, key: str) -> str | None:
        check_key(key)
        if key in self._pending:
            return self._pending[key]
        return await self._found(key)

    async def put(self, key: str, value: str) -> None:
        check_key(key)
        value = await self._lower.fitting(key, value)
        if not await self._lower.binds(key):
            self._unbound.add(key)
        old = self._pending[key] if key in self._pending else await self._found(key)
        self._use = self._lower.check(self._use or KvUse(0, 0), key, value, old)
        self._pending[key] = value

    async def delete(self, key: str) -> bool:
        old = await self.get(key)
        if old is not None:
            self._pending[key] = None
            self._take(key, old)
        return old is not None

    async def list(self, prefix: str = "", limit: int = LIST_LIMIT) -> list[str]:
        if prefix:
            check_key(prefix)
        if limit < 1:
            raise InvalidInput("a list has a limit of at least 1", where=str(limit))
        count = min(limit, LIST_LIMIT)
        ours = {key: value for key, value in self._pending.items() if key.startswith(prefix)}
        asked = (prefix, count + len(ours))
        if asked not in self._lists:
            self._lists[asked] = await self._lower.first(*asked)
        keys = {key for key in self._lists[asked] if key not in ours}
        keys |= {key for key, value in ours.items() if value is not None}
        return sorted(keys)[:count]

    @property
    def pending(self) -> Mapping[str, str | None]:
        """What is not written yet; None for what is deleted."""
        return self._pending

    async def watch(self, prefix: str) -> None:
        """All keys that start so were asked about from here on."""
        if prefix not in self._watched:
            self._watched[prefix] = await self._lower.last_commit()

    def freeze(self) -> FrozenValues:
        return FrozenValues(
            pending=dict(self._pending),
            seen=dict(self._seen),
            lists=[(*asked, keys) for asked, keys in self._lists.items()],
            watched=dict(self._watched),
            unbound=tuple(self._unbound),
        )

    def thaw(self, frozen: FrozenValues) -> None:
        """Be again what `freeze` was called on."""
        self._pending, self._seen = dict(frozen.pending), dict(frozen.seen)
        self._watched, self._unbound = dict(frozen.watched), set(frozen.unbound)
        self._lists = {(prefix, count): keys for prefix, count, keys in frozen.lists}

    def refit(self, bindings: Bindings) -> None:
        """Hold what is pending against these schemas. In a thread.

        Raises:
            InvalidInput, LimitExceeded: as `Bindings.check_value`.
        """
        for key, value in self._pending.items():
            if value is not None:
                self._pending[key] = bindings.check_value(key, value)
        self._unbound = {key for key in self._pending if not bindings.binds(key)}

    def refuse_stale(self, connection: sqlite3.Connection) -> None:
        """Raises:
        ContextChanged: the store below no longer answers as it did.
        """
        for key, value in self._seen.items():
            if self._lower.staged_get(connection, key) != value:
                raise ContextChanged(f"the value {key} was changed meanwhile", where=key)
        for prefix, seq in self._watched.items():
            if self._lower.has_changed(connection, prefix, seq):
                raise ContextChanged(f"the values {prefix}* were changed meanwhile", where=prefix)
        for (prefix, count), keys in self._lists.items():
            if self._lower.staged_list(connection, prefix, count) != keys:
                raise ContextChanged(f"the keys {prefix}* were changed meanwhile", where=prefix)

    def stage(self, connection: sqlite3.Connection) -> None:
        """Put the changes into the store below.

        Raises:
            LimitExceeded: the context is full.
        """
        for key, value in sorted(self._pending.items(), key=lambda each: each[1] is not None):
            self._lower.stage(connection, key, value, is_bound=key not in self._unbound)

    async def _found(self, key: str) -> str | None:
        if key not in self._seen:
            self._seen[key], use = await self._lower.found(key)
            if self._use is None:
                self._use = use
        return self._seen[key]

    def _take(self, key: str, old: str) -> None:
        use = self._use or KvUse(0, 0)
        size_bytes = len(old.encode()) + len(key.encode())
        self._use = KvUse(use.used_bytes - size_bytes, use.items - 1)
