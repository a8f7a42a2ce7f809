"""The configuration of a NATS server, held against a real one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

import anyio
import pytest
from nats.aio.client import Client

from orvalho.contexts import trust
from orvalho.contexts.identity import Signer
from orvalho.contexts.nkeys import user_nkey
from orvalho.contexts.trust import Peer, TrustBook, open_trust_book
from orvalho.daemon.nats_config import FILE, NatsConfigFile, NatsSettings
from orvalho.errors import InvalidInput, Unavailable
from orvalho.store import open_store
from orvalho.transports.link import Link
from orvalho.transports.nats import NatsTransport
from orvalho.transports.nats_stream import NatsCarrier, Take
from tests.transports.nats_server import NatsServer, binary, free_port

pytestmark = pytest.mark.anyio
HOME, PHONE, TABLET, STRANGER = (Signer(bytes([n]) * 32) for n in range(4))


def peer(name: str, signer: Signer, relation: Literal["own", "guest"] = "own") -> Peer:
    return Peer(
        node_key=signer.key,
        name=name,
        owner_key=signer.key,
        relation=relation,
        addresses=(),
        contexts=(),
        added_at=0.0,
        introduced="test",
    )


@asynccontextmanager
async def served(top: Path) -> AsyncIterator[tuple[NatsServer, TrustBook]]:
    """A server of the file that follows the trust book, with the phone in the book."""
    async with open_store(top / "db", (trust.MIGRATIONS,)) as store:
        book = await open_trust_book(store)
        await book.add(peer("phone2", PHONE))
        file = NatsConfigFile(top, "home", HOME.key, book)
        book.watch(file.changed)
        port = free_port()
        out = top / 'with "quotes" and $dollars'
        assert await file.use(NatsSettings(out=str(out), listen=f"127.0.0.1:{port}"))
        server = NatsServer(top, port=port, file=out / FILE)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(file.run)
            with server:
                yield server, book
            tasks.cancel_scope.cancel()


async def until(attempt: Callable[[], Awaitable[object]]) -> None:
    """Try until it does not raise."""
    with anyio.fail_after(30):
        while True:
            try:
                await attempt()
                return
            except (Unavailable, AssertionError):
                await anyio.sleep(0.05)


async def echo(link: Link) -> None:
    try:
        while True:
            await link.send(await link.receive())
    except Unavailable:
        return


async def answers(link: Link) -> None:
    await link.send(b"?")
    assert await link.receive() == b"?"


async def test_the_server_finds_the_file_sound(tmp_path: Path) -> None:
    async with served(tmp_path) as (server, _):
        done = await anyio.run_process([binary(), "-t", "-c", str(server.file)], check=False)
        assert done.returncode == 0, done.stderr
        assert server.file is not None
        assert server.file.stat().st_mode & 0o077 == 0


async def test_paired_nodes_are_let_in_and_a_stranger_is_not(tmp_path: Path) -> None:
    async with (
        served(tmp_path) as (server, _),
        NatsTransport(HOME).listen(server.url, echo) as listener,
    ):
        link = await NatsTransport(PHONE).dial(listener.address)
        await answers(link)
        await link.aclose()
        with pytest.raises(Unavailable, match="refuses this node"):
            await NatsTransport(STRANGER).dial(listener.address)


async def test_a_newcomer_is_let_in_the_forgotten_dropped_and_others_stay(tmp_path: Path) -> None:
    async with served(tmp_path) as (server, book), anyio.create_task_group() as tasks:
        async with NatsTransport(HOME).listen(server.url, echo) as listener:
            phone = await NatsTransport(PHONE).dial(listener.address)
            # when another device is paired
            await book.add(peer("tablet", TABLET))
            links: list[Link] = []

            async def dial_tablet() -> None:
                links.append(await NatsTransport(TABLET).dial(listener.address))

            await until(dial_tablet)
            # and the phone forgotten
            await book.remove("phone2")
            with anyio.fail_after(30), pytest.raises(Unavailable):
                await phone.receive()
            # then the tablet has noticed nothing, and the phone stays out
            await answers(links[0])
            with pytest.raises(Unavailable):
                await NatsTransport(PHONE).dial(listener.address)
            await phone.aclose()
            await links[0].aclose()
        tasks.cancel_scope.cancel()


async def test_a_paired_node_can_neither_read_nor_take_what_is_anothers(tmp_path: Path) -> None:
    async with served(tmp_path) as (server, _):
        home, phone = user_nkey(HOME.key), user_nkey(PHONE.key)
        spy = NatsTransport(PHONE).server(server.url)
        async with spy.used():
            client = await spy.client()
            refused: list[str] = []
            note_refusals(client, refused)
            heard: list[bytes] = []

            async def hear(message: object) -> None:
                heard.append(message.data)  # type: ignore[attr-defined]

            for subject in (
                f"orvalho.link.{home}.*",
                "orvalho.>",
                ">",
                f"_INBOX_{home}.>",
                "$JS.>",
            ):
                await client.subscribe(subject, cb=hear)
            for subject in (
                f"$JS.API.CONSUMER.CREATE.orvalho.{phone}.orvalho.mail.{home}",
                f"$JS.API.CONSUMER.CREATE.orvalho.{home}.orvalho.mail.{home}",
                f"$JS.API.CONSUMER.DURABLE.CREATE.orvalho.{phone}",
                f"$JS.API.CONSUMER.MSG.NEXT.orvalho.{home}",
                "$JS.API.STREAM.MSG.GET.orvalho",
                "$JS.API.STREAM.DELETE.orvalho",
                "$JS.API.STREAM.PURGE.orvalho",
                f"_INBOX_{home}.x",
            ):
                await client.publish(subject, b"{}")
            await client.flush()
            async with NatsTransport(HOME).listen(server.url, echo) as listener:
                link = await NatsTransport(PHONE).dial(listener.address)
                await answers(link)
                await link.aclose()
            await until_count(refused, 13)
            assert heard == []


def note_refusals(client: Client, refused: list[str]) -> None:
    async def note(error: Exception) -> None:
        refused.append(str(error))

    client._error_cb = note


async def until_count(found: list[str], count: int) -> None:
    with anyio.move_on_after(30):
        while len(found) < count:
            await anyio.sleep(0.01)
    assert len(found) == count, found


async def test_the_rights_are_enough_for_mail_by_the_stream_and_for_ones_own_alone(
    tmp_path: Path,
) -> None:
    async with served(tmp_path) as (server, _):
        home, phone = (
            NatsCarrier(NatsTransport(each).server(server.url), "orvalho") for each in (HOME, PHONE)
        )
        came: dict[str, list[bytes]] = {"home": [], "phone": []}

        def taker(name: str) -> Take:
            def take(content: bytes, _kept: object) -> None:
                came[name].append(content)

            return take

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(home.collect, taker("home"))
            await until(lambda: phone.deposit(HOME.key, b"1", b"to home", 0.0))
            tasks.start_soon(phone.collect, taker("phone"))
            await until(lambda: home.deposit(PHONE.key, b"2", b"to phone", 0.0))
            with anyio.fail_after(30):
                while came != {"home": [b"to home"], "phone": [b"to phone"]}:
                    await anyio.sleep(0.01)
            tasks.cancel_scope.cancel()


async def test_bad_wishes_are_named(tmp_path: Path) -> None:
    for settings in (
        NatsSettings(out="/x", listen="nowhere"),
        NatsSettings(out="/x", listen='0.0.0.0:1"}'),
        NatsSettings(out="/x", listen="0.0.0.0:99999"),
        NatsSettings(out="/x", listen="0.0.0.0:4222", tls=str(tmp_path)),
        NatsSettings(out="/x", listen="0.0.0.0:4222", leaf="hub"),
    ):
        with pytest.raises(InvalidInput):
            settings.check()
