"""One run's view of a context: its trees and values, with the run's own changes on top."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import anyio
import msgspec
from anyio import to_thread

from orvalho.contexts.bindings import Bindings
from orvalho.contexts.changes import Content, ContextChanged
from orvalho.contexts.context import Context
from orvalho.contexts.files import ContextFiles, Mount
from orvalho.contexts.filesystem import Check, GuardedFS, Quota, VirtualPath, unchecked
from orvalho.contexts.kv import KeyValue
from orvalho.contexts.kv_overlay import FrozenValues, KeyValueOverlay
from orvalho.contexts.mounted import refuse_writes
from orvalho.contexts.mounts.overlay import Draft, FrozenTree, OverlayFS
from orvalho.contexts.namespace import Namespace
from orvalho.errors import NotFound

T = TypeVar("T")


class OverlayMount(Mount):
    """`lower` with changes on top, which count against a copy of its quota until they are
    committed."""

    def __init__(self, lower: Mount, draft: Draft) -> None:
        self.lower = lower
        self._draft = draft
        self._writing: anyio.Lock | None = None
        self.overlay: OverlayFS | None = None
        base = lower.quota
        quota = Quota(base.owner, limit_bytes=base.limit_bytes, limit_files=base.limit_files)
        super().__init__(lower.owner, self._open_overlay, quota)

    @property
    def tree(self) -> GuardedFS:
        if self._tree is None:
            check = refuse_writes if self.lower.is_read_only else unchecked
            self._tree = GuardedFS(self._open_overlay(), check, self.quota)
            self.quota.used_bytes = self.lower.quota.used_bytes
            self.quota.used_files = self.lower.quota.used_files
        return self._tree

    async def read(self, call: Callable[[GuardedFS], T]) -> T:
        """As the tree below does it: in its time, or not at all."""
        return await self.lower.read(lambda _: call(self.tree))

    async def write(self, call: Callable[[GuardedFS], T]) -> T:
        """The same, alone: what is written stays here, and the tree below is only read."""
        if self._writing is None:
            self._writing = anyio.Lock()
        async with self._writing:
            return await self.read(call)

    def _open_overlay(self) -> Any:
        # The first use of the tree below measures it.
        self.overlay = OverlayFS(self.lower.tree.inner, self._draft)
        return self.overlay


@dataclass(frozen=True, slots=True)
class Part:
    """The changes on one mount: where it stands, and both trees."""

    place: VirtualPath
    mount: OverlayMount
    overlay: OverlayFS

    def whole(self, path: str) -> str:
        """The path in the context of a path in the mount."""
        return path if self.place == "/" else f"{self.place}{path.rstrip('/')}"


class FrozenWorkspace(msgspec.Struct, frozen=True, kw_only=True):
    """A workspace without the contents of its files; `trees` by the places of their mounts."""

    trees: dict[str, FrozenTree]
    values: FrozenValues

    def contents(self) -> dict[str, int]:
        """The SHA-256 of each content that it needs, and its size in bytes."""
        nodes = (node for tree in self.trees.values() for node in tree.changed.values())
        return {node.sha256: node.size_bytes for node in nodes if node and node.kind == "file"}


class Workspace:
    """What a run reads and changes. Nothing of it is in the context before it is committed."""

    def __init__(self, context: Context, values: KeyValue, draft: Draft) -> None:
        self.context = context
        self.values = KeyValueOverlay(values)
        self._mounts = {
            place: OverlayMount(mount, draft) for place, mount in context.mounts.items()
        }
        self._namespace: Namespace[Mount] = Namespace(self._mounts)
        self.begun_at_commit = context.commits
        self._fits_at = context.schemas.generation

    def files(self, check: Check) -> ContextFiles:
        """The context's files as the run sees and changes them."""
        return ContextFiles(self.context.name, self._namespace, check, self.context.schemas)

    @property
    def is_changed(self) -> bool:
        return self.values.is_changed or any(part.overlay.is_changed for part in self.parts())

    @property
    def has_looked(self) -> bool:
        return self.values.has_looked or any(part.overlay.has_looked for part in self.parts())

    def parts(self) -> Iterator[Part]:
        """The mounts that were used, by place."""
        for place, mount in sorted(self._mounts.items()):
            if mount.overlay is not None:
                yield Part(place, mount, mount.overlay)

    def freeze(self) -> tuple[bytes, list[Content]]:
        """All of it as bytes, and the contents to keep for `thaw`."""
        parts = list(self.parts())
        frozen = FrozenWorkspace(
            trees={str(part.place): part.overlay.freeze() for part in parts},
            values=self.values.freeze(),
        )
        contents = [content for part in parts for content in part.overlay.contents()]
        return msgspec.msgpack.encode(frozen), contents

    def thaw(self, frozen: FrozenWorkspace, contents: Mapping[str, Content]) -> None:
        """Be again what `freeze` was called on. `contents`: by SHA-256. In a thread.

        Raises:
            ContextChanged: a mount is not there any more.
        """
        self._fits_at = -1
        self.values.thaw(frozen.values)
        for place, tree in frozen.trees.items():
            mount = self._mounts.get(VirtualPath(place))
            if mount is None:
                raise ContextChanged(f"nothing is mounted at {place} any more", where=place)
            mount.tree.check()
            assert mount.overlay is not None, "its tree was just opened"
            mount.overlay.thaw(tree, contents)

    def overlay_at(self, path: VirtualPath) -> tuple[OverlayMount, OverlayFS, str]:
        """Whose changes a path of the context belongs to, and the path there. In a thread.

        Raises:
            NotFound: nothing is mounted there.
        """
        resolved = self._namespace.resolve(path)
        if resolved is None:
            raise NotFound(f"{self.context.name} has no {path}", where=path)
        mount, rest = resolved
        mount = cast("OverlayMount", mount)
        inner = mount.tree.inner
        assert isinstance(inner, OverlayFS), "its tree is what it opens"
        return mount, inner, rest

    async def refit(self) -> None:
        """Hold what it changes against the schemas of now, where they may be others than those
        that let it through.

        Raises:
            InvalidInput, LimitExceeded: it does not fit them.
        """
        schemas = self.context.schemas
        bindings = await schemas.current()
        if schemas.generation != self._fits_at:
            await to_thread.run_sync(self._refit, bindings)

    def _refit(self, bindings: Bindings) -> None:
        self.values.refit(bindings)
        for part in self.parts():
            for path, content in part.overlay.changed().items():
                if isinstance(content, Content):
                    place = VirtualPath(part.whole(path))
                    bindings.check_file(place, content.size_bytes, content.read)

    def refuse_stale_files(self) -> None:
        """In a thread.

        Raises:
            ContextChanged: a file is not any more as the run found it.
        """
        for part in self.parts():
            if (path := part.overlay.stale()) is not None:
                whole = part.whole(path)
                raise ContextChanged(
                    f"{self.context.name}:{whole} was changed by another meanwhile", where=whole
                )

    @property
    def has_drafts(self) -> bool:
        return any(part.overlay.has_drafts for part in self.parts())

    def discard(self) -> None:
        """Let go of what it drafted. In a thread."""
        for part in self.parts():
            part.overlay.discard()
