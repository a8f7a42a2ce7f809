"""What a daemon costs that has nothing to do."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

from bench.pair import two_daemons
from bench.table import Row

_CONTEXTS = 100
_SECONDS = 20


def measure() -> Iterator[Row]:
    with two_daemons() as pair:
        pair.laptop.types("script", "send", "peer@phone2", "-e", "1 + 1")
        time.sleep(2)
        pid = pair.phone.daemon_pid()
        used = cpu_seconds(pid)
        time.sleep(_SECONDS)
        share = (cpu_seconds(pid) - used) / _SECONDS
        rss = rss_bytes(pid)
        yield Row("idle daemon, RSS", f"{rss / 1e6:.0f} MB", bar="80 MB")
        yield Row("idle daemon, CPU", f"{share:.2%} of a core", bar="0.5 %")
        zygotes = children_of(pid)
        for child in children(pid):
            name = "zygote" if child in zygotes else "worker"
            yield Row(
                f"its {name}",
                f"{rss_bytes(child) / 1e6:.0f} MB RSS, {private_bytes(child) / 1e6:.0f} MB private",
            )
        for number in range(_CONTEXTS):
            pair.phone.types("ctx", "new", f"idle-{number}")
        grown = (rss_bytes(pid) - rss) / _CONTEXTS
        yield Row("each further idle context", f"{grown / 1e3:.0f} kB", bar="1 MB")


def rss_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def private_bytes(pid: int) -> int:
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in rollup if line.startswith("Private")) * 1024


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def children(pid: int) -> list[int]:
    """Of all generations."""
    return [process for child in children_of(pid) for process in (child, *children(child))]


def children_of(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(int(stat.parent.name))
    return found
