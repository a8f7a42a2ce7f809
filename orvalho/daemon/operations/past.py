"""What we do when the owner asks what a context was, or takes something back."""

from __future__ import annotations

import fnmatch
import logging
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import Any, Final

from anyio import to_thread

from orvalho.contexts import timeline
from orvalho.contexts.changes import Node
from orvalho.contexts.context import Context
from orvalho.contexts.filesystem import VirtualPath, virtual_path
from orvalho.contexts.history import Commit
from orvalho.contexts.timeline import Logged
from orvalho.contexts.undo import block_line, digest
from orvalho.control import messages as control
from orvalho.control import past
from orvalho.daemon.change_words import ChangeWords, commit_state
from orvalho.daemon.house import House
from orvalho.daemon.moments import Named, parse_moment
from orvalho.daemon.past import terms
from orvalho.errors import InvalidInput, NotFound, OrvalhoError

_log = logging.getLogger(__name__)

Replies = AsyncIterator[control.Reply]
_LOG_LIMIT: Final = 10_000
_CHUNK_BYTES: Final = 1 << 20
# Letters after `c_` or `r_` that a name needs at least.
_LEAST_NAME: Final = 4


class PastOperations:
    """`orvalho ctx log`, `diff`, `show`, `at`, `undo`, `gc`, `df` and `fsck`."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._words = ChangeWords(house.committer.contents)

    async def log(self, request: past.CtxLog) -> Replies:
        context = await self._looked_at(request.context)
        limit = min(max(request.limit, 1), _LOG_LIMIT)
        name = context.name
        found = await self._house.store.read(partial(timeline.log, context=name, limit=limit))
        edge = await self._house.store.read(partial(timeline.horizon, context=name))
        yield past.CtxLogReply(
            context=name,
            commits=tuple(commit_state(each) for each in found),
            begins_at=edge.at or None,
        )

    async def diff(self, request: past.CtxDiff) -> Replies:
        context = await self._looked_at(request.context)
        name, read = context.name, self._house.store.read
        newest = await read(partial(timeline.newest, context=name))
        end = newest if request.end is None else await self._seq(context, request.end)
        if request.start is None:
            start = await read(lambda it: timeline.before(it, name, end))
        else:
            start = await self._seq(context, request.start)
        changes = await read(lambda it: timeline.difference(it, name, start, end))
        files, values = await self._words.told(changes)
        yield past.CtxDiffReply(
            context=name,
            start=await read(lambda it: timeline.id_of(it, start)),
            end=await read(lambda it: timeline.id_of(it, end)),
            files=files,
            values=values,
        )

    async def show(self, request: past.CtxShow) -> Replies:
        commits = await self._commits(request.name, None)
        changes = await self._house.store.read(partial(timeline.changes_of, commits=commits))
        files, values = await self._words.told(changes)
        yield past.CtxShowReply(commits=await self._states(commits), files=files, values=values)

    async def at(self, request: past.CtxAt) -> Replies:
        context = await self._looked_at(request.context)
        seq = await self._seq(context, request.when)
        if request.verb == "cat":
            async for reply in self._cat(context, seq, request.argument):
                yield reply
        elif request.verb == "kv":
            name, prefix = context.name, request.argument
            values = await self._house.store.read(
                lambda it: timeline.values_at(it, name, seq, prefix)
            )
            yield past.PastValues(
                context=name,
                commit=await self._house.store.read(lambda it: timeline.id_of(it, seq)),
                values=tuple(past.PastValue(key=k, value=v) for k, v in values.items()),
            )
        else:
            yield await self._entries(context, seq, request.verb, request.argument)

    async def undo(self, request: past.CtxUndo) -> Replies:
        house = self._house
        commits = await self._commits(request.name, request.context)
        context = house.contexts.get(commits[0].context)
        if not request.plan:
            id_ = await house.past.undoing.undo(house.workspace(context), commits, request.expected)
            yield past.UndoDone(context=context.name, commit=id_)
            return
        planned = await house.past.undoing.plan(context, commits)
        files, values = await self._words.told(planned.undo.changes)
        yield past.UndoPlanned(
            context=context.name,
            commits=await self._states(commits),
            digest=digest(planned.undo.changes),
            blocks=tuple(
                past.BlockState(
                    where=each.where,
                    author=each.by.author if each.by else None,
                    cause=each.by.cause if each.by else None,
                    commit=each.by.id if each.by else None,
                    text=block_line(each),
                )
                for each in planned.blocks
            ),
            kept=planned.undo.kept,
            files=files,
            values=values,
        )

    async def gc(self, request: past.CtxGc) -> Replies:
        house = self._house
        kept = terms(house.settings.config.history, request.keep, request.max_bytes)
        if request.plan:
            pruned = await house.past.pruning.plan(kept)
        else:
            # What is only in a tree yet is no past: it is noted before anything is forgotten.
            await house.past.hand_edits.note_all()
            pruned = await house.past.pruning.prune(kept)
        yield past.CtxGcReply(
            commits=pruned.commits,
            versions=pruned.versions,
            contents=pruned.contents,
            contents_bytes=pruned.contents_bytes,
            plan=request.plan,
        )

    async def df(self, request: past.CtxDf) -> Replies:
        house = self._house
        found = house.contexts.list()
        if request.context is not None:
            found = (house.contexts.get(request.context),)
        states = []
        for context in found:
            name, use = context.name, await context.usage()
            values = await house.values_of(name).usage()
            held = await house.store.read(partial(timeline.held, context=name))
            states.append(
                past.ContextDf(
                    name=name,
                    files=use.used_files,
                    tree_bytes=use.used_bytes,
                    values=values.items,
                    values_bytes=values.used_bytes,
                    commits=held.commits,
                    past_bytes=held.past_bytes,
                    begins_at=held.begins_at,
                )
            )
        kept = await house.past.pruning.kept()
        yield past.CtxDfReply(
            contexts=tuple(states),
            contents=kept.contents,
            contents_bytes=kept.contents_bytes,
            past_bytes=kept.past_bytes,
        )

    async def fsck(self, request: past.CtxFsck) -> Replies:
        house = self._house
        found = house.contexts.list()
        if request.context is not None:
            found = (house.contexts.get(request.context),)
        checked = await house.past.checking.check(found)
        yield past.CtxFsckReply(
            contexts=checked.contexts,
            files=checked.files,
            versions=checked.versions,
            contents=checked.contents,
            problems=tuple(checked.problems),
        )

    # ---- which context, which moment -----------------------------------------------------------

    async def _looked_at(self, name: str | None) -> Context:
        """The context that is meant, with what was changed by hand in it noted. Where that cannot
        be noted the past is still there to be looked at."""
        context = self._house.caller(name, "look at")
        try:
            await self._house.past.hand_edits.note(context)
        except OrvalhoError as error:
            _log.warning("hand.not-noted", extra={"context": context.name, "why": error.message})
        return context

    async def _seq(self, context: Context, text: str) -> int:
        """Raises:
        InvalidInput: it is no moment.
        NotFound: it was before what history knows.
        """
        house, name = self._house, context.name
        moment = parse_moment(text, time.time(), None)
        if isinstance(moment, Named):
            commits = await self._commits(moment.id, name)
            if moment.before:
                return await house.store.read(lambda it: timeline.before(it, name, commits[0].seq))
            return commits[-1].seq
        seq = await house.store.read(lambda it: timeline.seq_at(it, name, moment))
        if seq == 0:
            raise NotFound(
                await house.store.read(partial(_too_early, context=name)),
                where=text,
                hint=f"orvalho ctx log {name}",
            )
        return seq

    async def _commits(self, text: str, context: str | None) -> list[Commit]:
        """The one commit, or all of one run in one context, that a text means.

        Raises:
            InvalidInput: it is no id, or may mean several.
            NotFound: there is none.
        """
        if text[:2].lower() not in ("c_", "r_") or len(text) < 2 + _LEAST_NAME:
            raise InvalidInput(
                f'"{text}" is not the id of a commit (c_...) or of a run (r_...)',
                hint="orvalho ctx log",
            )
        found = await self._house.store.read(partial(timeline.commits_named, name=text))
        if context is not None and found:
            elsewhere = found[0].context
            found = [each for each in found if each.context == context]
            if not found:
                raise NotFound(
                    f"{text} is of the context {elsewhere}, not of {context}",
                    hint=f"orvalho ctx log {elsewhere}",
                )
        if not found:
            raise await self._unknown(text)
        ids = {each.run if text[:2].lower() == "r_" else each.id for each in found}
        contexts = {each.context for each in found}
        if len(ids) > 1:
            raise InvalidInput(f"{text} may mean {', '.join(sorted(str(i) for i in ids))}")
        if len(contexts) > 1:
            raise InvalidInput(
                f"{text} changed {' and '.join(sorted(contexts))}: name the commit",
                hint=f"orvalho ctx log {min(contexts)}",
            )
        return found

    async def _unknown(self, text: str) -> NotFound:
        run = await self._house.runs.peek(text) if text.startswith("r_") else None
        if run is None:
            return NotFound(
                f"no commit here is called {text}, or it is not kept any more",
                hint="orvalho ctx log",
            )
        if run.direction == "sent":
            return NotFound(
                f"{text} ran on {run.target} and changed nothing here",
                hint=f"on {run.target.partition('@')[2]}: orvalho ctx show {text}",
            )
        return NotFound(f"{text} changed nothing here", hint=f"orvalho script show {text}")

    async def _states(self, commits: Sequence[Commit]) -> tuple[past.CommitState, ...]:
        def read(connection: sqlite3.Connection) -> list[Logged]:
            return [timeline.counted(connection, each) for each in commits]

        return tuple(commit_state(each) for each in await self._house.store.read(read))

    # ---- a look into it ------------------------------------------------------------------------

    async def _cat(self, context: Context, seq: int, argument: str) -> Replies:
        path = virtual_path(argument)
        node = await self._node(context, seq, path)
        if node is None or node.kind == "directory":
            raise InvalidInput(f"{context.name}:{path} was a directory then", where=path)
        content = await self._house.committer.contents.content(node.sha256, node.size_bytes)
        if isinstance(content.source, bytes):
            yield past.PastPart(content=content.source)
            return
        with content.source.open("rb") as file:
            while part := await to_thread.run_sync(file.read, _CHUNK_BYTES):
                yield past.PastPart(content=part)

    async def _node(self, context: Context, seq: int, path: VirtualPath) -> Node | None:
        """None for the root.

        Raises:
            NotFound: nothing was there.
        """
        if path == "/":
            return None
        node = await self._house.store.read(
            lambda it: timeline.node_at(it, context.name, seq, path)
        )
        if node is None:
            raise NotFound(f"{context.name} had no {path} then", where=path, hint="orvalho ctx log")
        return node

    async def _entries(
        self, context: Context, seq: int, verb: str, argument: str
    ) -> past.PastEntries:
        pattern = None
        if verb == "find":
            pattern, argument = argument or "*", "/"
        path = virtual_path(argument or "/")
        node = await self._node(context, seq, path)
        name = context.name
        tree = await self._house.store.read(lambda it: timeline.tree_at(it, name, seq, path))
        if verb == "ls" and (node is None or node.kind == "directory"):
            tree = {at: each for at, each in tree.items() if (at.rpartition("/")[0] or "/") == path}
        elif pattern is not None:
            tree = {at: each for at, each in tree.items() if _matches(at, pattern)}
        elif node is not None and node.kind == "directory":
            tree.pop(path, None)
        times = await self._house.store.read(lambda it: timeline.changed_at(it, name, seq, tree))
        return past.PastEntries(
            context=name,
            commit=await self._house.store.read(lambda it: timeline.id_of(it, seq)),
            entries=tuple(
                past.PastEntry(
                    path=at,
                    is_dir=each.kind == "directory",
                    size_bytes=each.size_bytes,
                    sha256=each.sha256,
                    changed_at=times.get(at),
                )
                for at, each in tree.items()
            ),
        )

    def table(self) -> dict[type[control.Message], Callable[[Any], Any]]:
        """Request -> operation."""
        return {
            past.CtxLog: self.log,
            past.CtxDiff: self.diff,
            past.CtxShow: self.show,
            past.CtxUndo: self.undo,
            past.CtxAt: self.at,
            past.CtxGc: self.gc,
            past.CtxDf: self.df,
            past.CtxFsck: self.fsck,
        }


def _matches(path: str, pattern: str) -> bool:
    """A pattern with a slash is compared with the whole path, another with the name."""
    return fnmatch.fnmatchcase(path if "/" in pattern else path.rpartition("/")[2], pattern)


def _too_early(connection: sqlite3.Connection, context: str) -> str:
    begins_at = timeline.first_at(connection, context)
    if begins_at is None:
        return f"{context} has no history yet"
    begun = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(begins_at))
    return f"the history of {context} begins at {begun}"
