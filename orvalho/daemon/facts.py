"""What this node tells a program about its machine: cores, load, memory, disk, age."""

from __future__ import annotations

import os
import platform
import shutil
import time
from pathlib import Path
from typing import Final

import msgspec

from orvalho import __version__

_MEMORY: Final = Path("/proc/meminfo")
_UPTIME: Final = Path("/proc/uptime")


class NodeFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of `target.node.facts()`. What a system does not tell is None.

    `os` as `linux`, `machine` as `x86_64`; `load` is the number of processes that ran or waited,
    over 1, 5 and 15 minutes; memory that is free counts what the kernel would give back; the disk
    is that of the data directory, as an ordinary user finds it; `uptime_s` is the machine's and
    `node_uptime_s` the daemon's.
    """

    name: str
    os: str
    machine: str
    cores: int
    load: tuple[float, float, float] | None
    memory_total_bytes: int | None
    memory_free_bytes: int | None
    disk_total_bytes: int | None
    disk_free_bytes: int | None
    uptime_s: int | None
    node_uptime_s: int
    version: str
    labels: tuple[str, ...]


def read_facts(name: str, labels: frozenset[str], directory: Path, started_at: float) -> NodeFacts:
    """The facts of now. It asks the kernel, in well under a millisecond on a local disk; call it
    from a thread, since a file system over a network may hang."""
    memory = _memory()
    disk = _disk(directory)
    return NodeFacts(
        name=name,
        os=platform.system().lower(),
        machine=platform.machine().lower(),
        cores=os.cpu_count() or 1,
        load=_load(),
        memory_total_bytes=memory[0],
        memory_free_bytes=memory[1],
        disk_total_bytes=disk[0],
        disk_free_bytes=disk[1],
        uptime_s=_uptime(),
        node_uptime_s=max(0, round(time.time() - started_at)),
        version=__version__,
        labels=tuple(sorted(labels)),
    )


def _load() -> tuple[float, float, float] | None:
    try:
        first, second, third = os.getloadavg()
    except (OSError, AttributeError):
        return None
    return round(first, 2), round(second, 2), round(third, 2)


def _memory() -> tuple[int | None, int | None]:
    try:
        lines = _MEMORY.read_text(encoding="ascii").splitlines()
        sizes = {key: int(rest.split()[0]) for key, _, rest in (ln.partition(":") for ln in lines)}
        return sizes["MemTotal"] * 1024, sizes["MemAvailable"] * 1024
    except (OSError, ValueError, KeyError, IndexError):
        return _total_memory(), None


def _total_memory() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):
        return None


def _disk(directory: Path) -> tuple[int | None, int | None]:
    try:
        usage = shutil.disk_usage(directory)
    except OSError:
        return None, None
    return usage.total, usage.free


def _uptime() -> int | None:
    try:
        return int(float(_UPTIME.read_text(encoding="ascii").split()[0]))
    except (OSError, ValueError, IndexError):
        return None
