"""Killed anywhere, a context opens again, is whole, and has every commit that was acknowledged."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
# ORVALHO_KILLS=1000 runs all of them.
KILLS = int(os.environ.get("ORVALHO_KILLS", "60"))


def test_random_kills_lose_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.killed_commits", str(tmp_path), str(KILLS), "1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60 + 10 * KILLS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{KILLS} kills" in done.stdout
