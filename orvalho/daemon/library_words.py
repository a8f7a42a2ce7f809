"""What two nodes say to each other about libraries: which there are, what one is, and its bytes.

All are asks. A call of a library is none of them: it is a signed script (`scripts/reference.py`).
"""

from __future__ import annotations

from typing import Final

import msgspec

from orvalho.errors import Untrusted
from orvalho.scripts.library import KINDS, Library
from orvalho.scripts.script import MAX_MODULE_BYTES
from orvalho.scripts.wasm.metadata import Metadata

LIST: Final = "lib.list"
SHOW: Final = "lib.show"
PART: Final = "lib.part"
SERVICES: Final = "lib.services"
PART_BYTES: Final = (1 << 18) - 512


class _Words(msgspec.Struct, frozen=True, kw_only=True):
    pass


class ListLibraries(_Words, frozen=True, kw_only=True):
    """`caller`: which of the asker's contexts."""

    caller: str


class Row(_Words, frozen=True, kw_only=True):
    """One library, in a line. `published_at` is in Unix seconds."""

    name: str
    filename: str
    kind: str
    size_bytes: int
    sha256: str
    doc: str
    exports: tuple[str, ...]
    published_at: float


class Listed(_Words, frozen=True, kw_only=True):
    libraries: tuple[Row, ...]


class ShowLibrary(_Words, frozen=True, kw_only=True):
    caller: str
    name: str


class Shown(_Words, frozen=True, kw_only=True):
    """`header` is the TOML of what holds for it, `needs` the file beside it, if there is one;
    `metadata` is None for a text."""

    row: Row
    header: str
    needs: str | None
    metadata: Metadata | None


class AskPart(_Words, frozen=True, kw_only=True):
    """At most PART_BYTES from `offset` of the library of that digest."""

    caller: str
    name: str
    sha256: str
    offset: int


class Part(_Words, frozen=True, kw_only=True):
    content: bytes


class Running(_Words, frozen=True, kw_only=True):
    """One service. `problem`: why its instance ended, None while it runs; the next call makes a
    fresh one. `memory_bytes` is what its memory had after the last call."""

    library: str
    context: str
    sha256: str
    calls: int
    failures: int
    memory_bytes: int
    started_at: float
    instance_at: float
    problem: str | None = None


class RunningServices(_Words, frozen=True, kw_only=True):
    services: tuple[Running, ...]


def row_of(library: Library) -> Row:
    """A library in a line."""
    return Row(
        name=library.name,
        filename=library.filename,
        kind=library.kind,
        size_bytes=len(library.content),
        sha256=library.sha256,
        doc=library.doc,
        exports=library.exports,
        published_at=library.published_at,
    )


def shown_of(library: Library) -> Shown:
    """All that is told of a library but its bytes."""
    return Shown(
        row=row_of(library),
        header=library.header,
        needs=library.needs,
        metadata=library.metadata,
    )


def check_shown(shown: Shown, name: str) -> None:
    """Before a peer's words are used: its filename becomes one of ours.

    Raises:
        Untrusted: it speaks of something else than was asked for.
    """
    row = shown.row
    stem, dot, suffix = row.filename.rpartition(".")
    if row.name != name or stem != name or dot + suffix not in KINDS:
        raise Untrusted(f"the peer speaks of {row.filename[:100]!a}, not of {name}", where=name)
    if not 0 <= row.size_bytes <= MAX_MODULE_BYTES:
        raise Untrusted(f"{name} is said to have {row.size_bytes} bytes", where=name)
    if shown.metadata is not None and shown.metadata.sha256 != row.sha256:
        raise Untrusted(f"the peer speaks of two different {name}", where=name)
