"""Which context runs in which worker; and what is told to its runs when a worker dies."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, Protocol

import anyio
from anyio import to_thread
from anyio.abc import TaskGroup

from orvalho.errors import OrvalhoError, Unavailable
from orvalho.runtime.engine import Modules, Outline, Problem
from orvalho.runtime.engines.catalog import LANGUAGES, kind_of, pick_language
from orvalho.runtime.workers.code import Code, CodeCache, code_key
from orvalho.runtime.workers.deaths import cause_of, limit_of
from orvalho.runtime.workers.messages import (
    ALONE,
    Call,
    Checked,
    CheckSource,
    Compiled,
    CompileSource,
    DropCode,
    FromWorker,
    Line,
    LoadCode,
    Metered,
    Opened,
    RunEnded,
    StartRun,
    Taped,
    ToWorker,
    from_worker,
)
from orvalho.runtime.workers.nursery import Nursery
from orvalho.runtime.workers.pipe import Pipe, open_pipe
from orvalho.runtime.workers.spares import Spares

_IDLE_S: Final = 600.0
_ALONE_SOURCE: Final = Modules()
_CHECK_S: Final = 10.0
# A compiler has its own clock, by which the kernel ends it.
_COMPILE_S: Final = 120.0
_MOST_COMPILERS: Final = 2
_MOST_CODE_BYTES: Final = 64 << 20
_MOST_REFUSED: Final = 256
_TOO_MUCH: Final = {
    "wall": "it takes too long to compile",
    "cpu": "it takes too long to compile",
    "memory": "it takes too much memory to compile",
}
# More wait: each takes an isolate, and of those a worker makes a limited number.
_MOST_RUNNING: Final = 96
# So many runs at once are much for one worker, and so many workers are enough for one context.
_BUSY: Final = 12
# Workers of one guest each, of one language, at once.
_MOST_SINGLES: Final = 16
_MOST_PER_CONTEXT: Final = min(os.cpu_count() or 1, 4)


class Guest(Protocol):
    """Whoever follows one run. Called on the event loop; nothing here waits."""

    def line(self, line: Line) -> None:
        """The guest wrote a line."""

    def call(self, call: Call) -> None:
        """The guest calls an operation."""

    def metered(self, metered: Metered) -> None:
        """It has used so much of a processor."""

    def taped(self, taped: Taped) -> None:
        """What it got beside its answers: said right before its end."""

    def ended(self, ended: RunEnded) -> None:
        """The run is over."""

    def lost(self, outcome: str, why: str, limit: str | None = None) -> None:
        """Its worker has ended, and the run with it: "failed" when the worker died, "lost" when
        the pool was closed, "limited" when a worker of one guest died of that limit."""


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """`missing` names the walls that this system does not offer around a worker."""

    id: int
    pid: int
    contexts: tuple[str, ...]
    running: int
    runs: int
    started_at: float
    rss_bytes: int
    missing: tuple[str, ...]


class Worker:
    """The daemon's side of one worker process."""

    def __init__(
        self,
        number: int,
        idle: Callable[[Worker], None],
        language: str = LANGUAGES[0],
        *,
        is_alone: bool = False,
    ) -> None:
        self.id = number
        self.language = language
        self.is_alone = is_alone
        self.pid = 0
        self.contexts: set[str] = set()
        self.runs = 0
        self.started_at = time.time()
        self.is_gone = False
        self._idle = idle
        self._end_process: Callable[[int], None] | None = None
        self._is_doomed = False
        self._missing: tuple[str, ...] = ()
        self._seats = asyncio.Semaphore(_MOST_RUNNING)
        self._guests: dict[int, Guest] = {}
        self._checks: dict[int, asyncio.Future[Checked | Compiled]] = {}
        self._codes: OrderedDict[str, int] = OrderedDict()
        self.pipe = Pipe(from_worker(), self._received, self.kill)

    @property
    def running(self) -> int:
        return len(self._guests)

    @property
    def is_idle(self) -> bool:
        return not self._guests and not self._checks

    def born(self, pid: int, end_process: Callable[[int], None]) -> None:
        self.pid = pid
        self._end_process = end_process
        if self._is_doomed:
            self.kill()

    def kill(self) -> None:
        """End the process, whatever it does. `lost` follows."""
        self._is_doomed = True
        if self._end_process is not None:
            self._end_process(self.pid)

    async def sit_down(self) -> None:
        """Wait until one more run has room. Each run that has sat down is started."""
        await self._seats.acquire()

    def stand_up(self) -> None:
        """Leave it to somebody else."""
        self._seats.release()

    def start(self, start: StartRun, guest: Guest) -> None:
        self.runs += 1
        self._guests[start.run] = guest
        self.send(start)

    def forget(self, run: int) -> None:
        """Its guest is not interested any more."""
        if self._guests.pop(run, None) is not None:
            self._vacate()

    def send(self, message: ToWorker) -> None:
        self.pipe.send(message)

    def hold(self, code: Code) -> None:
        """See that it has that code, for a run that is about to be started."""
        if code.key in self._codes:
            self._codes.move_to_end(code.key)
            return
        # A run that waits may still name what it was started with.
        while self.is_idle and sum(self._codes.values()) > _MOST_CODE_BYTES:
            oldest, _ = self._codes.popitem(last=False)
            self.send(DropCode(key=oldest))
        self._codes[code.key] = len(code.code)
        self.send(LoadCode(key=code.key, code=code.code, problems=code.problems))

    def holds(self, key: str) -> bool:
        """Whether it was given that code."""
        return key in self._codes

    async def check(self, check: CheckSource) -> tuple[Problem, ...]:
        return (await self._ask(check, _CHECK_S)).problems

    async def outline(self, check: CheckSource) -> Outline:
        answer = await self._ask(check, _CHECK_S)
        assert isinstance(answer, Checked)
        return answer.outline

    async def compile(self, check: CompileSource) -> Compiled:
        answer = await self._ask(check, _COMPILE_S)
        assert isinstance(answer, Compiled)
        return answer

    async def _ask(self, check: CheckSource | CompileSource, wait_s: float) -> Checked | Compiled:
        future = self._checks[check.check] = asyncio.get_running_loop().create_future()
        self.send(check)
        try:
            with anyio.fail_after(wait_s):
                answer: Checked | Compiled = await future
                return answer
        except TimeoutError:
            self.kill()
            raise Unavailable("the check of the script did not come to an end") from None
        finally:
            self._checks.pop(check.check, None)
            if self.is_alone:
                self._idle(self)

    def info(self) -> WorkerInfo:
        return WorkerInfo(
            self.id,
            self.pid,
            tuple(sorted(self.contexts)),
            self.running,
            self.runs,
            self.started_at,
            rss_bytes_of(self.pid),
            self._missing,
        )

    def lost(self, outcome: str, why: str, limit: str | None = None) -> None:
        """The process has ended. Tells all that wait for it."""
        self.is_gone = True
        self.pipe.close()
        guests, self._guests = self._guests, {}
        for guest in guests.values():
            guest.lost(outcome, why, limit)
            self._seats.release()
        for check in self._checks.values():
            if not check.done():
                hint = _TOO_MUCH.get(limit or "")
                check.set_exception(Unavailable(why, hint=hint) if hint else Unavailable(why))

    def _received(self, messages: list[FromWorker]) -> None:
        for message in messages:
            if isinstance(message, Opened):
                self._missing = message.missing
            elif isinstance(message, (Checked, Compiled)):
                check = self._checks.get(message.check)
                if check is not None and not check.done():
                    check.set_result(message)
            else:
                self._tell(message)

    def _tell(self, message: Line | Call | Metered | Taped | RunEnded) -> None:
        # A worker speaks for its own runs only: other numbers are not in this table.
        guest = self._guests.get(message.run)
        if guest is None:
            return
        if isinstance(message, Line):
            guest.line(message)
        elif isinstance(message, Call):
            guest.call(message)
        elif isinstance(message, Metered):
            guest.metered(message)
        elif isinstance(message, Taped):
            guest.taped(message)
        else:
            del self._guests[message.run]
            guest.ended(message)
            self._vacate()

    def _vacate(self) -> None:
        self._seats.release()
        if self.is_idle:
            self._idle(self)


