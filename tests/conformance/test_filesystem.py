"""Each tree, and the guard in front of one, passes the library's own suite."""

from __future__ import annotations

import tempfile
import unittest
from pathlib import Path

from orvalho.contexts.filesystem import GuardedFS, Quota
from orvalho.contexts.mounts.beneath import open_by_kernel, open_by_walk
from orvalho.contexts.mounts.disk import RootFS
from orvalho.contexts.mounts.memory import MemoryTree
from orvalho.contexts.mounts.overlay import OverlayFS
from tests.conformance.filesystem import FSTestCases


class OnDisk(FSTestCases):
    opener = staticmethod(open_by_kernel)

    def make_fs(self):
        self.directory = tempfile.TemporaryDirectory()
        return RootFS(Path(self.directory.name), self.opener)

    def destroy_fs(self, tree):
        super().destroy_fs(tree)
        self.directory.cleanup()


class TestDiskByKernel(OnDisk, unittest.TestCase):
    pass


class TestDiskByWalk(OnDisk, unittest.TestCase):
    opener = staticmethod(open_by_walk)


class TestMemory(FSTestCases, unittest.TestCase):
    def make_fs(self):
        return MemoryTree()


class TestGuardedDisk(OnDisk, unittest.TestCase):
    def make_fs(self):
        quota = Quota("context test", limit_bytes=1 << 30, limit_files=1 << 20)
        return GuardedFS(super().make_fs(), lambda action, path: None, quota)


class TestGuardedMemory(FSTestCases, unittest.TestCase):
    def make_fs(self):
        quota = Quota("context test", limit_bytes=1 << 30, limit_files=1 << 20)
        return GuardedFS(MemoryTree(), lambda action, path: None, quota)


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


class TestOverlaidMemory(FSTestCases, unittest.TestCase):
    def make_fs(self):
        self.drafting = Drafting()
        return OverlayFS(MemoryTree(), self.drafting)

    def destroy_fs(self, tree):
        super().destroy_fs(tree)
        self.drafting.directory.cleanup()


class TestGuardedOverlay(TestOverlaidDisk):
    def make_fs(self):
        quota = Quota("context test", limit_bytes=1 << 30, limit_files=1 << 20)
        return GuardedFS(super().make_fs(), lambda action, path: None, quota)
