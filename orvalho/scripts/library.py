"""What this node publishes: files of one directory, `NAME.SUFFIX`, each a library. Beside one may
stand `NAME.SUFFIX.toml`, which says what a module needs, and `NAME.SUFFIX.doc`, a line about it.

The files are all there is: one that is put there by hand is published, too. Everything here blocks:
call it in a thread.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

from orvalho.contexts.durable import replace_file
from orvalho.contexts.names import check_label, near_miss
from orvalho.errors import Conflict, InvalidInput, NotFound, Unavailable
from orvalho.scripts.manifest import read_header
from orvalho.scripts.script import MAX_MODULE_BYTES, MAX_SOURCE_BYTES
from orvalho.scripts.wasm.binary import is_wasm
from orvalho.scripts.wasm.metadata import Metadata, read_metadata

# In the order in which one of two files of the same name is meant.
KINDS: Final = {
    ".wasm": "wasm",
    ".js": "javascript",
    ".mjs": "javascript",
    ".ts": "typescript",
    ".star": "starlark",
}
MAX_DOC_CHARACTERS: Final = 1_000
_MOST_NEEDS_BYTES: Final = 64 << 10
_MOST_LIBRARIES: Final = 1_000
_MOST_EXPORTS: Final = 50
_NEEDS, _DOC = ".toml", ".doc"
# The first line of a file of needs that we wrote.
_STAMP: Final = "# These are the needs of sha256:"
_MOST_BESIDE_BYTES: Final = _MOST_NEEDS_BYTES + len(_STAMP) + 65
_JAVASCRIPT_EXPORT: Final = re.compile(
    r"^export\s+(?:async\s+)?(?:function\*?|const|let|var|class)\s+([A-Za-z_$][\w$]{0,99})",
    re.MULTILINE,
)
_STARLARK_EXPORT: Final = re.compile(r"^def\s+([A-Za-z][\w]{0,99})\s*\(", re.MULTILINE)


@dataclass(frozen=True)
class Library:
    """One published file as it was read: `content` and `sha256` belong together. `needs` is the
    text of the file beside it, None when there is none."""

    name: str
    suffix: str
    content: bytes
    sha256: str
    doc: str
    needs: str | None
    published_at: float

    @property
    def filename(self) -> str:
        return self.name + self.suffix

    @cached_property
    def metadata(self) -> Metadata | None:
        """What a WebAssembly binary says of itself; None for a text.

        Raises:
            InvalidInput: it is not what its suffix says.
        """
        return read_metadata(self.content) if self.suffix == ".wasm" else None

    @property
    def header(self) -> str:
        """The TOML of what a WebAssembly library needs."""
        if self.needs is not None:
            return self.needs
        return self.metadata.header if self.metadata is not None else ""

    @property
    def kind(self) -> str:
        return self.metadata.kind if self.metadata is not None else KINDS[self.suffix]

    @property
    def exports(self) -> tuple[str, ...]:
        """What it offers, as `add(i32, i32) -> i32`, or a text's names; the first fifty."""
        if self.metadata is not None:
            return tuple(
                _signature(each.path, [p.type for p in each.parameters], each.results)
                for each in self.metadata.functions[:_MOST_EXPORTS]
            )
        pattern = _STARLARK_EXPORT if self.suffix == ".star" else _JAVASCRIPT_EXPORT
        found = pattern.findall(self.content.decode("utf-8", "replace"))
        return tuple(dict.fromkeys(found[:_MOST_EXPORTS]))


class _HalfPublished(InvalidInput):
    """The needs beside a library are those of other bytes."""


