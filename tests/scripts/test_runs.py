"""The table of runs: once is once, also across crashes and restarts."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from orvalho.errors import Conflict, InvalidInput, NotFound, Untrusted
from orvalho.policies.quota import Usage
from orvalho.scripts import runs
from orvalho.scripts.messages import ScriptEnded, ScriptError, ScriptOutput
from orvalho.scripts.runs import Run, Runs
from orvalho.scripts.signing import SKEW_S
from orvalho.store import Store, open_store

pytestmark = pytest.mark.anyio

RUN = Run(
    id="r_01ARZ3NDEKTSV4RRFFQ69G5FAV",
    direction="sent",
    caller="gil@laptop",
    target="peer@phone",
    peer_key="ed25519:x",
    filename="count.js",
    digest="00ff",
    needs=("target.fs.read:/photos/**",),
    wants=("target.kv.write:*",),
    exposed=("/notes:rw",),
    created_at=10.0,
    expires_at=100.0,
)
OTHER = msgspec.structs.replace(RUN, id="r_01ARZ3NDEKTSV4RRFFQ69G5FAW")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with open_store(tmp_path / "x.db", [runs.MIGRATIONS]) as opened:
        yield opened


def add(connection: sqlite3.Connection, run: Run = RUN) -> None:
    runs.stage_new(connection, run, envelope=b"e", source="1 + 1", params=b"null")


def ended(outcome: str = "done", run: Run = RUN) -> ScriptEnded:
    lines = tuple(
        ScriptOutput(run=run.id, seq=seq, level="log", text=str(seq), at=1.0) for seq in range(3)
    )
    error = ScriptError(code="denied", message="no") if outcome == "refused" else None
    return ScriptEnded(
        run=run.id, outcome=outcome, result=b"2", error=error, receipt=b"r", logs=lines
    )


async def test_a_run_goes_from_queued_to_ended(store: Store) -> None:
    table = Runs(store)
    await store.transact("t", add)
    assert await table.find(RUN.id) == RUN

    assert await store.transact("t", lambda c: runs.stage_started(c, RUN.id, 11.0))
    usage = Usage(wall_ms=5)
    await store.transact("t", lambda c: runs.stage_ended(c, ended(), at=12.0, usage=usage))

    found = await table.find(RUN.id)
    assert (found.state, found.outcome, found.started_at, found.ended_at) == (
        "ended",
        "done",
        11.0,
        12.0,
    )
    assert found.usage == usage
    bodies = await table.bodies(RUN.id)
    assert (bodies.source, bodies.params, bodies.result, bodies.receipt) == (
        "1 + 1",
        b"null",
        b"2",
        b"r",
    )
    assert [line.text for line in await table.logs(RUN.id)] == ["0", "1", "2"]
    assert [line.text for line in await table.logs(RUN.id, after=1)] == ["2"]


async def test_a_run_ends_once_and_how_it_ended_first_stays(store: Store) -> None:
    await store.transact("t", add)

    assert await store.transact("t", lambda c: runs.stage_ended(c, ended("refused"), at=1.0))
    assert not await store.transact("t", lambda c: runs.stage_ended(c, ended(), at=2.0))
    assert not await store.transact("t", lambda c: runs.stage_started(c, RUN.id, 3.0))

    found = await Runs(store).find(RUN.id)
    assert found.outcome == "refused"
    assert found.error == ScriptError(code="denied", message="no")
    assert found.ended_at == 1.0


async def test_lines_that_come_twice_are_kept_once_and_only_for_their_run(store: Store) -> None:
    await store.transact("t", lambda c: (add(c), add(c, OTHER)))
    await store.transact("t", lambda c: runs.stage_output(c, ended().logs[:2]))
    mixed = msgspec.structs.replace(ended(), logs=(*ended().logs, *ended(run=OTHER).logs))
    await store.transact("t", lambda c: runs.stage_ended(c, mixed, at=2.0))

    assert len(await Runs(store).logs(RUN.id)) == 3
    assert await Runs(store).logs(OTHER.id) == []


async def test_an_id_names_one_run(store: Store) -> None:
    await store.transact("t", add)

    with pytest.raises(Conflict):
        await store.transact("t", add)


CAME = msgspec.structs.replace(RUN, direction="received", state="ended", outcome="done")


def let_go(connection: sqlite3.Connection, now: float) -> None:
    """As pruning does."""
    runs.stage_outlived(connection, [CAME.id], now)
    connection.execute("delete from runs where id = ?", [CAME.id])


async def test_a_replay_is_refused_also_after_a_restart(tmp_path: Path) -> None:
    for attempt in range(2):
        async with open_store(tmp_path / "x.db", [runs.MIGRATIONS]) as store:
            if attempt == 0:
                await store.transact("t", lambda c: add(c, CAME))
            with pytest.raises(Untrusted, match="runs once"):
                await store.transact("t", lambda c: add(c, CAME))


async def test_an_id_of_ours_that_comes_from_elsewhere_is_no_replay(store: Store) -> None:
    await store.transact("t", add)

    assert not await store.read(lambda c: runs.was_seen(c, RUN.id))
    with pytest.raises(Conflict):
        await store.transact("t", lambda c: add(c, CAME))


async def test_a_run_id_outlives_its_row_as_long_as_its_signature_holds(store: Store) -> None:
    late = CAME.expires_at + 2 * SKEW_S
    for now in (50.0, late):
        await store.transact("t", lambda c: add(c, CAME))
        await store.transact("t", lambda c, now=now: let_go(c, now))  # type: ignore[misc]
        assert await store.read(lambda c: runs.seen_ids(c, 10)) == [CAME.id]
        with pytest.raises(Untrusted, match="runs once"):
            await store.transact("t", lambda c: add(c, CAME))
        await store.transact("t", lambda c: runs.stage_outlived(c, [], late))
        assert await store.read(lambda c: runs.was_seen(c, CAME.id))
        await store.transact("t", lambda c: runs.stage_outlived(c, [], late + 0.5))
        assert not await store.read(lambda c: runs.was_seen(c, CAME.id))
    await store.transact("t", lambda c: add(c, CAME))
    await store.transact("t", lambda c: let_go(c, late + 0.5))
    assert await store.read(lambda c: runs.seen_ids(c, 10)) == []


async def test_what_an_earlier_version_saw_is_a_replay(store: Store) -> None:
    see = "insert into seen_runs values (?, 160.0)"
    await store.transact("t", lambda c: c.execute(see, [CAME.id]).rowcount)

    with pytest.raises(Untrusted, match="runs once"):
        await store.transact("t", lambda c: add(c, CAME))


async def test_a_run_is_found_by_the_beginning_of_its_id(store: Store) -> None:
    table = Runs(store)
    await store.transact("t", lambda c: (add(c), add(c, OTHER)))

    assert (await table.find(RUN.id.lower())).id == RUN.id
    assert (await table.find(OTHER.id[2:])).id == OTHER.id
    with pytest.raises(InvalidInput, match="several") as caught:
        await table.find("01ar")
    assert RUN.id in (caught.value.hint or "")
    with pytest.raises(NotFound):
        await table.find("r_7")
    for nonsense in ("", "r_", "'; drop table runs", "%", "r_*"):
        with pytest.raises(InvalidInput, match="no run id"):
            await table.find(nonsense)
    with pytest.raises(NotFound):
        await table.bodies("r_7")


async def test_the_newest_run_comes_first_and_the_open_ones_are_known(store: Store) -> None:
    table = Runs(store)
    await store.transact("t", lambda c: (add(c), add(c, OTHER)))
    await store.transact("t", lambda c: runs.stage_ended(c, ended(), at=1.0))

    assert [run.id for run in await table.newest(5)] == [OTHER.id, RUN.id]
    assert [run.id for run in await table.newest(1)] == [OTHER.id]
    assert [run.id for run in await table.open_runs("sent")] == [OTHER.id]
    assert await table.open_runs("received") == []


async def test_what_nobody_ran_in_time_expires(store: Store) -> None:
    await store.transact("t", add)

    assert await store.transact("t", lambda c: runs.stage_expired(c, 100.0)) == []
    assert await store.transact("t", lambda c: runs.stage_expired(c, 101.0)) == [RUN.id]
    assert (await Runs(store).find(RUN.id)).outcome == "expired"


async def test_what_runs_here_or_runs_already_does_not_expire(store: Store) -> None:
    received = msgspec.structs.replace(OTHER, direction="received")
    await store.transact("t", lambda c: (add(c), add(c, received)))
    await store.transact("t", lambda c: runs.stage_started(c, RUN.id, 1.0))

    assert await store.transact("t", lambda c: runs.stage_expired(c, 101.0)) == []


async def test_peeking_takes_the_whole_id_and_raises_nothing(store: Store) -> None:
    await store.transact("t", add)

    assert await Runs(store).peek(RUN.id) == RUN
    assert await Runs(store).peek(RUN.id[:-1]) is None
