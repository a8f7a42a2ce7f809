"""Both transports keep the promises of a link."""

from orvalho.transports.link import Transport
from orvalho.transports.memory import MemoryNetwork
from orvalho.transports.websocket import WebSocketTransport
from tests.conformance.link import LinkSuite


class TestMemory(LinkSuite):
    address = "memory://b"
    nobody = "memory://nobody"

    def make(self) -> Transport:
        return MemoryNetwork()


class TestWebSocket(LinkSuite):
    address = "ws://127.0.0.1:0"
    nobody = "ws://127.0.0.1:9"

    def make(self) -> Transport:
        return WebSocketTransport()
