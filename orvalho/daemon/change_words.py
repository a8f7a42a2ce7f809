"""Changes of a context as they are told to its owner: with the text, where files are text."""

from __future__ import annotations

from typing import Final

from orvalho.contexts.changes import Changeset, Node
from orvalho.contexts.contents import Contents
from orvalho.contexts.timeline import Logged
from orvalho.control import past
from orvalho.errors import OrvalhoError

# A larger file is told by its size and digest alone; so is what comes after so much text.
_TEXT_BYTES: Final = 256 << 10
_ALL_TEXT_BYTES: Final = 16 << 20


class ChangeWords:
    """Tells changes; `contents` has what the files held."""

    def __init__(self, contents: Contents) -> None:
        self._contents = contents

    async def told(
        self, changes: Changeset
    ) -> tuple[tuple[past.FileChanged, ...], tuple[past.ValueChanged, ...]]:
        """Files by path, values by key."""
        left = [_ALL_TEXT_BYTES]
        files = tuple(
            [
                past.FileChanged(
                    path=each.path,
                    mark=each.mark,
                    before=await self._node(each.before, left),
                    after=await self._node(each.after, left),
                )
                for each in changes.files
            ]
        )
        values = tuple(
            past.ValueChanged(key=each.key, mark=each.mark, before=each.before, after=each.after)
            for each in changes.values
        )
        return files, values

    async def _node(self, node: Node | None, left: list[int]) -> past.NodeState | None:
        if node is None:
            return None
        text = None
        if node.kind == "file" and node.size_bytes <= min(_TEXT_BYTES, left[0]):
            left[0] -= node.size_bytes
            text = await self._text(node)
        return past.NodeState(
            kind=node.kind, sha256=node.sha256, size_bytes=node.size_bytes, text=text
        )

    async def _text(self, node: Node) -> str | None:
        """None for what is no text, or is not kept."""
        try:
            content = await self._contents.read(node.sha256)
            text = content.decode()
        except (OrvalhoError, UnicodeDecodeError):
            return None
        return None if "\0" in text else text


def commit_state(logged: Logged) -> past.CommitState:
    """A commit as it is told."""
    commit = logged.commit
    return past.CommitState(
        id=commit.id,
        context=commit.context,
        at=commit.at,
        author=commit.author,
        cause=commit.cause,
        run=commit.run,
        note=commit.note,
        added=logged.added,
        changed=logged.changed,
        gone=logged.gone,
    )
