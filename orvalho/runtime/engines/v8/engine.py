"""The V8 engine: programs kept by their source, isolates, and the check of a script."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Final

from orvalho.errors import Unavailable
from orvalho.runtime.engine import Problem
from orvalho.runtime.engines.v8.isolate import V8, V8Isolate
from orvalho.runtime.engines.v8.modules import Program, lower

_KEPT_CHARACTERS: Final = 4 << 20


class V8Engine:
    """See `engine.Engine`."""

    def __init__(self) -> None:
        self._v8 = V8()
        self._programs: OrderedDict[tuple[str, str], Program] = OrderedDict()
        self._kept_characters = 0
        # Long sources are read on a thread of their own.
        self._lock = threading.Lock()

    def prepare(self, filename: str, source: str) -> None:
        self._prepare(filename, source)

    def open_isolate(self) -> V8Isolate:
        return V8Isolate(self._v8, self._prepare)

    def check(self, filename: str, source: str) -> tuple[Problem, ...]:
        program = self._prepare(filename, source)
        if program.problems:
            return program.problems
        isolate = self.open_isolate()
        try:
            problem = isolate.diagnose(program)
        except Unavailable:
            problem = Problem(1, 1, "it leaves the function it is put into, and does not end there")
        finally:
            isolate.close()
        return (problem,) if problem else ()

    def _prepare(self, filename: str, source: str) -> Program:
        """The least recently used programs go when all together are too long."""
        key = (filename, source)
        with self._lock:
            program = self._programs.get(key)
            if program:
                self._programs.move_to_end(key)
                return program
        program = lower(filename, source)
        with self._lock:
            if key not in self._programs:
                self._programs[key] = program
                self._kept_characters += len(source)
            while self._kept_characters > _KEPT_CHARACTERS:
                (_, oldest), _ = self._programs.popitem(last=False)
                self._kept_characters -= len(oldest)
        return program
