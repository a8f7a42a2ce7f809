"""The async face: what each operation answers, and that a move or removal is all or nothing."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from orvalho.contexts.files import ContextFiles, Entry, Mount
from orvalho.contexts.filesystem import Quota, VirtualPath
from orvalho.contexts.mounts.disk import RootFS
from orvalho.contexts.mounts.memory import MemoryTree
from orvalho.contexts.namespace import Namespace
from orvalho.errors import (
    Conflict,
    Denied,
    InvalidInput,
    LimitExceeded,
    NotFound,
    OrvalhoError,
    Unavailable,
)

pytestmark = pytest.mark.anyio

MIB = 1 << 20
NOBODY = 65534


class Rules:
    """A check that remembers where it was called, and denies what it was told to."""

    def __init__(self) -> None:
        self.asked = []
        self.denied = set()
        self.threads = set()

    def __call__(self, action, path):
        self.asked.append((action, path))
        self.threads.add(threading.get_ident())
        if (action, path) in self.denied:
            raise Denied(f"{action} on {path}", rule="policy/gil.csv:7")


@pytest.fixture
def rules():
    return Rules()


@pytest.fixture(params=["disk", "memory"])
def mount(request, tmp_path):
    def open_tree():
        return RootFS(tmp_path) if request.param == "disk" else MemoryTree()

    made = Mount("gil", open_tree, Quota("context gil", limit_bytes=MIB, limit_files=100))
    yield made
    made.close()


@pytest.fixture
def files(mount, rules):
    return ContextFiles("gil", Namespace({VirtualPath("/"): mount}), rules)


async def tree_of(files, path="/"):
    found = {}
    for entry in await files.list(path):
        inside = f"{path.rstrip('/')}/{entry.name}"
        if entry.kind == "directory":
            found |= {inside: None} | await tree_of(files, inside)
        else:
            found[inside] = await files.read(inside, MIB)
    return found


async def test_what_was_written_is_read_listed_and_known(files):
    await files.mkdir("/notes/2026")
    await files.write("/notes/2026/a.txt", b"hello")

    assert await files.read("notes//2026/a.txt", 5) == b"hello"
    assert [entry.name for entry in await files.list("/notes")] == ["2026"]
    entry = await files.stat("/notes/2026/a.txt")
    assert (entry.name, entry.kind, entry.size_bytes) == ("a.txt", "file", 5)
    assert entry.modified_at > 1_600_000_000
    assert (await files.stat("/")).kind == "directory"
    assert await files.exists("/notes")
    assert not await files.exists("/nothing")


async def test_a_directory_is_made_with_those_above_it_once(files):
    assert await files.mkdir("/a/b/c")
    assert not await files.mkdir("/a/b/c")
    assert not await files.mkdir("/")


async def test_the_directories_above_are_asked_for_too(files, rules):
    rules.denied = {("fs.write", "/a")}

    with pytest.raises(Denied):
        await files.mkdir("/a/b")

    assert not await files.exists("/a")


@pytest.mark.parametrize(
    ("operation", "error"),
    [
        (lambda f: f.read("/nothing", 1), NotFound),
        (lambda f: f.read("/d", 1), InvalidInput),
        (lambda f: f.read("/f", 2), LimitExceeded),
        (lambda f: f.list("/nothing"), NotFound),
        (lambda f: f.list("/f"), InvalidInput),
        (lambda f: f.stat("/f/x"), NotFound),
        (lambda f: f.write("/d", b""), InvalidInput),
        (lambda f: f.write("/", b""), InvalidInput),
        (lambda f: f.write("/nothing/f", b""), NotFound),
        (lambda f: f.write("/f/x", b""), OrvalhoError),
        (lambda f: f.write("/big", bytes(MIB + 1)), LimitExceeded),
        (lambda f: f.mkdir("/f"), InvalidInput),
        (lambda f: f.remove("/nothing"), NotFound),
        (lambda f: f.remove("/d"), Conflict),
        (lambda f: f.remove("/"), InvalidInput),
        (lambda f: f.remove("/", recursive=True), InvalidInput),
        (lambda f: f.move("/f", "/d"), Conflict),
        (lambda f: f.move("/f", "/d/f"), Conflict),
        (lambda f: f.move("/d", "/d/x"), InvalidInput),
        (lambda f: f.move("/f", "/f"), InvalidInput),
        (lambda f: f.move("/nothing", "/x"), NotFound),
        (lambda f: f.move("/f", "/nothing/x"), NotFound),
        (lambda f: f.move("/", "/x"), InvalidInput),
        (lambda f: f.read("/../x", 1), Denied),
        (lambda f: f.move("/f", "/../x"), Denied),
        (lambda f: f.write("/a:b", b""), InvalidInput),
    ],
)
async def test_what_cannot_be_is_told_in_our_words_and_changes_nothing(files, operation, error):
    await files.mkdir("/d")
    await files.write("/d/f", b"inner")
    await files.write("/f", b"outer")
    before = await tree_of(files)

    with pytest.raises(error) as refusal:
        await operation(files)

    assert refusal.value.where
    assert await tree_of(files) == before


async def test_messages_name_the_context_the_path_and_the_limit(files):
    await files.write("/f", b"outer")

    with pytest.raises(LimitExceeded, match=r"^read_bytes: .*gil:/f .*2 bytes"):
        await files.read("/f", 2)
    with pytest.raises(LimitExceeded, match=r"^storage_bytes: context gil .*/big"):
        await files.write("/big", bytes(MIB + 1))
    with pytest.raises(NotFound, match="gil:/nothing"):
        await files.read("/nothing", 1)
    with pytest.raises(NotFound, match="no directory for gil:/nothing/f"):
        await files.write("/nothing/f", b"")


async def test_a_file_and_a_directory_move_with_what_is_in_them(files, mount):
    await files.mkdir("/d/e")
    await files.write("/d/e/f", b"1")
    await files.move("/d/e/f", "/d/g")
    await files.move("/d", "/moved")

    assert await tree_of(files) == {"/moved": None, "/moved/e": None, "/moved/g": b"1"}
    assert (mount.quota.used_files, mount.quota.used_bytes) == (3, 1)


async def test_a_directory_is_removed_with_what_is_in_it(files, mount):
    await files.mkdir("/d/e")
    await files.write("/d/e/f", b"1")
    await files.remove("/d", recursive=True)
    await files.write("/f", b"22")
    await files.remove("/f", recursive=True)

    assert await tree_of(files) == {}
    assert (mount.quota.used_files, mount.quota.used_bytes) == (0, 0)


@pytest.mark.parametrize(
    "denied",
    [
        ("fs.remove", "/d"),
        ("fs.read", "/d"),
        ("fs.write", "/x"),
        ("fs.remove", "/d/e/f"),
        ("fs.read", "/d/e/f"),
        ("fs.write", "/x/e/f"),
    ],
)
async def test_a_move_asks_for_both_ends_and_all_between_before_it_does_anything(
    files, rules, denied
):
    await files.mkdir("/d/e")
    await files.write("/d/e/f", b"1")
    await files.write("/d/g", b"1")
    before = await tree_of(files)
    rules.denied = {denied}

    with pytest.raises(Denied) as refusal:
        await files.move("/d", "/x")

    rules.denied = set()
    assert refusal.value.rule == "policy/gil.csv:7"
    assert await tree_of(files) == before


async def test_a_removal_asks_for_everything_before_it_removes_anything(files, rules):
    await files.mkdir("/d/e")
    for path in ("/d/a", "/d/e/f", "/d/z"):
        await files.write(path, b"1")
    before = await tree_of(files)
    rules.denied = {("fs.remove", "/d/e/f")}

    with pytest.raises(Denied):
        await files.remove("/d", recursive=True)

    assert await tree_of(files) == before


async def test_checks_happen_on_the_event_loop(files, rules):
    await files.mkdir("/d/e")
    await files.write("/d/e/f", b"1")
    await files.move("/d", "/x")
    await files.remove("/x", recursive=True)

    assert rules.threads == {threading.get_ident()}
    assert ("fs.remove", "/x/e/f") in rules.asked


async def test_a_quota_holds_under_many_writers_at_once(files, mount):
    mount.quota.limit_bytes = 1000
    refused = []

    async def write(number):
        try:
            await files.write(f"/f{number}", bytes(150))
        except LimitExceeded as error:
            refused.append(error)

    async with anyio.create_task_group() as tasks:
        for number in range(20):
            tasks.start_soon(write, number)

    assert len(refused) == 14
    assert sum(entry.size_bytes for entry in await files.list("/")) == 900


async def test_readers_see_all_of_the_old_or_all_of_the_new(files):
    versions = [bytes([65 + number]) * 20_000 for number in range(8)]
    await files.write("/f", versions[0])

    async def write():
        for version in versions * 3:
            await files.write("/f", version)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(write)
        for _ in range(100):
            assert await files.read("/f", MIB) in versions


async def test_two_trees_look_like_one_and_do_not_mix(rules):
    quota = Quota("context gil", limit_bytes=MIB, limit_files=10)
    root, scratch = Mount("gil", MemoryTree, quota), Mount("gil", MemoryTree, quota)
    files = ContextFiles("gil", Namespace({"/": root, "/tmp/scratch": scratch}), rules)
    await files.write("/f", b"root")
    await files.write("/tmp/scratch/f", b"scratch")

    assert [entry.name for entry in await files.list("/")] == ["f", "tmp"]
    assert await files.list("/tmp/scratch") == [await files.stat("/tmp/scratch/f")]
    assert await files.read("/tmp/scratch/f", 100) == b"scratch"
    with pytest.raises(InvalidInput, match="different trees"):
        await files.move("/f", "/tmp/scratch/g")
    for place in ("/tmp", "/tmp/scratch"):
        with pytest.raises(InvalidInput):
            await files.remove(place, recursive=True)
        with pytest.raises(InvalidInput):
            await files.move(place, "/elsewhere")


async def test_a_directory_around_a_mount_can_be_listed_without_a_tree_below(rules):
    mount = Mount("gil", MemoryTree, Quota("context gil", limit_bytes=1, limit_files=1))
    files = ContextFiles("owner", Namespace({"/homes/gil": mount}), rules)

    assert await files.list("/homes") == [Entry("gil", "directory", 0, 0.0)]
    assert (await files.stat("/homes")).kind == "directory"
    for operation in (files.list("/other"), files.stat("/x"), files.write("/x", b"")):
        with pytest.raises(NotFound):
            await operation


async def test_a_tree_is_opened_at_the_first_use_and_again_after_it_was_closed(tmp_path):
    opened = []

    def open_tree():
        opened.append(True)
        return RootFS(tmp_path)

    (tmp_path / "f").write_bytes(b"12345")
    mount = Mount("gil", open_tree, Quota("context gil", limit_bytes=10, limit_files=10))
    files = ContextFiles("gil", Namespace({"/": mount}), lambda action, path: None)
    assert not opened

    assert await files.read("/f", 10) == b"12345"
    assert mount.quota.used_bytes == 5
    mount.close()
    assert await files.exists("/f")
    mount.close()
    assert len(opened) == 2


async def test_a_tree_that_is_gone_is_unavailable(tmp_path):
    mount = Mount(
        "gil",
        lambda: RootFS(tmp_path / "gone"),
        Quota("context gil", limit_bytes=10, limit_files=10),
    )
    files = ContextFiles("gil", Namespace({"/": mount}), lambda action, path: None)

    with pytest.raises(Unavailable, match="gil:/f"):
        await files.read("/f", 10)


@pytest.fixture
def plain_tree() -> Iterator[Path]:
    """A directory of somebody who is not root, who this process is meanwhile: root may read
    every file."""
    with tempfile.TemporaryDirectory() as name:
        if os.geteuid() == 0:
            os.chown(name, NOBODY, -1)
            os.seteuid(NOBODY)
            try:
                yield Path(name)
            finally:
                os.seteuid(0)
        else:
            yield Path(name)


async def test_what_the_system_forbids_is_denied(plain_tree):
    (plain_tree / "f").write_bytes(b"")
    (plain_tree / "f").chmod(0)
    quota = Quota("context gil", limit_bytes=10, limit_files=10)
    mount = Mount("gil", lambda: RootFS(plain_tree), quota)
    files = ContextFiles("gil", Namespace({"/": mount}), lambda action, path: None)

    with pytest.raises(Denied, match="system"):
        await files.read("/f", 10)
    mount.close()


@pytest.mark.parametrize(
    ("name", "shown"), [(b"bad\xff", r"bad\xff"), (b"new\nline", r"new\nline")]
)
@pytest.mark.parametrize("recursive", [False, True])
def test_a_name_that_is_no_path_is_named_when_it_keeps_a_folder(tmp_path, name, shown, recursive):
    (tmp_path / "odd/below").mkdir(parents=True)
    (tmp_path / "odd/a").write_bytes(b"1")
    Path(os.fsdecode(bytes(tmp_path / "odd/below") + b"/" + name)).write_bytes(b"1")
    quota = Quota("context gil", limit_bytes=MIB, limit_files=100)
    mount = Mount("gil", lambda: RootFS(tmp_path), quota)
    files = ContextFiles("gil", Namespace({VirtualPath("/"): mount}), Rules())
    top, within = ("/odd", "below/") if recursive else ("/odd/below", "")
    with pytest.raises(Conflict) as caught:
        anyio.run(files.remove, top, recursive)
    told = f"gil:{top} holds a name that is no path here: '{within}{shown}'; rename it"
    assert caught.value.message == told
    assert (tmp_path / "odd/a").exists(), "nothing was removed"
    mount.close()
