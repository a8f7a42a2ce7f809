"""A place in WebAssembly's binary form (WebAssembly core 1, section 5): bytes, numbers, names and
counts, each checked against what is there before it is taken."""

from __future__ import annotations

from typing import Final

from orvalho.errors import InvalidInput

# More of one thing than any compiler takes (the limits of the JavaScript interface, section 8).
MOST: Final = 1_000_000
_MOST_NAME_BYTES: Final = 100_000


class Cursor:
    """Reads `raw` from `at` up to `end`. Every reader raises InvalidInput, with the byte's place,
    for what is cut off, overlong or too much."""

    def __init__(self, raw: bytes, at: int, end: int) -> None:
        self.raw = raw
        self.at = at
        self.end = end

    @property
    def is_done(self) -> bool:
        return self.at >= self.end

    def section(self) -> tuple[int, Cursor]:
        """The next section's number and content; this cursor then stands behind it."""
        number, size = self.byte(), self.number()
        if size > self.end - self.at:
            raise self.wrong(f"section {number} says that it has {size} bytes")
        content = Cursor(self.raw, self.at, self.at + size)
        self.at += size
        return number, content

    def byte(self) -> int:
        if self.at >= self.end:
            raise self.wrong("it ends in the middle")
        self.at += 1
        return self.raw[self.at - 1]

    def number(self, bits: int = 32) -> int:
        """An unsigned LEB128 number."""
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
            if shift >= bits:
                raise self.wrong("a number is too long")
        if value >> bits:
            raise self.wrong("a number is too large")
        return value

    def signed(self, bits: int = 33) -> int:
        """A signed LEB128 number."""
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
            if shift >= bits:
                raise self.wrong("a number is too long")
        return value - (1 << shift) if byte & 0x40 else value

    def count(self) -> int:
        """How many things follow; each takes a byte at least."""
        count = self.number()
        if count > min(MOST, self.end - self.at):
            raise self.wrong(f"{count} things are said to be in what is left of the section")
        return count

    def name(self) -> str:
        try:
            return self.bytes_of(_MOST_NAME_BYTES).decode()
        except UnicodeDecodeError as error:
            raise self.wrong("a name is not UTF-8") from error

    def bytes_of(self, most: int) -> bytes:
        """Bytes with their number in front."""
        size = self.number()
        if size > min(most, self.end - self.at):
            raise self.wrong(f"a name says that it has {size} bytes")
        self.at += size
        return self.raw[self.at - size : self.at]

    def rest(self) -> bytes:
        return self.raw[self.at : self.end]

    def wrong(self, what: str) -> InvalidInput:
        return InvalidInput(f"the module is malformed at byte {self.at}: {what}")
