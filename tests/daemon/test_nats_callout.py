"""Whom a real NATS server lets in when it asks the daemon."""

from __future__ import annotations

import base64
import binascii
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import nats
import pytest
from nacl.public import Box, PrivateKey, PublicKey

from orvalho.contexts import trust
from orvalho.contexts.identity import Signer
from orvalho.contexts.nkeys import curve_nkey, parse_curve_nkey, user_nkey
from orvalho.contexts.trust import TrustBook, open_trust_book
from orvalho.daemon.nats_callout import SUBJECT, Callout
from orvalho.daemon.nats_config import FILE, NatsConfigFile, NatsSettings
from orvalho.daemon.nats_jwt import CalloutKeys
from orvalho.errors import Unavailable, Untrusted
from orvalho.store import open_store
from orvalho.transports.nats import NatsTransport
from orvalho.transports.nats_bucket import NatsBucket
from orvalho.transports.nats_stream import NatsCarrier
from tests.daemon.test_nats_config import (
    HOME,
    PHONE,
    STRANGER,
    TABLET,
    answers,
    echo,
    note_refusals,
    peer,
    until,
)
from tests.transports.nats_server import NatsServer, free_port

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def asking(top: Path) -> AsyncIterator[tuple[NatsServer, TrustBook, Callout]]:
    """A server that asks, and what answers it, with the phone in the book."""
    async with open_store(top / "db", (trust.MIGRATIONS,)) as store:
        book = await open_trust_book(store)
        await book.add(peer("phone2", PHONE))
        file = NatsConfigFile(top, "home", HOME.key, book)
        port = free_port()
        url = f"nats://127.0.0.1:{port}"
        settings = NatsSettings(out=str(top / "out"), listen=f"127.0.0.1:{port}", callout=url)
        await file.use(settings)
        server = NatsServer(top, port=port, file=top / "out" / FILE)
        keys = (await file.secrets()).keys
        callout = Callout(url, keys, file.users, "orvalho", lambda _: None)
        book.watch(callout.changed)
        with server:
            yield server, book, callout


@asynccontextmanager
async def answering(callout: Callout) -> AsyncIterator[None]:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(callout.run)
        yield
        tasks.cancel_scope.cancel()


async def test_the_paired_are_let_in_strangers_are_not_and_the_forgotten_are_dropped(
    tmp_path: Path,
) -> None:
    async with (
        asking(tmp_path) as (server, book, callout),
        answering(callout),
        NatsTransport(HOME).listen(server.url, echo) as listener,
    ):
        links = []

        async def dial() -> None:
            links.append(await NatsTransport(PHONE).dial(listener.address))

        await until(dial)
        phone = links[0]
        await answers(phone)
        for stranger in (STRANGER, TABLET):
            with pytest.raises(Unavailable, match="refuses this node"):
                await NatsTransport(stranger).dial(listener.address)
        # when the tablet is paired, it comes in, and nobody has noticed
        await book.add(peer("tablet", TABLET))
        tablet = await NatsTransport(TABLET).dial(listener.address)
        await answers(tablet)
        await answers(phone)
        # when the phone is forgotten, it is dropped, and stays out
        await book.remove("phone2")
        with anyio.fail_after(30), pytest.raises(Unavailable):
            await phone.receive()
        with pytest.raises(Unavailable, match="refuses this node"):
            await NatsTransport(PHONE).dial(listener.address)
        await answers(tablet)
        assert callout.counters["callout.dropped"] >= 1
        await phone.aclose()
        await tablet.aclose()


async def test_while_the_daemon_is_off_nobody_new_comes_in_and_who_is_in_stays(
    tmp_path: Path,
) -> None:
    async with (
        asking(tmp_path) as (server, _book, callout),
        NatsTransport(HOME).listen(server.url, echo) as listener,
    ):
        async with answering(callout):
            links = []

            async def dial() -> None:
                links.append(await NatsTransport(PHONE).dial(listener.address))

            await until(dial)
        with pytest.raises(Unavailable):
            await NatsTransport(PHONE).dial(listener.address)
        await answers(links[0])
        async with answering(callout):
            await until(dial)
        for link in links:
            await link.aclose()


