"""Compiled modules, kept on disk between runs and daemons.

Only what a compiler of our own made is in here. A module is named by its digest together with all
that its code depends on: the engine's version and settings, and the processor.
"""

from __future__ import annotations

import hashlib
import os
import platform
import tempfile
import threading
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from orvalho.runtime.engine import Problem

_DIGEST_BYTES: Final = 32
_MOST_BYTES: Final = 256 << 20
_RECENT_BYTES: Final = 4 << 20
# Goes up whenever the engine is set up, or code is written down, otherwise.
_SETTINGS: Final = 2


@dataclass(frozen=True, slots=True)
class Code:
    """`code` is the engine's own form of a module, or empty when `problems` say why not. `cpu_ms`:
    what making it has taken of processors, for whoever had it made; 0 of code that was there."""

    key: str
    code: bytes
    problems: tuple[Problem, ...] = ()
    cpu_ms: int = 0


def code_key(module: bytes, language: str = "wasm", digest: str = "") -> str:
    """64 hex digits. `language` is that of the engine (see `engines.catalog`), `digest` the
    module's SHA-256 in hex, where it is known."""
    known = bytes.fromhex(digest) if digest else hashlib.sha256(module).digest()
    made_by = _machine() if language == "wasm" else _machine() + language.encode()
    return hashlib.sha256(made_by + known).hexdigest()


@cache
def _machine() -> bytes:
    try:
        engine = version("wasmtime")
    except PackageNotFoundError:
        engine = "none"
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        features = next((line for line in lines if line.startswith(("flags", "Features"))), "")
        return f"{engine} {_SETTINGS} {platform.machine()} {features}\n".encode()
    return f"{engine} {_SETTINGS} {platform.machine()}\n".encode()


class CodeCache:
    """Files of a directory, each with the digest of its content in front. Its calls block."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._recent: OrderedDict[str, Code] = OrderedDict()
        self._lock = threading.Lock()

    def recent(self, key: str) -> Code | None:
        """What was found or kept of late, without a look at the disk."""
        with self._lock:
            found = self._recent.get(key)
            if found is not None:
                self._recent.move_to_end(key)
        return found

    def find(self, key: str) -> Code | None:
        """None when it is not here, or is damaged."""
        file = self._directory / key
        try:
            raw = file.read_bytes()
            # What is used lately is dropped last.
            os.utime(file)
        except OSError:
            return None
        code = raw[_DIGEST_BYTES:]
        if hashlib.sha256(code).digest() != raw[:_DIGEST_BYTES]:
            return None
        found = Code(key, code)
        self._remember(found)
        return found

    def keep(self, code: Code) -> None:
        """Raises:
        OSError: the disk does not take it.
        """
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._prune(len(code.code))
        with tempfile.NamedTemporaryFile(dir=self._directory, delete=False) as file:
            file.write(hashlib.sha256(code.code).digest())
            file.write(code.code)
        Path(file.name).replace(self._directory / code.key)
        self._remember(code)

    def _remember(self, code: Code) -> None:
        with self._lock:
            self._recent[code.key] = code
            while sum(len(each.code) for each in self._recent.values()) > _RECENT_BYTES:
                self._recent.popitem(last=False)

    def _prune(self, room_bytes: int) -> None:
        """Make room: what was not used for the longest time goes first."""
        found = [(entry.stat(), entry) for entry in self._directory.iterdir()]
        total = sum(status.st_size for status, _ in found) + room_bytes
        for status, entry in sorted(found, key=lambda each: each[0].st_mtime):
            if total <= _MOST_BYTES:
                return
            entry.unlink(missing_ok=True)
            total -= status.st_size
