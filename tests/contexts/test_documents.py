"""Collections on a real database: what a query answers is what a plain filter answers."""

from __future__ import annotations

import json
import math
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orvalho.contexts import documents, kv
from orvalho.contexts.bindings import Bindings, read_bindings
from orvalho.contexts.documents import SCAN_LIMIT, Documents
from orvalho.contexts.kv import KeyValue, KvLimits
from orvalho.contexts.query import Asked, field_path, value_at
from orvalho.errors import InvalidInput, LimitExceeded
from orvalho.store import open_store

pytestmark = pytest.mark.anyio

ROOMY = KvLimits(value_bytes=1 << 20, total_bytes=1 << 30, items=2_000_000)


def bound(*fields: str, schema: dict | None = None) -> Bindings:
    files = {
        "bindings.toml": b'[thing]\nkv = "things"\n',
        "thing.json": json.dumps({**(schema or {}), "x-index": list(fields)}).encode(),
    }
    found = read_bindings(files.get)
    assert not found.problems
    return found


class Shelf:
    """A collection `things` and what is bound to it now."""

    def __init__(self, store, bindings):
        self.store = store
        self.bindings = bindings
        self.changed: dict[str, str | None] = {}
        self.kv = KeyValue(store, "gil", ROOMY, self.current)
        self.docs = Documents(store, "gil", self.current, lambda: self.changed)

    async def current(self):
        return self.bindings

    async def put(self, id_, doc):
        await self.kv.put(f"things/{id_}", doc if isinstance(doc, str) else json.dumps(doc))

    async def ids(self, **asked):
        page = await self.docs.query("things", Asked(**asked))
        return [each.id for each in page.docs]


@asynccontextmanager
async def shelf_in(directory, *fields, **more):
    path = Path(directory) / "orvalho.db"
    async with open_store(path, [kv.MIGRATIONS, documents.MIGRATIONS]) as store:
        yield Shelf(store, bound(*fields, **more))


# ---- the oracle ------------------------------------------------------------------------------

KINDS = {type(None): 0, bool: 1, int: 2, float: 2, str: 3, list: 4, dict: 4}


def plain_key(value):
    kind = KINDS[type(value)]
    return kind, 0 if kind in (0, 4) else value


def plain_value(doc, field):
    for name in field.split("."):
        if not isinstance(doc, dict) or name not in doc:
            return None
        doc = doc[name]
    return doc


