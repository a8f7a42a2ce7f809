"""What was changed in a tree behind our back: seen, kept, and made a commit of its own.

A look is a walk that compares how each file looks with how we last left or found it
(`files_now`). Only what looks different is read.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final

from anyio import to_thread

from orvalho.contexts import contents as contents_table
from orvalho.contexts import history, timeline
from orvalho.contexts.changes import (
    DIRECTORY,
    Content,
    FileChange,
    Node,
    Stamp,
    ValueChange,
    changeset,
)
from orvalho.contexts.commit import HAND, Committer
from orvalho.contexts.context import Context, Contexts
from orvalho.contexts.files import Mount
from orvalho.contexts.filesystem import VirtualPath, has_spelling
from orvalho.contexts.fs_shim import fs_errors
from orvalho.contexts.history import Known, Origin
from orvalho.errors import OrvalhoError, Unavailable
from orvalho.store import Store

_log = logging.getLogger(__name__)

# What was written so short before it was read may be written again without looking different.
_TICK_S: Final = 0.1
# What is read before it is written down.
_BATCH_FILES: Final = 500
_BATCH_BYTES: Final = 8 << 20


@dataclass(frozen=True, slots=True)
class _Different:
    """A path that does not look as we know it. `stamp` is None where nothing is any more."""

    whole: str
    mount: Mount
    path: str
    known: Known | None
    stamp: Stamp | None


@dataclass(frozen=True, slots=True)
class _Read:
    change: FileChange
    now: Known | None


class HandEdits:
    """Notices edits by hand in the contexts of one node."""

    def __init__(self, store: Store, contexts: Contexts, committer: Committer) -> None:
        self._store = store
        self._contexts = contexts
        self._committer = committer
        self._contents = committer.contents

    async def note_all(self) -> None:
        """Look at each context that has a history: at the start of a node."""
        for context in self._contexts.list():
            name = context.name
            try:
                if await self._store.read(partial(timeline.has_history, context=name)):
                    await self.note(context)
            except OrvalhoError as error:
                _log.warning("hand.not-noted", extra={"context": name, "why": error.message})

    async def note(self, context: Context) -> str | None:
        """Make what was changed by hand a commit; its id, or None where nothing was.

        Raises:
            Unavailable: the tree cannot be read, or what was found cannot be kept.
        """
        async with context.turn:
            return await self.note_in_turn(context, _by_owner(context))

    async def note_in_turn(self, context: Context, origin: Origin) -> str | None:
        """The same for whoever has the context's turn; `origin` is who is said to have done it."""
        await self._committer.finish_late(context)
        known = await self._store.read(lambda it: history.all_known(it, context.name))
        try:
            found = await to_thread.run_sync(lambda: list(_differences(context, known)))
            read = await self._read(found)
        except (OSError, fs_errors.FSError) as error:
            raise Unavailable(
                f"{context.name} cannot be looked through: {error}", where=context.name
            ) from error
        values = await self._store.read(lambda it: history.values_unknown(it, context.name))
        changes = changeset(
            (each.change for each in read),
            (ValueChange(key=key, before=None, after=value) for key, value in values.items()),
        )
        now = {each.change.path: each.now for each in read}
        if not changes and not now:
            return None
        id_ = history.new_commit_id(origin.at)

        def note(connection: sqlite3.Connection) -> None:
            if changes:
                history.stage_commit(connection, origin, changes, id_=id_, settled=True)
            history.stage_now(connection, context.name, now)

        await self._store.transact("commit.hand", note)
        return id_ if changes else None

    async def note_file(self, context: Context, path: VirtualPath, origin: Origin) -> None:
        """A file, and the directories above it, that were just put there by `origin`, made a
        commit.

        Raises:
            Unavailable: as `note`.
        """
        names = path.split("/")[1:]
        places = [VirtualPath("/" + "/".join(names[: n + 1])) for n in range(len(names))]
        async with context.turn:
            known = await self._store.read(lambda it: history.known(it, context.name, places))
            try:
                found = await to_thread.run_sync(
                    lambda: list(_different_at(context, places, known))
                )
                read = await self._read(found)
            except (OSError, fs_errors.FSError) as error:
                raise Unavailable(f"{path} cannot be kept: {error}", where=path) from error
            changes = changeset((each.change for each in read), ())

            def note(connection: sqlite3.Connection) -> None:
                if changes:
                    id_ = history.new_commit_id(origin.at)
                    history.stage_commit(connection, origin, changes, id_=id_, settled=True)
                now = {each.change.path: each.now for each in read}
                history.stage_now(connection, context.name, now)

            await self._store.transact("commit.file", note)

    async def _read(self, found: list[_Different]) -> list[_Read]:
        """Read what looks different, and keep its content: no more in memory than a batch."""
        read: list[_Read] = []
        for batch in _batches(found):
            kept: list[Content] = []
            read += await to_thread.run_sync(self._read_batch, batch, kept)
            small = [each for each in kept if isinstance(each.source, bytes)]
            if small:
                await self._store.transact(
                    "commit.contents", partial(contents_table.stage, contents=small)
                )
        return read

    def _read_batch(self, batch: list[_Different], kept: list[Content]) -> list[_Read]:
        read = []
        for each in batch:
            node = _node(each.known)
            try:
                after = self._contents.node_at(each.mount, each.path, each.stamp, None, kept)
            except fs_errors.ResourceNotFound:
                continue  # gone since we looked: the next look says so
            except (fs_errors.PermissionDenied, PermissionError):
                _log.warning("hand.unreadable", extra={"path": each.whole})
                continue
            now = None
            if after is not None and each.stamp is not None:
                now = Known(after, _settled(each.stamp))
            change = FileChange(path=each.whole, before=node, after=after)
            read.append(_Read(change, now))
        return read


