"""What a worker cannot do: tried inside a process that has put the same walls around itself."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from orvalho.runtime.job import Jobs
from tests.runtime.play import play, until, value_of

linux = pytest.mark.skipif(
    platform.system() != "Linux" or platform.machine() not in ("x86_64", "aarch64"),
    reason="system calls are filtered on Linux alone (x86-64, aarch64)",
)

PRISONER = """
import ctypes, json, os, resource, socket, subprocess, sys, threading
from orvalho.runtime.workers.walls import Memory, close_the_gate, leave_everything

pipe = int(sys.argv[1])
leave_everything(pipe)
memory = Memory()
missing = close_the_gate()

def tried(action):
    try:
        action()
        return "possible"
    except OSError as error:
        return error.strerror
    except Exception as error:
        return type(error).__name__

libc = ctypes.CDLL(None, use_errno=True)

def call(name, *arguments):
    ctypes.set_errno(0)
    if getattr(libc, name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

outcome = {
    "read a file": tried(lambda: open("/etc/passwd")),
    "write a file": tried(lambda: open("/tmp/orvalho-escape", "w")),
    "list a directory": tried(lambda: os.listdir("/")),
    "remove a file": tried(lambda: os.unlink("/tmp/orvalho-escape")),
    "make a directory": tried(lambda: os.mkdir("/tmp/orvalho-escape")),
    "change directory": tried(lambda: os.chdir("/")),
    "make a socket": tried(lambda: socket.socket()),
    "make a unix socket": tried(lambda: socket.socket(socket.AF_UNIX)),
    "start a program": tried(lambda: os.execv("/bin/true", ["true"])),
    "fork": tried(os.fork),
    "signal another process": tried(lambda: os.kill(os.getppid(), 0)),
    "trace another process": tried(lambda: call("ptrace", 16, os.getppid(), 0, 0)),
    "make a file in memory": tried(lambda: os.memfd_create("x")),
    "choose how it is scheduled": tried(
        lambda: os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    ),
    "raise its limit of files": tried(
        lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (10**6, 10**6))
        if os.geteuid() else call("setpriority", 0, 0, -20)
    ),
}
ran = []
thread = threading.Thread(target=lambda: ran.append(1))
thread.start()
thread.join()
status = {
    "outcome": outcome,
    "missing": missing,
    "threads run": bool(ran),
    "environment": list(os.environ),
    "rss": memory.rss_bytes(),
    "step back": tried(lambda: os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))),
    "nice": os.getpriority(os.PRIO_PROCESS, 0),
    "core": resource.getrlimit(resource.RLIMIT_CORE)[0],
    "files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
}
os.write(pipe, json.dumps(status).encode())
"""


@pytest.fixture(scope="module")
def prisoner() -> dict[str, object]:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as pipe:
        process = subprocess.run(
            [sys.executable, "-c", PRISONER, str(writing)],
            pass_fds=[writing],
            capture_output=True,
            timeout=20,
            check=False,
        )
        os.close(writing)
        told = pipe.read()
    assert told, process.stderr.decode()
    status: dict[str, object] = json.loads(told)
    return status


@linux
def test_a_worker_can_reach_nothing_outside_itself(prisoner: dict[str, object]) -> None:
    outcome = prisoner["outcome"]
    assert isinstance(outcome, dict)
    assert {what for what, how in outcome.items() if how != "Operation not permitted"} == set()
    assert prisoner["missing"] == []


@linux
def test_it_can_still_do_its_own_work(prisoner: dict[str, object]) -> None:
    assert prisoner["threads run"] is True
    assert int(str(prisoner["rss"])) > 1 << 20


@linux
def test_it_leaves_no_core_and_has_a_low_standing(prisoner: dict[str, object]) -> None:
    assert (prisoner["environment"], prisoner["core"]) == ([], 0)
    assert int(str(prisoner["nice"])) >= 5
    assert prisoner["step back"] == "possible"
    assert int(str(prisoner["files"])) <= 32


@linux
@pytest.mark.anyio
async def test_a_guest_that_keeps_the_processor_goes_behind_all_others(jobs: Jobs) -> None:
    await value_of(jobs, "1")
    worker = jobs.workers.list()[0].pid

    def last_in_line() -> list[int]:
        threads = [int(name.name) for name in Path(f"/proc/{worker}/task").iterdir()]
        return [each for each in threads if os.sched_getscheduler(each) == os.SCHED_IDLE]

    assert last_in_line() == []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(play, jobs, "for (;;);")
        await until(lambda: len(last_in_line()) == 1)
        # Its neighbour in the same process has not fallen behind with it.
        assert await value_of(jobs, "2") == 2
        assert len(last_in_line()) == 1


@linux
@pytest.mark.anyio
async def test_a_real_worker_holds_its_pipe_and_what_its_own_loop_needs(jobs: Jobs) -> None:
    await value_of(jobs, "1")
    worker = jobs.workers.list()[0]
    status = _status(worker.pid)
    assert "Seccomp:\t2" in status
    assert "NoNewPrivs:\t1" in status
    assert worker.missing == ()
    files, environment = _open_files(worker.pid), _environment(worker.pid)
    assert environment == b""
    known = ("anon_inode:[event", "pipe:", "socket:", "/dev/null", f"/proc/{worker.pid}/statm")
    assert [file for file in files if not file.startswith(known)] == []
    # Its pipe to the daemon, and the pair by which the event loop hears of signals.
    assert sum(file.startswith("socket:") for file in files) <= 3
    # The event loop's own, with both ends here.
    pipes = [file for file in files if file.startswith("pipe:")]
    assert all(pipes.count(pipe) == 2 for pipe in pipes)


def _status(pid: int) -> str:
    return Path(f"/proc/{pid}/status").read_text()


def _environment(pid: int) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes()


def _open_files(pid: int) -> list[str]:
    try:
        return [str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()]
    except PermissionError:
        pytest.skip("only root may look at the files of a process that is not dumpable")
