"""One script, once: start it, answer its calls, follow what it says, stop it.

A run can do what its table of operations does and nothing else; the worker that executes it is
believed in nothing beyond that.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import logging
import os
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import anyio
import msgspec
from anyio.abc import TaskGroup

from orvalho.errors import NotFound, OrvalhoError
from orvalho.policies.quota import Limits, Usage
from orvalho.runtime.bridge import LEVELS, HostCall
from orvalho.runtime.engine import Modules, Outline, Problem
from orvalho.runtime.engines.catalog import ALONE, pick_language
from orvalho.runtime.recording import Playback, Recorder, Recording
from orvalho.runtime.workers.messages import (
    AnswerCall,
    Call,
    Line,
    Metered,
    RunEnded,
    StartRun,
    StopRun,
    Taped,
)
from orvalho.runtime.workers.pool import Worker, Workers
from orvalho.scripts.script import Source
from orvalho.scripts.wasm.binary import is_component

# HostCall is bridge.py's: whoever makes a Job needs it beside the rest.
__all__ = ["Ended", "HostCall", "Job", "Jobs", "Output", "Run"]

_log: Final = logging.getLogger(__name__)
_MOST_CALLS_AT_ONCE: Final = 32
_MOST_ARGUMENT_BYTES: Final = 32 << 20
_ALONE_SOURCE: Final = Modules()
_GRACE_S: Final = 5.0
_ALONE_GRACE_S: Final = 0.05
# How long a run that nobody follows any more is waited for: it says what it has used.
_LAST_WORD_S: Final = 0.25
# A process of its own costs a run some milliseconds, and saves a third of its time.
_HEAVY_S: Final = 0.2
_MOST_HEAVY: Final = 256
# What no run can use of anything, in milliseconds or bytes: sums of it still fit the database.
_MOST_USED: Final = 1 << 44
_MOST_TAPE_BYTES: Final = 64 << 20
_OUTCOMES: Final = ("done", "failed", "limited", "cancelled")


@dataclass(frozen=True, slots=True)
class Job:
    """`params` is JSON, `caller` and `target` have `id` and `name`. `ops` is all that the script
    can reach: `target.fs.read` and the like. `digest` is the source's SHA-256 in hex, where it is
    known. `serves`: it stays, and asks for calls with `service.next`; a module of WebAssembly alone
    can. `on_metered` is told its processor time in milliseconds, about every `metering_s` while it
    runs, 0 for not at all; and at its end, when its block is left before. `off` are words of
    `web/switches.py`: what its world does not have. `read_only`: sides whose tree it does not write
    to, as it has declared. `record_bytes`: how much of what it gets is written down, 0 for nothing.
    A job with a `replay` has no operations: it is answered from that."""

    run_id: str
    context: str
    filename: str
    source: Source
    params: bytes
    caller: Mapping[str, str]
    target: Mapping[str, str]
    limits: Limits
    ops: Mapping[str, HostCall]
    digest: str = ""
    serves: bool = False
    metering_s: float = 0.0
    on_metered: Callable[[int], None] | None = None
    modules: Modules = _ALONE_SOURCE
    off: tuple[str, ...] = ()
    read_only: tuple[str, ...] = ()
    record_bytes: int = 0
    replay: Recording | None = None


@dataclass(frozen=True, slots=True)
class Output:
    """A log line. `level`: debug, log, info, warn or error. `seq` counts from 1."""

    seq: int
    level: str
    text: str
    at: float


@dataclass(frozen=True, slots=True)
class Ended:
    """`outcome`: done, failed, limited, cancelled, or lost when the pool was closed meanwhile.

    `result` is JSON, or the bytes themselves when `is_bytes`; None for undefined. A failed run has
    the error's name, message and stack (lines `    at main (job.js:3:5)`, may be empty), a limited
    one the name of the limit: wall, cpu, memory, output or host_calls. A worker that died makes its
    runs fail with the name Unavailable, and `is_lost`.
    """

    outcome: str
    usage: Usage
    result: bytes | None = None
    is_bytes: bool = False
    limit: str | None = None
    error_name: str | None = None
    error_message: str | None = None
    error_stack: str | None = None
    is_lost: bool = False


class Jobs:
    """Runs scripts in a pool of workers. A worker that has not ended a run `grace_s` after its time
    is up, or it was cancelled, is taken for stuck and killed. A module of which a run has used
    `heavy_s` of a processor has workers of its own from then on; with 0, each has."""

    def __init__(
        self, workers: Workers, *, grace_s: float = _GRACE_S, heavy_s: float = _HEAVY_S
    ) -> None:
        self.workers = workers
        self._grace_s = grace_s
        self._heavy_s = heavy_s
        # The digests of such modules whose code for that is there.
        self._heavy: OrderedDict[str, None] = OrderedDict()
        self._numbers = itertools.count(1)

    @asynccontextmanager
    async def open(self, job: Job) -> AsyncIterator[Run]:
        """Start a job. Iterating the run gives its Output as it comes, and then one Ended. Leaving
        the block stops what still runs.

        Raises:
            Unavailable: no worker can be started.
        """
        language, source = pick_language(job.filename, job.source), job.source
        alone, digest, made_cpu_ms = None, job.digest, 0
        if isinstance(source, bytes):
            digest = digest or hashlib.sha256(source).hexdigest()
            may_be_alone = not job.serves and not is_component(source)
            alone = ALONE.get(language) if may_be_alone else None
            is_heavy = digest in self._heavy or not self._heavy_s
            if alone and is_heavy and self.workers.has_room_alone(alone):
                language, alone = alone, None
            worker, source, made_cpu_ms = await self.workers.seat_with(
                job.context, language, job.filename, source, digest
            )
        else:
            worker = await self.workers.seat(job.context, language)
        run = Run(
            job,
            source,
            next(self._numbers),
            worker,
            tasks=self.workers.tasks,
            grace_s=self._grace_s,
            made_cpu_ms=made_cpu_ms,
        )
        try:
            yield run
        finally:
            await run.leave()
            if alone and run.cpu_ms >= self._heavy_s * 1000:
                self.workers.tasks.start_soon(self._set_apart, job, digest, alone)

    async def _set_apart(self, job: Job, digest: str, language: str) -> None:
        """Have the code made that the module's next runs will use."""
        assert isinstance(job.source, bytes)
        with suppress(OrvalhoError):
            await self.workers.compile(job.filename, job.source, language, digest)
            self._heavy[digest] = None
            if len(self._heavy) > _MOST_HEAVY:
                self._heavy.popitem(last=False)

    async def check(
        self, filename: str, source: Source, modules: Modules = _ALONE_SOURCE
    ) -> tuple[Problem, ...]:
        """All that keeps a source from running, nothing of which is run.

        Raises:
            Unavailable: no worker can be started, or it did not survive the source.
        """
        if isinstance(source, bytes):
            return (await self.workers.compile(filename, source)).problems
        return await self.workers.check(filename, source, modules)

    async def forbidden(
        self, filename: str, source: str, modules: Modules, off: tuple[str, ...]
    ) -> tuple[Problem, ...]:
        """Where a JavaScript source or its modules name what `off`, words of `web/switches.py`,
        takes away.

        Raises:
            Unavailable: as for `check`.
        """
        return await self.workers.check(filename, source, modules, off)

    async def outline(self, filename: str, source: str) -> Outline:
        """What a source asks for and offers, nothing of which is run.

        Raises:
            Unavailable: as for `check`.
        """
        return await self.workers.outline(filename, source)


