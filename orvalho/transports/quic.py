"""Links over QUIC (RFC 9000) by iroh, `quic://ID@host:port`, where ID is the endpoint's own key in
hex: 64 digits. Nothing goes through a relay of iroh's makers, and no name is looked up.

A link is one stream of one connection; each frame stands there behind its length in 4 bytes
(big-endian). The endpoint's key says nothing of the node's: who the far side is, is for the session
inside. It is fresh at each start, unless listening names a file to keep it in: `?key=FILE`.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import re
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

import anyio
import iroh as _iroh
from anyio import to_thread
from anyio.abc import TaskGroup
from iroh import iroh_ffi

from orvalho.errors import InvalidInput, Unavailable
from orvalho.transports.framing import LENGTH_BYTES, framed, take_frames
from orvalho.transports.link import OnLink, host_and_port

iroh: Any = _iroh  # its names are made at import

_log = logging.getLogger(__name__)

MAX_FRAME_BYTES: Final = 1 << 18
MAX_STRANGERS: Final = 64
_ALPN: Final = b"orvalho/1"
# A stream shows at the far side with its first bytes only.
_FIRST: Final = b"orvalho1"
_OPEN_TIMEOUT_S: Final = 5.0
_CLOSE_TIMEOUT_S: Final = 1.0
_READ_BYTES: Final = 1 << 17
# Four frames of the largest size may wait unread; then QUIC's window shuts.
_UNREAD_BYTES: Final = 4 * MAX_FRAME_BYTES
_KEY_BYTES: Final = 32


def _write_at_once(self: Any, value: bytes) -> None:
    with self._reserve(len(value)):
        start = ctypes.addressof(self.rbuf.data.contents) + self.rbuf.len
        ctypes.memmove(start, bytes(value), len(value))


# The bindings copy byte by byte, which makes 10 MB/s of 500.
iroh_ffi._UniffiRustBufferBuilder.write = _write_at_once


class QuicLink:
    """One stream."""

    max_frame_bytes = MAX_FRAME_BYTES

    def __init__(
        self,
        connection: Any,
        stream: Any,
        description: str,
        *,
        strangers: dict[QuicLink, None] | None = None,
        endpoint: Any = None,
    ) -> None:
        """The listener's side has a waiting room; the dialer's may have an `endpoint` to close."""
        self.description = description
        self._connection = connection
        self._output = stream.send()
        self._input = stream.recv()
        self._strangers = {} if strangers is None else strangers
        self._endpoint = endpoint
        self._buffer = bytearray(framed(_FIRST)[:LENGTH_BYTES] if strangers is not None else b"")
        self._is_first = strangers is not None
        self._frames: deque[bytes] = deque()
        self._unread_bytes = 0
        self._changed = asyncio.Event()
        self._reason: str | None = None
        self._is_closed = False
        # A read that is cancelled loses what it has read: so nobody who waits for a frame reads.
        # There is no task group that lives as long as a link; this task ends with `aclose`.
        self._reader = asyncio.get_running_loop().create_task(self._read())

    async def send(self, frame: bytes) -> None:
        self._check()
        if len(frame) > self.max_frame_bytes:
            raise ValueError(f"a frame has at most {self.max_frame_bytes} bytes, not {len(frame)}")
        try:
            await self._output.write_all(framed(frame))
        except asyncio.CancelledError:
            self._end("a frame was broken off")
            raise
        except iroh.IrohError as error:
            self._check()
            self._end(_words(error))
            raise self._gone() from error

    async def receive(self) -> bytes:
        while self._is_closed or not self._frames:
            self._check()
            self._changed.clear()
            await self._changed.wait()
        frame = self._frames.popleft()
        self._unread_bytes -= len(frame)
        self._changed.set()  # the reader may be waiting for room
        return frame

    async def aclose(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        self._changed.set()
        self.admit()
        with anyio.CancelScope(shield=True):
            with anyio.move_on_after(_CLOSE_TIMEOUT_S), suppress(iroh.IrohError):
                if self._reason is None:
                    # Closing a connection drops what is under way.
                    await self._output.finish()
                    await self._output.stopped()
            self._hang_up()
            self._reader.cancel()
            with anyio.move_on_after(_CLOSE_TIMEOUT_S):
                await asyncio.wait([self._reader])
                if self._endpoint is not None:
                    await self._endpoint.close()

    def admit(self) -> None:
        self._strangers.pop(self, None)

    def abort(self) -> None:
        self._end("it was not wanted")

    async def _read(self) -> None:
        try:
            while self._reason is None:
                content = await self._input.read(_READ_BYTES)
                if not content:
                    break
                self._take(content)
                while self._unread_bytes > _UNREAD_BYTES and not self._is_closed:
                    self._changed.clear()
                    await self._changed.wait()
        except iroh.IrohError as error:
            self._end(_words(error))
        except Unavailable as error:
            self._end(error.message)
        else:
            self._end("the far side has closed it")

    def _take(self, content: bytes) -> None:
        """Raises:
        Unavailable: what comes are no frames.
        """
        self._buffer += content
        for frame in take_frames(self._buffer, MAX_FRAME_BYTES):
            self._changed.set()
            if self._is_first:
                self._is_first = False
                if frame != _FIRST:
                    raise Unavailable("it speaks something else")
                continue
            self._frames.append(frame)
            self._unread_bytes += len(frame)

    def _end(self, reason: str) -> None:
        if self._reason is None:
            self._reason = reason
            self.admit()
            self._hang_up()
            self._changed.set()

    def _hang_up(self) -> None:
        with suppress(iroh.IrohError):
            self._connection.close(0, b"")

    def _check(self) -> None:
        if self._is_closed:
            raise anyio.ClosedResourceError
        if self._reason is not None:
            raise self._gone()

    def _gone(self) -> Unavailable:
        return Unavailable(f"the connection is lost: {self._reason}", where=self.description)


@dataclass(frozen=True, slots=True)
class _QuicListener:
    address: str


@dataclass(frozen=True, slots=True)
class _Address:
    id: bytes
    host: str
    port: int
    key_file: str | None


class QuicTransport:
    """A Transport. It dials from where it listens, if it does: that is what gets through a router
    that lets answers in alone."""

    def __init__(self) -> None:
        self._endpoint: Any = None

    @asynccontextmanager
    async def listen(self, address: str, on_link: OnLink) -> AsyncIterator[_QuicListener]:
        where = _parse(address)
        secret = await to_thread.run_sync(_secret, where.key_file, address)
        endpoint = await _bind(where.host, where.port, secret, address)
        self._endpoint = endpoint
        entrance = _Entrance(endpoint, on_link)
        async with anyio.create_task_group() as tasks:
            try:
                tasks.start_soon(entrance.accept, tasks)
                shown = host_and_port(where.host, _port(endpoint, where.host))
                yield _QuicListener(f"quic://{endpoint.id().to_bytes().hex()}@{shown}")
            finally:
                self._endpoint = None
                entrance.abort_all()
                # A process that ends with an open endpoint is aborted.
                with anyio.CancelScope(shield=True), anyio.move_on_after(2 * _CLOSE_TIMEOUT_S):
                    await endpoint.close()
                tasks.cancel_scope.deadline = anyio.current_time() + 2 * _CLOSE_TIMEOUT_S

    async def dial(self, address: str) -> QuicLink:
        where = _parse(address)
        if not where.id:
            raise InvalidInput(
                "a QUIC address names its endpoint: quic://ID@host:port", where=address
            )
        own = None
        try:
            with anyio.fail_after(_OPEN_TIMEOUT_S):
                target = iroh.EndpointAddr(
                    iroh.EndpointId.from_bytes(where.id),
                    None,
                    [await _resolve(where.host, where.port)],
                )
                endpoint = self._endpoint
                if endpoint is None or endpoint.id().to_bytes() == where.id:
                    endpoint = own = await _bind("0.0.0.0", 0, os.urandom(_KEY_BYTES), address)  # noqa: S104
                connection = await endpoint.connect(target, _ALPN)
                stream = await connection.open_bi()
                await stream.send().write_all(_FIRST)
        except (iroh.IrohError, OSError, TimeoutError) as error:
            await _close(own)
            raise Unavailable(f"nobody answers: {_words(error)}", where=address) from error
        except BaseException:
            await _close(own)
            raise
        return QuicLink(connection, stream, host_and_port(where.host, where.port), endpoint=own)


class _Entrance:
    """Whoever knocks at an endpoint, in order of arrival until they are admitted."""

    def __init__(self, endpoint: Any, on_link: OnLink) -> None:
        self._endpoint = endpoint
        self._on_link = on_link
        self._strangers: dict[QuicLink, None] = {}
        self._links: set[QuicLink] = set()
        self._knocking: dict[anyio.CancelScope, None] = {}

    async def accept(self, tasks: TaskGroup) -> None:
        with suppress(iroh.IrohError):
            while (incoming := await self._endpoint.accept_next()) is not None:
                if len(self._knocking) >= MAX_STRANGERS:
                    next(iter(self._knocking)).cancel()
                tasks.start_soon(self._serve, incoming)

    def abort_all(self) -> None:
        for scope in self._knocking:
            scope.cancel()
        for link in list(self._links):
            link.abort()

    async def _serve(self, incoming: Any) -> None:
        link = await self._open(incoming)
        if link is None:
            return
        if len(self._strangers) >= MAX_STRANGERS:
            # The longest waiting goes: a flood of strangers then shuts nobody out who proves
            # within a few milliseconds who it is.
            next(iter(self._strangers)).abort()
        self._strangers[link] = None
        self._links.add(link)
        try:
            await self._on_link(link)
        except Exception:  # noqa: BLE001 -- the top of a task: a bug costs this link, no more
            _log.exception("link.failed", extra={"from": link.description})
        finally:
            self._links.discard(link)
            await link.aclose()

    async def _open(self, incoming: Any) -> QuicLink | None:
        connection = None
        with anyio.move_on_after(_OPEN_TIMEOUT_S) as scope, suppress(iroh.IrohError):
            self._knocking[scope] = None
            try:
                connection = await (await incoming.accept()).connect()
                connection.set_max_concurrent_bi_streams(1)
                connection.set_max_concurrent_uni_streams(0)
                stream = await connection.accept_bi()
                return QuicLink(connection, stream, _remote(connection), strangers=self._strangers)
            finally:
                del self._knocking[scope]
        if connection is not None:
            connection.close(0, b"")
        return None


async def _bind(host: str, port: int, secret: bytes, address: str) -> Any:
    """Raises:
    Unavailable: the address is taken, or not ours.
    """
    builder = iroh.EndpointBuilder()
    builder.apply_minimal()
    builder.relay_mode(iroh.RelayMode.disabled())
    builder.secret_key(secret)
    builder.alpns([_ALPN])
    try:
        builder.bind_addr(host_and_port(host, port))
        # Else the endpoint opens the other family on every interface by itself.
        builder.bind_addr(_other_family(host))
        return await builder.bind()
    except iroh.IrohError as error:
        raise Unavailable(
            f"cannot listen: {_words(error)}",
            where=address,
            hint="another daemon may have this port: choose another under `listen`",
        ) from error


def _other_family(host: str) -> str:
    is_local = host in ("localhost", "::1") or host.startswith("127.")
    if ":" in host:
        return "127.0.0.1:0" if is_local else "0.0.0.0:0"
    return "[::1]:0" if is_local else "[::]:0"


def _port(endpoint: Any, host: str) -> int:
    for bound in endpoint.bound_sockets():
        name, _, port = bound.rpartition(":")
        if (":" in name) == (":" in host):
            return int(port)
    raise Unavailable("the endpoint has no socket", where=host)


def _secret(file: str | None, address: str) -> bytes:
    """The endpoint's key: fresh, or what lies in a file that is made when it is not there."""
    if file is None:
        return os.urandom(_KEY_BYTES)
    path = Path(file)
    try:
        if not path.exists():
            path.touch(mode=0o600)
            path.write_bytes(os.urandom(_KEY_BYTES))
        secret = path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"the key cannot be kept there: {error}", where=address) from error
    if len(secret) != _KEY_BYTES:
        raise InvalidInput(f"a key has {_KEY_BYTES} bytes, not {len(secret)}", where=file)
    return secret


