"""A program of preview 2 in Python, for test_python_component.py."""

import os
import sys
import time
from pathlib import Path

from wit_world import exports


class Run(exports.Run):
    def run(self) -> None:
        print("args", sys.argv[1:], os.environ.get("A"), sys.stdin.read(), flush=True)
        began = time.monotonic()
        time.sleep(0.05)
        print("slept", time.monotonic() - began >= 0.05, flush=True)
        print(Path("/a.txt").read_text(), flush=True)
        Path("/b.txt").write_text("written")
        try:
            Path("/../../etc/passwd").read_text()
        except OSError as error:
            print(type(error).__name__, flush=True)
        print("err", file=sys.stderr, flush=True)
