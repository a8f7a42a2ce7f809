"""Links over a real NATS server: the promises of a link, its server's death, and strangers."""

from __future__ import annotations

import contextlib
import datetime
import json
import random
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import cast

import anyio
import anyio.abc
import nats
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from nats.aio.client import Client

from orvalho.contexts.identity import Signer
from orvalho.contexts.nkeys import parse_user_nkey, user_nkey
from orvalho.daemon.nats_config import NatsSecrets, NatsSettings, render
from orvalho.daemon.nats_rights import NatsUser
from orvalho.errors import InvalidInput, Unavailable
from orvalho.transports.link import Link, Transport
from orvalho.transports.nats import MAX_STRANGERS, NatsTransport
from orvalho.transports.nats_link import NatsLink
from tests.conformance.link import LinkSuite
from tests.transports.nats_server import NatsServer, free_port

pytestmark = pytest.mark.anyio
NOBODY = user_nkey(Signer(bytes(32)).key)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with NatsServer(tmp_path_factory.mktemp("nats")) as server:
        yield server


class TestNats(LinkSuite):
    @pytest.fixture(autouse=True)
    def _at(self, server: NatsServer) -> None:
        self.address = server.url
        self.nobody = f"{server.url}/{NOBODY}"

    def make(self) -> Transport:
        return NatsTransport()


class TestNatsInSmallParts(LinkSuite):
    """A server whose messages are smaller than our frames."""

    @pytest.fixture(autouse=True)
    def _at(self, tmp_path: Path) -> Iterator[None]:
        with NatsServer(tmp_path, "max_payload: 20000") as server:
            self.address = server.url
            self.nobody = f"{server.url}/{NOBODY}"
            yield

    def make(self) -> Transport:
        return NatsTransport()


async def echo(link: Link) -> None:
    try:
        while True:
            await link.send(await link.receive())
    except Unavailable:
        return


async def eventually(holds: Callable[[], bool], what: str) -> None:
    with anyio.move_on_after(30):
        while not holds():
            await anyio.sleep(0.01)
    assert holds(), what


@asynccontextmanager
async def bare(server: NatsServer) -> AsyncIterator[Client]:
    """A client that knows nothing of links: an attacker's, or an eavesdropper's."""
    client = await nats.connect(server.url, allow_reconnect=False)
    try:
        yield client
    finally:
        await client.close()


async def test_the_servers_death_ends_the_links_and_its_return_brings_new_ones(
    tmp_path: Path,
) -> None:
    listening, dialing = NatsTransport(), NatsTransport()
    with NatsServer(tmp_path) as server:
        async with listening.listen(server.url, echo) as listener:
            link = await dialing.dial(listener.address)
            await link.send(b"1")
            assert await link.receive() == b"1"
            server.kill()
            with anyio.fail_after(30):
                with pytest.raises(Unavailable):
                    await link.receive()
                with pytest.raises(Unavailable):
                    await link.send(b"2")
                with pytest.raises(Unavailable):
                    await dialing.dial(listener.address)
            await link.aclose()
            server.start()
            with anyio.fail_after(30):
                while True:
                    try:
                        link = await dialing.dial(listener.address)
                        break
                    except Unavailable:
                        await anyio.sleep(0.05)
                await link.send(b"3")
                assert await link.receive() == b"3"
            await link.aclose()


async def test_a_server_that_hangs_is_noticed(server: NatsServer) -> None:
    async with NatsTransport().listen(server.url, echo) as listener:
        link = await NatsTransport().dial(listener.address)
        server.signal(signal.SIGSTOP)
        try:
            with anyio.fail_after(30), pytest.raises(Unavailable):
                await link.receive()
        finally:
            server.signal(signal.SIGCONT)
        await link.aclose()


async def test_a_node_listens_while_the_server_is_away_and_is_heard_once_it_is_there(
    tmp_path: Path,
) -> None:
    server = NatsServer(tmp_path)
    async with NatsTransport().listen(server.url, echo) as listener:
        with pytest.raises(Unavailable, match="no NATS server answers"):
            await NatsTransport().dial(listener.address)
        with server:
            with anyio.fail_after(30):
                while True:
                    try:
                        link = await NatsTransport().dial(listener.address)
                        break
                    except Unavailable:
                        await anyio.sleep(0.05)
            await link.send(b"hello")
            assert await link.receive() == b"hello"
            await link.aclose()


async def test_every_link_shares_one_connection_and_the_last_closes_it(
    server: NatsServer,
) -> None:
    dialing = NatsTransport()
    async with NatsTransport().listen(server.url, echo) as listener:
        links = [await dialing.dial(listener.address) for _ in range(10)]
        shared = dialing.server(server.url)
        async with shared.used():
            client = await shared.client()
        for link in links:
            await link.send(b"x")
            assert await link.receive() == b"x"
            await link.aclose()
        assert client.is_closed


