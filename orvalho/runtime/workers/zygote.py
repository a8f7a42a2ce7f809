"""`python -m orvalho.runtime.workers.zygote FD`: a process that has everything imported and V8
initialised, and forks a worker in milliseconds whenever the daemon asks. Other engines it imports
when the first worker of their language is asked for.

It never makes an isolate, since an isolate is a thread and threads do not survive a fork.

It ends with its socket, and its workers end with it.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import sys
from types import FrameType

from orvalho.runtime.engine import Engine
from orvalho.runtime.engines.catalog import LANGUAGES, make_engine
from orvalho.runtime.workers.messages import ALONE, NO_ENGINE, ZYGOTE_REPLY, ZYGOTE_REQUEST
from orvalho.runtime.workers.worker import run_worker


def main() -> None:
    control = socket.socket(fileno=int(sys.argv[1]))
    engines = {0: make_engine(LANGUAGES[0])}
    with contextlib.suppress(ImportError):
        import uvloop  # noqa: F401, PLC0415 -- so that no worker has to import it
    children: set[int] = set()

    def bury(signum: int, frame: FrameType | None) -> None:
        _bury(control, children)

    signal.signal(signal.SIGCHLD, bury)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # What is allocated by now is shared by all workers as long as the collector does not touch it.
    gc.collect()
    gc.freeze()
    while _serve(control, engines, children):
        pass


def _serve(control: socket.socket, engines: dict[int, Engine], children: set[int]) -> bool:
    request, descriptors, _, _ = socket.recv_fds(control, ZYGOTE_REQUEST.size, 1)
    while request and len(request) < ZYGOTE_REQUEST.size:
        request += control.recv(ZYGOTE_REQUEST.size - len(request))
    if not request:
        return False
    kind, number = ZYGOTE_REQUEST.unpack(request)
    if kind == b"F":
        is_alone = number >= ALONE
        engine = engines.get(number % ALONE) or _import(engines, number % ALONE)
        _fork(control, engine, children, descriptors[0], is_alone)
    elif number in children:
        os.kill(number, signal.SIGKILL)
    return True


def _import(engines: dict[int, Engine], number: int) -> Engine | None:
    """None when it cannot be: a library may be made for another machine than this."""
    try:
        engines[number] = make_engine(LANGUAGES[number])
    except Exception:  # noqa: BLE001 -- whatever a foreign library raises, the others still run
        return None
    gc.collect()
    gc.freeze()
    return engines[number]


def _fork(
    control: socket.socket,
    engine: Engine | None,
    children: set[int],
    pipe: int,
    is_alone: bool,
) -> None:
    # No child may be buried before it is known here.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        control.detach()
        if engine is None:
            os._exit(NO_ENGINE)
        run_worker(pipe, engine, is_alone=is_alone)
    os.close(pipe)
    children.add(child)
    control.sendall(ZYGOTE_REPLY.pack(b"S", child, 0))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})


def _bury(control: socket.socket, children: set[int]) -> None:
    while children:
        child, status = os.waitpid(-1, os.WNOHANG)
        if child == 0:
            return
        children.discard(child)
        with contextlib.suppress(OSError):
            control.sendall(ZYGOTE_REPLY.pack(b"D", child, status))


if __name__ == "__main__":
    main()
