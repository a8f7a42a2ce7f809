"""What commits did is taken back: all of it or nothing, and nothing that others did since."""

from __future__ import annotations

import tempfile
from pathlib import Path

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orvalho.contexts.changes import DIRECTORY, Changeset, FileChange, Node, ValueChange
from orvalho.contexts.undo import Undo, plan_undo
from orvalho.errors import Conflict, InvalidInput, LimitExceeded, NotFound
from tests.contexts.keeping import FOLDER, fill, kept

pytestmark = pytest.mark.anyio

A, B, C = (Node("file", letter * 64, 1) for letter in "abc")


def change(path: str, before: Node | None, after: Node | None) -> FileChange:
    return FileChange(path=path, before=before, after=after)


# ---- the plan is pure ---------------------------------------------------------------------------


def test_what_nobody_changed_since_is_as_before() -> None:
    done = Changeset(
        files=(change("/a", None, A), change("/b", A, B), change("/c", C, None)),
        values=(ValueChange(key="n", before="1", after="2"),),
    )
    undo = plan_undo(done, {"/a": A, "/b": B, "/other": C}, {"n": "2"})
    assert undo == Undo(done.inverted(), (), ())


def test_what_others_changed_since_is_in_the_way() -> None:
    done = Changeset(
        files=(change("/a", None, A), change("/b", A, B)),
        values=(ValueChange(key="n", before="1", after="2"),),
    )
    undo = plan_undo(done, {"/a": C, "/b": B}, {"n": "3"})
    assert undo.blocked == ("/a", "kv:n")


def test_what_is_as_before_already_needs_nothing() -> None:
    done = Changeset(files=(change("/a", A, B),))
    assert plan_undo(done, {"/a": A}, {}) == Undo(Changeset(), (), ())


def test_a_directory_stays_while_something_of_others_is_in_it() -> None:
    done = Changeset(
        files=(
            change("/d", None, DIRECTORY),
            change("/d/e", None, DIRECTORY),
            change("/d/e/mine", None, A),
        )
    )
    tree = {"/d": DIRECTORY, "/d/e": DIRECTORY, "/d/e/mine": A, "/d/e/theirs": B}
    undo = plan_undo(done, tree, {})
    assert undo.kept == ("/d/e", "/d")
    assert undo.changes.files == (change("/d/e/mine", A, None),)
    assert not undo.blocked


def test_a_file_does_not_come_back_into_a_directory_that_is_gone() -> None:
    done = Changeset(files=(change("/d/a", A, None),))
    assert plan_undo(done, {}, {}).blocked == ("/d/a",)
    assert plan_undo(done, {"/d": A}, {}).blocked == ("/d/a",)


def test_a_directory_does_not_become_a_file_again_over_what_is_in_it() -> None:
    done = Changeset(files=(change("/d", A, DIRECTORY),))
    assert plan_undo(done, {"/d": DIRECTORY, "/d/x": B}, {}).blocked == ("/d",)
    assert plan_undo(done, {"/d": DIRECTORY}, {}).changes.files == (change("/d", DIRECTORY, A),)


# ---- and done on a disk -------------------------------------------------------------------------


async def test_an_undo_keeps_what_others_did_elsewhere(tmp_path: Path) -> None:
    async with kept(tmp_path) as it:
        await it.change({"/keep": b"0", "/a": b"old"}, {"n": "1", "m": "1"})
        mine = await it.change({"/d": FOLDER, "/d/x": b"x", "/a": b"new"}, {"n": "2"})
        await it.change({"/keep": b"1", "/z": b"z"}, {"m": "2"}, author="bob@phone")
        await it.undo(mine)
        assert it.on_disk() == {"/a": b"old", "/keep": b"1", "/z": b"z"}
        assert await it.values() == {"n": "1", "m": "2"}
        assert (await it.log())[-1] == ("undo", "owner", "+0 ~2 -2")
        assert await it.problems() == []


async def test_an_undo_over_what_others_did_changes_nothing_and_says_who(tmp_path: Path) -> None:
    async with kept(tmp_path) as it:
        mine = await it.change({"/a": b"mine", "/b": b"mine"})
        theirs = await it.change({"/a": b"theirs"}, author="bob@phone")
        before = it.on_disk()
        with pytest.raises(Conflict) as caught:
            await it.undo(mine)
        assert caught.value.detail == f"/a was changed since by bob@phone (run, {theirs})"
        assert it.on_disk() == before
        # Taken back one after the other it works.
        await it.undo(theirs)
        await it.undo(mine)
        assert it.on_disk() == {}


