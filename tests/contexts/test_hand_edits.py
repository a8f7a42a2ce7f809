"""What was changed behind our back is seen, becomes a commit of its own, and is never lost."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orvalho.contexts import timeline
from orvalho.contexts.changes import ContextChanged
from orvalho.contexts.filesystem import VirtualPath
from orvalho.contexts.history import Origin
from orvalho.errors import Conflict
from tests.contexts.keeping import FOLDER, allow, fill, kept

pytestmark = pytest.mark.anyio


async def _note(it) -> str | None:
    return await it.past.hand_edits.note(it.alice)


async def test_files_directories_renames_and_removals_are_seen(tmp_path: Path) -> None:
    async with kept(tmp_path) as it:
        await it.change({"/a": b"a", "/b": b"b", "/d": FOLDER, "/d/c": b"c"})
        assert await _note(it) is None
        # when they are changed by hand
        (it.tree / "a").write_bytes(b"changed")
        (it.tree / "b").rename(it.tree / "renamed")
        (it.tree / "d/c").unlink()
        (it.tree / "d").rmdir()
        (it.tree / "new").mkdir()
        (it.tree / "new/large").write_bytes(b"x" * 100_000)
        # then that is one commit of the owner's
        id_ = await _note(it)
        assert id_ is not None
        assert (await it.log())[-1] == ("hand", "owner", "+3 ~1 -3")
        assert await _note(it) is None
        assert await it.problems() == []
        # and can be taken back
        await it.undo(id_)
        assert it.on_disk() == {"/a": b"a", "/b": b"b", "/d": FOLDER, "/d/c": b"c"}


async def test_a_file_that_is_only_touched_is_no_commit(tmp_path: Path) -> None:
    async with kept(tmp_path) as it:
        await it.change({"/a": b"a"})
        os.utime(it.tree / "a", (1.0, 1.0))
        assert await _note(it) is None


async def test_an_edit_that_leaves_size_and_time_is_seen_when_it_is_young(tmp_path: Path) -> None:
    """Two writes within one tick of the clock look the same."""
    async with kept(tmp_path) as it:
        file = it.tree / "a"
        file.write_bytes(b"one")
        status = file.stat()
        await _note(it)
        file.write_bytes(b"two")
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert await _note(it) is not None
        assert await it.problems() == []


async def test_an_edit_by_hand_is_kept_before_a_run_overwrites_or_removes_it(
    tmp_path: Path,
) -> None:
    async with kept(tmp_path) as it:
        await it.change({"/a": b"0", "/b": b"0", "/d": FOLDER, "/d/x": b"0"})
        for name in ("a", "b", "d/x", "d/unknown"):
            (it.tree / name).write_bytes(b"by hand")
        await it.change({"/a": b"run", "/b": None, "/d": None})
        assert it.on_disk() == {"/a": b"run"}
        causes = await it.log()
        assert [cause for cause, _, _ in causes] == ["run", "hand", "run"]
        assert causes[1] == ("hand", "owner", "+1 ~3 -0")
        # What was there by hand can be had back, whole.
        found = await it.store.read(lambda c: timeline.log(c, "alice", 1))
        await it.undo(found[0].commit.id)
        assert it.on_disk()["/a"] == b"by hand"
        assert it.on_disk()["/d/unknown"] == b"by hand"


async def test_an_edit_while_a_run_works_on_the_file_makes_the_run_begin_anew(
    tmp_path: Path,
) -> None:
    async with kept(tmp_path) as it:
        await it.change({"/a": b"0"})
        workspace = it.workspace()
        await workspace.files(allow).read("/a", 100)
        (it.tree / "a").write_bytes(b"by hand")
        with pytest.raises(ContextChanged):
            await it.change({"/a": b"run"}, workspace=workspace)
        assert it.on_disk() == {"/a": b"by hand"}


async def test_a_directory_with_a_link_in_it_is_not_removed_by_a_run(tmp_path: Path) -> None:
    """No listing names the link, so the directory looks empty; its removal would fail later."""
    async with kept(tmp_path) as it:
        await it.change({"/d": FOLDER})
        (it.tree / "d/link").symlink_to("/etc/passwd")
        with pytest.raises(Conflict, match="not empty"):
            await fill(it.workspace(), {"/d": None}, {})


async def test_a_file_that_came_is_a_commit_of_its_sender(tmp_path: Path) -> None:
    async with kept(tmp_path) as it:
        (it.tree / "inbox").mkdir()
        (it.tree / "inbox/a.jpg").write_bytes(b"jpg" * 10_000)
        origin = Origin(context="alice", author="gil@laptop", cause="file", at=5.0)
        path = VirtualPath("/inbox/a.jpg")
        await it.past.hand_edits.note_file(it.alice, path, origin)
        assert await it.log() == [("file", "gil@laptop", "+2 ~0 -0")]
        assert await it.problems() == []


async def test_names_that_no_path_can_have_and_links_are_left_alone(tmp_path: Path) -> None:
    async with kept(tmp_path) as it:
        (it.tree / "a:b").write_bytes(b"x")
        (it.tree / "link").symlink_to("a:b")
        os.mkfifo(it.tree / "pipe")
        assert await _note(it) is None


async def test_a_file_that_cannot_be_read_stops_nobody(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root reads everything")
    async with kept(tmp_path) as it:
        (it.tree / "secret").write_bytes(b"x")
        (it.tree / "secret").chmod(0)
        (it.tree / "a").write_bytes(b"x")
        await _note(it)
        assert (await it.log())[-1] == ("hand", "owner", "+1 ~0 -0")


async def test_a_start_finds_what_was_changed_while_the_node_was_off(tmp_path: Path) -> None:
    async with kept(tmp_path) as it:
        await it.change({"/a": b"0"})
        await it.contexts.create("bare", now=1000.0)
    (tmp_path / "contexts/alice/a").write_bytes(b"by hand")
    (tmp_path / "contexts/bare/a").write_bytes(b"x")
    async with kept(tmp_path) as it:
        await it.past.begin()
        assert (await it.log())[-1] == ("hand", "owner", "+0 ~1 -0")
        # A context without history is not read through at a start.
        assert await it.store.read(lambda c: timeline.log(c, "bare", 10)) == []


_names = st.sampled_from(["a", "b", "d", "d/a", "d/b"])
_acts = st.lists(
    st.tuples(_names, st.sampled_from([b"1", b"22", b"x" * 20_000, None, FOLDER])), max_size=8
)


@settings(max_examples=30, deadline=None)
@given(st.lists(_acts, min_size=1, max_size=4))
def test_history_and_disk_agree_after_any_edits_by_hand(rounds) -> None:
    async def check() -> None:
        with tempfile.TemporaryDirectory() as top:
            async with kept(Path(top)) as it:
                past = []
                for acts in rounds:
                    for name, content in acts:
                        _by_hand(it.tree / name, content)
                    await _note(it)
                    newest = await it.store.read(lambda c: timeline.newest(c, "alice"))
                    past.append((newest, it.on_disk()))
                assert await it.problems() == []
                # And every moment can be read again.
                for seq, disk in past:
                    tree = await it.store.read(lambda c, s=seq: timeline.tree_at(c, "alice", s))
                    contents = it.committer.contents
                    read = {
                        path: FOLDER if n.kind == "directory" else await contents.read(n.sha256)
                        for path, n in tree.items()
                    }
                    assert read == disk

    anyio.run(check)


def _by_hand(path: Path, content: object) -> None:
    try:
        if content is None:
            path.rmdir() if path.is_dir() else path.unlink()
        elif content is FOLDER:
            path.mkdir()
        else:
            path.write_bytes(content)
    except OSError:
        return
