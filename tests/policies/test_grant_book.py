"""What a node knows of grants: kept, used, revoked, and there again after a restart."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from orvalho.errors import Denied, InvalidInput, NotFound
from orvalho.policies import grant_book
from orvalho.policies.grant_book import MIGRATIONS, GrantBook
from orvalho.policies.grants import Grant, narrow
from orvalho.store import open_store
from tests.policies.test_grants import BOB, CAROL, link, new

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def book(path: Path) -> AsyncIterator[GrantBook]:
    async with open_store(path / "db", [MIGRATIONS]) as store:
        found = GrantBook(store)
        await found.load()
        yield found


def chain() -> tuple[Grant, Grant, Grant]:
    first = new()
    second = narrow(first, link(holder=CAROL.key, until=5000.0), BOB)
    return first, second, narrow(second, link(), CAROL)


async def test_what_is_kept_is_there_after_a_restart(tmp_path: Path) -> None:
    first, second, _ = chain()
    async with book(tmp_path) as grants:
        assert await grants.keep(first, "issued", 1.0)
        assert not await grants.keep(first, "issued", 2.0)
        assert await grants.keep(second, "kept", 3.0)
    async with book(tmp_path) as grants:
        assert [(each.grant, each.whence) for each in grants.all()] == [
            (first, "issued"),
            (second, "kept"),
        ]
        assert grants.kept() == [second]
        await grants.forget(second.id)
    async with book(tmp_path) as grants:
        assert grants.kept() == []


async def test_a_revoked_link_cuts_all_that_was_made_of_it(tmp_path: Path) -> None:
    first, second, third = chain()
    async with book(tmp_path) as grants:
        assert await grants.revoke(second.id, 10.0)
        assert not await grants.revoke(second.id, 11.0)
    async with book(tmp_path) as grants:
        assert grants.fault(first, 20.0) is None
        for cut in (second, third):
            fault = grants.fault(cut, 20.0)
            assert fault is not None
            assert f"grant {second.id} was revoked" in fault.message


async def test_a_grant_ends_by_the_clock_here_at_its_earliest_moment(tmp_path: Path) -> None:
    """A holder whose clock is wrong can only shorten it."""
    first, second, _ = chain()
    late = narrow(second, link(until=9_000_000.0), CAROL)
    async with book(tmp_path) as grants:
        assert grants.fault(first, 1e12) is None
        for each in (second, late):
            assert grants.fault(each, 4999.9) is None
            fault = grants.fault(each, 5000.0)
            assert fault is not None
            assert "has ended" in fault.message


async def test_so_many_runs_and_no_more_and_each_once(tmp_path: Path) -> None:
    grant = new(uses=2)
    child = narrow(grant, link(holder=CAROL.key), BOB)
    async with book(tmp_path) as grants:
        await grants.use(grant, "r_1", 1.0)
        # Begun again after a crash: the same run.
        await grants.use(grant, "r_1", 2.0)
        await grants.use(child, "r_2", 3.0)
    async with book(tmp_path) as grants:
        for each in (grant, child):
            with pytest.raises(Denied, match="is for 2 runs"):
                await grants.use(each, "r_3", 4.0)
        await grants.use(child, "r_2", 5.0)


async def test_a_use_is_told_and_the_chain_is_known_by_it(tmp_path: Path) -> None:
    _, second, third = chain()
    async with book(tmp_path) as grants:
        await grants.use(third, "r_1", 7.0)
    async with book(tmp_path) as grants:
        (held,) = grants.all()
        assert (held.grant, held.whence) == (third, "used")
        for id_ in third.ids:
            use = grants.use_of(id_)
            assert use is not None
            assert (use.uses, use.last_used_at) == (1, 7.0)
        found, known = grants.find(second.id.lower()[:12])
        assert (found, known.grant) == (second.id, third)


async def test_who_makes_many_out_of_one_does_not_fill_the_book(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grant_book, "_MAX_USED", 3)
    grant = new()
    async with book(tmp_path) as grants:
        for number in range(6):
            await grants.use(narrow(grant, link(uses=10), BOB), f"r_{number}", 1.0)
        assert len(grants.all()) == 3
    async with book(tmp_path) as grants:
        assert len(grants.all()) == 3


async def test_an_unknown_and_a_vague_id_are_told(tmp_path: Path) -> None:
    async with book(tmp_path) as grants:
        with pytest.raises(NotFound, match="no grant g_0 is known"):
            grants.find("g_0")
        made: list[Grant] = []
        while len({each.id[2] for each in made}) == len(made):
            made.append(new())
            await grants.keep(made[-1], "issued", 1.0)
        letter = next(
            each.id[2]
            for at, each in enumerate(made)
            if each.id[2] in {one.id[2] for one in made[:at]}
        )
        with pytest.raises(InvalidInput, match="2 grants begin with"):
            grants.find(f"g_{letter}")
