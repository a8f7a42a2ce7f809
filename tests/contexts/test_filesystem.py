"""One spelling of a path, one check a call, and a quota that holds, on disk and in memory."""

from __future__ import annotations

import contextlib
import io
import posixpath
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from orvalho.contexts.filesystem import (
    GuardedFS,
    Quota,
    measure,
    spelled_safely,
    virtual_path,
)
from orvalho.contexts.fs_shim import fs_errors
from orvalho.contexts.mounts.disk import RootFS
from orvalho.contexts.mounts.memory import MemoryTree
from orvalho.errors import Denied, InvalidInput, LimitExceeded

pieces = st.sampled_from(
    ["..", ".", "/", "//", "a", "b.txt", " ", "\\", "\0", "\u202e", "é", "e\u0301", "con", "\uff0e"]
)
hostile = st.lists(pieces, max_size=12).map("".join) | st.text(max_size=40)


@given(hostile)
@example("/a/../../b")
@example("\ud800")
def test_a_path_has_one_spelling_and_never_climbs(text):
    try:
        path = virtual_path(text)
    except (Denied, InvalidInput) as refusal:
        assert refusal.where.isascii()
        assert refusal.where.isprintable()
        return
    assert virtual_path(path) == path
    assert path == posixpath.normpath(path)
    assert path.startswith("/")
    assert ".." not in path.split("/")
    assert posixpath.join("/base", path[1:]).startswith("/base")


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("", "/"),
        ("/", "/"),
        (".", "/"),
        ("a", "/a"),
        ("//a///b/", "/a/b"),
        ("./a/./b/.", "/a/b"),
        ("/Été/naïve.txt", "/Été/naïve.txt"),
        ("/.hidden/..x", "/.hidden/..x"),
        ("/writing on it (1).txt", "/writing on it (1).txt"),
        ("/console/com10/null", "/console/com10/null"),
        ("/" + "é" * 127, "/" + "é" * 127),
    ],
)
def test_what_means_the_same_is_spelled_the_same(text, path):
    assert virtual_path(text) == path


@pytest.mark.parametrize(
    "text", ["..", "a/../b", "\0", "a\\b", "\uff0e\uff0e", "a\uff0fb", "\u2025"]
)
def test_an_attempt_to_climb_is_denied(text):
    with pytest.raises(Denied):
        virtual_path(text)


@pytest.mark.parametrize(
    "text",
    ["a\n", "\u202etxt", "e\u0301", "con", "a.", "a ", "a" * 256, "\ud800", "a:b", "a/" * 513],
)
def test_what_cannot_be_a_name_everywhere_is_invalid(text):
    with pytest.raises(InvalidInput):
        virtual_path(text)


def test_a_path_in_a_message_is_short_and_printable():
    assert spelled_safely("\x1b[2J\u202e") == r"'\x1b[2J\u202e'"
    assert len(spelled_safely("a" * 5000)) < 250


@pytest.fixture(params=["disk", "memory"])
def tree(request, tmp_path):
    made = RootFS(tmp_path) if request.param == "disk" else MemoryTree()
    yield made
    made.close()


class Rules:
    """A check that remembers what it was asked, and denies what it was told to."""

    def __init__(self) -> None:
        self.asked = []
        self.denied = set()

    def __call__(self, action, path):
        self.asked.append((action, path))
        if (action, path) in self.denied:
            raise Denied(f"{action} on {path}")


@pytest.fixture
def rules():
    return Rules()


@pytest.fixture
def quota():
    return Quota("context gil", limit_bytes=1000, limit_files=10)


@pytest.fixture
def guarded(tree, rules, quota):
    return GuardedFS(tree, rules, quota)


def contents(tree):
    return {
        path: None if tree.isdir(path) else tree.readbytes(path)
        for path in sorted(tree.walk.files())
    }


