"""The modules of a script, put together: which file each specifier names, which variable each
imported name stands for, and in which order they run (ECMA-262, section 16.2.1).

All of it is settled before anything runs, so what does not fit is told with its place.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final
from urllib.parse import quote

from orvalho.contexts.names import near_miss
from orvalho.errors import InvalidInput
from orvalho.runtime.engine import ELSEWHERE, Modules, Problem, Request
from orvalho.runtime.engines.v8.exports import (
    DEFAULT,
    Ambiguous,
    Exports,
    GivenUp,
    Steps,
    TooMuch,
    Variable,
)
from orvalho.runtime.engines.v8.modules import EVERYTHING, Binding, Program
from orvalho.runtime.engines.v8.syntax import utf16_units
from orvalho.scripts.modules import is_named, resolve

_MOST_PROBLEMS: Final = 20
_TOO_MUCH: Final = "its modules name each other in more ways than can be looked through"


@dataclass(frozen=True, slots=True)
class Linked:
    """`plan` is what `modules.js` takes, as JSON can hold it. `programs` are those of the plan, in
    its order, `paths` theirs; the first is the script's own and has none."""

    programs: tuple[Program, ...]
    paths: tuple[str, ...] = ("",)
    plan: Mapping[str, Any] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()


def link(
    filename: str,
    source: str,
    modules: Modules,
    lower: Callable[[str, str, bool], Program],
    is_over: Callable[[], bool] = lambda: False,
) -> Linked | None:
    """Put a script and its modules together. Never fails: what is wrong is in `problems`. `lower`
    reads one of them; its last argument is whether that is the script itself. None: `is_over` said
    in between that nobody waits for it."""
    linking = _Linking(filename, modules, lower, Steps(is_over))
    plan: Mapping[str, Any] = {}
    try:
        linking.read(filename, source)
        linking.check()
        if not linking.problems and ELSEWHERE not in modules.names.values():
            plan = linking.plan()
    except TooMuch:
        linking.problems.append(Problem(1, 1, _TOO_MUCH))
    except GivenUp:
        return None
    programs = tuple(linking.programs.values())
    paths = ("", *list(linking.programs)[1:])
    return Linked(programs, paths, plan, tuple(linking.problems[:_MOST_PROBLEMS]))


