"""One run's view of a context: its trees and values, with the run's own changes on top."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

from orvalho.contexts.changes import ContextChanged
from orvalho.contexts.context import Context
from orvalho.contexts.files import ContextFiles, Mount
from orvalho.contexts.filesystem import Check, Quota, VirtualPath
from orvalho.contexts.kv import KeyValue
from orvalho.contexts.kv_overlay import KeyValueOverlay
from orvalho.contexts.mounts.overlay import Draft, OverlayFS
from orvalho.contexts.namespace import Namespace
from orvalho.errors import NotFound


class OverlayMount(Mount):
    """`lower` with changes on top, which count against a copy of its quota until they are
    committed."""

    def __init__(self, lower: Mount, draft: Draft) -> None:
        self.lower = lower
        self._draft = draft
        self.overlay: OverlayFS | None = None
        base = lower.quota
        quota = Quota(base.owner, limit_bytes=base.limit_bytes, limit_files=base.limit_files)
        super().__init__(lower.owner, self._open_overlay, quota)

    def _open_overlay(self) -> Any:
        # The first use of the tree below measures it.
        self.overlay = OverlayFS(self.lower.tree.inner, self._draft)
        return self.overlay

    def _measure(self, inner: Any) -> None:
        self.quota.used_bytes = self.lower.quota.used_bytes
        self.quota.used_files = self.lower.quota.used_files


@dataclass(frozen=True, slots=True)
class Part:
    """The changes on one mount: where it stands, and both trees."""

    place: VirtualPath
    mount: OverlayMount
    overlay: OverlayFS

    def whole(self, path: str) -> str:
        """The path in the context of a path in the mount."""
        return path if self.place == "/" else f"{self.place}{path.rstrip('/')}"


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

    def files(self, check: Check) -> ContextFiles:
        """The context's files as the run sees and changes them."""
        return ContextFiles(self.context.name, self._namespace, check)

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