CALLS = {
    "fs.read": [
        lambda g: g.getinfo("f"),
        lambda g: g.listdir("d"),
        lambda g: list(g.scandir("d")),
        lambda g: g.readbytes("f"),
        lambda g: g.read_at_most("f", 10),
        lambda g: g.openbin("f", "r"),
        lambda g: g.open("f", "r+"),
        lambda g: g.readtext("f"),
        lambda g: g.exists("f"),
        lambda g: g.hash("f", "md5"),
        lambda g: g.copy("f", "copy"),
        lambda g: list(g.walk("d")),
        lambda g: g.move("f", "moved"),
    ],
    "fs.write": [
        lambda g: g.writebytes("f", b"new"),
        lambda g: g.writetext("f", "new"),
        lambda g: g.appendbytes("f", b"new"),
        lambda g: g.openbin("f", "w"),
        lambda g: g.openbin("f", "a"),
        lambda g: g.openbin("f", "r+"),
        lambda g: g.setinfo("f", {"details": {"modified": 0}}),
        lambda g: g.settimes("f"),
        lambda g: g.touch("f"),
        lambda g: g.makedir("f"),
        lambda g: g.copy("other", "f", overwrite=True),
        lambda g: g.move("other", "f", overwrite=True),
    ],
    "fs.remove": [lambda g: g.remove("f"), lambda g: g.move("f", "moved")],
}


@pytest.mark.parametrize(
    ("action", "call"),
    [
        pytest.param(action, call, id=f"{action}-{number}")
        for action, calls in CALLS.items()
        for number, call in enumerate(calls)
    ],
)
def test_each_call_asks_first_and_a_denied_one_changes_nothing(guarded, tree, rules, action, call):
    tree.makedir("d")
    tree.writebytes("f", b"old")
    tree.writebytes("other", b"other")
    before = contents(tree)
    rules.denied = {(action, "/f"), (action, "/d")}

    with pytest.raises(Denied):
        call(guarded)

    assert contents(tree) == before


def test_a_denied_file_stays_when_the_directory_around_it_is_removed_or_moved(guarded, tree, rules):
    tree.makedirs("d/deep")
    tree.writebytes("d/deep/kept", b"x")
    tree.writebytes("d/deep/removed-first", b"x")
    tree.writebytes("d/other", b"x")
    before = contents(tree)

    for action, path in [
        ("fs.remove", "/d/deep/kept"),
        ("fs.read", "/d/deep/kept"),
        ("fs.write", "/taken/deep/kept"),
    ]:
        rules.denied = {(action, path)}
        with pytest.raises(Denied):
            guarded.movedir("d", "taken", create=True)
    rules.denied = {("fs.remove", "/d/deep/kept")}
    with pytest.raises(Denied):
        guarded.removetree("d")

    assert contents(tree) == before


def test_the_check_sees_the_one_spelling(guarded, rules):
    guarded.writebytes(".//a", b"")

    assert rules.asked == [("fs.write", "/a")]


@pytest.mark.parametrize("path", ["../x", "a/../../x", "x\0", "a\\b", "con", "e\u0301", "a" * 256])
def test_a_bad_path_is_refused_before_the_check_hears_of_it(guarded, rules, path):
    with pytest.raises((fs_errors.PathError, ValueError)):
        guarded.readbytes(path)

    assert rules.asked == []


def test_a_file_larger_than_a_read_may_give_is_refused(guarded):
    guarded.writebytes("f", b"x" * 100)

    assert guarded.read_at_most("f", 100) == b"x" * 100
    with pytest.raises(LimitExceeded, match="read_bytes: context gil:/f"):
        guarded.read_at_most("f", 99)


def _sparse(guarded):
    with guarded.openbin("old", "r+") as file:
        file.seek(1100)
        file.write(b"x")


def _truncate(guarded):
    with guarded.openbin("old", "r+") as file:
        file.truncate(1100)