class _Linking:
    def __init__(
        self,
        entry: str,
        modules: Modules,
        lower: Callable[[str, str, bool], Program],
        steps: Steps,
    ) -> None:
        self._entry = entry
        self._modules = modules
        self._lower = lower
        self._steps = steps
        self.programs: dict[str, Program] = {}
        self.problems: list[Problem] = []
        self._found: dict[tuple[str, str], str] = {}
        self._exports = Exports(self.programs, self._found, steps)
        self._orders: dict[str, list[int]] = {}

    def read(self, filename: str, source: str) -> None:
        """The script, and every module that is reached from it."""
        self.programs[filename] = self._lower(filename, source, True)
        unread = [filename]
        while unread:
            self._steps.look_up()
            path = unread.pop()
            program = self.programs[path]
            is_entry = path == self._entry
            for each in program.problems:
                self._problem("" if is_entry else path, each.line, each.column, each.message)
            for request in (*program.requests, *program.dynamic):
                found = self._find(path, request)
                if found and found not in self.programs:
                    text = self._modules.sources[found]
                    self.programs[found] = self._lower(found, text, False)
                    unread.append(found)

    def _find(self, path: str, request: Request) -> str | None:
        where = "" if path == self._entry else path
        try:
            found = resolve(request.specifier, path)
        except InvalidInput as error:
            self._problem(where, request.line, request.column, error.message)
            return None
        if is_named(found):
            found = self._modules.names.get(found, found)
        if found not in (ELSEWHERE, self._entry) and found not in self._modules.sources:
            message = f'"{request.specifier}" did not come with the script'
            if is_named(found):
                message = f'there is no "{request.specifier}" here'
                near = near_miss(found, self._modules.names)
                message += f', did you mean "{near}"?' if near else ""
            self._problem(where, request.line, request.column, message)
            return None
        self._found[path, request.specifier] = found
        return found

    def check(self) -> None:
        """Every name that is imported must stand for one variable."""
        if self.problems:
            return
        for path, program in self.programs.items():
            for binding in (*program.bindings, *program.passed_on):
                self._check(path, binding)
                if len(self.problems) >= _MOST_PROBLEMS:
                    return

    def _check(self, path: str, binding: Binding) -> None:
        request, name = binding.request, binding.imported
        if name == EVERYTHING:
            return
        target = self._found[path, request.specifier]
        try:
            if self._exports.resolve(target, name) is not None:
                return
            message = f'"{request.specifier}" has no export named "{name}"'
            near = near_miss(name, self._exports.names(target))
            if name == DEFAULT:
                message = f'"{request.specifier}" has no default export'
            elif near:
                message += f', did you mean "{near}"?'
            elif target.endswith((".ts", ".mts")):
                message += ": if it is a type, write import type"
        except Ambiguous:
            message = f'"{request.specifier}" passes two different "{name}" on'
        where = "" if path == self._entry else path
        self._problem(where, request.line, request.column, message)

    def _problem(self, file: str, line: int, column: int, message: str) -> None:
        self.problems.append(Problem(line, column, message, file))

    # ---- the plan ----------------------------------------------------------------------------

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {path: number for number, path in enumerate(self.programs)}

    def plan(self) -> dict[str, Any]:
        entry = self.programs[self._entry]
        default = None if entry.is_bare else self._exports.resolve(self._entry, DEFAULT)
        return {
            "bare": entry.is_bare,
            "default": None if default is None else self._variable(default),
            "order": self._order(self._entry),
            "modules": [self._module(path) for path in self.programs],
        }

    def _module(self, path: str) -> dict[str, Any]:
        program = self.programs[path]
        shown = []
        for name in sorted(self._exports.names(path), key=utf16_units):
            try:
                variable = self._exports.resolve(path, name)
            except Ambiguous:
                continue
            if variable is not None:
                shown.append([name, *self._variable(variable)])
        loads = []
        for specifier in dict.fromkeys(request.specifier for request in program.dynamic):
            target = self._found[path, specifier]
            order = self._order(target)
            self._steps.count(len(order))
            loads.append([specifier, self._numbers[target], order])
        return {
            "name": program.name,
            "text": program.text,
            "url": _url(path),
            "shifts": program.shifts,
            "imports": [[each.local, *self._imported(path, each)] for each in program.bindings],
            "exports": shown,
            "loads": loads,
        }

    def _imported(self, path: str, binding: Binding) -> tuple[int, str | None]:
        target = self._found[path, binding.request.specifier]
        if binding.imported == EVERYTHING:
            return self._variable((target, EVERYTHING))
        found = self._exports.resolve(target, binding.imported)
        assert found is not None, "every import was checked"
        return self._variable(found)

    def _variable(self, variable: Variable) -> tuple[int, str | None]:
        path, name = variable
        return self._numbers[path], None if name == EVERYTHING else name

    def _order(self, start: str) -> list[int]:
        """Each module after those that it imports, in the order of the imports; in a circle the one
        that was come upon first goes last."""
        if start in self._orders:
            return self._orders[start]
        order = self._orders[start] = []
        seen = {start}
        open_ = [(start, iter(self.programs[start].requests))]
        while open_:
            path, requests = open_[-1]
            for request in requests:
                self._steps.count()
                target = self._found[path, request.specifier]
                if target not in seen:
                    seen.add(target)
                    open_.append((target, iter(self.programs[target].requests)))
                    break
            else:
                order.append(self._numbers[path])
                open_.pop()
        return order


def _url(path: str) -> str:
    """`orvalho://script/src/job.ts`, `orvalho://lib/images.js`, `orvalho://shared/util.js`."""
    host = "script"
    if path.startswith("/lib/"):
        host, path = "lib", path.removeprefix("/lib/")
    elif path.startswith("shared:/"):
        host, path = "shared", path.removeprefix("shared:/")
    return f"orvalho://{host}/{quote(posixpath.normpath(path))}"