async def test_ten_thousand_malformed_messages_are_counted_and_harm_no_link(
    server: NatsServer,
) -> None:
    counters: Counter[str] = Counter()
    arrived: list[Link] = []

    async def on_link(link: Link) -> None:
        arrived.append(link)
        await echo(link)

    draw = random.Random(4)
    async with NatsTransport(counters=counters).listen(server.url, on_link) as listener:
        nkey = listener.address.rpartition("/")[2]
        link = await NatsTransport().dial(listener.address)
        victim = await NatsTransport().dial(listener.address)
        token = cast("NatsLink", arrived[1]).token
        async with bare(server) as attacker:
            for _ in range(10_000):
                junk = draw.randbytes(draw.randrange(60))
                name = draw.choice(["open", token, "A" * 22, "x", "open2"])
                reply = draw.choice(["", "a.b", f"orvalho.link.{nkey}", f"orvalho.link.{NOBODY}.x"])
                await attacker.publish(f"orvalho.link.{nkey}.{name}", junk, reply)
            await attacker.flush()
            # The link whose token leaked is lost, no other.
            with anyio.fail_after(30), pytest.raises(Unavailable):
                await victim.receive()
            await link.send(b"still here")
            assert await link.receive() == b"still here"
        await eventually(
            lambda: sum(counters.values()) > 9_000, f"malformed ones are counted: {counters}"
        )
        await link.aclose()
        await victim.aclose()


async def test_a_flood_of_strangers_is_bounded_and_shuts_nobody_out(server: NatsServer) -> None:
    async def on_link(link: Link) -> None:
        with contextlib.suppress(Unavailable):
            if await link.receive() == b"known":
                link.admit()
                await link.send(b"welcome")
            await echo(link)

    stranger, known = NatsTransport(), NatsTransport()
    async with NatsTransport().listen(server.url, on_link) as listener:
        friend = await known.dial(listener.address)
        await friend.send(b"known")
        assert await friend.receive() == b"welcome"
        flood = [await stranger.dial(listener.address) for _ in range(MAX_STRANGERS + 10)]
        with anyio.fail_after(30), pytest.raises(Unavailable):
            await flood[0].receive()
        late = await known.dial(listener.address)
        await late.send(b"known")
        assert await late.receive() == b"welcome"
        for link in (friend, late):
            await link.send(b"hello")
            assert await link.receive() == b"hello"
        for link in (*flood, friend, late):
            await link.aclose()


async def test_a_sender_that_ignores_the_window_ends_its_link(server: NatsServer) -> None:
    arrived: list[Link] = []

    async def on_link(link: Link) -> None:
        arrived.append(link)
        await anyio.sleep_forever()

    async with NatsTransport().listen(server.url, on_link) as listener:
        link = await NatsTransport().dial(listener.address)
        far = cast("NatsLink", link).far
        async with bare(server) as attacker:
            for number in range(20):
                part = b"\x02" + number.to_bytes(4) + bytes(link.max_frame_bytes)
                await attacker.publish(far, part)
            await attacker.flush()
        with anyio.fail_after(30), pytest.raises(Unavailable):
            await link.receive()
        await link.aclose()


async def test_a_lost_message_ends_the_link_and_is_never_passed_over() -> None:
    async def publish(_subject: str, _content: bytes) -> None: ...

    def part(number: int, content: bytes) -> bytes:
        return b"\x02" + number.to_bytes(4) + content

    link = NatsLink(publish, "test", 1000, lambda _: None)
    link.far = "far"
    assert link.take(part(0, b"first"), "")
    assert not link.take(part(2, b"third"), "")
    assert await link.receive() == b"first"
    with pytest.raises(Unavailable, match="lost"):
        await link.receive()


@pytest.mark.parametrize(
    "nonce", ["orvalho/envelope/1\0" + "x" * 40, "DSSEv1 4 text 1 x", "", "x" * 65]
)
async def test_a_server_cannot_have_a_statement_of_ours_signed(nonce: str) -> None:
    """The key that logs in is the one that signs envelopes and certificates."""
    signed: list[bytes] = []

    async def pose_as_server(stream: anyio.abc.SocketStream) -> None:
        info = {"server_id": "x", "auth_required": True, "nonce": nonce, "max_payload": 1000}
        async with stream:
            await stream.send(b"INFO " + json.dumps(info).encode() + b" \r\n")
            with contextlib.suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                while True:
                    signed.append(await stream.receive())

    transport = NatsTransport(Signer(bytes(range(32))))
    async with await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0) as listener:
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, pose_as_server)
            with pytest.raises(Unavailable, match="nonce"):
                await transport.dial(f"nats://127.0.0.1:{port}/{NOBODY}")
            tasks.cancel_scope.cancel()
    assert b"sig" not in b"".join(signed)


async def test_a_server_that_denies_tls_gets_no_login(server: NatsServer) -> None:
    place = f"nats+tls://user:secret@127.0.0.1:{server.port}"
    with pytest.raises(Unavailable, match="offers no TLS"):
        await NatsTransport().dial(f"{place}/{NOBODY}")


