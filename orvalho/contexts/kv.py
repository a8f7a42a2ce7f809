"""The key-value store of a context: JSON values by key, durable when a write returns."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

import msgspec
from anyio import to_thread
from sqlite_utils.migrations import Migrations

from orvalho.contexts.bindings import Bindings
from orvalho.contexts.history import last_seq, values_changed
from orvalho.errors import InvalidInput, LimitExceeded
from orvalho.store import Store

MIGRATIONS: Final = Migrations("orvalho.contexts.kv")

_KEY_LIMIT_BYTES: Final = 512
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
LIST_LIMIT: Final = 1000
_LAST_CODE_POINT: Final = 0x10FFFF
# What takes milliseconds to hold against a schema is not done on the event loop.
_LARGE: Final = 16_384


@MIGRATIONS()  # type: ignore[untyped-decorator]  # sqlite_utils is untyped here
def create_kv(database: Any) -> None:
    """The values, and beside them what each context holds, so that a write need not add it up."""
    database["kv"].create(
        {"context": str, "key": str, "value": str, "size_bytes": int},
        pk=("context", "key"),
        not_null={"context", "key", "value", "size_bytes"},
        strict=True,
    )
    database["kv_use"].create(
        {"context": str, "used_bytes": int, "items": int},
        pk="context",
        not_null={"context", "used_bytes", "items"},
        strict=True,
    )


@dataclass(frozen=True, slots=True)
class KvLimits:
    """What one context may hold. A value's size is that of its JSON text in UTF-8; the total
    counts keys and values."""

    value_bytes: int
    total_bytes: int
    items: int


@dataclass(frozen=True, slots=True)
class KvUse:
    """What a context holds."""

    used_bytes: int
    items: int


class Values(Protocol):
    """What a script may do with the values of a context: `KeyValue`, or changes on top of one."""

    async def get(self, key: str) -> str | None: ...
    async def put(self, key: str, value: str) -> None: ...
    async def delete(self, key: str) -> bool: ...
    async def list(self, prefix: str = "", limit: int = LIST_LIMIT) -> list[str]: ...


class KeyValue:
    """The values of one context. Keys are text of 1 to 512 bytes without control characters.

    Every method raises InvalidInput for what is no key.
    """

    def __init__(
        self,
        store: Store,
        context: str,
        limits: KvLimits,
        bindings: Callable[[], Awaitable[Bindings]] | None = None,
    ) -> None:
        """`bindings` are the schemas that values must fit; without it, any value does."""
        self._store = store
        self._context = context
        self._limits = limits
        self._bindings = bindings

    async def get(self, key: str) -> str | None:
        """The JSON text of the value; None when there is none."""
        check_key(key)
        return await self._store.read(lambda connection: _get(connection, self._context, key))

    async def put(self, key: str, value: str) -> None:
        """Keep a JSON text; durable when this returns.

        Raises:
            InvalidInput: the value is not JSON, or does not fit the schema that is bound to it.
            LimitExceeded: it is too large, or the context is full. Nothing has changed then.
        """
        check_key(key)
        kept = await self.fitting(key, value)
        size_bytes = self._checked_size(key, kept)
        is_bound = await self.binds(key)

        def put(connection: sqlite3.Connection) -> None:
            self._put(connection, key, kept, size_bytes)
            if not is_bound:
                _outdate_indexes(connection, self._context, key)

        await self._store.transact("kv.put", put)

    async def binds(self, key: str) -> bool:
        """Whether a schema says what is kept under a key; so too where there are no schemas."""
        return self._bindings is None or (await self._bindings()).binds(key)

    async def last_commit(self) -> int:
        """The number of the context's last commit."""
        return await self._store.read(lambda connection: last_seq(connection, self._context))

    async def fitting(self, key: str, value: str) -> str:
        """The text that a JSON text is kept as under `key`, once the schema bound to it has let it
        through; every write is put through this, also one that is committed later.

        Raises:
            InvalidInput, LimitExceeded: as `put`.
        """
        if self._bindings is None:
            return value
        bindings = await self._bindings()
        if len(value) > _LARGE:
            return await to_thread.run_sync(bindings.check_value, key, value)
        return bindings.check_value(key, value)

    async def delete(self, key: str) -> bool:
        """Forget the value; False when there was none. Durable when this returns."""
        check_key(key)
        return await self._store.transact(
            "kv.delete", lambda connection: _delete(connection, self._context, key)
        )

    async def list(self, prefix: str = "", limit: int = LIST_LIMIT) -> list[str]:
        """The keys that start with `prefix`, in the order of their code points; at most `limit`,
        and never more than 1000."""
        if prefix:
            check_key(prefix)
        if limit < 1:
            raise InvalidInput("a list has a limit of at least 1", where=str(limit))
        count = min(limit, LIST_LIMIT)
        return await self._store.read(
            lambda connection: _list(connection, self._context, prefix, count)
        )

    async def usage(self) -> KvUse:
        return await self._store.read(lambda connection: _use(connection, self._context))

    async def found(self, key: str) -> tuple[str | None, KvUse]:
        """The JSON text of the value, and what the context holds, at one moment."""
        check_key(key)
        return await self._store.read(
            lambda connection: (
                _get(connection, self._context, key),
                _use(connection, self._context),
            )
        )

    async def first(self, prefix: str, count: int) -> tuple[str, ...]:
        """The first `count` keys that start with `prefix`."""
        return await self._store.read(
            lambda connection: self.staged_list(connection, prefix, count)
        )

    def check(self, use: KvUse, key: str, value: str, old: str | None) -> KvUse:
        """What a context that holds `use` would hold with `value` in place of `old`.

        Raises:
            InvalidInput: the value is not JSON.
            LimitExceeded: it is too large, or the context is full.
        """
        size_bytes = self._checked_size(key, value)
        old_bytes = 0 if old is None else len(old.encode()) + len(key.encode())
        new = KvUse(use.used_bytes + size_bytes - old_bytes, use.items + (old is None))
        self._refuse_too_much(use, new, key)
        return new

    # ---- within a transaction of others --------------------------------------------------------

    def staged_get(self, connection: sqlite3.Connection, key: str) -> str | None:
        return _get(connection, self._context, key)

    def staged_list(
        self, connection: sqlite3.Connection, prefix: str, count: int
    ) -> tuple[str, ...]:
        return tuple(_list(connection, self._context, prefix, count))

    def has_changed(self, connection: sqlite3.Connection, prefix: str, seq: int) -> bool:
        """Whether a commit after that one changed a key that starts so."""
        return values_changed(connection, self._context, prefix, after_prefix(prefix), seq)

    def stage(
        self, connection: sqlite3.Connection, key: str, value: str | None, *, is_bound: bool = True
    ) -> None:
        """Keep a value, or forget it where that is None. `is_bound`: what `binds` said of the key.

        Raises:
            LimitExceeded: the context is full.
        """
        if value is None:
            _delete(connection, self._context, key)
        else:
            self._put(connection, key, value, len(value.encode()) + len(key.encode()))
            if not is_bound:
                _outdate_indexes(connection, self._context, key)

    def _checked_size(self, key: str, value: str) -> int:
        try:
            encoded = value.encode()
            msgspec.json.decode(encoded)
        except (UnicodeEncodeError, msgspec.DecodeError, RecursionError) as error:
            raise InvalidInput(f"the value is not JSON: {error}", where=key) from error
        if len(encoded) > self._limits.value_bytes:
            raise LimitExceeded(
                f"kv_value_bytes: a value has at most {self._limits.value_bytes} bytes,"
                f" this one has {len(encoded)}",
                where=f"{self._context}:{key}",
            )
        return len(encoded) + len(key.encode())

    def _put(self, connection: sqlite3.Connection, key: str, value: str, size_bytes: int) -> None:
        old_bytes = _size(connection, self._context, key)
        use = _use(connection, self._context)
        new = KvUse(use.used_bytes + size_bytes - (old_bytes or 0), use.items + (old_bytes is None))
        self._refuse_too_much(use, new, key)
        connection.execute(
            "insert into kv (context, key, value, size_bytes) values (?, ?, ?, ?)"
            " on conflict (context, key) do update"
            " set value = excluded.value, size_bytes = excluded.size_bytes",
            (self._context, key, value, size_bytes),
        )
        _set_use(connection, self._context, new)

    def _refuse_too_much(self, use: KvUse, new: KvUse, key: str) -> None:
        where = f"{self._context}:{key}"
        if new.used_bytes > max(self._limits.total_bytes, use.used_bytes):
            raise LimitExceeded(
                f"kv_total_bytes: context {self._context} may keep {self._limits.total_bytes}"
                f" bytes, keeps {use.used_bytes}, and would keep {new.used_bytes}",
                where=where,
            )
        if new.items > max(self._limits.items, use.items):
            raise LimitExceeded(
                f"kv_items: context {self._context} may keep {self._limits.items} values"
                f" and keeps {use.items}",
                where=where,
            )


