"""A place in WebAssembly's binary form (WebAssembly core 1, section 5): sections, bytes, numbers,
names and counts, each checked against what is there before it is taken. Modules and components are
made of the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from orvalho.errors import InvalidInput

MODULE_MAGIC: Final = b"\0asm\x01\0\0\0"
COMPONENT_MAGIC: Final = b"\0asm\x0d\0\x01\0"
PREAMBLE_BYTES: Final = 8
# More of one thing than any compiler takes (the limits of the JavaScript interface, section 8).
_MOST: Final = 1_000_000
_MOST_NAME_BYTES: Final = 100_000


def is_wasm(raw: bytes) -> bool:
    """Whether it begins as WebAssembly does, of whatever version."""
    return raw.startswith(b"\0asm")


def is_component(raw: bytes) -> bool:
    """By its first bytes."""
    return raw.startswith(COMPONENT_MAGIC)


class Reader:
    """Reads `raw` from `at` up to `end`. Every method raises InvalidInput, with the byte's place,
    for what is cut off, overlong or too much."""

    def __init__(self, raw: bytes, at: int, end: int) -> None:
        self.raw = raw
        self.at = at
        self.end = end

    @property
    def is_done(self) -> bool:
        return self.at >= self.end

    def section(self) -> tuple[int, Reader]:
        """The next section's number and content; this reader then stands behind it."""
        number, size = self.byte(), self.number()
        if size > self.end - self.at:
            raise self.wrong(f"section {number} says that it has {size} bytes")
        content = Reader(self.raw, self.at, self.at + size)
        self.at += size
        return number, content

    def byte(self) -> int:
        if self.at >= self.end:
            raise self.wrong("it ends in the middle")
        self.at += 1
        return self.raw[self.at - 1]

    def number(self, bits: int = 32) -> int:
        """An unsigned LEB128 number."""
        value, _, _ = self._leb128(bits)
        if value >> bits:
            raise self.wrong("a number is too large")
        return value

    def signed(self, bits: int = 33) -> int:
        """A signed LEB128 number."""
        value, shift, last = self._leb128(bits)
        return value - (1 << shift) if last & 0x40 else value

    def _leb128(self, bits: int) -> tuple[int, int, int]:
        """The number without a sign, how many bits were read, and the last byte."""
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value, shift, byte
            if shift >= bits:
                raise self.wrong("a number is too long")

    def count(self) -> int:
        """How many things follow; each takes a byte at least."""
        count = self.number()
        if count > min(_MOST, self.end - self.at):
            raise self.wrong(f"{count} things are said to be in what is left of the section")
        return count

    def name(self) -> str:
        """A text with its length in front."""
        size = self.number()
        if size > min(_MOST_NAME_BYTES, self.end - self.at):
            raise self.wrong(f"a name says that it has {size} bytes")
        self.at += size
        try:
            return self.raw[self.at - size : self.at].decode()
        except UnicodeDecodeError as error:
            raise self.wrong("a name is not UTF-8") from error

    def rest(self) -> bytes:
        """What has not been read."""
        return self.raw[self.at : self.end]

    def wrong(self, what: str) -> InvalidInput:
        """What to raise."""
        kind = "component" if is_component(self.raw) else "module"
        return InvalidInput(f"the {kind} is malformed at byte {self.at}: {what}")


@dataclass(frozen=True, slots=True)
class Custom:
    """A custom section; its content has not been looked at."""

    name: str
    _content: Reader

    @property
    def content(self) -> bytes:
        return self._content.rest()

    @property
    def size_bytes(self) -> int:
        return self._content.end - self._content.at

    def reader(self) -> Reader:
        """From the beginning of its content."""
        return Reader(self._content.raw, self._content.at, self._content.end)


def read_custom(section: Reader) -> Custom:
    """Of the content of a section of number 0."""
    return Custom(section.name(), section)