class Workers:
    """The pool. `contexts_per_worker` may be changed; contexts that have a worker keep it.

    Made by `open_workers`.
    """

    def __init__(self, tasks: TaskGroup, contexts_per_worker: int, codes: CodeCache) -> None:
        self.contexts_per_worker = contexts_per_worker
        self._codes = codes
        self._compilers = asyncio.Semaphore(_MOST_COMPILERS)
        self._seats: dict[int, asyncio.Semaphore] = {}
        self._compiling: dict[str, asyncio.Lock] = {}
        self._refused: OrderedDict[str, Code] = OrderedDict()
        self.tasks = tasks
        self._loop = asyncio.get_running_loop()
        self._numbers = itertools.count(1)
        self._checks = itertools.count(1)
        self._by_context: dict[tuple[str, str], list[Worker]] = {}
        self._singles = {name: asyncio.Semaphore(_MOST_SINGLES) for name in LANGUAGES}
        self._workers: dict[int, Worker] = {}
        self._by_pid: dict[int, Worker] = {}
        self._idle: dict[int, asyncio.TimerHandle] = {}
        self._deaths = 0
        self._spares = Spares(partial(self._start, is_alone=True), self._retire)
        self._nursery = Nursery(self._died)

    async def seat(self, context: str, language: str = LANGUAGES[0]) -> Worker:
        """A worker that will run a script of that context, once it has room for one more.

        Raises:
            Unavailable: no process can be started.
        """
        while True:
            if not kind_of(language).is_shared:
                worker = await self._alone(language, self._singles[language])
                worker.contexts.add(context)
                return worker
            worker = self._worker_for(context, language)
            await worker.sit_down()
            if not worker.is_gone:
                return worker

    def has_room_alone(self, language: str) -> bool:
        """Whether a guest that has a worker of its own would get one now."""
        return not self._singles[language].locked()

    async def _alone(self, language: str, seats: asyncio.Semaphore) -> Worker:
        """A worker for one guest or one source, when not too many others have one; it takes a seat
        as long as it lives."""
        await seats.acquire()
        try:
            if kind_of(language).is_shared:
                worker = self._start(language, is_alone=True)
            else:
                worker = self._spares.take(language)
        except OrvalhoError:
            seats.release()
            raise
        self._seats[worker.id] = seats
        await worker.sit_down()
        return worker

    def _worker_for(self, context: str, language: str) -> Worker:
        """A worker of that context and language. One is started when there is
        none, and a further one when all have much to do: isolates of one process get in each
        other's way, so that two processes do half as much again on two processors."""
        own = self._by_context.setdefault((context, language), [])
        worker = min(own, key=lambda worker: worker.running, default=None)
        if worker is None or (worker.running >= _BUSY and len(own) < _MOST_PER_CONTEXT):
            worker = self._with_room(context, language) or self._start(language)
            worker.contexts.add(context)
            own.append(worker)
        timer = self._idle.pop(worker.id, None)
        if timer is not None:
            timer.cancel()
        return worker

    async def seat_with(
        self, context: str, language: str, filename: str, module: bytes, digest: str
    ) -> tuple[Worker, str, int]:
        """A worker as `seat` gives it, which has the code of the module; that code's key, and the
        milliseconds of processors that making it took, if it had to be made.

        Raises:
            Unavailable: no worker can be started.
        """
        key, code = code_key(module, language, digest), None
        own = self._by_context.get((context, language), [])
        if not own or not all(worker.holds(key) for worker in own):
            # Before it takes a seat from those who can run.
            code = await self.compile(filename, module, language, digest)
        while True:
            worker = await self.seat(context, language)
            if code is not None or worker.holds(key):
                worker.hold(code or Code(key, b""))
                return worker, key, code.cpu_ms if code else 0
            worker.stand_up()
            code = await self.compile(filename, module, language, digest)

    async def compile(
        self, filename: str, module: bytes, language: str = "", digest: str = ""
    ) -> Code:
        """The code of a module, for its own language's engine or for that of `language`: made in a
        process of its own, and only the first time.

        Raises:
            Unavailable: no worker can be started.
        """
        language = language or pick_language(filename, module)
        key = code_key(module, language, digest)
        async with self._compiling.setdefault(key, asyncio.Lock()):
            try:
                found = self._refused.get(key) or self._codes.recent(key)
                found = found or await to_thread.run_sync(self._codes.find, key)
                if found is None:
                    found = await self._compile(key, filename, module, language)
            finally:
                self._compiling.pop(key, None)
            if found.problems:
                self._refused[key] = replace(found, cpu_ms=0)
                if len(self._refused) > _MOST_REFUSED:
                    self._refused.popitem(last=False)
        return found

    async def _compile(self, key: str, filename: str, module: bytes, language: str) -> Code:
        worker = await self._alone(language, self._compilers)
        check = CompileSource(check=next(self._checks), filename=filename, module=module)
        try:
            compiled = await worker.compile(check)
        except Unavailable as error:
            if error.hint not in _TOO_MUCH.values():
                raise
            return Code(key, b"", (Problem(1, 1, error.hint or error.message),))
        code = Code(key, compiled.code, compiled.problems, max(compiled.cpu_ms, 0))
        if not code.problems:
            with suppress(OSError):
                await to_thread.run_sync(self._codes.keep, replace(code, cpu_ms=0))
        return code

    async def check(
        self,
        filename: str,
        source: str,
        modules: Modules = _ALONE_SOURCE,
        off: tuple[str, ...] = (),
    ) -> tuple[Problem, ...]:
        """All that keeps the source from running; with `off`, where it names what that takes away.

        Raises:
            Unavailable: no worker can be started, or it died of the source.
        """
        worker = await self._reader(pick_language(filename, source))
        return await worker.check(
            CheckSource(
                check=next(self._checks), filename=filename, source=source, modules=modules, off=off
            )
        )

    async def outline(self, filename: str, source: str) -> Outline:
        """What a source of a language with modules asks for and offers.

        Raises:
            Unavailable: no worker can be started, or it died of the source.
        """
        worker = await self._reader(pick_language(filename, source))
        return await worker.outline(
            CheckSource(check=next(self._checks), filename=filename, source=source, outlines=True)
        )

    async def _reader(self, language: str) -> Worker:
        """A worker that looks at a source."""
        if not kind_of(language).is_shared:
            return await self._alone(language, self._compilers)
        known = (w for w in self._workers.values() if w.language == language and not w.is_alone)
        return next(known, None) or self._start(language)

    def list(self) -> tuple[WorkerInfo, ...]:
        return tuple(worker.info() for worker in self._workers.values())

    def statistics(self) -> dict[str, int]:
        return {
            "workers": len(self._workers),
            "running": sum(worker.running for worker in self._workers.values()),
            "deaths": self._deaths,
            "without_all_walls": sum(bool(w.info().missing) for w in self._workers.values()),
            "zygote_rss_bytes": rss_bytes_of(self._nursery.pid),
        }

    def close(self) -> None:
        """End all workers and the zygote."""
        self._spares.close()
        for timer in self._idle.values():
            timer.cancel()
        for worker in list(self._workers.values()):
            self._forget(worker)
            worker.lost("lost", "the daemon is stopping")
        self._nursery.close()

    def wait_closed(self) -> None:
        """Blocks until the zygote has ended."""
        self._nursery.wait()

    def _with_room(self, context: str, language: str) -> Worker | None:
        for worker in self._workers.values():
            if worker.is_alone or worker.language != language:
                continue
            if len(worker.contexts) < self.contexts_per_worker and context not in worker.contexts:
                return worker
        return None

    def _start(self, language: str, *, is_alone: bool = False) -> Worker:
        if not self._nursery.is_alive:
            self._nursery.wait()
            self._nursery = Nursery(self._died)
        worker = Worker(next(self._numbers), self._rest, language, is_alone=is_alone)
        number = LANGUAGES.index(language) + (ALONE if is_alone else 0)
        ours, theirs = socket.socketpair()
        try:
            self._nursery.fork(theirs, number, lambda pid: self._born(worker, pid))
        except OrvalhoError:
            ours.close()
            raise
        finally:
            theirs.close()
        self._workers[worker.id] = worker
        self.tasks.start_soon(open_pipe, ours, worker.pipe)
        return worker

    def _born(self, worker: Worker, pid: int) -> None:
        self._by_pid[pid] = worker
        worker.born(pid, self._nursery.kill)

    def _rest(self, worker: Worker) -> None:
        if worker.is_alone:
            self._retire(worker)
            return
        self._idle[worker.id] = self._loop.call_later(_IDLE_S, self._retire, worker)

    def _retire(self, worker: Worker) -> None:
        if worker.is_idle and worker.id in self._workers:
            self._forget(worker)
            worker.pipe.close()

    def _died(self, pid: int, status: int | None) -> None:
        worker = self._by_pid.pop(pid, None)
        if worker is None or worker.id not in self._workers:
            return
        # One for a single guest may well end that way.
        self._deaths += not worker.is_alone
        self._forget(worker)
        limit = limit_of(status) if worker.is_alone else None
        worker.lost("limited" if limit else "failed", cause_of(status), limit)

    def _forget(self, worker: Worker) -> None:
        self._workers.pop(worker.id, None)
        if (seats := self._seats.pop(worker.id, None)) is not None:
            seats.release()
        self._idle.pop(worker.id, None)
        for context in worker.contexts if not worker.is_alone else ():
            self._by_context[context, worker.language].remove(worker)
        worker.contexts = set()


@asynccontextmanager
async def open_workers(
    *, contexts_per_worker: int = 8, cache: Path | None = None
) -> AsyncIterator[Workers]:
    """The pool of workers, for the block's length. A worker starts with the first run of a context
    that it takes; up to `contexts_per_worker` share one. `cache` is the directory for compiled
    modules; without one they are forgotten at the end."""
    async with anyio.create_task_group() as tasks:
        with TemporaryDirectory() if cache is None else nullcontext(cache) as directory:
            workers = Workers(tasks, contexts_per_worker, CodeCache(Path(directory)))
            try:
                yield workers
            finally:
                tasks.cancel_scope.cancel()
                workers.close()
                with anyio.CancelScope(shield=True):
                    await to_thread.run_sync(workers.wait_closed)


def rss_bytes_of(pid: int) -> int:
    """The memory of a process that is in RAM now; 0 where nobody tells."""
    try:
        fields = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()
    except OSError:
        return 0
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")
