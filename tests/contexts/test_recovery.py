"""What a crash left between a commit and its last rename is finished at the next start."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

import pytest

from orvalho.contexts import history, timeline
from orvalho.errors import Unavailable
from tests.contexts.keeping import FOLDER, Kept, kept

pytestmark = pytest.mark.anyio


class Cut:
    """After the next commit of a run nothing more comes to the disk."""

    def __init__(self) -> None:
        self.is_armed = False

    def __call__(self, phase: str, names: Sequence[str]) -> None:
        if self.is_armed and phase == "after" and "run.ended" in names:
            self.is_armed = False
            raise sqlite3.OperationalError("the power went away")


async def _unplaced(it: Kept, cut: Cut, files: dict[str, object]) -> None:
    """A commit whose files did not come into the tree before the crash."""
    cut.is_armed = True
    with pytest.raises(Unavailable):
        await it.change(files)


async def test_what_was_committed_comes_into_the_tree(tmp_path: Path) -> None:
    cut = Cut()
    async with kept(tmp_path, cut) as it:
        await it.change({"/a": b"0", "/gone": b"x", "/was": b"file"})
        await it.committer.settle()
        files = {"/a": b"1" * 50_000, "/gone": None, "/d": FOLDER, "/d/b": b"b"}
        await _unplaced(it, cut, files)
        assert it.on_disk()["/a"] == b"0"
    async with kept(tmp_path) as it:
        assert it.on_disk() == {"/a": b"1" * 50_000, "/d": FOLDER, "/d/b": b"b", "/was": b"file"}
        assert await it.problems() == []


async def test_an_edit_by_hand_after_the_crash_stays(tmp_path: Path) -> None:
    cut = Cut()
    async with kept(tmp_path, cut) as it:
        await it.change({"/a": b"0"})
        await _unplaced(it, cut, {"/a": b"1", "/b": b"1"})
        (it.tree / "a").write_bytes(b"by hand")
    async with kept(tmp_path) as it:
        assert it.on_disk() == {"/a": b"by hand", "/b": b"1"}
        assert (await it.log())[-1] == ("hand", "owner", "+0 ~1 -0")
        assert await it.problems() == []


async def test_what_a_loss_of_power_tore_is_kept_and_written_again(tmp_path: Path) -> None:
    cut = Cut()
    async with kept(tmp_path, cut) as it:
        await it.change({"/a": b"0"})
        await _unplaced(it, cut, {"/a": b"1"})
        (it.tree / "a").write_bytes(b"")
        await it.store.transact("test.boot", lambda c: history.stage_boot(c, "another"))
    async with kept(tmp_path) as it:
        assert it.on_disk() == {"/a": b"1"}
        assert [cause for cause, _, _ in await it.log()] == ["run", "run", "hand", "run"]
        assert await it.problems() == []


async def test_a_directory_that_was_filled_by_hand_meanwhile_stays(tmp_path: Path) -> None:
    """Its removal would fail for ever."""
    cut = Cut()
    async with kept(tmp_path, cut) as it:
        await it.change({"/d": FOLDER, "/d/a": b"0"})
        await _unplaced(it, cut, {"/d": None})
        (it.tree / "d/by-hand").write_bytes(b"x")
    async with kept(tmp_path) as it:
        assert it.on_disk() == {"/d": FOLDER, "/d/by-hand": b"x"}
        assert await it.problems() == []


@pytest.mark.parametrize("what", ["gone", "file", "link"])
async def test_a_directory_that_is_no_more_does_not_hold_recovery_up(
    tmp_path: Path, what: str
) -> None:
    cut = Cut()
    async with kept(tmp_path, cut) as it:
        await it.change({"/d": FOLDER})
        await _unplaced(it, cut, {"/d/a": b"1", "/z": b"1"})
        (it.tree / "d").rmdir()
        if what == "file":
            (it.tree / "d").write_bytes(b"by hand")
        elif what == "link":
            (it.tree / "d").symlink_to(tmp_path)
    async with kept(tmp_path) as it:
        assert (it.tree / "z").read_bytes() == b"1"
        assert not any(it.committer.is_late(seq) for seq in range(20))
        assert await it.problems() == []
        # What the commit said is in the history still.
        seq = 2
        tree = await it.store.read(lambda c: timeline.tree_at(c, "alice", seq))
        assert await it.committer.contents.read(tree["/d/a"].sha256) == b"1"


async def test_an_edit_in_the_last_moment_before_the_rename_is_not_lost(tmp_path: Path) -> None:
    edited: list[object] = []

    def edit(phase: str, names: Sequence[str]) -> None:
        if edited == ["soon"] and phase == "after" and "run.ended" in names:
            edited.append((tmp_path / "contexts/alice/a").write_bytes(b"by hand"))

    async with kept(tmp_path, edit) as it:
        await it.change({"/a": b"0", "/b": b"0"})
        edited.append("soon")
        await it.change({"/a": b"1", "/b": b"1"})
        assert len(edited) == 2
        await it.past.hand_edits.note(it.alice)
        assert it.on_disk() == {"/a": b"by hand", "/b": b"1"}
        assert (await it.log())[-1] == ("hand", "owner", "+0 ~1 -0")
        assert await it.problems() == []