async def test_what_is_admitted_has_the_rights_of_its_own_messages_alone(tmp_path: Path) -> None:
    async with asking(tmp_path) as (server, _book, callout), answering(callout):
        spy = NatsTransport(PHONE).server(server.url)
        home = user_nkey(HOME.key)
        async with spy.used():
            await until(spy.client)
            client = await spy.client()
            refused: list[str] = []
            note_refusals(client, refused)

            async def hear(_: object) -> None: ...

            for subject in (f"orvalho.link.{home}.*", ">", "$SYS.>", SUBJECT, f"_INBOX_{home}.>"):
                await client.subscribe(subject, cb=hear)
            for subject in (
                "$JS.API.STREAM.DELETE.orvalho",
                "$JS.API.STREAM.CREATE.x",
                f"$KV.orvalho-nodes.{home}",
                SUBJECT,
            ):
                await client.publish(subject, b"{}")
            await client.flush()
            with anyio.move_on_after(30):
                while len(refused) < 9:
                    await anyio.sleep(0.01)
            assert len(refused) == 9, refused


async def test_a_signature_that_was_overheard_and_another_name_beside_let_nobody_in(
    tmp_path: Path,
) -> None:
    async with asking(tmp_path) as (server, _book, callout), answering(callout):
        async with NatsTransport(HOME).listen(server.url, echo) as listener:
            await until(lambda: NatsTransport(PHONE).dial(listener.address))
        older = base64.b64encode(PHONE.sign_raw(b"older")).decode()
        assert b"PONG" in b"".join(await logging_in(server, {}))
        for changed in ({"sig": older}, {"user": "x"}):
            lines = await logging_in(server, changed)
            assert any(b"-ERR" in line for line in lines), lines


async def logging_in(server: NatsServer, changed: dict[str, str]) -> list[bytes]:
    """Log in as the phone by hand, with something else in it than there should be."""
    async with await anyio.connect_tcp("127.0.0.1", server.port) as stream:
        told = await stream.receive()
        nonce = json.loads(told.partition(b"INFO ")[2].partition(b"\r\n")[0])["nonce"]
        signed = base64.b64encode(PHONE.sign_raw(nonce.encode())).decode()
        login = {"nkey": user_nkey(PHONE.key), "sig": signed, "verbose": False, "protocol": 1}
        content = json.dumps(login | changed).encode()
        await stream.send(b"CONNECT " + content + b"\r\nPING\r\n")
        found = []
        with anyio.move_on_after(10):
            try:
                while b"PONG" not in b"".join(found):
                    found.append(await stream.receive())
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                pass
        return found


def token(signer: Signer, claims: dict[str, object], algorithm: str = "ed25519-nkey") -> bytes:
    parts = [{"typ": "JWT", "alg": algorithm}, claims]
    packed = [base64.urlsafe_b64encode(json.dumps(each).encode()).rstrip(b"=") for each in parts]
    signed = b".".join(packed)
    return signed + b"." + base64.urlsafe_b64encode(signer.sign_raw(signed)).rstrip(b"=")


def test_ten_thousand_malformed_questions_raise_untrusted_and_nothing_else() -> None:
    keys = CalloutKeys(bytes(32))
    server = PrivateKey(bytes([5]) * 32)
    sealed_by = curve_nkey(bytes(server.public_key))
    box = Box(server, PublicKey(parse_curve_nkey(keys.curve)))
    draw = random.Random(11)
    good = token(Signer(bytes([6]) * 32), {"iss": "x", "aud": "y", "nats": {}})
    for number in range(10_000):
        inside = bytearray(good) if number % 2 else draw.randbytes(draw.randrange(200))
        if number % 2:
            inside[draw.randrange(len(inside))] = draw.randrange(256)
        content = b"xkv1" + bytes(box.encrypt(bytes(inside)))
        if number % 5 == 0:
            content = draw.randbytes(draw.randrange(100))
        with pytest.raises(Untrusted):
            keys.read(content, sealed_by if number % 7 else draw.choice(["", "X", keys.account]))


