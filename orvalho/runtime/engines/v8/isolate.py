"""V8 isolates through the C interface of mini-racer, where only bytes cross the boundary.

The public Python interface of that package hands out live objects of the guest's, and touching one
can hang or end the process (a getter that throws, a `then` that never returns). So nothing here
reads a guest's value other than a string, and nothing waits for a guest.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

import msgspec
from py_mini_racer import init_mini_racer
from py_mini_racer._dll import MR_CALLBACK

from orvalho.errors import Unavailable
from orvalho.runtime.engine import Answer, Modules, Problem, Start, Turn
from orvalho.runtime.engines.v8.link import Linked
from orvalho.runtime.engines.v8.modules import Program
from orvalho.runtime.engines.v8.prelude import PRELUDE, SOURCES
from orvalho.runtime.engines.v8.syntax import utf16
from orvalho.runtime.web.switches import switched_off

# Single-threaded: a process forked after this works, and no guest gets a second processor.
# The heap's first size and the missing cache keep garbage from being counted as use.
_FLAGS: Final = (
    "--single-threaded",
    "--stack-size=400",
    "--initial-heap-size=16",
    "--no-compilation-cache",
    "--wasm-max-mem-pages=16384",
    "--wasm-max-table-size=100000",
    "--no-detect-ineffective-gcs-near-heap-limit",
)
_STRING: Final = 5
_FUNCTION: Final = 7
_FIRST_ERROR: Final = 200
_TERMINATED: Final = (202, 204)
_SYNTAX_ERROR: Final = 201
# More than any record can have: what is longer was not written by the prelude.
_MOST_BYTES: Final = 400 << 20
_PATIENCE_S: Final = 5.0
# What only puts something into a queue or reads a number, and never waits for an isolate. To let go
# of the interpreter's lock around it would hand that to whoever waits for it, twice a call.
_BRIEF: Final = (
    "mr_alloc_string_val",
    "mr_call_function",
    "mr_eval",
    "mr_free_value",
    "mr_hard_memory_limit_reached",
    "mr_set_hard_memory_limit",
    "mr_set_soft_memory_limit",
)
# The calls whose outcome nobody waits for tell only when they break.
_QUIET, _ASKED, _NOTIFY, _MADE = range(4)


class V8:
    """The library, initialised once in a process, and the callbacks that arrive from it."""

    def __init__(self) -> None:
        self.dll: Any = init_mini_racer(flags=_FLAGS, ignore_duplicate_init=True)
        self.brief: Any = ctypes.PyDLL(self.dll._name, handle=self.dll._handle)
        for name in _BRIEF:
            known, function = getattr(self.dll, name), getattr(self.brief, name)
            function.argtypes, function.restype = known.argtypes, known.restype
        self._isolates: dict[int, V8Isolate] = {}
        self._numbers = itertools.count(1)
        # One callback for all isolates, so that none can be freed while V8 still calls it.
        self.callback = MR_CALLBACK(self._arrived)

    def register(self, isolate: V8Isolate) -> int:
        number = next(self._numbers)
        self._isolates[number] = isolate
        return number << 2

    def forget(self, first_id: int) -> None:
        del self._isolates[first_id >> 2]

    def _arrived(self, callback_id: int, raw: Any) -> None:
        isolate = self._isolates.get(callback_id >> 2)
        if isolate is not None:
            isolate.arrived(callback_id & 3, raw)


class V8Isolate:
    """See `engine.Isolate`. Made in a state in which `start` costs one turn."""

    def __init__(self, v8: V8, prepare: Callable[[str, str, Modules], Linked]) -> None:
        self._v8 = v8
        self._dll = v8.dll
        self._brief = v8.brief
        self._prepare = prepare
        self._report: Callable[[Turn], Any] = _ignore
        self._programs: tuple[Program, ...] = ()
        self._program: Program | None = None
        self._is_diagnosed = False
        # What V8 is still to look at of a program that did not compile.
        self._untried: list[str] = []
        self._clock: int | None = None
        self._thread: int | None = None
        self._cpu_before_s = 0.0
        self._answered = threading.Event()
        self._answer: tuple[int, bytes] = (0, b"")
        # What V8 has made and we hold on to: an array without items, then the prelude's function.
        self._made: list[Any] = []
        self._first_id = v8.register(self)
        self._context = self._dll.mr_init_context(v8.callback)
        try:
            self._boot()
        except BaseException:
            self.close()
            raise

    def start(self, start: Start, report: Callable[[Turn], Any]) -> None:
        self._report = report
        linked = self._prepare(start.filename, start.source, start.modules)
        self._programs = linked.programs
        self._program = program = linked.programs[0]
        if linked.problems:
            report(Turn(_syntax_error(linked.problems[0], program)))
            return
        self._brief.mr_set_hard_memory_limit(self._context, start.memory_bytes)
        self._brief.mr_set_soft_memory_limit(self._context, start.memory_bytes // 4)
        self._cpu_before_s = self._thread_cpu_s()
        self._turn(_start_text(start, program, linked.plan))

    def settle(self, answers: list[Answer]) -> None:
        parts = [b'["A"']
        for answer in answers:
            parts.append(b",%d,%d," % (answer.call, answer.is_error) + answer.value)
        self._turn(b"".join(parts) + b"]")

    def tick(self) -> None:
        self._turn(b'["T"]')

    def look(self) -> None:
        self._call(b"D", _ASKED)

    def cpu_s(self) -> float:
        return self._thread_cpu_s() - self._cpu_before_s

    def step_back(self) -> None:
        if self._thread is not None and sys.platform == "linux":
            # Not a lower niceness: among threads of one standing the scheduler lets each finish its
            # slice, and only this one gives way at once.
            with contextlib.suppress(OSError):
                os.sched_setscheduler(self._thread, os.SCHED_IDLE, os.sched_param(0))

    def is_waiting(self) -> bool:
        return True

    def is_out_of_memory(self) -> bool:
        return bool(self._brief.mr_hard_memory_limit_reached(self._context))

    def close(self) -> None:
        self._dll.mr_free_context(self._context)
        self._v8.forget(self._first_id)

    def diagnose(self, program: Program) -> Problem | None:
        """V8's own words about a program's syntax. Blocks; the guest's code does not run unless
        the program ends its own function early, and then within the patience of this call."""
        for source in program.texts:
            kind, text = self._ask(partial(self._eval, source.encode()))
            if kind == _SYNTAX_ERROR:
                return _problem(text.decode(), program)
        return None

    # ---- on the isolate's own thread, the guest paused ----------------------------------------

    def arrived(self, which: int, raw: Any) -> None:
        value = raw.contents
        kind, size = value.type, value.len
        text = b""
        if kind == _STRING or kind >= _FIRST_ERROR:
            text = ctypes.string_at(value.value.value_ptr, size) if size < _MOST_BYTES else b""
        if which == _MADE and not text:
            self._made.append(raw)
        else:
            self._brief.mr_free_value(self._context, raw)
        if which == _MADE:
            if self._clock is None:
                self._clock = time.pthread_getcpuclockid(threading.get_ident())
                self._thread = threading.get_native_id()
            self._answer = (kind, text)
            self._answered.set()
        elif which == _NOTIFY:
            self._report(Turn(None))
        elif kind >= _FIRST_ERROR:
            self._broke(kind, text)
        elif which == _ASKED:
            self._took(text)

    def _took(self, records: bytes) -> None:
        if self._program and records.startswith(b"X"):
            # The program did not compile. V8 tells where only to whoever compiles a whole script.
            self._is_diagnosed = True
            number = int(records[1:].strip() or b"0")
            self._program = self._programs[min(number, len(self._programs) - 1)]
            self._untried = list(self._program.texts)
        if self._untried:
            self._eval(self._untried.pop(0).encode(), self._first_id | _ASKED)
            return
        if self._is_diagnosed and self._program:
            problem = Problem(1, 1, "this cannot be compiled: it is nested too deeply")
            records = _syntax_error(problem, self._program)
        self._report(Turn(records))

    def _broke(self, kind: int, text: bytes) -> None:
        if kind == _SYNTAX_ERROR and self._program:
            problem = _problem(text.decode(errors="replace"), self._program)
            self._report(Turn(_syntax_error(problem, self._program)))
            return
        out_of_memory = kind in _TERMINATED or self.is_out_of_memory()
        self._report(Turn(None, "memory" if out_of_memory else text.decode(errors="replace")))

    # ---- turns -------------------------------------------------------------------------------

    def _turn(self, text: bytes) -> None:
        self._call(text, _QUIET)
        self._call(b"D", _ASKED)

    def _call(self, text: bytes, which: int) -> None:
        value = self._brief.mr_alloc_string_val(self._context, text, len(text), _STRING)
        self._brief.mr_call_function(
            self._context, self._enter, value, self._no_arguments, self._first_id | which
        )
        self._brief.mr_free_value(self._context, value)

    def _eval(self, text: bytes, callback_id: int) -> None:
        value = self._brief.mr_alloc_string_val(self._context, text, len(text), _STRING)
        self._brief.mr_eval(self._context, value, callback_id)
        self._brief.mr_free_value(self._context, value)

    # ---- before there is any guest -----------------------------------------------------------

    def _boot(self) -> None:
        """The prelude answers its one function, and an empty array serves as "no arguments": what
        is done with both is safe while no guest's code has run."""
        dll, brief, context = self._dll, self._brief, self._context
        for text in (b"[]", PRELUDE):
            self._eval(text, self._first_id | _MADE)
        # This waits for its turn, and so for both. Each wait takes two switches of threads.
        notify = dll.mr_make_js_callback(context, self._first_id | _NOTIFY)
        if len(self._made) != 2:
            raise Unavailable("V8 does not answer")
        self._no_arguments, self._enter = self._made
        quiet = self._first_id | _QUIET
        brief.mr_call_function(context, self._enter, notify, self._no_arguments, quiet)
        brief.mr_free_value(context, notify)
        self._call(SOURCES, _QUIET)

    def _ask(self, begin: Callable[[int], Any]) -> tuple[int, bytes]:
        self._answered.clear()
        begin(self._first_id | _MADE)
        if not self._answered.wait(_PATIENCE_S):
            raise Unavailable("V8 does not answer")
        return self._answer

    def _thread_cpu_s(self) -> float:
        return time.clock_gettime(self._clock) if self._clock is not None else 0.0


