"""The tree on disk: replaced whole or not at all, also by a process that is killed."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from orvalho.contexts.filesystem import Escape
from orvalho.contexts.fs_shim import fs_errors
from orvalho.contexts.mounts.disk import RootFS

WRITER = """
import sys
from pathlib import Path
from orvalho.contexts.mounts.disk import RootFS
tree = RootFS(Path(sys.argv[1]))
print("ready", flush=True)
number = 0
while True:
    number += 1
    tree.writebytes(f"f{number % 3}", bytes([number % 256]) * 50_000)
"""


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_killed_writer_leaves_whole_files_and_drafts_that_are_swept(tmp_path):
    for _ in range(5):
        command = [sys.executable, "-c", WRITER, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
            assert writer.stdout.readline() == b"ready\n"
            while not (tmp_path / "f2").exists():
                pass
            writer.send_signal(signal.SIGKILL)

    with RootFS(tmp_path) as tree:
        for name in tree.listdir("/"):
            content = tree.readbytes(name)
            assert len(content) == 50_000
            assert len(set(content)) == 1
        (tmp_path / ".~00000000000000ff").write_bytes(b"half")
        assert tree.sweep() >= 1
    assert {path.name for path in tmp_path.iterdir()} <= {"f0", "f1", "f2"}


def test_a_sweep_takes_drafts_alone_and_follows_no_link(tmp_path):
    outside, root = tmp_path / "outside", tmp_path / "root"
    (root / "d").mkdir(parents=True)
    outside.mkdir()
    for directory in (root, root / "d", outside):
        (directory / ".~0123456789abcdef").write_bytes(b"")
    for kept in (".~kept", ".~0123456789ABCDEF", "0123456789abcdef", ".~0123456789abcdef0"):
        (root / kept).write_bytes(b"")
    (root / "link").symlink_to(outside)

    with RootFS(root) as tree:
        assert tree.sweep() == 2

    assert (outside / ".~0123456789abcdef").exists()
    assert len(list(root.iterdir())) == 6


def test_a_replaced_file_keeps_its_mode_and_a_new_one_is_private(tmp_path):
    with RootFS(tmp_path) as tree:
        tree.writebytes("f", b"1")
        assert (tmp_path / "f").stat().st_mode & 0o777 == 0o600
        (tmp_path / "f").chmod(0o755)
        tree.writebytes("f", b"2")

    assert (tmp_path / "f").stat().st_mode & 0o777 == 0o755


def test_a_write_that_fails_leaves_neither_draft_nor_change(tmp_path):
    (tmp_path / "d").mkdir()
    with RootFS(tmp_path) as tree:
        with pytest.raises(fs_errors.FileExpected):
            tree.writebytes("d", b"x")
        (tmp_path / "link").symlink_to("elsewhere")
        with pytest.raises(Escape):
            tree.writebytes("link", b"x")

    assert {path.name for path in tmp_path.iterdir()} == {"d", "link"}


def test_a_hard_linked_file_is_not_emptied_by_the_refusal(tmp_path):
    (tmp_path / "outside").write_bytes(b"content")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "f").hardlink_to(tmp_path / "outside")
    with RootFS(tmp_path / "root") as tree:
        for mode in ("r", "w", "a", "r+", "w+"):
            with pytest.raises(Escape):
                tree.openbin("f", mode)

    assert (tmp_path / "outside").read_bytes() == b"content"


def test_a_closed_tree_holds_no_descriptor_and_refuses_calls(tmp_path):
    before = open_descriptors()
    tree = RootFS(tmp_path)
    tree.writebytes("f", b"x")
    tree.listdir("/")
    with pytest.raises(fs_errors.ResourceNotFound):
        tree.readbytes("nothing")
    tree.close()
    tree.close()

    assert open_descriptors() == before
    with pytest.raises(fs_errors.FilesystemClosed):
        tree.readbytes("f")


def test_a_full_read_gives_at_most_what_was_asked_for(tmp_path):
    with RootFS(tmp_path) as tree:
        tree.writebytes("f", b"12345")

        assert tree.read_at_most("f", 3) == b"123"
        assert tree.read_at_most("f", 5) == b"12345"
        assert tree.read_at_most("f", 100) == b"12345"
        assert tree.read_at_most("f", 0) == b""
