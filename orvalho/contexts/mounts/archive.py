"""A zip archive as a tree that is only read (PKWARE APPNOTE 6.3.10, without encryption).

An archive is a stranger's text about itself: all of it is checked against bounds before anything
of it is shown, and one entry that is not plain refuses the whole. What is refused: names that
leave the tree, two of one name, links and devices, encrypted entries, methods but stored and
deflate, entries that share their bytes, and sizes that only a bomb has.
"""

from __future__ import annotations

import errno
import io
import os
import stat
import struct
import time
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any, Final, TypeVar

from orvalho.contexts.filesystem import virtual_path
from orvalho.contexts.fs_shim import Mode, fs_errors
from orvalho.contexts.mounts.stored import DIRECTORY, Status, StoredTree
from orvalho.errors import Denied, InvalidInput, Unavailable

T = TypeVar("T")

MOST_ENTRIES: Final = 65_535
MOST_BYTES: Final = 16 << 30
_MOST_DIRECTORY_BYTES: Final = 32 << 20
# Deflate packs zeros a thousandfold; what people keep is seldom packed to a fiftieth.
_MOST_RATIO: Final = 200
_UNSUSPICIOUS_BYTES: Final = 1 << 20
_END: Final = struct.Struct("<4s4H2LH")
_END_MARK: Final = b"PK\x05\x06"
_END64_LOCATOR: Final = struct.Struct("<4sLQL")
_END64: Final = struct.Struct("<4sQ2H2L4Q")
_COMMENT_BYTES: Final = 65_535
_LOCAL_HEADER_BYTES: Final = 30
_ENCRYPTED: Final = 0x1 | 0x40
_METHODS: Final = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
_UNIX: Final = 3
_BROKEN: Final = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    struct.error,
    UnicodeError,
    RuntimeError,
)


class ZipTree(StoredTree):
    """The tree in an archive. Holds one descriptor until `close`."""

    def __init__(self, file: Path) -> None:
        """Raises:
        Unavailable: it is no archive, or one that is refused; the message says for what.
        OSError: it cannot be opened.
        """
        super().__init__()
        self._meta = {**self._meta, "read_only": True}
        # The library closes what was never opened, too.
        self._archive: IO[bytes] | None = None
        opened = _open_plain(file)
        try:
            _check_end(opened, str(file))
            try:
                self._zip = zipfile.ZipFile(opened)
            except (*_BROKEN, ValueError, OverflowError) as error:
                raise _refused(f"its directory is damaged ({error})", file) from error
            self._entries, self._statuses, self._below = _checked(self._zip.infolist(), file)
        except BaseException:
            opened.close()
            raise
        self._archive = opened

    def close(self) -> None:
        archive, self._archive = self._archive, None
        if archive is not None:
            self._zip.close()
            archive.close()
        super().close()

    def openbin(self, path: str, mode: str = "r", buffering: int = -1, **options: Any) -> IO[bytes]:
        parsed = Mode(mode)
        parsed.validate_bin()
        if parsed.writing:
            raise fs_errors.ResourceReadOnly(path)
        place = self._place(path)
        self._file(path, place)
        # Its own file, which goes on where it stands: each part by itself would begin anew.
        return io.BufferedReader(self._unpack(place))

    def measure(self, most_files: int) -> tuple[int, int]:
        """See `StoredTree.measure`."""
        sizes = [each.size_bytes for each in self._statuses.values()]
        return len(sizes), sum(sizes)

    def adopt(self, path: str, source: Path) -> None:
        """Refused: nothing is written here."""
        raise fs_errors.ResourceReadOnly(path)

    def writebytes(self, path: str, contents: bytes) -> None:
        """Refused: nothing is written here."""
        raise fs_errors.ResourceReadOnly(path)

    def makedir(self, path: str, permissions: Any = None, recreate: bool = False) -> Any:
        if recreate and self.isdir(path):
            return self.opendir(path)
        raise fs_errors.ResourceReadOnly(path)

    def remove(self, path: str) -> None:
        raise fs_errors.ResourceReadOnly(path)

    def removedir(self, path: str) -> None:
        raise fs_errors.ResourceReadOnly(path)

    def setinfo(self, path: str, info: Any) -> None:
        raise fs_errors.ResourceReadOnly(path)

    def _status(self, place: str) -> Status | None:
        return self._statuses.get(place)

    def _children(self, place: str) -> Iterable[tuple[str, Status]]:
        above = f"{place}/" if place else ""
        return [(name, self._statuses[above + name]) for name in self._below.get(place, ())]

    def _read(self, place: str, offset: int, count: int, version: str) -> bytes:
        with self._unpack(place) as entry:
            entry.seek(offset)
            return entry.read(count) or b""

    def _unpack(self, place: str) -> _Entry:
        return _Entry(_damaged(lambda: self._zip.open(self._entries[place])))

    def _store(self, place: str, source: IO[bytes], size_bytes: int) -> None:
        raise fs_errors.ResourceReadOnly(place)

    def _make(self, place: str) -> None:
        raise fs_errors.ResourceReadOnly(place)

    def _remove(self, place: str) -> None:
        raise fs_errors.ResourceReadOnly(place)

    def _remove_directory(self, place: str) -> None:
        raise fs_errors.ResourceReadOnly(place)