def _ignore(turn: Turn) -> None:
    """Before a run there is nobody to tell."""


def _start_text(start: Start, program: Program, plan: Mapping[str, Any]) -> bytes:
    """The settings of a run around its parameters, which are JSON already and stay as they are;
    they stand first, because of two equal keys the later one counts."""
    seed = start.tape.chance.decode("ascii", "replace") if start.tape is not None else ""
    texts = (program.text, *start.modules.sources.values())
    names_temporal = any("Temporal" in text for text in texts)
    rest = {
        "program": "" if plan else program.text,
        "linked": plan or None,
        "bare": program.is_bare,
        "shifts": program.shifts,
        "caller": start.caller,
        "target": start.target,
        "seed": seed if _SEED.fullmatch(seed) else os.urandom(32).hex(),
        "now": _readings(start.tape.clock) if start.tape is not None else None,
        "room": start.room_bytes,
        # Looked at by name, since to make it ready costs each run a third of a millisecond.
        "temporal": start.tape is not None or names_temporal,
        "output": start.output_bytes,
        "calls": start.host_calls,
    }
    if start.off:
        off = switched_off(start.off)
        rest["off"] = {"ops": off.ops, "rooms": off.rooms, "names": off.names, "code": off.code}
    return b'["S",{"params":' + start.params + b"," + msgspec.json.encode(rest)[1:] + b"]"


