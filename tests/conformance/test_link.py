"""All transports keep the promises of a link."""

from orvalho.transports import http2, websocket
from orvalho.transports.http2 import Http2Transport
from orvalho.transports.link import Transport
from orvalho.transports.memory import MemoryNetwork
from orvalho.transports.quic import QuicTransport
from orvalho.transports.websocket import WebSocketTransport
from tests.conformance.link import LinkSuite, TcpLinkSuite


class TestMemory(LinkSuite):
    address = "memory://b"
    nobody = "memory://nobody"

    def make(self) -> Transport:
        return MemoryNetwork()


class TestWebSocket(TcpLinkSuite):
    address = "ws://127.0.0.1:0"
    greeting = (
        b"GET / HTTP/1.1\r\nHost: b\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    max_strangers = websocket.MAX_STRANGERS
    nobody = "ws://127.0.0.1:9"

    def make(self) -> Transport:
        return WebSocketTransport()


class TestHttp2(TcpLinkSuite):
    address = "h2://127.0.0.1:0"
    # The preface, empty settings, and a request for the one path there is.
    greeting = (
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
        + bytes([0, 0, 17, 1, 4, 0, 0, 0, 1])
        + b"\x83\x86\x04\x0a/orvalho/1\x41\x01b"
    )
    max_strangers = http2.MAX_STRANGERS
    nobody = "h2://127.0.0.1:9"

    def make(self) -> Transport:
        return Http2Transport()


class TestHttp2OverTls(TcpLinkSuite):
    address = "h2s://127.0.0.1:0"
    max_strangers = http2.MAX_STRANGERS
    nobody = "h2s://127.0.0.1:9"

    def make(self) -> Transport:
        return Http2Transport()


class TestQuic(LinkSuite):
    address = "quic://127.0.0.1:0"
    nobody = f"quic://{'ab' * 32}@127.0.0.1:9"

    def make(self) -> Transport:
        return QuicTransport()
