"""Contexts with a history, without a daemon around them."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from orvalho.contexts import contents, documents, history, kv, timeline
from orvalho.contexts.commit import Committer
from orvalho.contexts.contents import Contents
from orvalho.contexts.context import Context, Contexts, StorageLimits
from orvalho.contexts.history import Commit, Origin, new_commit_id
from orvalho.contexts.identity import Identity
from orvalho.contexts.kv import KeyValue, KvLimits
from orvalho.contexts.workspace import Workspace
from orvalho.daemon.past import Past
from orvalho.errors import NotFound
from orvalho.store import CommitHook, Store, open_store

LIMITS = StorageLimits(disk_bytes=1 << 30, disk_files=1 << 20)
KV_LIMITS = KvLimits(value_bytes=1 << 20, total_bytes=1 << 26, items=100_000)
MIGRATIONS = (
    kv.MIGRATIONS,
    documents.MIGRATIONS,
    contents.MIGRATIONS,
    history.MIGRATIONS,
)
# Stands for a directory in what `change` is given, and what `on_disk` answers.
FOLDER = object()


def allow(action, path):
    pass


@dataclass
class Kept:
    """One node's contexts; `alice` is the one that the short calls are about."""

    top: Path
    store: Store
    contexts: Contexts
    committer: Committer
    past: Past
    alice: Context

    @property
    def tree(self) -> Path:
        return self.top / "contexts" / "alice"

    def workspace(self, context: Context | None = None) -> Workspace:
        context = context or self.alice
        values = KeyValue(self.store, context.name, KV_LIMITS)
        return Workspace(context, values, self.committer.contents.draft)

    async def change(
        self,
        files: Mapping[str, object] | None = None,
        values: Mapping[str, str | None] | None = None,
        *,
        author: str = "gil@laptop",
        run: str | None = None,
        at: float | None = None,
        workspace: Workspace | None = None,
    ) -> str:
        """Commit it as a run would; the commit's id. None takes away."""
        workspace = workspace or self.workspace()
        await fill(workspace, files or {}, values or {})
        origin = Origin(
            context=workspace.context.name,
            author=author,
            cause="run",
            at=at or time.time(),
            run=run,
        )
        id_ = new_commit_id(time.time())
        await self.committer.commit(
            workspace, origin, lambda _connection: None, name="run.ended", id_=id_
        )
        workspace.discard()
        return id_

    async def commit_of(self, id_: str) -> Commit:
        found = await self.store.read(lambda it: timeline.commits_named(it, id_))
        if not found:
            raise NotFound("it is not kept any more", where=id_)
        return found[0]

    async def undo(self, *ids: str) -> str:
        commits = [await self.commit_of(each) for each in ids]
        return await self.past.undoing.undo(self.workspace(), commits, None)

    async def log(self) -> list[tuple[str, str, str]]:
        """(cause, author, +a ~b -c), oldest first."""
        found = await self.store.read(lambda it: timeline.log(it, "alice", 1000))
        return [
            (each.commit.cause, each.commit.author, f"+{each.added} ~{each.changed} -{each.gone}")
            for each in reversed(found)
        ]

    async def problems(self) -> list[str]:
        return (await self.past.checking.check(self.contexts.list())).problems

    async def values(self) -> dict[str, str]:
        store = KeyValue(self.store, "alice", KV_LIMITS)
        return {key: await store.get(key) for key in await store.list()}

    def on_disk(self) -> dict[str, object]:
        return on_disk(self.tree)


async def fill(
    workspace: Workspace, files: Mapping[str, object], values: Mapping[str, str | None]
) -> None:
    tree = workspace.files(allow)
    for path, content in files.items():
        if content is None:
            await tree.remove(path, recursive=True)
        elif content is FOLDER:
            await tree.mkdir(path)
        else:
            await tree.write(path, content)
    for key, value in values.items():
        if value is None:
            await workspace.values.delete(key)
        else:
            await workspace.values.put(key, value)


def on_disk(top: Path) -> dict[str, object]:
    return {
        f"/{each.relative_to(top)}": FOLDER if each.is_dir() else each.read_bytes()
        for each in top.rglob("*")
    }


@asynccontextmanager
async def kept(top: Path, on_commit: CommitHook | None = None) -> AsyncIterator[Kept]:
    keys = top / "keys"
    identity = Identity.load(keys) if keys.exists() else Identity.create(keys)
    async with open_store(top / "orvalho.db", MIGRATIONS, on_commit) as store:
        contexts = Contexts(top / "contexts", identity, LIMITS, now=1000.0)
        alice, _ = await contexts.create("alice", now=1000.0)
        committer = Committer(store, contexts, Contents(store, top / "contents"))
        await committer.recover()
        past = Past.make(store, contexts, committer)
        try:
            yield Kept(top, store, contexts, committer, past, alice)
        finally:
            contexts.close()
