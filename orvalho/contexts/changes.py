"""What a run would change in a context, as a value: shown, committed, undone, or dropped whole."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from orvalho.errors import Conflict


class ContextChanged(Conflict):
    """What a run has read or would change is no longer as it found it."""


class Node(msgspec.Struct, frozen=True, array_like=True):
    """What is at a path. `sha256` is in hex, and empty for a directory, as `size_bytes` is 0."""

    kind: Literal["file", "directory"]
    sha256: str = ""
    size_bytes: int = 0


DIRECTORY = Node("directory")


class FileChange(msgspec.Struct, frozen=True, kw_only=True):
    """One path of a context; None stands for nothing there."""

    path: str
    before: Node | None
    after: Node | None

    @property
    def mark(self) -> Literal["+", "~", "-"]:
        """As a plan shows it: added, changed, gone."""
        if self.before is None:
            return "+"
        return "-" if self.after is None else "~"


class ValueChange(msgspec.Struct, frozen=True, kw_only=True):
    """One key of a context's store; `before` and `after` are JSON texts, None for no value."""

    key: str
    before: str | None
    after: str | None

    @property
    def mark(self) -> Literal["+", "~", "-"]:
        if self.before is None:
            return "+"
        return "-" if self.after is None else "~"


class Changeset(msgspec.Struct, frozen=True, kw_only=True):
    """Files by path, then values by key; each path and key once, and none unchanged. Applied in
    this order, with removals from the last to the first, it never meets a missing directory."""

    files: tuple[FileChange, ...] = ()
    values: tuple[ValueChange, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.files or self.values)

    def inverted(self) -> Changeset:
        """What takes it back."""
        return Changeset(
            files=tuple(
                FileChange(path=each.path, before=each.after, after=each.before)
                for each in self.files
            ),
            values=tuple(
                ValueChange(key=each.key, before=each.after, after=each.before)
                for each in self.values
            ),
        )


def changeset(files: Iterable[FileChange], values: Iterable[ValueChange]) -> Changeset:
    """In order, without what stays as it is."""
    return Changeset(
        files=tuple(
            sorted((each for each in files if each.before != each.after), key=lambda f: f.path)
        ),
        values=tuple(
            sorted((each for each in values if each.before != each.after), key=lambda v: v.key)
        ),
    )


@dataclass(frozen=True, slots=True)
class Content:
    """The bytes of a file that is not in its tree yet: in memory, or in a draft on disk."""

    sha256: str
    size_bytes: int
    source: bytes | Path

    @property
    def node(self) -> Node:
        return Node("file", self.sha256, self.size_bytes)

    def read(self) -> bytes:
        return self.source if isinstance(self.source, bytes) else self.source.read_bytes()


class Stamp(msgspec.Struct, frozen=True, array_like=True):
    """How a path looked without reading it. Equal stamps: nobody has changed it since."""

    kind: Literal["file", "directory"]
    size_bytes: int = 0
    modified_ns: int = 0
    inode: int = 0
