"""Libraries that stay: an instance each, whose memory lives on from call to call.

A call is an ordinary signed run, decided and counted like others; only the guest is there already.
It acts as its caller: its operations are those of the call that it is making, and between calls it
has none. One call is made after the other. A trap, or a call that takes too long, ends the
instance; the next call makes a fresh one. Nothing of it outlives the daemon.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Final

import anyio
import anyio.abc
import msgspec

from orvalho.daemon.library_words import Running
from orvalho.errors import Conflict, LimitExceeded, NotFound, ScriptFailed, Unavailable
from orvalho.policies.quota import HARD_MAXIMA, Limits, Usage
from orvalho.policies.quotas import METERING_S
from orvalho.runtime.job import Ended, HostCall, Job, Jobs, Output, Run
from orvalho.scripts.library import Library
from orvalho.scripts.reference import Reference

_log = logging.getLogger(__name__)

# Of an instance, not of a call: that one's own limit of time is kept by `Service.call`.
_LIFE_S: Final = 10 * 365 * 86_400.0
_MOST: Final = 64
_START_S: Final = 30.0
# How long a call that is stopped is waited for: its instance says what it has used.
_STOP_S: Final = 1.0
_CANCELLED: Final = Ended("cancelled", Usage())
_NEXT, _DONE = "service.next", "service.done"

Tell = Callable[[Output], Awaitable[None]]


@dataclass(slots=True)
class _Call:
    """One call: what it may use, its lines that nobody was told yet, and how it ended. `verdict`:
    it is being stopped, and ends like that."""

    job: Job
    began_at: float = field(default_factory=time.monotonic)
    over: anyio.Event = field(default_factory=anyio.Event)
    news: anyio.Event = field(default_factory=anyio.Event)
    verdict: Ended | None = None
    ended: Ended | None = None
    untold: deque[Output] = field(default_factory=deque)
    lines: int = 0
    output_bytes: int = 0
    host_calls: int = 0
    cpu_ms: int = 0

    @property
    def is_going_on(self) -> bool:
        return self.ended is None and self.verdict is None

    def add(self, line: Output) -> None:
        self.lines += 1
        self.output_bytes += len(line.text.encode())
        self.untold.append(replace(line, seq=self.lines))
        self.news.set()

    def metered(self, cpu_ms: int) -> None:
        """It has used so much of a processor by now."""
        self.cpu_ms = max(self.cpu_ms, cpu_ms)
        if self.job.on_metered is not None:
            self.job.on_metered(self.cpu_ms)

    def end(self, ended: Ended) -> None:
        if self.ended is None:
            wall_ms = round(1000 * (time.monotonic() - self.began_at))
            usage = msgspec.structs.replace(
                ended.usage,
                wall_ms=wall_ms,
                cpu_ms=self.cpu_ms,
                output_bytes=self.output_bytes + len(ended.result or b""),
                host_calls=self.host_calls,
            )
            self.ended = replace(ended, usage=usage)
            self.over.set()
            self.news.set()

    async def tell(self, tell: Tell) -> None:
        """Tell all lines that have come. What has been told is gone, even when this is cut short.

        Raises:
            LimitExceeded: they are so many that they cost more than what is in them.
        """
        while self.untold:
            await tell(self.untold.popleft())


class _Operations(Mapping[str, HostCall]):
    """What an instance can reach: its next call, and what the call it is making may reach."""

    def __init__(self, instance: _Instance) -> None:
        self._own: dict[str, HostCall] = {_NEXT: instance.next, _DONE: instance.done}
        self._instance = instance

    def __getitem__(self, name: str) -> HostCall:
        if name in self._own:
            return self._own[name]
        call = self._instance.current
        if call is None or not call.is_going_on:
            raise KeyError(name)
        found = call.job.ops[name]
        call.host_calls += 1
        if call.host_calls > call.job.limits.host_calls:
            self._instance.limit("host_calls")
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._own)

    def __len__(self) -> int:
        return len(self._own)


class _Instance:
    """One guest, from its start to its end. Serves one call at a time."""

    def __init__(self) -> None:
        self.current: _Call | None = None
        self.started_at = time.time()
        self.memory_bytes = 0
        self.problem: str | None = None
        self.scope = anyio.CancelScope()
        # It waits for its first call, or has ended before.
        self.is_ready = anyio.Event()
        self._run: Run | None = None
        # The processor time of its whole life: what was used before the call it is making, and how
        # many of its lines have been given to their calls.
        self._cpu_before_ms = 0
        self._given = 0
        self._gave = anyio.Event()
        self._calls = anyio.Event()

    def give(self, call: _Call) -> None:
        self.current = call
        self._calls.set()

    async def next(self, argument: str) -> str:
        if self.current is None:
            # What its start took is its owner's, not the next caller's.
            self._cpu_before_ms = max(self._cpu_before_ms, _whole(argument))
        self.is_ready.set()
        await self._calls.wait()
        self._calls = anyio.Event()
        call = self.current
        return call.job.params.decode() if call else "null"

    async def done(self, argument: str) -> str:
        # The guest waits for this: what it has written, it wrote in this call.
        while self._run is not None and self._given < self._run.lines:
            await self._gave.wait()
        call = self.current
        if call is None or not call.is_going_on:
            # One that is being stopped ends with its instance.
            return "null"
        self.current = None
        try:
            answer = msgspec.json.decode(argument, type=_Answer)
            usage = Usage(memory_bytes=answer.memory_bytes)
            ended = _ended(answer, usage, call.job.limits)
            call.metered(answer.cpu_ms - self._cpu_before_ms)
            self._cpu_before_ms = max(self._cpu_before_ms, answer.cpu_ms)
        except (ValueError, RecursionError):
            # msgspec's errors and binascii's are ValueErrors: a worker is believed in nothing.
            ended = _lost("worker is broken")
            self.stop("its worker is broken")
        if ended.usage.memory_bytes - self.memory_bytes > call.job.limits.memory_bytes:
            # The instance keeps what a call has taken: more than that one may have, it may not.
            ended = Ended("limited", ended.usage, limit="memory")
            self.stop("a call reached its limit: memory")
        self.memory_bytes = ended.usage.memory_bytes
        call.end(ended)
        return "null"

    def metered(self, cpu_ms: int) -> None:
        """So much it has used in its life."""
        call = self.current
        if call is None or call.ended is not None:
            return
        call.metered(cpu_ms - self._cpu_before_ms)
        if call.cpu_ms >= call.job.limits.cpu_s * 1000:
            self.limit("cpu")

    def limit(self, name: str) -> None:
        """The call that is being made has reached a limit of its own."""
        self.cut(Ended("limited", Usage(), limit=name), f"a call reached its limit: {name}")

    def cut(self, verdict: Ended, problem: str) -> None:
        """Stop, so that the call that is being made ends like that."""
        if self.current is not None and self.current.is_going_on:
            self.current.verdict = verdict
        self.stop(problem)

    def stop(self, problem: str) -> None:
        self.problem = self.problem or problem
        if self._run is None:
            self.scope.cancel()
        else:
            # Its end says what it has used.
            self._run.cancel()

    async def live(self, jobs: Jobs, job: Job) -> None:
        """Until it ends, or is stopped."""
        last = _lost("it was stopped")
        try:
            with self.scope:
                async with jobs.open(job) as self._run:
                    async for event in self._run:
                        if isinstance(event, Ended):
                            last = event
                        else:
                            self._line(event)
        except Unavailable as error:
            last = replace(last, error_message=error.message)
        except Exception:  # noqa: BLE001 -- the top of a task: what breaks is one instance
            _log.exception("service.failed")
        finally:
            self.problem = self.problem or _why(last)
            self.is_ready.set()
            call, self.current = self.current, None
            if call is not None:
                self._end_with(call, last)

    def _end_with(self, call: _Call, last: Ended) -> None:
        """The instance has ended, and the call that it was making."""
        # What it used in earlier calls has been counted.
        call.metered(last.usage.cpu_ms - self._cpu_before_ms)
        if call.verdict is not None:
            last = call.verdict
        elif last.outcome == "cancelled":
            last = _lost(self.problem or "")
        call.end(replace(last, usage=Usage()))

    def _line(self, line: Output) -> None:
        self._given = line.seq
        self._gave.set()
        self._gave = anyio.Event()
        call = self.current
        if call is None or not call.is_going_on:
            return
        call.add(line)
        if call.output_bytes > call.job.limits.output_bytes:
            self.limit("output")


class Service:
    """A library that stays in a context. Made by `Services.start`."""

    def __init__(self, library: Library, job: Job, jobs: Jobs, tasks: anyio.abc.TaskGroup) -> None:
        self.library = library
        self.context = job.context
        self.started_at = time.time()
        self._job = job
        self._jobs = jobs
        self._tasks = tasks
        self._turn = anyio.Lock()
        self._is_closed = False
        self._instance: _Instance | None = None
        self._calls = 0
        self._failures = 0
        self._memory_bytes = 0

    async def open(self) -> str | None:
        """Make its instance; why it has ended again, if it has."""
        instance = self._fresh(self.library.content)
        await instance.is_ready.wait()
        return instance.problem

    async def call(self, job: Job, tell: Tell) -> Ended:
        """Make one call, whose library `job.source` is: another one than before takes its place.
        Waits for its turn within the call's own limit of time.

        Raises:
            Unavailable: it was stopped while the call waited.
        """
        call = _Call(job)
        with anyio.move_on_after(job.limits.wall_s) as scope:
            async with self._turn:
                await self._make(call, tell)
        if scope.cancelled_caught:
            call.end(_CANCELLED)
            assert call.ended is not None
            if call.ended.outcome == "cancelled":
                call.ended = replace(call.ended, outcome="limited", limit="wall")
        assert call.ended is not None
        try:
            await call.tell(tell)
        except LimitExceeded:
            call.ended = Ended("limited", call.ended.usage, limit="output")
        self._calls += 1
        self._failures += call.ended.outcome != "done"
        return call.ended

    async def _make(self, call: _Call, tell: Tell) -> None:
        if self._is_closed:
            raise Unavailable(f"the service {self.library.name} was stopped", hint="try it again")
        assert isinstance(call.job.source, bytes)
        instance = self._fresh(call.job.source)
        instance.give(call)
        try:
            while call.ended is None:
                await call.news.wait()
                call.news = anyio.Event()
                try:
                    await call.tell(tell)
                except LimitExceeded:
                    instance.limit("output")
        finally:
            if call.ended is None:
                # Whoever waited has gone, and it computes still.
                instance.cut(_CANCELLED, "a call took too long, or was cancelled")
                with anyio.move_on_after(_STOP_S, shield=True):
                    await call.over.wait()
                call.end(_CANCELLED)
            self._memory_bytes = instance.memory_bytes

    def _fresh(self, content: bytes) -> _Instance:
        instance = self._instance
        if content != self.library.content:
            self.stop("its library was replaced")
            sha256 = hashlib.sha256(content).hexdigest()
            self.library = replace(self.library, content=content, sha256=sha256)
        if instance is None or instance.problem is not None:
            instance = self._instance = _Instance()
            limits = msgspec.structs.replace(
                HARD_MAXIMA,
                wall_s=_LIFE_S,
                cpu_s=_LIFE_S,
                memory_bytes=self._job.limits.memory_bytes,
            )
            living = replace(
                self._job,
                source=content,
                limits=limits,
                ops=_Operations(instance),
                serves=True,
                record_bytes=0,
                metering_s=METERING_S,
                on_metered=instance.metered,
            )
            self._tasks.start_soon(instance.live, self._jobs, living)
        return instance

    def stop(self, why: str) -> None:
        """End its instance."""
        if self._instance is not None:
            self._instance.stop(why)

    def close(self) -> None:
        """End it for good."""
        self._is_closed = True
        self.stop("it was stopped")

    def state(self) -> Running:
        instance = self._instance
        return Running(
            library=self.library.name,
            context=self.context,
            sha256=self.library.sha256,
            calls=self._calls,
            failures=self._failures,
            memory_bytes=self._memory_bytes,
            started_at=self.started_at,
            instance_at=instance.started_at if instance else self.started_at,
            problem=instance.problem if instance else None,
        )


class Services:
    """What stays on this node, by library and context."""

    def __init__(self, jobs: Jobs, tasks: anyio.abc.TaskGroup) -> None:
        self._jobs = jobs
        self._tasks = tasks
        self._found: dict[tuple[str, str], Service] = {}

    async def start(self, library: Library, job: Job) -> bool:
        """Whether it is new. Of `job` it has context, name, source and limit of memory.

        Raises:
            Conflict: there are too many.
            ScriptFailed: it cannot be started.
        """
        key = (library.name, job.context)
        if key in self._found:
            return False
        if len(self._found) >= _MOST:
            raise Conflict(f"{_MOST} services run here already", hint="orvalho service stop NAME")
        service = self._found[key] = Service(library, job, self._jobs, self._tasks)
        with anyio.move_on_after(_START_S):
            problem = await service.open()
            if problem is not None:
                self._found.pop(key, None)
                raise ScriptFailed(f"{library.name} cannot be started: {problem}")
        return True

    def stop(self, name: str, context: str | None) -> list[str]:
        """In which contexts it was stopped.

        Raises:
            NotFound: it runs in none.
        """
        keys = [key for key in self._found if key[0] == name and context in (None, key[1])]
        if not keys:
            raise NotFound(f"no service {name[:100]!a} runs here", hint="orvalho services")
        for key in keys:
            self._found.pop(key).close()
        return [key[1] for key in keys]

    def find(self, reference: Reference, context: str) -> Service | None:
        return self._found.get((reference.library, context))

    def list(self) -> tuple[Running, ...]:
        """By name."""
        return tuple(self._found[key].state() for key in sorted(self._found))


_Amount = Annotated[int, msgspec.Meta(ge=0, le=1 << 44)]


class _Answer(msgspec.Struct, frozen=True, array_like=True):
    """`cpu_ms` is what the instance has used in its life."""

    kind: str
    text: str
    cpu_ms: _Amount
    memory_bytes: _Amount


def _whole(argument: str) -> int:
    """The processor time that an instance tells when it asks for its next call."""
    try:
        return msgspec.json.decode(argument, type=tuple[_Amount])[0]
    except (ValueError, RecursionError):
        return 0


def _ended(answer: _Answer, usage: Usage, limits: Limits) -> Ended:
    """From the last record of a call.

    Raises:
        ValueError: it is none.
    """
    kind, text = answer.kind, answer.text
    if kind == "E":
        name, message, stack = msgspec.json.decode(text, type=tuple[str, str, str])
        return Ended(
            "failed", usage, error_name=name, error_message=message, error_stack=stack or None
        )
    if kind not in ("U", "R", "B"):
        raise ValueError(kind)
    result = base64.b64decode(text) if kind == "B" else text.encode()
    if kind == "R":
        msgspec.json.decode(result, type=msgspec.Raw)
    if len(result) > limits.output_bytes:
        return Ended("limited", usage, limit="output")
    return Ended("done", usage, None if kind == "U" else result, is_bytes=kind == "B")


def _lost(why: str) -> Ended:
    return Ended("failed", Usage(), error_name="Unavailable", error_message=why, is_lost=True)


def _why(ended: Ended) -> str:
    if ended.limit is not None:
        return f"it reached its limit: {ended.limit}"
    return ended.error_message or ended.outcome
