"""Both ways of opening beneath a directory answer the same."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from orvalho.contexts.mounts.beneath import O_PATH, best_opener, open_by_kernel, open_by_walk


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture
def root(tmp_path):
    (tmp_path / "root" / "d" / "e").mkdir(parents=True)
    (tmp_path / "root" / "f").write_bytes(b"f")
    (tmp_path / "root" / "d" / "e" / "g").write_bytes(b"g")
    (tmp_path / "root" / "link").symlink_to("d")
    (tmp_path / "root" / "file-link").symlink_to("f")
    descriptor = os.open(tmp_path / "root", O_PATH | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


@pytest.mark.parametrize("opener", [open_by_kernel, open_by_walk])
@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("..", errno.EXDEV),
        ("d/../..", errno.EXDEV),
        ("link/e/g", errno.ELOOP),
        ("link", errno.ELOOP),
        ("file-link", errno.ELOOP),
        ("file-link/x", errno.ELOOP),
        ("nothing", errno.ENOENT),
        ("nothing/x", errno.ENOENT),
        ("f/x", errno.ENOTDIR),
    ],
)
def test_what_leads_out_or_nowhere_is_refused_alike(root, opener, path, code):
    with pytest.raises(OSError) as refusal:
        opener(root, path, os.O_RDONLY, 0)

    assert refusal.value.errno == code


@pytest.mark.parametrize("opener", [open_by_kernel, open_by_walk])
def test_a_nul_is_refused_before_the_kernel_sees_it(root, opener):
    with pytest.raises((OSError, ValueError)):
        opener(root, "f\0/../x", os.O_RDONLY, 0)


@pytest.mark.parametrize("opener", [open_by_kernel, open_by_walk])
def test_files_and_the_root_open_and_no_descriptor_is_left(root, opener):
    before = open_descriptors()
    for path, content in (("f", b"f"), ("d/e/g", b"g"), ("./d//e/g", b"g")):
        descriptor = opener(root, path, os.O_RDONLY, 0)
        assert os.read(descriptor, 10) == content
        assert not os.get_inheritable(descriptor)
        os.close(descriptor)
    os.close(opener(root, "", os.O_RDONLY | os.O_DIRECTORY, 0))
    for bad in ("..", "link/e/g", "f/x", "d/e/nothing", "d/nothing/x"):
        with pytest.raises(OSError):
            opener(root, bad, os.O_RDONLY, 0)

    assert open_descriptors() == before


def test_the_kernel_is_asked_where_it_can(root):
    assert best_opener(root) is open_by_kernel


def test_without_openat2_the_walk_is_taken():
    closed = os.open("/", O_PATH)
    os.close(closed)

    # Any error of the first try counts: sandboxes answer ENOSYS, EPERM or something of their own.
    assert best_opener(closed) is open_by_walk
