"""Which context runs in which worker; and what is told to its runs when a worker dies."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import anyio
from anyio.abc import TaskGroup

from orvalho.errors import OrvalhoError, Unavailable
from orvalho.runtime.engine import Problem
from orvalho.runtime.workers.messages import (
    Call,
    Checked,
    CheckSource,
    FromWorker,
    Line,
    Opened,
    RunEnded,
    StartRun,
    ToWorker,
    from_worker,
)
from orvalho.runtime.workers.nursery import Nursery
from orvalho.runtime.workers.pipe import Pipe, open_pipe

_IDLE_S: Final = 600.0
_CHECK_S: Final = 10.0
# More wait: each takes an isolate, and of those a worker makes a limited number.
_MOST_RUNNING: Final = 96
# So many runs at once are much for one worker, and so many workers are enough for one context.
_BUSY: Final = 12
_MOST_PER_CONTEXT: Final = min(os.cpu_count() or 1, 4)


class Guest(Protocol):
    """Whoever follows one run. Called on the event loop; nothing here waits."""

    def line(self, line: Line) -> None:
        """The guest wrote a line."""

    def call(self, call: Call) -> None:
        """The guest calls an operation."""

    def ended(self, ended: RunEnded) -> None:
        """The run is over."""

    def lost(self, outcome: str, why: str) -> None:
        """Its worker has ended, and the run with it: "failed" when the worker died, "lost" when
        the pool was closed."""


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

    def __init__(self, number: int, idle: Callable[[Worker], None]) -> None:
        self.id = number
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
        self._checks: dict[int, asyncio.Future[tuple[Problem, ...]]] = {}
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

    async def check(self, check: CheckSource) -> tuple[Problem, ...]:
        future = self._checks[check.check] = asyncio.get_running_loop().create_future()
        self.send(check)
        try:
            with anyio.fail_after(_CHECK_S):
                problems: tuple[Problem, ...] = await future
                return problems
        except TimeoutError:
            self.kill()
            raise Unavailable("the check of the script did not come to an end") from None
        finally:
            self._checks.pop(check.check, None)

    def info(self) -> WorkerInfo:
        return WorkerInfo(
            self.id,
            self.pid,
            tuple(sorted(self.contexts)),
            self.running,
            self.runs,
            self.started_at,
            _rss_bytes(self.pid),
            self._missing,
        )

    def lost(self, outcome: str, why: str) -> None:
        """The process has ended. Tells all that wait for it."""
        self.is_gone = True
        self.pipe.close()
        guests, self._guests = self._guests, {}
        for guest in guests.values():
            guest.lost(outcome, why)
            self._seats.release()
        for check in self._checks.values():
            if not check.done():
                check.set_exception(Unavailable(why))

    def _received(self, messages: list[FromWorker]) -> None:
        for message in messages:
            if isinstance(message, Opened):
                self._missing = message.missing
            elif isinstance(message, Checked):
                check = self._checks.get(message.check)
                if check is not None and not check.done():
                    check.set_result(message.problems)
            else:
                self._tell(message)

    def _tell(self, message: Line | Call | RunEnded) -> None:
        # A worker speaks for its own runs only: other numbers are not in this table.
        guest = self._guests.get(message.run)
        if guest is None:
            return
        if isinstance(message, Line):
            guest.line(message)
        elif isinstance(message, Call):
            guest.call(message)
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

    def __init__(self, tasks: TaskGroup, contexts_per_worker: int) -> None:
        self.contexts_per_worker = contexts_per_worker
        self.tasks = tasks
        self._loop = asyncio.get_running_loop()
        self._numbers = itertools.count(1)
        self._checks = itertools.count(1)
        self._by_context: dict[str, list[Worker]] = {}
        self._workers: dict[int, Worker] = {}
        self._by_pid: dict[int, Worker] = {}
        self._idle: dict[int, asyncio.TimerHandle] = {}
        self._deaths = 0
        self._nursery = Nursery(self._died)

    async def seat(self, context: str) -> Worker:
        """A worker that will run a script of that context, once it has room for one more.

        Raises:
            Unavailable: no process can be started.
        """
        while True:
            worker = self._worker_for(context)
            await worker.sit_down()
            if not worker.is_gone:
                return worker

    def _worker_for(self, context: str) -> Worker:
        """A worker of that context. One is started when there is
        none, and a further one when all have much to do: isolates of one process get in each
        other's way, so that two processes do half as much again on two processors."""
        own = self._by_context.setdefault(context, [])
        worker = min(own, key=lambda worker: worker.running, default=None)
        if worker is None or (worker.running >= _BUSY and len(own) < _MOST_PER_CONTEXT):
            worker = self._with_room(context) or self._start()
            worker.contexts.add(context)
            own.append(worker)
        timer = self._idle.pop(worker.id, None)
        if timer is not None:
            timer.cancel()
        return worker

    async def check(self, filename: str, source: str) -> tuple[Problem, ...]:
        """All that keeps the source from running, in the order of the lines.

        Raises:
            Unavailable: no worker can be started, or it died of the source.
        """
        worker = next(iter(self._workers.values()), None) or self._start()
        return await worker.check(
            CheckSource(check=next(self._checks), filename=filename, source=source)
        )

    def list(self) -> tuple[WorkerInfo, ...]:
        return tuple(worker.info() for worker in self._workers.values())

    def statistics(self) -> dict[str, int]:
        return {
            "workers": len(self._workers),
            "running": sum(worker.running for worker in self._workers.values()),
            "deaths": self._deaths,
            "without_all_walls": sum(bool(w.info().missing) for w in self._workers.values()),
            "zygote_rss_bytes": _rss_bytes(self._nursery.pid),
        }

    def close(self) -> None:
        """End all workers and the zygote."""
        for timer in self._idle.values():
            timer.cancel()
        for worker in list(self._workers.values()):
            self._forget(worker)
            worker.lost("lost", "the daemon is stopping")
        self._nursery.close()

    def wait_closed(self) -> None:
        """Blocks until the zygote has ended."""
        self._nursery.wait()

    def _with_room(self, context: str) -> Worker | None:
        for worker in self._workers.values():
            if len(worker.contexts) < self.contexts_per_worker and context not in worker.contexts:
                return worker
        return None

    def _start(self) -> Worker:
        if not self._nursery.is_alive:
            self._nursery.wait()
            self._nursery = Nursery(self._died)
        worker = Worker(next(self._numbers), self._rest)
        ours, theirs = socket.socketpair()
        try:
            self._nursery.fork(theirs, lambda pid: self._born(worker, pid))
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
        self._idle[worker.id] = self._loop.call_later(_IDLE_S, self._retire, worker)

    def _retire(self, worker: Worker) -> None:
        if worker.is_idle:
            self._forget(worker)
            worker.pipe.close()

    def _died(self, pid: int, status: int | None) -> None:
        worker = self._by_pid.pop(pid, None)
        if worker is None or worker.id not in self._workers:
            return
        self._deaths += 1
        self._forget(worker)
        worker.lost("failed", _cause(status))

    def _forget(self, worker: Worker) -> None:
        self._workers.pop(worker.id, None)
        self._idle.pop(worker.id, None)
        for context in worker.contexts:
            self._by_context[context].remove(worker)
        worker.contexts = set()


@asynccontextmanager
async def open_workers(*, contexts_per_worker: int = 8) -> AsyncIterator[Workers]:
    """The pool of workers, for the block's length. A worker starts with the first run of a context
    that it takes; up to `contexts_per_worker` share one."""
    async with anyio.create_task_group() as tasks:
        workers = Workers(tasks, contexts_per_worker)
        try:
            yield workers
        finally:
            tasks.cancel_scope.cancel()
            workers.close()
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(workers.wait_closed)


def _cause(status: int | None) -> str:
    what = "its worker process died"
    if status is not None and os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        what += f" ({name})"
        if os.WTERMSIG(status) != signal.SIGKILL:
            return (
                f"{what}: this script, or one beside it in the same worker, most likely asked for "
                "more memory at once than there was"
            )
    return what


def _rss_bytes(pid: int) -> int:
    try:
        fields = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()
    except OSError:
        return 0
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")
