"""Commits, undos and sweeps that are killed anywhere, and what the next start makes of it.

killed_commits.py DIRECTORY KILLS SEED

Each round forks a process that changes a context and kills itself (SIGKILL): at a commit of the
database, on either side; at a change of the disk, so also between two renames; or wherever it is
when its time is over. A second process then opens the same directory, checks all of it, and looks
for every commit that was acknowledged. Prints what is wrong, and ends with 1 then.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import anyio

from orvalho.contexts import timeline
from orvalho.contexts.pruning import Terms
from orvalho.errors import OrvalhoError
from tests.contexts.keeping import FOLDER, Kept, kept

# So many rounds in one directory.
_ROUNDS = 40
_OPERATIONS = 15
_DISK_EVENTS = frozenset({"os.rename", "os.remove", "os.mkdir", "os.rmdir"})
KINDS = ("before", "after", "disk", "disk", "time")
_PATHS = ("/a", "/b", "/c", "/d/a", "/d/b", "/d/e/a")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Killer:
    """Kills this process at the chosen moment."""

    def __init__(self, dice: random.Random) -> None:
        self.kind = dice.choice(KINDS)
        self._left = dice.randint(1, 40 if self.kind == "disk" else 12)
        if self.kind == "disk":
            sys.addaudithook(self._see)
        elif self.kind == "time":
            timer = threading.Timer(dice.uniform(0.0, 0.15), die)
            timer.daemon = True
            timer.start()

    def on_commit(self, phase: str, _names: Sequence[str]) -> None:
        if phase == self.kind:
            self._count()

    def _see(self, event: str, arguments: tuple[object, ...]) -> None:
        if event in _DISK_EVENTS or (event == "open" and _is_new(arguments)):
            self._count()

    def _count(self) -> None:
        self._left -= 1
        if self._left == 0:
            die()


def _is_new(arguments: tuple[object, ...]) -> bool:
    flags = arguments[2] if len(arguments) > 2 else 0
    return isinstance(flags, int) and bool(flags & os.O_CREAT)


async def work(top: Path, seed: int, told: int) -> None:
    dice = random.Random(seed)
    killer = Killer(dice)
    ids: list[str] = []
    async with kept(top, killer.on_commit) as it, anyio.create_task_group() as tasks:
        tasks.start_soon(it.committer.run)
        await it.past.begin()
        for _ in range(_OPERATIONS):
            try:
                id_ = await operate(it, dice, ids, told)
            except OrvalhoError:
                continue  # others changed the same since, or it is taken back already
            if id_ is not None:
                ids.append(id_)
                os.write(told, f"{id_}\n".encode())
        die()


async def operate(it: Kept, dice: random.Random, ids: list[str], told: int) -> str | None:
    """One change of a random kind; the id of what was committed and acknowledged."""
    kind = dice.choice(["change"] * 5 + ["undo"] * 3 + ["gc", "hand", "settle"])
    if kind == "undo" and ids:
        return await it.undo(dice.choice(ids[-4:]))
    if kind == "gc":
        os.write(told, b"gc\n")
        since = dice.choice([0.0, time.time()])
        await it.past.pruning.prune(Terms(since=since, max_bytes=dice.choice([0, 60_000])))
        return None
    if kind == "settle":
        await it.committer.settle()
        return None
    if kind == "hand":
        (it.tree / dice.choice("abc")).unlink(missing_ok=True)
        (it.tree / "a").write_bytes(dice.randbytes(10))
        return await it.past.hand_edits.note(it.alice)
    files: dict[str, object] = {"/d": FOLDER, "/d/e": FOLDER}
    for path in dice.sample(_PATHS, dice.randint(1, 4)):
        files[path] = dice.randbytes(dice.choice([0, 10, 1000, 40_000]))
    if dice.random() < 0.2:
        files["/d/e"] = None
        files.pop("/d/e/a", None)
    values = {dice.choice("klm"): dice.choice(["1", "2", None])}
    return await it.change(files, values)


async def check(top: Path, must: Sequence[str]) -> list[str]:
    async with kept(top) as it:
        await it.past.begin()
        problems = await it.problems()
        for id_ in must:
            if not await it.store.read(lambda c, i=id_: timeline.commits_named(c, i)):
                problems.append(f"{id_} was acknowledged, and is gone")
        return problems


def forked(run: Callable[[], int]) -> int:
    """Run it in a process of its own; how it ended, as os.waitpid says it."""
    child = os.fork()
    if child == 0:
        status = 2
        try:
            status = run()
        except BaseException:  # noqa: BLE001 -- nothing of the parent's may run here
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1]


def one_round(top: Path, seed: int, kinds: Counter[str]) -> list[str]:
    reading, writing = os.pipe()

    def run() -> int:
        anyio.run(work, top, seed, writing)
        return 0

    ended = forked(run)
    os.close(writing)
    with os.fdopen(reading) as file:
        lines = file.read().split()
    kinds[random.Random(seed).choice(KINDS)] += 1
    if not os.WIFSIGNALED(ended):
        return [f"seed {seed}: it was to be killed, and ended with {ended}"]
    swept = max((n for n, line in enumerate(lines) if line == "gc"), default=-1)
    must = lines[swept + 1 :]

    def look() -> int:
        problems = anyio.run(check, top, must)
        (top / "problems").write_text("\n".join(problems))
        return 1 if problems else 0

    if forked(look) == 0:
        return []
    found = (top / "problems").read_text() if (top / "problems").exists() else "it does not open"
    return [f"seed {seed}: {found}"]


def main(directory: str, kills: str, seed: str) -> int:
    kinds: Counter[str] = Counter()
    wrong: list[str] = []
    top = Path(directory)
    for number in range(int(kills)):
        top = Path(directory) / str(number // _ROUNDS)
        top.mkdir(exist_ok=True)
        wrong += one_round(top, int(seed) + number, kinds)
    print(f"{kills} kills: {dict(kinds)}")
    for each in wrong[:20]:
        print(each)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
