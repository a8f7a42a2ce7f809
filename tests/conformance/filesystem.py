"""The suite that every tree runs: the 79 cases of the `fs` library, and the promises of ours.

`TreeCases` is for trees that are written to, `ReadCases` for those that are only read. Ours are
asked through the guard, as every caller asks; each hostile spelling is a case of its own.
"""

from __future__ import annotations

import io
import unittest
from pathlib import Path
from tempfile import TemporaryDirectory

import orvalho.contexts.fs_shim  # noqa: F401 -- lets `fs.test` be imported at all
from orvalho.contexts.filesystem import GuardedFS, Quota, measure, walk
from orvalho.contexts.fs_shim import fs_errors
from orvalho.errors import LimitExceeded

if not hasattr(unittest.TestCase, "assertRaisesRegexp"):
    # Python 3.12 removed the old name, which one case still uses.
    unittest.TestCase.assertRaisesRegexp = unittest.TestCase.assertRaisesRegex

from fs.test import FSTestCases

__all__ = ["FSTestCases", "ReadCases", "TreeCases", "guarded"]

HOSTILE = {
    "climbs": "../x",
    "climbs_from_root": "/../x",
    "climbs_inside": "d/../../x",
    "climbs_deep": "d/../../../../../../../../etc/passwd",
    "climbs_at_the_end": "d/../..",
    "backslash": "..\\x",
    "backslash_inside": "d\\..\\..\\x",
    "nul": "x\0y",
    "full_width_slash": "a\uff0f../x",
    "full_width_dots": "\uff0e\uff0e/x",
    "two_dot_leader": "\u2025/x",
    "newline": "x\ny",
    "escape": "x\x1b[2Jy",
    "turned_around": "x\u202ey",
    "invisible": "x\u200by",
    "not_nfc": "e\u0301",
    "colon": "c:x",
    "star": "x*",
    "question": "x?",
    "pipe": "x|y",
    "device": "con",
    "device_with_suffix": "NUL.txt",
    "dot_at_the_end": "x.",
    "space_at_the_end": "x ",
    "surrogate": "x\ud800",
    "long_name": "x" * 256,
    "long_path": "/".join(["x"] * 600),
}
REFUSED = (fs_errors.PathError, fs_errors.IllegalBackReference)


def guarded(tree, *, limit_bytes=1 << 30, limit_files=1 << 20):
    quota = Quota("context test", limit_bytes=limit_bytes, limit_files=limit_files)
    return GuardedFS(tree, lambda action, path: None, quota)


class _Hostile:
    """One case a spelling: it is refused for reading and writing, and leaves nothing behind."""

    def __init_subclass__(cls, **attributes):
        super().__init_subclass__(**attributes)
        for name, path in HOSTILE.items():
            setattr(cls, f"test_hostile_{name}", cls._case(path))

    @staticmethod
    def _case(path):
        def case(self):
            tree = guarded(self.fs)
            before = sorted(at for at, _ in walk(self.fs, "/"))
            for call in (
                lambda: tree.readbytes(path),
                lambda: tree.listdir(path),
                lambda: tree.getinfo(path),
                lambda: tree.writebytes(path, b"x"),
                lambda: tree.makedir(path),
                lambda: tree.remove(path),
                lambda: tree.openbin(path, "w"),
            ):
                with self.assertRaises(REFUSED):
                    call()
            self.assertEqual(sorted(at for at, _ in walk(self.fs, "/")), before)

        return case