def strict(value):
    """A value that Python's == compares as JSON's would be."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return (type(value).__name__, value)
    if isinstance(value, (int, float)):
        return ("number", value)
    if isinstance(value, list):
        return ("list", [strict(each) for each in value])
    return ("object", {name: strict(each) for name, each in value.items()})


def plain_holds(doc, field, word, operand):
    value = plain_value(doc, field)
    if word == "in":
        return any(strict(value) == strict(each) for each in operand)
    if word in ("==", "!="):
        return (strict(value) == strict(operand)) == (word == "==")
    if word == "startsWith":
        return isinstance(value, str) and value.startswith(operand)
    if plain_key(value)[0] != plain_key(operand)[0]:
        return False
    return {
        "<": value < operand,
        "<=": value <= operand,
        ">": value > operand,
        ">=": value >= operand,
    }[word]


def plain_query(docs, where, order):
    fitting = [
        (id_, doc)
        for id_, doc in docs.items()
        if all(
            plain_holds(doc, field, word, operand)
            for field, words in where.items()
            for word, operand in words.items()
        )
    ]
    fitting.sort(key=lambda each: each[0])
    if order:
        name = order.removeprefix("-")
        is_down = order.startswith("-")
        keyed = sorted(
            fitting, key=lambda each: plain_key(plain_value(each[1], name)), reverse=is_down
        )
        # reverse= keeps equal ones in their order
        fitting = keyed
    return [id_ for id_, _ in fitting]


# ---- the property ----------------------------------------------------------------------------

TEXTS = st.one_of(
    st.sampled_from(
        ["", "a", "b", "Porto", "porto", "a\0b", "a\0a", "\u00e9", "\U0001f600", "\\u", "\\/"]
    ),
    st.integers(0, 3).map(lambda n: "x" * 63 + "yz" * n),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=4),
)
NUMBERS = st.one_of(
    st.integers(-3, 3),
    st.sampled_from(
        [
            2**53,
            2**53 + 1,
            float(2**53),
            2**63 - 1,
            2**63,
            2**63 + 1,
            -(2**63) - 1,
            10**40,
            10**40 + 1,
        ]
    ),
    st.floats(allow_nan=False, allow_infinity=False, width=16),
    st.sampled_from([1e308, -0.0, 0.5]),
)
PLAIN = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS)
VALUES = st.one_of(PLAIN, st.just([]), st.just([1]), st.just({"b": True}), st.just({"b": 1}))
FIELDS = ("a", "n", "a.b", "é")
DOCS = st.dictionaries(st.sampled_from(["a", "n", "é", 'q"', "z"]), VALUES, max_size=3)
IDS = st.sampled_from([f"i{n}" for n in range(9)] + ["__proto__", "é", "i/1"])
CONDITIONS = st.one_of(
    st.tuples(st.sampled_from(["==", "!="]), VALUES),
    st.tuples(st.sampled_from(["<", "<=", ">", ">="]), st.one_of(NUMBERS, TEXTS)),
    st.tuples(st.just("in"), st.lists(VALUES, max_size=3)),
    st.tuples(st.just("startsWith"), TEXTS),
)
WHERE = st.dictionaries(
    st.sampled_from(FIELDS), st.lists(CONDITIONS, min_size=1, max_size=2).map(dict), max_size=2
)
ORDER = st.one_of(st.none(), st.sampled_from([*FIELDS, *(f"-{each}" for each in FIELDS)]))
INDEXES = st.lists(st.sampled_from(FIELDS), unique=True)


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    first=st.lists(st.tuples(IDS, DOCS), max_size=6),
    then=st.lists(st.tuples(IDS, st.one_of(st.none(), DOCS)), max_size=10),
    pending=st.dictionaries(IDS, st.one_of(st.none(), DOCS), max_size=4),
    indexes=st.tuples(INDEXES, INDEXES),
    asked=st.lists(st.tuples(WHERE, ORDER, st.integers(1, 4)), min_size=1, max_size=4),
)
def test_a_query_over_rows_and_changes_is_a_plain_filter(first, then, pending, indexes, asked):
    async def go():
        with tempfile.TemporaryDirectory() as directory:
            async with shelf_in(directory, *indexes[0]) as shelf:
                held = {}
                for id_, doc in first:
                    await shelf.put(id_, doc)
                    held[id_] = doc
                await shelf.ids()
                # The schema is changed, and then more is written.
                shelf.bindings = bound(*indexes[1])
                for number, (id_, doc) in enumerate(then):
                    if number == 5:
                        await shelf.ids()
                    if doc is None:
                        await shelf.kv.delete(f"things/{id_}")
                        held.pop(id_, None)
                    else:
                        await shelf.put(id_, doc)
                        held[id_] = doc
                for id_, doc in pending.items():
                    shelf.changed[f"things/{id_}"] = None if doc is None else json.dumps(doc)
                    held.pop(id_, None)
                    if doc is not None:
                        held[id_] = doc
                shelf.changed["other/x"] = "{}"
                for where, order, limit in asked:
                    expected = plain_query(held, where, order)
                    assert await pages(shelf, where, order, limit) == expected

    anyio.run(go)


async def pages(shelf, where, order, limit):
    """All answers, a page of `limit` after the other."""
    found, after = [], None
    for _ in range(50):
        page = await shelf.docs.query(
            "things", Asked(where=where, order=order, limit=limit, after=after)
        )
        assert len(page.docs) <= limit
        found += [each.id for each in page.docs]
        after = page.after
        if after is None:
            return found
    raise AssertionError("the pages have no end")


async def test_an_index_finds_what_was_there_before_it_and_what_is_put_by_sql(tmp_path):
    async with shelf_in(tmp_path) as shelf:
        shelf.bindings = Bindings()
        # Put before any schema: a name with an escape, and one that stands twice.
        await shelf.put("escaped", '{"c\\u0069ty": "Porto"}')
        await shelf.put("twice", '{"city": "Lisboa", "city": "Porto"}')
        shelf.bindings = bound("city")
        assert await shelf.ids(where={"city": "Porto"}) == ["escaped", "twice"]

        await shelf.store.transact(
            "test.sql",
            lambda connection: (
                connection.execute(
                    "update kv set value = '{\"city\":\"Faro\"}' where key = 'things/twice'"
                )
                and None
            ),
        )
        assert await shelf.ids(where={"city": "Faro"}) == ["twice"]
        assert await shelf.ids(where={"city": "Porto"}) == ["escaped"]


async def test_what_is_put_while_no_schema_is_bound_is_found_once_one_is_again(tmp_path):
    async with shelf_in(tmp_path, "city") as shelf:
        await shelf.put("a", {"city": "Porto"})
        assert await shelf.ids(where={"city": "Porto"}) == ["a"]
        shelf.bindings = Bindings()
        await shelf.put("b", '{"city": "Lisboa", "city": "Porto"}')
        shelf.bindings = bound("city")
        assert await shelf.ids(where={"city": "Porto"}) == ["a", "b"]


async def test_an_index_that_is_no_longer_declared_leaves_nothing_behind(tmp_path):
    async with shelf_in(tmp_path, "city", "n") as shelf:
        for number in range(5):
            await shelf.put(f"i{number}", {"city": "Porto", "n": number})
        await shelf.ids()
        shelf.bindings = bound("n")
        assert await shelf.ids(where={"city": "Porto", "n": {">": 2}}) == ["i3", "i4"]
        counts = await shelf.store.read(
            lambda connection: (
                connection.execute("select count(*) from kv_index").fetchone()[0],
                connection.execute("select count(*) from kv_entry").fetchone()[0],
            )
        )
        assert counts == (1, 5)


async def fill(shelf, count):
    """Rows put as fast as SQLite takes them."""

    def put(connection):
        connection.executemany(
            "insert into kv (context, key, value, size_bytes) values ('gil', ?, ?, 9)",
            (
                (f"things/{n:07}", json.dumps({"n": n, "half": n % 2, "m": count - n}))
                for n in range(count)
            ),
        )

    await shelf.store.transact("test.fill", put)


async def test_a_query_that_would_read_too_much_is_refused_and_an_index_helps(tmp_path):
    async with shelf_in(tmp_path) as shelf:
        await fill(shelf, SCAN_LIMIT + 5)
        with pytest.raises(LimitExceeded, match=r'"x-index": \["n"\]'):
            await shelf.ids(where={"n": SCAN_LIMIT})
        with pytest.raises(LimitExceeded, match="docs_scan"):
            await shelf.ids(order="n", limit=1)
        # The first page is full before much has been read.
        assert await shelf.ids(where={"half": 1}, limit=2) == ["0000001", "0000003"]

        shelf.bindings = bound("n")
        assert await shelf.ids(where={"n": SCAN_LIMIT}) == [f"{SCAN_LIMIT:07}"]
        assert await shelf.ids(order="-n", limit=1) == [f"{SCAN_LIMIT + 4:07}"]
        page = await shelf.docs.query("things", Asked(order="n", limit=3))
        assert await shelf.ids(order="n", limit=2, after=page.after) == ["0000003", "0000004"]
        assert await shelf.ids(where={"n": {">=": 7, "<": 9}}) == ["0000007", "0000008"]


async def test_one_value_of_very_many_documents_comes_in_pages(tmp_path):
    async with shelf_in(tmp_path, "half") as shelf:
        await fill(shelf, 2 * SCAN_LIMIT + 100)
        page = await shelf.docs.query("things", Asked(where={"half": 1}, limit=2))
        assert [each.id for each in page.docs] == ["0000001", "0000003"]
        assert await shelf.ids(where={"half": 1}, limit=1, after=page.after) == ["0000005"]


async def test_a_long_collection_is_indexed_in_many_short_transactions(tmp_path):
    names = []
    async with open_store(
        tmp_path / "orvalho.db",
        [kv.MIGRATIONS, documents.MIGRATIONS],
        lambda when, group: names.extend(group) if when == "before" else None,
    ) as store:
        shelf = Shelf(store, bound("n"))
        await fill(shelf, 5000)
        assert await shelf.ids(where={"n": 4999}) == ["0004999"]
    assert names.count("kv.index") >= 3


@pytest.mark.parametrize(
    "asked",
    [
        {"where": {"a": {"like": "x"}}},
        {"where": {"a": {"$gt": 1}}},
        {"where": {"": 1}},
        {"where": {"a..b": 1}},
        {"where": {"a" * 300: 1}},
        {"where": {"a": {">": None}}},
        {"where": {"a": {"in": 3}}},
        {"where": {"a": {"in": [1] * 101}}},
        {"where": {f"a{n}": 1 for n in range(17)}},
        {"where": {"a": {"startsWith": 3}}},
        {"limit": 0},
        {"limit": 1001},
        {"after": "x"},
        {"after": "[1]"},
        {"after": "[1, 2]"},
        {"after": '{"a": 1}'},
        {"after": "[[[" * 500},
        {"order": "-"},
        {"order": "a..b"},
    ],
)
async def test_what_is_no_query_is_refused(tmp_path, asked):
    async with shelf_in(tmp_path) as shelf:
        with pytest.raises(InvalidInput):
            await shelf.ids(**asked)


HOSTILE = [
    "n; drop table kv",
    "n') or 1=1 --",
    "' or '1'='1",
    '"; delete from kv; --',
    "n' desc, (select 1)",
    "value",
    "$.n",
    "\\",
    "%",
    "_",
]


async def test_sql_in_fields_values_order_and_ids_is_only_text(tmp_path):
    async with shelf_in(tmp_path, "n") as shelf:
        for number, text in enumerate(HOSTILE):
            await shelf.put(text, {"n": text, "x": {text: number}})
        for text in HOSTILE:
            assert await shelf.ids(where={"n": text}) == [text]
            assert await shelf.ids(order="/x/" + text.replace("/", "~1"), limit=1)
            assert await shelf.ids(where={"/y/" + text.replace("/", "~1"): 1}) == []
        assert len(await shelf.kv.list("things/")) == len(HOSTILE)


@pytest.mark.parametrize("name", ['a"b', "a\\b", "a\nb", 'x") or 1 --"', "\ud800"])
async def test_an_index_on_what_sqlite_cannot_name_is_refused(name):
    with pytest.raises(InvalidInput, match="no index"):
        field_path(name, is_indexed=True)


async def test_an_index_on_odd_names_works(tmp_path):
    names = ["a'b", "a b", "a]b", "a$b", "%", "/a.b", "-- x", "[0]", "#"]
    async with shelf_in(tmp_path, *names) as shelf:
        for number, name in enumerate(names):
            member = field_path(name)[0]
            await shelf.put(f"i{number}", {member: "here"})
        rows = await shelf.store.read(
            lambda connection: connection.execute(
                "select count(*) from kv_entry where kind = 3 and value = 'here'"
            ).fetchone()[0]
        )
        for number, name in enumerate(names):
            assert await shelf.ids(where={name: "here"}) == [f"i{number}"]
        assert rows in (0, len(names))
        assert await shelf.store.read(
            lambda connection: connection.execute(
                "select count(*) from kv_entry where kind = 3 and value = 'here'"
            ).fetchone()[0]
        ) == len(names)


async def test_what_nobody_can_read_spoils_no_query(tmp_path):
    async with shelf_in(tmp_path) as shelf:
        shelf.bindings = Bindings()
        await shelf.put("huge", "0")
        huge = '{"n": ' + "9" * 5000 + "}"
        await shelf.store.transact(
            "test.sql",
            lambda connection: (
                connection.execute("update kv set value = ? where key = 'things/huge'", (huge,))
                and None
            ),
        )
        await shelf.put("deep", "[" * 500 + "]" * 500)
        await shelf.put("good", {"n": 1})
        shelf.bindings = bound("n")
        assert await shelf.ids(where={"n": 1}) == ["good"]
        assert "good" in await shelf.ids(order="n")


async def test_a_page_has_a_size(tmp_path):
    async with shelf_in(tmp_path) as shelf:
        for number in range(12):
            await shelf.put(f"i{number:02}", {"x": "y" * 900_000})
        page = await shelf.docs.query("things", Asked())
        assert len(page.docs) < 12
        assert len(await pages(shelf, {}, None, 100)) == 12


async def test_a_flood_of_queries_lets_others_through(tmp_path):
    async with shelf_in(tmp_path) as shelf:
        await fill(shelf, 3000)
        order = []

        async def ask():
            await shelf.ids(where={"n": -1})
            order.append("query")

        async with anyio.create_task_group() as tasks:
            for _ in range(100):
                tasks.start_soon(ask)
            await anyio.lowlevel.checkpoint()
            await shelf.put("other", {})
            order.append("put")
        assert order.index("put") < 99, "a put does not wait for all that is asked"


def test_a_field_is_a_path_of_names():
    assert field_path("address.city") == ("address", "city")
    assert field_path("/a.b/c~1d") == ("a.b", "c/d")
    assert value_at({"address": {"city": 1}}, ("address", "city")) == 1
    assert not math.isnan(value_at({"a": 1}, ("a",)))
