"""Taking back what commits did: what that comes to, and doing it as a commit of its own."""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
from anyio import to_thread

from orvalho.contexts import history, timeline
from orvalho.contexts.changes import Changeset, ContextChanged, FileChange, Node, changeset
from orvalho.contexts.commit import Committer, Exclusive
from orvalho.contexts.context import Context
from orvalho.contexts.filesystem import VirtualPath
from orvalho.contexts.hand_edits import HandEdits
from orvalho.contexts.history import Commit, Origin
from orvalho.contexts.workspace import Workspace
from orvalho.errors import Conflict
from orvalho.store import Store

# How long an undo may keep others from committing.
_EXCLUSIVE_S: Final = 600.0


@dataclass(frozen=True, slots=True)
class Undo:
    """What taking changes back comes to. `blocked` are paths, and `kv:key` for keys, that cannot
    be as before without taking back what others did since. `kept` are directories that stay,
    since something of others is in them."""

    changes: Changeset
    blocked: tuple[str, ...]
    kept: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Block:
    """One thing that stands in the way: where, and the commit that changed it last."""

    where: str
    by: Commit | None


@dataclass(frozen=True, slots=True)
class Planned:
    """An undo of a context as it is now."""

    undo: Undo
    blocks: tuple[Block, ...]


def plan_undo(done: Changeset, tree: Mapping[str, Node], values: Mapping[str, str | None]) -> Undo:
    """How to take `done` back in a context that has `tree` and, of the keys in `done`, `values`.
    Pure. What others changed since, elsewhere, stays."""
    back: dict[str, FileChange] = {}
    blocked: list[str] = []
    for each in done.files:
        now = tree.get(each.path)
        if now == each.before:
            continue
        if now != each.after:
            blocked.append(each.path)
            continue
        back[each.path] = FileChange(path=each.path, before=now, after=each.before)
    kept = _keep_full_directories(back, tree, blocked)
    for path in sorted(back):
        above = path.rpartition("/")[0]
        if back[path].after is not None and above:
            parent = back[above].after if above in back else tree.get(above)
            if parent is None or parent.kind != "directory":
                blocked.append(path)
    value_changes = []
    for value in done.inverted().values:
        now_value = values.get(value.key)
        if now_value == value.before:
            value_changes.append(value)
        elif now_value != value.after:
            blocked.append(f"kv:{value.key}")
    return Undo(changeset(back.values(), value_changes), tuple(blocked), tuple(kept))


def _keep_full_directories(
    back: dict[str, FileChange], tree: Mapping[str, Node], blocked: list[str]
) -> list[str]:
    """A directory in which something of others lies now stays; it cannot become a file."""
    leaving = [
        path
        for path, each in back.items()
        if each.before is not None
        and each.before.kind == "directory"
        and (each.after is None or each.after.kind == "file")
    ]
    if not leaving:
        return []
    full = {
        path.rpartition("/")[0]
        for path in (*tree, *back)
        if (back[path].after if path in back else tree[path]) is not None
    }
    kept = []
    for path in sorted(leaving, reverse=True):
        if path not in full:
            continue
        if back[path].after is None:
            del back[path]
            kept.append(path)
            full.add(path.rpartition("/")[0])
        else:
            blocked.append(path)
    return kept


def digest(changes: Changeset) -> str:
    """A name for exactly these changes."""
    return hashlib.sha256(msgspec.json.encode(changes)).hexdigest()