def check_key(key: str) -> str:
    """The key itself, if it is one: 1 to 512 bytes of text without control characters.

    Raises:
        InvalidInput: it is not.
    """
    if not key or _CONTROL.search(key) or len(key.encode()) > _KEY_LIMIT_BYTES:
        raise InvalidInput(
            f"a key is text of 1 to {_KEY_LIMIT_BYTES} bytes without control characters",
            where=ascii(key[:80]),
        )
    return key


def _outdate_indexes(connection: sqlite3.Connection, context: str, key: str) -> None:
    """Have the indexes over `key` made anew: they were declared by a schema that is no longer
    bound, and what it would have refused may not be found by them (`documents.py`)."""
    connection.execute(
        "update kv_index set built_to = low where context = ? and ? >= low and ? < high",
        (context, key, key),
    )


def _get(connection: sqlite3.Connection, context: str, key: str) -> str | None:
    row = connection.execute(
        "select value from kv where context = ? and key = ?", (context, key)
    ).fetchone()
    return None if row is None else str(row[0])


def _size(connection: sqlite3.Connection, context: str, key: str) -> int | None:
    row = connection.execute(
        "select size_bytes from kv where context = ? and key = ?", (context, key)
    ).fetchone()
    return None if row is None else int(row[0])


def _delete(connection: sqlite3.Connection, context: str, key: str) -> bool:
    old_bytes = _size(connection, context, key)
    if old_bytes is None:
        return False
    connection.execute("delete from kv where context = ? and key = ?", (context, key))
    use = _use(connection, context)
    _set_use(connection, context, KvUse(use.used_bytes - old_bytes, use.items - 1))
    return True


