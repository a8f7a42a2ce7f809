"""A workspace and its commit come to what doing it directly comes to; two never mix."""

from __future__ import annotations

import tempfile
from pathlib import Path

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orvalho.contexts.changes import ContextChanged
from orvalho.contexts.fs_shim import fs_errors
from orvalho.contexts.history import Origin
from orvalho.contexts.mounts.memory import MemoryTree
from orvalho.contexts.mounts.overlay import OverlayFS
from orvalho.errors import Conflict, InvalidInput, NotFound
from tests.contexts.keeping import FOLDER, allow, fill, kept, on_disk

pytestmark = pytest.mark.anyio

_paths = st.sampled_from(["/a", "/b", "/d", "/d/a", "/d/b", "/d/e", "/d/e/a"])
_contents = st.sampled_from([b"", b"1", b"22", b"x" * 70_000])
_calls = st.one_of(
    st.tuples(st.just("write"), _paths, _contents),
    st.tuples(st.just("mkdir"), _paths),
    st.tuples(st.just("remove"), _paths),
    st.tuples(st.just("move"), _paths, _paths),
)
_lists = st.lists(_calls, max_size=10)


async def _do(files, calls) -> list[str]:
    """What each call came to: a refusal changes nothing, and says the same everywhere."""
    told = []
    for verb, *rest in calls:
        try:
            if verb == "remove":
                await files.remove(*rest, recursive=True)
            else:
                await getattr(files, verb)(*rest)
            told.append("done")
        except (NotFound, InvalidInput, Conflict) as error:
            told.append(type(error).__name__)
    return told


@settings(max_examples=60, deadline=None)
@given(_lists, _lists)
def test_a_commit_comes_to_what_the_same_calls_come_to_directly(first, second) -> None:
    async def check() -> None:
        with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
            async with kept(Path(one)) as it, kept(Path(other)) as direct:
                for calls in (first, second):
                    workspace = it.workspace()
                    told = await _do(workspace.files(allow), calls)
                    await it.change(workspace=workspace)
                    assert told == await _do(direct.alice.files(allow), calls)
                    assert it.on_disk() == direct.on_disk()
                    quota, other_quota = it.alice.root.quota, direct.alice.root.quota
                    assert (quota.used_bytes, quota.used_files) == (
                        other_quota.used_bytes,
                        other_quota.used_files,
                    )
                assert await it.problems() == []

    anyio.run(check)


def _tree_of(tree) -> dict[str, object]:
    found: dict[str, object] = dict.fromkeys(tree.walk.dirs(), FOLDER)
    return found | {path: tree.readbytes(path) for path in tree.walk.files()}


def _do_here(tree, calls) -> list[str]:
    told = []
    for verb, *rest in calls:
        try:
            if verb == "write":
                tree.writebytes(*rest)
            elif verb == "mkdir":
                tree.makedir(*rest)
            elif verb == "remove":
                (tree.removedir if tree.isdir(*rest) else tree.remove)(*rest)
            else:
                tree.move(*rest)
            told.append("done")
        except fs_errors.FSError:
            # Which of two reasons comes first is each tree's own.
            told.append("refused")
    return told


@settings(max_examples=200, deadline=None)
@given(_lists, _lists)
def test_an_overlay_answers_as_the_tree_itself_would(before, calls) -> None:
    with tempfile.TemporaryDirectory() as drafts:
        direct, lower = MemoryTree(), MemoryTree()
        _do_here(direct, before)
        _do_here(lower, before)
        untouched = _tree_of(lower)
        count = iter(range(1000))

        def draft():
            path = Path(drafts) / str(next(count))
            return path, path.open("w+b")

        overlay = OverlayFS(lower, draft)
        assert _do_here(overlay, calls) == _do_here(direct, calls)
        assert _tree_of(overlay) == _tree_of(direct)
        assert _tree_of(lower) == untouched


_values = st.lists(st.tuples(st.sampled_from("kl"), st.sampled_from(["1", "2", None])), max_size=2)
_steps = st.lists(st.sampled_from([0, 1]), max_size=12)


@settings(max_examples=60, deadline=None)
@given(_lists, _lists, _values, _values, _steps)
def test_two_runs_at_once_come_one_after_the_other_or_one_begins_anew(
    one, other, values_one, values_other, steps
) -> None:
    """All of the second or nothing of it, whatever the order of their calls."""

    async def check() -> None:
        with tempfile.TemporaryDirectory() as top, tempfile.TemporaryDirectory() as bare:
            async with kept(Path(top)) as it, kept(Path(bare)) as serial:
                start = {"/a": b"0", "/d": FOLDER, "/d/a": b"0"}
                await it.change(start, {"k": "0"})
                await serial.change(start, {"k": "0"})
                both = [it.workspace(), it.workspace()]
                left = [list(one), list(other)]
                for turn in steps:
                    await _do(both[turn].files(allow), left[turn][:1])
                    del left[turn][:1]
                for turn, values in enumerate((values_one, values_other)):
                    await _do(both[turn].files(allow), left[turn])
                    for key, value in values:
                        old = await both[turn].values.get(key)
                        if value is None:
                            await both[turn].values.delete(key)
                        else:
                            await both[turn].values.put(key, f"[{old or 0},{value}]")
                await it.change(workspace=both[0])
                first = it.on_disk(), await it.values()
                try:
                    await it.change(workspace=both[1])
                except ContextChanged:
                    assert (it.on_disk(), await it.values()) == first
                    assert await it.problems() == []
                    return
                for calls, values in ((one, values_one), (other, values_other)):
                    workspace = serial.workspace()
                    await _do(workspace.files(allow), calls)
                    for key, value in values:
                        old = await workspace.values.get(key)
                        if value is None:
                            await workspace.values.delete(key)
                        else:
                            await workspace.values.put(key, f"[{old or 0},{value}]")
                    await serial.change(workspace=workspace)
                assert (it.on_disk(), await it.values()) == (
                    serial.on_disk(),
                    await serial.values(),
                )
                assert await it.problems() == []

    anyio.run(check)


async def test_a_commit_that_its_receipt_does_not_follow_changes_nothing(tmp_path: Path) -> None:
    async with kept(tmp_path) as it:
        await it.change({"/a": b"0"}, {"n": "0"})
        workspace = it.workspace()
        await fill(workspace, {"/a": b"1", "/b": b"1" * 50_000}, {"n": "1"})
        origin = Origin(context="alice", author="gil@laptop", cause="run", at=1.0)

        def refuse(_connection: object) -> None:
            raise Conflict("the receipt cannot be kept")

        with pytest.raises(Conflict):
            await it.committer.commit(workspace, origin, refuse, name="run.ended", id_="c_1")
        assert it.on_disk() == {"/a": b"0"}
        assert await it.values() == {"n": "0"}
        await it.past.pruning.sweep_contents()
        assert await it.problems() == []
        assert on_disk(it.tree) == {"/a": b"0"}
