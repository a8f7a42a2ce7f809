"""`python -m orvalho.daemon.loopback SCHEME SIZE_BYTES SECONDS [NATS_SERVER]`: measures a transport
alone, and prints what it found as one line of JSON.

Two nodes in this process, with keys made for the purpose, speak over real sockets on the loopback
interface, with handshake and seal as between devices. Nothing durable is in the way: no database is
written and no script runs. A process of its own, so that the daemon's own work neither disturbs it
nor is disturbed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final

import anyio
import msgspec

from orvalho.contexts.identity import Key, Signer, certify, check_certificate
from orvalho.control.seeing import Loopback
from orvalho.daemon.measure import percentiles
from orvalho.errors import OrvalhoError, Unavailable
from orvalho.peers.frames import Hello
from orvalho.peers.node import MIGRATIONS, Node
from orvalho.peers.node_config import NodeConfig
from orvalho.peers.opening import open_node
from orvalho.peers.pairing import Paired
from orvalho.store import open_store
from orvalho.transports.catalog import Catalog

_STREAM_BYTES: Final = (1 << 18) - 512
_STREAM_WINDOW: Final = 12
_TOLD_AT_ONCE: Final = 256
_STARTS_S: Final = 10.0
_ANSWER_S: Final = 30.0
_ENDS_S: Final = 5.0

_NOTE: Final = "loopback.note"
_COUNT: Final = "loopback.count"
_ECHO: Final = "loopback.echo"
_PART: Final = "loopback.part"


class Failed(msgspec.Struct, frozen=True, kw_only=True):
    """Why nothing was measured."""

    message: str
    hint: str | None = None


class _Book:
    """Two nodes that know each other."""

    def __init__(self, other: Key, *addresses: str) -> None:
        self._other = other
        self._addresses = addresses

    def peers(self) -> tuple[Key, ...]:
        return (self._other,)

    def addresses(self, _key: Key) -> tuple[str, ...]:
        return self._addresses

    def name(self, _key: Key) -> str:
        return "other"


async def measure_loopback(
    scheme: str, size_bytes: int, seconds: float, server: str | None = None
) -> Loopback:
    """Messages of `size_bytes`, round trips of as many, and a stream, for a third of `seconds`
    each. `server` is the program of a NATS server, for that transport.

    Raises:
        Unavailable: the two do not find each other, or the server does not start.
    """
    async with AsyncExitStack() as stack:
        top = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="orvalho-bench-")))
        listen = f"{scheme}://127.0.0.1:0"
        if scheme == "nats" and server is not None:
            listen = await stack.enter_async_context(_nats_server(server, top))
        one, other = Signer(os.urandom(32)), Signer(os.urandom(32))
        heard = [0]
        listener = await stack.enter_async_context(_node(other, top, listen, _Book(one.key)))
        _serve(listener, heard)
        book = _Book(other.key, *listener.addresses)
        dialer = await stack.enter_async_context(_node(one, top, None, book))
        await _linked(dialer, other.key)
        body, share_s = os.urandom(size_bytes), seconds / 3
        per_second = await _messages(dialer, other.key, body, share_s)
        taken = await _round_trips(dialer, other.key, body, share_s)
        bytes_per_second = await _stream(dialer, other.key, share_s)
        path = dialer.paths(other.key)[0]
    p50, p99 = percentiles(taken)
    return Loopback(
        transport=scheme,
        path=path,
        messages_per_second=round(per_second, 1),
        round_trips=len(taken),
        p50_ms=p50,
        p99_ms=p99,
        stream_mb_per_second=round(bytes_per_second / 1e6, 1),
    )


def _serve(node: Node, heard: list[int]) -> None:
    def note(_sender: Key, _body: bytes) -> None:
        heard[0] += 1

    async def count(_sender: Key, _body: bytes) -> bytes:
        return str(heard[0]).encode()

    async def echo(_sender: Key, body: bytes) -> bytes:
        return body

    async def part(_sender: Key, body: bytes) -> bytes:
        return len(body).to_bytes(4)

    node.hear(_NOTE, note)
    node.answer(_COUNT, count)
    node.answer(_ECHO, echo)
    node.answer(_PART, part)


async def _messages(node: Node, to: Key, body: bytes, seconds: float) -> float:
    """How many a second, until the far node has heard the last of them."""
    told = 0
    started = time.perf_counter()
    while told == 0 or time.perf_counter() - started < seconds:
        for _ in range(_TOLD_AT_ONCE):
            if not await node.tell(to, _NOTE, body):
                raise Unavailable("the link was lost")
        told += _TOLD_AT_ONCE
    with anyio.fail_after(_ANSWER_S):
        while int(await node.ask(to, _COUNT, b"", _ANSWER_S)) < told:
            pass
    return told / (time.perf_counter() - started)


async def _round_trips(node: Node, to: Key, body: bytes, seconds: float) -> list[float]:
    """How long each took, in seconds, one after the other."""
    taken: list[float] = []
    started = time.perf_counter()
    while not taken or time.perf_counter() - started < seconds:
        asked_at = time.perf_counter()
        await node.ask(to, _ECHO, body, _ANSWER_S)
        taken.append(time.perf_counter() - asked_at)
    return taken


async def _stream(node: Node, to: Key, seconds: float) -> float:
    """Bytes a second in parts as `file send` makes them, as many under way as there."""
    part = os.urandom(_STREAM_BYTES)
    answered = 0
    started = time.perf_counter()

    async def send() -> None:
        nonlocal answered
        is_first = True
        while is_first or time.perf_counter() - started < seconds:
            is_first = False
            await node.ask(to, _PART, part, _ANSWER_S)
            answered += len(part)

    async with anyio.create_task_group() as tasks:
        for _ in range(_STREAM_WINDOW):
            tasks.start_soon(send)
    return answered / (time.perf_counter() - started)


async def _linked(node: Node, peer: Key) -> None:
    with anyio.move_on_after(_STARTS_S):
        with node.watch() as events:
            while not node.is_online(peer):
                await events.receive()
        return
    raise Unavailable(f"the two nodes do not find each other: {node.problem(peer)}")


@asynccontextmanager
async def _nats_server(program: str, top: Path) -> AsyncIterator[str]:
    """A server of its own on a free port, for the length of the block."""
    command = [program, "-a", "127.0.0.1", "-p", "-1", "--ports_file_dir", str(top)]
    server = await anyio.open_process(command, stdout=None, stderr=subprocess.DEVNULL)
    try:
        with anyio.move_on_after(_STARTS_S):
            while server.returncode is None and not _ports(top):  # noqa: ASYNC110 -- a file
                await anyio.sleep(0.02)
        if server.returncode is not None or not (ports := _ports(top)):
            raise Unavailable("the NATS server does not start", where=program)
        yield ports["nats"][0]
    finally:
        if server.returncode is None:
            server.terminate()
        with anyio.move_on_after(_ENDS_S, shield=True):
            await server.wait()


def _ports(top: Path) -> dict[str, list[str]]:
    """Where the server listens, once it has written that down."""
    for file in top.glob("*.ports"):
        with suppress(msgspec.DecodeError):  # half written
            return msgspec.json.decode(file.read_bytes(), type=dict[str, list[str]])
    return {}


@asynccontextmanager
async def _node(signer: Signer, top: Path, listen: str | None, book: _Book) -> AsyncIterator[Node]:
    async def nothing(*_: Key | Hello) -> None:
        return

    async def refuse(_: Paired) -> bool:
        return False

    def check(blob: bytes, owner: Key) -> tuple[str, Key]:
        checked = check_certificate(blob, owner, "node")
        return checked.name, Key(checked.key)

    place = top / ("listener" if listen else "dialer")
    async with open_store(place, MIGRATIONS) as store:
        config = NodeConfig(
            name="bench",
            signer=signer,
            noise_static=os.urandom(32),
            owner_key=signer.key,
            certificate=certify(signer, "node", "bench", signer.key, 0.0),
            listen=[listen] if listen else [],
            advertise=lambda addresses: addresses,
            store=store,
            blobs=place.with_suffix(".blobs"),
            book=book,
            check_certificate=check,
            on_greeting=nothing,
            on_paired=refuse,
            on_undelivered=lambda *_: None,
            catalog=_catalog(signer, listen or book.addresses(signer.key)[0]),
            pairing_port=0,
        )
        async with open_node(config) as node:
            yield node


def _catalog(signer: Signer, address: str) -> Catalog:
    if not address.startswith("nats"):
        return Catalog()
    # Imported for its own rows alone: the others run where the library is not installed.
    from orvalho.transports.nats import NatsTransport  # noqa: PLC0415

    return Catalog({"nats": NatsTransport(signer)})


def main(arguments: Sequence[str]) -> int:
    """Exit status 0, and a Loopback on standard output; or 1, and a Failed."""
    scheme, size, seconds, *server = arguments
    found: Loopback | Failed
    try:
        work = partial(measure_loopback, scheme, int(size), float(seconds), *server)
        found = anyio.run(work, backend_options={"use_uvloop": True})
    except OrvalhoError as error:
        found = Failed(message=error.message, hint=error.hint)
    except TimeoutError:
        found = Failed(message="the link does not answer in time")
    sys.stdout.buffer.write(msgspec.json.encode(found) + b"\n")
    return int(isinstance(found, Failed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
