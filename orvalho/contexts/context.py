"""Contexts: a name, the key behind it, its tree; and the registry of those on this node."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
from anyio import to_thread

from orvalho.contexts.files import ContextFiles, Mount
from orvalho.contexts.filesystem import Check, Quota, VirtualPath
from orvalho.contexts.identity import Identity, Key, Signer, certify
from orvalho.contexts.mounts.disk import RootFS
from orvalho.contexts.names import check_label, near_miss
from orvalho.contexts.namespace import Namespace
from orvalho.contexts.schemas import Schemas
from orvalho.errors import InvalidInput, NotFound, Unavailable


@dataclass(frozen=True, slots=True)
class StorageLimits:
    """What one context may hold on disk."""

    disk_bytes: int
    disk_files: int


@dataclass(frozen=True, slots=True)
class StorageUse:
    """What a context holds on disk, and may hold; directories count as files of 0 bytes."""

    used_bytes: int
    used_files: int
    limits: StorageLimits


class Context:
    """A named peer on this node. Idle, it holds no descriptor and nothing of its tree."""

    def __init__(
        self, name: str, signer: Signer, certificate: bytes, mounts: Namespace[Mount], root: Mount
    ) -> None:
        self.name = name
        self.signer = signer
        self.certificate = certificate
        self.mounts = mounts
        self.root = root
        # One commit at a time. No lock: whoever waits too long for a run may pass it.
        self.turn = anyio.Semaphore(1)
        # How many there were since the start.
        self.commits = 0
        self.schemas = Schemas(root)

    @property
    def key(self) -> Key:
        return self.signer.key

    def files(self, check: Check) -> ContextFiles:
        """Its files, as far as `check` lets through. `check` is called on the event loop."""
        return ContextFiles(self.name, self.mounts, check, self.schemas)

    def mount(self, mounted: Mapping[VirtualPath, Mount]) -> None:
        """These trees, and no others, stand in the context's own from now on. A run that is under
        way keeps those it began with."""
        self.mounts = Namespace({VirtualPath("/"): self.root, **mounted})

    async def usage(self) -> StorageUse:
        """What its tree holds now, as counted; the first call measures it.

        Raises:
            Unavailable: the tree cannot be opened.
        """
        quota = self.root.quota
        try:
            await self.root.read(lambda tree: tree.check())
        except OSError as error:
            raise Unavailable(f"{self.name} cannot be opened: {error}", where=self.name) from error
        limits = StorageLimits(quota.limit_bytes, quota.limit_files)
        return StorageUse(quota.used_bytes, quota.used_files, limits)

    def close(self) -> None:
        """Close the trees that were opened; a later use opens them again."""
        for mount in self.mounts.mounts():
            mount.close()


class Contexts:
    """The contexts of this node: the directories in `directory`, each with a derived key."""

    def __init__(
        self, directory: Path, identity: Identity, limits: StorageLimits, *, now: float
    ) -> None:
        """`now` (Unix seconds) dates the certificates, which are made anew at every start."""
        self._directory = directory
        self._identity = identity
        self._limits = limits
        self._contexts: dict[str, Context] = {}
        self._owner_view: Namespace[Mount] | None = None
        for name in _directory_names(directory):
            self._add(name, now)

    async def create(self, name: str, *, now: float) -> tuple[Context, bool]:
        """(the context, whether it is new). Its directory has mode 0700.

        Raises:
            InvalidInput: the name is no label, or something else lies where its tree would.
            Unavailable: the directory cannot be made.
        """
        check_label(name)
        if (known := self._contexts.get(name)) is not None:
            return known, False
        path = self._directory / name
        try:
            await to_thread.run_sync(_make_directory, path)
        except FileExistsError as error:
            raise InvalidInput("something that is no directory lies there", where=str(path)) from (
                error
            )
        except OSError as error:
            raise Unavailable(
                f"the context cannot be made: {error.strerror}", where=str(path)
            ) from error
        return self._add(name, now), True

    def list(self) -> tuple[Context, ...]:
        """All of them, by name."""
        return tuple(self._contexts[name] for name in sorted(self._contexts))

    def get(self, name: str) -> Context:
        """Raises:
        NotFound: there is no such context here; the hint names the nearest one.
        """
        context = self._contexts.get(name)
        if context is None:
            near = near_miss(name, self._contexts)
            raise NotFound(
                f"this node has no context {name!a}",
                hint=f"did you mean {near}?" if near else "orvalho ctx ls",
            )
        return context

    def files(self, check: Check) -> ContextFiles:
        """The owner's view: `/` lists a directory a context, `/gil/a` is `/a` of `gil`."""
        if self._owner_view is None:
            self._owner_view = Namespace(
                {
                    VirtualPath(f"/{each.name}{place}".rstrip("/")): mount
                    for each in self.list()
                    for place, mount in each.mounts.items()
                }
            )
        return ContextFiles("owner", self._owner_view, check)

    def mount(self, context: str, mounted: Mapping[VirtualPath, Mount]) -> None:
        """See `Context.mount`.

        Raises:
            NotFound: there is no such context here.
        """
        self.get(context).mount(mounted)
        self._owner_view = None

    def set_limits(self, limits: StorageLimits) -> None:
        """What each context may hold from now on; what it holds already stays."""
        self._limits = limits
        for context in self._contexts.values():
            context.root.quota.limit_bytes = limits.disk_bytes
            context.root.quota.limit_files = limits.disk_files

    def close(self) -> None:
        """Close every tree. They open again when used."""
        for context in self._contexts.values():
            context.close()

    def _add(self, name: str, now: float) -> Context:
        signer = self._identity.context(name)
        certificate = certify(self._identity.node, "context", name, signer.key, now)
        quota = Quota(
            f"context {name}",
            limit_bytes=self._limits.disk_bytes,
            limit_files=self._limits.disk_files,
        )
        root = Mount(name, _disk_tree(self._directory / name), quota)
        context = Context(name, signer, certificate, Namespace({VirtualPath("/"): root}), root)
        self._contexts[name] = context
        self._owner_view = None
        return context


def _disk_tree(path: Path) -> Callable[[], Any]:
    def open_tree() -> RootFS:
        tree = RootFS(path)
        tree.sweep()
        return tree

    return open_tree


def _make_directory(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        if path.is_symlink() or not path.is_dir():
            raise


def _directory_names(directory: Path) -> list[str]:
    if not directory.is_dir():
        return []
    with os.scandir(directory) as entries:
        names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    return sorted(name for name in names if _is_label(name))


def _is_label(name: str) -> bool:
    try:
        check_label(name)
    except InvalidInput:
        return False
    return True
