"""What a worker died of, by its exit status."""

from __future__ import annotations

import os
import signal

from orvalho.runtime.workers.messages import NO_ENGINE, NO_MEMORY


def limit_of(status: int | None) -> str | None:
    """The limit that a worker of one guest died of: the kernel's two clocks; memory, for which its
    engine asked in vain; or its stack, which is memory too."""
    if status is not None and os.WIFEXITED(status) and os.WEXITSTATUS(status) == NO_MEMORY:
        return "memory"
    if status is None or not os.WIFSIGNALED(status):
        return None
    return {
        signal.SIGALRM: "wall",
        signal.SIGPROF: "cpu",
        signal.SIGABRT: "memory",
        signal.SIGSEGV: "memory",
    }.get(signal.Signals(os.WTERMSIG(status)))


def cause_of(status: int | None) -> str:
    """In words."""
    what = "its worker process died"
    if status is not None and os.WIFEXITED(status) and os.WEXITSTATUS(status) == NO_ENGINE:
        return "the engine of its language cannot be loaded on this machine"
    if status is not None and os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        what += f" ({name})"
        if os.WTERMSIG(status) != signal.SIGKILL:
            return (
                f"{what}: this script, or one beside it in the same worker, most likely asked for "
                "more memory at once than there was"
            )
    return what
