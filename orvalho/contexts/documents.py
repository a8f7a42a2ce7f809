"""Collections of documents in a context's key-value store: `contacts/ID` is a document of
`contacts`. So rights, quotas, schemas and undoing are those of values.

An index is a side table that triggers keep in step with the values, in the transaction of whoever
writes them. What it finds is read and compared again: an entry holds a shortened value, so it may
lead to a document too many, never to one too few.
"""

from __future__ import annotations

import heapq
import itertools
import json
import sqlite3
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import msgspec
from sqlite_utils.migrations import Migrations

from orvalho.contexts.bindings import Bindings, check_collection
from orvalho.contexts.json_text import canonical
from orvalho.contexts.kv import after_prefix, check_key
from orvalho.contexts.query import (
    INDEXED_CHARACTERS,
    NULL,
    TEXT,
    Asked,
    Condition,
    Query,
    entry,
    field_path,
    read_query,
)
from orvalho.errors import InvalidInput, LimitExceeded
from orvalho.store import Store

MIGRATIONS: Final = Migrations("orvalho.contexts.documents")

# Documents that one query reads at most, and the bytes of one page of answers.
SCAN_LIMIT: Final = 10_000
_PAGE_BYTES: Final = 4 << 20
_BATCH: Final = 2_000
_LIST_LIMIT: Final = 1000
# The kind of an entry whose document spells a name with escapes: the index cannot tell.
_UNSURE: Final = -1

_KIND: Final = f"""
  case when instr({{row}}.value, '\\u') or instr({{row}}.value, '\\/') then {_UNSURE}
  else case json_type({{row}}.value, path)
    when 'true' then 1 when 'false' then 1 when 'integer' then 2 when 'real' then 2
    when 'text' then {TEXT} when 'array' then 4 when 'object' then 4 else {NULL} end end"""
_VALUE: Final = f"""
  case when instr({{row}}.value, '\\u') or instr({{row}}.value, '\\/') then 0
  else case json_type({{row}}.value, path)
    when 'true' then 1 when 'false' then 0
    when 'integer' then json_extract({{row}}.value, path)
    when 'real' then json_extract({{row}}.value, path)
    when 'text' then substr(json_extract({{row}}.value, path), 1, {INDEXED_CHARACTERS})
    else 0 end end"""
_COVERS: Final = """
  kv_index.context = {row}.context and {row}.key >= kv_index.low and {row}.key < kv_index.high"""


def _note(row: str) -> str:
    return (
        "insert or replace into kv_entry (index_id, kind, value, key)"
        f" select id, {_KIND.format(row=row)}, {_VALUE.format(row=row)}, {row}.key"
        f" from kv_index where {_COVERS.format(row=row)};"
    )


def _forget(row: str) -> str:
    # By the key, not by what the entry must have been: another SQLite may have made it.
    return (
        f"delete from kv_entry where key = {row}.key and index_id in"
        f" (select id from kv_index where {_COVERS.format(row=row)});"
    )


@MIGRATIONS()  # type: ignore[untyped-decorator]  # sqlite_utils is untyped here
def create_indexes(database: Any) -> None:
    """What is indexed, the entries, and what keeps them in step with the values."""
    # `built_to` is the last key that was there before the index and has been noted; NULL once all
    # are. Of a dropped index, `high` is "": no key is covered.
    for statement in (
        """create table kv_index (
             id integer primary key autoincrement, context text not null,
             collection text not null, field text not null, path text not null,
             low text not null, high text not null, built_to text,
             unique (context, collection, field)) strict""",
        """create table kv_entry (
             index_id integer not null, kind integer not null, value any not null,
             key text not null, primary key (index_id, kind, value, key)) strict, without rowid""",
        "create index kv_entry_by_key on kv_entry (key, index_id)",
        f"create trigger kv_entry_put after insert on kv begin {_note('new')} end",
        f"create trigger kv_entry_replace after update on kv begin {_forget('old')}"
        f" {_note('new')} end",
        f"create trigger kv_entry_delete after delete on kv begin {_forget('old')} end",
    ):
        database.conn.execute(statement)