def _by_owner(context: Context) -> Origin:
    return Origin(context=context.name, author="owner", cause="hand", at=time.time(), note=HAND)


def _differences(context: Context, known: dict[str, Known]) -> Iterator[_Different]:
    """Raises: OSError, FSError: a tree cannot be opened."""
    seen: set[str] = set()
    walked: set[Mount] = set()
    for place, mount in context.mounts.items():
        stamps = getattr(mount.tree.inner, "stamps", None)
        if stamps is None:
            continue  # nobody edits it by hand without us, or a walk would cost too much
        walked.add(mount)
        prefix = place.rstrip("/")
        for path, stamp in stamps():
            whole = VirtualPath(prefix + path)
            resolved = context.mounts.resolve(whole)
            if resolved is None or resolved[0] is not mount or not _is_spelled(path):
                continue
            seen.add(whole)
            old = known.get(whole)
            if old is None or old.stamp != stamp:
                yield _Different(whole, mount, path, old, stamp)
    for gone, old in known.items():
        resolved = context.mounts.resolve(VirtualPath(gone))
        if gone not in seen and resolved is not None and resolved[0] in walked:
            yield _Different(gone, resolved[0], resolved[1], old, None)


def _different_at(
    context: Context, places: Iterable[VirtualPath], known: dict[str, Known]
) -> Iterator[_Different]:
    for whole in places:
        resolved = context.mounts.resolve(whole)
        if resolved is None or resolved[1] == "/":
            continue
        mount, path = resolved
        exact = getattr(mount.tree.inner, "stamp", None)
        if exact is None:
            continue
        stamp = exact(path)
        old = known.get(whole)
        if (old.stamp if old else None) != stamp:
            yield _Different(whole, mount, path, old, stamp)


def _is_spelled(path: str) -> bool:
    return (path.isascii() and path.replace("/", "").isalnum()) or all(
        has_spelling(name) for name in path.split("/")[1:]
    )


def _settled(stamp: Stamp) -> Stamp:
    """A stamp of what was written just now matches nothing, so that it is read again."""
    if stamp.kind == "file" and stamp.modified_ns > (time.time() - _TICK_S) * 1e9:
        return Stamp("file", stamp.size_bytes, 0, stamp.inode)
    return stamp


def _node(known: Known | None) -> Node | None:
    if known is None:
        return None
    return DIRECTORY if known.node.kind == "directory" else known.node


def _batches(found: list[_Different]) -> Iterator[list[_Different]]:
    batch: list[_Different] = []
    size_bytes = 0
    for each in found:
        batch.append(each)
        size_bytes += min(each.stamp.size_bytes if each.stamp else 0, contents_table.SMALL_BYTES)
        if len(batch) >= _BATCH_FILES or size_bytes >= _BATCH_BYTES:
            yield batch
            batch, size_bytes = [], 0
    if batch:
        yield batch
