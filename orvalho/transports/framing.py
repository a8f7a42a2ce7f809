"""Frames on a stream of bytes: each behind its length, four bytes, big-endian."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from orvalho.errors import Unavailable

_LENGTH: Final = struct.Struct(">I")
LENGTH_BYTES: Final = _LENGTH.size


def framed(frame: bytes) -> bytes:
    """The frame as it goes into the stream."""
    return _LENGTH.pack(len(frame)) + frame


def take_frames(buffer: bytearray, max_frame_bytes: int) -> Iterator[bytes]:
    """Take out of `buffer`, one by one, the frames that are whole in it.

    Raises:
        Unavailable: what comes next claims to be longer than a frame can be.
    """
    while len(buffer) >= LENGTH_BYTES:
        (length,) = _LENGTH.unpack_from(buffer)
        if length > max_frame_bytes:
            raise Unavailable(f"a frame has at most {max_frame_bytes} bytes, not {length}")
        end = LENGTH_BYTES + length
        if end > len(buffer):
            return
        frame = bytes(buffer[LENGTH_BYTES:end])
        del buffer[:end]
        yield frame
