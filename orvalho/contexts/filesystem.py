"""The seam of every tree: the `fs` library's FS, guarded.

A path has one spelling (`virtual_path`), fixed before policy, storage and log see it. `GuardedFS`
stands in front of a tree: one spelling, one check a call, and a quota that holds. It derives from
FS and not from a forwarding wrapper, so that copy, walk, glob and all else that the library
offers are built from the few primitives guarded here, and nothing passes unseen.
"""

from __future__ import annotations

import io
import os
import re
import threading
import unicodedata
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Final, Literal, NewType

from orvalho.contexts.fs_shim import FS, Mode, fs_errors
from orvalho.contexts.raw_file import RawFile, buffered
from orvalho.errors import Denied, InvalidInput, LimitExceeded

VirtualPath = NewType("VirtualPath", str)
FileAction = Literal["fs.read", "fs.write", "fs.remove"]
# Returns if the action on the path is allowed, and raises Denied if it is not.
Check = Callable[[FileAction, VirtualPath], None]

PATH_LIMIT: Final = 1024
NAME_LIMIT_BYTES: Final = 255

# Refused in a name: what ends a C string or acts as a separator elsewhere, what a terminal
# obeys, what is invisible or turns the text around, and what Windows cannot store.
_ESCAPING: Final = re.compile(r"[\0\\]")
_UNPRINTABLE: Final = re.compile(
    r"[\x01-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    r"\U000e0000-\U000e0fff]"
)
_UNPORTABLE: Final = re.compile(r'[:*?"<>|]')
_DEVICE: Final = re.compile(
    r"(con|prn|aux|nul|conin\$|conout\$|clock\$|(com|lpt)[0-9¹²³])\s*(\.|$)", re.IGNORECASE
)


def unchecked(_action: FileAction, _path: VirtualPath) -> None:
    """Everything is allowed: to the owner, or since another has checked it before."""


class Escape(fs_errors.PermissionDenied):  # type: ignore[misc]  # fs is untyped here
    """The path leads through a link, or to what is no plain file or directory of this tree."""

    default_message = "'{path}' leads out of the tree, or is no plain file or directory"


class Unspelled(fs_errors.DirectoryNotEmpty):  # type: ignore[misc]  # fs is untyped here
    """A directory holds a name that is no path here, so that nobody can name it to remove it."""

    default_message = "'{path}' holds a name that is no path here"

    def __init__(self, path: str, name: str) -> None:
        """`name` is as the system has it, from `path` on."""
        self.name = name
        super().__init__(path)

    @property
    def shown(self) -> str:
        """`'bad\\xff'`: what can be printed, and says what it is."""
        raw = os.fsencode(self.name)
        return ascii(self.name) if _is_text(raw) else repr(raw)[1:]