class Values(Protocol):
    """What documents are kept in: `KeyValue`, or what stands before it during a run."""

    async def get(self, key: str) -> str | None: ...
    async def put(self, key: str, value: str) -> None: ...
    async def delete(self, key: str) -> bool: ...
    async def list(self, prefix: str = "", limit: int = ...) -> list[str]: ...


class Found(msgspec.Struct, frozen=True):
    """One answer."""

    id: str
    doc: msgspec.Raw


class Page(msgspec.Struct, frozen=True):
    """Some answers, in order. `after`: ask again with it for the next ones; None: these are all."""

    docs: list[Found]
    after: str | None


def document_key(collection: str, id_: str) -> str:
    """The key of a document.

    Raises:
        InvalidInput: one of them is no name.
    """
    if not id_:
        raise InvalidInput("a document has an id of at least one character", where=collection)
    return check_key(f"{check_collection(collection)}/{id_}")


class Documents:
    """The collections of one context.

    `store` and `context` say where the rows lie, `changed` what is not written yet: by key, the
    new text or None for what is deleted. `bindings` gives the schemas, which declare indexes.
    """

    def __init__(
        self,
        store: Store,
        context: str,
        bindings: Callable[[], Awaitable[Bindings]],
        changed: Callable[[], Mapping[str, str | None]] = dict,
    ) -> None:
        self._store = store
        self._context = context
        self._bindings = bindings
        self._changed = changed

    async def query(self, collection: str, asked: Asked) -> Page:
        """The documents that fit, in order.

        Raises:
            InvalidInput: it is no query.
            LimitExceeded: more documents would have to be read than one query may; an index helps.
        """
        check_collection(collection)
        query = read_query(asked)
        fields = _indexed(await self._bindings(), collection)
        await self._keep_indexes(collection, fields)
        prefix = f"{collection}/"
        changed = {key: text for key, text in self._changed().items() if key.startswith(prefix)}
        return await self._store.read(
            lambda connection: _answer(
                _Source(connection, self._context, collection, fields), query, changed
            )
        )

    async def texts(self, collection: str, after: str, count: int) -> list[tuple[str, str]]:
        """(key, JSON text) of the next documents behind the key `after`, "" for the first."""
        low = f"{check_collection(collection)}/"
        return await self._store.read(
            lambda connection: list(
                itertools.islice(
                    _Source(connection, self._context, collection, ()).by_key(after or low), count
                )
            )
        )

    async def _keep_indexes(self, collection: str, fields: tuple[str, ...]) -> None:
        """Have the indexes that the schema declares, and no others. A long table is gone through
        in many transactions, so that nobody waits long."""
        while not await self._store.read(
            lambda connection: _is_kept(connection, self._context, collection, fields)
        ):
            await self._store.transact(
                "kv.index",
                lambda connection: _keep_some(connection, self._context, collection, fields),
            )


def _indexed(bindings: Bindings, collection: str) -> tuple[str, ...]:
    binding = bindings.of_collection(collection)
    return binding.schema.indexed if binding is not None and binding.schema is not None else ()


# ---- indexes, in the writer's transactions ---------------------------------------------------


def sql_path(field: str) -> str:
    """SQLite's way to write a field. Names that it cannot write are refused by `field_path`."""
    return "$" + "".join(f'."{name}"' for name in field_path(field, is_indexed=True))


def _rows(
    connection: sqlite3.Connection, context: str, collection: str
) -> dict[str, tuple[int, str, str | None]]:
    found = connection.execute(
        "select field, id, high, built_to from kv_index where context = ? and collection = ?",
        (context, collection),
    )
    return {row[0]: (row[1], row[2], row[3]) for row in found}


def _is_kept(
    connection: sqlite3.Connection, context: str, collection: str, fields: tuple[str, ...]
) -> bool:
    rows = _rows(connection, context, collection)
    return set(rows) == set(fields) and all(
        high and built_to is None for _, high, built_to in rows.values()
    )


