"""The WebAssembly binaries of a directory, described without a daemon: in a process of its own,
since what is read of them is a stranger's."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from orvalho.control.libraries import WasmFile, WasmFiles
from orvalho.daemon.operations.libraries import as_told
from orvalho.errors import InvalidInput
from orvalho.scripts.wasm.binary import is_wasm
from orvalho.scripts.wasm.metadata import read_metadata

_SUFFIXES: Final = (".wasm", ".wasi")
_MOST_FILES: Final = 10_000
_MOST_BYTES: Final = 256 << 20
_MOST_NEEDS_BYTES: Final = 64 << 10


def describe(path: str) -> WasmFiles:
    """Of a directory each file that is named as a binary, or begins as one; of a file itself."""
    if not Path(path).is_dir():
        return WasmFiles(files=(_described(Path(path)),))
    return WasmFiles(files=tuple(map(_described, _binaries(Path(path)))))


def _binaries(directory: Path) -> Iterator[Path]:
    try:
        files = sorted(directory.iterdir())[:_MOST_FILES]
    except OSError:
        return
    for file in files:
        if file.suffix in _SUFFIXES or is_wasm(_start(file)):
            yield file


def _start(file: Path) -> bytes:
    try:
        return _read(file, 8)
    except (OSError, InvalidInput):
        return b""


def _described(file: Path) -> WasmFile:
    try:
        metadata = as_told(read_metadata(_read(file, _MOST_BYTES)))
        return WasmFile(file=str(file), metadata=metadata, needs=_beside(file))
    except InvalidInput as error:
        return WasmFile(file=str(file), metadata=None, problem=error.message)
    except OSError as error:
        return WasmFile(file=str(file), metadata=None, problem=error.strerror or "unreadable")


def _beside(file: Path) -> str | None:
    """What a file beside it says that it needs."""
    try:
        return _read(Path(f"{file}.toml"), _MOST_NEEDS_BYTES).decode()
    except (OSError, InvalidInput, UnicodeDecodeError):
        return None


def _read(file: Path, most: int) -> bytes:
    # O_NONBLOCK: a FIFO must not hang us.
    handle = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(handle, "rb") as stream:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise InvalidInput("this is no plain file")
        if found.st_size > _MOST_BYTES:
            raise InvalidInput(f"it has more than {_MOST_BYTES >> 20} MiB")
        return stream.read(most)
