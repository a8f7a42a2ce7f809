"""Keys that are refused: durable, lifted by a new pairing, and not revoked twice by old news."""

from __future__ import annotations

from pathlib import Path

import anyio

from orvalho.contexts.identity import Key
from orvalho.contexts.refused import MIGRATIONS, Refusal, open_refused_keys
from orvalho.store import open_store

PHONE, LAPTOP, ME = Key(bytes([1]) * 32), Key(bytes([2]) * 32), Key(bytes([3]) * 32)
OWNER, OTHER = Key(bytes([4]) * 32), Key(bytes([5]) * 32)


def test_a_refusal_outlives_a_restart_until_it_is_lifted(tmp_path: Path) -> None:
    revoked = Refusal(PHONE, LAPTOP, "revoked", "phone2", "laptop", 50.0)

    async def tell() -> None:
        async with open_store(tmp_path / "db", (MIGRATIONS,)) as store:
            refused = await open_refused_keys(store)
            assert PHONE not in refused
            await refused.add(revoked)
            await refused.add(Refusal(PHONE, ME, "removed", "phone2", "this node", 60.0))
        async with open_store(tmp_path / "db", (MIGRATIONS,)) as store:
            refused = await open_refused_keys(store)
            assert PHONE in refused
            assert refused.revoked(PHONE) == revoked
            await refused.lift(PHONE, OWNER)
            assert PHONE not in refused
            assert refused.revoked(PHONE) is None
        async with open_store(tmp_path / "db", (MIGRATIONS,)) as store:
            refused = await open_refused_keys(store)
            assert PHONE not in refused
            assert refused.in_force() == []
            # What was lifted does not come back by being told again; a later revocation does.
            assert not refused.is_news(PHONE, LAPTOP, 50.0)
            assert not refused.is_news(PHONE, LAPTOP, 49.0)
            assert refused.is_news(PHONE, LAPTOP, 51.0)
            assert refused.is_news(PHONE, PHONE, 1.0)

    anyio.run(tell)


def test_a_further_revocation_is_later_also_when_the_clock_was_set_back(tmp_path: Path) -> None:
    async def tell() -> None:
        async with open_store(tmp_path / "db", (MIGRATIONS,)) as store:
            refused = await open_refused_keys(store)
            assert refused.next_at(PHONE, ME, 100.0) == 100.0
            await refused.add(Refusal(PHONE, ME, "revoked", "phone2", "this node", 100.0))
            await refused.lift(PHONE, OWNER)
            assert refused.next_at(PHONE, ME, 100.0 - 86400) == 101.0

    anyio.run(tell)


def test_a_node_that_changes_its_key_stays_refused_by_its_owner(tmp_path: Path) -> None:
    async def tell() -> None:
        async with open_store(tmp_path / "db", (MIGRATIONS,)) as store:
            refused = await open_refused_keys(store)
            await refused.add(
                Refusal(PHONE, LAPTOP, "revoked", "phone2", "laptop", 50.0, owner_key=OWNER)
            )
        async with open_store(tmp_path / "db", (MIGRATIONS,)) as store:
            refused = await open_refused_keys(store)
            changed = Key(bytes([9]) * 32)
            assert changed not in refused
            assert refused.refuses(changed, OWNER)
            assert not refused.refuses(changed, OTHER)
            await refused.lift(changed, OWNER)
            assert not refused.refuses(PHONE, OWNER)

    anyio.run(tell)
