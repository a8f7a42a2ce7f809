"""Trees whose files are stored whole: what SQLite, object stores, archives and other devices share.

A backend says what lies where, reads a part of a file, and replaces a file as a whole. From these
few primitives `StoredTree` makes an FS, so that what is missing, what is a directory and what
exists already is told the same way by each of them, and each sees only paths of the one spelling.
"""

from __future__ import annotations

import errno
import io
import itertools
import tempfile
from abc import abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from orvalho.contexts.filesystem import virtual_path
from orvalho.contexts.fs_shim import FS, Info, Mode, fs_errors
from orvalho.contexts.raw_file import RawFile, buffered
from orvalho.errors import Denied, InvalidInput

# What one step of reading asks the store for.
PART_BYTES: Final = 1 << 18
# A file that is being written stays in memory up to this size.
_SPOOLED_BYTES: Final = 1 << 20
_COPIED_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Status:
    """One file or directory. `modified_at` in Unix seconds, None if unknown. `version` differs when
    the content does, as far as the store can tell."""

    is_directory: bool
    size_bytes: int = 0
    modified_at: float | None = None
    version: str = ""


DIRECTORY: Final = Status(is_directory=True)


class StoredTree(FS):  # type: ignore[misc]  # fs is untyped here
    """An FS over the primitives below, which get places: `a/b`, and an empty one for the root.

    They are called with what fits: a part of a file that is there, a new file in a directory that
    is there. Another writer can come between, so each copes with what it does not find: with the
    fs error for it, or an OSError. What is written becomes visible as a whole, when the file is
    closed. Callers see that one thread at a time changes the tree.
    """

    is_network = False

    def __init__(self) -> None:
        super().__init__()
        self._meta = {
            "case_insensitive": False,
            "invalid_path_chars": "\0",
            "max_path_length": None,
            "max_sys_path_length": None,
            "network": self.is_network,
            "read_only": False,
            "supports_rename": False,
            "unicode_paths": True,
        }

    # ---- primitives ---------------------------------------------------------------------------

    @abstractmethod
    def _status(self, place: str) -> Status | None:
        """What is there; None for nothing. The root is always asked for as a directory."""

    @abstractmethod
    def _children(self, place: str) -> Iterable[tuple[str, Status]]:
        """The names in a directory, each once."""

    @abstractmethod
    def _read(self, place: str, offset: int, count: int, version: str) -> bytes:
        """At most `count` bytes of a file of that version; fewer only where it ends. An empty
        `version` takes any."""

    @abstractmethod
    def _store(self, place: str, source: IO[bytes], size_bytes: int) -> None:
        """Make the rest of `source` the file, whatever file was there: all of it or nothing."""

    @abstractmethod
    def _make(self, place: str) -> None:
        """A directory where nothing is."""

    @abstractmethod
    def _remove(self, place: str) -> None:
        """A file."""

    @abstractmethod
    def _remove_directory(self, place: str) -> None:
        """An empty directory; fs_errors.DirectoryNotEmpty where it is not."""

    def _touch(self, place: str, modified_at: float) -> None:
        """Set when it was modified, where the store can."""

    # ---- the FS -------------------------------------------------------------------------------

    def validatepath(self, path: str) -> str:
        """The one spelling, whoever asks: no store sees `..`, a NUL or a backslash."""
        spelled: str = super().validatepath(path)
        try:
            return virtual_path(spelled)
        except Denied as error:
            raise fs_errors.InvalidCharsInPath(path) from error
        except InvalidInput as error:
            raise fs_errors.InvalidPath(path, msg=error.message) from error

    def getinfo(self, path: str, namespaces: Collection[str] | None = None) -> Any:
        place = self._place(path)
        return _info(place.rpartition("/")[2], self._existing(path, place), namespaces or ())

    def listdir(self, path: str) -> list[str]:
        return [info.name for info in self.scandir(path)]

    def scandir(
        self,
        path: str,
        namespaces: Collection[str] | None = None,
        page: tuple[int, int] | None = None,
    ) -> Iterator[Any]:
        place = self._place(path)
        if not self._existing(path, place).is_directory:
            raise fs_errors.DirectoryExpected(path)
        infos = (_info(name, each, namespaces or ()) for name, each in self._children(place))
        return itertools.islice(infos, *(page or (None,)))

    def openbin(self, path: str, mode: str = "r", buffering: int = -1, **options: Any) -> IO[bytes]:
        parsed = Mode(mode)
        parsed.validate_bin()
        place = self._place(path)
        if not parsed.writing:
            raw = _Reader(self, place, self._file(path, place))
            return raw if buffering == 0 else io.BufferedReader(raw, PART_BYTES)  # type: ignore[return-value]
        status = self._writable(path, place)
        if status is not None and parsed.exclusive:
            raise fs_errors.FileExists(path)
        if status is None and not parsed.create:
            raise fs_errors.ResourceNotFound(path)
        draft = _Draft(self, place, parsed)
        if status is not None and not parsed.truncate:
            draft.begin_with(status)
        else:
            # As on a disk: it is there from now on, and empty.
            self._store(place, io.BytesIO(), 0)
        return buffered(draft, PART_BYTES if buffering else 0)

    def read_at_most(self, path: str, count: int) -> bytes:
        """The first `count` bytes of a file, or all it has."""
        place = self._place(path)
        status = self._file(path, place)
        return self._read(place, 0, min(count, status.size_bytes), status.version)

    def readbytes(self, path: str) -> bytes:
        with self.openbin(path) as file:
            return file.read()

    def writebytes(self, path: str, contents: bytes) -> None:
        """Replace the file: others see all of the old or all of the new."""
        if not isinstance(contents, bytes):
            raise TypeError("contents must be bytes")
        place = self._place(path)
        self._writable(path, place)
        self._store(place, io.BytesIO(contents), len(contents))

    def adopt(self, path: str, source: Path) -> None:
        """Make `source`, a whole file of this machine, the file of a name that is free. It is gone
        from where it was."""
        place = self._place(path)
        if self._writable(path, place) is not None:
            raise fs_errors.DestinationExists(path)
        with source.open("rb") as file:
            self._store(place, file, source.stat().st_size)
        source.unlink()

    def makedir(self, path: str, permissions: Any = None, recreate: bool = False) -> Any:
        place = self._place(path)
        status = self._status(place) if place else DIRECTORY
        if status is None:
            self._require_directory_above(path, place)
            self._make(place)
        elif not (recreate and status.is_directory):
            raise fs_errors.DirectoryExists(path)
        return self.opendir(path)

    def remove(self, path: str) -> None:
        place = self._place(path)
        self._file(path, place)
        self._remove(place)

    def removedir(self, path: str) -> None:
        place = self._place(path)
        if not place:
            raise fs_errors.RemoveRootError(path)
        if not self._existing(path, place).is_directory:
            raise fs_errors.DirectoryExpected(path)
        self._remove_directory(place)

    def setinfo(self, path: str, info: Mapping[str, Mapping[str, object]]) -> None:
        place = self._place(path)
        self._existing(path, place)
        modified: Any = info.get("details", {}).get("modified")
        if modified is not None and place:
            self._touch(place, float(modified))

    def measure(self, most_files: int) -> tuple[int, int]:
        """(files and directories, bytes) of the tree; counting ends beyond `most_files`."""
        files = size = 0
        pending = [""]
        while pending and files <= most_files:
            at = pending.pop()
            for name, status in self._children(at):
                files += 1
                size += 0 if status.is_directory else status.size_bytes
                if status.is_directory:
                    pending.append(f"{at}/{name}".lstrip("/"))
        return files, size

    # ---- inside -------------------------------------------------------------------------------

    def _place(self, path: str) -> str:
        return self.validatepath(path)[1:]

    def _existing(self, path: str, place: str) -> Status:
        status = self._status(place) if place else DIRECTORY
        if status is None:
            raise fs_errors.ResourceNotFound(path)
        return status

    def _file(self, path: str, place: str) -> Status:
        status = self._existing(path, place)
        if status.is_directory:
            raise fs_errors.FileExpected(path)
        return status

    def _writable(self, path: str, place: str) -> Status | None:
        if not place:
            raise fs_errors.FileExpected(path)
        status = self._status(place)
        if status is None:
            self._require_directory_above(path, place)
        elif status.is_directory:
            raise fs_errors.FileExpected(path)
        return status

    def _require_directory_above(self, path: str, place: str) -> None:
        above = place.rpartition("/")[0]
        status = self._status(above) if above else DIRECTORY
        if status is None or not status.is_directory:
            raise fs_errors.ResourceNotFound(path)


