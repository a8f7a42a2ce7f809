"""The async face of trees: what a script's `fs` calls come down to, one thread hop each.

Paths are checked on the event loop, before the hop, so that neither the policy nor the audit
behind a `Check` need be thread-safe. Foreign errors end here.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, TypeVar

import anyio
from anyio import from_thread, to_thread

from orvalho.contexts.bindings import Bindings
from orvalho.contexts.filesystem import (
    Check,
    Escape,
    FileAction,
    GuardedFS,
    Quota,
    Unspelled,
    VirtualPath,
    spelled_safely,
    unchecked,
    virtual_path,
    walk,
)
from orvalho.contexts.fs_shim import fs_errors
from orvalho.contexts.namespace import Namespace
from orvalho.contexts.schemas import Schemas
from orvalho.errors import (
    Conflict,
    Denied,
    InvalidInput,
    LimitExceeded,
    NotFound,
    OrvalhoError,
    Unavailable,
)

T = TypeVar("T")

_READERS: Final = 4
# Files of one name that are kept beside each other; a further one is refused.
_NAMES_TRIED: Final = 1000
_CHUNK_BYTES: Final = 1 << 20
_DETAILS: Final = ("basic", "details")
_UNBOUND: Final = Bindings()


@dataclass(frozen=True, slots=True)
class Entry:
    """One file or directory. `size_bytes` is 0 for a directory, `modified_at` 0.0 if unknown."""

    name: str
    kind: Literal["file", "directory"]
    size_bytes: int
    modified_at: float


class Mount:
    """A tree that is opened, and measured for its quota, at the first use.

    Until then it costs neither a descriptor nor a walk: most contexts lie idle. `open_tree` gives
    the FS, and runs in a thread.
    """

    # Nothing is written to it.
    is_read_only = False
    # It may not answer, or only late.
    is_foreign = False

    def __init__(self, owner: str, open_tree: Callable[[], Any], quota: Quota) -> None:
        self.owner = owner
        self.quota = quota
        self._open_tree = open_tree
        self._opening = threading.Lock()
        self._tree: GuardedFS | None = None
        self._readers: anyio.CapacityLimiter | None = None
        self._writer: anyio.CapacityLimiter | None = None

    @property
    def tree(self) -> GuardedFS:
        """The guarded tree, for a caller in a thread who has checked its paths already.

        Raises:
            OSError: it cannot be opened.
        """
        if self._tree is None:
            with self._opening:
                if self._tree is None:
                    inner = self._open_tree()
                    self.quota.recount(inner)
                    self._tree = GuardedFS(inner, unchecked, self.quota)
        return self._tree

    def measure_once(self) -> None:
        """Have the quota count what is there. In a thread."""
        self.tree.check()

    async def read(self, call: Callable[[GuardedFS], T]) -> T:
        """`call(tree)` in a thread; a few at a time, so that one context cannot take all."""
        if self._readers is None:
            self._readers = anyio.CapacityLimiter(_READERS)
        return await to_thread.run_sync(self._with_tree, call, limiter=self._readers)

    async def write(self, call: Callable[[GuardedFS], T]) -> T:
        """`call(tree)` in a thread, alone among the writers of this tree."""
        if self._writer is None:
            self._writer = anyio.CapacityLimiter(1)
        return await to_thread.run_sync(self._with_tree, call, limiter=self._writer)

    def _with_tree(self, call: Callable[[GuardedFS], T]) -> T:
        return call(self.tree)

    def close(self) -> None:
        """Let the descriptor go. A later use opens the tree again, and measures it again."""
        with self._opening:
            tree, self._tree = self._tree, None
        if tree is not None:
            tree.close_inner()


class ContextFiles:
    """The files of a namespace, as far as `check` lets through. Cheap: make one a job.

    Every method raises:
        Denied: `check` said no, or the path tries to leave the tree, by its spelling or through a
            link, a hard link or a special file; then `where` is a printable form of the path.
        InvalidInput: the path is not one, or a file was given where a directory belongs.
        NotFound, Conflict, LimitExceeded (quota), Unavailable (the disk failed).
    """

    def __init__(
        self,
        owner: str,
        namespace: Namespace[Mount],
        check: Check,
        schemas: Schemas | None = None,
    ) -> None:
        """`schemas` are what documents must fit; a write that does not is InvalidInput."""
        self._owner = owner
        self._namespace = namespace
        self._check = check
        self._schemas = schemas

    async def read(self, path: str, max_bytes: int) -> bytes:
        """The whole file; LimitExceeded when it has more than `max_bytes`."""
        place = self._allowed("fs.read", path)
        mount, rest = self._resolve(place)
        with self._errors(place):
            return await mount.read(lambda tree: tree.read_at_most(rest, max_bytes))

    async def read_part(self, path: str, offset: int, count: int) -> tuple[Entry, bytes]:
        """At most `count` bytes from `offset`, and what the file was when they were read."""
        place = self._allowed("fs.read", path)
        mount, rest = self._resolve(place)

        def read(tree: GuardedFS) -> tuple[Entry, bytes]:
            with tree.openbin(rest) as file:
                entry = _entry(tree.getinfo(rest, _DETAILS))
                file.seek(offset)
                return entry, file.read(count)

        with self._errors(place):
            return await mount.read(read)

    def check_write(self, path: str) -> None:
        """Whether `write` would be let through, without writing."""
        self._allowed("fs.write", path)

    async def write(self, path: str, contents: bytes) -> None:
        """Replace the file or make it; on disk when this returns, and never seen half-written."""
        place = self._allowed("fs.write", path)
        mount, rest = self._resolve(place)
        bindings = await self._bindings()

        def write(tree: GuardedFS) -> None:
            bindings.check_file(place, len(contents), lambda: contents)
            tree.writebytes(rest, contents)

        with self._errors(place, missing="there is no directory for {at}"):
            await mount.write(write)
        self._changed(place)

    async def adopt(
        self, path: str, source: Path, sha256: bytes, *, reuses: bool
    ) -> tuple[VirtualPath, bool]:
        """Move a whole file of this machine into the tree, at once and durably: where it lies
        now, and whether that is new. A taken name becomes `a (2).jpg`; with `reuses`, a file of
        that name and hash counts as this one, and `source` is removed."""
        place = self._allowed("fs.write", path)
        mount, rest = self._resolve(place)
        prefix = place[: len(place) - len(rest)]
        bindings = await self._bindings()

        def adopt(tree: GuardedFS) -> tuple[VirtualPath, bool]:
            size_bytes = source.stat().st_size
            for name in _free_names(rest):
                if not tree.exists(name):
                    if name != rest:
                        from_thread.run_sync(self._check, "fs.write", VirtualPath(prefix + name))
                    bindings.check_file(VirtualPath(prefix + name), size_bytes, source.read_bytes)
                    tree.adopt(name, source, size_bytes)
                    return VirtualPath(prefix + name), True
                if reuses and _holds(tree, name, size_bytes, sha256):
                    source.unlink()
                    return VirtualPath(prefix + name), False
            raise fs_errors.DestinationExists(rest)

        with self._errors(place, missing="there is no directory for {at}"):
            adopted = await mount.write(adopt)
        self._changed(place)
        return adopted

    async def list(self, path: str) -> list[Entry]:
        """What is in a directory, by name. Links and special files are not there."""
        place = self._allowed("fs.read", path)
        found = {name: Entry(name, "directory", 0, 0.0) for name in self._namespace.children(place)}
        resolved = self._namespace.resolve(place)
        if resolved is not None:
            mount, rest = resolved
            with self._errors(place):
                entries = await mount.read(lambda tree: _entries(tree, rest))
            found = {entry.name: entry for entry in entries} | found
        elif not self._namespace.is_place(place):
            raise self._not_found(place)
        return [found[name] for name in sorted(found)]

    async def stat(self, path: str) -> Entry:
        """One entry; its name is empty for the root."""
        place = self._allowed("fs.read", path)
        if self._namespace.is_place(place):
            return Entry(place.rpartition("/")[2], "directory", 0, 0.0)
        mount, rest = self._resolve(place)
        with self._errors(place):
            return _entry(await mount.read(lambda tree: tree.getinfo(rest, _DETAILS)))

    async def exists(self, path: str) -> bool:
        """A link or special file does not simply not exist: asking for one is Denied."""
        try:
            await self.stat(path)
        except NotFound:
            return False
        return True

    async def mkdir(self, path: str) -> bool:
        """Make the directory and those above it; False when it is there already."""
        place = self._allowed("fs.write", path)
        if self._namespace.is_place(place):
            return False
        mount, rest = self._resolve(place)
        prefix = place[: len(place) - len(rest)]

        def make(tree: GuardedFS) -> bool:
            # Not only the last one: a rule may allow /a/b and say nothing of /a.
            missing = [VirtualPath(prefix + at) for at in _above(rest) if not tree.exists(at)]
            if missing:
                from_thread.run_sync(self._check_all, "fs.write", missing)
            return _make_directories(tree, rest)

        with self._errors(place):
            return await mount.write(make)

    async def remove(self, path: str, recursive: bool = False) -> None:
        """Remove a file, an empty directory, or with `recursive` all that is in it as well. All
        of it must be allowed, or nothing happens."""
        place = self._allowed("fs.remove", path)
        self._refuse_place(place)
        mount, rest = self._resolve(place)
        prefix = place[: len(place) - len(rest)]

        def remove(tree: GuardedFS) -> None:
            if not tree.isdir(rest):
                tree.remove(rest)
            elif not recursive:
                tree.removedir(rest)
            else:
                inside = [VirtualPath(prefix + below) for below, _ in walk(tree, rest)]
                from_thread.run_sync(self._check_all, "fs.remove", inside)
                tree.removetree(rest)

        with self._errors(place):
            await mount.write(remove)
        self._changed(place)

    async def move(self, source: str, target: str) -> None:
        """Rename a file or directory; Conflict when the target exists. Both ends, and everything
        in a directory, are checked before anything happens."""
        here, there = self._allowed_move(source, target)
        self._refuse_place(here)
        self._refuse_place(there)
        if there == here or there.startswith(f"{here}/"):
            raise InvalidInput(f"{self._owner}:{here} cannot be moved into itself", where=there)
        mount, rest = self._resolve(here)
        other, target_rest = self._resolve(there)
        if other is not mount:
            raise InvalidInput(
                f"{here} and {there} lie in different trees: copy, then remove", where=here
            )

        bindings = await self._bindings()

        def move(tree: GuardedFS) -> None:
            if tree.exists(target_rest):
                raise fs_errors.DestinationExists(target_rest)
            if not tree.isdir(rest):
                _check_moved(tree, rest, there, bindings)
                tree.move(rest, target_rest)
                return
            below = [(inside[len(rest) :], info.is_dir) for inside, info in walk(tree, rest)]
            from_thread.run_sync(self._check_moves, here, there, [tail for tail, _ in below])
            for tail, is_dir in below:
                if not is_dir:
                    _check_moved(tree, rest + tail, VirtualPath(there + tail), bindings)
            tree.movedir(rest, target_rest, create=True)

        with self._errors(here, there, missing="there is no such file, or no such directory: {at}"):
            await mount.write(move)
        self._changed(here)
        self._changed(there)

    async def _bindings(self) -> Bindings:
        return _UNBOUND if self._schemas is None else await self._schemas.current()

    def _changed(self, place: VirtualPath) -> None:
        if self._schemas is not None:
            self._schemas.changed(place)

    def _allowed(self, action: FileAction, path: str) -> VirtualPath:
        place = virtual_path(path)
        self._check(action, place)
        return place

    def _allowed_move(self, source: str, target: str) -> tuple[VirtualPath, VirtualPath]:
        # Both spellings first, then both rules; and reading, since the content can be read at its
        # new place (see GuardedFS).
        here, there = virtual_path(source), virtual_path(target)
        self._check("fs.remove", here)
        self._check("fs.read", here)
        self._check("fs.write", there)
        return here, there

    def _check_all(self, action: FileAction, places: Sequence[VirtualPath]) -> None:
        for place in places:
            self._check(action, place)

    def _check_moves(self, here: VirtualPath, there: VirtualPath, tails: Sequence[str]) -> None:
        for tail in tails:
            self._allowed_move(here + tail, there + tail)

    def _resolve(self, place: VirtualPath) -> tuple[Mount, VirtualPath]:
        resolved = self._namespace.resolve(place)
        if resolved is None:
            raise self._not_found(place)
        return resolved

    def _refuse_place(self, place: VirtualPath) -> None:
        if place == "/" or self._namespace.is_place(place):
            raise InvalidInput(
                f"{self._owner}:{place} is the root of a tree, and stays", where=place
            )

    def _not_found(self, place: VirtualPath) -> NotFound:
        return NotFound(f"{self._owner} has no {place}", where=place)

    def _errors(self, *places: VirtualPath, missing: str = "there is no {at}") -> _Translated:
        return _Translated(self._owner, " -> ".join(places), missing)


class _Translated:
    """Turns what fs and the system raise within into ours; a class, for its speed."""

    __slots__ = ("_missing", "_owner", "_place")

    def __init__(self, owner: str, place: str, missing: str) -> None:
        self._owner = owner
        self._place = place
        self._missing = missing

    def __enter__(self) -> None:
        return None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(error, (fs_errors.FSError, OSError)):
            raise self._meant(error) from error

    def _meant(self, error: Any) -> OrvalhoError:
        place = self._place
        at = f"{self._owner}:{place}"
        if isinstance(error, fs_errors.ResourceNotFound):
            return NotFound(self._missing.format(at=at), where=place)
        if isinstance(error, Unspelled):
            why = f"{at} holds a name that is no path here: {error.shown}; rename it"
            return Conflict(why, where=place)
        for kind, ours, why in _MEANINGS:
            if isinstance(error, kind):
                where = spelled_safely(place) if ours is Denied else place
                return ours(why.format(at=at), where=where)
        return Unavailable(f"{at} cannot be used now: {error}", where=place)


# The first that fits decides: special ones stand before general ones.
_MEANINGS: Final[tuple[tuple[Any, type[OrvalhoError], str], ...]] = (
    (fs_errors.ResourceReadOnly, Denied, "{at} lies in what is mounted read-only"),
    (Escape, Denied, "{at} leads through a link, or is no plain file or directory of its own"),
    (fs_errors.PermissionDenied, Denied, "the system does not let this node use {at}"),
    (fs_errors.DestinationExists, Conflict, "the target of {at} exists already"),
    (fs_errors.FileExists, Conflict, "{at} exists already"),
    (fs_errors.DirectoryNotEmpty, Conflict, "{at} is not empty, or holds what is not listed"),
    (fs_errors.FileExpected, InvalidInput, "{at} is a directory, and a file is needed"),
    (fs_errors.DirectoryExpected, InvalidInput, "{at} is no directory, and one is needed"),
    (fs_errors.DirectoryExists, InvalidInput, "{at} is no directory, and one is needed"),
    (fs_errors.PathError, InvalidInput, "{at} is no path that this disk can hold"),
    (fs_errors.InsufficientStorage, LimitExceeded, "disk_space: the disk is full at {at}"),
)


def _check_moved(tree: GuardedFS, rest: str, there: VirtualPath, bindings: Bindings) -> None:
    bindings.check_file(there, tree.getsize(rest), lambda: tree.readbytes(rest))


def _entries(tree: GuardedFS, rest: VirtualPath) -> list[Entry]:
    return [_entry(info) for info in tree.scandir(rest, _DETAILS)]


def _entry(info: Any) -> Entry:
    details = info.raw["details"]
    modified_at = float(details.get("modified") or 0.0)
    if info.is_dir:
        return Entry(info.name, "directory", 0, modified_at)
    return Entry(info.name, "file", details["size"], modified_at)


def _free_names(rest: VirtualPath) -> Iterator[VirtualPath]:
    """The name itself, then `a (2).jpg` and so on."""
    yield rest
    above, _, name = rest.rpartition("/")
    stem, dot, suffix = name.rpartition(".")
    if not stem:
        stem, dot, suffix = name, "", ""
    for number in range(2, _NAMES_TRIED):
        yield VirtualPath(f"{above}/{stem} ({number}){dot}{suffix}")


def _holds(tree: GuardedFS, name: VirtualPath, size_bytes: int, sha256: bytes) -> bool:
    if tree.isdir(name) or tree.getsize(name) != size_bytes:
        return False
    digest = hashlib.sha256()
    with tree.openbin(name) as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.digest() == sha256


def _above(rest: VirtualPath) -> list[VirtualPath]:
    names = rest.split("/")[1:-1]
    return [VirtualPath("/" + "/".join(names[: n + 1])) for n in range(len(names))]


def _make_directories(tree: GuardedFS, rest: VirtualPath) -> bool:
    made = False
    for place in (*_above(rest), rest):
        if not tree.isdir(place):
            tree.makedir(place)
            made = True
    return made
