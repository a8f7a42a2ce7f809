"""The libraries that scripts import as `lib:NAME`: a context's own, in `/lib` of its tree, and
those that the node shares with all its contexts, in `libraries/` of its data.

A context's file wins over a shared one of that name, and reaches what it overrides as
`shared:NAME`. They are the owner's code: read with the owner's rights, run with the script's.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Final, Literal

from anyio import to_thread

from orvalho.contexts.filesystem import FileAction, VirtualPath
from orvalho.contexts.names import near_miss
from orvalho.daemon.house import House
from orvalho.errors import Denied, InvalidInput, NotFound, OrvalhoError, Untrusted
from orvalho.runtime.engine import Outline
from orvalho.scripts.modules import (
    DATA,
    LIBRARIES,
    MAX_MODULE_SOURCE_BYTES,
    MAX_MODULES,
    MAX_MODULES_BYTES,
    SHARED,
    STARLARK,
    SUFFIXES,
    digest_of,
    is_named,
    resolve,
    suffixes_for,
)
from orvalho.scripts.receipts import UsedLibrary
from orvalho.scripts.signing import Call

Origin = Literal["context", "shared"]

_KNOWN: Final = 512
_MOST_LISTED: Final = 500
_SHARED_ROOT: Final = f"{SHARED}/"
_WORDS: Final = re.compile(r"\b(?:import|export)\b")
_STARLARK_WORDS: Final = re.compile(r"\b(?:load|def)\b")


@dataclass(frozen=True, slots=True)
class Library:
    """A file that stands for a name. `path` is `/lib/images.js` or `shared:/images.js`."""

    name: str
    path: str
    origin: Origin
    source: str

    @property
    def digest(self) -> str:
        return digest_of(self.source)


@dataclass(frozen=True, slots=True)
class Sought:
    """A name, where its file would lie, and how that may end."""

    name: str
    origin: Origin
    suffixes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Gathered:
    """All that a script needs of the target: path -> text, name -> path, and what its receipt
    tells."""

    sources: Mapping[str, str]
    names: Mapping[str, str]
    used: tuple[UsedLibrary, ...] = field(default=())
    # What reading them took of processors.
    cpu_ms: int = 0


class Outlines:
    """What stands in sources, as a worker reads them; remembered for those seen of late."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._known: OrderedDict[tuple[str, str], Outline] = OrderedDict()

    async def of(self, path: str, source: str) -> Outline:
        """Raises:
        Unavailable: no worker can be started, or it died of the source.
        """
        words = _STARLARK_WORDS if path.endswith(STARLARK) else _WORDS
        if path.endswith(DATA) or not words.search(source):
            return Outline()
        key = (path.rpartition(".")[2], digest_of(source))
        found = self._known.get(key)
        if found is None:
            found = await self._house.jobs.outline(path, source)
            # It takes no time again.
            self._known[key] = replace(found, cpu_ms=0)
            if len(self._known) > _KNOWN:
                self._known.popitem(last=False)
        self._known.move_to_end(key)
        return found


