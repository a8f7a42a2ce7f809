"""Each tree passes the whole suite: the library's cases, and ours."""

from __future__ import annotations

import tempfile
import unittest
import zipfile
from pathlib import Path

import pytest
from anyio.from_thread import start_blocking_portal

from orvalho.contexts.files import ContextFiles, Mount
from orvalho.contexts.filesystem import Quota, VirtualPath
from orvalho.contexts.fs_shim import fs_errors
from orvalho.contexts.mounts.archive import ZipTree
from orvalho.contexts.mounts.beneath import open_by_kernel, open_by_walk
from orvalho.contexts.mounts.disk import RootFS
from orvalho.contexts.mounts.memory import MemoryTree
from orvalho.contexts.mounts.object_store import ObjectTree, open_operator, open_s3
from orvalho.contexts.mounts.overlay import OverlayFS
from orvalho.contexts.mounts.remote import RemoteTree
from orvalho.contexts.mounts.sqlite import SQLiteTree
from orvalho.contexts.namespace import Namespace
from orvalho.contexts.tree_answers import TreeAnswers
from tests.conformance.filesystem import ReadCases, TreeCases, guarded
from tests.conformance.s3_server import CREDENTIALS, new_bucket, s3_server

# The 79 of the library and ours.
LEAST_CASES = 120


class InDirectory(TreeCases):
    def setUp(self):
        self.directory = tempfile.TemporaryDirectory()
        self.addCleanup(self.directory.cleanup)
        super().setUp()

    @property
    def top(self):
        return Path(self.directory.name)


class OnDisk(InDirectory):
    opener = staticmethod(open_by_kernel)

    def make_fs(self):
        return RootFS(self.top, self.opener)


class TestDiskByKernel(OnDisk, unittest.TestCase):
    pass


class TestDiskByWalk(OnDisk, unittest.TestCase):
    opener = staticmethod(open_by_walk)


class TestMemory(TreeCases, unittest.TestCase):
    def make_fs(self):
        return MemoryTree()


class TestGuardedDisk(OnDisk, unittest.TestCase):
    def make_fs(self):
        return guarded(super().make_fs())

    # What stands in front of a guard is a second guard; a file is adopted by the tree behind it.
    test_adopts_a_file_of_this_machine = None
    test_adopts_nothing_over_a_file = None
    test_read_at_most_takes_what_fits = None


class TestGuardedMemory(TreeCases, unittest.TestCase):
    def make_fs(self):
        return guarded(MemoryTree())

    test_adopts_a_file_of_this_machine = None
    test_adopts_nothing_over_a_file = None
    test_read_at_most_takes_what_fits = None


class TestSQLite(InDirectory, unittest.TestCase):
    def make_fs(self):
        return SQLiteTree(self.top / "tree.db")


class TestStoreInMemory(TreeCases, unittest.TestCase):
    def make_fs(self):
        return ObjectTree(open_operator("memory", {}))


class TestStoreOnDisk(InDirectory, unittest.TestCase):
    def make_fs(self):
        return ObjectTree(open_operator("fs", {"root": str(self.top)}))


