"""Links over WebSocket (RFC 6455), `ws://host:port` and `wss://host:port`.

Nothing here says who the far side is: that is for the session inside. There is no keepalive
either: whoever holds a link knows best what silence means on it.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final
from urllib.parse import urlsplit

import anyio
from websockets.asyncio.client import connect
from websockets.asyncio.connection import Connection
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage

from orvalho.errors import InvalidInput, Unavailable
from orvalho.transports.link import OnLink, host_and_port, unanswered

MAX_FRAME_BYTES: Final = 1 << 18
MAX_STRANGERS: Final = 64
_OPEN_TIMEOUT_S: Final = 5.0
_CLOSE_TIMEOUT_S: Final = 1.0
# Eight frames of the largest size may wait unread; then the far side's `send` waits.
_QUEUE: Final = 8


class WebSocketLink:
    """One connection."""

    max_frame_bytes = MAX_FRAME_BYTES

    def __init__(self, connection: Connection, description: str) -> None:
        self.description = description
        self._connection = connection
        self._is_closed = False

    async def send(self, frame: bytes) -> None:
        if len(frame) > self.max_frame_bytes:
            raise ValueError(f"a frame has at most {self.max_frame_bytes} bytes, not {len(frame)}")
        try:
            await self._connection.send(frame)
        except ConnectionClosed as error:
            raise self._gone(error) from error

    async def receive(self) -> bytes:
        try:
            return await self._connection.recv(decode=False)
        except ConnectionClosed as error:
            raise self._gone(error) from error

    async def aclose(self) -> None:
        self._is_closed = True
        await self._connection.close()

    def admit(self) -> None:
        if isinstance(self._connection, _Guest):
            self._connection.admit()

    def _gone(self, error: ConnectionClosed) -> Exception:
        if self._is_closed:
            return anyio.ClosedResourceError()
        return Unavailable(f"the connection is lost: {error}", where=self.description)


class _Guest(ServerConnection):
    """A connection that somebody opened to us. It stands in the listener's waiting room, which
    is in order of arrival, until it is admitted."""

    def __init__(self, waiting: dict[_Guest, None], *arguments: Any, **options: Any) -> None:
        self._waiting = waiting
        super().__init__(*arguments, **options)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if len(self._waiting) >= MAX_STRANGERS:
            # The longest waiting goes: a flood of strangers then shuts nobody out who proves
            # within a few milliseconds who it is.
            next(iter(self._waiting)).abort()
        self._waiting[self] = None

    def connection_lost(self, exc: Exception | None) -> None:
        self.admit()
        super().connection_lost(exc)

    def admit(self) -> None:
        self._waiting.pop(self, None)

    def abort(self) -> None:
        self.admit()
        self.transport.abort()


@dataclass(frozen=True, slots=True)
class _WebSocketListener:
    address: str


class WebSocketTransport:
    """A Transport. The TLS contexts are for `wss` addresses; a dialer without one uses the
    system's certificate authorities."""

    def __init__(
        self, serving: ssl.SSLContext | None = None, dialing: ssl.SSLContext | None = None
    ) -> None:
        self._serving = serving
        self._dialing = dialing

    @asynccontextmanager
    async def listen(self, address: str, on_link: OnLink) -> AsyncIterator[_WebSocketListener]:
        scheme, host, port = _split(address)
        if scheme == "wss" and self._serving is None:
            raise InvalidInput("wss needs a certificate to listen with", where=address)

        async def welcome(connection: ServerConnection) -> None:
            await on_link(WebSocketLink(connection, host_and_port(*connection.remote_address[:2])))

        waiting: dict[_Guest, None] = {}
        guest: Any = partial(_Guest, waiting)
        server = serve(
            welcome,
            host,
            port,
            ssl=self._serving if scheme == "wss" else None,
            compression=None,
            # A page in somebody's browser has an origin; a peer has none.
            origins=[None],
            server_header=None,
            max_size=MAX_FRAME_BYTES,
            max_queue=_QUEUE,
            open_timeout=_OPEN_TIMEOUT_S,
            close_timeout=_CLOSE_TIMEOUT_S,
            ping_interval=None,
            logger=_silent(),
            create_connection=guest,
        )
        try:
            await server
        except OSError as error:
            raise Unavailable(
                f"cannot listen: {error.strerror or error}",
                where=address,
                hint="another daemon may have this port: choose another under `listen`",
            ) from error
        try:
            real_port = server.sockets[0].getsockname()[1]
            shown = f"[{host}]" if ":" in host else host
            yield _WebSocketListener(f"{scheme}://{shown}:{real_port}")
        finally:
            server.close()
            for stranger in list(waiting):
                stranger.abort()
            with anyio.CancelScope(shield=True), anyio.move_on_after(2 * _CLOSE_TIMEOUT_S):
                await server.wait_closed()

    async def dial(self, address: str) -> WebSocketLink:
        scheme, host, port = _split(address)
        options: dict[str, Any] = {"ssl": self._dialing} if scheme == "wss" else {}
        try:
            connection = await connect(
                address,
                compression=None,
                proxy=None,  # the default would obey an environment variable
                user_agent_header=None,
                max_size=MAX_FRAME_BYTES,
                max_queue=_QUEUE,
                open_timeout=_OPEN_TIMEOUT_S,
                close_timeout=_CLOSE_TIMEOUT_S,
                ping_interval=None,
                logger=_silent(),
                **options,
            )
        except (OSError, TimeoutError, InvalidHandshake, InvalidMessage, EOFError) as error:
            raise unanswered(error, address) from error
        return WebSocketLink(connection, host_and_port(host, port))


def _split(address: str) -> tuple[str, str, int]:
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise InvalidInput(f"this is no address: {error}", where=address) from error
    if parts.scheme not in ("ws", "wss") or not host or port is None:
        raise InvalidInput(
            "an address has a scheme, a host and a port",
            where=address,
            hint="an address looks like ws://192.168.1.20:4455",
        )
    return parts.scheme, host, port


def _silent() -> logging.Logger:
    """Strangers' mistakes are counted by the session above; they fill no log."""
    return logging.Logger("websocket", logging.CRITICAL + 1)