WRITES = {
    "writebytes": lambda g: g.writebytes("new", b"x" * 600),
    "open w": lambda g: g.writetext("new", "x" * 600),
    "append": lambda g: g.appendbytes("old", b"x" * 600),
    "sparse": _sparse,
    "truncate": _truncate,
    "copy": lambda g: g.copy("old", "new"),
    "upload": lambda g: g.upload("new", io.BytesIO(b"x" * 600)),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_no_way_of_writing_gets_past_the_bytes(guarded, tree, quota, write):
    guarded.writebytes("old", b"x" * 600)

    with pytest.raises(LimitExceeded, match="storage_bytes"):
        write(guarded)

    assert measure(tree)[1] <= quota.limit_bytes
    assert tree.readbytes("old")[:600] == b"x" * 600


def test_no_way_of_making_files_gets_past_their_number(guarded, tree, quota):
    for number in range(5):
        guarded.writebytes(f"f{number}", b"")
        guarded.makedir(f"d{number}")

    for call in (
        lambda: guarded.writebytes("one-more", b""),
        lambda: guarded.makedir("one-more"),
        lambda: guarded.touch("one-more"),
        lambda: guarded.copy("f0", "one-more"),
    ):
        with pytest.raises(LimitExceeded, match="storage_files"):
            call()

    assert measure(tree) == (10, 0)
    guarded.remove("f0")
    guarded.writebytes("one-more", b"")
    assert quota.used_files == 10


def test_a_failed_write_gives_back_what_it_took(guarded, quota):
    with pytest.raises(fs_errors.ResourceNotFound):
        guarded.writebytes("nowhere/f", b"x" * 10)
    with pytest.raises(fs_errors.ResourceNotFound):
        guarded.makedir("nowhere/d")
    with pytest.raises(fs_errors.ResourceNotFound):
        guarded.openbin("nowhere/f", "w")

    assert (quota.used_bytes, quota.used_files) == (0, 0)


def test_replacing_a_large_file_by_another_fits(guarded, quota):
    guarded.writebytes("f", b"x" * 900)
    guarded.writebytes("f", b"y" * 950)

    assert quota.used_bytes == 950


def test_a_quota_that_was_lowered_still_lets_a_file_shrink(guarded, quota):
    guarded.writebytes("f", b"x" * 900)
    quota.limit_bytes = 10

    guarded.writebytes("f", b"x" * 500)
    with pytest.raises(LimitExceeded):
        guarded.writebytes("f", b"x" * 501)


operations = st.lists(
    st.tuples(
        st.sampled_from(["write", "append", "mkdir", "remove", "tree", "move", "movedir", "cut"]),
        st.sampled_from(["/a", "/b", "/d", "/d/a", "/d/e", "/d/e/a"]),
        st.sampled_from(["/a", "/b", "/d", "/d/a", "/f", "/d/e/a"]),
        st.integers(0, 400),
    ),
    max_size=25,
)


@settings(deadline=None)
@given(operations)
def test_in_memory_what_was_counted_is_what_is_there(steps):
    check_counting(MemoryTree(), steps)


@settings(max_examples=40, deadline=None)
@given(operations)
def test_on_disk_what_was_counted_is_what_is_there(steps):
    with tempfile.TemporaryDirectory() as directory, RootFS(Path(directory)) as tree:
        check_counting(tree, steps)


def check_counting(tree, steps):
    quota = Quota("context gil", limit_bytes=1000, limit_files=6)
    guarded = GuardedFS(tree, lambda action, path: None, quota)
    calls = {
        "write": lambda path, other, size: guarded.writebytes(path, b"x" * size),
        "append": lambda path, other, size: guarded.appendbytes(path, b"x" * size),
        "mkdir": lambda path, other, size: guarded.makedir(path, recreate=bool(size % 2)),
        "remove": lambda path, other, size: guarded.remove(path),
        "tree": lambda path, other, size: guarded.removetree(path),
        "move": lambda path, other, size: guarded.move(path, other, overwrite=bool(size % 2)),
        "movedir": lambda path, other, size: guarded.movedir(path, other, create=bool(size % 2)),
        "cut": lambda path, other, size: guarded.open(path, "r+b").truncate(size),
    }
    for name, path, other, size in steps:
        with contextlib.suppress(fs_errors.FSError, LimitExceeded):
            calls[name](path, other, size)
        assert (quota.used_files, quota.used_bytes) == measure(tree)
        assert quota.used_files <= 6
        assert quota.used_bytes <= 1000
