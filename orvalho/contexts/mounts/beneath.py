"""Opening a file beneath a directory with no way out: openat2(2), or a walk without it.

Both refuse every symbolic link on the way and at the end (ELOOP) and never leave the root, also
while somebody renames directories and links under their feet: the kernel resolves each name
relative to a descriptor that is held, and no text is checked first and used later.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

# (root descriptor, relative path without `..`, flags, mode) -> descriptor, or OSError
Opener = Callable[[int, str, int, int], int]

O_PATH: Final = getattr(os, "O_PATH", os.O_RDONLY)

_OPENAT2: Final = 437  # the same number on every architecture
_BENEATH: Final = 0x08
_NO_SYMLINKS: Final = 0x04
_NO_MAGICLINKS: Final = 0x02
# The kernel answers EAGAIN when a rename anywhere raced with `..`; it asks us to try again.
_TRIES: Final = 64


class _OpenHow(ctypes.Structure):
    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


def best_opener(root: int) -> Opener:
    """openat2 where the kernel has it and the sandbox around us lets it through."""
    try:
        os.close(open_by_kernel(root, "", O_PATH | os.O_DIRECTORY, 0))
    except (OSError, AttributeError):
        return open_by_walk
    return open_by_kernel


def open_by_kernel(root: int, path: str, flags: int, mode: int) -> int:
    """One openat2(2): Linux 5.6."""
    name = os.fsencode(path) or b"."
    if b"\0" in name:
        raise OSError(errno.EINVAL, "NUL in a path", path)
    how = _how(flags | os.O_NOFOLLOW | os.O_CLOEXEC, mode if flags & os.O_CREAT else 0)
    syscall = _syscall()
    for _ in range(_TRIES):
        descriptor: int = syscall(_OPENAT2, root, name, ctypes.byref(how), ctypes.sizeof(how))
        if descriptor >= 0:
            return descriptor
        code = ctypes.get_errno()
        if code not in (errno.EAGAIN, errno.EINTR):
            break
    raise OSError(code, os.strerror(code), path)


def open_by_walk(root: int, path: str, flags: int, mode: int) -> int:
    """A component at a time, each relative to its parent's descriptor, never through a link."""
    names = [name for name in path.split("/") if name not in ("", ".")]
    if ".." in names:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), path)
    flags |= os.O_NOFOLLOW | os.O_CLOEXEC
    if not names:
        return os.open(".", flags, mode, dir_fd=root)
    at = root
    try:
        for name in names[:-1]:
            below = _open_directory(at, name)
            if at != root:
                os.close(at)
            at = below
        return _open_last(at, names[-1], flags, mode)
    finally:
        if at != root:
            os.close(at)


def _open_directory(at: int, name: str) -> int:
    flags = O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(name, flags, dir_fd=at)
    except NotADirectoryError as error:
        # Linux says ENOTDIR for a link too; a link is to be told apart from a plain file.
        raise _as_loop(at, name, error) from error


def _open_last(at: int, name: str, flags: int, mode: int) -> int:
    try:
        return os.open(name, flags, mode, dir_fd=at)
    except NotADirectoryError as error:
        raise _as_loop(at, name, error) from error


def _as_loop(at: int, name: str, error: OSError) -> OSError:
    if stat.S_ISLNK(os.stat(name, dir_fd=at, follow_symlinks=False).st_mode):
        return OSError(errno.ELOOP, os.strerror(errno.ELOOP), name)
    return error


@lru_cache(64)
def _how(flags: int, mode: int) -> _OpenHow:
    return _OpenHow(flags, mode, _BENEATH | _NO_SYMLINKS | _NO_MAGICLINKS)


@lru_cache(1)
def _syscall() -> Any:
    syscall = ctypes.CDLL(None, use_errno=True).syscall
    syscall.argtypes = [
        ctypes.c_long,
        ctypes.c_int,
        ctypes.c_char_p,
        ctypes.POINTER(_OpenHow),
        ctypes.c_size_t,
    ]
    syscall.restype = ctypes.c_long
    return syscall


def sync_filesystem(descriptor: int) -> None:
    """Have all that was written to a file system on its disk: syncfs(2), or sync(2) without it."""
    syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    if syncfs is None:
        os.sync()
    elif syncfs(descriptor) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
