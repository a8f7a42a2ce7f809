"""What a worker gives up before it sees a guest: files, environment, memory without end, and most
system calls. Each wall says so when the system does not offer it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Final

from orvalho.runtime.workers.seccomp import refuse_system_calls

_NICE: Final = 10
_MOST_FILES: Final = 32
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4
_SIGKILL: Final = 9
# What an isolate may map beyond its guest's own memory: its thread's stack, tables, code.
_ISOLATE_BYTES: Final = 16 << 20
# For all guests of a worker together, and at the least.
_BUDGET_BYTES: Final = 256 << 20
# What the process of a single guest needs beside that guest's memory.
_ALONE_BYTES: Final = 24 << 20


def leave_everything(pipe: int) -> None:
    """Right after the fork: no file but the pipe, no environment, the lowest standing."""
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    keep = {0, 1, 2, pipe}
    for name in os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else range(3, 256):  # noqa: PTH112, PTH208
        if int(name) not in keep:
            with contextlib.suppress(OSError):
                os.close(int(name))
    os.environ.clear()
    os.nice(_NICE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (_MOST_FILES, _MOST_FILES))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)


def close_the_gate() -> tuple[str, ...]:
    """The last walls. Answers the names of those that are missing."""
    missing = []
    if sys.platform != "linux" or ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        missing.append("dumpable")
    if not refuse_system_calls():
        missing.append("seccomp")
    return tuple(missing)


def end_after(*, wall_s: float, cpu_s: float) -> None:
    """Have the kernel end this process, when so much time has passed or it has used so much of a
    processor: by SIGALRM or SIGPROF, whatever its threads do then."""
    signal.setitimer(signal.ITIMER_REAL, wall_s)
    signal.setitimer(signal.ITIMER_PROF, cpu_s)


class Memory:
    """How much memory this process has, and the most it may have.

    Buffers and WebAssembly memories are no part of a V8 heap and are bounded by nothing else: when
    the process may map no more, a large one throws in the guest, and a small one ends the worker.
    """

    def __init__(self, *, is_alone: bool = False) -> None:
        """`is_alone`: there is one guest, and the limit is its own."""
        self._is_alone = is_alone
        # Opened while it still can be: afterwards no file can.
        path = Path("/proc/self/statm")
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC) if path.exists() else None
        self._page_bytes = os.sysconf("SC_PAGE_SIZE")
        self._base_bytes: int | None = None
        self._isolates = 0
        self._largest_bytes = 0

    def rss_bytes(self) -> int:
        """0 where the system does not tell."""
        return self._field(1)

    def measure(self, isolates: int) -> None:
        """Take what is mapped now, with that many isolates, for what the engine itself needs: half
        a gigabyte of reservations."""
        self._base_bytes = self._field(5) - (0 if self._is_alone else isolates * _ISOLATE_BYTES)
        self.allow(isolates=isolates)

    def allow(self, *, isolates: int | None = None, largest_bytes: int | None = None) -> None:
        """Set the limit for so many isolates, and guests of which one may have so much."""
        self._isolates = self._isolates if isolates is None else isolates
        self._largest_bytes = self._largest_bytes if largest_bytes is None else largest_bytes
        if self._base_bytes is None or self._file is None:
            return
        if self._is_alone and not self._largest_bytes:
            # No guest is here yet, but its source may be on its way, of any size that is taken.
            return
        if self._is_alone:
            limit = self._base_bytes + self._largest_bytes + _ALONE_BYTES
        else:
            budget = max(_BUDGET_BYTES, 2 * self._largest_bytes)
            limit = self._base_bytes + self._isolates * _ISOLATE_BYTES + budget
        resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.RLIM_INFINITY))

    def _field(self, index: int) -> int:
        if self._file is None:
            return 0
        return int(os.pread(self._file, 256, 0).split()[index]) * self._page_bytes
