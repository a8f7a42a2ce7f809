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
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
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
    Node,
    Stamp,
    ValueChange,
    changeset,
)
from orvalho.contexts.contents import Contents
from orvalho.contexts.context import Context, Contexts
from orvalho.contexts.files import Mount
from orvalho.contexts.filesystem import VirtualPath
from orvalho.contexts.fs_shim import fs_errors
from orvalho.contexts.history import Known, Origin
from orvalho.contexts.mounts.overlay import stamp_of
from orvalho.contexts.workspace import Workspace
from orvalho.errors import LimitExceeded, NotFound, OrvalhoError, Unavailable
from orvalho.retry import Backoff
from orvalho.store import Store

T = TypeVar("T")

_log = logging.getLogger(__name__)

# What is on the disk is flushed and noted so much later, many commits at once.
_SETTLE_S: Final = 1.0
# How long a run that is made again may keep others from committing.
_EXCLUSIVE_S: Final = 1.0
# So long a commit waits for trees that are not ours.
_FOREIGN_S: Final = 60.0
HAND: Final = "found as it was, changed by hand"


@dataclass(slots=True)
class _Placing:
    """One path on its way into its tree. `content` is None for a directory and for what goes."""

    whole: str
    path: str
    mount: Mount
    before: Node | None
    after: Node | None
    content: Content | None = None
    draft: str | None = None
    stamp: Stamp | None = None


@dataclass(slots=True)
class Prepared:
    """A changeset that fits what is there now, its files beside the tree. For one transaction."""

    context: Context
    changes: Changeset
    placings: list[_Placing]
    found: list[FileChange]
    contents: list[Content]
    now: dict[str, Known | None] = field(default_factory=dict)
    seq: int = 0


