"""What a Starlark source loads, settled before any of it runs: paths, order, circles.

`load("./counts.star", "total")` is a file that travels with the script, `load("lib:counts",
"total")` one of the target's. A file is evaluated once, before the first that loads it, and frozen.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from orvalho.errors import InvalidInput
from orvalho.runtime.engine import ELSEWHERE, Modules, Problem, Request
from orvalho.runtime.engines.blocking import Thrown
from orvalho.scripts.modules import is_named, resolve

_PLACE: Final = re.compile(r":(\d+):(\d+)")
_LOAD: Final = re.compile(r"\bload\s*\(\s*[\"'](?P<name>[^\"'\n]*)[\"']")


class Program(Protocol):
    """A source that was parsed (`starlark.AstModule`)."""

    def loads(self) -> Any: ...


Parse = Callable[[str, str], Program]


@dataclass(frozen=True, slots=True)
class Linked:
    """One source, and the path behind each specifier that it loads."""

    path: str
    program: Program
    targets: Mapping[str, str]


@dataclass(slots=True)
class Links:
    """`order`: every source, each after all that it loads; the script itself is the last."""

    order: list[Linked] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def requests(source: str, program: Program) -> Iterator[Request]:
    """What it loads, in order, with the places."""
    places = _LOAD.finditer(source)
    line, column, counted = 1, 1, 0
    for load in program.loads():
        found = next((each for each in places if each["name"] == load.module_id), None)
        if found is not None:
            # Counted on from the place before: what is long may load much.
            line += source.count("\n", counted, found.start("name"))
            counted = found.start("name")
            column = counted - 1 - source.rfind("\n", 0, counted)
        yield Request(load.module_id, line, column)


def link(filename: str, source: str, modules: Modules, parse: Parse) -> Links:
    """Parse a script with all that it loads. What only its target has is left out."""
    walk = _Walk(filename, modules, parse)
    walk.visit(filename, source, ())
    return walk.links


class _Walk:
    def __init__(self, filename: str, modules: Modules, parse: Parse) -> None:
        self._filename = filename
        self._modules = modules
        self._parse = parse
        self._seen: set[str] = set()
        self.links = Links()

    def visit(self, path: str, source: str, above: tuple[str, ...]) -> None:
        self._seen.add(path)
        try:
            program = self._parse(path, source)
        except Thrown as thrown:
            place = _PLACE.search(thrown.stack)
            line, column = (int(place[1]), int(place[2])) if place else (1, 1)
            self._problem(path, line, column, thrown.message)
            return
        targets: dict[str, str] = {}
        for request in requests(source, program):
            found = self._target(request, path, (*above, path))
            if found is not None:
                targets[request.specifier] = found
        self.links.order.append(Linked(path, program, targets))

    def _target(self, request: Request, path: str, above: tuple[str, ...]) -> str | None:
        """The path that is loaded, once it has been visited; None with a problem."""
        at = (path, request.line, request.column)
        try:
            found = resolve(request.specifier, path)
        except InvalidInput as error:
            self._problem(*at, error.message)
            return None
        if is_named(found):
            named = self._modules.names.get(found)
            if named is None:
                self._problem(*at, f'there is no library "{found}"')
                return None
            if named == ELSEWHERE:
                return ELSEWHERE
            found = named
        if found in above:
            circle = " loads ".join((*above[above.index(found) :], found))
            self._problem(*at, f"files load each other in a circle: {circle}")
            return None
        text = self._modules.sources.get(found)
        if text is None:
            self._problem(*at, f'"{request.specifier}" did not come with the script')
            return None
        if found not in self._seen:
            self.visit(found, text, above)
        return found

    def _problem(self, path: str, line: int, column: int, message: str) -> None:
        file = "" if path == self._filename else path
        self.links.problems.append(Problem(line, column, message, file))
