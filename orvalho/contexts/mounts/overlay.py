"""Changes on top of another tree, which stays as it is until they are committed."""

from __future__ import annotations

import hashlib
import io
import itertools
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Final, Literal

import msgspec

from orvalho.contexts.changes import DIRECTORY, Content, Node, Stamp
from orvalho.contexts.fs_shim import FS, Info, Mode, fs_errors
from orvalho.contexts.raw_file import RawFile, buffered

# Contents beyond this, in all, are drafted on disk.
_IN_MEMORY_BYTES: Final = 4 << 20
_SMALL_BYTES: Final = 64 << 10

# Opens a draft: where it lies, and the file, for writing and reading.
Draft = Callable[[], tuple[Path, IO[bytes]]]


class _Directory:
    """A directory that is there because of us."""


class _Gone:
    """Something of the tree below that is no more."""


_DIRECTORY: Final = _Directory()
_GONE: Final = _Gone()
_Upper = Content | _Directory | _Gone


class FrozenTree(msgspec.Struct, frozen=True, kw_only=True):
    """An overlay without its contents: path -> what is there now, None for what is gone."""

    changed: dict[str, Node | None]
    stamps: dict[str, Stamp | None]
    listings: dict[str, tuple[str, ...]]


def upper_node(upper: _Directory | _Gone) -> Node | None:
    return DIRECTORY if upper is _DIRECTORY else None


