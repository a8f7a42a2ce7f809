"""Nodes that wait for approval: found by name or key, kept across restarts."""

from __future__ import annotations

from pathlib import Path

import pytest

from orvalho.contexts import held
from orvalho.contexts.held import HeldNode, HeldNodes
from orvalho.contexts.identity import Key, key_text
from orvalho.errors import Conflict, NotFound
from orvalho.store import open_store

pytestmark = pytest.mark.anyio
ANN, BEN = Key(b"a" * 32), Key(b"b" * 32)


def node(key: Key, name: str, asked_at: float = 1.0) -> HeldNode:
    return HeldNode(
        node_key=key, name=name, is_guest=False, introduction=b"opaque", asked_at=asked_at
    )


async def test_who_waits_is_found_by_name_or_key_after_a_restart(tmp_path: Path) -> None:
    async with open_store(tmp_path / "db", (held.MIGRATIONS,)) as store:
        nodes = HeldNodes(store)
        await nodes.put(node(ANN, "phone2", asked_at=2.0))
        await nodes.put(node(BEN, "tablet", asked_at=1.0))
    async with open_store(tmp_path / "db", (held.MIGRATIONS,)) as store:
        nodes = HeldNodes(store)
        assert [each.name for each in await nodes.all()] == ["tablet", "phone2"]
        assert await nodes.named("phone2") == await nodes.named(key_text(ANN))
        with pytest.raises(NotFound) as told:
            await nodes.named("phone3")
        assert told.value.hint == "did you mean phone2?"
        await nodes.remove(ANN)
        assert await nodes.find(ANN) is None


async def test_two_of_one_name_are_told_apart_by_their_keys(tmp_path: Path) -> None:
    async with open_store(tmp_path / "db", (held.MIGRATIONS,)) as store:
        nodes = HeldNodes(store)
        await nodes.put(node(ANN, "phone2"))
        await nodes.put(node(BEN, "phone2"))
        with pytest.raises(Conflict, match="which key") as told:
            await nodes.named("phone2")
        assert key_text(ANN) in told.value.message
        assert (await nodes.named(key_text(BEN))).node_key == BEN


async def test_no_more_wait_than_there_is_room_for(tmp_path: Path) -> None:
    async with open_store(tmp_path / "db", (held.MIGRATIONS,)) as store:
        nodes = HeldNodes(store)
        for number in range(1000):
            await nodes.put(node(Key(number.to_bytes(32)), "phone"))
        with pytest.raises(Conflict, match="too many"):
            await nodes.put(node(ANN, "one more"))
        # Who waits already may still be rejected, or asked to wait again.
        await nodes.put(node(Key((1).to_bytes(32)), "tablet"))
