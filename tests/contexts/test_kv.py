"""The key-value store on a real database: limits that hold, listings in order, contexts apart."""

from __future__ import annotations

import tempfile
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orvalho.contexts.kv import MIGRATIONS, KeyValue, KvLimits, KvUse, check_key
from orvalho.errors import InvalidInput, LimitExceeded
from orvalho.store import open_store

pytestmark = pytest.mark.anyio

LIMITS = KvLimits(value_bytes=100, total_bytes=300, items=5)


@asynccontextmanager
async def kv_in(directory, context="gil", limits=LIMITS):
    async with open_store(directory / "orvalho.db", [MIGRATIONS]) as store:
        yield KeyValue(store, context, limits)


async def test_what_was_put_is_there_after_a_restart(tmp_path):
    async with kv_in(tmp_path) as kv:
        await kv.put("greeting", '{"text": "olá"}')
        assert await kv.get("greeting") == '{"text": "olá"}'

    async with kv_in(tmp_path) as kv:
        assert await kv.get("greeting") == '{"text": "olá"}'
        assert await kv.get("other") is None


async def test_a_value_is_replaced_and_deleted(tmp_path):
    async with kv_in(tmp_path) as kv:
        await kv.put("k", "1")
        await kv.put("k", "22")
        assert await kv.usage() == KvUse(used_bytes=3, items=1)

        assert await kv.delete("k")
        assert not await kv.delete("k")
        assert await kv.get("k") is None
        assert await kv.usage() == KvUse(used_bytes=0, items=0)


async def test_contexts_do_not_see_each_other(tmp_path):
    async with open_store(tmp_path / "orvalho.db", [MIGRATIONS]) as store:
        gil, peer = KeyValue(store, "gil", LIMITS), KeyValue(store, "peer", LIMITS)
        await gil.put("k", '"gil"')
        await peer.put("k", '"peer"')
        await peer.delete("k")

        assert await gil.get("k") == '"gil"'
        assert await peer.list() == []
        assert await peer.usage() == KvUse(used_bytes=0, items=0)


async def test_a_listing_is_in_order_within_a_prefix_and_a_limit(tmp_path):
    async with kv_in(tmp_path) as kv:
        for key in ("b", "a/2", "a/1", "a", "a0"):
            await kv.put(key, "0")

        assert await kv.list() == ["a", "a/1", "a/2", "a0", "b"]
        assert await kv.list("a/") == ["a/1", "a/2"]
        assert await kv.list("a", limit=2) == ["a", "a/1"]
        assert await kv.list("%") == []
        with pytest.raises(InvalidInput):
            await kv.list("a", limit=0)


letters = st.text(st.sampled_from("a%_\ud7ff\ue000\U0010ffff\U0010fffe"), min_size=1, max_size=3)


@settings(max_examples=40, deadline=None)
@given(st.sets(letters, max_size=5), letters)
async def test_a_listing_holds_exactly_the_keys_with_the_prefix(keys, prefix):
    with tempfile.TemporaryDirectory() as directory:
        async with kv_in(Path(directory)) as kv:
            for key in keys:
                await kv.put(key, "0")

            assert await kv.list(prefix) == sorted(key for key in keys if key.startswith(prefix))


@pytest.mark.parametrize("key", ["", "a\n", "\0", "\x7f", "\u2028", "\ud800", "k" * 513, "é" * 257])
async def test_what_is_no_key_is_refused(tmp_path, key):
    async with kv_in(tmp_path) as kv:
        for operation in (kv.get(key), kv.put(key, "0"), kv.delete(key)):
            with pytest.raises(InvalidInput) as refusal:
                await operation
            assert refusal.value.where.isascii()


def test_keys_are_any_other_text():
    for key in ("a", "a/b", "../x", "é" * 256, "' or 1=1 --", "😀"):
        assert check_key(key) == key


@pytest.mark.parametrize("value", ["", "{", "undefined", "{'a': 1}", "1 2", '"\ud800"', "[" * 99])
async def test_what_is_not_json_is_refused(tmp_path, value):
    async with kv_in(tmp_path) as kv:
        with pytest.raises(InvalidInput, match="not JSON"):
            await kv.put("k", value)
        assert await kv.get("k") is None


async def test_each_limit_is_named_and_nothing_changes_when_it_is_hit(tmp_path):
    async with kv_in(tmp_path) as kv:
        with pytest.raises(LimitExceeded, match=r"^kv_value_bytes: .* 101"):
            await kv.put("k", '"' + "x" * 99 + '"')
        for key in "abc":
            await kv.put(key, '"' + "x" * 90 + '"')
        with pytest.raises(LimitExceeded, match=r"^kv_total_bytes: context gil"):
            await kv.put("d", '"' + "x" * 90 + '"')
        await kv.put("d", "0")
        await kv.put("e", "0")
        with pytest.raises(LimitExceeded, match=r"^kv_items: context gil"):
            await kv.put("f", "0")

        assert await kv.list() == ["a", "b", "c", "d", "e"]
        await kv.put("e", "1")


async def test_a_limit_that_was_lowered_still_lets_values_shrink(tmp_path):
    async with kv_in(tmp_path) as kv:
        await kv.put("k", '"' + "x" * 90 + '"')
    async with kv_in(tmp_path, limits=KvLimits(value_bytes=100, total_bytes=10, items=0)) as kv:
        await kv.put("k", '"' + "x" * 50 + '"')
        with pytest.raises(LimitExceeded):
            await kv.put("k", '"' + "x" * 60 + '"')


async def test_limits_hold_under_many_writers_at_once(tmp_path):
    refused = []
    async with kv_in(tmp_path) as kv:

        async def put(number):
            try:
                await kv.put(f"k{number}", "0")
            except LimitExceeded as error:
                refused.append(error)

        async with anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(put, number)

        assert len(refused) == 15
        assert await kv.usage() == KvUse(used_bytes=15, items=5)
