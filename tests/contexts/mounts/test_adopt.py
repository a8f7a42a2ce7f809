"""A whole file of this machine taken into a tree: at once, counted, under a free name."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from orvalho.contexts.files import ContextFiles, Mount
from orvalho.contexts.filesystem import FileAction, Quota, VirtualPath
from orvalho.contexts.fs_shim import fs_errors
from orvalho.contexts.mounts.disk import RootFS
from orvalho.contexts.namespace import Namespace
from orvalho.errors import Denied, LimitExceeded, NotFound

BODY = b"whole" * 1000
DIGEST = hashlib.sha256(BODY).digest()


@pytest.fixture
def quota() -> Quota:
    return Quota("context gil", limit_bytes=20_000, limit_files=4)


@pytest.fixture
def top(tmp_path: Path) -> Path:
    top = tmp_path / "tree"
    top.mkdir()
    return top


def files_in(top: Path, quota: Quota, refused: str = "") -> ContextFiles:
    def check(_action: FileAction, place: VirtualPath) -> None:
        if place == refused:
            raise Denied("no", where=place)

    mount = Mount("gil", lambda: RootFS(top), quota)
    return ContextFiles("gil", Namespace({VirtualPath("/"): mount}), check)


def source_in(directory: Path) -> Path:
    source = directory / "draft"
    source.write_bytes(BODY)
    return source


@pytest.mark.anyio
async def test_it_is_moved_counted_and_given_a_free_name(
    top: Path, tmp_path: Path, quota: Quota
) -> None:
    files = files_in(top, quota)
    for expected in ("/a.tar.gz", "/a.tar (2).gz", "/a.tar (3).gz"):
        source = source_in(tmp_path)
        assert await files.adopt("/a.tar.gz", source, DIGEST, reuses=False) == (expected, True)
        assert not source.exists()
        assert (top / expected[1:]).read_bytes() == BODY
        assert (top / expected[1:]).stat().st_mode & 0o777 == 0o600
    assert (quota.used_bytes, quota.used_files) == (15_000, 3)
    assert await files.adopt("/a.tar.gz", source_in(tmp_path), DIGEST, reuses=True) == (
        "/a.tar.gz",
        False,
    )
    assert quota.used_files == 3


@pytest.mark.anyio
async def test_what_does_not_fit_or_is_not_allowed_stays_out(
    top: Path, tmp_path: Path, quota: Quota
) -> None:
    quota.limit_bytes = 6_000
    files = files_in(top, quota, refused="/a (2)")
    source = source_in(tmp_path)
    await files.adopt("/a", source, DIGEST, reuses=False)
    with pytest.raises(Denied):
        await files.adopt("/a", source_in(tmp_path), DIGEST, reuses=False)
    with pytest.raises(LimitExceeded):
        await files.adopt("/b", source, DIGEST, reuses=False)
    quota.limit_bytes = 20_000
    with pytest.raises(NotFound):
        await files.adopt("/none/b", source, DIGEST, reuses=False)
    assert os.listdir(top) == ["a"]  # noqa: PTH208 -- no path is walked here
    assert (quota.used_bytes, quota.used_files) == (5_000, 1)


def test_a_file_of_another_disk_is_copied_whole(top: Path) -> None:
    elsewhere = Path("/dev/shm")
    if not elsewhere.is_dir() or elsewhere.stat().st_dev == top.stat().st_dev:
        pytest.skip("this machine has no second file system at /dev/shm")
    source = elsewhere / f"orvalho-adopt-{top.stat().st_ino}"
    source.write_bytes(BODY)
    try:
        with RootFS(top) as tree:
            tree.adopt("/a", source)
            assert not source.exists()
            source.write_bytes(b"another")
            with pytest.raises(fs_errors.DestinationExists):
                tree.adopt("/a", source)
    finally:
        source.unlink(missing_ok=True)
    assert [each.name for each in top.iterdir()] == ["a"]
    assert (top / "a").read_bytes() == BODY