class OverlayFS(FS):  # type: ignore[misc]  # fs is untyped here
    """`lower` with changes on top. One thread at a time changes it.

    It remembers how everything of `lower` looked that it was asked for, so that `stale` can tell
    whether the answers still hold. Times of files are when they were written, and cannot be set.
    """

    def __init__(self, lower: Any, draft: Draft) -> None:
        super().__init__()
        self._lower = lower
        self._draft = draft
        self._upper: dict[str, _Upper] = {}
        self._below: dict[str, set[str]] = {}
        self._stamps: dict[str, Stamp | None] = {}
        self._listings: dict[str, frozenset[str]] = {}
        self._drafts: list[Path] = []
        self._times: dict[str, float] = {}
        self._in_memory_bytes = 0
        self._meta = {**lower.getmeta(), "supports_rename": False}

    # ---- what it comes to ----------------------------------------------------------------------

    @property
    def is_changed(self) -> bool:
        return bool(self._upper)

    @property
    def has_looked(self) -> bool:
        """Whether anything of the tree below was asked for."""
        return bool(self._stamps or self._listings)

    def changed(self) -> dict[str, Content | Literal["directory"] | None]:
        """Path -> what is there now; None for what is gone. By path."""
        found: dict[str, Content | Literal["directory"] | None] = {}
        for path, upper in sorted(self._upper.items()):
            found[path] = upper if isinstance(upper, Content) else None
            if upper is _DIRECTORY:
                found[path] = "directory"
        return found

    def found(self, path: str) -> Stamp | None:
        """How `path` looked below when it was first asked for, which may be now."""
        return self._look(path)

    def stale(self) -> str | None:
        """The first path whose answer no longer holds; None when all do."""
        for path, stamp in self._stamps.items():
            try:
                if stamp_of(self._lower, path) != stamp:
                    return path
            except fs_errors.FSError:
                return path
        for path, names in self._listings.items():
            try:
                if frozenset(self._lower.listdir(path)) != names:
                    return path
            except fs_errors.FSError:
                return path
        return None

    @property
    def has_drafts(self) -> bool:
        return bool(self._drafts)

    def freeze(self) -> FrozenTree:
        """All of it but the contents, which are to be kept by their SHA-256."""
        return FrozenTree(
            changed={
                path: upper.node if isinstance(upper, Content) else upper_node(upper)
                for path, upper in self._upper.items()
            },
            stamps=dict(self._stamps),
            listings={path: tuple(sorted(names)) for path, names in self._listings.items()},
        )

    def thaw(self, frozen: FrozenTree, contents: Mapping[str, Content]) -> None:
        """Be again what `freeze` was called on. `contents`: by SHA-256."""
        self._stamps = dict(frozen.stamps)
        self._listings = {path: frozenset(names) for path, names in frozen.listings.items()}
        for path, node in sorted(frozen.changed.items()):
            if node is None:
                self._set(path, _GONE)
            elif node.kind == "directory":
                self._set(path, _DIRECTORY)
            else:
                self._set(path, contents[node.sha256])

    def contents(self) -> list[Content]:
        """What its files hold."""
        return [upper for upper in self._upper.values() if isinstance(upper, Content)]

    def discard(self) -> None:
        """Remove the drafts."""
        for path in self._drafts:
            path.unlink(missing_ok=True)
        self._drafts.clear()

    # ---- set from outside ----------------------------------------------------------------------

    def put(self, path: str, content: Content | None) -> None:
        """Have a content, or with None a directory, at a path, whatever is there; its directory
        must be there. The source of a content must stay until the changes are committed."""
        place = self.validatepath(path)
        self._look(place)
        self._require_directory_above(place)
        self._set(place, _DIRECTORY if content is None else content)

    def drop(self, path: str) -> None:
        """Have nothing at a path, whatever is there."""
        place = self.validatepath(path)
        state = self._state(place)
        if state is not _GONE and (state is not None or self._look(place) is not None):
            self._take_away(place)

    # ---- as a tree -----------------------------------------------------------------------------

    def getinfo(self, path: str, namespaces: Collection[str] | None = None) -> Any:
        place = self.validatepath(path)
        upper = self._state(place)
        if upper is _DIRECTORY or isinstance(upper, Content):
            return self._info(place, upper, namespaces or ())
        if upper is _GONE or self._look(place) is None:
            raise fs_errors.ResourceNotFound(path)
        return self._lower.getinfo(place, namespaces)

    def listdir(self, path: str) -> list[str]:
        return [info.name for info in self.scandir(path)]

    def scandir(
        self,
        path: str,
        namespaces: Collection[str] | None = None,
        page: tuple[int, int] | None = None,
    ) -> Iterator[Any]:
        place = self.validatepath(path)
        if not self.getinfo(place).is_dir:
            raise fs_errors.DirectoryExpected(path)
        names = namespaces or ()
        prefix = place.rstrip("/")
        infos = []
        for info in self._scan_lower(place, names):
            if f"{prefix}/{info.name}" not in self._upper:
                infos.append(info)
        for name in sorted(self._below.get(place, ())):
            inside = f"{prefix}/{name}"
            upper = self._upper[inside]
            if upper is not _GONE:
                infos.append(self._info(inside, upper, names))
        return itertools.islice(infos, *(page or (None,)))

    def openbin(self, path: str, mode: str = "r", buffering: int = -1, **options: Any) -> IO[bytes]:
        parsed = Mode(mode)
        parsed.validate_bin()
        place = self.validatepath(path)
        old = self._file(place, must_be=not parsed.create)
        if not parsed.writing:
            return self._opened(place, old, buffering)
        if parsed.exclusive and old is not None:
            raise fs_errors.FileExists(path)
        if old is None:
            self._require_directory_above(place)
        draft_path, draft = self._draft()
        self._drafts.append(draft_path)
        if old is not None and not parsed.truncate:
            with self._opened(place, old, -1) as source:
                while chunk := source.read(1 << 20):
                    draft.write(chunk)
            draft.seek(0, io.SEEK_END if parsed.appending else io.SEEK_SET)
        if old is None or parsed.truncate:
            self._set(place, _content(b""))
        raw = _Writing(draft, parsed, lambda: self._adopt(place, draft_path))
        return buffered(raw, buffering)

    def read_at_most(self, path: str, count: int) -> bytes:
        """The first `count` bytes of a file, or all it has."""
        place = self.validatepath(path)
        old = self._file(place, must_be=True)
        if isinstance(old, Content):
            if isinstance(old.source, bytes):
                return old.source[:count]
            with old.source.open("rb") as file:
                return file.read(count)
        contents: bytes = self._lower.read_at_most(place, count)
        return contents

    def readbytes(self, path: str) -> bytes:
        place = self.validatepath(path)
        old = self._file(place, must_be=True)
        if isinstance(old, Content):
            return old.read()
        contents: bytes = self._lower.readbytes(place)
        return contents

    def writebytes(self, path: str, contents: bytes) -> None:
        """Replace the file, in the overlay alone."""
        if not isinstance(contents, bytes):
            raise TypeError("contents must be bytes")
        place = self.validatepath(path)
        if self._file(place, must_be=False) is None:
            self._require_directory_above(place)
        self._set(place, self._kept(contents))

    def makedir(self, path: str, permissions: Any = None, recreate: bool = False) -> Any:
        place = self.validatepath(path)
        if place == "/":
            if not recreate:
                raise fs_errors.DirectoryExists(path)
            return self.opendir(path)
        self._require_directory_above(place)
        if not self.exists(place):
            self._set(place, _DIRECTORY)
        elif not (recreate and self.isdir(place)):
            raise fs_errors.DirectoryExists(path)
        return self.opendir(path)

    def remove(self, path: str) -> None:
        place = self.validatepath(path)
        if self._file(place, must_be=False) is None:
            raise fs_errors.ResourceNotFound(path)
        self._take_away(place)

    def removedir(self, path: str) -> None:
        place = self.validatepath(path)
        if place == "/":
            raise fs_errors.RemoveRootError(path)
        if next(iter(self.scandir(place)), None) is not None:
            raise fs_errors.DirectoryNotEmpty(path)
        unlisted = getattr(self._lower, "holds_unlisted", None)
        if unlisted is not None and self._look(place) == Stamp("directory") and unlisted(place):
            # It could not be removed when this is committed.
            raise fs_errors.DirectoryNotEmpty(path)
        self._take_away(place)

    def setinfo(self, path: str, info: Mapping[str, Mapping[str, object]]) -> None:
        self.getinfo(path)

    def move(
        self, src_path: str, dst_path: str, overwrite: bool = False, preserve_time: bool = False
    ) -> None:
        source, target = self.validatepath(src_path), self.validatepath(dst_path)
        old = self._file(source, must_be=True)
        if self.exists(target):
            if not overwrite:
                raise fs_errors.DestinationExists(dst_path)
            if self.isdir(target):
                raise fs_errors.FileExpected(dst_path)
        else:
            self._require_directory_above(target)
        if source == target:
            return
        if isinstance(old, Content):
            self._set(target, old)
        else:
            with self._opened(source, old, -1) as file:
                self._set(target, self._copied(file))
        self._take_away(source)

    # ---- inside --------------------------------------------------------------------------------

    def _state(self, place: str) -> _Upper | None:
        """What the overlay says of a path; None where it leaves that to the tree below."""
        upper = self._upper.get(place)
        if upper is not None or not self._upper:
            return upper
        above = place
        while above := above.rpartition("/")[0]:
            upper = self._upper.get(above)
            if upper is _GONE or isinstance(upper, Content):
                return _GONE
        return None

    def _look(self, place: str) -> Stamp | None:
        if place not in self._stamps:
            self._stamps[place] = stamp_of(self._lower, place)
        return self._stamps[place]

    def _scan_lower(self, place: str, namespaces: Collection[str]) -> list[Any]:
        stamp = self._look(place)
        if stamp is None or stamp.kind == "file":
            return []  # it is ours alone
        infos = list(self._lower.scandir(place, namespaces))
        self._listings.setdefault(place, frozenset(info.name for info in infos))
        return infos

    def _file(self, place: str, *, must_be: bool) -> Content | Stamp | None:
        """The file at a path: ours, or that of the tree below."""
        upper = self._state(place)
        if isinstance(upper, Content):
            return upper
        stamp = None if upper is _GONE else self._look(place)
        if upper is _DIRECTORY or (stamp is not None and stamp.kind == "directory"):
            raise fs_errors.FileExpected(place)
        if stamp is None and must_be:
            raise fs_errors.ResourceNotFound(place)
        return stamp

    def _opened(self, place: str, file: Content | Stamp | None, buffering: int) -> IO[bytes]:
        if not isinstance(file, Content):
            opened: IO[bytes] = self._lower.openbin(place, "r", buffering)
            return opened
        if isinstance(file.source, bytes):
            return _Reading(file.source)
        return file.source.open("rb")

    def _require_directory_above(self, place: str) -> None:
        above = place.rpartition("/")[0] or "/"
        if not self.isdir(above):
            raise fs_errors.ResourceNotFound(place)

    def _set(self, place: str, upper: _Upper) -> None:
        self._upper[place] = upper
        self._times[place] = time.time()
        above, _, name = place.rpartition("/")
        self._below.setdefault(above or "/", set()).add(name)

    def _take_away(self, place: str) -> None:
        if self._look(place) is not None:
            self._set(place, _GONE)
            return
        del self._upper[place]
        above, _, name = place.rpartition("/")
        self._below[above or "/"].discard(name)

    def _kept(self, contents: bytes) -> Content:
        content = _content(contents)
        held_bytes = self._in_memory_bytes + len(contents)
        if len(contents) <= _SMALL_BYTES and held_bytes <= _IN_MEMORY_BYTES:
            self._in_memory_bytes = held_bytes
            return content
        path, draft = self._draft()
        self._drafts.append(path)
        with draft:
            draft.write(contents)
        return Content(content.sha256, content.size_bytes, path)

    def _copied(self, file: IO[bytes]) -> Content:
        first = file.read(_SMALL_BYTES + 1)
        if len(first) <= _SMALL_BYTES:
            return self._kept(first)
        path, draft = self._draft()
        self._drafts.append(path)
        with draft:
            draft.write(first)
            while chunk := file.read(1 << 20):
                draft.write(chunk)
        return _drafted(path)

    def _adopt(self, place: str, path: Path) -> None:
        # What was removed while it was open is not there again because it is closed.
        state = self._state(place)
        if isinstance(state, Content) or (state is None and self._look(place) is not None):
            self._set(place, _drafted(path))

    def _info(self, place: str, upper: _Upper, namespaces: Collection[str]) -> Any:
        is_directory = not isinstance(upper, Content)
        raw: dict[str, dict[str, object]] = {
            "basic": {"name": place.rpartition("/")[2], "is_dir": is_directory}
        }
        if "details" in namespaces:
            raw["details"] = {
                "type": 1 if is_directory else 2,
                "size": upper.size_bytes if isinstance(upper, Content) else 0,
                "modified": self._times.get(place, 0.0),
            }
        return Info(raw)


