"""One directory of the disk as a tree with no way out of it.

Only plain files and directories exist here. A symbolic link, a FIFO, a device, and a file with a
second name (a hard link, whose other name may lie outside) are refused and not listed. A hard
link is seen by its count when the file is opened, which a process of the owner could change at
that very moment; no call of ours makes or unmakes one, and that process can read the file anyway.
"""

from __future__ import annotations

import errno
import itertools
import os
import re
import secrets
import shutil
import stat
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Final

from orvalho.contexts.changes import Content, Stamp
from orvalho.contexts.filesystem import Escape
from orvalho.contexts.fs_shim import FS, Info, Mode, Permissions, convert_os_errors, fs_errors
from orvalho.contexts.mounts.beneath import O_PATH, Opener, best_opener, sync_filesystem
from orvalho.errors import Unavailable

# A name nobody else uses; what a crash leaves under it is swept away.
_DRAFT: Final = re.compile(r"\.~[0-9a-f]{16}")
# No empty name, none of dots alone, no NUL.
_WELL_SPELLED: Final = re.compile(r"(/(?!\.{1,2}(/|\Z))[^/\0]+)+")
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY
# A FIFO must not hang us, a terminal not become ours.
_CALM: Final = os.O_NONBLOCK | os.O_NOCTTY
_CLOSED: Final = -1
_PRIVATE: Final = 0o600
_ESCAPES: Final = frozenset({errno.ELOOP, errno.EXDEV, errno.ENXIO})


