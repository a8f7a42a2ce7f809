"""A tree of globs: which of thousands match a path, at the cost of the few that nearly do.

Each name of a path is one step down. A step follows a dictionary for plain names, and a table of
fixed parts for names with holes, so that rules which cannot match are never looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Generic, TypeVar

from orvalho.policies.globs import DEEP, Glob, Star, Token

T = TypeVar("T")


class GlobTree(Generic[T]):
    """Maps globs to values. Filled first, then only read: `find` may run on any thread."""

    def __init__(self) -> None:
        self._root: _Node[T] = _Node()

    def add(self, glob: Glob, value: T) -> None:
        for way in glob.ways:
            node = self._root
            for token in way:
                node = node.step(token)
            node.values.append(value)

    def find(self, names: Sequence[str]) -> Iterator[T]:
        """The values of the globs that match the path with these `names` (`path.split("/")`).
        A glob that matches in two ways may give its value twice."""
        here: set[_Node[T]] = set()
        _enter(here, self._root)
        for name in names:
            there: set[_Node[T]] = set()
            for node in here:
                node.follow(name, there)
            here = there
            if not here:
                return
        for node in here:
            yield from node.values


class _Node(Generic[T]):
    __slots__ = ("deep", "is_deep", "plain", "stars", "values")

    def __init__(self) -> None:
        self.values: list[T] = []
        self.plain: dict[str, _Node[T]] = {}
        self.stars: _Stars[T] | None = None
        self.deep: _Node[T] | None = None
        self.is_deep = False

    def step(self, token: Token) -> _Node[T]:
        """The child for `token`, made when there is none."""
        if token is DEEP:
            if self.deep is None:
                self.deep = _Node()
                self.deep.is_deep = True
            return self.deep
        if isinstance(token, Star):
            if self.stars is None:
                self.stars = _Stars()
            return self.stars.step(token)
        return self.plain.setdefault(token, _Node())

    def follow(self, name: str, there: set[_Node[T]]) -> None:
        if self.is_deep:
            there.add(self)
        child = self.plain.get(name)
        if child is not None:
            _enter(there, child)
        if self.stars is not None:
            for child in self.stars.find(name):
                _enter(there, child)


def _enter(nodes: set[_Node[T]], node: _Node[T]) -> None:
    nodes.add(node)
    # `**` may stand for no name at all, so whoever is here is also behind it.
    while node.deep is not None:
        node = node.deep
        nodes.add(node)


class _Stars(Generic[T]):
    """Names with holes, each filed under the longest of its fixed parts: how it begins, how it
    ends, or something in between. A name is looked up by its own parts of those lengths."""

    __slots__ = ("beginnings", "children", "endings", "middles")

    def __init__(self) -> None:
        self.children: dict[Star, _Node[T]] = {}
        self.beginnings: _Shelves = {}
        self.endings: _Shelves = {}
        self.middles: _Shelves = {}

    def step(self, star: Star) -> _Node[T]:
        if star not in self.children:
            self.children[star] = _Node()
            longest = max(star.parts, key=len)
            if longest == star.parts[0]:
                shelves = self.beginnings
            elif longest == star.parts[-1]:
                shelves = self.endings
            else:
                shelves = self.middles
            shelves.setdefault(len(longest), {}).setdefault(longest, []).append(star)
        return self.children[star]

    def find(self, name: str) -> Iterator[_Node[T]]:
        for star in self._candidates(name):
            if star.matches(name):
                yield self.children[star]

    def _candidates(self, name: str) -> Iterator[Star]:
        for length, shelf in self.beginnings.items():
            yield from shelf.get(name[:length], ())
        for length, shelf in self.endings.items():
            yield from shelf.get(name[-length:], ())
        for length, shelf in self.middles.items():
            for at in range(len(name) - length + 1):
                yield from shelf.get(name[at : at + length], ())


# Length of a part -> the part -> whatever is filed under it.
_Shelves = dict[int, dict[str, list[Star]]]