def _keep_some(
    connection: sqlite3.Connection, context: str, collection: str, fields: tuple[str, ...]
) -> None:
    """One step towards the indexes that are declared: some hundred rows of work."""
    rows = _rows(connection, context, collection)
    for field, (id_, covered, _) in rows.items():
        if field not in fields or not covered:
            _drop_some(connection, id_)
            return
    low, high = f"{collection}/", after_prefix(f"{collection}/")
    for field in fields:
        if field not in rows:
            connection.execute(
                "insert into kv_index (context, collection, field, path, low, high, built_to)"
                " values (?, ?, ?, ?, ?, ?, ?)",
                (context, collection, field, sql_path(field), low, high, low),
            )
    started = [
        (id_, built_to)
        for id_, _, built_to in _rows(connection, context, collection).values()
        if built_to is not None
    ]
    if started:
        _build_some(connection, context, str(high), min(at for _, at in started), started)


def _drop_some(connection: sqlite3.Connection, id_: int) -> None:
    connection.execute("update kv_index set high = '' where id = ?", (id_,))
    taken = connection.execute(
        "delete from kv_entry where (index_id, kind, value, key) in"
        " (select index_id, kind, value, key from kv_entry where index_id = ? limit ?)",
        (id_, _BATCH),
    ).rowcount
    if taken < _BATCH:
        connection.execute("delete from kv_index where id = ?", (id_,))


def _build_some(
    connection: sqlite3.Connection,
    context: str,
    high: str,
    at: str,
    started: list[tuple[int, str]],
) -> None:
    rows = connection.execute(
        "select key, value from kv where context = ? and key > ? and key < ? order by key limit ?",
        (context, at, high, _BATCH),
    ).fetchall()
    for key, value in rows:
        # What was put before a schema was bound may name a member twice, or with escapes.
        text = _plain(value)
        connection.execute(
            "update kv set value = ? where context = ? and key = ?", (text, context, key)
        )
    built_to = rows[-1][0] if len(rows) == _BATCH else None
    for id_, _ in started:
        connection.execute("update kv_index set built_to = ? where id = ?", (built_to, id_))


def _plain(value: str) -> str:
    try:
        text = canonical(json.loads(value))
    except (ValueError, RecursionError):
        return value
    # Never longer than it was: what the context holds has been counted.
    return text if len(text.encode()) <= len(value.encode()) else value


# ---- answers, on the reader's connection -----------------------------------------------------


@dataclass(frozen=True)
class _Source:
    """The rows of one collection, each read at most once and counted."""

    connection: sqlite3.Connection
    context: str
    collection: str
    fields: tuple[str, ...]

    @property
    def low(self) -> str:
        return f"{self.collection}/"

    def ids(self) -> dict[tuple[str, ...], int]:
        """The indexes that are complete, by the path of their field."""
        rows = _rows(self.connection, self.context, self.collection)
        return {
            field_path(field): id_
            for field, (id_, high, built_to) in rows.items()
            if high and built_to is None
        }

    def by_key(self, after: str) -> Iterator[tuple[str, str]]:
        """(key, text) from `after` on."""
        yield from self.connection.execute(
            "select key, value from kv where context = ? and key > ? and key < ? order by key",
            (self.context, after, after_prefix(self.low)),
        )

    def by_entry(self, sql: str, parameters: Iterable[Any]) -> Iterator[tuple[int, Any, str, str]]:
        """(kind, value, key, text) of index entries. `sql` is one of ours, never a guest's."""
        yield from self.connection.execute(
            "select e.kind, e.value, e.key, kv.value from kv_entry e"
            f" join kv on kv.context = ? and kv.key = e.key where {sql}",
            (self.context, *parameters),
        )


_Bounds = tuple[str, tuple[Any, ...]]  # SQL of ours, and its parameters
_Row = tuple[Any, str, Any, str]  # place among the answers, key, document, text


def _place(row: _Row) -> Any:
    return row[0]