class RootFS(FS):  # type: ignore[misc]  # fs is untyped here
    """The tree in `directory`. Holds one descriptor until `close`.

    `writebytes` is atomic and durable; files opened for writing are neither. Callers see that one
    thread at a time changes the tree; reading is free.
    """

    def __init__(self, directory: Path, opener: Opener | None = None) -> None:
        """Raises:
        OSError: `directory` is none, or is a link.
        Unavailable: the disk takes `A` and `a` for one name, so rules could be sidestepped.
        """
        super().__init__()
        self._root = _CLOSED
        flags = O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        self._root = os.open(directory, flags)
        if _folds_case(self._root):
            self.close()
            raise Unavailable(
                "the disk takes upper and lower case for the same; a context needs one that"
                " tells them apart",
                where=str(directory),
            )
        self._opener = opener or best_opener(self._root)
        self._meta = {
            "case_insensitive": False,
            "invalid_path_chars": "\0",
            "max_path_length": None,
            "max_sys_path_length": None,
            "network": False,
            "read_only": False,
            "supports_rename": False,
            "unicode_paths": True,
        }

    def validatepath(self, path: str) -> str:
        """The library's own, without its work for what is spelled well already."""
        self.check()
        # Bytes are refused by the library's own.
        if isinstance(path, str) and _WELL_SPELLED.fullmatch(path):  # type: ignore[redundant-expr]
            return path
        spelled: str = super().validatepath(path)
        return spelled

    def close(self) -> None:
        root, self._root = self._root, _CLOSED
        if root != _CLOSED:
            os.close(root)
        super().close()

    def sweep(self) -> int:
        """Remove the drafts that a crash left; returns how many. Not while others write."""
        swept = 0
        pending = [""]
        while pending:
            at = pending.pop()
            with self._opened(at, _DIRECTORY) as directory, os.scandir(directory) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(f"{at}/{entry.name}".lstrip("/"))
                    elif _DRAFT.fullmatch(entry.name):
                        os.unlink(entry.name, dir_fd=directory)
                        swept += 1
        return swept

    def getinfo(self, path: str, namespaces: Collection[str] | None = None) -> Any:
        place = self._relative(path)
        with _translated(path), self._opened(place, O_PATH) as descriptor:
            status = os.fstat(descriptor)
        _require_plain(status, path)
        return _info(place.rpartition("/")[2], status, namespaces or ())

    def listdir(self, path: str) -> list[str]:
        return [info.name for info in self.scandir(path)]

    def scandir(
        self,
        path: str,
        namespaces: Collection[str] | None = None,
        page: tuple[int, int] | None = None,
    ) -> Iterator[Any]:
        place = self._relative(path)
        infos = []
        with _translated(path, directory=True), self._opened(place, _DIRECTORY) as directory:
            for name, status in _plain_entries(directory):
                infos.append(_info(name, status, namespaces or ()))
        return itertools.islice(infos, *(page or (None,)))

    def openbin(self, path: str, mode: str = "r", buffering: int = -1, **options: Any) -> IO[bytes]:
        parsed = Mode(mode)
        parsed.validate_bin()
        place = self._relative(path)
        if not place:
            raise fs_errors.FileExpected(path)
        with _translated(path):
            descriptor = self._opener(self._root, place, _open_flags(parsed), 0o600)
            try:
                status = os.fstat(descriptor)
                if stat.S_ISDIR(status.st_mode):
                    raise fs_errors.FileExpected(path)
                _require_plain(status, path)
                if parsed.truncate:
                    # Only now: O_TRUNC would have emptied a file that we must not touch.
                    os.ftruncate(descriptor, 0)
            except BaseException:
                os.close(descriptor)
                raise
        file: Any = os.fdopen(descriptor, parsed.to_platform_bin().replace("x", "w"), buffering)
        return file  # type: ignore[no-any-return]

    def read_at_most(self, path: str, count: int) -> bytes:
        """The first `count` bytes of a file, or all it has: what `openbin` and `read` give, in
        a third of the time."""
        place = self._relative(path)
        with _translated(path), self._opened(place, os.O_RDONLY | _CALM) as descriptor:
            status = os.fstat(descriptor)
            if stat.S_ISDIR(status.st_mode):
                raise fs_errors.FileExpected(path)
            _require_plain(status, path)
            return _read(descriptor, min(count, status.st_size + 1))

    def readbytes(self, path: str) -> bytes:
        """The whole file."""
        return self.read_at_most(path, sys.maxsize)

    def writebytes(self, path: str, contents: bytes) -> None:
        """Replace the file: others see all of the old or all of the new, also after a crash."""
        if not isinstance(contents, bytes):
            raise TypeError("contents must be bytes")
        place = self._relative(path)
        if not place:
            raise fs_errors.FileExpected(path)
        with _translated(path), self._parent(place) as (directory, name):
            old = _status(directory, name)
            if old is not None and stat.S_ISDIR(old.st_mode):
                raise fs_errors.FileExpected(path)
            if old is not None:
                _require_plain(old, path)
            _replace(directory, name, contents, stat.S_IMODE(old.st_mode) if old else 0o600)

    def adopt(self, path: str, source: Path) -> None:
        """Make `source`, a whole file of this machine, the file of a name that is free: others
        see all of it or nothing. It is gone from where it was."""
        place = self._relative(path)
        with _translated(path), self._parent(place) as (directory, name):
            if _status(directory, name) is not None:
                raise fs_errors.DestinationExists(path)
            source.chmod(0o600)
            if source.stat().st_dev == os.fstat(directory).st_dev:
                os.rename(source, name, dst_dir_fd=directory)
                os.fsync(directory)
            else:
                _copy(directory, name, source)
                source.unlink()

    def stamp(self, path: str) -> Stamp | None:
        """How a path looks; None when nothing is there."""
        place = self._relative(path)
        try:
            with _translated(path), self._opened(place, O_PATH) as descriptor:
                status = os.fstat(descriptor)
        except (fs_errors.ResourceNotFound, fs_errors.DirectoryExpected):
            return None
        _require_plain(status, path)
        return _stamp(status)

    def stamps(self) -> Iterator[tuple[str, Stamp]]:
        """How everything looks, a directory before what is in it, without the root."""
        pending = [""]
        while pending:
            at = pending.pop()
            try:
                with self._opened(at, _DIRECTORY) as directory:
                    entries = list(_plain_entries(directory))
            except OSError:
                continue  # gone since, or not ours to read: then nothing in it is, either
            for name, status in entries:
                inside = f"{at}/{name}".lstrip("/")
                yield f"/{inside}", _stamp(status)
                if stat.S_ISDIR(status.st_mode):
                    pending.append(inside)

    def holds_unlisted(self, path: str) -> bool:
        """Whether a directory has something in it that no listing names."""
        place = self._relative(path)
        with _translated(path, directory=True), self._opened(place, _DIRECTORY) as directory:
            plain = {name for name, _ in _plain_entries(directory)}
            with os.scandir(directory) as entries:
                return any(entry.name not in plain for entry in entries)

    def drafts(self) -> list[str]:
        """Where drafts lie now; while nobody writes, those that a crash left."""
        found = []
        pending = [""]
        while pending:
            at = pending.pop()
            with self._opened(at, _DIRECTORY) as directory, os.scandir(directory) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(f"{at}/{entry.name}".lstrip("/"))
                    elif _DRAFT.fullmatch(entry.name):
                        found.append(f"/{at}/{entry.name}".replace("//", "/"))
        return found

    def stage(self, content: Content) -> tuple[str, Stamp]:
        """Write a content down under the name of a draft, not durably yet; for `settle`. How it
        will look in its place."""
        draft = f".~{secrets.token_hex(8)}"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with _translated("/"), self._opened("", _DIRECTORY) as root:
            descriptor = os.open(draft, flags, 0o600, dir_fd=root)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    if isinstance(content.source, bytes):
                        file.write(content.source)
                    else:
                        with content.source.open("rb") as source:
                            shutil.copyfileobj(source, file, 1 << 20)
                    file.flush()
                    return draft, _stamp(os.fstat(descriptor))
            except BaseException:
                os.unlink(draft, dir_fd=root)
                raise

    def settle(self, draft: str, path: str) -> None:
        """Make a draft the file at `path`, whatever file is there: others see all of the old or
        all of the new."""
        place = self._relative(path)
        with (
            _translated(path),
            self._opened("", _DIRECTORY) as root,
            self._parent(place) as (directory, name),
        ):
            old = _status(directory, name)
            if old is not None and stat.S_ISDIR(old.st_mode):
                raise fs_errors.FileExpected(path)
            if old is not None:
                _require_plain(old, path)
                os.chmod(draft, stat.S_IMODE(old.st_mode), dir_fd=root)
            os.rename(draft, name, src_dir_fd=root, dst_dir_fd=directory)

    def unstage(self, draft: str) -> None:
        """Remove a draft that is not to become a file; harmless where it has."""
        with self._opened("", _DIRECTORY) as root, suppress(FileNotFoundError):
            os.unlink(draft, dir_fd=root)

    def flush(self) -> None:
        """Have all that was settled on the disk."""
        with self._opened("", _DIRECTORY) as root:
            sync_filesystem(root)

    def makedir(self, path: str, permissions: Any = None, recreate: bool = False) -> Any:
        place = self._relative(path)
        mode = Permissions.get_mode(permissions) & 0o700
        if not place:
            if not recreate:
                raise fs_errors.DirectoryExists(path)
            return self.opendir(path)
        with _translated(path, directory=True), self._parent(place) as (directory, name):
            try:
                os.mkdir(name, mode, dir_fd=directory)
                os.fsync(directory)
            except FileExistsError:
                if not (recreate and self.isdir(path)):
                    raise
        return self.opendir(path)

    def remove(self, path: str) -> None:
        place = self._relative(path)
        if not place:
            raise fs_errors.FileExpected(path)
        with _translated(path), self._parent(place) as (directory, name):
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                raise fs_errors.FileExpected(path)
            _require_plain(status, path)
            os.unlink(name, dir_fd=directory)

    def removedir(self, path: str) -> None:
        place = self._relative(path)
        if not place:
            raise fs_errors.RemoveRootError(path)
        with _translated(path, directory=True), self._parent(place) as (directory, name):
            os.rmdir(name, dir_fd=directory)

    def setinfo(self, path: str, info: Mapping[str, Mapping[str, object]]) -> None:
        place = self._relative(path)
        details, access = info.get("details", {}), info.get("access", {})
        with _translated(path), self._opened(place, os.O_RDONLY | _CALM) as descriptor:
            status = os.fstat(descriptor)
            _require_plain(status, path)
            if "accessed" in details or "modified" in details:
                accessed: Any = details.get("accessed", status.st_atime)
                modified: Any = details.get("modified", accessed)
                os.utime(descriptor, (float(accessed), float(modified)))
            if "permissions" in access:
                permissions: Any = access["permissions"]
                os.fchmod(descriptor, Permissions(permissions).mode & 0o777)

    def move(
        self, src_path: str, dst_path: str, overwrite: bool = False, preserve_time: bool = False
    ) -> None:
        """A rename: the times of the file stay as they are in any case."""
        if self.getinfo(src_path).is_dir:
            raise fs_errors.FileExpected(src_path)
        if self.exists(dst_path):
            if not overwrite:
                raise fs_errors.DestinationExists(dst_path)
            if self.isdir(dst_path):
                raise fs_errors.FileExpected(dst_path)
        self._rename(src_path, dst_path)

    def movedir(
        self, src_path: str, dst_path: str, create: bool = False, preserve_time: bool = False
    ) -> None:
        """A rename, unless the target exists: then the one is merged into the other."""
        if not create or self.exists(dst_path) or not self.isdir(src_path):
            super().movedir(src_path, dst_path, create, preserve_time)
            return
        self._rename(src_path, dst_path)

    def _rename(self, source: str, target: str) -> None:
        here, there = self._relative(source), self._relative(target)
        with (
            _translated(source),
            self._parent(here) as (from_directory, old_name),
            _translated(target),
            self._parent(there) as (to_directory, new_name),
        ):
            os.rename(old_name, new_name, src_dir_fd=from_directory, dst_dir_fd=to_directory)
            os.fsync(to_directory)

    def _relative(self, path: str) -> str:
        place: str = self.validatepath(path)[1:]
        if ".~" in place and any(_DRAFT.fullmatch(name) for name in place.split("/")):
            raise fs_errors.InvalidPath(path, msg=f"{path!r} is a name kept for drafts")
        return place

    @contextmanager
    def _opened(self, place: str, flags: int) -> Iterator[int]:
        descriptor = self._opener(self._root, place, flags, 0)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    @contextmanager
    def _parent(self, place: str) -> Iterator[tuple[int, str]]:
        """(descriptor of the directory it lies in, its name there). The directory is opened for
        reading: an O_PATH descriptor cannot be fsynced."""
        above, _, name = place.rpartition("/")
        with self._opened(above, _DIRECTORY) as directory:
            yield directory, name