class Exclusive:
    """The turn of a context, held from a run's start to its commit; but not for long: whoever is
    slow is to meet others again."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._is_held = True
        self._timer = asyncio.get_running_loop().call_later(_EXCLUSIVE_S, self.release)

    @classmethod
    async def take(cls, context: Context) -> Exclusive:
        await context.turn.acquire()
        return cls(context)

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
        self._has_work = anyio.Event()

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
                    await to_thread.run_sync(_abandon, prepared)
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
        await _in_thread(mounts, workspace.refuse_stale_files)
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
            placings: list[_Placing] = []
            found: list[FileChange] = []
            kept: list[Content] = []
            for whole, path, part, content in changed:
                lower = part.mount.lower
                before = self._before(lower, path, part.overlay.found(path), known.get(whole), kept)
                there = known[whole].node if whole in known else None
                if before != there:
                    found.append(FileChange(path=whole, before=there, after=before))
                after = DIRECTORY if content == "directory" else None
                if isinstance(content, Content):
                    after = content.node
                if after == before:
                    continue
                placing = _Placing(whole, path, lower, before, after)
                if isinstance(content, Content):
                    placing.content = content
                    kept.append(content)
                placings.append(placing)
            return self._write_beside(context, workspace, placings, found, kept)

        mounts = {part.mount.lower for part in workspace.parts()}
        return await _in_thread(mounts, look)

    def _before(
        self,
        mount: Mount,
        path: str,
        stamp: Stamp | None,
        known: Known | None,
        kept: list[Content],
    ) -> Node | None:
        """What is at a path now; what history does not have of it is kept. In a thread."""
        if stamp is None:
            return None
        if known is not None and known.stamp == stamp:
            return known.node
        if stamp.kind == "directory":
            return DIRECTORY
        content = self._captured(mount, path, stamp.size_bytes)
        kept.append(content)
        return content.node

    def _captured(self, mount: Mount, path: str, size_bytes: int) -> Content:
        with mount.tree.inner.openbin(path, "r") as file:
            return self.contents.capture(file, size_bytes)

    def _write_beside(
        self,
        context: Context,
        workspace: Workspace,
        placings: list[_Placing],
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
        _charge(placings, 1)
        try:
            for placing in placings:
                _write_draft(placing)
        except BaseException as error:
            _abandon(prepared)
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
            late = await _in_thread(mounts, partial(_place_all, prepared))
        except (OSError, fs_errors.FSError, OrvalhoError) as error:
            # It is committed, and tried again until it is there.
            _log.error("commit.not-placed", extra={"context": context.name, "why": str(error)})
            self._late[prepared.seq] = Backoff(first_wait_s=_SETTLE_S)
            self._has_work.set()
            return
        if late:
            self.store.transact_soon(
                "commit.placed",
                lambda connection: history.stage_now(connection, context.name, late),
            )
        self._to_settle[prepared.seq] = context
        self._has_work.set()

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
                    is_placed = await self._recover(context, commit, only_ours=at_start)
            except (OSError, fs_errors.FSError, OrvalhoError) as error:
                _log.warning(
                    "commit.not-placed", extra={"context": context.name, "why": str(error)}
                )
                tries.failed(time.monotonic())
                continue
            if is_placed:
                del self._late[commit.seq]

    async def settle(self) -> None:
        """Have all commits so far on the disk, and noted."""
        waiting, self._to_settle = self._to_settle, {}
        if not waiting:
            return
        contexts = {id(each): each for each in waiting.values()}.values()
        await to_thread.run_sync(_flush, contexts)
        await self.store.transact(
            "commit.settled",
            lambda connection: history.stage_settled(connection, waiting),
            is_urgent=False,
        )

    async def recover(self) -> None:
        """Finish what a crash left between a commit and its last rename. Before anything runs."""
        await to_thread.run_sync(self.contents.sweep_drafts)
        for commit in await self.store.read(history.unsettled):
            self._late[commit.seq] = Backoff(first_wait_s=_SETTLE_S)
        if self._late:
            await self._place_late(at_start=True)
            self._has_work.set()
        await self.settle()

    async def _recover(
        self, context: Context, commit: history.Commit, *, only_ours: bool = False
    ) -> bool:
        """What is neither as before the commit nor as after it was put there by hand: history
        has it, and the tree has what the commit said. Our own trees first; False where another
        is left for later."""
        placings = await self._unplaced(context, commit)
        ours = [each for each in placings if not each.mount.is_foreign]
        others = [each for each in placings if each.mount.is_foreign]
        if ours:
            await self._finish(context, commit, ours)
        if others and only_ours:
            return False
        if others:
            await self._finish(context, commit, others)
        self._to_settle[commit.seq] = context
        return True

    async def _finish(
        self, context: Context, commit: history.Commit, placings: list[_Placing]
    ) -> None:
        kept: list[Content] = []
        prepared = Prepared(context, Changeset(), placings, [], kept, seq=commit.seq)

        def finish() -> list[FileChange]:
            again = []
            for placing in placings:
                there = self._there(placing, kept)
                if there not in (placing.before, placing.after):
                    prepared.found.append(
                        FileChange(path=placing.whole, before=placing.before, after=there)
                    )
                    again.append(FileChange(path=placing.whole, before=there, after=placing.after))
                placing.before = there
            for content in kept:
                self.contents.keep_large(content)
            prepared.placings = [each for each in placings if each.before != each.after]
            for placing in prepared.placings:
                _write_draft(placing)
            _place_all(prepared)
            prepared.now = {each.whole: _seen(each) for each in placings}
            return again

        again = await _in_thread({each.mount for each in placings}, finish)
        now = time.time()
        origins = (
            Origin(
                context=context.name,
                author="owner",
                cause="hand",
                at=now,
                note=f"found while {commit.id} was finished after a crash",
            ),
            Origin(
                context=context.name,
                author=commit.author,
                cause=commit.cause,
                at=now,
                run=commit.run,
                note=f"{commit.id}, finished after a crash",
            ),
        )

        def note(connection: sqlite3.Connection) -> None:
            contents_table.stage(connection, kept)
            for origin, files in zip(origins, (prepared.found, again), strict=True):
                if files:
                    id_ = history.new_commit_id(now)
                    changes = changeset(files, ())
                    history.stage_commit(connection, origin, changes, id_=id_, settled=True)
            history.stage_now(connection, context.name, prepared.now)

        await self.store.transact("commit.recovered", note)

    async def _unplaced(self, context: Context, commit: history.Commit) -> list[_Placing]:
        """What a commit wants in its tree, as far as no later one wants something else."""

        def read(connection: sqlite3.Connection) -> list[tuple[str, Node | None, Node | None]]:
            name, seq = commit.context, commit.seq
            return [
                (path, node, history.latest_before(connection, name, path, seq))
                for path, node in history.files_of(connection, seq).items()
                if not history.has_later(connection, name, path, seq)
            ]

        placings = []
        for whole, after, before in await self.store.read(read):
            resolved = context.mounts.resolve(VirtualPath(whole))
            if resolved is None:
                continue
            mount, path = resolved
            placing = _Placing(whole, path, mount, before, after)
            if after is not None and after.kind == "file":
                placing.content = await self.contents.content(after.sha256, after.size_bytes)
            placings.append(placing)
        return placings

    def _there(self, placing: _Placing, kept: list[Content]) -> Node | None:
        stamp = stamp_of(placing.mount.tree.inner, placing.path)
        return self._before(placing.mount, placing.path, stamp, None, kept)


async def _in_thread(mounts: Iterable[Mount], call: Callable[[], T]) -> T:
    """Raises:
    Unavailable: a tree that is not ours is late. What it was asked may still happen.
    """
    if not any(each.is_foreign for each in mounts):
        return await to_thread.run_sync(call)
    try:
        with anyio.fail_after(_FOREIGN_S):
            return await to_thread.run_sync(call, abandon_on_cancel=True)
    except TimeoutError as error:
        raise Unavailable(
            f"a mounted tree does not answer within {_FOREIGN_S:g} s", hint="orvalho ctx mounts"
        ) from error


# ---- in a thread --------------------------------------------------------------------------------


def _charge(placings: Iterable[_Placing], sign: int) -> None:
    """Take what they need from the quotas of their mounts; with `sign` -1, give it back.

    Raises:
        LimitExceeded: it does not fit; nothing has been taken.
    """
    totals: dict[Mount, tuple[int, int, str]] = {}
    for each in placings:
        size_bytes, files, _ = totals.get(each.mount, (0, 0, ""))
        size_bytes += (each.after.size_bytes if each.after else 0) - (
            each.before.size_bytes if each.before else 0
        )
        files += int(each.after is not None) - int(each.before is not None)
        totals[each.mount] = size_bytes, files, each.whole
    charged: list[tuple[Mount, int, int]] = []
    try:
        for mount, (size_bytes, files, path) in totals.items():
            mount.measure_once()
            mount.quota.charge(sign * size_bytes, sign * files, path=path)
            charged.append((mount, size_bytes, files))
    except LimitExceeded:
        for mount, size_bytes, files in charged:
            mount.quota.charge(-sign * size_bytes, -sign * files)
        raise


def _write_draft(placing: _Placing) -> None:
    """Beside the tree, where the tree can have it so; else it is written in its time."""
    tree = placing.mount.tree.inner
    if placing.content is not None and hasattr(tree, "stage"):
        placing.draft, placing.stamp = tree.stage(placing.content)
    elif placing.after == DIRECTORY:
        placing.stamp = Stamp("directory")


def _abandon(prepared: Prepared) -> None:
    with suppress(LimitExceeded):
        _charge(prepared.placings, -1)
    _remove_drafts(prepared)


def _remove_drafts(prepared: Prepared) -> None:
    for placing in prepared.placings:
        if placing.draft is not None:
            with suppress(OSError, fs_errors.FSError):
                placing.mount.tree.inner.unstage(placing.draft)


def _place_all(prepared: Prepared) -> dict[str, Known | None]:
    """Everything into its place, our own trees first, since another may fail; how those look that
    were not written beside the tree."""
    late: dict[str, Known | None] = {}
    for is_foreign in (False, True):
        placings = [each for each in prepared.placings if each.mount.is_foreign is is_foreign]
        placings.sort(key=lambda each: each.path)
        for placing in reversed(placings):
            before, after = placing.before, placing.after
            if before is not None and (after is None or after.kind != before.kind):
                tree = placing.mount.tree.inner
                (tree.removedir if before.kind == "directory" else tree.remove)(placing.path)
        for placing in placings:
            tree = placing.mount.tree.inner
            if placing.draft is not None:
                tree.settle(placing.draft, placing.path)
            elif placing.content is not None:
                tree.writebytes(placing.path, placing.content.read())
                late[placing.whole] = _seen(placing)
            elif placing.after == DIRECTORY:
                tree.makedir(placing.path)
    return late


def _seen(placing: _Placing) -> Known | None:
    stamp = stamp_of(placing.mount.tree.inner, placing.path)
    return None if stamp is None or placing.after is None else Known(placing.after, stamp)


def _flush(contexts: Iterable[Context]) -> None:
    for context in contexts:
        for mount in context.mounts.mounts():
            flush = getattr(mount.tree.inner, "flush", None)
            if flush is not None:
                flush()
