"""The V8 engine: programs kept by their source, isolates, and the check of a script."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from orvalho.errors import Unavailable
from orvalho.runtime.engine import Modules, Outline, Problem
from orvalho.runtime.engines.v8.forbidden import find_forbidden
from orvalho.runtime.engines.v8.isolate import V8, V8Isolate
from orvalho.runtime.engines.v8.link import Linked, link
from orvalho.runtime.engines.v8.modules import Program, lower
from orvalho.runtime.engines.v8.outline import outline

_KEPT_CHARACTERS: Final = 4 << 20
_KEPT_LINKED: Final = 64


class V8Engine:
    """See `engine.Engine`."""

    def __init__(self) -> None:
        self._v8 = V8()
        self._programs: OrderedDict[tuple[str, str, bool], Program] = OrderedDict()
        self._linked: OrderedDict[object, Linked] = OrderedDict()
        self._kept_characters = 0
        # Long sources are read on a thread of their own.
        self._lock = threading.Lock()

    def prepare(self, filename: str, source: str) -> None:
        self._prepare(filename, source)

    def prepare_all(
        self, filename: str, source: str, modules: Modules, is_over: Callable[[], bool]
    ) -> None:
        self._try_link(filename, source, modules, is_over)

    def open_isolate(self) -> V8Isolate:
        return V8Isolate(self._v8, self._link)

    def check(self, filename: str, source: str) -> tuple[Problem, ...]:
        return self.check_all(filename, source, Modules())

    def check_all(self, filename: str, source: str, modules: Modules) -> tuple[Problem, ...]:
        linked = self._link(filename, source, modules)
        if linked.problems:
            return linked.problems
        problems = []
        for path, program in zip(linked.paths, linked.programs, strict=True):
            problem = self._diagnose(program)
            if problem is not None:
                problems.append(replace(problem, file=path))
        return tuple(problems)

    def outline(self, filename: str, source: str) -> Outline:
        return outline(filename, source, self._prepare(filename, source, is_entry=False))

    def forbidden(
        self, filename: str, source: str, modules: Modules, off: tuple[str, ...]
    ) -> tuple[Problem, ...]:
        found = find_forbidden(filename, source, off)
        for path, text in modules.sources.items():
            found += tuple(replace(each, file=path) for each in find_forbidden(path, text, off))
        return found

    def _diagnose(self, program: Program) -> Problem | None:
        isolate = self.open_isolate()
        try:
            return isolate.diagnose(program)
        except Unavailable:
            return Problem(1, 1, "it leaves the function it is put into, and does not end there")
        finally:
            isolate.close()

    def _link(self, filename: str, source: str, modules: Modules) -> Linked:
        linked = self._try_link(filename, source, modules, lambda: False)
        assert linked is not None, "nobody gives it up"
        return linked

    def _try_link(
        self, filename: str, source: str, modules: Modules, is_over: Callable[[], bool]
    ) -> Linked | None:
        """A script as it runs. One that stands alone and imports nothing has no plan."""
        if not modules:
            program = self._prepare(filename, source)
            if program.problems or not program.is_linked:
                return Linked((program,), problems=program.problems)
        key = (filename, source, *sorted(modules.sources.items()), *sorted(modules.names.items()))
        with self._lock:
            linked = self._linked.get(key)
            if linked is not None:
                self._linked.move_to_end(key)
                return linked
        linked = link(filename, source, modules, self._prepare_whole, is_over)
        if linked is None:
            return None
        with self._lock:
            self._linked[key] = linked
            size = sum(
                len(program.text) for each in self._linked.values() for program in each.programs
            )
            while len(self._linked) > 1 and (
                size > _KEPT_CHARACTERS or len(self._linked) > _KEPT_LINKED
            ):
                _, oldest = self._linked.popitem(last=False)
                size -= sum(len(program.text) for program in oldest.programs)
        return linked

    def _prepare_whole(self, filename: str, source: str, is_entry: bool) -> Program:
        """Before names are looked up in it: V8 knows best why a source cannot be read."""
        program = self._prepare(filename, source, is_entry)
        if program.is_whole or program.problems:
            return program
        problem = self._diagnose(program)
        return replace(program, problems=(problem,)) if problem else program

    def _prepare(self, filename: str, source: str, is_entry: bool = True) -> Program:
        """The least recently used programs go when all together are too long."""
        key = (filename, source, is_entry)
        with self._lock:
            program = self._programs.get(key)
            if program:
                self._programs.move_to_end(key)
                return program
        program = lower(filename, source, is_entry=is_entry)
        with self._lock:
            if key not in self._programs:
                self._programs[key] = program
                self._kept_characters += len(source)
            while self._kept_characters > _KEPT_CHARACTERS:
                (_, oldest, _), _ = self._programs.popitem(last=False)
                self._kept_characters -= len(oldest)
        return program
