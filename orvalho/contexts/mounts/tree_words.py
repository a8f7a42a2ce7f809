"""What is said about a tree on another device: each question is one ask, each answer one reply.

Paths are those of the other context, from its root. Nothing of this is trusted because it came:
the one side decides each question under its policy, the other checks each answer (`remote.py`).
"""

from __future__ import annotations

from typing import Final

import msgspec

ASK: Final = "tree.ask"
# With what stands around it, it just fits four Noise messages, which most links carry as one.
PART_BYTES: Final = (1 << 18) - 512
# A file that is written over a mount is gathered in memory on the other side.
MOST_WRITTEN_BYTES: Final = 16 << 20
MOST_LISTED: Final = 5_000
ID_BYTES: Final = 16


class _Words(msgspec.Struct, frozen=True, kw_only=True):
    pass


class Look(_Words, frozen=True, kw_only=True, tag="look"):
    """What is at `path`? -> Seen"""

    path: str


class ListBelow(_Words, frozen=True, kw_only=True, tag="list"):
    """The first entries of a directory after the name `after`. -> Listed"""

    path: str
    after: str = ""


class ReadPart(_Words, frozen=True, kw_only=True, tag="read"):
    """At most `count` bytes from `offset` of a file. -> Content"""

    path: str
    offset: int
    count: int


class WritePart(_Words, frozen=True, kw_only=True, tag="write"):
    """A part of a file that has `size_bytes`; with the last one it replaces the file. Parts of one
    `id` come in order. -> Done"""

    path: str
    id: bytes
    offset: int
    size_bytes: int
    content: bytes


class Make(_Words, frozen=True, kw_only=True, tag="make"):
    """A directory. -> Done"""

    path: str


class Remove(_Words, frozen=True, kw_only=True, tag="remove"):
    """A file or an empty directory. -> Done"""

    path: str


Question = Look | ListBelow | ReadPart | WritePart | Make | Remove


class Asked(_Words, frozen=True, kw_only=True):
    """`caller`: which of the asker's contexts; `context`: whose tree."""

    caller: str
    context: str
    question: Question


class Entry(_Words, frozen=True, kw_only=True):
    """`modified_at` in Unix seconds, 0.0 if unknown; `size_bytes` is 0 for a directory."""

    name: str
    is_directory: bool
    size_bytes: int
    modified_at: float


class Seen(_Words, frozen=True, kw_only=True):
    """`entry`: None where nothing is."""

    entry: Entry | None


class Listed(_Words, frozen=True, kw_only=True):
    """By name; `is_all`: nothing comes after these."""

    entries: tuple[Entry, ...]
    is_all: bool


class Content(_Words, frozen=True, kw_only=True):
    """A part, and what the file was when it was read."""

    content: bytes
    size_bytes: int
    modified_at: float


class Done(_Words, frozen=True, kw_only=True):
    pass
