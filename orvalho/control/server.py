"""The daemon's end of the control socket: a Unix socket, for its owner only.

One JSON object a line (`messages`). A connection carries requests one after the other, each
answered until `Done` or `Failed`; closing it, or its sending half, cancels the one in work.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import stat
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final, cast

import anyio
import anyio.abc
import msgspec

from orvalho.control.client import MAX_LINE_BYTES, DaemonError
from orvalho.control.credentials import peer_uid
from orvalho.control.messages import Done, Failed, Reply, Request
from orvalho.errors import Conflict, InvalidInput, OrvalhoError, Untrusted

log = logging.getLogger(__name__)

Answer = Callable[[Request], AsyncIterator[Reply]]

_CLOSE_S: Final = 5.0
# Requests that one client may send ahead before we stop reading from it.
_WAITING_LINES: Final = 16
_MALFORMED: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_VERSIONS: Final = "the daemon and the command may be of two versions: orvalho daemon stop"


@asynccontextmanager
async def open_server(path: str | Path, answer: Answer) -> AsyncIterator[None]:
    """Serve `answer` at `path` (see `client.socket_path`) until the block is left.

    `answer` is called once a request, in the connection's own task; it may raise errors of
    `orvalho.errors` at any point, and is cancelled when its client hangs up.

    Raises:
        Conflict: a daemon answers there already, or something else lies there.
        Untrusted: the directory belongs to another user.
    """
    listener, inode = _listen(Path(path))
    try:
        async with anyio.create_task_group() as tasks:
            server = await asyncio.get_running_loop().create_unix_server(
                lambda: _Connection(answer, tasks), sock=listener
            )
            try:
                yield
            finally:
                server.close()
                tasks.cancel_scope.cancel()
    finally:
        listener.close()
        _remove_own(Path(path), inode)


def _listen(place: Path) -> tuple[socket.socket, int]:
    _own_directory(place.parent)
    _remove_stale(place)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(str(place))
        # Before listen(): until then nobody can connect through wider permissions.
        place.chmod(0o600)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener, place.stat().st_ino


def _remove_own(place: Path, inode: int) -> None:
    # Whoever came after us may listen here by now.
    with suppress(FileNotFoundError):
        if place.stat().st_ino == inode:
            place.unlink()


def _own_directory(directory: Path) -> None:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = directory.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        raise Untrusted(
            "the socket's directory does not belong to this user.", where=str(directory)
        )
    directory.chmod(0o700)


def _remove_stale(place: Path) -> None:
    try:
        status = place.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(status.st_mode):
        raise Conflict("what lies at the control socket's place is no socket.", where=str(place))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(place))
        except ConnectionRefusedError:
            place.unlink()
            return
    raise Conflict("a daemon runs here already.", where=str(place), hint="orvalho daemon status")


class _Connection(asyncio.Protocol):
    """One client. Bytes come in by callbacks; a task of its own answers line by line."""

    def __init__(self, answer: Answer, tasks: anyio.abc.TaskGroup) -> None:
        self._answer = answer
        self._tasks = tasks
        self._encode = msgspec.json.Encoder().encode
        self._decode = msgspec.json.Decoder(Request).decode
        self._buffer = bytearray()
        self._searched = 0
        self._lines: deque[bytes] = deque()
        self._arrived = anyio.Event()
        self._writable = anyio.Event()
        self._writable.set()
        self._scope = anyio.CancelScope()
        self._transport: asyncio.Transport | None = None

    # ---- called by the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        uid = peer_uid(transport.get_extra_info("socket"))
        if uid != os.geteuid():
            log.warning("control.refused", extra={"uid": uid})
            self._transport.abort()
            return
        self._tasks.start_soon(self._serve, self._transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\n", self._searched)) >= 0:
            self._lines.append(bytes(memoryview(self._buffer)[:end]))
            del self._buffer[: end + 1]
            self._searched = 0
            self._arrived.set()
        self._searched = len(self._buffer)
        if len(self._lines) >= _WAITING_LINES and self._transport is not None:
            self._transport.pause_reading()
        if self._searched > MAX_LINE_BYTES:
            self._arrived.set()

    def eof_received(self) -> bool:
        self._scope.cancel()
        return False

    def connection_lost(self, _error: Exception | None) -> None:
        self._scope.cancel()

    def pause_writing(self) -> None:
        self._writable = anyio.Event()

    def resume_writing(self) -> None:
        self._writable.set()

    # ---- the task

    async def _serve(self, transport: asyncio.Transport) -> None:
        try:
            with self._scope:
                while True:
                    await self._respond(await self._next_line())
        except InvalidInput as error:
            await self._send(_failed(error))
        except Exception:
            # One client's trouble must not end the others'.
            log.exception("control.bug")
        finally:
            transport.close()

    async def _next_line(self) -> bytes:
        while not self._lines:
            if self._searched > MAX_LINE_BYTES:
                raise InvalidInput(f"a request is at most {MAX_LINE_BYTES} bytes long.")
            self._arrived = anyio.Event()
            await self._arrived.wait()
        line = self._lines.popleft()
        if len(self._lines) == _WAITING_LINES - 1 and self._transport is not None:
            self._transport.resume_reading()
        return line

    async def _respond(self, line: bytes) -> None:
        try:
            request = self._decode(line)
        except _MALFORMED as error:
            await self._send(
                _failed(InvalidInput(f"the request is not understood: {error}.", hint=_VERSIONS))
            )
            return
        replies = self._answer(request)
        try:
            last: Reply = Done()
            async for reply in replies:
                if isinstance(reply, Done | Failed):
                    last = reply
                    break
                await self._send(reply)
        except Exception as error:  # noqa: BLE001 - the top of every operation
            last = _failed(_expected(error) or _bug(error, request))
        finally:
            await _close(replies)
        await self._send(last)

    async def _send(self, reply: Reply) -> None:
        # A raw value may hold line breaks. JSON allows them only between tokens, where a space
        # means the same.
        line = self._encode(reply).replace(b"\n", b" ")
        if self._transport is not None:
            self._transport.write(line + b"\n")
        if not self._writable.is_set():
            await self._writable.wait()


async def _close(replies: AsyncIterator[Reply]) -> None:
    """End a generator that was left early, so that what it holds open is closed now."""
    aclose = getattr(replies, "aclose", None)
    if aclose is not None:
        with anyio.move_on_after(_CLOSE_S, shield=True):
            await aclose()


def _expected(error: Exception) -> OrvalhoError | None:
    """The error for the caller. A task group inside the operation wraps it in a group."""
    if isinstance(error, OrvalhoError):
        return error
    if isinstance(error, ExceptionGroup):
        return next((found for inner in error.exceptions if (found := _expected(inner))), None)
    return None


def _bug(error: Exception, request: Request) -> DaemonError:
    kind = type(request).__name__
    log.error("control.bug", exc_info=error, extra={"request": kind})
    return DaemonError(
        f"a bug ended {kind}: {type(error).__name__}: {error}.",
        hint="read the traceback in the daemon's log, state/log.jsonl",
    )


def _failed(error: OrvalhoError) -> Failed:
    return Failed(**error.parts())
