"""Our side of a tree that another device has mounted: a question in, its answer out."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

import msgspec

from orvalho.contexts.files import ContextFiles, Entry
from orvalho.contexts.mounts import tree_words as words
from orvalho.errors import Conflict, InvalidInput, LimitExceeded, NotFound

# Files of one asker that are arriving at once; one that gave up says nothing, so the oldest goes.
_MOST_DRAFTS: Final = 4


@dataclass(slots=True)
class _Draft:
    path: str
    size_bytes: int
    content: bytearray = field(default_factory=bytearray)


class TreeAnswers:
    """Answers one asker. What it may do the `check` behind `files` says, at each question."""

    def __init__(self) -> None:
        self._drafts: OrderedDict[bytes, _Draft] = OrderedDict()

    async def answer(self, files: ContextFiles, question: words.Question) -> bytes:
        """Raises:
        InvalidInput: the question is malformed.
        OrvalhoError: what `ContextFiles` raises.
        """
        return msgspec.msgpack.encode(await self._answer(files, question))

    async def _answer(self, files: ContextFiles, question: words.Question) -> msgspec.Struct:
        if isinstance(question, words.Look):
            try:
                return words.Seen(entry=_entry(await files.stat(question.path)))
            except NotFound:
                return words.Seen(entry=None)
        if isinstance(question, words.ListBelow):
            return _page(await files.list(question.path), question.after)
        if isinstance(question, words.ReadPart):
            count = min(question.count, words.PART_BYTES)
            if question.offset < 0 or count < 0:
                raise InvalidInput("a part begins at 0 or later", where=question.path)
            entry, content = await files.read_part(question.path, question.offset, count)
            return words.Content(
                content=content, size_bytes=entry.size_bytes, modified_at=entry.modified_at
            )
        if isinstance(question, words.WritePart):
            await self._write(files, question)
        elif isinstance(question, words.Make):
            await files.mkdir(question.path)
        else:
            await files.remove(question.path)
        return words.Done()

    async def _write(self, files: ContextFiles, part: words.WritePart) -> None:
        if len(part.id) != words.ID_BYTES or not 0 <= part.offset <= part.size_bytes:
            raise InvalidInput("the part of a file is malformed", where=part.path)
        if part.size_bytes > words.MOST_WRITTEN_BYTES:
            raise LimitExceeded(
                f"write_bytes: a file has at most {words.MOST_WRITTEN_BYTES} bytes here",
                where=part.path,
            )
        files.check_write(part.path)
        if part.offset == 0:
            self._drafts[part.id] = _Draft(part.path, part.size_bytes)
            while len(self._drafts) > _MOST_DRAFTS:
                self._drafts.popitem(last=False)
        draft = self._drafts.get(part.id)
        if (
            draft is None
            or (draft.path, draft.size_bytes) != (part.path, part.size_bytes)
            or part.offset != len(draft.content)
            or part.offset + len(part.content) > part.size_bytes
        ):
            self._drafts.pop(part.id, None)
            raise Conflict("the parts of a file came out of order: write it again", where=part.path)
        draft.content += part.content
        if len(draft.content) == part.size_bytes:
            del self._drafts[part.id]
            await files.write(part.path, bytes(draft.content))
        elif not part.content:
            del self._drafts[part.id]
            raise InvalidInput("a part of a file is empty", where=part.path)


def _entry(entry: Entry) -> words.Entry:
    return words.Entry(
        name=entry.name,
        is_directory=entry.kind == "directory",
        size_bytes=entry.size_bytes,
        modified_at=entry.modified_at,
    )


def _page(entries: list[Entry], after: str) -> words.Listed:
    rest = [each for each in entries if each.name > after]
    page = rest[: words.MOST_LISTED]
    return words.Listed(entries=tuple(map(_entry, page)), is_all=len(page) == len(rest))