async def _resolve(host: str, port: int) -> str:
    with suppress(ValueError):
        return host_and_port(str(ip_address(host)), port)
    found = await asyncio.get_running_loop().getaddrinfo(host, port)
    return host_and_port(str(found[0][4][0]), port)


async def _close(endpoint: Any) -> None:
    if endpoint is not None:
        with anyio.CancelScope(shield=True), anyio.move_on_after(_CLOSE_TIMEOUT_S):
            await endpoint.close()


def _remote(connection: Any) -> str:
    paths = connection.paths()
    return str(paths[0].remote_addr) if paths else "quic"


def _parse(address: str) -> _Address:
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
        id_ = bytes.fromhex(parts.username or "")
        options = dict(parse_qsl(parts.query, strict_parsing=True)) if parts.query else {}
    except ValueError as error:
        raise InvalidInput(f"this is no address: {error}", where=address) from error
    is_id = len(id_) in (0, _KEY_BYTES)
    if parts.scheme != "quic" or not host or port is None or not is_id or options.keys() - {"key"}:
        raise InvalidInput(
            "a QUIC address is quic://ID@host:port, or to listen quic://host:port?key=FILE",
            where=address,
        )
    return _Address(id_, host, port, options.get("key"))


def _words(error: BaseException) -> str:
    if isinstance(error, iroh.IrohError):
        # Its words name lines of the library's source.
        lines = re.sub(r" \(/[^)]*\)", "", str(error.message())).splitlines()
        return lines[-1].strip() if lines else "QUIC broke"
    return str(error) or "not in time"