class Imports:
    """Those of one node."""

    def __init__(self, house: House) -> None:
        self._house = house
        self.outlines = Outlines(house)

    @property
    def directory(self) -> Path:
        """Where the shared ones lie."""
        return self._house.home.data / "libraries"

    async def gather(self, context: str, call: Call, *, tells: bool) -> Gathered:
        """The files behind the names that a script imports, in a context, and all that these
        import. `tells`: whoever asks may learn which others there are.

        Raises:
            NotFound: one is not here.
            Untrusted: one is not what the lock says.
            InvalidInput: one imports what cannot be imported, or they are too many.
        """
        suffixes = suffixes_for(call.filename)
        found: dict[str, str] = {}
        paths: dict[str, str] = {}
        unread, cpu_ms = list(call.libraries), 0
        while unread:
            wanted = unread.pop()
            if wanted in paths or wanted in found:
                continue
            if is_named(wanted):
                library = await self._need(context, wanted, suffixes, tells=tells)
                path, source = library.path, library.source
                paths[wanted] = path
            else:
                path, source = wanted, await self._read(context, wanted)
            if path in found:
                continue
            found[path] = source
            if len(found) > MAX_MODULES or sum(map(len, found.values())) > MAX_MODULES_BYTES:
                raise InvalidInput("the libraries import too much", where=path)
            imported, took_ms = await self._imports_of(path, source)
            unread += imported
            cpu_ms += took_ms
        by_path = {path: name for name, path in paths.items()}
        used = tuple(
            UsedLibrary(name=by_path.get(path, ""), path=path, sha256=digest_of(source))
            for path, source in sorted(found.items())
        )
        _check_lock(used, call.locked)
        return Gathered(found, paths, used, cpu_ms)

    async def find(self, context: str, name: str, suffixes: tuple[str, ...]) -> list[Library]:
        """The files of a language that could stand for `lib:NAME` in a context, or for
        `shared:NAME`; the first one does."""
        scheme, _, bare = name.partition(":")
        found = []
        if scheme == "lib":
            found += await self._candidates(
                context, f"{LIBRARIES}/", bare, Sought(name, "context", suffixes)
            )
        return found + await self._candidates(
            context, _SHARED_ROOT, bare, Sought(name, "shared", suffixes)
        )

    async def names(self, context: str) -> tuple[str, ...]:
        """Every `lib:` name that a script there can import."""
        own = await self._list(context, LIBRARIES)
        folder = partial(_folder_names, self.directory)
        shared = await to_thread.run_sync(folder)
        stems = {_stem(each) for each in (*own, *shared)}
        return tuple(sorted(name for stem in stems if stem and is_named(name := f"lib:{stem}")))[
            :_MOST_LISTED
        ]

    async def _need(
        self, context: str, name: str, suffixes: tuple[str, ...], *, tells: bool
    ) -> Library:
        found = await self.find(context, name, suffixes)
        if found:
            return found[0]
        if not tells:
            raise NotFound(
                f'there is no library "{name}" in {context}@{self._house.name}',
                hint=f"ask the owner of {self._house.name}",
            )
        # One that cannot be read, such as a link that leads out, is there all the same.
        known = [each for each in await self.names(context) if each != name]
        near = near_miss(name, known)
        some = ", ".join(known[:10]) or "there is none"
        raise NotFound(
            f'there is no library "{name}" in {context}@{self._house.name}',
            hint=f"did you mean {near}?" if near else f"known here: {some}",
        )

    async def _imports_of(self, path: str, source: str) -> tuple[list[str], int]:
        """And the milliseconds that finding them took of a processor."""
        outline = await self.outlines.of(path, source)
        imported = []
        for request in outline.requests:
            try:
                imported.append(resolve(request.specifier, path))
            except InvalidInput as error:
                where = f"{path}:{request.line}:{request.column}"
                raise InvalidInput(error.message, where=where) from error
        return imported, outline.cpu_ms

    async def _candidates(
        self, context: str, root: str, bare: str, sought: Sought
    ) -> list[Library]:
        found = []
        for stem in (bare, f"{bare}/index"):
            for suffix in sought.suffixes:
                path = f"{root}{stem}{suffix}"
                try:
                    source = await self._read(context, path)
                except NotFound:
                    continue
                found.append(Library(sought.name, path, sought.origin, source))
        return found

    async def _read(self, context: str, path: str) -> str:
        """Raises:
        NotFound: there is no such file.
        """
        if path.startswith(_SHARED_ROOT):
            file = self.directory / path.removeprefix(_SHARED_ROOT)
            raw = await to_thread.run_sync(_read_file, self.directory, file)
        else:
            try:
                files = self._house.contexts.get(context).files(_owner_may)
                raw = await files.read(path, MAX_MODULE_SOURCE_BYTES)
            except (Denied, InvalidInput) as error:
                # A link out of the tree, a directory: no file that could be imported.
                raise NotFound("there is no such library", where=path) from error
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            raise InvalidInput("the library is not UTF-8 text", where=path) from error

    async def _list(self, context: str, folder: str) -> list[str]:
        try:
            entries = await self._house.contexts.get(context).files(_owner_may).list(folder)
        except OrvalhoError:
            return []
        return [each.name if each.kind == "file" else f"{each.name}/" for each in entries]


def _check_lock(used: Collection[UsedLibrary], locked: Mapping[str, str] | None) -> None:
    """What is used must be what was locked, all of it: where a locked file is gone, another one may
    have come in its place."""
    if locked is None:
        return
    for each in used:
        expected = locked.get(each.path)
        if expected != each.sha256:
            what = "digest differs from lock" if expected else "not in the lock"
            raise _differs(f"{each.path}: {what}", each.name or each.path)
    for path in sorted(set(locked) - {each.path for each in used}):
        raise _differs(f"{path}: in the lock, but not imported any more", path)


def _differs(message: str, where: str) -> Untrusted:
    return Untrusted(message, where=where, hint=_LOCK_HINT)


_LOCK_HINT: Final = "look at what has changed, then: orvalho script send TARGET FILE --lock"


def _stem(name: str) -> str:
    if name.endswith("/"):
        return name[:-1]
    suffix = next((each for each in (*SUFFIXES, *STARLARK) if name.endswith(each)), None)
    return name.removesuffix(suffix) if suffix else ""


def _folder_names(directory: Path) -> list[str]:
    try:
        return [each.name + ("/" if each.is_dir() else "") for each in directory.iterdir()]
    except OSError:
        return []


def _read_file(directory: Path, file: Path) -> bytes:
    try:
        if not file.resolve(strict=True).is_relative_to(directory.resolve()):
            raise NotFound("there is no such library", where=file.name)
        with file.open("rb") as opened:
            raw = opened.read(MAX_MODULE_SOURCE_BYTES + 1)
    except OSError as error:
        raise NotFound("there is no such library", where=file.name) from error
    if len(raw) > MAX_MODULE_SOURCE_BYTES:
        raise InvalidInput(
            f"a library has at most {MAX_MODULE_SOURCE_BYTES} bytes", where=file.name
        )
    return raw


def _owner_may(_action: FileAction, _path: VirtualPath) -> None:
    """The libraries are the owner's: there is nothing to decide."""
