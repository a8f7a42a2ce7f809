"""The pipe between daemon and worker: frames of a length and a msgpack list of messages.

What is said within one turn of the event loop goes as one frame, in one write.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import Any, Final, cast

import msgspec

from orvalho.runtime.workers.messages import Message

_HEADER: Final = struct.Struct("<I")
MAX_FRAME_BYTES: Final = 512 << 20
_BUFFER_BYTES: Final = 1 << 20


class Pipe(asyncio.Protocol):
    """`received` is called with the messages of a frame; `ended` once, when the other side has gone
    or has sent what is no frame."""

    def __init__(
        self,
        decoder: msgspec.msgpack.Decoder[Any],
        received: Callable[[list[Any]], None],
        ended: Callable[[], None],
    ) -> None:
        self._decoder = decoder
        self._encoder = msgspec.msgpack.Encoder()
        self._received = received
        self._ended = ended
        self._transport: asyncio.Transport | None = None
        self._outgoing: list[Message] = []
        self._incoming = bytearray()
        self._is_over = False
        self._loop = asyncio.get_running_loop()

    def send(self, message: Message) -> None:
        """Queue a message. After the end it goes nowhere."""
        if self._is_over:
            return
        self._outgoing.append(message)
        if len(self._outgoing) == 1:
            self._loop.call_soon(self._flush)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _flush(self) -> None:
        if self._transport is None or not self._outgoing:
            return
        messages, self._outgoing = self._outgoing, []
        frame = bytearray(_HEADER.size)
        self._encoder.encode_into(messages, frame, _HEADER.size)
        _HEADER.pack_into(frame, 0, len(frame) - _HEADER.size)
        self._transport.write(frame)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclass of it, though they are one.
        self._transport = cast("asyncio.Transport", transport)
        self._flush()

    def data_received(self, data: bytes) -> None:
        self._incoming += data
        while len(self._incoming) >= _HEADER.size:
            (size,) = _HEADER.unpack_from(self._incoming)
            end = _HEADER.size + size
            if size > MAX_FRAME_BYTES:
                return self.close()
            if len(self._incoming) < end:
                return None
            try:
                messages = self._decoder.decode(memoryview(self._incoming)[_HEADER.size : end])
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                return self.close()
            del self._incoming[:end]
            self._received(messages)
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._is_over = True
        self._ended()


async def open_pipe(sock: socket.socket, pipe: Pipe) -> None:
    """Put a pipe on its end of a socket pair, which it owns from then on. What was sent before goes
    out now."""
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        sock.setsockopt(socket.SOL_SOCKET, option, _BUFFER_BYTES)
    await asyncio.get_running_loop().create_unix_connection(lambda: pipe, sock=sock)
