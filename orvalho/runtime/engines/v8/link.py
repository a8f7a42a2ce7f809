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
from orvalho.runtime.engines.v8.modules import EVERYTHING, Binding, Program
from orvalho.runtime.engines.v8.syntax import utf16_units
from orvalho.scripts.modules import is_named, resolve

_DEFAULT: Final = "default"
_MOST_PROBLEMS: Final = 20
_MOST_HOPS: Final = 500

# A variable: the module that has it, and the name that it shows it by; EVERYTHING for its
# namespace.
Variable = tuple[str, str]


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
) -> Linked:
    """Put a script and its modules together. Never fails: what is wrong is in `problems`. `lower`
    reads one of them; its last argument is whether that is the script itself."""
    linking = _Linking(filename, modules, lower)
    linking.read(filename, source)
    linking.check()
    programs = tuple(linking.programs.values())
    paths = ("", *list(linking.programs)[1:])
    if linking.problems:
        return Linked(programs, paths, problems=tuple(linking.problems[:_MOST_PROBLEMS]))
    if ELSEWHERE in modules.names.values():
        return Linked(programs, paths)
    return Linked(programs, paths, linking.plan())


class _Ambiguous(Exception):
    """Two of the files that a module passes everything on from export the same name."""


class _Linking:
    def __init__(
        self, entry: str, modules: Modules, lower: Callable[[str, str, bool], Program]
    ) -> None:
        self._entry = entry
        self._modules = modules
        self._lower = lower
        self.programs: dict[str, Program] = {}
        self.problems: list[Problem] = []
        self._found: dict[tuple[str, str], str] = {}

    def read(self, filename: str, source: str) -> None:
        """The script, and every module that is reached from it."""
        self.programs[filename] = self._lower(filename, source, True)
        unread = [filename]
        while unread:
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
        known = (ELSEWHERE, self._entry, *self._modules.sources)
        if found not in known:
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

    def _check(self, path: str, binding: Binding) -> None:
        request, name = binding.request, binding.imported
        if name == EVERYTHING:
            return
        target = self._found[path, request.specifier]
        try:
            if self._resolve(target, name) is not None:
                return
            message = f'"{request.specifier}" has no export named "{name}"'
            near = near_miss(name, self._names(target))
            if name == _DEFAULT:
                message = f'"{request.specifier}" has no default export'
            elif near:
                message += f', did you mean "{near}"?'
            elif target.endswith((".ts", ".mts")):
                message += ": if it is a type, write import type"
        except _Ambiguous:
            message = f'"{request.specifier}" passes two different "{name}" on'
        where = "" if path == self._entry else path
        self._problem(where, request.line, request.column, message)

    def _problem(self, file: str, line: int, column: int, message: str) -> None:
        self.problems.append(Problem(line, column, message, file))

    # ---- names -------------------------------------------------------------------------------

    def _resolve(
        self, path: str, name: str, seen: frozenset[Variable] = frozenset()
    ) -> Variable | None:
        """ResolveExport of the specification: the variable behind a name, None when there is none.

        Raises:
            _Ambiguous: there are two.
        """
        if path == ELSEWHERE:
            return path, name
        if (path, name) in seen or len(seen) > _MOST_HOPS:
            return None
        seen |= {(path, name)}
        program = self.programs[path]
        if name in program.exports:
            return path, name
        for each in program.passed_on:
            if each.local == name:
                target = self._found[path, each.request.specifier]
                if each.imported == EVERYTHING:
                    return target, EVERYTHING
                return self._resolve(target, each.imported, seen)
        if name == _DEFAULT:
            return None
        found: Variable | None = None
        for request in program.stars:
            other = self._resolve(self._found[path, request.specifier], name, seen)
            if other is not None and found not in (None, other):
                raise _Ambiguous
            found = found or other
        return found

    def _names(self, path: str) -> set[str]:
        """GetExportedNames of the specification."""
        names: set[str] = set()
        seen: set[str] = set()
        unseen = [path]
        while unseen:
            each = unseen.pop()
            if each in seen:
                continue
            seen.add(each)
            program = self.programs[each]
            own = {*program.exports, *(binding.local for binding in program.passed_on)}
            names |= own if each == path else own - {_DEFAULT}
            found = [self._found[each, request.specifier] for request in program.stars]
            unseen += [path for path in found if path != ELSEWHERE]
        return names

    # ---- the plan ----------------------------------------------------------------------------

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {path: number for number, path in enumerate(self.programs)}

    def plan(self) -> dict[str, Any]:
        entry = self.programs[self._entry]
        default = None if entry.is_bare else self._resolve(self._entry, _DEFAULT)
        return {
            "bare": entry.is_bare,
            "default": None if default is None else self._variable(default),
            "order": self._order(self._entry),
            "modules": [self._module(path) for path in self.programs],
        }

    def _module(self, path: str) -> dict[str, Any]:
        program = self.programs[path]
        shown = []
        for name in sorted(self._names(path), key=utf16_units):
            try:
                variable = self._resolve(path, name)
            except _Ambiguous:
                continue
            if variable is not None:
                shown.append([name, *self._variable(variable)])
        loads = []
        for request in program.dynamic:
            target = self._found[path, request.specifier]
            loads.append([request.specifier, self._numbers[target], self._order(target)])
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
        found = self._resolve(target, binding.imported)
        assert found is not None, "every import was checked"
        return self._variable(found)

    def _variable(self, variable: Variable) -> tuple[int, str | None]:
        path, name = variable
        return self._numbers[path], None if name == EVERYTHING else name

    def _order(self, start: str) -> list[int]:
        """Each module after those that it imports, in the order of the imports; in a circle the one
        that was come upon first goes last."""
        order: list[int] = []
        seen = {start}
        open_ = [(start, iter(self.programs[start].requests))]
        while open_:
            path, requests = open_[-1]
            for request in requests:
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
