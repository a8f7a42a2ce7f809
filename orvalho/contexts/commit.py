"""Changes into a context: all of them or none, also across a crash.

A commit is one transaction of the database, with the receipt of what caused it. What lies on the
disk follows: files are written beside the tree before the transaction, and renamed into their
places after it, one by one. A start after a crash finishes what was not (`recover`). So the
database says what is so, and no commit waits for the tree to be flushed.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from functools import partial
from typing import Final, TypeVar

import anyio
from anyio import to_thread

from orvalho.contexts import contents as contents_table
from orvalho.contexts import history
from orvalho.contexts.changes import (
    DIRECTORY,
    Changeset,
    Content,
    FileChange,
    ValueChange,
    changeset,
)
from orvalho.contexts.contents import Contents
from orvalho.contexts.context import Context, Contexts
from orvalho.contexts.filesystem import VirtualPath
from orvalho.contexts.fs_shim import fs_errors
from orvalho.contexts.history import Known, Origin
from orvalho.contexts.mounted import in_time
from orvalho.contexts.placing import (
    Placing,
    Prepared,
    abandon,
    charge,
    flush,
    place_all,
    remove_drafts,
    write_draft,
)
from orvalho.contexts.recovery import Recovery
from orvalho.contexts.workspace import Workspace
from orvalho.errors import NotFound, OrvalhoError, Unavailable
from orvalho.retry import Backoff
from orvalho.store import Store

T = TypeVar("T")

_log = logging.getLogger(__name__)

# What is on the disk is flushed and noted so much later, many commits at once.
_SETTLE_S: Final = 1.0
# How long a run that is made again may keep others from committing.
_EXCLUSIVE_S: Final = 1.0
HAND: Final = "found as it was, changed by hand"


class Exclusive:
    """The turn of a context, held from a run's start to its commit; but not for long: whoever is
    slow is to meet others again."""

    def __init__(self, context: Context, limit_s: float) -> None:
        self._context = context
        self._is_held = True
        self._timer = asyncio.get_running_loop().call_later(limit_s, self.release)

    @classmethod
    async def take(cls, context: Context, limit_s: float = _EXCLUSIVE_S) -> Exclusive:
        await context.turn.acquire()
        return cls(context, limit_s)

    def keep(self) -> bool:
        """Whether it is held still; then until `release`."""
        self._timer.cancel()
        return self._is_held

    def release(self) -> None:
        self._timer.cancel()
        if self._is_held:
            self._is_held = False
            self._context.turn.release()


class Committer:
    """Commits to the contexts of one node."""

    def __init__(self, store: Store, contexts: Contexts, contents: Contents) -> None:
        self.store = store
        self.contents = contents
        self._contexts = contexts
        self._to_settle: dict[int, Context] = {}
        # Committed, and not in their trees: what a disk or a store did not take at once.
        self._late: dict[int, Backoff] = {}
        # Those of them that a loss of power may have left half-written.
        self._torn: set[int] = set()
        self._has_work = anyio.Event()
        self._recovery = Recovery(store, contents)

    async def commit(
        self,
        workspace: Workspace,
        origin: Origin,
        beside: Callable[[sqlite3.Connection], T],
        *,
        name: str,
        id_: str,
        turn: Exclusive | None = None,
    ) -> T:
        """Put a workspace's changes into its context, in one transaction with `beside`, whose
        value is returned. `name` is the transaction's; `turn`: it may be the context's already.

        Raises:
            ContextChanged: what it read or changes is not as it found it.
            InvalidInput, LimitExceeded: it does not fit the schemas of now, or what it may hold.
            Unavailable: the disk does not take it.
            Whatever `beside` raises. In each case nothing has changed.
        """
        context = workspace.context
        has_turn = turn is not None and turn.keep()
        async with nullcontext() if has_turn else context.turn:
            await workspace.refit()
            prepared = await self.prepare(workspace)
            try:
                values = workspace.values

                def work(connection: sqlite3.Connection) -> T:
                    values.refuse_stale(connection)
                    self._stage(connection, prepared, origin, id_)
                    values.stage(connection)
                    return beside(connection)

                with anyio.CancelScope(shield=True):
                    result = await self.store.transact(name, work)
            except BaseException:
                with anyio.CancelScope(shield=True):
                    await to_thread.run_sync(abandon, prepared)
                raise
            with anyio.CancelScope(shield=True):
                await self._place(prepared)
        return result

    async def refuse_stale(self, workspace: Workspace) -> None:
        """For a run that changes nothing: whether what it read was so at one moment.

        Raises:
            ContextChanged: it was not.
        """
        if workspace.begun_at_commit == workspace.context.commits:
            return
        mounts = {part.mount.lower for part in workspace.parts()}
        await in_time(mounts, workspace.refuse_stale_files)
        await self.store.read(workspace.values.refuse_stale)

    async def prepare(self, workspace: Workspace) -> Prepared:
        """See that a workspace still fits, and write its files beside the tree.

        Raises: as `commit`.
        """
        context = workspace.context
        changed = [
            (part.whole(path), path, part, content)
            for part in workspace.parts()
            for path, content in part.overlay.changed().items()
        ]
        paths = [whole for whole, *_ in changed]
        known: Mapping[str, Known] = {}
        if paths:
            known = await self.store.read(
                lambda connection: history.known(connection, context.name, paths)
            )

        def look() -> Prepared:
            workspace.refuse_stale_files()
            placings: list[Placing] = []
            found: list[FileChange] = []
            kept: list[Content] = []
            for whole, path, part, content in changed:
                lower = part.mount.lower
                before = self.contents.node_at(
                    lower, path, part.overlay.found(path), known.get(whole), kept
                )
                there = known[whole].node if whole in known else None
                if before != there:
                    found.append(FileChange(path=whole, before=there, after=before))
                after = DIRECTORY if content == "directory" else None
                if isinstance(content, Content):
                    after = content.node
                if after == before:
                    continue
                placing = Placing(whole, path, lower, before, after)
                placing.found = part.overlay.found(path)
                if isinstance(content, Content):
                    placing.content = content
                    kept.append(content)
                placings.append(placing)
            return self._write_beside(context, workspace, placings, found, kept)

        mounts = {part.mount.lower for part in workspace.parts()}
        return await in_time(mounts, look)

    def _write_beside(
        self,
        context: Context,
        workspace: Workspace,
        placings: list[Placing],
        found: list[FileChange],
        kept: list[Content],
    ) -> Prepared:
        for content in kept:
            self.contents.keep_large(content)
        changes = changeset(
            (FileChange(path=p.whole, before=p.before, after=p.after) for p in placings),
            workspace.values.changes(),
        )
        prepared = Prepared(context, changes, placings, found, kept)
        charge(placings, 1)
        try:
            for placing in placings:
                write_draft(placing)
        except BaseException as error:
            abandon(prepared)
            if isinstance(error, (OSError, fs_errors.FSError)):
                raise Unavailable(
                    f"{context.name} cannot be written now: {error}",
                    where=context.name,
                    hint="free some disk space, then try again",
                ) from error
            raise
        for placing in placings:
            prepared.now[placing.whole] = (
                Known(placing.after, placing.stamp)
                if placing.after is not None and placing.stamp is not None
                else None
            )
        return prepared

    def _stage(
        self, connection: sqlite3.Connection, prepared: Prepared, origin: Origin, id_: str
    ) -> None:
        contents_table.stage(connection, prepared.contents)
        context = prepared.context.name
        firsts = history.first_values(
            connection, context, (each.key for each in prepared.changes.values)
        )
        found = Changeset(
            files=tuple(prepared.found),
            values=tuple(
                ValueChange(key=each.key, before=None, after=each.before)
                for each in prepared.changes.values
                if each.key in firsts and each.before is not None
            ),
        )
        if found:
            by_hand = Origin(context=context, author="owner", cause="hand", at=origin.at, note=HAND)
            hand_id = history.new_commit_id(origin.at)
            history.stage_commit(connection, by_hand, found, id_=hand_id, settled=True)
        prepared.seq = history.stage_commit(
            connection, origin, prepared.changes, id_=id_, settled=not prepared.placings
        )
        history.stage_now(connection, context, prepared.now)

    # ---- onto the disk -------------------------------------------------------------------------

    async def _place(self, prepared: Prepared) -> None:
        context = prepared.context
        context.commits += 1
        if any(each.whole.startswith("/schema") for each in prepared.placings):
            context.schemas.changed(VirtualPath("/schema"))
        if not prepared.placings:
            return
        try:
            mounts = {each.mount for each in prepared.placings}
            late = await in_time(mounts, partial(place_all, prepared))
        except (OSError, fs_errors.FSError, OrvalhoError) as error:
            # It is committed, and tried again until it is there.
            _log.error("commit.not-placed", extra={"context": context.name, "why": str(error)})
            await to_thread.run_sync(remove_drafts, prepared)
            self._begin_late(prepared.seq)
            self._has_work.set()
            return
        if late:
            self.store.transact_soon(
                "commit.placed",
                lambda connection: history.stage_now(connection, context.name, late),
            )
        self._to_settle[prepared.seq] = context
        self._has_work.set()

    def is_late(self, seq: int) -> bool:
        """Whether a commit is not in its tree yet, since the disk did not take it."""
        return seq in self._late

    async def run(self) -> None:
        """Flush what was committed and note that it is on the disk, again and again."""
        while True:
            await self._has_work.wait()
            await anyio.sleep(_SETTLE_S)
            self._has_work = anyio.Event()
            with suppress(OSError, OrvalhoError):
                await self.settle()
            if self._late:
                self._has_work.set()
                await self._place_late()

    async def finish_late(self, context: Context) -> None:
        """Put what was committed to a context and is not in its tree there. Its turn is ours.

        Raises:
            Unavailable: the disk does not take it.
        """
        for commit in await self.store.read(history.unsettled):
            if commit.seq in self._late and commit.context == context.name:
                try:
                    await self._finish(context, commit)
                except (OSError, fs_errors.FSError) as error:
                    raise Unavailable(
                        f"{context.name} waits for {commit.id} to be put into its tree: {error}",
                        where=context.name,
                        hint="orvalho doctor",
                    ) from error

    async def _place_late(self, *, at_start: bool = False) -> None:
        """Each that is due, whatever becomes of another: one tree that is away holds up nobody
        else. What is not ours is not waited for `at_start`."""
        for commit in await self.store.read(history.unsettled):
            tries = self._late.get(commit.seq)
            if tries is None or (tries.retry_at > time.monotonic() and not at_start):
                continue
            try:
                context = self._contexts.get(commit.context)
            except NotFound:
                # Its tree was taken away while this node was off.
                await self.store.transact(
                    "commit.settled", partial(history.stage_settled, seqs=[commit.seq])
                )
                del self._late[commit.seq]
                continue
            try:
                async with context.turn:
                    await self._finish(context, commit, only_ours=at_start)
            except (OSError, fs_errors.FSError, OrvalhoError) as error:
                _log.warning(
                    "commit.not-placed", extra={"context": context.name, "why": str(error)}
                )
                tries.failed(time.monotonic())

    async def _finish(
        self, context: Context, commit: history.Commit, *, only_ours: bool = False
    ) -> None:
        done, is_whole = await self._recovery.finish(
            context,
            commit,
            self._begin_late,
            is_torn=commit.seq in self._torn,
            only_ours=only_ours,
        )
        if is_whole:
            self._to_settle.update(dict.fromkeys(done, context))
            for seq in done:
                self._late.pop(seq, None)

    def _begin_late(self, seq: int) -> None:
        self._late[seq] = Backoff(first_wait_s=_SETTLE_S)

    async def settle(self) -> None:
        """Have all commits so far on the disk, and noted."""
        waiting, self._to_settle = self._to_settle, {}
        if not waiting:
            return
        contexts = {id(each): each for each in waiting.values()}.values()
        await to_thread.run_sync(flush, contexts)
        await self.store.transact(
            "commit.settled",
            lambda connection: history.stage_settled(connection, waiting),
            is_urgent=False,
        )

    async def recover(self) -> None:
        """Finish what a crash left between a commit and its last rename. Before anything runs."""
        await to_thread.run_sync(self.contents.sweep_drafts)
        may_be_torn = await self._recovery.may_be_torn()
        for commit in await self.store.read(history.unsettled):
            self._begin_late(commit.seq)
            if may_be_torn:
                self._torn.add(commit.seq)
        if self._late:
            await self._place_late(at_start=True)
            self._has_work.set()
        await self.settle()
