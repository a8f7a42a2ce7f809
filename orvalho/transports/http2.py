"""Links over HTTP/2 (RFC 9113), for places where only HTTPS gets out: `h2://host:port` in clear
text with prior knowledge, `h2s://host:port` over TLS with ALPN `h2`.

A link is one POST whose request and response bodies flow at the same time; each frame stands
there behind its length in 4 bytes (big-endian). What is received counts against HTTP/2's windows
until it is read, so that a slow reader slows the sender.

The certificate proves nothing and is not checked: who the far side is, is for the session inside.
Listening takes `?cert=FILE&key=FILE`, else a certificate is made at the start. Dialing goes
through an HTTP proxy only by `?proxy=http://host:port`, never because the environment says so.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast
from urllib.parse import parse_qsl, urlsplit

import anyio
from anyio import to_thread
from anyio.abc import TaskGroup
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    RequestReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)
from h2.exceptions import H2Error
from h2.settings import SettingCodes

from orvalho.errors import InvalidInput, Unavailable
from orvalho.transports.certificates import self_signed
from orvalho.transports.framing import LENGTH_BYTES, framed, take_frames
from orvalho.transports.link import OnLink, host_and_port, unanswered

_log = logging.getLogger(__name__)

MAX_FRAME_BYTES: Final = 1 << 18
MAX_STRANGERS: Final = 64
_PATH: Final = "/orvalho/1"
_OPEN_TIMEOUT_S: Final = 5.0
_CLOSE_TIMEOUT_S: Final = 1.0
# Four frames of the largest size may wait unread; then the far side's `send` waits.
_WINDOW_BYTES: Final = 4 * (MAX_FRAME_BYTES + LENGTH_BYTES)
# The largest DATA frame. The library copies what it has of one again with each read.
_PIECE_BYTES: Final = 1 << 17
_DEFAULT_WINDOW_BYTES: Final = 65_535
_SETTINGS: Final[dict[SettingCodes | int, int]] = {
    SettingCodes.INITIAL_WINDOW_SIZE: _WINDOW_BYTES,
    SettingCodes.MAX_FRAME_SIZE: _PIECE_BYTES,
    SettingCodes.MAX_HEADER_LIST_SIZE: 4096,
    SettingCodes.MAX_CONCURRENT_STREAMS: 1,
}
_MAX_PROXY_ANSWER_BYTES: Final = 8192
# Our own frames never queue up so far: it is answers to pings that the far side does not read.
_MAX_UNSENT_BYTES: Final = 2 << 20


class Http2Link(asyncio.Protocol):
    """One connection with its one stream."""

    max_frame_bytes = MAX_FRAME_BYTES

    def __init__(self, description: str, host: str = "", waiting: _Waiting | None = None) -> None:
        """The dialer's side if there is a `host`, else the listener's, with its waiting room."""
        self.description = description
        self._host = host
        self._waiting = waiting
        self._http = H2Connection(
            H2Configuration(client_side=bool(host), header_encoding="utf-8", logger=None)
        )
        self._transport: asyncio.Transport | None = None
        self._stream = 0
        self._buffer = bytearray()
        self._frames: deque[bytes] = deque()
        self._arrived = asyncio.Event()
        self._may_send = asyncio.Event()
        self._lost = asyncio.Event()
        self._is_flushed = True
        self._is_open = False
        self._reason: str | None = None
        self._is_closed = False

    # ---- a link -----------------------------------------------------------------------------

    async def send(self, frame: bytes) -> None:
        self._check()
        if len(frame) > self.max_frame_bytes:
            raise ValueError(f"a frame has at most {self.max_frame_bytes} bytes, not {len(frame)}")
        rest = memoryview(framed(frame))
        is_begun = False
        try:
            while True:
                while self._is_flushed and (room := self._room()) and rest:
                    piece, rest = rest[:room], rest[room:]
                    self._http.send_data(self._stream, piece)
                    self._flush()
                    is_begun = True
                if not rest and self._is_flushed:
                    return
                self._may_send.clear()
                await self._may_send.wait()
                self._check()
        except asyncio.CancelledError:
            if is_begun and rest:  # what follows would be taken for the rest of this frame
                self._end("a frame was broken off")
            raise
        except H2Error as error:
            self._end(str(error))
            raise self._gone() from error

    async def receive(self) -> bytes:
        while self._is_closed or not self._frames:
            self._check()
            self._arrived.clear()
            await self._arrived.wait()
        frame = self._frames.popleft()
        self._acknowledge(len(frame) + LENGTH_BYTES)
        return frame

    async def aclose(self) -> None:
        self._is_closed = True
        self._wake()
        if self._transport is None or self._lost.is_set():
            return
        with suppress(H2Error):
            self._http.close_connection()
            self._flush()
        self._transport.close()
        with anyio.CancelScope(shield=True), anyio.move_on_after(_CLOSE_TIMEOUT_S):
            await self._lost.wait()
        self._transport.abort()

    def admit(self) -> None:
        if self._waiting is not None:
            self._waiting.leave(self)

    async def opened(self) -> None:
        """Wait until the far side has taken the request.

        Raises:
            Unavailable: it has not.
        """
        while not self._is_open:
            self._check()
            self._arrived.clear()
            await self._arrived.wait()

    # ---- asyncio calls ----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if self._waiting is not None:
            self.description = host_and_port(*self._transport.get_extra_info("peername")[:2])
            self._waiting.enter(self)
        is_tls = self._transport.get_extra_info("ssl_object")
        if is_tls and is_tls.selected_alpn_protocol() != "h2":
            self._end("the far side does not speak HTTP/2")
            return
        self._http.initiate_connection()
        self._http.update_settings(_SETTINGS)
        # At once: the library would refuse a large frame that comes in the same read as the far
        # side's consent to it.
        self._http.max_inbound_frame_size = _PIECE_BYTES
        self._http.increment_flow_control_window(_WINDOW_BYTES - _DEFAULT_WINDOW_BYTES)
        if self._host:
            self._stream = self._http.get_next_available_stream_id()
            scheme = "https" if is_tls else "http"
            self._http.send_headers(
                self._stream,
                [
                    (":method", "POST"),
                    (":scheme", scheme),
                    (":authority", self._host),
                    (":path", _PATH),
                    ("content-type", "application/octet-stream"),
                ],
            )
        self._flush()

    def data_received(self, content: bytes) -> None:
        if self._reason is not None:
            return
        try:
            for event in self._http.receive_data(content):
                self._take(event)
            self._flush()
        except H2Error as error:
            self._end(f"it is no HTTP/2 that arrives: {error}")
            return
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if transport.get_write_buffer_size() > _MAX_UNSENT_BYTES:
            self._end("the far side asks much and reads nothing")

    def pause_writing(self) -> None:
        self._is_flushed = False

    def resume_writing(self) -> None:
        self._is_flushed = True
        self._may_send.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.admit()
        self._reason = self._reason or str(exc or "the far side has closed it")
        self._lost.set()
        self._wake()

    # ---- inside -----------------------------------------------------------------------------

    def abort(self) -> None:
        self._end("it was not wanted")

    def _take(self, event: Event) -> None:
        match event:
            case RequestReceived():
                self._hear_request(event)
            case ResponseReceived():
                status = _headers(event).get(":status")
                if status == "200":
                    self._is_open = True
                    self._arrived.set()
                else:
                    self._end(f"an HTTP server answers {status} there")
            case DataReceived():
                self._hear_data(event)
            case WindowUpdated():
                self._may_send.set()
            case StreamEnded() | StreamReset() | ConnectionTerminated():
                self._end("the far side has closed it")

    def _hear_request(self, event: RequestReceived) -> None:
        headers = _headers(event)
        stream = event.stream_id
        assert stream is not None
        if self._stream or not self._waiting:
            self._end("a second request")
        elif (headers.get(":method"), headers.get(":path")) != ("POST", _PATH):
            # What any web server says; a browser or a scanner learns nothing else.
            self._http.send_headers(stream, [(":status", "404")], end_stream=True)
            self._flush()
            self._end("it asks for a web page")
        else:
            self._stream = stream
            self._http.send_headers(
                stream, [(":status", "200"), ("content-type", "application/octet-stream")]
            )
            self._is_open = True
            self._waiting.opened(self)

    def _hear_data(self, event: DataReceived) -> None:
        content = event.data or b""
        # Padding is read already.
        self._acknowledge((event.flow_controlled_length or 0) - len(content))
        self._buffer += content
        try:
            for frame in take_frames(self._buffer, MAX_FRAME_BYTES):
                self._frames.append(frame)
                self._arrived.set()
        except Unavailable as error:
            self._end(error.message)

    def _acknowledge(self, size_bytes: int) -> None:
        if size_bytes <= 0 or self._reason is not None:
            return
        with suppress(H2Error):
            self._http.acknowledge_received_data(size_bytes, self._stream)
            self._flush()

    def _room(self) -> int:
        window: int = self._http.local_flow_control_window(self._stream)
        return max(0, min(window, self._http.max_outbound_frame_size))

    def _flush(self) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if content := self._http.data_to_send():
            transport.write(content)

    def _end(self, reason: str) -> None:
        """Nothing more comes or goes; what has arrived can still be read."""
        if self._reason is None:
            self._reason = reason
        self.admit()
        if self._transport is not None and not self._transport.is_closing():
            with suppress(H2Error):
                self._http.close_connection()
                self._flush()
            self._transport.close()
            asyncio.get_running_loop().call_later(_CLOSE_TIMEOUT_S, self._transport.abort)
        self._wake()

    def _wake(self) -> None:
        self._arrived.set()
        self._may_send.set()

    def _check(self) -> None:
        if self._is_closed:
            raise anyio.ClosedResourceError
        if self._reason is not None:
            raise self._gone()

    def _gone(self) -> Unavailable:
        return Unavailable(f"the connection is lost: {self._reason}", where=self.description)


class _Waiting:
    """The waiting room of a listener, in order of arrival, and the way out of it."""

    def __init__(self, on_link: OnLink) -> None:
        self.tasks: TaskGroup | None = None
        self._on_link = on_link
        # When each is given up that has not even asked to be heard.
        self._strangers: dict[Http2Link, asyncio.TimerHandle] = {}
        self._all: set[Http2Link] = set()

    def enter(self, link: Http2Link) -> None:
        if len(self._strangers) >= MAX_STRANGERS:
            # The longest waiting goes: a flood of strangers then shuts nobody out who proves
            # within a few milliseconds who it is.
            next(iter(self._strangers)).abort()
        loop = asyncio.get_running_loop()
        self._strangers[link] = loop.call_later(_OPEN_TIMEOUT_S, self._give_up, link)

    def leave(self, link: Http2Link) -> None:
        if (timer := self._strangers.pop(link, None)) is not None:
            timer.cancel()

    def opened(self, link: Http2Link) -> None:
        assert self.tasks is not None, "nobody is heard before there is somebody to serve them"
        self._all.add(link)
        self.tasks.start_soon(self._serve, link)

    def abort_all(self) -> None:
        for link in [*self._strangers, *self._all]:
            link.abort()

    def _give_up(self, link: Http2Link) -> None:
        if link not in self._all:
            link.abort()

    async def _serve(self, link: Http2Link) -> None:
        try:
            await self._on_link(link)
        except Exception:  # noqa: BLE001 -- the top of a task: a bug costs this link, no more
            _log.exception("link.failed", extra={"from": link.description})
        finally:
            self._all.discard(link)
            await link.aclose()


@dataclass(frozen=True, slots=True)
class _Http2Listener:
    address: str


@dataclass(frozen=True, slots=True)
class _Address:
    scheme: str
    host: str
    port: int
    options: dict[str, str]

    @property
    def is_tls(self) -> bool:
        return self.scheme == "h2s"


class Http2Transport:
    """A Transport."""

    @asynccontextmanager
    async def listen(self, address: str, on_link: OnLink) -> AsyncIterator[_Http2Listener]:
        where = _parse(address, ("cert", "key"))
        tls = await to_thread.run_sync(_serving, where, address) if where.is_tls else None
        waiting = _Waiting(on_link)
        server = await _bind(where, tls, waiting, address)
        async with anyio.create_task_group() as waiting.tasks:
            try:
                await server.start_serving()
                real_port = server.sockets[0].getsockname()[1]
                yield _Http2Listener(f"{where.scheme}://{host_and_port(where.host, real_port)}")
            finally:
                server.close()
                waiting.abort_all()
                deadline = anyio.current_time() + 2 * _CLOSE_TIMEOUT_S
                waiting.tasks.cancel_scope.deadline = deadline

    async def dial(self, address: str) -> Http2Link:
        where = _parse(address, ("proxy",))
        link = Http2Link(host_and_port(where.host, where.port), host=where.host)
        try:
            with anyio.fail_after(_OPEN_TIMEOUT_S):
                await _connect(where, link)
                await link.opened()
        except (OSError, TimeoutError) as error:
            await link.aclose()
            raise unanswered(error, address) from error
        except BaseException:
            await link.aclose()
            raise
        return link


async def _bind(
    where: _Address, tls: ssl.SSLContext | None, waiting: _Waiting, address: str
) -> asyncio.Server:
    loop = asyncio.get_running_loop()
    try:
        return await loop.create_server(
            lambda: Http2Link("", waiting=waiting),
            where.host,
            where.port,
            ssl=tls,
            ssl_handshake_timeout=_OPEN_TIMEOUT_S if tls else None,
            start_serving=False,
        )
    except OSError as error:
        raise Unavailable(
            f"cannot listen: {error.strerror or error}",
            where=address,
            hint="another daemon may have this port: choose another under `listen`",
        ) from error


async def _connect(where: _Address, link: Http2Link) -> None:
    loop = asyncio.get_running_loop()
    tls = _dialing() if where.is_tls else None
    name = where.host if tls else None
    if proxy := where.options.get("proxy"):
        tunnel = await _tunnel(proxy, where)
        await loop.create_connection(lambda: link, sock=tunnel, ssl=tls, server_hostname=name)
    else:
        await loop.create_connection(
            lambda: link, where.host, where.port, ssl=tls, server_hostname=name
        )


async def _tunnel(proxy: str, where: _Address) -> socket.socket:
    """A socket to the far side through an HTTP proxy (RFC 9110, CONNECT).

    Raises:
        InvalidInput: the proxy's address is none.
        Unavailable: the proxy refuses.
    """
    parts = urlsplit(proxy)
    if parts.scheme != "http" or not parts.hostname or parts.port is None:
        raise InvalidInput("a proxy looks like http://10.0.0.1:3128", where=proxy)
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(parts.hostname, parts.port, type=socket.SOCK_STREAM)
    tunnel = socket.socket(found[0][0], socket.SOCK_STREAM)
    try:
        tunnel.setblocking(False)
        await loop.sock_connect(tunnel, found[0][4])
        target = host_and_port(where.host, where.port)
        asked = f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n"
        await loop.sock_sendall(tunnel, asked.encode("ascii"))
        answer = b""
        # Byte by byte: what follows the head belongs to the far side.
        while not answer.endswith(b"\r\n\r\n"):
            more = await loop.sock_recv(tunnel, 1)
            if not more or len(answer) > _MAX_PROXY_ANSWER_BYTES:
                raise Unavailable("the proxy gives no answer", where=proxy)
            answer += more
        status = answer.split(b"\r\n", 1)[0].decode("latin-1")
        if not status.startswith("HTTP/1.") or status.split(" ")[1:2] != ["200"]:
            raise Unavailable(f"the proxy refuses: {status}", where=proxy)
    except BaseException:
        tunnel.close()
        raise
    return tunnel


def _headers(event: RequestReceived | ResponseReceived) -> dict[str, str]:
    return {str(name): str(value) for name, value in event.headers or ()}


def _serving(where: _Address, address: str) -> ssl.SSLContext:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.minimum_version = ssl.TLSVersion.TLSv1_2
    tls.set_alpn_protocols(["h2"])
    cert, key = where.options.get("cert"), where.options.get("key")
    if not cert:
        with self_signed(where.host) as file:
            tls.load_cert_chain(file)
        return tls
    try:
        tls.load_cert_chain(Path(cert), Path(key) if key else None)
    except (OSError, ssl.SSLError) as error:
        raise InvalidInput(f"this certificate cannot be used: {error}", where=address) from error
    return tls


def _dialing() -> ssl.SSLContext:
    """The certificate is a cloak: the session inside knows the far side by its key."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    tls.minimum_version = ssl.TLSVersion.TLSv1_2
    tls.check_hostname = False
    tls.verify_mode = ssl.CERT_NONE
    tls.set_alpn_protocols(["h2"])
    return tls


def _parse(address: str, known: tuple[str, ...]) -> _Address:
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
        options = dict(parse_qsl(parts.query, strict_parsing=True)) if parts.query else {}
    except ValueError as error:
        raise InvalidInput(f"this is no address: {error}", where=address) from error
    if parts.scheme not in ("h2", "h2s") or not host or port is None:
        raise InvalidInput(
            "an address has a scheme, a host and a port",
            where=address,
            hint="an address looks like h2s://192.168.1.20:443",
        )
    if unknown := options.keys() - set(known):
        raise InvalidInput(
            f'"{min(unknown)}" is unknown here: there are {", ".join(known)}', where=address
        )
    return _Address(parts.scheme, host, port, options)
