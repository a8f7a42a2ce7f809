"""The README's story, told by two real daemons."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_story_goes_as_the_readme_tells_it() -> None:
    told = subprocess.run(
        [sys.executable, str(ROOT / "demo/story.py")],
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )

    assert told.returncode == 0, told.stdout[-3000:] + told.stderr
    assert "The story went as told." in told.stdout
    home = told.stdout.split("keys    ", 1)[1].split("/laptop/", 1)[0]
    assert home not in _command_lines(), "the story left a process behind"


def _command_lines() -> str:
    lines = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(file.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return "\n".join(lines)
