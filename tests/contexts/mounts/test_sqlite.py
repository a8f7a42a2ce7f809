"""The tree in one SQLite file: whole after a kill, and careful with files that are not ours."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys

import pytest

from orvalho.contexts.fs_shim import fs_errors
from orvalho.contexts.mounts.sqlite import SQLiteTree
from orvalho.errors import Unavailable

WRITER = """
import sys
from pathlib import Path
from orvalho.contexts.mounts.sqlite import SQLiteTree
tree = SQLiteTree(Path(sys.argv[1]))
number = 0
while True:
    number += 1
    tree.writebytes(f"f{number % 3}", bytes([number % 256]) * 500_000)
    print(number, flush=True)
"""


def test_it_lasts_in_one_file_that_is_ours_alone(tmp_path):
    file = tmp_path / "t.db"
    with SQLiteTree(file) as tree:
        tree.makedirs("a/b")
        tree.writebytes("a/b/c", b"kept")
    assert [each.name for each in tmp_path.iterdir()] == ["t.db"]
    assert file.stat().st_mode & 0o777 == 0o600
    shutil.copy(file, tmp_path / "copy.db")
    with SQLiteTree(tmp_path / "copy.db") as tree:
        assert tree.readbytes("a/b/c") == b"kept"


def test_a_killed_writer_leaves_whole_files(tmp_path):
    for _ in range(5):
        command = [sys.executable, "-c", WRITER, str(tmp_path / "t.db")]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
            for _ in range(4):
                assert writer.stdout.readline()
            writer.send_signal(signal.SIGKILL)
        with SQLiteTree(tmp_path / "t.db") as tree:
            for name in tree.listdir("/"):
                content = tree.readbytes(name)
                assert len(content) == 500_000
                assert len(set(content)) == 1
    connection = sqlite3.connect(tmp_path / "t.db")
    assert connection.execute("pragma integrity_check").fetchall() == [("ok",)]
    connection.close()


def test_a_database_of_another_program_is_left_alone(tmp_path):
    file = tmp_path / "t.db"
    connection = sqlite3.connect(file)
    connection.execute("create table theirs (x)")
    connection.commit()
    connection.close()
    before = file.read_bytes()
    with pytest.raises(Unavailable, match="another program"):
        SQLiteTree(file)
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    "trap",
    [
        "create trigger t after insert on entry begin delete from part; end",
        "create view v as select * from entry",
        "create table more (x)",
        "create index more on entry (size_bytes)",
    ],
)
def test_a_schema_with_more_than_ours_is_refused(tmp_path, trap):
    file = tmp_path / "t.db"
    SQLiteTree(file).close()
    connection = sqlite3.connect(file)
    connection.execute(trap)
    connection.commit()
    connection.close()
    with pytest.raises(Unavailable, match="more than a tree"):
        SQLiteTree(file)


def test_a_file_put_in_its_place_is_not_read_as_if_it_were_ours(tmp_path):
    file, other = tmp_path / "t.db", tmp_path / "other.db"
    with SQLiteTree(other) as tree:
        tree.writebytes("x", b"theirs")
    with SQLiteTree(file) as tree:
        tree.writebytes("x", b"ours")
        other.replace(file)
        for call in (lambda: tree.readbytes("x"), lambda: tree.writebytes("x", b"lost")):
            with pytest.raises(OSError, match="replaced"):
                call()


def test_a_file_that_is_gone_is_an_error_of_the_disk(tmp_path):
    with SQLiteTree(tmp_path / "t.db") as tree:
        tree.writebytes("x", b"1")
        (tmp_path / "t.db").unlink()
        with pytest.raises(OSError):
            tree.writebytes("x", b"2")


def test_a_link_is_refused(tmp_path):
    SQLiteTree(tmp_path / "real.db").close()
    (tmp_path / "t.db").symlink_to(tmp_path / "real.db")
    with pytest.raises(Unavailable, match="link"):
        SQLiteTree(tmp_path / "t.db")


def test_damage_is_an_error_of_the_disk_and_never_a_crash(tmp_path):
    file = tmp_path / "t.db"
    with SQLiteTree(file) as tree:
        for number in range(30):
            tree.writebytes(f"f{number}", os.urandom(3000))
    good, rng = file.read_bytes(), random.Random(3)
    outcomes = set()
    for _ in range(300):
        content = bytearray(good)
        for _ in range(40):
            content[rng.randrange(len(content))] = rng.randrange(256)
        file.write_bytes(content)
        try:
            with SQLiteTree(file) as tree:
                for name in tree.listdir("/"):
                    tree.readbytes(name)
            outcomes.add("read")
        except (OSError, Unavailable, fs_errors.FSError) as error:
            outcomes.add(type(error).__name__)
    assert len(outcomes) > 1


def test_a_file_that_is_replaced_while_it_is_read_is_told(tmp_path):
    with SQLiteTree(tmp_path / "t.db") as tree:
        tree.writebytes("x", b"a" * 1_000_000)
        with tree.openbin("x", buffering=0) as file:
            assert file.read(10) == b"a" * 10
            tree.writebytes("x", b"b" * 1_000_000)
            with pytest.raises(OSError, match="has changed"):
                file.read(10)