def changed_meanwhile(place: str) -> OSError:
    """What a file that is read in parts has become another one between two of them."""
    return OSError(errno.ESTALE, f"{place} has changed while it was read")


class _Reader(io.RawIOBase):
    """A file read in parts, all of one version."""

    def __init__(self, tree: StoredTree, place: str, status: Status) -> None:
        super().__init__()
        self.mode = "rb"
        self._tree = tree
        self._place = place
        self._status = status
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        count = min(len(view), self._status.size_bytes - self._at)
        if count <= 0:
            return 0
        version = self._status.version
        part = self._tree._read(self._place, self._at, count, version)
        if len(part) > count:
            raise OSError(errno.EIO, f"the store gave more of {self._place} than was asked for")
        if not part:
            raise changed_meanwhile(self._place)
        view[: len(part)] = part
        self._at += len(part)
        return len(part)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._status.size_bytes}
        if (at := base[whence] + offset) < 0:
            raise ValueError("a place in a file is not negative")
        self._at = at
        return at

    def tell(self) -> int:
        return self._at

    def write(self, data: Any) -> int:
        raise OSError("not open for writing")


class _Draft(RawFile):
    """A file that is being written: a draft beside the store, which becomes the file at `close`."""

    def __init__(self, tree: StoredTree, place: str, mode: Any) -> None:
        super().__init__(tempfile.SpooledTemporaryFile(_SPOOLED_BYTES), mode)  # noqa: SIM115 -- close
        self._tree = tree
        self._place = place
        self._is_changed = False

    def begin_with(self, status: Status) -> None:
        """Start from what is stored."""
        with io.BufferedReader(_Reader(self._tree, self._place, status), PART_BYTES) as stored:
            while part := stored.read(_COPIED_BYTES):
                self._inner.write(part)
        self._inner.seek(0, io.SEEK_END if self._mode.appending else io.SEEK_SET)

    def write(self, data: Any) -> int:
        if self._mode.appending:
            self._inner.seek(0, io.SEEK_END)
        self._is_changed = True
        count: int = self._inner.write(memoryview(data).cast("B"))
        return count

    def truncate(self, size: int | None = None) -> int:
        at = self._inner.tell()
        wanted = at if size is None else size
        end = self._inner.seek(0, io.SEEK_END)
        if wanted > end:
            self._inner.write(bytes(wanted - end))
        else:
            self._inner.truncate(wanted)
        self._inner.seek(at)
        self._is_changed = True
        return wanted

    def close(self) -> None:
        if self.closed:
            return
        super().close()
        try:
            if self._is_changed:
                size_bytes = self._inner.seek(0, io.SEEK_END)
                self._inner.seek(0)
                self._tree._store(self._place, self._inner, size_bytes)
        finally:
            self._inner.close()


def _info(name: str, status: Status, namespaces: Collection[str]) -> Any:
    raw: dict[str, dict[str, object]] = {"basic": {"name": name, "is_dir": status.is_directory}}
    if "details" in namespaces:
        raw["details"] = {
            "_write": [],
            "type": 1 if status.is_directory else 2,
            "size": status.size_bytes,
            "modified": status.modified_at,
        }
    return Info(raw)
