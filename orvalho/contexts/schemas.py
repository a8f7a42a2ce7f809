"""The schemas of one context: read from its own tree, and read again when they have changed."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final, Protocol, TypeVar

import anyio

from orvalho.contexts.bindings import FOLDER, Bindings, is_schema, read_bindings
from orvalho.contexts.filesystem import GuardedFS, VirtualPath
from orvalho.contexts.fs_shim import fs_errors
from orvalho.contexts.schema import MAX_SCHEMA_BYTES
from orvalho.errors import OrvalhoError

T = TypeVar("T")

# What the owner changes with an editor is seen at the latest so long after.
FRESH_S: Final = 1.0
# A file changed so lately may be changed once more without its time telling.
_UNSURE_S: Final = 2.0

_State = tuple[tuple[str, int, float], ...]


class Tree(Protocol):
    """A context's own tree, `files.Mount`."""

    async def read(self, call: Callable[[GuardedFS], T]) -> T: ...


class Schemas:
    """What may be written to one context, as its `/schema` says now."""

    def __init__(self, mount: Tree, clock: Callable[[], float] = time.monotonic) -> None:
        """`mount` is the context's own tree."""
        self._mount = mount
        self._clock = clock
        self._bindings = Bindings()
        self._state: _State | None = None
        self._looked_at: float | None = None
        self._changes = 0
        # Grows whenever what `current` gives may be another than before.
        self.generation = 0
        self._looking = anyio.Lock()

    async def current(self) -> Bindings:
        """The bindings, at most a second old where the owner changes them by hand; what is changed
        through this node is seen at once. Never fails: what cannot be read closes the context."""
        if self._is_fresh():
            return self._bindings
        async with self._looking:
            while not self._is_fresh():
                changes = self._changes
                try:
                    found = await self._mount.read(self._look)
                except (OSError, OrvalhoError) as error:
                    found = None, Bindings(closed=f"schema: it cannot be read: {_told(error)}")
                if found is not None:
                    self._state, self._bindings = found
                    self.generation += 1
                # Changed while we looked: then we may have looked too early.
                if changes == self._changes:
                    self._looked_at = self._clock()
        return self._bindings

    def changed(self, place: VirtualPath) -> None:
        """Something at `place` has been written, moved or removed through this node."""
        if place == "/" or is_schema(place):
            self._changes += 1
            self._looked_at = None

    def _is_fresh(self) -> bool:
        return self._looked_at is not None and self._clock() - self._looked_at < FRESH_S

    def _look(self, tree: GuardedFS) -> tuple[_State | None, Bindings] | None:
        """The state of the files and what they say; None where they are as they were."""
        try:
            infos = _files(tree)
            newest = max((info[2] for info in infos), default=0.0)
            state = None if abs(time.time() - newest) < _UNSURE_S else infos
            if infos == self._state and state is not None:
                return None
            found = read_bindings(lambda name: _read(tree, name))
        except (fs_errors.FSError, OSError, OrvalhoError) as error:
            return None, Bindings(closed=f"schema: it cannot be read: {_told(error)}")
        return state, found


def _told(error: Exception) -> str:
    return error.message if isinstance(error, OrvalhoError) else str(error)


def _files(tree: Any) -> _State:
    try:
        infos = list(tree.scandir(FOLDER, ["basic", "details"]))
    except fs_errors.ResourceNotFound:
        return ()
    return tuple(
        (info.name, int(info.size), float(info.raw["details"].get("modified") or 0.0))
        for info in infos
        if not info.is_dir
    )


def _read(tree: GuardedFS, name: str) -> bytes | None:
    try:
        return tree.read_at_most(f"{FOLDER}/{name}", MAX_SCHEMA_BYTES)
    except fs_errors.ResourceNotFound:
        return None
