"""The files that a script imports, found from where it lies; and the lock that names their digests.

What a source imports the daemon tells, which can read it; the files are read here, where they are
meant.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Final

from orvalho.control.client import Client
from orvalho.control.logic import ImportPlace, ScriptImports, ScriptImportsReply
from orvalho.errors import InvalidInput, Untrusted

SUFFIXES: Final = (".js", ".mjs", ".ts", ".mts")
_STARLARK: Final = ".star"
# A folder with one of these is that of a whole project, whose files may import each other.
_PROJECT: Final = ("package.json", ".git")
_MOST_FILES: Final = 257
_LOCK_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Graph:
    """`filename` is the script's path from the folder that all of its files lie in; `modules` the
    other files by theirs."""

    filename: str
    modules: dict[str, str] = field(default_factory=dict)


def find_modules(client: Client, file: str | None, filename: str, source: str) -> Graph:
    """Read all that a script imports. `file` is where it lies; None when it was typed.

    Raises:
        InvalidInput: a file is missing, lies outside, or cannot be imported; each with its place.
    """
    if filename.endswith(_STARLARK):
        may_import = "load" in source
    else:
        may_import = filename.endswith(SUFFIXES) and ("import" in source or "from" in source)
    if not may_import:
        return Graph(filename)
    top = _top(Path(file)) if file else None
    entry = _inside(Path(str(file)), top) if top else filename
    found = {entry: source}
    unread = dict(found)
    while unread:
        reply = client.ask(ScriptImports(sources=unread), ScriptImportsReply)
        if reply.problems:
            raise InvalidInput(
                f"{filename} cannot be run: {reply.problems[0].partition(': ')[2]}",
                where=reply.problems[0].partition(": ")[0],
                detail="\n".join(reply.problems),
            )
        unread = {}
        for place in reply.imports:
            if place.path is not None and place.path not in found:
                found[place.path] = unread[place.path] = _read(place, top)
        if len(found) > _MOST_FILES:
            raise InvalidInput(f"a script has at most {_MOST_FILES - 1} modules.", where=entry)
    return _shortened(entry, found)


def _top(file: Path) -> Path:
    """The folder that no import leads out of: that of the project the script is part of, or else
    its own."""
    folder = file.absolute().parent
    for each in (folder, *folder.parents):
        if any((each / name).exists() for name in _PROJECT):
            return each
    return folder


def _inside(file: Path, top: Path) -> str:
    return PurePosixPath(*file.absolute().relative_to(top).parts).as_posix()


def _read(place: ImportPlace, top: Path | None) -> str:
    where = f"{place.file}:{place.line}:{place.column}"
    if top is None:
        raise InvalidInput(
            f'"{place.specifier}": what is typed lies in no folder, and has no files beside it.',
            where=where,
            hint="orvalho script send TARGET FILE",
        )
    file = top / str(place.path)
    try:
        real = file.resolve(strict=True)
        if not real.is_relative_to(top.resolve()):
            raise InvalidInput(f"{place.specifier} is a link that leads out of {top}.", where=where)
        return real.read_bytes().decode()
    except OSError as error:
        near = _near(file)
        raise InvalidInput(
            f"{place.specifier} cannot be read: {os.strerror(error.errno or 0)}.",
            where=where,
            hint=f"did you mean {place.specifier.rpartition('/')[0]}/{near}?" if near else None,
        ) from error
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{place.specifier} is not UTF-8 text: {error}.", where=where) from error


def _near(file: Path) -> str | None:
    for suffix in SUFFIXES:
        if (other := file.with_suffix(suffix)).is_file():
            return other.name
    return None


def _shortened(entry: str, found: dict[str, str]) -> Graph:
    """Paths from the nearest folder that all of them lie in: nobody else needs to know more."""
    common = os.path.commonpath([str(PurePosixPath("/", path).parent) for path in found])
    skip = len(common.rstrip("/"))
    modules = {path[skip:]: text for path, text in found.items() if path != entry}
    return Graph(entry[skip:], modules)


# ---- the lock ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Lock:
    """Digests by path: `modules` those of the script's other files, `libraries` those of its
    targets, None when the lock does not speak of them."""

    modules: dict[str, str]
    libraries: dict[str, str] | None = None


def lock_file(file: str) -> Path:
    """`job.lock` for `job.js`."""
    return Path(file).with_suffix(".lock")


def read_lock(file: str) -> Lock | None:
    """The lock beside a script; None when there is none.

    Raises:
        InvalidInput: it cannot be read.
    """
    import tomllib  # noqa: PLC0415 -- most scripts have no lock

    path = lock_file(file)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InvalidInput(f"the lock cannot be read: {error}.", where=str(path)) from error
    if table.get("format_version") != _LOCK_VERSION:
        raise InvalidInput(
            "this is no lock of a script.",
            where=str(path),
            hint=f"move it away, then: orvalho script lock {file}",
        )
    libraries = table.get("libraries")
    return Lock(
        _digests(table.get("modules", {}), path),
        None if libraries is None else _digests(libraries, path),
    )


def _digests(table: Any, path: Path) -> dict[str, str]:
    if not isinstance(table, dict) or not all(isinstance(each, str) for each in table.values()):
        raise InvalidInput("the lock names a digest for each path.", where=str(path))
    return {name: each.removeprefix("sha256:") for name, each in table.items()}


def write_lock(file: str, lock: Lock) -> Path:
    """Raises:
    InvalidInput: the folder does not take it.
    """
    path = lock_file(file)
    lines = [
        f"# What {Path(file).name} is made of: orvalho script lock",
        f"format_version = {_LOCK_VERSION}",
        "",
        "[modules]",
        *_rows(lock.modules),
    ]
    if lock.libraries is not None:
        lines += ["", "[libraries]", *_rows(lock.libraries)]
    try:
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    except OSError as error:
        raise InvalidInput(f"the lock cannot be written: {error}.", where=str(path)) from error
    return path


def _rows(digests: dict[str, str]) -> list[str]:
    return [f'{json.dumps(path)} = "sha256:{each}"' for path, each in sorted(digests.items())]


def digests_of(modules: dict[str, str]) -> dict[str, str]:
    """Path -> SHA-256 in hex."""
    return {path: hashlib.sha256(text.encode()).hexdigest() for path, text in modules.items()}


def check_lock(file: str, lock: Lock, modules: dict[str, str]) -> None:
    """Raises:
    Untrusted: a module is not the one that was locked.
    """
    for path, what in _differences(lock.modules, digests_of(modules)):
        raise Untrusted(
            f"{path}: {what}.",
            where=str(lock_file(file)),
            hint=f"look at what has changed, then: orvalho script lock {file}",
        )


def changes(before: Lock | None, now: Lock) -> list[str]:
    """What a lock says otherwise than the one that it takes the place of, a line for each file."""
    if before is None:
        return []
    found = _differences(before.modules, now.modules)
    if before.libraries is not None and now.libraries is not None:
        found += _differences(before.libraries, now.libraries)
    return [f"{path}: {what}" for path, what in found]


def _differences(locked: dict[str, str], found: dict[str, str]) -> list[tuple[str, str]]:
    words = []
    for path in sorted({*locked, *found}):
        if path not in found:
            words.append((path, "in the lock, but not imported any more"))
        elif path not in locked:
            words.append((path, "not in the lock"))
        elif locked[path] != found[path]:
            words.append((path, "digest differs from lock"))
    return words
