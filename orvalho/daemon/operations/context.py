"""What we do when the owner makes a context, or looks at what one holds."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable

from orvalho.contexts.filesystem import FileAction, VirtualPath
from orvalho.contexts.identity import key_text
from orvalho.control import messages as control
from orvalho.daemon.house import House
from orvalho.daemon.initialise import make_context_files

Replies = AsyncIterator[control.Reply]


class ContextOperations:
    """`orvalho ctx ...`. `announce` tells the peers which contexts live here."""

    def __init__(self, house: House, announce: Callable[[], Awaitable[None]]) -> None:
        self._house = house
        self._announce = announce

    async def new(self, request: control.ContextNew) -> Replies:
        house = self._house
        context, is_new = await house.contexts.create(request.name, now=time.time())
        if not is_new:
            yield control.Note(text=f"context {context.name} exists already", changed=False)
            return
        make_context_files(house.home, context.name)
        house.policy.reload()
        # Its history begins with the directories it has from the start, not at somebody's look.
        await house.past.hand_edits.note(context)
        await self._announce()
        address = f"{context.name}@{house.name}"
        place = house.home.contexts / context.name
        yield control.Note(
            text=f"context {address}\n  files   {place}\n"
            f"  policy  {house.home.policy / f'{context.name}.csv'}"
        )

    async def list(self, _request: control.ContextList) -> Replies:
        workers = {
            name: worker.id
            for worker in self._house.jobs.workers.list()
            for name in worker.contexts
        }
        states = []
        for context in self._house.contexts.list():
            use = await context.usage()
            states.append(
                control.ContextState(
                    name=context.name,
                    key=key_text(context.key),
                    files=use.used_files,
                    used_bytes=use.used_bytes,
                    quota_files=use.limits.disk_files,
                    quota_bytes=use.limits.disk_bytes,
                    worker=workers.get(context.name),
                )
            )
        yield control.ContextListReply(contexts=tuple(states))

    async def files(self, request: control.ContextFiles) -> Replies:
        entries = await self._house.contexts.files(_owner_may).list(request.path)
        yield control.FilesReply(
            path=request.path,
            entries=tuple(
                control.FileState(
                    name=entry.name,
                    is_dir=entry.kind == "directory",
                    size_bytes=entry.size_bytes,
                    modified_at=entry.modified_at or None,
                )
                for entry in entries
            ),
        )


def _owner_may(_action: FileAction, _path: VirtualPath) -> None:
    """The owner looks at his own files: there is nothing to decide."""
