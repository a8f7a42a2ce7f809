"""A tree through the whole seam (guard, checks, quota) against plain calls of the system."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.table import Row, times
from orvalho.contexts.filesystem import GuardedFS, Quota
from orvalho.contexts.mounts.disk import RootFS

FILES = 10_000
SIZE = 1000
STREAM = 200 * 1000 * 1000
PIECE = 1 << 20
ROUNDS = 3


def measure() -> Iterator[Row]:
    small: dict[str, list[tuple[float, float]]] = {}
    large: dict[str, list[tuple[float, float]]] = {}
    # In memory: on a disk, what is measured is its fsync, which a plain call does not do.
    shm = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shm if shm.is_dir() else None) as top:
        for number in range(ROUNDS):  # by turns, since a shared machine drifts
            plain, ours = Path(top) / f"plain{number}", Path(top) / f"ours{number}"
            plain.mkdir()
            ours.mkdir()
            for name, pair in _small(plain, ours).items():
                small.setdefault(name, []).append(pair)
            for name, pair in _large(plain, ours).items():
                large.setdefault(name, []).append(pair)
    for name, pairs in small.items():
        seam, bare = (statistics.median(each) for each in zip(*pairs, strict=True))
        figure = f"{seam / FILES * 1e6:.0f} us a file"
        yield Row(
            f"fs seam: {name} 10k small files",
            figure,
            f"os {bare / FILES * 1e6:.0f} us",
            times(seam, bare),
            "3x",
        )
    for name, pairs in large.items():
        seam, bare = (statistics.median(each) for each in zip(*pairs, strict=True))
        yield Row(
            f"fs seam: {name} 200 MB",
            f"{STREAM / seam / 1e6:.0f} MB/s",
            f"os {STREAM / bare / 1e6:.0f} MB/s",
            times(seam, bare),
            "1.3x",
        )


def _small(plain: Path, ours: Path) -> dict[str, tuple[float, float]]:
    content = os.urandom(SIZE)
    names = [f"f{number:05d}" for number in range(FILES)]
    with _guarded(ours) as tree:

        def write_plain() -> None:
            for name in names:
                descriptor = os.open(plain / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
                os.write(descriptor, content)
                os.close(descriptor)

        def read_plain() -> None:
            for name in names:
                descriptor = os.open(plain / name, os.O_RDONLY)
                os.read(descriptor, SIZE + 1)
                os.close(descriptor)

        def write() -> None:
            for name in names:
                tree.writebytes(name, content)

        def read() -> None:
            for name in names:
                tree.read_at_most(name, 1 << 20)

        def list_plain() -> None:
            with os.scandir(plain) as entries:
                assert len([(entry.name, entry.stat()) for entry in entries]) == FILES

        def list_ours() -> None:
            assert len(list(tree.scandir("/", ["basic", "details"]))) == FILES

        return {
            "write": (_timed(write), _timed(write_plain)),
            "read": (_timed(read), _timed(read_plain)),
            "list": (_timed(list_ours), _timed(list_plain)),
        }


def _large(plain: Path, ours: Path) -> dict[str, tuple[float, float]]:
    piece = os.urandom(PIECE)
    count = STREAM // PIECE
    with _guarded(ours) as tree:

        def write_plain() -> None:
            with (plain / "large").open("wb", buffering=0) as file:
                for _ in range(count):
                    file.write(piece)

        def write() -> None:
            with tree.openbin("large", "w", buffering=0) as file:
                for _ in range(count):
                    file.write(piece)

        def read_plain() -> None:
            with (plain / "large").open("rb", buffering=0) as file:
                while file.read(PIECE):
                    pass

        def read() -> None:
            with tree.openbin("large", buffering=0) as file:
                while file.read(PIECE):
                    pass

        return {
            "write": (_timed(write), _timed(write_plain)),
            "read": (_timed(read), _timed(read_plain)),
        }


def _guarded(directory: Path) -> GuardedFS:
    quota = Quota("bench", limit_bytes=1 << 40, limit_files=1 << 30)
    return GuardedFS(RootFS(directory), lambda action, path: None, quota)


def _timed(call: Callable[[], None]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started
