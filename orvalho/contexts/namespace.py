"""A mount table: which mount a path lies in, and where in it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, TypeVar

from orvalho.contexts.filesystem import VirtualPath

M = TypeVar("M")

_ROOT = VirtualPath("/")


class Namespace(Generic[M]):
    """Mounts by their place; the longest place that holds a path wins, and none need be at `/`."""

    def __init__(self, mounts: Mapping[VirtualPath, M]) -> None:
        self._mounts = dict(mounts)
        # A child of every place on the way to a mount, so that a listing shows the way there.
        self._below: dict[str, set[str]] = {"/": set()}
        for place in mounts:
            at = ""
            for name in _names(place):
                self._below.setdefault(at or "/", set()).add(name)
                at = f"{at}/{name}"

    def resolve(self, path: VirtualPath) -> tuple[M, VirtualPath] | None:
        """(mount, path within it); None where nothing is mounted."""
        at: str = path
        while at:
            mount = self._mounts.get(VirtualPath(at))
            if mount is not None:
                return mount, VirtualPath(path[len(at) :] or "/")
            at = at.rpartition("/")[0]
        mount = self._mounts.get(_ROOT)
        return None if mount is None else (mount, path)

    def children(self, path: VirtualPath) -> frozenset[str]:
        """The names right below `path` that mounts stand at or under."""
        return frozenset(self._below.get(path, ()))

    def is_place(self, path: VirtualPath) -> bool:
        """A mount stands here, or under here: it can be neither removed nor moved."""
        return path in self._mounts or path in self._below

    def items(self) -> tuple[tuple[VirtualPath, M], ...]:
        """(place, mount) of each."""
        return tuple(self._mounts.items())

    def mounts(self) -> tuple[M, ...]:
        return tuple(self._mounts.values())


def _names(place: VirtualPath) -> list[str]:
    return [name for name in place.split("/") if name]