async def test_what_logs_in_is_told_to_nobody(tmp_path: Path) -> None:
    config = "authorization { user: alice, password: secret }"
    with NatsServer(tmp_path, config) as server:
        own = server.url.replace("//", "//alice:secret@")
        transport = NatsTransport()
        async with transport.listen(own, echo) as listener:
            assert "secret" not in listener.address
            link = await transport.dial(listener.address)
            await link.send(b"x")
            assert await link.receive() == b"x"
            await link.aclose()
        with pytest.raises(Unavailable, match="refuses this node"):
            await NatsTransport().dial(listener.address)


async def test_addresses_that_are_none() -> None:
    for address in ("nats://", "nats://h:x", "nats://h/notanode", "nats://h?what=1", "http://h"):
        with pytest.raises(InvalidInput):
            await NatsTransport().dial(address)
    with pytest.raises(InvalidInput) as wrong:
        await NatsTransport().dial("nats://alice:secret@h?what=1")
    assert "secret" not in f"{wrong.value.message} {wrong.value.where}"
    assert parse_user_nkey(NOBODY) == Signer(bytes(32)).key
    with pytest.raises(InvalidInput):
        parse_user_nkey(NOBODY[:-1] + ("A" if NOBODY[-1] != "A" else "B"))


def certificates(top: Path) -> None:
    """ca.pem, and cert.pem with key.pem for 127.0.0.1, signed by it."""
    now = datetime.datetime.now(datetime.UTC)
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    names = [
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in ("ca", "server")
    ]
    for place, file in enumerate(("ca.pem", "cert.pem")):
        usage = x509.KeyUsage(
            *[(place == 0 and n in (5, 6)) or (place == 1 and n == 0) for n in range(9)]
        )
        signed = (
            x509.CertificateBuilder()
            .subject_name(names[place])
            .issuer_name(names[0])
            .public_key(keys[place].public_key())
            .serial_number(place + 1)
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=place == 0, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), False
            )
            .sign(keys[0], hashes.SHA256())
        )
        (top / file).write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    (top / "key.pem").write_bytes(
        keys[1].private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )


async def test_tls_by_a_private_authority_and_by_no_other(tmp_path: Path) -> None:
    certificates(tmp_path)
    config = f'tls {{ cert_file: "{tmp_path}/cert.pem", key_file: "{tmp_path}/key.pem" }}'
    with NatsServer(tmp_path, config) as server:
        place = f"nats+tls://127.0.0.1:{server.port}"
        transport = NatsTransport()
        async with transport.listen(f"{place}?ca={tmp_path}/ca.pem", echo) as listener:
            assert listener.address == f"{place}/{transport.nkey}"
            link = await transport.dial(listener.address)
            await link.send(b"x")
            assert await link.receive() == b"x"
            await link.aclose()
        for other in (place, server.url):
            with pytest.raises(Unavailable):
                await NatsTransport().dial(f"{other}/{NOBODY}")
        with pytest.raises(InvalidInput, match="authority"):
            async with NatsTransport().listen(f"{place}?ca={tmp_path}/none.pem", echo):
                pass


async def test_a_node_on_a_leaf_is_reached_through_the_server_it_leans_on(tmp_path: Path) -> None:
    for name in ("hub", "leaf"):
        (tmp_path / name).mkdir()
    leaves = free_port()
    hub = NatsServer(
        tmp_path / "hub",
        f'leafnodes {{ listen: "127.0.0.1:{leaves}", authorization {{ user: l, password: s }} }}',
    )
    signer = Signer(b"3" * 32)
    settings = NatsSettings(
        out=str(tmp_path / "leaf"),
        listen=f"127.0.0.1:{free_port()}",
        leaf=f"nats-leaf://l:s@127.0.0.1:{leaves}",
    )
    file = tmp_path / "leaf" / "leaf.conf"
    file.write_text(
        render(settings, [NatsUser("home", signer.key, is_home=True)], NatsSecrets(bytes(32)))
    )
    leaf = NatsServer(tmp_path / "leaf", port=int(settings.listen.rpartition(":")[2]), file=file)
    with hub, leaf:
        async with NatsTransport(signer).listen(leaf.url, echo):
            there = f"{hub.url}/{user_nkey(signer.key)}"
            with anyio.fail_after(30):
                while True:
                    try:
                        link = await NatsTransport().dial(there)
                        break
                    except Unavailable:
                        await anyio.sleep(0.05)
            await link.send(b"through the hub")
            assert await link.receive() == b"through the hub"
            await link.aclose()


async def test_without_the_library_an_address_says_what_to_install() -> None:
    program = (
        "import sys, anyio\n"
        "sys.modules['nats'] = None\n"
        "from orvalho.transports.catalog import Catalog\n"
        "async def main():\n"
        f"    await Catalog().find('nats://h').dial('nats://127.0.0.1:1/{NOBODY}')\n"
        "try:\n"
        "    anyio.run(main)\n"
        "except Exception as error:\n"
        "    print(type(error).__name__, error.hint)\n"
    )
    done = await anyio.run_process([sys.executable, "-c", program])
    assert done.stdout.decode().strip() == "Unavailable pip install 'orvalho[nats]'"
