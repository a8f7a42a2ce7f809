"""A file that is open for writing in front of another one: what is passed on as it is."""

from __future__ import annotations

import io
from typing import IO, Any


class RawFile(io.RawIOBase):
    """`inner` behind a `mode` of the fs library. Who derives from it says what writing means."""

    def __init__(self, inner: Any, mode: Any) -> None:
        super().__init__()
        self.mode = mode.to_platform_bin()
        self._inner = inner
        self._mode = mode

    def readable(self) -> bool:
        return bool(self._mode.reading)

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._mode.reading:
            raise io.UnsupportedOperation("not open for reading")
        count: int = self._inner.readinto(buffer)
        return count

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        place: int = self._inner.seek(offset, whence)
        return place

    def tell(self) -> int:
        place: int = self._inner.tell()
        return place


def buffered(raw: RawFile, buffering: int) -> IO[bytes]:
    """As `open` buffers: 0 for not at all, 1 and less for its usual size."""
    file: Any = raw
    if buffering != 0:
        kind = io.BufferedRandom if raw.readable() else io.BufferedWriter
        file = kind(raw, buffering if buffering > 1 else io.DEFAULT_BUFFER_SIZE)
    return file  # type: ignore[no-any-return]