class Libraries:
    """The libraries of one directory, which is made when the first is published."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        # What was read of late, by file: a call reads no megabytes that it has read before.
        self._known: dict[Path, tuple[tuple[int, ...], Library]] = {}

    def list(self) -> tuple[Library, ...]:
        """Each library, by name. What is not readable as what it is called is left out."""
        found = []
        for name in self.names():
            with suppress(InvalidInput, NotFound):
                library = self.find(name)
                library.kind  # noqa: B018 -- read now: a broken binary is no library
                found.append(library)
        return tuple(found)

    def names(self) -> tuple[str, ...]:
        with suppress(OSError):
            files = (Path(each) for each in os.listdir(self._directory))  # noqa: PTH208
            names = {file.stem for file in files if file.suffix in KINDS and _is_name(file.stem)}
            return tuple(sorted(names)[:_MOST_LIBRARIES])
        return ()

    def find(self, name: str) -> Library:
        """Raises:
        NotFound: there is none of that name.
        InvalidInput: it is too large, or its publishing was cut short.
        """
        for suffix in KINDS if _is_name(name) else ():
            library = self._read(name, suffix)
            if library is not None:
                return library
        raise missing(name, near_miss(name, self.names()))

    def publish(
        self, filename: str, content: bytes, *, name: str, doc: str | None, needs: str | None
    ) -> bool:
        """Keep it; False when these very bytes are published under that name already (another
        `doc` or other `needs` are taken over still). The caller has asked `differs` before.

        Raises:
            InvalidInput: it is no library, or its header has mistakes.
            Unavailable: the disk fails.
        """
        suffix = check_library(filename, content, name=name, doc=doc, needs=needs)
        path = self._directory / (name + suffix)
        is_new = not self._is_same(name, suffix, content)
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            # What stands beside it first, and says of which bytes: cut short between the two, the
            # library is none, and never one with another's needs.
            beside = Path(f"{path}{_NEEDS}")
            if needs is not None or beside.exists():
                self._put(beside, _stamped(needs or "", hashlib.sha256(content).hexdigest()))
            if doc is not None or is_new:
                self._put(Path(f"{path}{_DOC}"), doc.encode() if doc else None)
            if is_new:
                self._put(path, content)
            if needs is None:
                self._put(beside, None)
            for other in KINDS:
                if other != suffix:
                    self._remove(name, other)
        except OSError as error:
            raise self._failed(error) from error
        return is_new

    def differs(self, name: str, content: bytes) -> str | None:
        """The digest of what is published under that name, when it is something else."""
        with suppress(NotFound, _HalfPublished):
            found = self.find(name)
            return found.sha256 if found.content != content else None
        return None

    def remove(self, name: str) -> bool:
        """Whether there was one.

        Raises:
            Unavailable: the disk fails.
        """
        try:
            found = [self._remove(name, suffix) for suffix in KINDS if _is_name(name)]
        except OSError as error:
            raise self._failed(error) from error
        return any(found)

    # ---- files -------------------------------------------------------------------------------

    def _read(self, name: str, suffix: str) -> Library | None:
        path = self._directory / (name + suffix)
        try:
            before = path.lstat()
            # Neither a link, which may lead anywhere, nor a FIFO, which may hang us.
            if not stat.S_ISREG(before.st_mode):
                return None
            beside = [_mark(Path(f"{path}{each}")) for each in (_NEEDS, _DOC)]
            mark = (before.st_ino, before.st_size, before.st_mtime_ns, *beside)
            known = self._known.get(path)
            if known is not None and known[0] == mark:
                return known[1]
            most = MAX_MODULE_BYTES if suffix == ".wasm" else MAX_SOURCE_BYTES
            if before.st_size > most:
                raise InvalidInput(f"it has more than {most} bytes", where=str(path))
            content = path.read_bytes()
        except OSError:
            self._known.pop(path, None)
            return None
        needs, doc = (_text(Path(f"{path}{each}")) for each in (_NEEDS, _DOC))
        sha256 = hashlib.sha256(content).hexdigest()
        library = Library(
            name=name,
            suffix=suffix,
            content=content,
            sha256=sha256,
            doc=(doc or "").strip()[:MAX_DOC_CHARACTERS],
            needs=None if needs is None else _unstamped(needs, sha256, path),
            published_at=before.st_mtime,
        )
        self._known[path] = (mark, library)
        return library

    def _is_same(self, name: str, suffix: str, content: bytes) -> bool:
        with suppress(InvalidInput):
            found = self._read(name, suffix)
            return found is not None and found.content == content
        return False

    def _put(self, path: Path, content: bytes | None) -> None:
        """All of it or nothing, durably; None takes the file away."""
        if content is None:
            path.unlink(missing_ok=True)
            return
        replace_file(path, content)

    def _remove(self, name: str, suffix: str) -> bool:
        path = self._directory / (name + suffix)
        was_there = path.exists() or path.is_symlink()
        for each in (path, Path(f"{path}{_NEEDS}"), Path(f"{path}{_DOC}")):
            each.unlink(missing_ok=True)
        self._known.pop(path, None)
        return was_there

    def _failed(self, error: OSError) -> Unavailable:
        return Unavailable(
            f"the libraries cannot be written: {error.strerror}", where=str(self._directory)
        )


def check_library(
    filename: str, content: bytes, *, name: str, doc: str | None, needs: str | None
) -> str:
    """The suffix of what can be published under that name.

    Raises:
        InvalidInput: it cannot, and why.
    """
    suffix = Path(filename).suffix
    if is_wasm(content):
        suffix = ".wasm"
    if suffix not in KINDS:
        raise InvalidInput(
            f"a library ends in {', '.join(KINDS)}, or is WebAssembly", where=filename
        )
    check_label(name)
    if doc is not None and (len(doc) > MAX_DOC_CHARACTERS or not doc.isprintable()):
        raise InvalidInput(f"what is said of it is one line of {MAX_DOC_CHARACTERS} characters")
    most = MAX_MODULE_BYTES if suffix == ".wasm" else MAX_SOURCE_BYTES
    if len(content) > most:
        raise InvalidInput(f"it has {len(content)} bytes, more than {most}", where=filename)
    if suffix != ".wasm":
        if needs is not None:
            raise InvalidInput("only WebAssembly has its needs in a file beside it", where=filename)
        try:
            content.decode()
        except UnicodeDecodeError as error:
            raise InvalidInput("it is not Unicode text", where=filename) from error
        return suffix
    metadata = read_metadata(content)
    if needs is not None and len(needs.encode()) > _MOST_NEEDS_BYTES:
        raise InvalidInput(f"its needs have more than {_MOST_NEEDS_BYTES} bytes", where=filename)
    read_header(needs if needs is not None else metadata.header, f"{filename}.toml")
    return suffix


def missing(name: str, near: str | None = None) -> NotFound:
    """There is none of that name; `near` was perhaps meant."""
    return NotFound(
        f"there is no library {name[:100]!a}", hint=f"did you mean {near}?" if near else None
    )


def replaced(name: str, digest: str) -> Conflict:
    """Other bytes stand under that name already."""
    return Conflict(
        f"{name} is published already, with other bytes: sha256:{digest[:12]}...",
        hint=f"orvalho lib publish --replace --as {name} FILE",
    )


def _signature(name: str, parameters: list[str], results: tuple[str, ...]) -> str:
    return f"{name}({', '.join(parameters)})" + (f" -> {', '.join(results)}" if results else "")


def _is_name(text: str) -> bool:
    try:
        return check_label(text) == text
    except InvalidInput:
        return False


def _stamped(needs: str, sha256: str) -> bytes:
    """The file of needs that goes with those bytes, and with no others."""
    return f"{_STAMP}{sha256}\n{needs}".encode()


def _unstamped(text: str, sha256: str, path: Path) -> str:
    """The needs in such a file. One written by hand goes with whatever it lies beside.

    Raises:
        InvalidInput: it goes with other bytes.
    """
    if not text.startswith(_STAMP):
        return text
    stamp, _, needs = text.removeprefix(_STAMP).partition("\n")
    if stamp.strip() != sha256:
        raise _HalfPublished(
            f"{path.name} was not published whole, or was changed by hand: the needs beside it are"
            " those of other bytes",
            where=f"{path}{_NEEDS}",
            hint=f"orvalho lib publish FILE --as {path.stem}",
        )
    return needs


def _mark(path: Path) -> int:
    try:
        return path.lstat().st_mtime_ns
    except OSError:
        return 0


def _text(path: Path) -> str | None:
    try:
        if not stat.S_ISREG(path.lstat().st_mode) or path.stat().st_size > _MOST_BESIDE_BYTES:
            return None
        return path.read_bytes().decode()
    except (OSError, UnicodeDecodeError):
        return None
