"""Bodies kept apart from their envelopes: one file each, named for the envelope.

A row in the outbox or mailbox is small and quickly committed; a megabyte in it would be written
several times over. What is still arriving lies under `partial/`. Everything here blocks: call it
in a thread.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection
from pathlib import Path
from typing import Final

from orvalho.contexts.identity import Key
from orvalho.errors import Unavailable, Untrusted
from orvalho.peers.envelope import BlobRef, EnvelopeId, refer

PART_BYTES: Final = 1 << 18
# A file is written before the row that names it, and an interrupted one may be resumed.
_GRACE_S: Final = 3600.0


def outgoing_name(id_: EnvelopeId) -> str:
    return f"out-{id_.hex()}"


def incoming_name(sender: Key, id_: EnvelopeId) -> str:
    # With the sender: what one peer sends wrongly must not spoil another's.
    return f"in-{sender.hex()}-{id_.hex()}"


class Blobs:
    """The files below one directory, which is made with mode 0700."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._partial = directory / "partial"
        self._partial.mkdir(parents=True, exist_ok=True, mode=0o700)

    def write(self, name: str, body: bytes) -> None:
        """Keep a whole body, durably.

        Raises:
            Unavailable: the disk is full.
        """
        # Of a name of its own: two threads may come to write the same body.
        draft = f"{name}.{os.urandom(4).hex()}"
        self._write(draft, body, 0)
        self._settle(draft, name)

    def write_checked(self, name: str, body: bytes, expected: BlobRef) -> None:
        """The same for a body that came from elsewhere.

        Raises:
            Untrusted: it is not the body that was announced.
        """
        if refer(body) != expected:
            raise Untrusted("a body is not the one that was signed")
        self.write(name, body)

    def has(self, name: str) -> bool:
        return (self._directory / name).exists()

    def read(self, name: str) -> bytes:
        """Raises:
        Unavailable: it is not here, or the disk fails.
        """
        try:
            return (self._directory / name).read_bytes()
        except OSError as error:
            raise self._failed(name, error) from error

    def part(self, name: str, offset: int) -> bytes:
        """At most `PART_BYTES` from `offset`; empty when it is not here or ends before."""
        try:
            with (self._directory / name).open("rb") as file:
                file.seek(offset)
                return file.read(PART_BYTES)
        except (OSError, OverflowError):
            return b""

    def arrived_bytes(self, name: str) -> int:
        """How much is here of a body that is still arriving."""
        try:
            return (self._partial / name).stat().st_size
        except FileNotFoundError:
            return 0

    def add(self, name: str, expected: BlobRef, offset: int, content: bytes) -> bool:
        """Write the next part of a body; True when that completed it.

        Raises:
            Untrusted: the whole is not what was announced; it must come again from the start.
            Unavailable: the disk is full.
        """
        draft = self._partial / name
        end = offset + len(content)
        if end > expected.size_bytes or not content:
            draft.unlink(missing_ok=True)
            raise Untrusted("a body has another size than was announced")
        self._write(name, content, offset)
        if end < expected.size_bytes:
            return False
        with draft.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").digest()
        if digest != expected.sha256:
            draft.unlink()
            raise Untrusted("a body is not the one that was signed")
        self._settle(name, name)
        return True

    def remove(self, *names: str) -> None:
        for name in names:
            (self._directory / name).unlink(missing_ok=True)

    def sweep(self, needed: Collection[str], now: float) -> int:
        """Delete what a crash left behind: files that no row names, and what has long stopped
        arriving. How many there were."""
        swept = 0
        for path in (*self._directory.iterdir(), *self._partial.iterdir()):
            is_needed = path.parent == self._directory and path.name in needed
            if path.is_file() and not is_needed and _age_s(path, now) > _GRACE_S:
                path.unlink(missing_ok=True)
                swept += 1
        return swept

    def _write(self, name: str, content: bytes, offset: int) -> None:
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
            with os.fdopen(os.open(self._partial / name, flags, 0o600), "wb") as file:
                file.seek(offset)
                file.write(content)
        except OSError as error:
            raise self._failed(name, error) from error

    def _settle(self, draft: str, name: str) -> None:
        """A whole file into its place: its content durable first, then the name."""
        try:
            _sync(self._partial / draft)
            (self._partial / draft).rename(self._directory / name)
            _sync(self._directory)
        except OSError as error:
            raise self._failed(name, error) from error

    def _failed(self, name: str, error: OSError) -> Unavailable:
        return Unavailable(
            f"a body cannot be read or written: {error.strerror}",
            where=str(self._directory / name),
            hint="free some disk space, then try again",
        )


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _age_s(path: Path, now: float) -> float:
    try:
        return now - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
