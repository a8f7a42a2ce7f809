"""Old history goes, what is there now stays, and the horizon says where history begins."""

from __future__ import annotations

import os
from pathlib import Path

import anyio
import pytest

from orvalho.contexts import timeline
from orvalho.contexts.pruning import Terms
from orvalho.errors import NotFound
from tests.contexts.keeping import FOLDER, Kept, kept

pytestmark = pytest.mark.anyio

LARGE = 50_000


async def _three(it: Kept) -> list[str]:
    return [
        await it.change({"/a": b"1" * LARGE, "/gone": b"x"}, {"n": "1", "gone": "1"}, at=1000.0),
        await it.change({"/a": b"2" * LARGE, "/gone": None}, {"n": "2", "gone": None}, at=2000.0),
        await it.change({"/a": b"3" * LARGE, "/d": FOLDER}, {"n": "3"}, at=3000.0),
    ]


async def test_what_is_older_goes_and_the_rest_can_still_be_looked_at(tmp_path: Path) -> None:
    async with kept(tmp_path) as it:
        one, _, three = await _three(it)
        await it.committer.settle()
        planned = await it.past.pruning.plan(Terms(since=2500.0))
        pruned = await it.past.pruning.prune(Terms(since=2500.0))
        assert pruned == planned
        assert (pruned.commits, pruned.contents_bytes) == (2, LARGE + 1)
        assert await it.problems() == []

        read = it.store.read
        assert [each.commit.id for each in await read(lambda c: timeline.log(c, "alice", 9))] == [
            three
        ]
        assert await read(lambda c: timeline.commits_named(c, one)) == []
        assert await read(lambda c: timeline.seq_at(c, "alice", 1500.0)) == 0
        assert await read(lambda c: timeline.first_at(c, "alice")) == 2000.0
        seq = await read(lambda c: timeline.seq_at(c, "alice", 2400.0))
        tree = await read(lambda c: timeline.tree_at(c, "alice", seq))
        assert list(tree) == ["/a"]
        assert await it.committer.contents.read(tree["/a"].sha256) == b"2" * LARGE
        assert await read(lambda c: timeline.values_at(c, "alice", seq)) == {"n": "2"}
        # The last one can still be taken back.
        await it.undo(three)
        assert it.on_disk() == {"/a": b"2" * LARGE}
        assert await it.values() == {"n": "2"}


async def test_all_of_the_past_can_go_and_the_present_stays(tmp_path: Path) -> None:
    async with kept(tmp_path) as it:
        await _three(it)
        await it.committer.settle()
        disk, values = it.on_disk(), await it.values()
        await it.past.pruning.prune(Terms(since=1e12))
        assert (it.on_disk(), await it.values()) == (disk, values)
        assert await it.log() == []
        assert await it.problems() == []
        # A second time there is nothing to do, and what comes next is kept again.
        assert (await it.past.pruning.prune(Terms(since=1e12))).versions == 0
        again = await it.change({"/a": b"4"})
        await it.undo(again)
        assert it.on_disk() == disk


async def test_no_more_is_kept_than_it_may_be_and_the_oldest_goes_first(tmp_path: Path) -> None:
    async with kept(tmp_path) as it:
        await _three(it)
        await it.committer.settle()
        await it.past.pruning.prune(Terms(since=0.0, max_bytes=LARGE + 10))
        found = await it.store.read(lambda c: timeline.log(c, "alice", 9))
        assert [each.commit.at for each in found] == [3000.0]
        assert (await it.past.pruning.kept()).past_bytes == LARGE
        await it.past.pruning.prune(Terms(since=0.0, max_bytes=LARGE - 1))
        assert (await it.past.pruning.kept()).past_bytes == 0
        assert await it.problems() == []


async def test_what_is_not_on_the_disk_yet_is_not_pruned(tmp_path: Path) -> None:
    async with kept(tmp_path) as it:
        await it.change({"/a": b"1"})
        assert (await it.past.pruning.prune(Terms(since=1e12))).commits == 0


async def test_a_content_that_two_contexts_share_stays_as_long_as_one_needs_it(
    tmp_path: Path,
) -> None:
    async with kept(tmp_path) as it:
        bob, _ = await it.contexts.create("bob", now=1000.0)
        await it.change({"/a": b"s" * LARGE})
        await it.change({"/b": b"s" * LARGE}, workspace=it.workspace(bob))
        await it.change({"/a": None})
        await it.committer.settle()
        await it.past.pruning.prune(Terms(since=1e12))
        assert (await it.past.pruning.kept()).contents == 1
        assert await it.problems() == []


async def test_a_content_that_a_commit_is_about_to_name_is_not_swept_away(tmp_path: Path) -> None:
    async with kept(tmp_path) as it:
        await it.change({"/a": b"s" * LARGE})
        await it.change({"/a": None})
        await it.committer.settle()
        terms = Terms(since=1e12)

        async def commit() -> None:
            for number in range(20):
                await it.change({f"/b{number}": b"s" * LARGE})
                await it.change({f"/b{number}": None})

        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(commit)
                for _ in range(20):
                    await it.committer.settle()
                    await it.past.pruning.prune(terms)
        assert await it.problems() == []


async def test_contents_without_a_name_are_swept_at_a_start(tmp_path: Path) -> None:
    async with kept(tmp_path) as it:
        await it.change({"/a": b"1" * LARGE})
        stray = tmp_path / "contents/ab" / ("c" * 62)
        stray.parent.mkdir(exist_ok=True)
        stray.write_bytes(b"left by a crash")
        assert await it.problems() == [f"the content ab{'c' * 10} is needed by nobody"]
        await it.past.begin()
        assert not stray.exists()
        assert await it.problems() == []


@pytest.mark.parametrize("harm", ["content", "damage", "tree", "row", "draft"])
async def test_a_check_finds_what_is_not_whole(tmp_path: Path, harm: str) -> None:
    async with kept(tmp_path) as it:
        await it.change({"/a": b"1" * LARGE, "/b": b"small"})
        (large,) = (tmp_path / "contents").glob("??/*")
        if harm == "content":
            large.unlink()
        elif harm == "damage":
            large.write_bytes(b"1" * (LARGE - 1) + b"2")
        elif harm == "tree":
            file = it.tree / "a"
            status = file.stat()
            file.write_bytes(b"2" * LARGE)
            os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
        elif harm == "row":
            await it.store.transact(
                "test.harm", lambda c: c.execute("delete from files_now where path = '/b'") and None
            )
            (it.tree / "b").unlink()
        else:
            (it.tree / ".~0123456789abcdef").write_bytes(b"")
        problems = await it.problems()
        assert len(problems) == 1, problems


async def test_a_content_that_is_gone_is_said_to_be(tmp_path: Path) -> None:
    async with kept(tmp_path) as it:
        with pytest.raises(NotFound, match="not kept"):
            await it.committer.contents.read("0" * 64)