class ReadCases(_Hostile):
    """For a tree at `self.fs` that holds `top.txt` ("top"), `d/inner.bin` (bytes 0..255, a thousand
    times), `d/e/deep.txt` ("") and `naïve.txt` ("é")."""

    INNER = bytes(range(256)) * 1000

    def test_lists_the_root(self):
        self.assertEqual(sorted(guarded(self.fs).listdir("/")), ["d", "naïve.txt", "top.txt"])

    def test_lists_a_directory(self):
        self.assertEqual(sorted(guarded(self.fs).listdir("/d")), ["e", "inner.bin"])

    def test_lists_no_file(self):
        with self.assertRaises(fs_errors.DirectoryExpected):
            guarded(self.fs).listdir("top.txt")

    def test_lists_nothing_that_is_missing(self):
        with self.assertRaises(fs_errors.ResourceNotFound):
            guarded(self.fs).listdir("none")

    def test_reads_whole(self):
        self.assertEqual(guarded(self.fs).readbytes("d/inner.bin"), self.INNER)

    def test_reads_an_empty_file(self):
        self.assertEqual(guarded(self.fs).readbytes("d/e/deep.txt"), b"")

    def test_reads_a_name_beyond_ascii(self):
        self.assertEqual(guarded(self.fs).readbytes("naïve.txt"), "é".encode())

    def test_reads_no_directory(self):
        with self.assertRaises(fs_errors.FileExpected):
            guarded(self.fs).readbytes("d")

    def test_reads_nothing_that_is_missing(self):
        with self.assertRaises(fs_errors.ResourceNotFound):
            guarded(self.fs).readbytes("d/none")

    def test_reads_nothing_below_a_file(self):
        with self.assertRaises((fs_errors.ResourceNotFound, fs_errors.DirectoryExpected)):
            guarded(self.fs).readbytes("top.txt/x")

    def test_reads_parts_in_any_order(self):
        with guarded(self.fs).openbin("d/inner.bin") as file:
            for offset in (255_000, 10, 200_000, 0):
                file.seek(offset)
                self.assertEqual(file.read(100), self.INNER[offset : offset + 100])

    def test_reads_from_the_end(self):
        with guarded(self.fs).openbin("d/inner.bin") as file:
            file.seek(-3, io.SEEK_END)
            self.assertEqual(file.read(), self.INNER[-3:])
            self.assertEqual(file.read(1), b"")

    def test_reads_beyond_the_end_are_empty(self):
        with guarded(self.fs).openbin("top.txt") as file:
            file.seek(1000)
            self.assertEqual(file.read(), b"")

    def test_read_at_most_is_bounded(self):
        with self.assertRaises(LimitExceeded):
            guarded(self.fs).read_at_most("d/inner.bin", 1000)

    def test_read_at_most_takes_what_fits(self):
        tree = guarded(self.fs)
        self.assertEqual(tree.read_at_most("d/inner.bin", len(self.INNER)), self.INNER)
        self.assertEqual(self.fs.read_at_most("d/inner.bin", 10), self.INNER[:10])

    def test_tells_sizes(self):
        self.assertEqual(guarded(self.fs).getsize("d/inner.bin"), len(self.INNER))

    def test_tells_directories(self):
        tree = guarded(self.fs)
        self.assertTrue(tree.isdir("d/e"))
        self.assertFalse(tree.isdir("top.txt"))
        self.assertFalse(tree.isfile("d"))
        self.assertFalse(tree.exists("none"))

    def test_walks_all(self):
        found = sorted(at for at, _ in walk(self.fs, "/"))
        self.assertEqual(
            found, ["/d", "/d/e", "/d/e/deep.txt", "/d/inner.bin", "/naïve.txt", "/top.txt"]
        )

    def test_measures(self):
        files, size = measure(self.fs)
        self.assertEqual((files, size), (6, len(self.INNER) + 3 + 2))

    def test_two_spellings_are_one_place(self):
        tree = guarded(self.fs)
        self.assertEqual(tree.readbytes("/d//./inner.bin"), tree.readbytes("d/inner.bin"))

    def test_two_readers_do_not_disturb_each_other(self):
        tree = guarded(self.fs)
        with tree.openbin("d/inner.bin") as one, tree.openbin("d/inner.bin") as other:
            self.assertEqual(one.read(10), self.INNER[:10])
            other.seek(500)
            self.assertEqual(other.read(10), self.INNER[500:510])
            self.assertEqual(one.read(10), self.INNER[10:20])

    def test_a_closed_tree_answers_nothing(self):
        self.fs.close()
        with self.assertRaises(fs_errors.FilesystemClosed):
            self.fs.readbytes("top.txt")


