"""The daemon's side of the zygote: starts it, asks it for workers, and hears of their deaths."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from typing import Final

from orvalho.errors import Unavailable
from orvalho.runtime.workers.messages import ZYGOTE_REPLY, ZYGOTE_REQUEST

_GRACE_S: Final = 2.0


class Nursery:
    """One zygote process. `died` is called with the number and the wait status of each worker that
    ends; the status is None when it went with the zygote itself."""

    def __init__(self, died: Callable[[int, int | None], None]) -> None:
        self._died = died
        self._loop = asyncio.get_running_loop()
        self._born: deque[Callable[[int], None]] = deque()
        self._children: set[int] = set()
        self._incoming = b""
        self._control, theirs = socket.socketpair()
        self._process = subprocess.Popen(  # noqa: S603 -- our own interpreter and module
            [sys.executable, "-P", "-m", "orvalho.runtime.workers.zygote", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={},
            start_new_session=True,
        )
        theirs.close()
        self._control.setblocking(False)
        self._loop.add_reader(self._control, self._readable)
        self.is_alive = True

    @property
    def pid(self) -> int:
        return self._process.pid

    def fork(self, pipe: socket.socket, number: int, born: Callable[[int], None]) -> None:
        """Start a worker of that number (see ZYGOTE_REQUEST) that holds `pipe`. `born` is called
        with its process number, before `died` can be.

        Raises:
            Unavailable: the zygote has gone.
        """
        try:
            socket.send_fds(self._control, [ZYGOTE_REQUEST.pack(b"F", number)], [pipe.fileno()])
        except OSError as error:
            raise Unavailable(f"no worker can be started: {error}") from error
        self._born.append(born)

    def kill(self, number: int) -> None:
        """End a worker that does not end by itself. The zygote does it, who knows whether the
        number is still that worker's."""
        try:
            self._control.send(ZYGOTE_REQUEST.pack(b"K", number))
        except OSError:
            self.close()

    def close(self) -> None:
        """Let the zygote go, and with it all its workers."""
        if not self.is_alive:
            return
        self.is_alive = False
        self._loop.remove_reader(self._control)
        self._control.close()
        for number in list(self._children):
            self._children.discard(number)
            self._died(number, None)

    def wait(self) -> None:
        """Blocks until the process has ended."""
        try:
            self._process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _readable(self) -> None:
        try:
            received = self._control.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            received = b""
        if not received:
            self.close()
            return
        self._incoming += received
        while len(self._incoming) >= ZYGOTE_REPLY.size:
            kind, number, status = ZYGOTE_REPLY.unpack_from(self._incoming)
            self._incoming = self._incoming[ZYGOTE_REPLY.size :]
            self._hear(kind, number, status)

    def _hear(self, kind: bytes, number: int, status: int) -> None:
        if kind == b"S":
            self._children.add(number)
            self._born.popleft()(number)
        elif number in self._children:
            self._children.discard(number)
            self._died(number, status)