class _Reading(io.BytesIO):
    mode = "rb"

    def writable(self) -> bool:
        return False

    def write(self, data: Any) -> int:
        raise io.UnsupportedOperation("not open for writing")

    def truncate(self, size: int | None = None) -> int:
        raise io.UnsupportedOperation("not open for writing")


class _Writing(RawFile):
    """A draft being written; it becomes the file when it is closed, and on each flush."""

    def __init__(self, draft: IO[bytes], mode: Any, on_close: Callable[[], None]) -> None:
        super().__init__(draft, mode)
        self._draft = draft
        self._on_close = on_close

    def write(self, data: Any) -> int:
        if self._mode.appending:
            self._draft.seek(0, io.SEEK_END)
        return self._draft.write(data)

    def truncate(self, size: int | None = None) -> int:
        return self._draft.truncate(size)

    def flush(self) -> None:
        if not self.closed:
            self._draft.flush()
            self._on_close()

    def close(self) -> None:
        if self.closed:
            return
        super().close()
        self._draft.close()
        self._on_close()


def stamp_of(tree: Any, path: str) -> Stamp | None:
    """How a path of an FS looks; None when nothing is there."""
    try:
        exact = getattr(tree, "stamp", None)
        if exact is not None:
            found: Stamp = exact(path)
            return found
        info = tree.getinfo(path, ["details"])
    except fs_errors.ResourceNotFound:
        return None
    except fs_errors.DirectoryExpected:
        return None  # something above it is a file
    if info.is_dir:
        return Stamp("directory")
    modified = info.raw["details"].get("modified") or 0.0
    return Stamp("file", info.size, round(modified * 1e9))


def _content(contents: bytes) -> Content:
    return Content(hashlib.sha256(contents).hexdigest(), len(contents), contents)


def _drafted(path: Path) -> Content:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return Content(digest, os.fstat(file.fileno()).st_size, path)
