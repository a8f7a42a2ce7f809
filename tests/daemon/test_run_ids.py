"""What a node remembers of run ids: replays, and cancels that come early."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from orvalho.contexts.identity import Key
from orvalho.contexts.names import new_run_id
from orvalho.daemon.handlers.run_ids import EarlyCancels, SeenRuns
from orvalho.scripts import runs
from orvalho.scripts.runs import Run
from orvalho.scripts.signing import SKEW_S
from orvalho.store import Store, open_store

pytestmark = pytest.mark.anyio


def run_id(number: int) -> str:
    return new_run_id(1_800_000_000.0, number.to_bytes(10))


async def see(store: Store, run: str, now: float) -> None:
    came = Run(
        id=run,
        direction="received",
        caller="gil@laptop",
        target="peer@phone",
        peer_key="ed25519:x",
        filename="count.js",
        digest="00ff",
        needs=(),
        created_at=now,
        expires_at=now + 1e6,
    )
    await store.transact(
        "see", lambda it: runs.stage_new(it, came, envelope=b"e", source="1", params=b"null")
    )


async def test_a_run_that_an_earlier_daemon_saw_is_known(tmp_path: Path) -> None:
    now = time.time()
    async with open_store(tmp_path / "x.db", (runs.MIGRATIONS,)) as store:
        await see(store, run_id(1), now - 10)
        seen = SeenRuns(store)
        assert await seen.has(run_id(1), now - 10)
        assert await seen.has(run_id(1), now + SKEW_S - 10), "signed by a clock that is ahead"
        assert not await seen.has(run_id(2), now - 10)


async def test_a_new_run_costs_no_look_into_the_database(tmp_path: Path) -> None:
    async with open_store(tmp_path / "x.db", (runs.MIGRATIONS,)) as store:
        seen = SeenRuns(store)
    # The store is closed: whoever reads it now fails.
    assert not await seen.has(run_id(1), time.time() + 2 * SKEW_S)
    seen.add(run_id(1))
    assert await seen.has(run_id(1), time.time() + 2 * SKEW_S)
    seen.forget(run_id(1))
    assert not await seen.has(run_id(1), time.time() + 2 * SKEW_S)


async def test_what_earlier_daemons_saw_is_learnt_once(tmp_path: Path) -> None:
    now = time.time()
    async with open_store(tmp_path / "x.db", (runs.MIGRATIONS,)) as store:
        await see(store, run_id(1), now)
        seen, small = SeenRuns(store), SeenRuns(store, most=1)
        await seen.load()
        await small.load()
        assert await small.has(run_id(1), now), "it may not hold them all, and asks"
    # The store is closed: whoever reads it now fails.
    assert await seen.has(run_id(1), now)
    assert not await seen.has(run_id(2), now)


async def test_of_more_than_memory_holds_none_is_forgotten(tmp_path: Path) -> None:
    now = time.time()
    async with open_store(tmp_path / "x.db", (runs.MIGRATIONS,)) as store:
        seen = SeenRuns(store, most=3)
        for number in range(10):
            await see(store, run_id(number), now)
            seen.add(run_id(number))
        for number in range(10):
            assert await seen.has(run_id(number), time.time())


async def test_one_peers_early_cancels_push_out_no_others() -> None:
    cancels, quiet, loud = EarlyCancels(), Key(b"q" * 32), Key(b"l" * 32)
    cancels.add(quiet, run_id(0))
    for number in range(5000):
        cancels.add(loud, run_id(number))
    assert cancels.has(quiet, run_id(0))
    assert cancels.has(loud, run_id(4999))
    assert not cancels.has(loud, run_id(0)), "its own are bounded"
    assert not cancels.has(quiet, run_id(4999))
