"""Which variable each exported name stands for, across modules that pass names on to each other
(ECMA-262, section 16.2.1.7.2: ResolveExport and GetExportedNames).

Who writes the modules chooses how many ways lead from one to another, so each place is visited once
for a name, and all the work together is counted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from orvalho.runtime.engine import ELSEWHERE
from orvalho.runtime.engines.v8.modules import EVERYTHING, Binding, Program

DEFAULT: Final = "default"
_MOST_HOPS: Final = 500
# A second of work or so, far beyond what any real project needs.
_MOST_STEPS: Final = 500_000
_LOOK_UP_STEPS: Final = 2_000

# A variable: the module that has it, and the name that it shows it by; EVERYTHING for its
# namespace.
Variable = tuple[str, str]


class Ambiguous(Exception):
    """Two of the files that a module passes everything on from export the same name."""


class TooMuch(Exception):
    """The modules name each other in so many ways that putting them together is given up."""


class GivenUp(Exception):
    """Nobody waits for it any longer."""


class Steps:
    """Counts the work of putting one script together."""

    def __init__(self, is_over: Callable[[], bool]) -> None:
        self._is_over = is_over
        self._done = self._seen = 0

    def count(self, steps: int = 1) -> None:
        """Raises:
        TooMuch: there were too many.
        GivenUp: `is_over` says so.
        """
        self._done += steps
        if self._done > _MOST_STEPS:
            raise TooMuch
        if self._done - self._seen >= _LOOK_UP_STEPS:
            self._seen = self._done
            self.look_up()

    def look_up(self) -> None:
        """Raises:
        GivenUp: `is_over` says so.
        """
        if self._is_over():
            raise GivenUp


class Exports:
    """Those of `programs`, once every specifier is in `found`: (path, specifier) -> path."""

    def __init__(
        self,
        programs: Mapping[str, Program],
        found: Mapping[tuple[str, str], str],
        steps: Steps,
    ) -> None:
        self._programs = programs
        self._found = found
        self._steps = steps
        self._tables: dict[str, tuple[frozenset[str], dict[str, Binding], tuple[str, ...]]] = {}
        self._resolved: dict[Variable, Variable | Ambiguous | None] = {}

    def resolve(self, path: str, name: str) -> Variable | None:
        """The variable behind a name, None when there is none.

        Raises:
            Ambiguous: there are two.
            TooMuch: finding out takes too long.
        """
        key = (path, name)
        if key not in self._resolved:
            try:
                self._resolved[key] = self._search(path, name, set(), 0)
            except Ambiguous as error:
                self._resolved[key] = error
        known = self._resolved[key]
        if isinstance(known, Ambiguous):
            raise Ambiguous
        return known

    def names(self, path: str) -> set[str]:
        """All that a module exports, its own or passed on.

        Raises:
            TooMuch: they are too many.
        """
        names: set[str] = set()
        seen = {path}
        unseen = [path]
        while unseen:
            each = unseen.pop()
            own, passed, stars = self._table(each)
            self._steps.count(1 + len(own) + len(passed) + len(stars))
            names |= {name for name in (*own, *passed) if name != DEFAULT or each == path}
            new = [star for star in stars if star != ELSEWHERE and star not in seen]
            seen.update(new)
            unseen += new
        return names

    def _search(self, path: str, name: str, visited: set[Variable], depth: int) -> Variable | None:
        """What was visited in this search has told what it knows already: whatever it found is part
        of the answer, or has ended it."""
        while True:
            self._steps.count()
            if path == ELSEWHERE:
                return path, name
            if (path, name) in visited or depth > _MOST_HOPS:
                return None
            visited.add((path, name))
            own, passed, stars = self._table(path)
            if name in own:
                return path, name
            binding = passed.get(name)
            if binding is None:
                break
            path, name = self._found[path, binding.request.specifier], binding.imported
            if name == EVERYTHING:
                return path, EVERYTHING
        if name == DEFAULT:
            return None
        found: Variable | None = None
        for star in stars:
            other = self._search(star, name, visited, depth + 1)
            if other is not None and found not in (None, other):
                raise Ambiguous
            found = found or other
        return found

    def _table(self, path: str) -> tuple[frozenset[str], dict[str, Binding], tuple[str, ...]]:
        """What a module exports of its own and by name from others, and where it passes everything
        on from, each once."""
        table = self._tables.get(path)
        if table is None:
            program = self._programs[path]
            passed = {each.local: each for each in reversed(program.passed_on)}
            stars = (self._found[path, request.specifier] for request in program.stars)
            table = frozenset(program.exports), passed, tuple(dict.fromkeys(stars))
            self._tables[path] = table
        return table