class _translated:  # noqa: N801 -- reads as the words it stands for
    """Turns an OSError within into the fs error for `path`; a class, for its speed."""

    __slots__ = ("_convert", "_path")

    def __init__(self, path: str, directory: bool = False) -> None:
        self._path = path
        self._convert = convert_os_errors("", path, directory)

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if isinstance(error, OSError):
            if error.errno in _ESCAPES:
                raise Escape(self._path) from error
            self._convert.__exit__(kind, error, traceback)


def _folds_case(root: int) -> bool:
    draft = f".~ab{secrets.token_hex(7)}"
    try:
        os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=root))
    except OSError:
        return False  # read-only or full: nothing can be written there under any name
    try:
        return _status(root, draft.upper()) is not None
    finally:
        os.unlink(draft, dir_fd=root)


def _open_flags(mode: Any) -> int:
    flags = os.O_RDONLY
    if mode.writing:
        flags = os.O_RDWR if mode.reading else os.O_WRONLY
    if mode.create:
        flags |= os.O_CREAT
    if mode.exclusive:
        flags |= os.O_EXCL
    if mode.appending:
        flags |= os.O_APPEND
    return flags | _CALM


def _read(descriptor: int, count: int) -> bytes:
    first = os.read(descriptor, count)
    parts = [first]
    count -= len(first)
    # Linux gives at most 2 GiB a call, and a signal can cut one short.
    while count and parts[-1]:
        parts.append(os.read(descriptor, count))
        count -= len(parts[-1])
    return first if len(parts) == 1 else b"".join(parts)


