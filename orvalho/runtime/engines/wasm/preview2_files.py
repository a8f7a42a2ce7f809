"""`wasi:filesystem@0.2` for components, over the same open files as preview 1 (`files.py`)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from orvalho.runtime.engines.blocking import Thrown
from orvalho.runtime.engines.wasm.files import (
    Errno,
    File,
    Files,
    Folder,
    Opening,
    Stat,
    WasiError,
    most_file_bytes,
)
from orvalho.runtime.engines.wasm.preview2 import (
    Caller,
    Failure,
    Function,
    InputStream,
    OutputStream,
    Refusal,
)
from orvalho.runtime.engines.wasm.values import Handle

_MOST_READ: Final = 1 << 20
_CODES: Final = {
    Errno.ACCES: "access",
    Errno.BADF: "bad-descriptor",
    Errno.EXIST: "exist",
    Errno.FBIG: "file-too-large",
    Errno.INVAL: "invalid",
    Errno.IO: "io",
    Errno.ISDIR: "is-directory",
    Errno.MFILE: "quota",
    Errno.NOENT: "no-entry",
    Errno.NOSPC: "insufficient-space",
    Errno.NOTDIR: "not-directory",
    Errno.NOTSUP: "unsupported",
    Errno.SPIPE: "invalid-seek",
    Errno.ROFS: "read-only",
    Errno.NOTCAPABLE: "not-permitted",
}


def _code(error: WasiError) -> str:
    return _CODES.get(error.errno, "io")


@dataclass
class Descriptor:
    """An open file or folder. It stays open as long as it or a stream of it is held."""

    files: Files
    number: int
    users: int = 1

    def close(self) -> None:
        self.users -= 1
        if self.users:
            return
        try:
            self.files.close(self.number)
        except WasiError as error:
            # A drop has no answer: the run must not end as if it had been written.
            raise Thrown(error.name or "Error", error.message or "a file was not kept") from None

    def held(self) -> Descriptor:
        """By one more."""
        self.users += 1
        return self

    @property
    def file(self) -> File:
        return self.files.file(self.number)


@dataclass
class _From:
    """Reads a file from a place on."""

    files: Files
    file: File
    at: int

    def read(self, size: int) -> bytes:
        content = self.files.read(self.file, self.at, size)
        self.at += len(content)
        return content


@dataclass
class _Into:
    """Writes a file from a place on; at its end when `at` is None."""

    files: Files
    file: File
    at: int | None

    def write(self, content: bytes) -> None:
        if self.at is None:
            self.files.write(self.file, len(self.files.content(self.file)), content)
            return
        self.files.write(self.file, self.at, content)
        self.at += len(content)


@dataclass
class _Entries:
    names: list[Stat]
    at: int = 0


def _descriptor(caller: Caller, handle: Handle) -> Descriptor:
    found = caller.take(handle, Descriptor)
    assert isinstance(found, Descriptor)
    return found


def _answering(function: Callable[..., Any]) -> Function:
    """With an error-code for an error."""

    def call(caller: Caller, *arguments: Any) -> Any:
        try:
            return function(caller, *arguments)
        except WasiError as error:
            raise Refusal(_code(error)) from None

    return call


def _offset(where: int) -> int:
    if where > most_file_bytes():
        raise WasiError(Errno.INVAL)
    return where


# ---- descriptors -----------------------------------------------------------------------------


def _get_directories(caller: Caller) -> Any:
    files = caller.guest.files
    pairs = [(number, files.folder(number).preopened) for number in files.preopened()]
    # Held by one more: what was open to begin with is not closed by the guest.
    return [[caller.give(Descriptor(files, number, 2)), name] for number, name in pairs]


def _read_via_stream(caller: Caller, handle: Handle, at: int) -> Handle:
    opened = _descriptor(caller, handle)
    source = _From(opened.files, opened.file, _offset(at))
    return caller.give(InputStream(source, opened.held()))


def _write_via_stream(caller: Caller, handle: Handle, at: int) -> Handle:
    opened = _descriptor(caller, handle)
    sink = _Into(opened.files, _writable(opened.file), _offset(at))
    return caller.give(OutputStream(sink, opened.held()))


def _append_via_stream(caller: Caller, handle: Handle) -> Handle:
    opened = _descriptor(caller, handle)
    sink = _Into(opened.files, _writable(opened.file), None)
    return caller.give(OutputStream(sink, opened.held()))


def _writable(file: File) -> File:
    if not file.is_writable:
        raise WasiError(Errno.BADF)
    return file


def _advise(caller: Caller, handle: Handle, *rest: Any) -> None:
    _descriptor(caller, handle)


def _sync(caller: Caller, handle: Handle) -> None:
    opened = _descriptor(caller, handle)
    found = opened.files.find(opened.number)
    if isinstance(found, File):
        opened.files.flush(found)


def _get_flags(caller: Caller, handle: Handle) -> Any:
    opened = _descriptor(caller, handle)
    found = opened.files.find(opened.number)
    if not isinstance(found, File):
        is_writable = isinstance(found, Folder) and opened.files.is_writable(found.side)
        return frozenset({"read", "mutate-directory"} if is_writable else {"read"})
    names = {"read": found.is_readable, "write": found.is_writable}
    return frozenset(name for name, is_so in names.items() if is_so)


def _get_type(caller: Caller, handle: Handle) -> str:
    opened = _descriptor(caller, handle)
    is_folder = isinstance(opened.files.find(opened.number), Folder)
    return "directory" if is_folder else "regular-file"


def _set_size(caller: Caller, handle: Handle, size: int) -> None:
    opened = _descriptor(caller, handle)
    opened.files.resize(opened.file, _offset(size))


def _read(caller: Caller, handle: Handle, size: int, at: int) -> Any:
    opened = _descriptor(caller, handle)
    wanted = min(size, _MOST_READ)
    content = opened.files.read(opened.file, _offset(at), wanted)
    return [content, len(content) < wanted]


def _write(caller: Caller, handle: Handle, content: Any, at: int) -> int:
    opened = _descriptor(caller, handle)
    opened.files.write(_writable(opened.file), _offset(at), bytes(content))
    return len(content)


def _read_directory(caller: Caller, handle: Handle) -> Handle:
    opened = _descriptor(caller, handle)
    folder = opened.files.folder(opened.number)
    folder.entries = None
    return caller.give(_Entries(opened.files.list(folder)))


def _read_directory_entry(caller: Caller, handle: Handle) -> Any:
    entries = caller.take(handle, _Entries)
    if entries.at >= len(entries.names):
        return "none", None
    entry = entries.names[entries.at]
    entries.at += 1
    kind = "directory" if entry.is_folder else "regular-file"
    return "some", {"type": kind, "name": entry.name}


def _stat(caller: Caller, handle: Handle) -> Any:
    opened = _descriptor(caller, handle)
    return _packed(_stat_of(opened.files, opened.number))


def _stat_of(files: Files, number: int) -> Stat:
    found = files.find(number)
    if isinstance(found, Folder):
        return files.stat(found.side, found.path)
    file = files.file(number)
    size = file.stat.size if file.content is None else len(file.content)
    return Stat(file.stat.name, "file", size, file.stat.modified)


def _packed(stat: Stat) -> Any:
    at_ns = max(int(stat.modified * 1e6), 0)
    moment = "some", {"seconds": at_ns // 10**9, "nanoseconds": at_ns % 10**9}
    return {
        "type": "directory" if stat.is_folder else "regular-file",
        "link-count": 1,
        "size": stat.size,
        "data-access-timestamp": moment,
        "data-modification-timestamp": moment,
        "status-change-timestamp": moment,
    }


def _is_same_object(caller: Caller, one: Handle, other: Handle) -> bool:
    places = []
    for handle in (one, other):
        opened = _descriptor(caller, handle)
        found = opened.files.find(opened.number)
        places.append((getattr(found, "side", ""), getattr(found, "path", "")))
    return places[0] == places[1]


def _hashed(stat: Stat, place: tuple[str, str]) -> Any:
    text = f"{place} {stat.type} {stat.size} {stat.modified}"
    digest = hashlib.sha256(text.encode()).digest()
    return {
        "lower": int.from_bytes(digest[:8], "little"),
        "upper": int.from_bytes(digest[8:16], "little"),
    }


def _metadata_hash(caller: Caller, handle: Handle) -> Any:
    opened = _descriptor(caller, handle)
    found = opened.files.find(opened.number)
    place = (getattr(found, "side", ""), getattr(found, "path", ""))
    return _hashed(_stat_of(opened.files, opened.number), place)


# ---- paths -----------------------------------------------------------------------------------


def _place(caller: Caller, handle: Handle, path: str) -> tuple[Files, str, str]:
    opened = _descriptor(caller, handle)
    return (opened.files, *opened.files.place(opened.number, path))


def _open_at(
    caller: Caller, handle: Handle, follow: Any, path: str, how: Any, flags: Any
) -> Handle:
    files, side, place = _place(caller, handle, path)
    number = files.open(
        side,
        place,
        Opening(
            creates="create" in how,
            is_exclusive="exclusive" in how,
            truncates="truncate" in how,
            wants_folder="directory" in how,
            is_readable="read" in flags,
            is_writable="write" in flags,
        ),
    )
    return caller.give(Descriptor(files, number))


def _stat_at(caller: Caller, handle: Handle, follow: Any, path: str) -> Any:
    files, side, place = _place(caller, handle, path)
    return _packed(files.stat(side, place))


def _metadata_hash_at(caller: Caller, handle: Handle, follow: Any, path: str) -> Any:
    files, side, place = _place(caller, handle, path)
    return _hashed(files.stat(side, place), (side, place))


def _create_directory_at(caller: Caller, handle: Handle, path: str) -> None:
    files, side, place = _place(caller, handle, path)
    files.make_folder(side, place)


def _unlink_file_at(caller: Caller, handle: Handle, path: str) -> None:
    files, side, place = _place(caller, handle, path)
    files.remove_file(side, place)


def _remove_directory_at(caller: Caller, handle: Handle, path: str) -> None:
    files, side, place = _place(caller, handle, path)
    files.remove_folder(side, place)


def _rename_at(caller: Caller, handle: Handle, path: str, to: Handle, new: str) -> None:
    files, side, place = _place(caller, handle, path)
    _, new_side, new_place = _place(caller, to, new)
    if side != new_side:
        raise WasiError(Errno.NOTSUP)
    files.ask(side, "move", place, new_place)


def _not_here(caller: Caller, *arguments: Any) -> Any:
    raise WasiError(Errno.NOTSUP)


def _filesystem_error_code(caller: Caller, handle: Handle) -> Any:
    return "some", _code(caller.take(handle, Failure).error)


_METHODS: Final[dict[str, Function]] = {
    "read-via-stream": _read_via_stream,
    "write-via-stream": _write_via_stream,
    "append-via-stream": _append_via_stream,
    "advise": _advise,
    "sync-data": _sync,
    "sync": _sync,
    "get-flags": _get_flags,
    "get-type": _get_type,
    "set-size": _set_size,
    "set-times": _not_here,
    "set-times-at": _not_here,
    "read": _read,
    "write": _write,
    "read-directory": _read_directory,
    "create-directory-at": _create_directory_at,
    "stat": _stat,
    "stat-at": _stat_at,
    "link-at": _not_here,
    "open-at": _open_at,
    "readlink-at": _not_here,
    "remove-directory-at": _remove_directory_at,
    "rename-at": _rename_at,
    "symlink-at": _not_here,
    "unlink-file-at": _unlink_file_at,
    "metadata-hash": _metadata_hash,
    "metadata-hash-at": _metadata_hash_at,
}
PREVIEW2_FILES: Final[dict[str, dict[str, Function]]] = {
    "wasi:filesystem/preopens": {"get-directories": _get_directories},
    "wasi:filesystem/types": {
        **{f"[method]descriptor.{name}": _answering(f) for name, f in _METHODS.items()},
        "[method]descriptor.is-same-object": _is_same_object,
        "[method]directory-entry-stream.read-directory-entry": _answering(_read_directory_entry),
        "filesystem-error-code": _filesystem_error_code,
    },
}
