"""A transport in a package of its own: frames behind their length in 4 bytes, over bare TCP.

Its pyproject.toml says:

    [project.entry-points."orvalho.transports"]
    tcp = "orvalho_tcp:TcpTransport"

Installed beside Orvalho, it serves addresses such as `tcp://192.168.1.20:4600`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

import anyio

from orvalho.errors import InvalidInput, Unavailable
from orvalho.transports.link import OnLink

MAX_FRAME_BYTES = 1 << 18
MAX_STRANGERS = 64
CLOSING_S = 2.0


class TcpLink:
    """One connection."""

    max_frame_bytes = MAX_FRAME_BYTES

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        strangers: dict[TcpLink, None],
    ) -> None:
        self.description = "{}:{}".format(*writer.get_extra_info("peername")[:2])
        self._reader = reader
        self._writer = writer
        self._strangers = strangers
        self._length: int | None = None
        self._is_closed = False

    async def send(self, frame: bytes) -> None:
        self._check()
        if len(frame) > MAX_FRAME_BYTES:
            raise ValueError(f"a frame has at most {MAX_FRAME_BYTES} bytes, not {len(frame)}")
        if self._writer.is_closing():
            raise Unavailable("the connection is lost", where=self.description)
        try:
            self._writer.write(len(frame).to_bytes(4, "big") + frame)
            await self._writer.drain()  # waits while the far side is slow
        except OSError as error:
            self._check()
            raise Unavailable(f"the connection is lost: {error}", where=self.description) from error

    async def receive(self) -> bytes:
        self._check()
        try:
            if self._length is None:
                # Kept: whoever cancels a receive between length and frame loses nothing.
                self._length = int.from_bytes(await self._reader.readexactly(4), "big")
            if self._length > MAX_FRAME_BYTES:
                raise Unavailable("the far side sends too much at once", where=self.description)
            frame = await self._reader.readexactly(self._length)
        except (OSError, asyncio.IncompleteReadError) as error:
            self._check()
            raise Unavailable(f"the connection is lost: {error}", where=self.description) from error
        self._length = None
        return frame

    async def aclose(self) -> None:
        self._is_closed = True
        self.admit()
        self._writer.close()
        with anyio.CancelScope(shield=True), anyio.move_on_after(1.0):
            try:
                await self._writer.wait_closed()
            except OSError:
                return
        self._writer.transport.abort()

    def admit(self) -> None:
        self._strangers.pop(self, None)

    def abort(self) -> None:
        self.admit()
        self._writer.transport.abort()

    def _check(self) -> None:
        if self._is_closed:
            raise anyio.ClosedResourceError


@dataclass(frozen=True)
class TcpListener:
    address: str


class TcpTransport:
    """Called without arguments, once a node."""

    @asynccontextmanager
    async def listen(self, address: str, on_link: OnLink) -> AsyncIterator[TcpListener]:
        host, port = split(address)
        strangers: dict[TcpLink, None] = {}
        links: set[TcpLink] = set()

        async def serve(link: TcpLink) -> None:
            try:
                await on_link(link)
            finally:
                links.discard(link)
                await link.aclose()

        def welcome(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            link = TcpLink(reader, writer, strangers)
            if not server.is_serving():
                # It was on its way in while we closed: there is nobody to serve it any more.
                link.abort()
                return
            if len(strangers) >= MAX_STRANGERS:
                next(iter(strangers)).abort()
            strangers[link] = None
            links.add(link)
            tasks.start_soon(serve, link)

        try:
            server = await asyncio.start_server(
                welcome, host, port, limit=MAX_FRAME_BYTES, start_serving=False
            )
        except OSError as error:
            raise Unavailable(f"cannot listen: {error}", where=address) from error
        async with anyio.create_task_group() as tasks:
            try:
                await server.start_serving()
                yield TcpListener(f"tcp://{host}:{server.sockets[0].getsockname()[1]}")
            finally:
                server.close()
                for link in list(links):
                    link.abort()
                tasks.cancel_scope.deadline = anyio.current_time() + CLOSING_S

    async def dial(self, address: str) -> TcpLink:
        host, port = split(address)
        try:
            with anyio.fail_after(5.0):
                reader, writer = await asyncio.open_connection(host, port, limit=MAX_FRAME_BYTES)
        except (OSError, TimeoutError) as error:
            raise Unavailable(f"nobody answers: {error}", where=address) from error
        return TcpLink(reader, writer, {})


def split(address: str) -> tuple[str, int]:
    parts = urlsplit(address)
    try:
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise InvalidInput(f"this is no address: {error}", where=address) from error
    if parts.scheme != "tcp" or not host or port is None:
        raise InvalidInput("an address looks like tcp://192.168.1.20:4600", where=address)
    return host, port