class TreeCases(ReadCases, FSTestCases):
    """For a tree that `make_fs` makes, empty."""

    def _filled(self):
        self.fs.makedir("d")
        self.fs.makedir("d/e")
        self.fs.writebytes("top.txt", b"top")
        self.fs.writebytes("d/inner.bin", self.INNER)
        self.fs.writebytes("d/e/deep.txt", b"")
        self.fs.writebytes("naïve.txt", "é".encode())

    def setUp(self):
        super().setUp()
        if self._testMethodName in vars(ReadCases):
            self._filled()

    def test_replaces_whole(self):
        tree = guarded(self.fs)
        tree.writebytes("x", b"long content")
        tree.writebytes("x", b"short")
        self.assertEqual(tree.readbytes("x"), b"short")
        self.assertEqual(tree.getsize("x"), 5)

    def test_keeps_large_files(self):
        content = bytes(range(256)) * 4096 * 3 + b"end"
        tree = guarded(self.fs)
        tree.writebytes("large", content)
        self.assertEqual(tree.readbytes("large"), content)
        with tree.openbin("large") as file:
            file.seek(1 << 20)
            self.assertEqual(file.read(300_000), content[1 << 20 : (1 << 20) + 300_000])

    def test_writes_in_pieces(self):
        tree = guarded(self.fs)
        with tree.openbin("x", "w") as file:
            for number in range(300):
                file.write(bytes([number % 256]) * 1000)
        self.assertEqual(tree.readbytes("x")[255_000:256_000], b"\xff" * 1000)

    def test_appends(self):
        tree = guarded(self.fs)
        tree.writebytes("x", b"one")
        with tree.openbin("x", "a") as file:
            file.write(b" two")
        self.assertEqual(tree.readbytes("x"), b"one two")

    def test_changes_in_place(self):
        tree = guarded(self.fs)
        tree.writebytes("x", b"0123456789")
        with tree.openbin("x", "r+") as file:
            file.seek(3)
            file.write(b"abc")
        self.assertEqual(tree.readbytes("x"), b"012abc6789")

    def test_does_not_write_below_a_file(self):
        tree = guarded(self.fs)
        tree.writebytes("x", b"1")
        with self.assertRaises(fs_errors.ResourceError):
            tree.writebytes("x/y", b"2")
        self.assertEqual(tree.readbytes("x"), b"1")

    def test_does_not_write_where_no_directory_is(self):
        tree = guarded(self.fs)
        with self.assertRaises(fs_errors.ResourceNotFound):
            tree.writebytes("none/x", b"1")
        self.assertFalse(tree.exists("none"))

    def test_does_not_write_over_a_directory(self):
        tree = guarded(self.fs)
        tree.makedir("d")
        with self.assertRaises(fs_errors.FileExpected):
            tree.writebytes("d", b"1")
        self.assertTrue(tree.isdir("d"))

    def test_a_directory_outlives_its_last_file(self):
        tree = guarded(self.fs)
        tree.makedir("d")
        tree.writebytes("d/x", b"1")
        tree.remove("d/x")
        self.assertTrue(tree.isdir("d"))
        self.assertEqual(tree.listdir("d"), [])

    def test_removes_no_full_directory(self):
        tree = guarded(self.fs)
        tree.makedir("d")
        tree.writebytes("d/x", b"1")
        with self.assertRaises(fs_errors.DirectoryNotEmpty):
            tree.removedir("d")
        self.assertEqual(tree.readbytes("d/x"), b"1")

    def test_removes_a_tree(self):
        self._filled()
        guarded(self.fs).removetree("d")
        self.assertEqual(sorted(self.fs.listdir("/")), ["naïve.txt", "top.txt"])

    def test_moves_a_file(self):
        tree = guarded(self.fs)
        tree.makedir("d")
        tree.writebytes("x", b"1")
        tree.move("x", "d/y")
        self.assertFalse(tree.exists("x"))
        self.assertEqual(tree.readbytes("d/y"), b"1")

    def test_moves_over_nothing(self):
        tree = guarded(self.fs)
        tree.writebytes("x", b"1")
        tree.writebytes("y", b"2")
        with self.assertRaises(fs_errors.DestinationExists):
            tree.move("x", "y")
        self.assertEqual((tree.readbytes("x"), tree.readbytes("y")), (b"1", b"2"))

    def test_moves_a_directory(self):
        self._filled()
        guarded(self.fs).movedir("d", "moved", create=True)
        self.assertEqual(self.fs.readbytes("moved/inner.bin"), self.INNER)
        self.assertFalse(self.fs.exists("d"))

    def test_a_quota_of_bytes_holds(self):
        tree = guarded(self.fs, limit_bytes=10)
        tree.writebytes("x", b"12345678")
        with self.assertRaises(LimitExceeded):
            tree.writebytes("y", b"123")
        self.assertFalse(tree.exists("y"))
        tree.remove("x")
        tree.writebytes("y", b"123")

    def test_a_quota_of_bytes_holds_in_pieces(self):
        tree = guarded(self.fs, limit_bytes=100)
        with self.assertRaises(LimitExceeded), tree.openbin("x", "w", buffering=0) as file:
            for _ in range(50):
                file.write(b"0123456789")
        self.assertLessEqual(self.fs.getsize("x"), 100)

    def test_a_quota_of_files_holds(self):
        tree = guarded(self.fs, limit_files=2)
        tree.writebytes("x", b"")
        tree.makedir("d")
        with self.assertRaises(LimitExceeded):
            tree.writebytes("d/y", b"")

    def test_adopts_a_file_of_this_machine(self):
        with TemporaryDirectory() as top:
            source = Path(top) / "source"
            source.write_bytes(self.INNER)
            if not hasattr(self.fs, "adopt"):
                self.skipTest("this tree takes no file of the machine")
            guarded(self.fs).adopt("x", source, len(self.INNER))
            self.assertEqual(self.fs.readbytes("x"), self.INNER)
            self.assertFalse(source.exists())

    def test_adopts_nothing_over_a_file(self):
        with TemporaryDirectory() as top:
            source = Path(top) / "source"
            source.write_bytes(b"new")
            if not hasattr(self.fs, "adopt"):
                self.skipTest("this tree takes no file of the machine")
            self.fs.writebytes("x", b"old")
            with self.assertRaises(fs_errors.DestinationExists):
                self.fs.adopt("x", source)
            self.assertEqual((self.fs.readbytes("x"), source.read_bytes()), (b"old", b"new"))
