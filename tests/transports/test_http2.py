"""HTTP/2 links against those who mean no good, and through those who stand between."""

from __future__ import annotations

import contextlib
import random
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import h2.config
import h2.connection
import h2.events
import pytest
from anyio.abc import SocketStream

from orvalho.errors import InvalidInput, Unavailable
from orvalho.transports.certificates import self_signed
from orvalho.transports.http2 import MAX_FRAME_BYTES, Http2Transport
from orvalho.transports.link import Link
from tests.conformance import test_link

pytestmark = pytest.mark.anyio
ADDRESS = "h2://127.0.0.1:0"


async def echo(link: Link) -> None:
    with contextlib.suppress(Unavailable):
        while True:
            await link.send(await link.receive())


class Raw:
    """An HTTP/2 client by hand."""

    def __init__(self, stream: SocketStream) -> None:
        self.stream = stream
        self.http = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self.http.initiate_connection()
        self.events: list[h2.events.Event] = []

    async def ask(self, method: str, path: str, *more: tuple[str, str]) -> None:
        heads = [(":method", method), (":scheme", "http"), (":authority", "b"), (":path", path)]
        self.http.send_headers(1, [*heads, *more], end_stream=method == "GET")
        await self.flush()

    async def flush(self) -> None:
        await self.stream.send(self.http.data_to_send())

    async def until(self, kind: type) -> object:
        with anyio.fail_after(10):
            while True:
                for event in self.events:
                    if isinstance(event, kind):
                        self.events.remove(event)
                        return event
                self.events += self.http.receive_data(await self.stream.receive())
                if content := self.http.data_to_send():
                    await self.stream.send(content)

    async def is_hung_up(self) -> bool:
        with anyio.fail_after(10):
            try:
                while True:
                    await self.stream.receive()
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                return True


@asynccontextmanager
async def knocking() -> AsyncIterator[tuple[Raw, Link, list[Link]]]:
    """A client by hand at a listener, beside a friend whose link must not suffer."""
    links: list[Link] = []

    async def on_link(link: Link) -> None:
        links.append(link)
        await echo(link)

    transport = Http2Transport()
    async with transport.listen(ADDRESS, on_link) as listener:
        friend = await transport.dial(listener.address)
        port = int(listener.address.rpartition(":")[2])
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            yield Raw(stream), friend, links
        await friend.send(b"still here")
        assert await friend.receive() == b"still here"
        await friend.aclose()


async def test_a_client_by_hand_is_understood() -> None:
    async with knocking() as (raw, _, links):
        await raw.ask("POST", "/orvalho/1")
        await raw.until(h2.events.ResponseReceived)
        raw.http.send_data(1, b"\0\0\0\5hel", pad_length=9)
        raw.http.send_data(1, b"lo\0\0\0\0")
        await raw.flush()
        await raw.until(h2.events.DataReceived)
        assert len(links) == 2


async def test_a_large_frame_right_behind_the_consent_to_it_is_taken() -> None:
    """Both in one read: the library itself would call the frame overlong."""
    async with knocking() as (raw, _, __):
        await raw.ask("POST", "/orvalho/1")
        with anyio.fail_after(10):
            while raw.http.max_outbound_frame_size < 100_000:
                raw.http.receive_data(await raw.stream.receive())
        raw.http.send_data(1, (60_000).to_bytes(4, "big") + bytes(60_000))
        await raw.flush()
        await raw.until(h2.events.DataReceived)


async def test_the_greeting_of_the_common_suite_opens_a_link() -> None:
    async with knocking() as (raw, _, links):
        await raw.stream.send(test_link.TestHttp2.greeting)
        with anyio.fail_after(10):
            while len(links) < 2:
                await anyio.sleep(0.01)


