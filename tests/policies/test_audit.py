"""The audit log: in order, append-only, and followed without losing a line."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from orvalho.policies.access import AccessRequest, Subject
from orvalho.policies.audit import MIGRATIONS, Audit, Entry, decided
from orvalho.policies.explain import explain, sentence
from orvalho.policies.indexed_engine import IndexedEngine
from orvalho.policies.rules import read_files
from orvalho.store import Store, open_store

pytestmark = pytest.mark.anyio


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with open_store(tmp_path / "x.db", [MIGRATIONS]) as opened:
        yield opened


def entry(object_: str, run: str | None = None, *, allowed: bool = True) -> Entry:
    return Entry(
        at=1.5,
        actor="gil@laptop",
        context="peer",
        action="fs.read",
        object=object_,
        allowed=allowed,
        rule="policy/peer.csv:3",
        run=run,
    )


async def test_entries_are_read_oldest_first_with_growing_numbers(store: Store) -> None:
    audit = Audit(store)
    for number in range(5):
        audit.note(entry(f"/{number}", run="r_1" if number % 2 else None))
    await store.transact("test.wait", lambda connection: None)

    newest = await audit.newest(3)
    assert [e.object for e in newest] == ["/2", "/3", "/4"]
    assert [e.seq for e in newest] == [3, 4, 5]
    assert newest[0].allowed is True
    assert newest[0].at == 1.5
    assert [e.object for e in await audit.newest(10, run="r_1")] == ["/1", "/3"]


@pytest.mark.parametrize("sql", ["update audit set allowed = 0", "delete from audit"])
async def test_an_entry_can_be_neither_changed_nor_deleted(store: Store, sql: str) -> None:
    audit = Audit(store)
    await store.transact("test.stage", lambda c: audit.stage(c, entry("/a", allowed=False)))

    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        await store.transact("test.tamper", lambda c: c.execute(sql))

    assert [e.allowed for e in await audit.newest(9)] == [False]


async def test_an_entry_is_gone_with_the_transaction_it_was_staged_in(store: Store) -> None:
    audit = Audit(store)

    def fail(connection: sqlite3.Connection) -> None:
        audit.stage(connection, entry("/never"))
        raise RuntimeError("the rest of the transaction failed")

    async with audit.follow(0) as entries:
        with pytest.raises(RuntimeError):
            await store.transact("test.fail", fail)
        audit.note(entry("/after"))
        with anyio.fail_after(5):
            assert (await anext(entries)).object == "/after"


async def test_followers_see_what_was_and_what_comes_each_at_its_own_pace(store: Store) -> None:
    audit = Audit(store)
    audit.note(entry("/before"))
    async with audit.follow(0) as slow, audit.follow(1) as quick:
        for number in range(600):
            audit.note(entry(f"/{number}", run="r_7" if number == 300 else None))
        with anyio.fail_after(10):
            assert [(await anext(quick)).object for _ in range(600)][-1] == "/599"
            seen = [await anext(slow) for _ in range(601)]
        assert [e.seq for e in seen] == list(range(1, 602))
    async with audit.follow(0, run="r_7") as one:
        with anyio.fail_after(5):
            assert (await anext(one)).object == "/300"


async def test_a_follower_that_left_is_not_rung_any_more(store: Store) -> None:
    audit = Audit(store)
    async with audit.follow(0):
        pass
    audit.note(entry("/a"))
    await store.transact("test.wait", lambda connection: None)

    assert len(await audit.newest(9)) == 1


async def test_why_is_told_from_the_entries_each_decision_once(store: Store) -> None:
    rules = read_files([("policy/peer.csv", b"p, gil@laptop, peer, fs.read, /a/**, allow\n")]).rules
    assert rules
    engine = IndexedEngine(rules)
    gil = Subject("ed25519:gil", frozenset({"*", "laptop", "gil@laptop"}))
    audit = Audit(store)
    for path in ("/a/1", "/b/1", "/a/1"):
        request = AccessRequest(gil, "peer", "fs.read", path)
        audit.note(decided(request, engine.decide(request), at=1.0, run="r_1"))
    await store.transact("test.wait", lambda connection: None)

    allowed, denied = explain(await audit.newest(9, run="r_1"))

    assert (allowed.object, allowed.times, allowed.rule) == ("/a/1", 2, "policy/peer.csv:1")
    assert allowed.text == "p, gil@laptop, peer, fs.read, /a/**, allow"
    assert (denied.object, denied.allowed, denied.rule) == ("/b/1", False, None)
    assert denied.nearest == f"policy/peer.csv:1: {allowed.text}"
    assert denied.suggestion == "p, gil@laptop, peer, fs.read, /b/1, allow"


def test_a_decision_is_one_sentence() -> None:
    rules = read_files([("policy/x.csv", b"p, ed25519:%b, *, *, **, allow\n" % (b"A" * 43))]).rules
    assert rules
    key = "ed25519:" + "A" * 43
    request = AccessRequest(Subject(key, frozenset({"*", key})), "peer", "kv.read", "k")

    assert sentence(request, IndexedEngine(rules).decide(request)) == (
        f"{key} may kv.read k in peer: policy/x.csv:1 allows it"
    )
