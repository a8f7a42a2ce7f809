"""A file that is still arriving: a draft on disk, written in order, hashed as it grows."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

import anyio
from anyio import to_thread

from orvalho.daemon.file_words import WINDOW
from orvalho.errors import Conflict, LimitExceeded, Unavailable

_CHUNK_BYTES: Final = 1 << 20

T = TypeVar("T")


class Draft:
    """The draft at `path`. `open` it first. Parts may come out of order, by a window's length;
    every byte before `at` is written and hashed."""

    def __init__(self, path: Path, size_bytes: int) -> None:
        self.path = path
        self.size_bytes = size_bytes
        self.at = 0
        self._early: dict[int, bytes] = {}
        self._hash = hashlib.sha256()
        self._turn = anyio.Lock()

    async def open(self) -> None:
        """Go on from what an earlier try left, which is read once more for its hash.

        Raises:
            Unavailable: the disk fails.
        """
        self.at = await self._on_disk(self._reopen)

    async def take(self, offset: int, content: bytes) -> int:
        """Write a part once all before it is; the new `at`.

        Raises:
            Conflict: it does not follow on what is here.
            LimitExceeded: too much came out of order, or it is longer than was announced.
            Unavailable: the disk fails.
        """
        if offset + len(content) > self.size_bytes:
            raise LimitExceeded(f"file-bytes: more than the {self.size_bytes} bytes announced")
        if offset < self.at or not content:
            raise Conflict(f"the part at {offset} is none that is missing here")
        if len(self._early) >= 2 * WINDOW:
            raise LimitExceeded(f"file-parts: more than {2 * WINDOW} parts came out of order")
        self._early[offset] = content
        async with self._turn:
            while (part := self._early.pop(self.at, None)) is not None:
                await self._on_disk(self._append, part)
                self.at += len(part)
        return self.at

    async def digest(self) -> bytes:
        """The SHA-256 of what is here, which is durable then."""
        async with self._turn:
            await self._on_disk(self._sync)
            return self._hash.digest()

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)

    # ---- in a thread ------------------------------------------------------------------------

    def _reopen(self) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        with os.fdopen(os.open(self.path, flags, 0o600), "r+b") as file:
            if file.seek(0, os.SEEK_END) > self.size_bytes:
                file.truncate(0)
            file.seek(0)
            while chunk := file.read(_CHUNK_BYTES):
                self._hash.update(chunk)
            return file.tell()

    def _append(self, part: bytes) -> None:
        with self.path.open("r+b", buffering=0) as file:
            file.seek(self.at)
            rest = memoryview(part)
            while rest:
                rest = rest[file.write(rest) :]
        self._hash.update(part)

    def _sync(self) -> None:
        descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    async def _on_disk(self, work: Callable[..., T], *arguments: object) -> T:
        try:
            return await to_thread.run_sync(work, *arguments)
        except OSError as error:
            raise Unavailable(
                f"the file cannot be written here: {error.strerror}",
                hint="free some disk space there, then try again",
            ) from error