class TestS3(TreeCases, unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        server = s3_server()
        cls.server = server.__enter__()
        cls.addClassCleanup(server.__exit__, None, None, None)

    def make_fs(self):
        bucket = new_bucket(self.server)
        return open_s3(f"s3://{bucket}/a/b", endpoint=self.server, credentials=CREDENTIALS)


class TestRemote(InDirectory, unittest.TestCase):
    def make_fs(self):
        held = start_blocking_portal()
        portal = held.__enter__()
        self.addCleanup(held.__exit__, None, None, None)
        (self.top / "shared").mkdir()
        quota = Quota("context peer", limit_bytes=1 << 30, limit_files=1 << 20)
        mount = Mount("peer", lambda: RootFS(self.top), quota)
        self.addCleanup(mount.close)
        files = ContextFiles("peer", Namespace({VirtualPath("/"): mount}), lambda *_: None)
        answers = TreeAnswers()
        return RemoteTree(
            lambda question: portal.call(answers.answer, files, question),
            VirtualPath("/shared"),
            "peer@phone2",
        )


class TestZip(ReadCases, unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        file = Path(directory.name) / "tree.zip"
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("top.txt", "top")
            archive.writestr("d/inner.bin", self.INNER)
            archive.writestr("d/e/deep.txt", "")
            archive.writestr("naïve.txt", "é")
        self.fs = ZipTree(file)
        self.addCleanup(self.fs.close)

    @staticmethod
    def _case(path):
        return ReadCases._case(path)


WRITES = {
    "writebytes": lambda tree: tree.writebytes("top.txt", b"x"),
    "writebytes_new": lambda tree: tree.writebytes("new", b"x"),
    "openbin_w": lambda tree: tree.openbin("top.txt", "w"),
    "openbin_a": lambda tree: tree.openbin("top.txt", "a"),
    "openbin_r_plus": lambda tree: tree.openbin("top.txt", "r+"),
    "openbin_x": lambda tree: tree.openbin("new", "x"),
    "makedir": lambda tree: tree.makedir("new"),
    "makedirs": lambda tree: tree.makedirs("new/deep"),
    "remove": lambda tree: tree.remove("top.txt"),
    "removedir": lambda tree: tree.removedir("d"),
    "removetree": lambda tree: tree.removetree("d"),
    "move": lambda tree: tree.move("top.txt", "moved.txt"),
    "movedir": lambda tree: tree.movedir("d", "moved", create=True),
    "copy": lambda tree: tree.copy("top.txt", "copied.txt"),
    "touch": lambda tree: tree.touch("new"),
    "settimes": lambda tree: tree.settimes("top.txt"),
    "upload": lambda tree: tree.writefile("new", __import__("io").BytesIO(b"x")),
    "appendbytes": lambda tree: tree.appendbytes("top.txt", b"x"),
}


@pytest.mark.parametrize("name", WRITES)
def test_an_archive_refuses_each_write(name, tmp_path):
    file = tmp_path / "tree.zip"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("top.txt", "top")
        archive.writestr("d/x", "x")
    before = file.read_bytes()
    with ZipTree(file) as tree:
        for asked in (tree, guarded(tree)):
            with pytest.raises(fs_errors.ResourceReadOnly):
                WRITES[name](asked)
        assert sorted(tree.listdir("/")) == ["d", "top.txt"]
    assert file.read_bytes() == before


@pytest.mark.parametrize("kind", [TestSQLite, TestS3, TestRemote, TestStoreInMemory, TestMemory])
def test_the_suite_is_as_large_as_it_says(kind):
    assert len(unittest.defaultTestLoader.getTestCaseNames(kind)) >= LEAST_CASES


class Drafting:
    """A place for the drafts of an overlay."""

    def __init__(self) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self._count = 0

    def __call__(self):
        self._count += 1
        path = Path(self.directory.name) / str(self._count)
        return path, path.open("w+b")


class TestOverlaidDisk(OnDisk, unittest.TestCase):
    def make_fs(self):
        self.drafting = Drafting()
        return OverlayFS(super().make_fs(), self.drafting)

    def destroy_fs(self, tree):
        super().destroy_fs(tree)
        self.drafting.directory.cleanup()


class TestOverlaidMemory(TreeCases, unittest.TestCase):
    def make_fs(self):
        self.drafting = Drafting()
        return OverlayFS(MemoryTree(), self.drafting)

    def destroy_fs(self, tree):
        super().destroy_fs(tree)
        self.drafting.directory.cleanup()


class TestGuardedOverlay(TestOverlaidDisk):
    def make_fs(self):
        return guarded(super().make_fs())

    test_adopts_a_file_of_this_machine = None
    test_adopts_nothing_over_a_file = None
    test_read_at_most_takes_what_fits = None