def _replace(directory: int, name: str, contents: bytes, mode: int) -> None:
    draft = f".~{secrets.token_hex(8)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(draft, flags, _PRIVATE, dir_fd=directory)
    try:
        try:
            # Linux takes at most 2 GiB a call, and a signal can cut one short.
            rest = memoryview(contents)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            if mode != _PRIVATE:
                os.fchmod(descriptor, mode)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.rename(draft, name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        os.unlink(draft, dir_fd=directory)
        raise
    os.fsync(directory)


def _copy(directory: int, name: str, source: Path) -> None:
    draft = f".~{secrets.token_hex(8)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(draft, flags, 0o600, dir_fd=directory)
    try:
        with os.fdopen(descriptor, "wb") as file, source.open("rb") as whole:
            shutil.copyfileobj(whole, file, 1 << 20)
            file.flush()
            os.fsync(file.fileno())
        os.rename(draft, name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        os.unlink(draft, dir_fd=directory)
        raise
    os.fsync(directory)


def _status(directory: int, name: str) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _plain_entries(directory: int) -> Iterator[tuple[str, os.stat_result]]:
    with os.scandir(directory) as entries:
        for entry in entries:
            if _DRAFT.fullmatch(entry.name):
                continue
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue  # gone since the directory was read
            if _is_plain(status):
                yield entry.name, status


def _stamp(status: os.stat_result) -> Stamp:
    if stat.S_ISDIR(status.st_mode):
        return Stamp("directory")
    return Stamp("file", status.st_size, status.st_mtime_ns, status.st_ino)


def _is_plain(status: os.stat_result) -> bool:
    if stat.S_ISDIR(status.st_mode):
        return True
    return stat.S_ISREG(status.st_mode) and status.st_nlink <= 1


def _require_plain(status: os.stat_result, path: str) -> None:
    if not _is_plain(status):
        raise Escape(path)


def _info(name: str, status: os.stat_result, namespaces: Collection[str]) -> Any:
    is_directory = stat.S_ISDIR(status.st_mode)
    raw: dict[str, dict[str, object]] = {"basic": {"name": name, "is_dir": is_directory}}
    if "details" in namespaces:
        raw["details"] = {
            "_write": ["accessed", "modified"],
            "type": 1 if is_directory else 2,
            "size": status.st_size,
            "accessed": status.st_atime,
            "modified": status.st_mtime,
            "metadata_changed": status.st_ctime,
        }
    if "access" in namespaces:
        raw["access"] = {
            "permissions": Permissions(mode=status.st_mode).dump(),
            "uid": status.st_uid,
            "gid": status.st_gid,
        }
    return Info(raw)