@pytest.mark.parametrize(("method", "path"), [("GET", "/"), ("POST", "/"), ("GET", "/orvalho/1")])
async def test_a_web_browser_finds_nothing(method: str, path: str) -> None:
    async with knocking() as (raw, _, links):
        await raw.ask(method, path)
        response = await raw.until(h2.events.ResponseReceived)
        assert isinstance(response, h2.events.ResponseReceived)
        assert response.headers == [(":status", "404")]
        assert await raw.is_hung_up()
        assert len(links) == 1


async def test_a_frame_over_the_limit_ends_the_link() -> None:
    async with knocking() as (raw, _, __):
        await raw.ask("POST", "/orvalho/1")
        raw.http.send_data(1, (MAX_FRAME_BYTES + 1).to_bytes(4, "big") + b"x")
        await raw.flush()
        assert await raw.is_hung_up()


async def test_headers_without_end_are_refused() -> None:
    async with knocking() as (raw, _, links):
        with contextlib.suppress(anyio.BrokenResourceError):
            await raw.ask("POST", "/orvalho/1", *((f"x-{n}", "y" * 1000) for n in range(200)))
        assert await raw.is_hung_up()
        assert len(links) == 1


async def test_pings_whose_answers_nobody_reads_do_not_fill_the_memory() -> None:
    async with knocking() as (raw, _, __):
        await raw.ask("POST", "/orvalho/1")
        await raw.until(h2.events.ResponseReceived)
        ping = b"\0\0\x08\x06\0\0\0\0\0" + bytes(8)
        with anyio.fail_after(60), pytest.raises(anyio.BrokenResourceError):
            while True:
                await raw.stream.send(ping * 10_000)


async def test_ten_thousand_frames_of_nonsense_in_an_open_stream() -> None:
    """Real HTTP/2 frames of every type with nonsense inside, link after link."""
    draw = random.Random(2)

    def nonsense() -> bytes:
        body = draw.randbytes(draw.choice((0, 4, 5, 8, 60)))
        stream = draw.choice((0, 1, 1, 1, 3, 2**31 - 1))
        head = len(body).to_bytes(3, "big") + bytes([draw.randrange(12), draw.randrange(256)])
        return head + stream.to_bytes(4, "big") + body

    async with knocking() as (raw, _, links):
        await raw.stream.send(b"".join(nonsense() for _ in range(20)))
        port = raw.stream.extra(anyio.abc.SocketAttribute.remote_port)
        sent = 0
        while sent < 10_000:
            async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                with contextlib.suppress(anyio.BrokenResourceError):
                    await stream.send(test_link.TestHttp2.greeting)
                    for _ in range(20):
                        await stream.send(nonsense())
                sent += 20
        assert len(links) > 20


async def test_a_shut_window_holds_the_sender_back_and_no_memory_grows() -> None:
    sent = 0

    async def flood(link: Link) -> None:
        nonlocal sent
        with contextlib.suppress(Unavailable):
            while True:
                await link.send(bytes(10_000))
                sent += 1

    async with Http2Transport().listen(ADDRESS, flood) as listener:
        port = int(listener.address.rpartition(":")[2])
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            raw = Raw(stream)
            await raw.ask("POST", "/orvalho/1")
            # HTTP/2's window is 64 KiB until somebody opens it, which nobody does.
            await raw.until(h2.events.DataReceived)
            await anyio.sleep(0.2)
            assert sent <= 6


async def test_a_certificate_of_ones_own(tmp_path: Path) -> None:
    transport = Http2Transport()
    with self_signed("example.org") as file:
        (tmp_path / "cert.pem").write_bytes(file.read_bytes())
    assert not file.exists()
    address = f"h2s://127.0.0.1:0?cert={tmp_path}/cert.pem"
    async with transport.listen(address, echo) as listener:
        port = int(listener.address.rpartition(":")[2])
        assert "?" not in listener.address
        link = await transport.dial(listener.address)
        await link.send(b"hello")
        assert await link.receive() == b"hello"
        await link.aclose()
        pem = await anyio.to_thread.run_sync(ssl.get_server_certificate, ("127.0.0.1", port))
        assert pem in (tmp_path / "cert.pem").read_text()