class _Candidates:
    """The rows that one index leads to for all the conditions on its field."""

    def __init__(self, source: _Source, id_: int, conditions: Sequence[Condition]) -> None:
        self._source = source
        self._unsure = ("e.index_id = ? and e.kind = ?", (id_, _UNSURE))
        self._bounds: list[_Bounds] = []
        exact = next((each for each in conditions if each.word == "=="), None)
        choice = next((each for each in conditions if each.word == "in"), None)
        self.is_exact = exact is not None
        if exact is not None:
            self._bounds = [_bounds(id_, "==", exact.operand)]
        elif choice is not None:
            self._bounds = list(dict.fromkeys(_bounds(id_, "==", each) for each in choice.operand))
        elif ranges := [each for each in conditions if each.word != "!="]:
            given = [_bounds(id_, each.word, each.operand) for each in ranges]
            sql = " and ".join(each for each, _ in given)
            self._bounds = [(sql, tuple(itertools.chain.from_iterable(p for _, p in given)))]
        else:
            self._bounds = [("e.index_id = ? and e.kind >= 0", (id_,))]
        self.count = sum(map(self._counted, (self._unsure, *self._bounds)))

    def _counted(self, bounds: _Bounds) -> int:
        sql, parameters = bounds
        found = self._source.connection.execute(
            f"select count(*) from (select 1 from kv_entry e where {sql} limit ?)",
            (*parameters, SCAN_LIMIT + 1),
        )
        return int(found.fetchone()[0])

    def rows(self) -> Iterator[tuple[str, str]]:
        """(key, text) of each."""
        for sql, parameters in (self._unsure, *self._bounds):
            for _, _, key, text in self._source.by_entry(sql, parameters):
                yield key, text

    def unsure(self) -> Iterator[tuple[str, str]]:
        """Of those that the index cannot tell."""
        return ((row[2], row[3]) for row in self._source.by_entry(*self._unsure))

    def by_key(self, after: str) -> Iterator[tuple[str, str]]:
        """Of a single value, in the order of their keys."""
        sql, parameters = self._bounds[0]
        found = self._source.by_entry(f"{sql} and e.key > ? order by e.key", (*parameters, after))
        return ((row[2], row[3]) for row in found)


def _answer(source: _Source, query: Query, changed: Mapping[str, str | None]) -> Page:
    reading = _Reading(source, query, changed)
    rows = heapq.merge(reading.unwritten(), reading.written(), key=_place)
    found: list[Found] = []
    last: _Row | None = None
    size_bytes = 0
    for row in rows:
        size_bytes += len(row[3])
        if last is not None and (len(found) >= query.limit or size_bytes > _PAGE_BYTES):
            return Page(found, query.cursor(last[2], found[-1].id))
        found.append(Found(row[1][len(source.low) :], msgspec.Raw(row[3].encode())))
        last = row
    return Page(found, None)


