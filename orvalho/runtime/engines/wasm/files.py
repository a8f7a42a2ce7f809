"""The files that a program of WASI has open: paths of the target's tree under `/`, of the caller's
under `/caller`.

There is no file of the host's behind them. Each is read whole by `fs.read`, kept, and written whole
by `fs.write` when it is closed or synchronised, so what is declared and granted holds here as it
does for any script; nothing leads out of a tree, and a link in it is followed by the tree alone.
"""

from __future__ import annotations

import base64
import posixpath
from collections.abc import Collection
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Final, Protocol

import msgspec

from orvalho.runtime.engine import Answer
from orvalho.runtime.engines.blocking import Thrown

_MOST_OPEN: Final = 256
_MOST_FILE_BYTES: Final = 16 << 20


class Errno(IntEnum):
    """WASI preview 1, `errno`."""

    SUCCESS = 0
    ACCES = 2
    BADF = 8
    EXIST = 20
    FAULT = 21
    FBIG = 22
    INVAL = 28
    IO = 29
    ISDIR = 31
    MFILE = 33
    NOENT = 44
    NOSPC = 51
    NOTDIR = 54
    NOTSUP = 58
    ROFS = 69
    SPIPE = 70
    NOTCAPABLE = 76


_WRITES: Final = frozenset({"write", "mkdir", "remove", "move"})
_MEANINGS: Final = {
    "NotFound": Errno.NOENT,
    "Denied": Errno.ACCES,
    "InvalidInput": Errno.INVAL,
    "Conflict": Errno.EXIST,
    "LimitExceeded": Errno.NOSPC,
}


class WasiError(Exception):
    """A call of WASI fails with that number."""

    def __init__(self, errno: Errno, name: str = "", message: str = "") -> None:
        super().__init__(errno)
        self.errno = errno
        self.name = name
        self.message = message


class Caller(Protocol):
    """Whoever calls operations for the guest."""

    def call(self, op: str, argument: bytes) -> Answer: ...


class Stat(msgspec.Struct, frozen=True):
    """As `fs.stat` answers it: `modified` in milliseconds since 1970."""

    name: str = ""
    type: str = "file"
    size: int = 0
    modified: float = 0

    @property
    def is_folder(self) -> bool:
        return self.type == "directory"


@dataclass
class Stream:
    """Standard input, output or error."""

    number: int


@dataclass
class Folder:
    side: str
    path: str
    # What a program finds it by; empty for one that it has opened itself.
    preopened: str = ""
    entries: list[Stat] | None = None


@dataclass
class File:
    """`content` is None until it is read."""

    side: str
    path: str
    is_readable: bool
    is_writable: bool
    appends: bool = False
    content: bytearray | None = None
    at: int = 0
    is_changed: bool = False
    stat: Stat = field(default_factory=Stat)


Open = Stream | Folder | File


@dataclass(frozen=True, slots=True)
class Opening:
    """How a path is opened."""

    creates: bool
    is_exclusive: bool
    truncates: bool
    wants_folder: bool
    is_readable: bool
    is_writable: bool
    appends: bool = False


def most_file_bytes() -> int:
    """No file is larger."""
    return _MOST_FILE_BYTES


