"""A daemon whose clock is wrong by ORVALHO_TEST_AHEAD_S seconds.

skewed_daemon.py HOME
"""

from __future__ import annotations

import os
import sys
import time

_right = time.time
_ahead_s = float(os.environ.pop("ORVALHO_TEST_AHEAD_S"))
# Before any room is imported: some keep the function itself.
time.time = lambda: _right() + _ahead_s

from orvalho.daemon.home import find_home  # noqa: E402
from orvalho.daemon.main import serve  # noqa: E402

if __name__ == "__main__":
    sys.exit(serve(find_home(os.environ, sys.argv[1]), foreground=False))