@pytest.mark.parametrize(
    "address", ["h2s://127.0.0.1:0?cert=/nowhere.pem", "h2://127.0.0.1:0?colour=blue"]
)
async def test_an_option_that_cannot_be_used_is_named(address: str) -> None:
    with pytest.raises(InvalidInput, match=r"certificate|colour"):
        async with Http2Transport().listen(address, echo):
            pass


@asynccontextmanager
async def proxy(answer: Callable[[bytes], bytes]) -> AsyncIterator[tuple[str, list[bytes]]]:
    """An HTTP proxy that knows CONNECT. `answer` is what it says to a request."""
    asked: list[bytes] = []

    async def pump(one: SocketStream, other: SocketStream) -> None:
        with contextlib.suppress(anyio.EndOfStream, anyio.BrokenResourceError, OSError):
            while True:
                await other.send(await one.receive())
        with contextlib.suppress(anyio.BrokenResourceError, OSError):
            await other.aclose()

    async def serve(client: SocketStream) -> None:
        async with client:
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += await client.receive()
            asked.append(head)
            said = answer(head)
            await client.send(said)
            if b" 200 " in said:
                host, port = head.split()[1].decode().split(":")
                far = await anyio.connect_tcp(host, int(port))
                async with far, anyio.create_task_group() as tasks:
                    tasks.start_soon(pump, client, far)
                    tasks.start_soon(pump, far, client)

    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(listener.serve, serve)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        yield f"http://127.0.0.1:{port}", asked
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("scheme", ["h2", "h2s"])
async def test_a_proxy_is_used_when_the_address_says_so_and_only_then(
    scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    transport = Http2Transport()
    async with (
        transport.listen(f"{scheme}://127.0.0.1:0", echo) as listener,
        proxy(lambda _: b"HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\n") as (where, asked),
    ):
        for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, where)
        direct = await transport.dial(listener.address)
        assert asked == []
        through = await transport.dial(f"{listener.address}?proxy={where}")
        assert asked[0].startswith(b"CONNECT 127.0.0.1:")
        for link in (direct, through):
            await link.send(b"hello")
            assert await link.receive() == b"hello"
            await link.aclose()


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 403 No\r\n\r\n", b"SSH-2.0-x\r\n\r\n", b"x" * 20_000, b""]
)
async def test_a_proxy_that_refuses_or_talks_nonsense_is_unavailable(answer: bytes) -> None:
    async with proxy(lambda _: answer) as (where, _):
        with pytest.raises(Unavailable):
            await Http2Transport().dial(f"h2s://127.0.0.1:9?proxy={where}")


async def test_an_http_server_of_another_kind_is_unavailable() -> None:
    async def answer(client: SocketStream) -> None:
        async with client:
            await client.receive()
            await client.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(listener.serve, answer)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        with pytest.raises(Unavailable):
            await Http2Transport().dial(f"h2://127.0.0.1:{port}")
        tasks.cancel_scope.cancel()


def test_without_the_extra_the_error_says_how_to_get_it() -> None:
    program = (
        "import sys; sys.modules['h2'] = None\n"
        "from orvalho.transports.catalog import Catalog\n"
        "from orvalho.errors import Unavailable\n"
        "import importlib.util as u; real = u.find_spec\n"
        "import orvalho.transports.catalog as c\n"
        "c.find_spec = lambda name: None if name == 'h2' else real(name)\n"
        "try: Catalog().find('h2://a:1')\n"
        "except Unavailable as e: assert e.hint == \"pip install 'orvalho[http2]'\", e.hint\n"
        "else: raise SystemExit(1)\n"
        "offers = {o.scheme: o.install for o in Catalog().offers()}\n"
        "assert offers['h2'] and offers['ws'] is None, offers\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