def _is_text(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


def virtual_path(text: str) -> VirtualPath:
    """The one spelling of a path: `/a/b`, `/` for the root. Relative paths start at the root;
    empty and `.` segments fall away. At most 1024 characters, 255 bytes a name.

    Raises:
        Denied: it tries to climb out: `..`, NUL, a backslash, or a look-alike of these.
        InvalidInput: it cannot be a name on every device. `where` is printable in both.
    """
    if len(text) > PATH_LIMIT:
        raise _malformed(text, f"a path has at most {PATH_LIMIT} characters")
    if _ESCAPING.search(text):
        raise _escaping(text, "a path holds no NUL and no backslash")
    if not text.isascii():
        _check_unicode(text)
    if _UNPRINTABLE.search(text):
        raise _malformed(text, "a path holds no control and no invisible characters")
    if _UNPORTABLE.search(text):
        raise _malformed(text, 'a path holds none of : * ? " < > |')
    names = [name for name in text.split("/") if name not in ("", ".")]
    for name in names:
        _check_name(text, name)
    return VirtualPath("/" + "/".join(names))


class Quota:
    """How much a tree may hold, and holds now. Thread-safe.

    A directory counts as a file of 0 bytes, since it costs an inode as well. `owner` is the name
    that messages use.
    """

    def __init__(self, owner: str, *, limit_bytes: int, limit_files: int) -> None:
        self.owner = owner
        self.limit_bytes = limit_bytes
        self.limit_files = limit_files
        self.used_bytes = 0
        self.used_files = 0
        self._lock = threading.Lock()

    def charge(self, grown_bytes: int, new_files: int = 0, *, path: str = "/") -> None:
        """Take this much more for `path`; negative gives back, and giving back never fails.

        Raises:
            LimitExceeded: it does not fit; nothing has been taken.
        """
        with self._lock:
            files, size = self.used_files + new_files, self.used_bytes + grown_bytes
            if new_files > 0 and files > self.limit_files:
                raise LimitExceeded(
                    f"storage_files: {self.owner} may hold {self.limit_files} files and holds"
                    f" {self.used_files}: there is no room for {path}",
                    where=path,
                )
            if grown_bytes > 0 and size > self.limit_bytes:
                raise LimitExceeded(
                    f"storage_bytes: {self.owner} may hold {self.limit_bytes} bytes, holds"
                    f" {self.used_bytes}, and {path} takes {grown_bytes} more",
                    where=path,
                )
            # The owner may delete files behind our back; use is then counted too high, not less
            # than nothing.
            self.used_files, self.used_bytes = max(0, files), max(0, size)

    def recount(self, tree: Any) -> None:
        """Measure an FS and start from there."""
        self.begin_with(*measure(tree))

    def begin_with(self, files: int, size: int) -> None:
        """Start from what was measured."""
        with self._lock:
            self.used_files, self.used_bytes = files, size


class GuardedFS(FS):  # type: ignore[misc]  # fs is untyped here
    """`inner` behind one spelling of paths, a check a call, and a quota.

    Raises what FS methods raise; besides, whatever `check` raises, and LimitExceeded. Whoever may
    remove or move a directory must be allowed to do so with everything in it: otherwise moving
    the parent would take a file out from under the rule that protects it. A move asks for
    fs.read too, since the content can be read at its new place.
    """

    def __init__(self, inner: Any, check: Check, quota: Quota) -> None:
        super().__init__()
        self._inner = inner
        self._check = check
        self._quota = quota
        self._meta = {**inner.getmeta(), "supports_rename": False}

    @property
    def inner(self) -> Any:
        """The tree behind the guard."""
        return self._inner

    @property
    def quota(self) -> Quota:
        return self._quota

    def validatepath(self, path: str) -> VirtualPath:
        self.check()
        if not isinstance(path, str):
            raise TypeError("paths must be str (not bytes)")
        try:
            return virtual_path(path)
        except Denied as error:
            kind = fs_errors.InvalidCharsInPath
            raise (kind if _ESCAPING.search(path) else fs_errors.IllegalBackReference)(
                path
            ) from error
        except InvalidInput as error:
            raise fs_errors.InvalidPath(path, msg=error.message) from error

    def getinfo(self, path: str, namespaces: Collection[str] | None = None) -> Any:
        return self._inner.getinfo(self._allowed("fs.read", path), namespaces)

    def listdir(self, path: str) -> list[str]:
        return [entry.name for entry in self.scandir(path)]

    def scandir(
        self,
        path: str,
        namespaces: Collection[str] | None = None,
        page: tuple[int, int] | None = None,
    ) -> Iterator[Any]:
        entries = self._inner.scandir(self._allowed("fs.read", path), namespaces, page)
        # A name with no spelling could not be opened: it is not there for whoever asks us.
        return (entry for entry in entries if has_spelling(entry.name))

    def openbin(self, path: str, mode: str = "r", buffering: int = -1, **options: Any) -> IO[bytes]:
        parsed = Mode(mode)
        parsed.validate_bin()
        place = self.validatepath(path)
        if parsed.reading:
            self._check("fs.read", place)
        if not parsed.writing:
            return self._inner.openbin(place, mode, buffering, **options)  # type: ignore[no-any-return]
        self._check("fs.write", place)
        return self._open_metered(place, parsed, buffering)

    def read_at_most(self, path: str, limit_bytes: int) -> bytes:
        """The whole file.

        Raises:
            LimitExceeded: it is larger than `limit_bytes`.
        """
        place = self._allowed("fs.read", path)
        contents: bytes = self._inner.read_at_most(place, limit_bytes + 1)
        if len(contents) > limit_bytes:
            raise LimitExceeded(
                f"read_bytes: {self._quota.owner}:{place} is larger than the {limit_bytes} bytes"
                " that one read may give",
                where=place,
            )
        return contents

    def readbytes(self, path: str) -> bytes:
        contents: bytes = self._inner.readbytes(self._allowed("fs.read", path))
        return contents

    def writebytes(self, path: str, contents: bytes) -> None:
        """Replace the file, as atomically and durably as the tree below does it."""
        if not isinstance(contents, bytes):
            raise TypeError("contents must be bytes")
        place = self._allowed("fs.write", path)
        old_bytes = self._size(place)
        grown_bytes, new_files = len(contents) - (old_bytes or 0), int(old_bytes is None)
        self._quota.charge(grown_bytes, new_files, path=place)
        try:
            self._inner.writebytes(place, contents)
        except BaseException:
            self._quota.charge(-grown_bytes, -new_files)
            raise

    def adopt(self, path: str, source: Path, size_bytes: int) -> None:
        """Make `source`, a whole file of this machine, the file of a name that is free."""
        place = self._allowed("fs.write", path)
        self._quota.charge(size_bytes, 1, path=place)
        try:
            self._inner.adopt(place, source)
        except BaseException:
            self._quota.charge(-size_bytes, -1)
            raise

    def makedir(self, path: str, permissions: Any = None, recreate: bool = False) -> Any:
        place = self._allowed("fs.write", path)
        new_files = int(not self._inner.exists(place))
        self._quota.charge(0, new_files, path=place)
        try:
            self._inner.makedir(place, permissions, recreate)
        except BaseException:
            self._quota.charge(0, -new_files)
            raise
        return self.opendir(place)

    def remove(self, path: str) -> None:
        place = self._allowed("fs.remove", path)
        size = self._size(place)
        if size is None:
            raise fs_errors.ResourceNotFound(path)
        self._inner.remove(place)
        self._quota.charge(-size, -1)

    def removedir(self, path: str) -> None:
        place = self._allowed("fs.remove", path)
        try:
            self._inner.removedir(place)
        except fs_errors.DirectoryNotEmpty as error:
            names = [info.name for info in self._inner.scandir(place)]
            if names and not any(map(has_spelling, names)):
                raise Unspelled(place, names[0]) from error
            raise
        self._quota.charge(0, -1)

    def removetree(self, path: str) -> None:
        place = self._allowed("fs.remove", path)
        below = list(walk(self._inner, place))
        for inside, info in below:
            if not has_spelling(info.name):
                raise Unspelled(place, inside[len(place.rstrip("/")) + 1 :])
            self._check("fs.remove", inside)
        for inside, info in reversed(below):
            if info.is_dir:
                self.removedir(inside)
            else:
                self.remove(inside)
        if place != "/":
            self.removedir(place)

    def setinfo(self, path: str, info: Mapping[str, Mapping[str, object]]) -> None:
        self._inner.setinfo(self._allowed("fs.write", path), info)

    def move(
        self, src_path: str, dst_path: str, overwrite: bool = False, preserve_time: bool = False
    ) -> None:
        source, target = self._check_move(src_path, dst_path)
        if source == target and overwrite and self._size(source) is not None:
            return  # the library's tree in memory would lose the file
        replaced = self._size(target) if overwrite else None
        self._inner.move(source, target, overwrite, preserve_time)
        if replaced is not None:
            self._quota.charge(-replaced, -1)

    def movedir(
        self, src_path: str, dst_path: str, create: bool = False, preserve_time: bool = False
    ) -> None:
        source, target = self._check_move(src_path, dst_path)
        if f"{target}/".startswith(f"{source}/"):
            raise fs_errors.DestinationExists(dst_path, msg=f"'{dst_path}' lies in '{src_path}'")
        for inside, _ in walk(self._inner, source):
            self._check_move(inside, target + inside[len(source) :])
        merges = self._inner.exists(target)
        try:
            self._inner.movedir(source, target, create, preserve_time)
        finally:
            # Merging replaces files, and can stop half-way.
            if merges:
                self._quota.recount(self._inner)

    def close_inner(self) -> None:
        """Close this guard and the tree behind it."""
        self.close()
        self._inner.close()

    def _allowed(self, action: FileAction, path: str) -> VirtualPath:
        place = self.validatepath(path)
        self._check(action, place)
        return place

    def _check_move(self, source: str, target: str) -> tuple[VirtualPath, VirtualPath]:
        here, there = self._allowed("fs.remove", source), self._allowed("fs.write", target)
        self._check("fs.read", here)
        return here, there

    def _size(self, place: VirtualPath) -> int | None:
        stamp = getattr(self._inner, "stamp", None)
        if stamp is not None:
            found = stamp(place)
            if found is not None and found.kind == "directory":
                raise fs_errors.FileExpected(place)
            return None if found is None else int(found.size_bytes)
        try:
            info = self._inner.getinfo(place, ["details"])
        except fs_errors.ResourceNotFound:
            return None
        if info.is_dir:
            raise fs_errors.FileExpected(place)
        return int(info.size)

    def _open_metered(self, place: VirtualPath, mode: Any, buffering: int) -> IO[bytes]:
        old_bytes = self._size(place)
        new_files = int(old_bytes is None)
        self._quota.charge(0, new_files, path=place)
        try:
            inner = self._inner.openbin(place, mode.to_platform_bin(), buffering=0)
        except BaseException:
            self._quota.charge(0, -new_files)
            raise
        if mode.truncate:
            self._quota.charge(-(old_bytes or 0))
        raw = _MeteredFile(inner, mode, self._quota, place)
        return buffered(raw, buffering)


class _MeteredFile(RawFile):
    """A file whose growth is charged to the quota before it happens."""

    def __init__(self, inner: Any, mode: Any, quota: Quota, path: VirtualPath) -> None:
        super().__init__(inner, mode)
        self._path = path
        self._quota = quota
        at = inner.tell()
        self._size: int = inner.seek(0, io.SEEK_END)
        if not mode.appending:
            inner.seek(at)

    def write(self, data: Any) -> int:
        start = self._size if self._mode.appending else self._inner.tell()
        self._grow_to(start + memoryview(data).nbytes)
        count: int = self._inner.write(data)
        return count

    def truncate(self, size: int | None = None) -> int:
        wanted = self._inner.tell() if size is None else size
        if wanted > self._size:
            self._grow_to(wanted)
        self._inner.truncate(wanted)
        if wanted < self._size:
            self._quota.charge(wanted - self._size)
            self._size = wanted
        return wanted

    def close(self) -> None:
        if not self.closed:
            self._inner.close()
        super().close()

    def _grow_to(self, size: int) -> None:
        if size > self._size:
            self._quota.charge(size - self._size, path=self._path)
            self._size = size


def walk(tree: Any, top: str) -> Iterator[tuple[VirtualPath, Any]]:
    """(path, Info) of everything below `top` in an FS, a directory before what is in it."""
    pending = [top.rstrip("/")]
    while pending:
        at = pending.pop()
        for info in tree.scandir(at or "/", ["basic", "details"]):
            inside = VirtualPath(f"{at}/{info.name}")
            yield inside, info
            if info.is_dir:
                pending.append(inside)


def measure(tree: Any) -> tuple[int, int]:
    """(files and directories, bytes) of a whole FS, without its root."""
    files = size = 0
    for _, info in walk(tree, "/"):
        files += 1
        size += 0 if info.is_dir else info.size
    return files, size


def spelled_safely(text: str) -> str:
    """A path as it may stand in a log or on a terminal: ASCII, escaped, at most 200 characters."""
    return ascii(text if len(text) <= 200 else text[:200] + "...")


def _check_unicode(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise _malformed(text, "a path holds no lone surrogates") from error
    if not unicodedata.is_normalized("NFC", text):
        raise _malformed(text, "a path is spelled in Unicode's normal form NFC")
    # Some readers fold compatibility forms: a full-width slash must not become a plain one there.
    for name in text.split("/"):
        folded = unicodedata.normalize("NFKC", name)
        if folded != name and (folded in (".", "..") or "/" in folded or "\\" in folded):
            raise _escaping(text, "a path holds no look-alikes of . / and \\")


def _check_name(text: str, name: str) -> None:
    if name == "..":
        raise _escaping(text, "a path does not climb with ..")
    if name[-1] in ". ":
        raise _malformed(text, "a name does not end in a dot or a space")
    if len(name) * 4 > NAME_LIMIT_BYTES and len(name.encode()) > NAME_LIMIT_BYTES:
        raise _malformed(text, f"a name has at most {NAME_LIMIT_BYTES} bytes")
    if _DEVICE.match(name):
        raise _malformed(text, "this name is a device on Windows")


def has_spelling(name: str) -> bool:
    """Whether a name on the disk is one that a path can have."""
    try:
        return virtual_path(name) == f"/{name}"
    except (Denied, InvalidInput):
        return False


def _malformed(text: str, why: str) -> InvalidInput:
    return InvalidInput(f"this is no path: {why}", where=spelled_safely(text))


def _escaping(text: str, why: str) -> Denied:
    return Denied(f"this path tries to leave its context: {why}", where=spelled_safely(text))
