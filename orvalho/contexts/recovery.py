"""What a crash, or a disk that did not take it, left between a commit and its last rename."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from anyio import to_thread

from orvalho.contexts import contents as contents_table
from orvalho.contexts import history
from orvalho.contexts.changes import Changeset, Content, FileChange, Node, changeset
from orvalho.contexts.contents import Contents
from orvalho.contexts.context import Context
from orvalho.contexts.filesystem import VirtualPath
from orvalho.contexts.history import Commit, Origin
from orvalho.contexts.mounted import in_time
from orvalho.contexts.placing import (
    Placing,
    Prepared,
    place_each,
    remove_drafts,
    seen,
    there,
    write_draft,
)
from orvalho.store import Store

# Linux: another at each start of the machine.
_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")
_FOUND: Final = "found while {} was finished"
_AGAIN: Final = "{}, finished later"


@dataclass(slots=True)
class _Found:
    """What lies where a commit is to be put, and is of neither side of it."""

    by_hand: list[FileChange] = field(default_factory=list)
    again: list[FileChange] = field(default_factory=list)
    kept: list[Content] = field(default_factory=list)


class Recovery:
    """Puts what was committed into the trees."""

    def __init__(self, store: Store, contents: Contents) -> None:
        self._store = store
        self._contents = contents

    async def may_be_torn(self) -> bool:
        """Whether the machine was started anew since we ran last, as far as can be known: then a
        file that was not flushed may be neither as before nor as after."""
        boot = await to_thread.run_sync(_boot)
        if not boot:
            return True
        known = await self._store.read(partial(history.is_boot, boot=boot))
        if not known:
            await self._store.transact("history.boot", partial(history.stage_boot, boot=boot))
        return not known

    async def finish(
        self,
        context: Context,
        commit: Commit,
        begun: Callable[[int], object],
        *,
        is_torn: bool,
        only_ours: bool = False,
    ) -> tuple[list[int], bool]:
        """Put an unsettled commit there; the seqs of all that is in the tree now, and whether that
        is all of it. `begun` is told of a further one that has to be finished like this one. Our
        own trees come first; with `only_ours` those of others are left for later.

        What is neither as before the commit nor as after it was put there by hand since, and
        stays; history says so. With `is_torn` it may as well be what a loss of power left: then
        history gets it, and once more what the commit said. Where something of others is in the
        way, the tree stays, and history says how it is.

        Raises:
            OSError, FSError, Unavailable: the disk does not take it.
        """
        placings = await self._unplaced(context, commit)
        ours = [each for each in placings if not each.mount.is_foreign]
        others = [each for each in placings if each.mount.is_foreign]
        seqs = [commit.seq]
        for group in (ours, [] if only_ours else others):
            if group:
                seqs += await self._finish_some(context, commit, group, begun, is_torn=is_torn)
        return seqs, not (others and only_ours)

    async def _finish_some(
        self,
        context: Context,
        commit: Commit,
        placings: list[Placing],
        begun: Callable[[int], object],
        *,
        is_torn: bool,
    ) -> list[int]:
        """The seqs of what is in the tree besides."""
        mounts = {each.mount for each in placings}
        found = await in_time(mounts, partial(self._look, placings, is_torn))
        seqs: list[int] = []
        if found.by_hand:
            # Before anything is overwritten, and unsettled: a crash now is recovered from there.
            again = await self._note_found(context, commit, found)
            if again is not None:
                seqs.append(again)
                begun(again)
        prepared = Prepared(context, Changeset(), placings, [], [], seq=commit.seq)
        prepared.placings = [each for each in placings if each.before != each.after]
        stuck = await in_time(mounts, partial(self._place, prepared))
        await self._note_placed(context, commit, placings, stuck)
        return seqs

    def _look(self, placings: list[Placing], is_torn: bool) -> _Found:
        found = _Found()
        for placing in placings:
            placing.found = there(placing)
            node = self._contents.node_at(
                placing.mount, placing.path, placing.found, None, found.kept
            )
            if node not in (placing.before, placing.after):
                path = placing.whole
                found.by_hand.append(FileChange(path=path, before=placing.before, after=node))
                if is_torn:
                    found.again.append(FileChange(path=path, before=node, after=placing.after))
                else:
                    placing.after = node
            placing.before = node
        for content in found.kept:
            self._contents.keep_large(content)
        return found

    async def _note_found(self, context: Context, commit: Commit, found: _Found) -> int | None:
        now = time.time()
        by_hand = Origin(
            context=context.name,
            author="owner",
            cause="hand",
            at=now,
            note=_FOUND.format(commit.id),
        )
        again = Origin(
            context=context.name,
            author=commit.author,
            cause=commit.cause,
            at=now,
            run=commit.run,
            note=_AGAIN.format(commit.id),
        )

        def note(connection: sqlite3.Connection) -> int | None:
            contents_table.stage(connection, found.kept)
            id_ = history.new_commit_id(now)
            changes = changeset(found.by_hand, ())
            history.stage_commit(connection, by_hand, changes, id_=id_, settled=True)
            if not found.again:
                return None
            id_ = history.new_commit_id(now)
            changes = changeset(found.again, ())
            return history.stage_commit(connection, again, changes, id_=id_, settled=False)

        return await self._store.transact("commit.found", note)

    def _place(self, prepared: Prepared) -> list[Placing]:
        try:
            for placing in prepared.placings:
                write_draft(placing)
            return place_each(prepared)
        finally:
            remove_drafts(prepared)

    async def _note_placed(
        self, context: Context, commit: Commit, placings: list[Placing], stuck: list[Placing]
    ) -> None:
        kept: list[Content] = []

        def look() -> tuple[list[FileChange], dict[str, history.Known | None]]:
            changes = []
            for placing in stuck:
                stamp = there(placing)
                node = self._contents.node_at(placing.mount, placing.path, stamp, None, kept)
                changes.append(FileChange(path=placing.whole, before=placing.after, after=node))
                placing.after = node
            for content in kept:
                self._contents.keep_large(content)
            return changes, {each.whole: seen(each) for each in placings}

        by_hand, now_there = await in_time({each.mount for each in placings}, look)
        now = time.time()
        origin = Origin(
            context=context.name,
            author="owner",
            cause="hand",
            at=now,
            note=_FOUND.format(commit.id),
        )

        def note(connection: sqlite3.Connection) -> None:
            contents_table.stage(connection, kept)
            if changes := changeset(by_hand, ()):
                id_ = history.new_commit_id(now)
                history.stage_commit(connection, origin, changes, id_=id_, settled=True)
            history.stage_now(connection, context.name, now_there)

        await self._store.transact("commit.recovered", note)

    async def _unplaced(self, context: Context, commit: Commit) -> list[Placing]:
        """What a commit wants in its tree, as far as no later one wants something else."""

        def read(connection: sqlite3.Connection) -> list[tuple[str, Node | None, Node | None]]:
            name, seq = commit.context, commit.seq
            return [
                (path, node, history.latest_before(connection, name, path, seq))
                for path, node in history.files_of(connection, seq).items()
                if not history.has_later(connection, name, path, seq)
            ]

        placings = []
        for whole, after, before in await self._store.read(read):
            resolved = context.mounts.resolve(VirtualPath(whole))
            if resolved is None:
                continue
            mount, path = resolved
            placing = Placing(whole, path, mount, before, after)
            if after is not None and after.kind == "file":
                placing.content = await self._contents.content(after.sha256, after.size_bytes)
            placings.append(placing)
        return placings


def _boot() -> str:
    try:
        return _BOOT.read_text().strip()
    except OSError:
        return ""