def _readings(clock: bytes) -> list[int]:
    """`delta:times` as numbers, as far as that is what it says."""
    numbers: list[int] = []
    for each in clock.split():
        delta, _, times = each.partition(b":")
        if not _DELTA.fullmatch(delta) or not _TIMES.fullmatch(times):
            break
        numbers += (int(delta), int(times))
    return numbers


_SEED: Final = re.compile(r"[0-9a-f]{64}")
_DELTA: Final = re.compile(rb"-?[0-9]{1,16}")
_TIMES: Final = re.compile(rb"[0-9]{1,15}")
_MESSAGE: Final = re.compile(r"[^\n]*:(\d+): (?:SyntaxError: )?([^\n]*)\n[^\n]*\n( *)\^")


_SAYS_NOTHING: Final = re.compile(r"\s*(//|$)")
_NOT_CLOSED: Final = "Unexpected end: something is not closed, or closed once too often"
_NO_IMPORT: Final = 'this import cannot be read: import { name } from "./file.js"'


def _problem(text: str, program: Program) -> Problem:
    """V8's report is `name:line: SyntaxError: message`, the line, and a caret under the place."""
    found = _MESSAGE.match(text)
    if not found:
        return Problem(1, 1, text.strip().partition("\n")[0])
    line = max(1, int(found[1]))  # 0 when there was no room to say where
    column = len(found[3]) + 1
    # Two lines of ours stand behind the source: what V8 misses there, the source does not have.
    lines = program.text.split("\n")[:-2]
    if line <= len(lines):
        message = _NO_IMPORT if found[2].startswith("Cannot use import") else found[2]
        return Problem(line, program.original_column(line, column), message)
    # Nor do remarks, such as the header behind a typed line, close anything.
    code = (number for number, each in enumerate(lines, 1) if not _SAYS_NOTHING.match(each))
    last = max(code, default=1)
    # A worker can load no codec any more: it counts in the one that it has.
    column = utf16(lines[last - 1].rstrip().encode("utf-8", "replace")) + 1
    return Problem(last, program.original_column(last, column), _NOT_CLOSED)


def _syntax_error(problem: Problem, program: Program) -> bytes:
    name = problem.file or program.text.rpartition("=")[2]
    where = f"    at {name}:{problem.line}:{problem.column}"
    return b"E" + msgspec.json.encode(["SyntaxError", problem.message, where])