class Files:
    """`read_only`: the sides to whose trees the program has not declared to write."""

    def __init__(self, host: Caller, stdin: bytes, read_only: Collection[str] = ()) -> None:
        self._host = host
        self._read_only = frozenset(read_only)
        self.stdin = stdin
        self._open: dict[int, Open] = {number: Stream(number) for number in range(3)}
        self._open[3] = Folder("target", "/", "/")
        self._open[4] = Folder("caller", "/", "/caller")

    def is_writable(self, side: str) -> bool:
        """Whether anything may be written on that side at all."""
        return side not in self._read_only

    def find(self, number: int) -> Open:
        found = self._open.get(number)
        if found is None:
            raise WasiError(Errno.BADF)
        return found

    def folder(self, number: int) -> Folder:
        found = self.find(number)
        if not isinstance(found, Folder):
            raise WasiError(Errno.NOTDIR)
        return found

    def file(self, number: int) -> File:
        found = self.find(number)
        if isinstance(found, Stream):
            raise WasiError(Errno.SPIPE)
        if isinstance(found, Folder):
            raise WasiError(Errno.ISDIR)
        return found

    def add(self, opened: Open) -> int:
        number = next(n for n in range(3, _MOST_OPEN + 4) if n not in self._open)
        if number >= _MOST_OPEN:
            raise WasiError(Errno.MFILE)
        self._open[number] = opened
        return number

    def close(self, number: int) -> None:
        opened = self.find(number)
        if isinstance(opened, File):
            self.flush(opened)
        del self._open[number]

    def renumber(self, number: int, to: int) -> None:
        opened = self.find(number)
        self.close(to)
        self._open[to] = opened
        del self._open[number]

    def close_all(self) -> None:
        """Raises:
        Thrown: what could not be written, for which nobody else will ask.
        """
        for opened in self._open.values():
            if isinstance(opened, File):
                try:
                    self.flush(opened)
                except WasiError as error:
                    message = error.message or f"{opened.path} could not be written"
                    raise Thrown(error.name or "Error", message) from None

    def preopened(self) -> list[int]:
        """The folders that a program finds open."""
        return [
            number
            for number, opened in self._open.items()
            if isinstance(opened, Folder) and opened.preopened
        ]

    # ---- paths -------------------------------------------------------------------------------

    def open(self, side: str, path: str, how: Opening) -> int:
        """The number of the file or folder there.

        Raises:
            WasiError: it is not what was asked for, or not allowed.
        """
        if how.is_exclusive and self._is_there(side, path):
            raise WasiError(Errno.EXIST)
        if how.truncates or (how.creates and not self._is_there(side, path)):
            # At once, so that a refusal comes where the program looks for it.
            self.put(side, path, b"")
            content: bytearray | None = bytearray()
            stat = Stat()
        else:
            content, stat = None, self.stat(side, path)
            if stat.is_folder:
                if how.is_writable and not how.wants_folder:
                    raise WasiError(Errno.ISDIR)
                return self.add(Folder(side, path))
            if how.is_writable and not self.is_writable(side):
                raise WasiError(Errno.ROFS)
        if how.wants_folder:
            raise WasiError(Errno.NOTDIR)
        file = File(
            side,
            path,
            is_readable=how.is_readable,
            is_writable=how.is_writable,
            appends=how.appends,
            content=content,
            stat=stat,
        )
        return self.add(file)

    def _is_there(self, side: str, path: str) -> bool:
        try:
            self.stat(side, path)
        except WasiError as error:
            if error.errno is Errno.NOENT:
                return False
            raise
        return True

    def make_folder(self, side: str, path: str) -> None:
        if not self.ask(side, "mkdir", path):
            raise WasiError(Errno.EXIST)

    def remove_file(self, side: str, path: str) -> None:
        if self.stat(side, path).is_folder:
            raise WasiError(Errno.ISDIR)
        self.ask(side, "remove", path)

    def remove_folder(self, side: str, path: str) -> None:
        if not self.stat(side, path).is_folder:
            raise WasiError(Errno.NOTDIR)
        self.ask(side, "remove", path)

    def place(self, number: int, path: str) -> tuple[str, str]:
        """Side and absolute path. `..` may not lead out of the folder, as WASI has it."""
        folder = self.folder(number)
        if "\0" in path or path.startswith("/"):
            raise WasiError(Errno.NOTCAPABLE)
        below = posixpath.normpath(path or ".")
        if below == ".." or below.startswith("../"):
            raise WasiError(Errno.NOTCAPABLE)
        return folder.side, posixpath.normpath(posixpath.join(folder.path, below))

    def stat(self, side: str, path: str) -> Stat:
        if path == "/":
            return Stat("/", "directory")
        return msgspec.convert(self.ask(side, "stat", path), Stat)

    def list(self, folder: Folder) -> list[Stat]:
        if folder.entries is None:
            found = self.ask(folder.side, "list", folder.path)
            folder.entries = msgspec.convert(found, list[Stat])
        return folder.entries

    # ---- content -----------------------------------------------------------------------------

    def content(self, file: File) -> bytearray:
        if file.content is None:
            answer = self.ask(file.side, "read", file.path)
            file.content = bytearray(base64.b64decode(answer["$bytes"]))
        return file.content

    def read(self, file: File, at: int, size: int) -> bytes:
        if not file.is_readable:
            raise WasiError(Errno.NOTCAPABLE)
        return bytes(self.content(file)[at : at + size])

    def write(self, file: File, at: int, chunk: bytes) -> None:
        if not file.is_writable:
            raise WasiError(Errno.NOTCAPABLE)
        content = self.content(file)
        self.resize(file, max(len(content), at + len(chunk)))
        content[at : at + len(chunk)] = chunk

    def resize(self, file: File, size: int) -> None:
        if not file.is_writable:
            raise WasiError(Errno.NOTCAPABLE)
        if size > _MOST_FILE_BYTES:
            raise WasiError(Errno.FBIG)
        content = self.content(file)
        del content[size:]
        content += bytes(size - len(content))
        file.is_changed = True

    def flush(self, file: File) -> None:
        if file.is_changed and file.content is not None:
            self.put(file.side, file.path, bytes(file.content))
            file.is_changed = False

    def put(self, side: str, path: str, content: bytes) -> None:
        self.ask(side, "write", path, {"$bytes": base64.b64encode(content).decode()})

    def ask(self, side: str, name: str, *arguments: Any) -> Any:
        """Raises:
        WasiError: the operation was refused, or failed.
        """
        if name in _WRITES and not self.is_writable(side):
            needed = f"the script did not say that it needs {side}.fs.write or {side}.fs.remove"
            raise WasiError(Errno.ROFS, "Denied", needed)
        answer = self._host.call(f"{side}.fs.{name}", msgspec.json.encode(arguments))
        value = msgspec.json.decode(answer.value)
        if answer.is_error:
            kind, message = str(value.get("name", "")), str(value.get("message", ""))
            raise WasiError(_MEANINGS.get(kind, Errno.IO), kind, message)
        return value