def _list(connection: sqlite3.Connection, context: str, prefix: str, count: int) -> list[str]:
    after = after_prefix(prefix)
    bound = "" if after is None else " and key < ?"
    rows = connection.execute(
        f"select key from kv where context = ? and key >= ?{bound} order by key limit ?",
        (context, prefix, *(() if after is None else (after,)), count),
    )
    return [row[0] for row in rows]


def after_prefix(prefix: str) -> str | None:
    """The first text after all that start with `prefix`; None when nothing comes after."""
    while prefix:
        head, last = prefix[:-1], ord(prefix[-1])
        if last < _LAST_CODE_POINT:
            # UTF-8 has no surrogates: 0xE000 comes right after 0xD7FF.
            return head + chr(0xE000 if last == 0xD7FF else last + 1)
        prefix = head
    return None


def _use(connection: sqlite3.Connection, context: str) -> KvUse:
    row = connection.execute(
        "select used_bytes, items from kv_use where context = ?", (context,)
    ).fetchone()
    return KvUse(0, 0) if row is None else KvUse(row[0], row[1])


def _set_use(connection: sqlite3.Connection, context: str, use: KvUse) -> None:
    connection.execute(
        "insert into kv_use (context, used_bytes, items) values (?, ?, ?)"
        " on conflict (context) do update"
        " set used_bytes = excluded.used_bytes, items = excluded.items",
        (context, use.used_bytes, use.items),
    )