class Undoing:
    """Takes commits back in the contexts of one node."""

    def __init__(self, store: Store, committer: Committer, hand_edits: HandEdits) -> None:
        self._store = store
        self._committer = committer
        self._hand_edits = hand_edits

    async def plan(self, context: Context, commits: Sequence[Commit]) -> Planned:
        """What it would come to now. Edits by hand are noted first.

        Raises:
            Unavailable: the tree cannot be read.
        """
        await self._hand_edits.note(context)
        return await self._plan(context, commits)

    async def undo(
        self, workspace: Workspace, commits: Sequence[Commit], expected: str | None
    ) -> str:
        """Take these commits of one context back, in a new one; its id. `workspace` is a fresh one
        of the context; `expected` is the `digest` of what was shown, if anything was.

        Raises:
            Conflict: others have changed the same since, or there is nothing to take back.
            ContextChanged: what is to be done is not what was shown.
            NotFound: a content is not kept any more.
            LimitExceeded, Unavailable: as `Committer.commit`.
        """
        context = workspace.context
        turn = await Exclusive.take(context, _EXCLUSIVE_S)
        try:
            origin = Origin(context=context.name, author="owner", cause="hand", at=time.time())
            await self._hand_edits.note_in_turn(context, origin)
            planned = await self._plan(context, commits)
            changes = planned.undo.changes
            if planned.blocks:
                raise blocked(planned.blocks)
            if not changes:
                raise Conflict(
                    f"{commits[-1].id} is taken back already: there is nothing to change",
                    where=context.name,
                )
            if expected is not None and expected != digest(changes):
                raise ContextChanged(
                    f"{context.name} was changed meanwhile: this is not what was shown",
                    where=context.name,
                    hint="orvalho ctx undo",
                )
            return await self._apply(workspace, changes, commits, turn)
        finally:
            turn.release()
            await to_thread.run_sync(workspace.discard)

    async def _plan(self, context: Context, commits: Sequence[Commit]) -> Planned:
        name = context.name

        def read(connection: sqlite3.Connection) -> Planned:
            newest = timeline.newest(connection, name)
            done = timeline.changes_of(connection, commits)
            tree = timeline.tree_at(connection, name, newest)
            values = {
                each.key: timeline.value_at(connection, name, newest, each.key)
                for each in done.values
            }
            undo = plan_undo(done, tree, values)
            return Planned(undo, _blocks(connection, name, undo))

        return await self._store.read(read)

    async def _apply(
        self,
        workspace: Workspace,
        changes: Changeset,
        commits: Sequence[Commit],
        turn: Exclusive,
    ) -> str:
        context = workspace.context
        await self._put(workspace, changes)
        now = time.time()
        origin = Origin(
            context=context.name,
            author="owner",
            cause="undo",
            at=now,
            note=" ".join(f"takes back {each.id}" for each in commits[:1]),
        )
        id_ = history.new_commit_id(now)
        await self._committer.commit(
            workspace, origin, lambda _connection: None, name="commit.undo", id_=id_, turn=turn
        )
        return id_

    async def _put(self, workspace: Workspace, changes: Changeset) -> None:
        """Have the changes in the workspace, if the context is as they say it was."""
        name = workspace.context.name
        nodes = [each.after for each in changes.files if each.after is not None]
        contents = await self._committer.contents.contents(nodes)
        paths = [each.path for each in changes.files]
        known = await self._store.read(lambda it: history.known(it, name, paths))

        def put() -> None:
            for each in changes.files:
                mount, overlay, path = workspace.overlay_at(VirtualPath(each.path))
                found = self._committer.contents.node_at(
                    mount.lower, path, overlay.found(path), known.get(each.path), []
                )
                if found != each.before:
                    raise ContextChanged(
                        f"{each.path} was changed by hand just now", where=each.path
                    )
            for each in reversed(changes.files):
                _, overlay, path = workspace.overlay_at(VirtualPath(each.path))
                overlay.drop(path)
            for each in changes.files:
                if each.after is not None:
                    _, overlay, path = workspace.overlay_at(VirtualPath(each.path))
                    overlay.put(path, contents.get(each.after.sha256))

        await to_thread.run_sync(put)
        for value in changes.values:
            if value.after is None:
                await workspace.values.delete(value.key)
            else:
                await workspace.values.put(value.key, value.after)


def blocked(blocks: Sequence[Block]) -> Conflict:
    """The refusal of an undo, with all that stands in its way."""
    return Conflict(
        "others have changed the same since: nothing was taken back",
        where=blocks[0].where,
        hint="orvalho ctx log",
        detail="\n".join(block_line(each) for each in blocks),
    )


def block_line(block: Block) -> str:
    """`/a.txt was changed since by gil@laptop (run, c_01...)`."""
    if block.by is None:
        return f"{block.where} was changed since"
    return f"{block.where} was changed since by {block.by.author} ({block.by.cause}, {block.by.id})"


def _blocks(connection: sqlite3.Connection, context: str, undo: Undo) -> tuple[Block, ...]:
    paths = [each for each in undo.blocked if not each.startswith("kv:")]
    keys = [each.removeprefix("kv:") for each in undo.blocked if each.startswith("kv:")]
    last = timeline.last_changes(connection, context, paths, keys)
    for path in paths:
        # Its directory is gone, or is a file now: whoever did that.
        above = path.rpartition("/")[0]
        while path not in last and above:
            found = timeline.last_changes(connection, context, [above], [])
            if above in found:
                last[path] = found[above]
            above = above.rpartition("/")[0]
    return tuple(Block(each, last.get(each)) for each in undo.blocked)
