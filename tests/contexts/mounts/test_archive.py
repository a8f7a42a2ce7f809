"""Archives that lie: each is refused as a whole, before anything of it is shown."""

from __future__ import annotations

import io
import os
import random
import stat
import struct
import zipfile

import pytest

from orvalho.contexts.mounts import archive
from orvalho.contexts.mounts.archive import ZipTree
from orvalho.errors import Unavailable


def packed(
    *entries: tuple[str | zipfile.ZipInfo, bytes], method: int = zipfile.ZIP_DEFLATED
) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as made:
        for name, content in entries:
            made.writestr(name, content)
    return out.getvalue()


def refused(tmp_path, content: bytes, why: str) -> None:
    file = tmp_path / "x.zip"
    file.write_bytes(content)
    with pytest.raises(Unavailable, match=why):
        ZipTree(file)


def test_a_plain_archive_is_read(tmp_path):
    file = tmp_path / "x.zip"
    file.write_bytes(packed(("a/b.txt", b"hello"), ("a/c/", b"")))
    with ZipTree(file) as tree:
        assert tree.readbytes("a/b.txt") == b"hello"
        assert sorted(tree.listdir("a")) == ["b.txt", "c"]
        assert tree.listdir("a/c") == []


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "/etc/passwd",
        "a/../../x",
        "a\\..\\x",
        "C:/x",
        "a//b",
        "./a",
        "con",
        "x\u202ey",
        "/",
        "x.",
    ],
)
def test_a_name_that_leaves_the_tree_refuses_the_archive(tmp_path, name):
    refused(tmp_path, packed(("fine", b"1"), (zipfile.ZipInfo(name), b"x")), "no name|a directory")


def test_a_name_cut_at_a_nul_is_not_taken_for_what_is_left(tmp_path):
    content = packed(("fine.txtX../../evil", b"x"))
    refused(tmp_path, content.replace(b"fine.txtX", b"fine.txt\0"), "no name")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_of_one_name_refuse_it(tmp_path):
    refused(tmp_path, packed(("a", b"1"), ("a", b"2")), "two entries")


def test_a_file_that_is_also_a_directory_refuses_it(tmp_path):
    refused(tmp_path, packed(("a", b"1"), ("a/b", b"2")), "is a file")
    refused(tmp_path, packed(("a/b", b"2"), ("a", b"1")), "is a file")


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO, stat.S_IFSOCK])
def test_links_and_devices_refuse_it(tmp_path, kind):
    info = zipfile.ZipInfo("link")
    info.create_system = 3
    info.external_attr = (kind | 0o777) << 16
    refused(tmp_path, packed((info, b"/etc/passwd")), "link or a device")


def test_an_encrypted_entry_refuses_it(tmp_path):
    content = bytearray(packed(("a", b"1")))
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.find(mark) + offset] |= 1
    refused(tmp_path, bytes(content), "encrypted")


def test_a_method_that_is_seldom_used_refuses_it(tmp_path):
    refused(tmp_path, packed(("a", b"1" * 1000), method=zipfile.ZIP_BZIP2), "method")


def test_a_bomb_refuses_it(tmp_path):
    refused(tmp_path, packed(("zeros", bytes(64 << 20))), "unpacks to 67108864 bytes")


def test_an_archive_that_says_to_hold_too_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "MOST_BYTES", 1000)
    refused(tmp_path, packed(("a", os.urandom(600)), ("b", os.urandom(600))), "unpacks to more")


def test_too_many_entries_are_refused_before_they_are_read(tmp_path):
    content = bytearray(packed(("a", b"1")))
    end = content.rfind(b"PK\x05\x06")
    struct.pack_into("<L", content, end + 12, 0xFFFFFF)  # its directory is larger than the file
    refused(tmp_path, bytes(content), "more than")


def test_entries_that_share_their_bytes_are_refused(tmp_path):
    """The bomb without nesting: many entries, one block of data."""
    inner = os.urandom(2000)
    content = bytearray(packed(("a", inner), ("b", inner), method=zipfile.ZIP_STORED))
    second = content.rfind(b"PK\x01\x02")
    struct.pack_into("<L", content, second + 42, 0)
    refused(tmp_path, bytes(content), "shares its bytes")


def test_a_size_that_is_not_true_ends_the_reading(tmp_path):
    content = bytearray(packed(("a", b"0123456789" * 10)))
    for mark, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        struct.pack_into("<L", content, content.find(mark) + offset, 10)
    file = tmp_path / "x.zip"
    file.write_bytes(content)
    with ZipTree(file) as tree, pytest.raises(OSError, match="damaged"):
        tree.readbytes("a")


def test_ten_thousand_broken_archives_are_refused_or_read(tmp_path):
    rng = random.Random(7)
    good = packed(*((f"d{n % 3}/f{n}", os.urandom(50)) for n in range(8)))
    file = tmp_path / "x.zip"
    outcomes = set()
    for _ in range(10_000):
        content = bytearray(good)
        for _ in range(rng.randrange(1, 6)):
            content[rng.randrange(len(content))] = rng.randrange(256)
        file.write_bytes(content[: rng.randrange(len(content))] if rng.random() < 0.3 else content)
        try:
            with ZipTree(file) as tree:
                for path in tree.walk.files():
                    tree.readbytes(path)
            outcomes.add("read")
        except (Unavailable, OSError) as error:
            outcomes.add(type(error).__name__)
    assert {"read", "Unavailable"} <= outcomes


def test_a_link_to_an_archive_is_not_followed(tmp_path):
    (tmp_path / "real.zip").write_bytes(packed(("a", b"1")))
    (tmp_path / "x.zip").symlink_to(tmp_path / "real.zip")
    with pytest.raises(OSError, match="symbolic"):
        ZipTree(tmp_path / "x.zip")


def test_a_fifo_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x.zip")
    with pytest.raises(Unavailable, match="no plain file"):
        ZipTree(tmp_path / "x.zip")