class _Entry(io.RawIOBase):
    """An entry that is unpacked as it is read. The library stops at the size that was checked,
    and compares the checksum at the end."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__()
        self.mode = "rb"
        self._file = file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        part = _damaged(lambda: self._file.read(len(view)))
        view[: len(part)] = part
        return len(part)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        at: int = _damaged(lambda: self._file.seek(offset, whence))
        return at

    def tell(self) -> int:
        return self._file.tell()

    def write(self, data: Any) -> int:
        raise OSError("not open for writing")

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def _damaged(call: Callable[[], T]) -> T:
    """What the library raises for bytes that are no archive (its list is not written anywhere;
    each was seen with broken ones) as an error of the disk."""
    try:
        return call()
    except _BROKEN as error:
        raise OSError(errno.EIO, f"the archive is damaged: {error}") from error


def _open_plain(file: Path) -> IO[bytes]:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    opened = os.fdopen(os.open(file, flags), "rb")
    if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
        opened.close()
        raise _refused("it is no plain file", file)
    return opened


def _check_end(opened: IO[bytes], file: str) -> None:
    """Bounds the directory of entries before the library reads it into memory."""
    size = opened.seek(0, io.SEEK_END)
    at = max(0, size - _END.size - _COMMENT_BYTES)
    opened.seek(at)
    tail = opened.read()
    found = tail.rfind(_END_MARK)
    if found < 0 or len(tail) - found < _END.size:
        raise _refused("it has no directory of entries", file)
    *_, entries, directory_bytes, _offset, _comment = _END.unpack_from(tail, found)
    locator = at + found - _END64_LOCATOR.size
    if locator >= 0:
        opened.seek(locator)
        mark, _disk, offset, _disks = _END64_LOCATOR.unpack(opened.read(_END64_LOCATOR.size))
        if mark == b"PK\x06\x07":
            opened.seek(min(offset, size))
            end64 = opened.read(_END64.size)
            if len(end64) != _END64.size or end64[:4] != b"PK\x06\x06":
                raise _refused("its directory is damaged", file)
            *_, entries, directory_bytes, _offset = _END64.unpack(end64)
    if entries > MOST_ENTRIES or directory_bytes > min(_MOST_DIRECTORY_BYTES, size):
        raise _refused(f"it has more than {MOST_ENTRIES} entries, or says so", file)
    opened.seek(0)


def _checked(
    infos: list[zipfile.ZipInfo], file: Path
) -> tuple[dict[str, zipfile.ZipInfo], dict[str, Status], dict[str, list[str]]]:
    if len(infos) > MOST_ENTRIES:
        raise _refused(f"it has more than {MOST_ENTRIES} entries", file)
    if sum(info.file_size for info in infos) > MOST_BYTES:
        raise _refused(f"it unpacks to more than {MOST_BYTES >> 30} GiB", file)
    entries: dict[str, zipfile.ZipInfo] = {}
    statuses: dict[str, Status] = {}
    for info in infos:
        _check_entry(info, file)
        place = _place_of(info, file)
        if place in entries:
            raise _refused(f"two entries have the name {place!a}", file)
        entries[place] = info
        statuses[place] = (
            DIRECTORY
            if info.is_dir()
            else Status(False, info.file_size, _modified_at(info), str(info.CRC))
        )
    _check_apart(infos, file)
    below: dict[str, list[str]] = {}
    for place in sorted(entries):
        _link_up(place, statuses, below, file)
    return entries, statuses, below


def _link_up(
    place: str, statuses: dict[str, Status], below: dict[str, list[str]], file: Path
) -> None:
    """Puts a place into its directory, and that into its own, which need no entries."""
    while place:
        above, _, name = place.rpartition("/")
        siblings = below.setdefault(above, [])
        if name not in siblings[-1:]:
            siblings.append(name)
        if above and above not in statuses:
            statuses[above] = DIRECTORY
        elif above and not statuses[above].is_directory:
            raise _refused(f"{above!a} is a file, and has {name!a} in it", file)
        elif above in below and len(below[above]) > 1:
            return  # linked up before
        place = above


def _check_entry(info: zipfile.ZipInfo, file: Path) -> None:
    name = info.filename[:100]
    if info.flag_bits & _ENCRYPTED:
        raise _refused(f"{name!a} is encrypted", file)
    kind = stat.S_IFMT(info.external_attr >> 16) if info.create_system == _UNIX else 0
    if kind and kind not in (stat.S_IFREG, stat.S_IFDIR):
        raise _refused(f"{name!a} is a link or a device", file)
    if info.compress_type not in _METHODS:
        raise _refused(f"{name!a} is packed by a method that is not read here", file)
    if info.is_dir() and info.file_size:
        raise _refused(f"{name!a} is a directory with content", file)
    if info.file_size > max(_UNSUSPICIOUS_BYTES, _MOST_RATIO * info.compress_size):
        raise _refused(
            f"{name!a} unpacks to {info.file_size} bytes from {info.compress_size}", file
        )


def _place_of(info: zipfile.ZipInfo, file: Path) -> str:
    # As it stands in the archive: the library cuts names at a NUL.
    name = info.orig_filename
    try:
        place = virtual_path(name.removesuffix("/"))[1:]
    except (Denied, InvalidInput) as error:
        raise _refused(f"{name[:100]!a} is no name: {error.message}", file) from error
    if not place or place != name.removesuffix("/"):
        raise _refused(f"{name[:100]!a} is no name within a tree", file)
    return place


def _check_apart(infos: list[zipfile.ZipInfo], file: Path) -> None:
    """Entries that share their bytes make a small file a large one (Fifield 2019)."""
    end = 0
    for info in sorted(infos, key=lambda info: info.header_offset):
        if info.header_offset < end:
            raise _refused(f"{info.filename[:100]!a} shares its bytes with another entry", file)
        end = info.header_offset + _LOCAL_HEADER_BYTES + info.compress_size


def _modified_at(info: zipfile.ZipInfo) -> float | None:
    try:
        return time.mktime((*info.date_time, 0, 0, -1))
    except (ValueError, OverflowError):
        return None


def _refused(why: str, file: Path | str) -> Unavailable:
    return Unavailable(f"the archive is not opened: {why}", where=str(file))
