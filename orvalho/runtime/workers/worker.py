"""One worker: guests on one side, a pipe to the daemon on the other.

It holds no key, no socket and no file of the daemon's. What arrives in the pipe comes from the
daemon; what a guest makes of this process can at worst end it.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any, Final, cast

from orvalho.runtime.engine import Answer, Compiler, Engine, Isolate, Linker, Outline, Problem, Turn
from orvalho.runtime.workers.messages import (
    NO_MEMORY,
    AnswerCall,
    Checked,
    CheckSource,
    Compiled,
    CompileSource,
    DropCode,
    LoadCode,
    Opened,
    StartRun,
    StopRun,
    ToWorker,
    to_worker,
)
from orvalho.runtime.workers.pipe import Pipe, open_pipe
from orvalho.runtime.workers.run import GuestRun
from orvalho.runtime.workers.supply import Supply
from orvalho.runtime.workers.walls import Memory, close_the_gate, end_after, leave_everything

_PIPE_BROKE: Final = 0
_BUG: Final = 70
_LONG_SOURCE: Final = 20_000
# What a compiler may have, at the least and for each million bytes besides.
COMPILE_S: Final = 20.0
_COMPILE_S_PER_MB: Final = 2.0
_COMPILE_BYTES: Final = 1 << 30
# How long after its time a guest that is alone is ended by the kernel: before that its engine may
# still do it, which knows more to tell.
_LATE_S: Final = 0.3
# More isolates than these in their first moments only take the processor's caches from each other.
_FRESH: Final = 4
_FRESH_S: Final = 0.015


def run_worker(pipe: int, engine: Engine, *, is_alone: bool = False) -> None:
    """The whole life of a forked worker. Does not return. `is_alone`: it is there for one guest,
    and ends when that goes beyond its limits."""
    try:
        leave_everything(pipe)
        memory = Memory(is_alone=is_alone)
        # Before the event loop is made: libuv would keep a ring of io_uring, a second way into the
        # kernel that no filter sees. Each thread that is started later has the walls too.
        missing = close_the_gate()
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_serve(socket.socket(fileno=pipe), engine, memory, missing, is_alone))
    finally:
        os._exit(_PIPE_BROKE)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # noqa: PLC0415 -- absent on some systems, and asyncio's own does as well
    except ImportError:
        return None
    return uvloop.new_event_loop


async def _serve(
    sock: socket.socket,
    engine: Engine,
    memory: Memory,
    missing: tuple[str, ...],
    is_alone: bool,
) -> None:
    # A run whose handling failed would be waited for in vain: the daemon hears of a dead worker.
    asyncio.get_running_loop().set_exception_handler(_break_off)
    over = asyncio.Event()
    worker = _Worker(engine, memory, over, is_alone)
    worker.pipe.send(Opened(missing=missing))
    await open_pipe(sock, worker.pipe)
    await over.wait()


def _break_off(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    os._exit(NO_MEMORY if isinstance(context.get("exception"), MemoryError) else _BUG)


class _Worker:
    def __init__(self, engine: Engine, memory: Memory, over: asyncio.Event, is_alone: bool) -> None:
        self.pipe = Pipe(to_worker(), self._received, over.set)
        self._engine = engine
        self._is_alone = is_alone
        self._loop = asyncio.get_running_loop()
        self._memory = memory
        self._runs: dict[int, GuestRun] = {}
        self._turns: deque[tuple[GuestRun, Turn]] = deque()
        self._fresh: dict[GuestRun, asyncio.TimerHandle] = {}
        self._queue: deque[GuestRun] = deque()
        self._reading = ThreadPoolExecutor(1)
        self._supply = Supply(
            self._engine, self._memory_for_isolates, on_first=self._memory.measure
        )

    def _memory_for_isolates(self, isolates: int) -> None:
        self._memory.allow(isolates=isolates)

    # ---- from the daemon ---------------------------------------------------------------------

    def _submit(self, function: Callable[..., None], *arguments: object) -> None:
        """On the thread that reads sources. What fails there would be waited for in vain."""
        future = self._reading.submit(function, *arguments)
        future.add_done_callback(lambda done: os._exit(_BUG) if done.exception() else None)

    def _received(self, messages: list[ToWorker]) -> None:
        touched: dict[int, GuestRun] = {}
        for message in messages:
            if isinstance(message, StartRun):
                self._start(message)
            elif isinstance(message, AnswerCall):
                run = self._runs.get(message.run)
                if run is not None:
                    run.answer(Answer(message.call, message.is_error, message.value))
                    touched[message.run] = run
            elif isinstance(message, StopRun):
                if message.run in self._runs:
                    self._runs[message.run].cancel()
            elif isinstance(message, LoadCode):
                cast("Compiler", self._engine).load(message.key, message.code, message.problems)
            elif isinstance(message, DropCode):
                cast("Compiler", self._engine).drop(message.key)
            else:
                self._examine(message)
        for run in touched.values():
            run.go_on()

    def _examine(self, message: CheckSource | CompileSource) -> None:
        if self._is_alone:
            self._memory.allow(largest_bytes=_COMPILE_BYTES)
            size = len(message.module) if isinstance(message, CompileSource) else 0
            limit_s = COMPILE_S + _COMPILE_S_PER_MB * size / 1e6
            end_after(wall_s=limit_s, cpu_s=limit_s)
        if isinstance(message, CheckSource):
            self._submit(self._check, message)
        else:
            self._submit(self._compile, message)

    def _start(self, message: StartRun) -> None:
        if self._is_alone:
            end_after(wall_s=message.wall_s + _LATE_S, cpu_s=message.cpu_s + _LATE_S)
        run = GuestRun(message, self.pipe.send, self._memory.rss_bytes, self._finished)
        self._runs[run.number] = run
        self._allow_memory()
        if message.modules or len(message.source) > _LONG_SOURCE:
            # A source that takes that long to read holds the thread no longer.
            run.end_after(message.wall_s)
            self._submit(self._read, run, message)
        else:
            self._line_up(run)

    def _line_up(self, run: GuestRun) -> None:
        """Few begin at once. One that does not come to a stop soon keeps nobody waiting."""
        self._queue.append(run)
        self._admit()

    def _admit(self) -> None:
        while self._queue and len(self._fresh) < _FRESH:
            run = self._queue.popleft()
            if not run.is_over:
                self._fresh[run] = self._loop.call_later(_FRESH_S, self._settle, run)
                self._supply.take(partial(self._begin, run))

    def _settle(self, run: GuestRun) -> None:
        if (timer := self._fresh.pop(run, None)) is not None:
            timer.cancel()
            self._admit()

    def _read(self, run: GuestRun, message: StartRun) -> None:
        """On a thread: a source that is made for it takes seconds to read."""
        if run.is_over:
            return
        # What comes with a script whose language has no modules means nothing.
        if message.modules and hasattr(self._engine, "prepare_all"):
            linker = cast("Linker", self._engine)
            is_over = partial(getattr, run, "is_over")
            linker.prepare_all(message.filename, message.source, message.modules, is_over)
        else:
            self._engine.prepare(message.filename, message.source)
        self._loop.call_soon_threadsafe(self._line_up, run)

    def _begin(self, run: GuestRun, isolate: Isolate) -> None:
        if run.is_over:
            self._supply.give_back(isolate)
        else:
            run.begin(isolate, partial(self._report, run))

    def _finished(self, run: GuestRun) -> None:
        del self._runs[run.number]
        self._settle(run)
        self._allow_memory()
        if run.isolate is None:
            return
        if run.is_calm:
            self._supply.give_back(run.isolate)
        else:
            self._supply.stop(run.isolate)

    def _allow_memory(self) -> None:
        largest = max((run.memory_limit_bytes for run in self._runs.values()), default=0)
        if largest or not self._is_alone:
            self._memory.allow(largest_bytes=largest)

    def _check(self, message: CheckSource) -> None:
        name, source, found = message.filename, message.source, Outline()
        began_s = time.thread_time()
        problems: tuple[Problem, ...]
        if message.off:
            linker = cast("Linker", self._engine)
            problems = linker.forbidden(name, source, message.modules, message.off)
        elif message.outlines:
            found = cast("Linker", self._engine).outline(name, source)
            problems = found.problems
        elif message.modules:
            problems = cast("Linker", self._engine).check_all(name, source, message.modules)
        else:
            problems = self._engine.check(name, source)
        if message.outlines:
            took_ms = round(1000 * (time.thread_time() - began_s))
            found = replace(found, cpu_ms=took_ms)
        answer = Checked(check=message.check, problems=problems, outline=found)
        self._loop.call_soon_threadsafe(self.pipe.send, answer)

    def _compile(self, message: CompileSource) -> None:
        compiler = cast("Compiler", self._engine)
        began_s = time.process_time()
        problems, code = compiler.compile(message.filename, message.module)
        # Its threads as well: this process compiles, and does nothing else.
        took_ms = round(1000 * (time.process_time() - began_s))
        answer = Compiled(check=message.check, problems=problems, code=code, cpu_ms=took_ms)
        self._loop.call_soon_threadsafe(self.pipe.send, answer)

    # ---- from the isolates, on their threads -------------------------------------------------

    def _report(self, run: GuestRun, turn: Turn) -> None:
        self._turns.append((run, turn))
        # Waking the loop is a system call: once for all that happens until it has woken.
        if len(self._turns) == 1:
            self._loop.call_soon_threadsafe(self._turned)

    def _turned(self) -> None:
        while self._turns:
            run, turn = self._turns.popleft()
            run.turned(turn)
            self._settle(run)
