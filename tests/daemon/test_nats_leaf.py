"""A NATS server that leans on another: both as the daemon configures them, both real."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import anyio
import nats
import pytest
from msgspec.structs import replace as changed
from nats.aio.msg import Msg

from orvalho.contexts import trust
from orvalho.contexts.identity import Signer
from orvalho.contexts.nkeys import user_nkey
from orvalho.contexts.trust import TrustBook, open_trust_book
from orvalho.daemon.nats_callout import Callout
from orvalho.daemon.nats_config import FILE, LEAF_USER, NatsConfigFile, NatsSettings
from orvalho.errors import Unavailable
from orvalho.store import open_store
from orvalho.transports.link import Link
from orvalho.transports.nats import NatsTransport
from tests.daemon.test_nats_callout import answering
from tests.daemon.test_nats_config import (
    HOME,
    PHONE,
    STRANGER,
    TABLET,
    answers,
    echo,
    peer,
    until,
)
from tests.transports.nats_server import NatsServer, free_port

pytestmark = pytest.mark.anyio
NAMES = {HOME.key: "home", PHONE.key: "phone2", TABLET.key: "tablet", STRANGER.key: "stranger"}


@asynccontextmanager
async def configured(
    top: Path, own: Signer, others: tuple[Signer, ...], settings: NatsSettings
) -> AsyncIterator[tuple[NatsConfigFile, TrustBook]]:
    top.mkdir()  # noqa: ASYNC240 -- once, before anything runs
    async with open_store(top / "db", (trust.MIGRATIONS,)) as store:
        book = await open_trust_book(store)
        for other in others:
            await book.add(peer(NAMES[other.key], other))
        file = NatsConfigFile(top, NAMES[own.key], own.key, book)
        await file.use(changed(settings, out=str(top / "out")))
        yield file, book


@asynccontextmanager
async def hub_and_leaf(
    top: Path, *, callout: bool = False
) -> AsyncIterator[tuple[NatsServer, NatsServer, NatsConfigFile, TrustBook]]:
    """The hub is home's, the leaf the tablet's. The hub lets in home, phone and tablet; the leaf
    lets in tablet, home and a stranger to the hub."""
    ports = free_port(), free_port(), free_port()
    url = f"nats://127.0.0.1:{ports[0]}"
    hub = NatsSettings(
        out="",
        listen=f"127.0.0.1:{ports[0]}",
        leaf_hub=f"127.0.0.1:{ports[1]}",
        callout=url if callout else None,
    )
    async with AsyncExitStack() as stack:
        file, book = await stack.enter_async_context(
            configured(top / "hub", HOME, (PHONE, TABLET), hub)
        )
        password = (await file.secrets()).leaf_password
        leaf = NatsSettings(
            out="",
            listen=f"127.0.0.1:{ports[2]}",
            leaf=f"nats-leaf://{LEAF_USER}:{password}@127.0.0.1:{ports[1]}",
        )
        await stack.enter_async_context(configured(top / "leaf", TABLET, (HOME, STRANGER), leaf))
        servers = [
            NatsServer(top / name, port=port, file=top / name / "out" / FILE)
            for name, port in (("hub", ports[0]), ("leaf", ports[2]))
        ]
        if callout:
            answer = Callout(
                url, (await file.secrets()).keys, file.users, "orvalho", lambda _: None
            )
            book.watch(answer.changed)
            await stack.enter_async_context(answering(answer))
        for server in servers:
            stack.enter_context(server)
        yield servers[0], servers[1], file, book


@pytest.mark.parametrize("callout", [False, True])
async def test_nodes_on_hub_and_leaf_talk_and_rights_hold_across(
    tmp_path: Path, callout: bool
) -> None:
    # A node has one connection to a server.
    tablet = NatsTransport(TABLET)
    async with (
        hub_and_leaf(tmp_path, callout=callout) as (hub, leaf, _file, _book),
        NatsTransport(HOME).listen(hub.url, echo),
        tablet.listen(leaf.url, echo),
    ):
        links: list[Link] = []

        async def dial(by: NatsTransport, server: NatsServer, to: Signer) -> None:
            links.append(await by.dial(f"{server.url}/{user_nkey(to.key)}"))

        # from the leaf to the hub, and from the hub to the leaf
        await until(lambda: dial(tablet, leaf, HOME))
        await until(lambda: dial(NatsTransport(PHONE), hub, TABLET))
        for link in links:
            await answers(link)
            await link.aclose()


async def test_a_leaf_passes_on_links_and_mail_and_nothing_else(tmp_path: Path) -> None:
    """A server that leans on ours and lets its own clients do anything."""
    async with hub_and_leaf(tmp_path) as (hub, leaf, file, _book):
        password = (await file.secrets()).leaf_password
        place = hub.url.replace("//", f"//{LEAF_USER}:{password}@")
        with pytest.raises(Unavailable, match="refuses this node as user"):
            await NatsTransport().dial(f"{place}/{user_nkey(HOME.key)}")
        (tmp_path / "bad").mkdir()
        assert leaf.file is not None
        remote = re.search(r"leafnodes .*", leaf.file.read_text())
        assert remote is not None
        with NatsServer(tmp_path / "bad", remote[0]) as bad:
            spy = await nats.connect(bad.url, allow_reconnect=False)
            own, heard = user_nkey(HOME.key), list[str]()

            async def hear(message: Msg) -> None:
                heard.append(message.subject)

            await spy.subscribe(">", cb=hear)
            home = NatsTransport(HOME).server(hub.url)
            noted: list[str] = []
            async with home.used():
                await until(home.client)
                client = await home.client()

                async def note(message: Msg) -> None:
                    noted.append(message.subject)

                for subject in (f"orvalho.link.{own}.*", f"_INBOX_{own}.>", "$KV.orvalho-nodes.*"):
                    await client.subscribe(subject, cb=note)
                await client.flush()
                with anyio.fail_after(30):
                    # Until the leaf is there, and what was said last has come both ways.
                    while f"orvalho.link.{own}.x" not in noted or "orvalho.mail.x" not in heard:
                        for subject in (
                            f"_INBOX_{own}.x",
                            f"$KV.orvalho-nodes.{own}",
                            "$JS.API.STREAM.DELETE.orvalho",
                            f"orvalho.link.{own}.x",
                        ):
                            await spy.publish(subject, b"")
                        await spy.flush()
                        for subject in (f"$KV.orvalho-nodes.{own}", "orvalho.mail.x"):
                            await client.publish(subject, b"")
                        await client.flush()
                        await anyio.sleep(0.05)
            await spy.close()
            assert set(noted) - {f"$KV.orvalho-nodes.{own}"} == {f"orvalho.link.{own}.x"}
            assert "orvalho.mail.x" in heard
            assert not [each for each in heard if each.startswith("$JS.ACK")]


async def test_a_leaf_with_a_wrong_password_is_not_let_in(tmp_path: Path) -> None:
    ports = free_port(), free_port(), free_port()
    hub = NatsSettings(out="", listen=f"127.0.0.1:{ports[0]}", leaf_hub=f"127.0.0.1:{ports[1]}")
    leaf = NatsSettings(
        out="",
        listen=f"127.0.0.1:{ports[2]}",
        leaf=f"nats-leaf://{LEAF_USER}:guess@127.0.0.1:{ports[1]}",
    )
    async with (
        configured(tmp_path / "hub", HOME, (TABLET,), hub),
        configured(tmp_path / "leaf", TABLET, (HOME,), leaf),
    ):
        servers = [
            NatsServer(tmp_path / name, port=port, file=tmp_path / name / "out" / FILE)
            for name, port in (("hub", ports[0]), ("leaf", ports[2]))
        ]
        with servers[0], servers[1]:
            log = tmp_path / "leaf" / "nats.log"
            with anyio.fail_after(30):
                while "Authorization Violation" not in log.read_text():
                    await asyncio.sleep(0.05)
