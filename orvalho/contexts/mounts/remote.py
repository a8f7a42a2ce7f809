"""A context's tree on another device, as a tree here.

Each call becomes a question that the other device answers under its own policy. What it answers is
a peer's word: a name that is no name, a size that cannot be and bytes that were not asked for end
the call as Untrusted, and nothing of them reaches whoever called.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import IO, Final, TypeVar

import msgspec

from orvalho.contexts.filesystem import VirtualPath, virtual_path
from orvalho.contexts.fs_shim import fs_errors
from orvalho.contexts.mounts import tree_words as words
from orvalho.contexts.mounts.stored import Status, StoredTree, changed_meanwhile
from orvalho.errors import Conflict, Denied, InvalidInput, LimitExceeded, NotFound, Untrusted

T = TypeVar("T")

_MOST_ENTRIES: Final = 100_000
_MOST_BYTES: Final = 1 << 53


class RemoteTree(StoredTree):
    """The tree below `top` of a context elsewhere. `ask` takes a question to it and waits for the
    answer's bytes; it is called in a thread, and raises OrvalhoError: Unavailable when the device
    is off, Denied when its policy says no."""

    is_network = True

    def __init__(self, ask: Callable[[words.Question], bytes], top: VirtualPath, peer: str) -> None:
        """`peer`: the other context's address, for messages."""
        super().__init__()
        self._ask = ask
        self._top = top.rstrip("/")
        self._peer = peer

    def measure(self, most_files: int) -> tuple[int, int]:
        """Its own node counts it, against a quota of its own."""
        return 0, 0

    def _status(self, place: str) -> Status | None:
        try:
            entry = self._answer(words.Look(path=self._there(place)), words.Seen).entry
        except NotFound:
            return None
        return None if entry is None else self._checked(entry)

    def _children(self, place: str) -> Iterable[tuple[str, Status]]:
        found: dict[str, Status] = {}
        after = ""
        while True:
            question = words.ListBelow(path=self._there(place), after=after)
            listed = self._answer(question, words.Listed, place)
            for entry in listed.entries:
                if entry.name <= after or not _is_name(entry.name):
                    raise self._untrusted(
                        f"lists {entry.name[:100]!a}, which is no name or stands in the wrong place"
                    )
                found[entry.name] = self._checked(entry)
                after = entry.name
            if listed.is_all:
                return found.items()
            if not listed.entries or len(found) > _MOST_ENTRIES:
                raise self._untrusted("lists without an end")

    def _read(self, place: str, offset: int, count: int, version: str) -> bytes:
        parts: list[bytes] = []
        while count > 0:
            wanted = min(count, words.PART_BYTES)
            question = words.ReadPart(path=self._there(place), offset=offset, count=wanted)
            part = self._answer(question, words.Content, place)
            now = _version(part.size_bytes, part.modified_at)
            if version and now != version:
                raise changed_meanwhile(place)
            version = now
            if len(part.content) != max(0, min(wanted, part.size_bytes - offset)):
                raise self._untrusted(
                    f"gives {len(part.content)} bytes where {wanted} were asked for"
                )
            parts.append(part.content)
            offset, count = offset + len(part.content), count - len(part.content)
            if len(part.content) < wanted:
                break
        return b"".join(parts)

    def _store(self, place: str, source: IO[bytes], size_bytes: int) -> None:
        if size_bytes > words.MOST_WRITTEN_BYTES:
            raise LimitExceeded(
                f"write_bytes: a file that is written over a mount has at most"
                f" {words.MOST_WRITTEN_BYTES} bytes, this one has {size_bytes}",
                where=place,
                hint="orvalho file send --help",
            )
        id_ = os.urandom(words.ID_BYTES)
        at = 0
        while True:
            content = source.read(words.PART_BYTES)
            question = words.WritePart(
                path=self._there(place), id=id_, offset=at, size_bytes=size_bytes, content=content
            )
            self._answer(question, words.Done, place)
            at += len(content)
            if at >= size_bytes or not content:
                break

    def _make(self, place: str) -> None:
        self._answer(words.Make(path=self._there(place)), words.Done, place)

    def _remove(self, place: str) -> None:
        self._answer(words.Remove(path=self._there(place)), words.Done, place)

    def _remove_directory(self, place: str) -> None:
        try:
            self._answer(words.Remove(path=self._there(place)), words.Done, place)
        except Conflict as error:
            raise fs_errors.DirectoryNotEmpty(place) from error

    def _there(self, place: str) -> str:
        return f"{self._top}/{place}".rstrip("/") or "/"

    def _answer(self, question: words.Question, kind: type[T], place: str = "") -> T:
        try:
            raw = self._ask(question)
        except NotFound as error:
            if place:
                raise fs_errors.ResourceNotFound(place) from error
            raise
        try:
            return msgspec.msgpack.decode(raw, type=kind)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise self._untrusted("answers what is not understood") from error

    def _checked(self, entry: words.Entry) -> Status:
        if not 0 <= entry.size_bytes <= _MOST_BYTES or not 0 <= entry.modified_at < _MOST_BYTES:
            raise self._untrusted("tells a size or a time that cannot be")
        if entry.is_directory:
            return Status(is_directory=True, modified_at=entry.modified_at or None)
        version = _version(entry.size_bytes, entry.modified_at)
        return Status(False, entry.size_bytes, entry.modified_at or None, version)

    def _untrusted(self, what: str) -> Untrusted:
        return Untrusted(f"{self._peer} {what}", where=self._peer)


def _version(size_bytes: int, modified_at: float) -> str:
    return f"{size_bytes}-{modified_at!r}"


def _is_name(name: str) -> bool:
    try:
        return bool(name) and virtual_path(name) == f"/{name}" and "/" not in name
    except (Denied, InvalidInput):
        return False