class Run:
    """One run under way. Made by `Jobs.open`; iterated once. `source` is the job's, or the key of
    its code, `made_cpu_ms` what making that took of processors: the run's own use, if not within
    its limit."""

    def __init__(
        self,
        job: Job,
        source: str,
        number: int,
        worker: Worker,
        *,
        tasks: TaskGroup,
        grace_s: float,
        made_cpu_ms: int = 0,
    ) -> None:
        self.job = job
        self._made_cpu_ms = made_cpu_ms
        self._number = number
        self._grace_s = grace_s
        self._tasks = tasks
        self._events: deque[Output | Ended] = deque()
        self._wake: asyncio.Event = asyncio.Event()
        self.cpu_ms = 0
        self._has_ended = False
        self._is_cancelled = self._is_left = False
        self._lines = 0
        self._output_bytes = 0
        self._calls = 0
        self._queued: deque[Call] = deque()
        self._scopes: set[anyio.CancelScope] = set()
        self.recorder = Recorder(job.record_bytes) if job.record_bytes else None
        self.playback = Playback(job.replay) if job.replay else None
        self._read_bytes = 0
        self._written_bytes = 0
        self._loop = asyncio.get_running_loop()
        self._worker = worker
        self._first_cpu_ms = _cpu_ms(worker.pid) if worker.is_alone else 0
        self._began_at = self._loop.time()
        limits = job.limits
        self._overdue = self._loop.call_later(limits.wall_s + grace_s, self._kill_worker)
        self._worker.start(
            StartRun(
                run=number,
                filename=job.filename,
                source=source,
                params=job.params,
                caller=dict(job.caller),
                target=dict(job.target),
                wall_s=limits.wall_s,
                cpu_s=limits.cpu_s,
                memory_bytes=limits.memory_bytes,
                output_bytes=limits.output_bytes,
                host_calls=limits.host_calls,
                serves=job.serves,
                metering_s=job.metering_s,
                modules=job.modules,
                off=job.off,
                read_only=job.read_only,
                room_bytes=job.record_bytes or (_MOST_TAPE_BYTES if job.replay else 0),
                tape=job.replay.tape if job.replay else None,
            ),
            self,
        )

    @property
    def lines(self) -> int:
        """How many have come; whoever follows may not have seen the last ones yet."""
        return self._lines

    def __aiter__(self) -> AsyncIterator[Output | Ended]:
        return self._follow()

    def cancel(self) -> None:
        """Stop the script where it stands; the run then ends as cancelled."""
        if self._has_ended:
            return
        self._worker.send(StopRun(run=self._number))
        self._overdue.cancel()
        self._is_cancelled = True
        # Nobody else is in a worker of one guest: it need not be waited for.
        grace_s = _ALONE_GRACE_S if self._worker.is_alone else self._grace_s
        self._overdue = self._loop.call_later(grace_s, self._kill_worker)

    async def leave(self) -> None:
        """Nobody follows the run any more: stop it, if it is not over, and wait a moment for what
        it has used."""
        if self._has_ended:
            return
        self._is_left = self._is_cancelled = True
        self._stop_serving()
        self._worker.send(StopRun(run=self._number))
        if self._worker.is_alone:
            self._overdue = self._loop.call_later(_ALONE_GRACE_S, self._kill_worker)
        with anyio.move_on_after(_LAST_WORD_S, shield=True):
            while not self._has_ended:
                self._wake.clear()
                await self._wake.wait()
        if not self._has_ended:
            self._has_ended = True
            self._worker.forget(self._number)
        elif self.job.on_metered is not None:
            self.job.on_metered(self.cpu_ms + self._made_cpu_ms)

    async def _follow(self) -> AsyncIterator[Output | Ended]:
        while True:
            while self._events:
                event = self._events.popleft()
                yield event
                if isinstance(event, Ended):
                    return
            self._wake.clear()
            await self._wake.wait()

    # ---- from the worker ---------------------------------------------------------------------

    def line(self, line: Line) -> None:
        if self._is_left:
            return
        self._lines += 1
        self._output_bytes += len(line.text)
        if self._output_bytes > self.job.limits.output_bytes or line.level not in LEVELS:
            # The worker counts before it sends, so it is not its own code that sent this.
            self._kill_worker()
            return
        self._add(Output(self._lines, line.level, line.text, time.time()))

    def call(self, call: Call) -> None:
        if self._is_left:
            return
        self._calls += 1
        if self.recorder is not None:
            self.recorder.asked(call.call, call.op, call.argument)
        if self._calls > self.job.limits.host_calls:
            self._kill_worker()
        elif self.playback is not None:
            self._replay(self.playback, call)
        elif len(self._scopes) < _MOST_CALLS_AT_ONCE:
            self._serve_soon(call)
        else:
            self._queued.append(call)

    def metered(self, metered: Metered) -> None:
        self.cpu_ms = metered.cpu_ms
        if self.job.on_metered is not None and not self._has_ended:
            self.job.on_metered(metered.cpu_ms + self._made_cpu_ms)

    def taped(self, taped: Taped) -> None:
        if self.recorder is not None:
            self.recorder.taped(taped.tape)
        if self.playback is not None and taped.tape is not None:
            self.playback.tape = taped.tape

    def ended(self, ended: RunEnded) -> None:
        usage = Usage(
            wall_ms=ended.wall_ms,
            cpu_ms=ended.cpu_ms,
            memory_bytes=ended.memory_bytes,
            output_bytes=ended.output_bytes,
            host_calls=self._calls,
            read_bytes=self._read_bytes,
            written_bytes=self._written_bytes,
        )
        self._end(self._checked(ended, usage))

    def lost(self, outcome: str, why: str, limit: str | None = None) -> None:
        if self.recorder is not None:
            self.recorder.lost()
        limits = self.job.limits
        usage = Usage(
            wall_ms=round((self._loop.time() - self._began_at) * 1000),
            # What the kernel ended it for, it has used.
            cpu_ms=round(limits.cpu_s * 1000) if limit == "cpu" else self.cpu_ms,
            memory_bytes=limits.memory_bytes if limit == "memory" else 0,
            output_bytes=self._output_bytes,
            host_calls=self._calls,
            read_bytes=self._read_bytes,
            written_bytes=self._written_bytes,
        )
        if self._is_cancelled and self._worker.is_alone:
            self._end(Ended("cancelled", usage))
        elif limit is not None:
            self._end(Ended(outcome, usage, limit=limit))
        else:
            self._end(
                Ended(outcome, usage, error_name="Unavailable", error_message=why, is_lost=True)
            )

    def _checked(self, ended: RunEnded, usage: Usage) -> Ended:
        is_possible = all(0 <= each <= _MOST_USED for each in msgspec.structs.astuple(usage))
        usage = usage if is_possible else Usage()
        if ended.outcome not in _OUTCOMES or not is_possible:
            return Ended(
                "failed",
                usage,
                error_name="Unavailable",
                error_message="worker is broken",
                is_lost=True,
            )
        if ended.result is not None and not ended.is_bytes and not _is_json(ended.result):
            return Ended(
                "failed",
                usage,
                error_name="RangeError",
                error_message="the result is nested too deeply to be passed on",
            )
        return Ended(
            ended.outcome,
            usage,
            ended.result,
            ended.is_bytes,
            ended.limit,
            ended.error_name,
            ended.error_message,
            ended.error_stack,
        )

    def _end(self, ended: Ended) -> None:
        self.cpu_ms = ended.usage.cpu_ms
        self._has_ended = True
        self._stop_serving()
        if self._made_cpu_ms:
            used_ms = ended.usage.cpu_ms + self._made_cpu_ms
            ended = replace(ended, usage=msgspec.structs.replace(ended.usage, cpu_ms=used_ms))
        self._add(ended)

    def _add(self, event: Output | Ended) -> None:
        self._events.append(event)
        self._wake.set()

    def _kill_worker(self) -> None:
        _log.warning("worker.killed", extra={"pid": self._worker.pid, "run": self.job.run_id})
        if self._worker.is_alone:
            # It may be past saying anything: what its process has used, its guest has used.
            self.cpu_ms = max(self.cpu_ms, _cpu_ms(self._worker.pid) - self._first_cpu_ms)
        self._worker.kill()

    # ---- its calls ---------------------------------------------------------------------------

    def _replay(self, playback: Playback, call: Call) -> None:
        """Answer from the recording. With another call than that the replay is over."""
        answer = playback.answer(call.call, call.op, call.argument)
        if answer is not None:
            self._send(call, answer[0], is_error=answer[1])
        elif playback.difference is not None:
            self.cancel()

    def _serve_soon(self, call: Call) -> None:
        scope = anyio.CancelScope()
        self._scopes.add(scope)
        self._tasks.start_soon(self._serve, call, scope)

    async def _serve(self, call: Call, scope: anyio.CancelScope) -> None:
        with scope:
            try:
                answer = await self._answer(call)
            except OrvalhoError as error:
                self._send_error(call, error)
            except Exception:  # noqa: BLE001 -- a bug in one operation is told to its run alone
                _log.exception("op.failed", extra={"run": self.job.run_id, "op": call.op})
                self._send_error(call, OrvalhoError("the operation failed on the target's side"))
            else:
                self._read_bytes += len(answer)
                self._send(call, answer, is_error=False)
        self._scopes.discard(scope)
        if self._queued:
            self._serve_soon(self._queued.popleft())

    async def _answer(self, call: Call) -> bytes:
        op = self.job.ops.get(call.op)
        if op is None:
            raise NotFound(f"there is no operation {call.op[:100]!a}")
        if len(call.argument) > _MOST_ARGUMENT_BYTES:
            raise OrvalhoError(f"{call.op} takes at most {_MOST_ARGUMENT_BYTES} bytes at once")
        self._written_bytes += len(call.argument)
        answer = await op(call.argument.decode("utf-8", "replace"))
        return answer.encode()

    def _send_error(self, call: Call, error: OrvalhoError) -> None:
        parts = {
            "name": "Error" if type(error) is OrvalhoError else type(error).__name__,
            "message": error.message,
            "code": error.code,
            "rule": error.rule,
            "hint": error.hint,
            "where": error.where,
        }
        known = {key: part for key, part in parts.items() if part is not None}
        self._send(call, msgspec.json.encode(known), is_error=True)

    def _send(self, call: Call, value: bytes, *, is_error: bool) -> None:
        if self.recorder is not None:
            self.recorder.answered(call.call, value, is_error=is_error)
        self._worker.send(
            AnswerCall(run=self._number, call=call.call, is_error=is_error, value=value)
        )

    def _stop_serving(self) -> None:
        self._overdue.cancel()
        self._queued.clear()
        for scope in self._scopes:
            scope.cancel()


def _cpu_ms(pid: int) -> int:
    """What a process has used of processors so far; 0 for one that is not there."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return 0
    return (int(fields[11]) + int(fields[12])) * 1000 // os.sysconf("SC_CLK_TCK")


def _is_json(raw: bytes) -> bool:
    """Whether it is one JSON value on one line, and not nested beyond what decoders take."""
    try:
        raw.decode()
        msgspec.json.decode(raw, type=msgspec.Raw)
    except (UnicodeDecodeError, msgspec.MsgspecError, RecursionError):
        return False
    return b"\n" not in raw
