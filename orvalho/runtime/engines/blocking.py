"""An isolate whose guest is a thread that waits: for engines without an event loop of their own.

A call of the guest's stops its thread until the answer has come. What it writes is handed over when
it calls, sleeps or ends, and otherwise whenever its engine lets us look in.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Final

import msgspec

from orvalho.runtime.bridge import LEVELS
from orvalho.runtime.engine import Answer, Start, Turn
from orvalho.runtime.engines.reading import Readings

_TICK: Final = object()
_STOP: Final = object()
_FLUSH_S: Final = 0.01
_FLUSH_BYTES: Final = 32_768
_CLOSE_S: Final = 5.0
TOO_DEEP: Final = "this is nested too deeply to be passed on"


class Stopped(BaseException):
    """The guest's thread is to end, and nobody waits for what it says. Not an Exception, so that no
    handler of an engine's takes it for the guest's own."""


class OutOfMemory(BaseException):
    """The guest has gone past its limit of memory."""


class Thrown(Exception):
    """The guest ended with an error of that name; `stack` as in `job.Ended`."""

    def __init__(self, name: str, message: str, stack: str = "") -> None:
        super().__init__(message)
        self.name = name
        self.message = message
        self.stack = stack


class BlockingIsolate(ABC):
    """See `engine.Isolate`. A subclass says in `run` what its guest does, and has its engine call
    `look_in` while that computes."""

    def __init__(self) -> None:
        self._report: Callable[[Turn], Any] = _ignore
        self._inbox: SimpleQueue[Any] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._native_id: int | None = None
        self._clock: int | None = None
        self._cpu_s = 0.0
        self._has_ended = False
        self._records: list[bytes] = []
        self._records_bytes = 0
        self._flushed_at = 0.0
        self._output_left = self._calls_left = 0
        self._calls = 0
        self._is_full = self._is_waiting = False
        self.is_stopping = False
        # What it reads of clock and chance; told with what else it does.
        self.readings = Readings()
        # Whether its engine calls `look_in` while the guest computes.
        self.is_looked_in = True

    # ---- for the subclass --------------------------------------------------------------------

    @abstractmethod
    def run(self, start: Start) -> bytes:
        """The whole life of the guest, on its thread. Answers its last record (see `bridge.py`).

        Raises:
            Thrown: the guest failed.
            OutOfMemory: it wanted too much.
            Stopped: passed on from the methods below.
        """

    def look_in(self) -> None:
        """Called by the engine now and then while the guest computes.

        Raises:
            Stopped: the guest is to be stopped.
        """
        if self.is_stopping:
            raise Stopped
        if self._records and time.monotonic() - self._flushed_at > _FLUSH_S:
            self._flush()

    def log(self, level: int, text: str) -> None:
        """A line of the guest's; `level` is an index of LEVELS."""
        self._output_left -= len(text.encode())
        if self._output_left < 0:
            raise self._reached(b"output")
        level = level if 0 <= level < len(LEVELS) else 1
        self._add(b"L%d" % level + msgspec.json.encode(text))
        if not self.is_looked_in:
            self._flush()

    def call(self, op: str, argument: bytes) -> Answer:
        """Ask the host and wait. `argument` is a JSON list on one line."""
        self._calls_left -= 1
        if self._calls_left < 0:
            raise self._reached(b"host_calls")
        self._calls += 1
        name = op if op.isprintable() and " " not in op else "?"
        self._add(b"C%d %s " % (self._calls, name.encode()) + argument)
        self._flush()
        while True:
            answer = self._receive()
            if isinstance(answer, Answer) and answer.call == self._calls:
                return answer
            self._report(Turn(b""))

    def sleep(self, after_ms: float) -> None:
        """Wait for so long."""
        self._add(b"W%f" % max(after_ms, 0.0))
        self._flush()
        while self._receive() is not _TICK:
            self._report(Turn(b""))

    def _receive(self) -> Any:
        self._is_waiting = True
        found = self._inbox.get()
        self._is_waiting = False
        if found is _STOP or self.is_stopping:
            raise Stopped
        return found

    def _reached(self, limit: bytes) -> Stopped:
        self._add(b"H" + limit)
        self._flush()
        return Stopped()

    def _add(self, record: bytes) -> None:
        self._records.append(record)
        self._records_bytes += len(record)
        if self._records_bytes > _FLUSH_BYTES:
            self._flush()

    def clock_ns(self, clock: int) -> int:
        """What that clock says; `clock` as WASI counts them: real time, monotonic, processor."""
        return self.readings.clock_ns(clock)

    def chance(self, size: int) -> bytes:
        """So many random bytes."""
        return self.readings.chance(size)

    def _flush(self) -> None:
        self._records[:0] = self.readings.take()
        records, self._records, self._records_bytes = self._records, [], 0
        self._flushed_at = time.monotonic()
        self._report(Turn(b"\n".join(records)))

    # ---- Isolate -----------------------------------------------------------------------------

    def start(self, start: Start, report: Callable[[Turn], Any]) -> None:
        self._report = report
        self._output_left, self._calls_left = start.output_bytes, start.host_calls
        self.readings = Readings(start.room_bytes, start.tape)
        self._thread = threading.Thread(target=self._live, args=(start,), daemon=True)
        try:
            self._thread.start()
        except RuntimeError:
            self._thread = None
            report(Turn(None, "memory"))

    def settle(self, answers: list[Answer]) -> None:
        for answer in answers:
            self._inbox.put(answer)

    def tick(self) -> None:
        self._inbox.put(_TICK)

    def look(self) -> None:
        self._report(Turn(b""))

    def cpu_s(self) -> float:
        if self._clock is None or self._has_ended:
            return self._cpu_s
        try:
            return time.clock_gettime(self._clock)
        except OSError:
            # It has ended just now.
            return self._cpu_s

    def step_back(self) -> None:
        if self._native_id is not None and sys.platform == "linux":
            with contextlib.suppress(OSError):
                os.sched_setscheduler(self._native_id, os.SCHED_IDLE, os.sched_param(0))

    def is_waiting(self) -> bool:
        return self._is_waiting

    def is_out_of_memory(self) -> bool:
        return self._is_full

    def close(self) -> None:
        self._report = _ignore
        self.is_stopping = True
        self._inbox.put(_STOP)
        if self._thread is not None:
            self._thread.join(_CLOSE_S)

    # ---- the guest's thread ------------------------------------------------------------------

    def _live(self, start: Start) -> None:
        self._native_id = threading.get_native_id()
        self._clock = time.pthread_getcpuclockid(threading.get_ident())
        self._flushed_at = time.monotonic()
        turn: Turn | None = None
        try:
            self._add(self.run(start))
        except Stopped:
            turn = Turn(b"")
        except (OutOfMemory, MemoryError):
            self._is_full = True
            turn = Turn(None, "memory")
        except Thrown as thrown:
            error = [thrown.name, thrown.message, thrown.stack]
            self._add(b"E" + msgspec.json.encode(error))
        except BaseException as error:  # noqa: BLE001 -- an engine that breaks ends this guest only
            turn = Turn(None, f"{type(error).__name__}: {error}"[:1000])
        self._cpu_s = time.thread_time()
        self._has_ended = True
        if turn is None:
            self._flush()
        else:
            if self._records:
                self._flush()
            self._report(turn)


def _ignore(turn: Turn) -> None:
    """Before its start and after its end nobody listens."""