class _Reading:
    """One query's way through the rows."""

    def __init__(self, source: _Source, query: Query, changed: Mapping[str, str | None]) -> None:
        self._source = source
        self._query = query
        self._changed = changed
        self._start = query.start
        self._read = 0

    def unwritten(self) -> list[_Row]:
        """The answers among what has changed and is not in the rows yet."""
        texts = ((key, text) for key, text in self._changed.items() if text is not None)
        return sorted(self._fitting(texts), key=_place)

    def written(self) -> Iterator[_Row]:
        """The answers among the rows, in order."""
        query, source = self._query, self._source
        indexes = source.ids()
        found = [
            _Candidates(source, indexes[path], [each for each in query.where if each.path == path])
            for path in dict.fromkeys(each.path for each in query.where)
            if path in indexes
        ]
        narrowest = min(found, key=lambda each: each.count, default=None)
        if narrowest is not None and narrowest.count <= SCAN_LIMIT:
            return iter(sorted(self._fitting(self._counted(narrowest.rows())), key=_place))
        if query.order is not None and query.order in indexes:
            return self._along(indexes[query.order])
        after = query.after[1] if query.after is not None else ""
        if query.order is not None:
            rows = self._fitting(self._counted(source.by_key(source.low)))
            return iter(sorted(rows, key=_place))
        for each in found:
            if each.is_exact:
                return self._of_one_value(each, source.low + after)
        return self._fitting(self._counted(source.by_key(source.low + after)))

    def _counted(self, rows: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
        for row in rows:
            self._read += 1
            if self._read > SCAN_LIMIT:
                raise self._too_many()
            if row[0] not in self._changed:
                yield row

    def _fitting(self, rows: Iterable[tuple[str, str]]) -> Iterator[_Row]:
        query, start, cut = self._query, self._start, len(self._source.low)
        for key, text in rows:
            try:
                document = json.loads(text)
            except (ValueError, RecursionError):
                continue  # kept before there was a schema; nobody can compare it
            if query.fits(document):
                place = query.place(document, key[cut:])
                if start is None or place > start:
                    yield place, key, document, text

    def _of_one_value(self, candidates: _Candidates, after: str) -> Iterator[_Row]:
        """In the order of the ids, which entries of one value stand in."""
        unsure = self._fitting(self._counted(candidates.unsure()))
        sure = self._fitting(self._counted(candidates.by_key(after)))
        return heapq.merge(sorted(unsure, key=_place), sure, key=_place)

    def _along(self, id_: int) -> Iterator[_Row]:
        """All rows in the order of an index, from where the page before ended. Entries that are
        equal may be of different values: these are put in order here."""
        query = self._query
        way, than = ("desc", "<=") if query.is_descending else ("asc", ">=")
        sql = "e.index_id = ? and e.kind >= 0"
        parameters: list[Any] = [id_]
        if query.after is not None:
            sql += f" and (e.kind, e.value) {than} (?, ?)"
            parameters += entry(query.after[0])
        for condition in query.where:
            if condition.path == query.order and condition.word not in ("!=", "in"):
                more, bounds = _bounds(id_, condition.word, condition.operand)
                sql += f" and {more}"
                parameters += bounds
        sql += f" order by e.kind {way}, e.value {way}, e.key {way}"
        sure = self._in_groups(self._source.by_entry(sql, parameters))
        unsure = self._source.by_entry("e.index_id = ? and e.kind = ?", (id_, _UNSURE))
        rows = self._fitting(self._counted((row[2], row[3]) for row in unsure))
        return heapq.merge(sorted(rows, key=_place), sure, key=_place)

    def _in_groups(self, entries: Iterable[tuple[int, Any, str, str]]) -> Iterator[_Row]:
        for _, group in itertools.groupby(entries, key=lambda row: (row[0], row[1])):
            rows = self._fitting(self._counted((row[2], row[3]) for row in group))
            yield from sorted(rows, key=_place)

    def _too_many(self) -> LimitExceeded:
        fields = dict.fromkeys(
            "/".join(each.path) if len(each.path) > 1 else each.path[0]
            for each in self._query.where
        )
        if self._query.order is not None:
            fields.setdefault(".".join(self._query.order))
        named = ", ".join(f'"{ascii(field)[1:-1]}"' for field in fields)
        told = f': "x-index": [{named}] in its schema makes it quick' if named else ""
        return LimitExceeded(
            f"docs_scan: a query reads at most {SCAN_LIMIT} documents of"
            f" {self._source.collection}, and this one needs more{told}",
            where=self._source.collection,
        )


def _bounds(id_: int, word: str, operand: Any) -> _Bounds:
    """What all entries of a condition's documents fulfil. Both ends are included: an entry may be
    rounder than its value."""
    kind, value = entry(operand)
    same_kind = "e.index_id = ? and e.kind = ?"
    match word:
        case "startsWith":
            end = after_prefix(value)
            upper = "" if end is None else " and e.value < ?"
            ends = () if end is None else (end,)
            return f"{same_kind} and e.value >= ?{upper}", (id_, kind, value, *ends)
        case "<" | "<=":
            return f"{same_kind} and e.value <= ?", (id_, kind, value)
        case ">" | ">=":
            return f"{same_kind} and e.value >= ?", (id_, kind, value)
    return f"{same_kind} and e.value = ?", (id_, kind, value)