def test_a_token_of_the_wrong_kind_or_by_another_is_no_question() -> None:
    keys = CalloutKeys(bytes(32))
    signer, other = Signer(bytes([6]) * 32), Signer(bytes([7]) * 32)
    server = PrivateKey(bytes([5]) * 32)
    box = Box(server, PublicKey(parse_curve_nkey(keys.curve)))
    name = server_nkey(signer)
    asked = {
        "server_id": {"id": name},
        "user_nkey": user_nkey(other.key),
        "client_info": {"nonce": "n"},
        "connect_opts": {"nkey": user_nkey(other.key), "sig": ""},
    }
    claims: dict[str, object] = {"iss": name, "aud": "nats-authorization-request", "nats": asked}

    def read(inside: bytes) -> object:
        return keys.read(b"xkv1" + bytes(box.encrypt(inside)), curve_nkey(bytes(server.public_key)))

    assert read(token(signer, claims))
    for wrong in (
        token(other, claims),
        token(signer, claims, "none"),
        token(signer, claims | {"aud": "x"}),
        token(signer, claims | {"iss": server_nkey(other)}),
        token(other, claims | {"iss": server_nkey(other)}),
    ):
        with pytest.raises(Untrusted):
            read(wrong)
    with pytest.raises(Untrusted):
        keys.read(token(signer, claims), curve_nkey(bytes(server.public_key)))


def server_nkey(signer: Signer) -> str:
    raw = bytes([13 << 3]) + signer.key
    checked = raw + binascii.crc_hqx(raw, 0).to_bytes(2, "little")
    return base64.b32encode(checked).decode().rstrip("=")


async def test_records_are_for_the_owners_nodes_and_not_for_guests(tmp_path: Path) -> None:
    async with asking(tmp_path) as (server, book, callout), answering(callout):
        await book.add(peer("tablet", TABLET, "guest"))
        home, phone, guest = (
            NatsTransport(each).server(server.url) for each in (HOME, PHONE, TABLET)
        )
        heard: list[bytes] = []
        async with home.used(), phone.used(), guest.used():
            for each in (home, phone, guest):
                await until(each.client)
            own, theirs = NatsBucket(home), NatsBucket(phone)
            async with (
                own.joined(lambda *_: None),
                theirs.joined(lambda _, value: heard.append(value)),
            ):
                assert await theirs.get(HOME.key) is None
                await own.put(b"where I am")
                assert await theirs.get(HOME.key) == b"where I am"
                with anyio.fail_after(30):
                    while heard != [b"where I am"]:
                        await anyio.sleep(0.01)
            client = await guest.client()
            refused: list[str] = []
            note_refusals(client, refused)
            with pytest.raises((nats.errors.TimeoutError, nats.errors.NoRespondersError)):
                await client.request(
                    f"$JS.API.DIRECT.GET.KV_orvalho-nodes.$KV.orvalho-nodes.{own._server.nkey}",
                    timeout=1,
                )
            assert refused


async def test_a_guest_cannot_have_the_server_say_what_it_may_not_say_itself(
    tmp_path: Path,
) -> None:
    """JetStream sends what it is asked for wherever the asker wants, past the asker's rights."""
    async with asking(tmp_path) as (server, book, callout), answering(callout):
        await book.add(peer("tablet", TABLET, "guest"))
        home, guest = (NatsTransport(each).server(server.url) for each in (HOME, TABLET))
        carrier = NatsCarrier(home, "orvalho")
        async with home.used(), guest.used(), anyio.create_task_group() as tasks:
            await until(guest.client)
            tasks.start_soon(carrier.collect, lambda *_: None)
            await until(lambda: carrier.deposit(PHONE.key, b"1", b"{}", 0.0))
            client, nkey = await guest.client(), user_nkey(TABLET.key)
            refused: list[str] = []
            note_refusals(client, refused)
            for verb in ("DELETE", "PURGE"):
                there = f"$JS.API.STREAM.{verb}.orvalho"
                asks = f"$JS.API.CONSUMER.MSG.NEXT.orvalho.{nkey}"
                await client.publish(asks, b'{"batch":1,"no_wait":true}', there)
                # The acknowledgement of mail, which reads as a request to purge what is older.
                await client.publish(f"orvalho.mail.{nkey}", b"{}", there)
                await client.publish(f"orvalho.mail.{nkey}", b"{}", there)
            await client.flush()
            with anyio.fail_after(30):
                while len(refused) < 2:
                    await anyio.sleep(0.01)
            asked = await (await home.client()).request("$JS.API.STREAM.INFO.orvalho", timeout=10)
            state = json.loads(asked.data)["state"]
            assert state["first_seq"] == 1 and state["messages"] == 5
            tasks.cancel_scope.cancel()