async def test_an_edit_by_hand_is_in_the_way_as_any_other(tmp_path: Path) -> None:
    async with kept(tmp_path) as it:
        mine = await it.change({"/a": b"mine"})
        (it.tree / "a").write_bytes(b"by hand")
        with pytest.raises(Conflict) as caught:
            await it.undo(mine)
        assert "/a was changed since by owner (hand, c_" in (caught.value.detail or "")
        assert it.on_disk() == {"/a": b"by hand"}


async def test_an_undo_is_undone(tmp_path: Path) -> None:
    async with kept(tmp_path) as it:
        mine = await it.change({"/a": b"mine", "/d": FOLDER, "/d/b": b"x" * 100_000}, {"n": "1"})
        done = it.on_disk()
        undo = await it.undo(mine)
        assert it.on_disk() == {}
        await it.undo(undo)
        assert it.on_disk() == done
        assert await it.values() == {"n": "1"}
        assert await it.problems() == []


async def test_taken_back_twice_there_is_nothing_to_do(tmp_path: Path) -> None:
    async with kept(tmp_path) as it:
        mine = await it.change({"/a": b"mine"})
        await it.undo(mine)
        with pytest.raises(Conflict, match="taken back already"):
            await it.undo(mine)


async def test_a_run_of_two_commits_is_taken_back_as_one(tmp_path: Path) -> None:
    async with kept(tmp_path) as it:
        await it.change({"/a": b"0"})
        one = await it.change({"/a": b"1", "/b": b"1"}, run="r_1")
        two = await it.change({"/a": b"2"}, run="r_1")
        await it.undo(one, two)
        assert it.on_disk() == {"/a": b"0"}


async def test_an_undo_does_not_go_beyond_the_quota(tmp_path: Path) -> None:
    async with kept(tmp_path) as it:
        await it.change({"/a": b"x" * 5000})
        gone = await it.change({"/a": None})
        it.alice.root.quota.limit_bytes = 1000
        with pytest.raises(LimitExceeded):
            await it.undo(gone)
        assert it.on_disk() == {}
        assert await it.problems() == []


async def test_what_is_not_kept_any_more_does_not_come_back(tmp_path: Path) -> None:
    async with kept(tmp_path) as it:
        await it.change({"/a": b"x" * 50_000})
        gone = await it.change({"/a": None})
        for large in (tmp_path / "contents").glob("??/*"):
            large.unlink()
        with pytest.raises(NotFound, match="not kept any more"):
            await it.undo(gone)
        assert it.on_disk() == {}


# ---- property: the undo of the last commit is the identity --------------------------------------

_names = st.sampled_from(["/a", "/b", "/d", "/d/a", "/d/e", "/d/e/a"])
_contents = st.one_of(
    st.none(), st.just(FOLDER), st.sampled_from([b"", b"one", b"two", b"x" * 20_000])
)
_steps = st.lists(
    st.lists(st.tuples(_names, _contents), min_size=1, max_size=5), min_size=1, max_size=5
)


async def _fill_what_goes(workspace, step) -> None:
    for path, content in step:
        try:
            await fill(workspace, {path: content}, {"k": f'"{path}"'})
        except (NotFound, InvalidInput, Conflict):
            continue  # there is no such directory, or there is one


@settings(max_examples=40, deadline=None)
@given(_steps)
def test_the_undo_of_the_last_commit_is_the_identity(steps) -> None:
    async def check() -> None:
        with tempfile.TemporaryDirectory() as top:
            async with kept(Path(top)) as it:
                for step in steps:
                    before, values = it.on_disk(), await it.values()
                    workspace = it.workspace()
                    await _fill_what_goes(workspace, step)
                    last = await it.change(workspace=workspace)
                    after, values_after = it.on_disk(), await it.values()
                    if (before, values) == (after, values_after):
                        continue
                    undo = await it.undo(last)
                    assert (it.on_disk(), await it.values()) == (before, values)
                    await it.undo(undo)
                    assert (it.on_disk(), await it.values()) == (after, values_after)
                assert await it.problems() == []

    anyio.run(check)
