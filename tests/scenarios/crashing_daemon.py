"""A daemon that loses its power at a chosen commit.

crashing_daemon.py HOME                          runs like any other
crashing_daemon.py HOME before run.ended 1       kills itself before the first such commit
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

from orvalho.daemon.home import find_home
from orvalho.daemon.main import serve


class Kill:
    def __init__(self, phase: str, name: str, count: str) -> None:
        self._phase = phase
        self._name = name
        self._left = int(count)

    def __call__(self, phase: str, names: Sequence[str]) -> None:
        if phase == self._phase and self._name in names:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    home, *kill_at = sys.argv[1:]
    hook = Kill(*kill_at) if kill_at else None
    sys.exit(serve(find_home(os.environ, home), foreground=False, on_commit=hook))
