"""Real nodes on real stores, for the tests of this room and of the faults."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio

from orvalho.contexts.identity import Key, Signer, certify, check_certificate
from orvalho.peers.envelope import Envelope
from orvalho.peers.frames import Hello
from orvalho.peers.links import Timings
from orvalho.peers.node import MIGRATIONS, Node
from orvalho.peers.node_config import NodeConfig
from orvalho.peers.opening import open_node
from orvalho.peers.pairing import Paired
from orvalho.peers.sending import Undelivered
from orvalho.store import Store, open_store
from orvalho.transports.catalog import Catalog

# A network in one process answers at once: nothing needs the patience of a real one.
QUICK = Timings(
    handshake_s=0.5,
    ping_s=0.05,
    dead_after_s=0.2,
    redial_first_s=0.01,
    redial_limit_s=0.1,
    patience_s=0.5,
    stagger_s=0.1,
    spare_after_s=0.02,
)


def check(certificate: bytes, owner: Key) -> tuple[str, Key]:
    checked = check_certificate(certificate, owner, "node")
    return checked.name, Key(checked.key)


@dataclass
class Book:
    """A trust book of addresses alone."""

    known: dict[Key, tuple[str, ...]] = field(default_factory=dict)
    names: dict[Key, str] = field(default_factory=dict)

    def peers(self) -> set[Key]:
        return set(self.known)

    def addresses(self, key: Key) -> tuple[str, ...]:
        return self.known[key]

    def name(self, key: Key) -> str | None:
        return self.names.get(key)


class Person:
    """One node's keys and files, which outlive its runs, and what it has been told."""

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self.directory = directory / name
        self.directory.mkdir()
        self.owner = Signer(bytes([1]) + name.encode().ljust(31))
        self.signer = Signer(bytes([2]) + name.encode().ljust(31))
        self.book = Book()
        self.greetings: list[tuple[Key, Hello]] = []
        self.paired: list[Paired] = []
        self.undelivered: list[Undelivered] = []
        self.handled: list[bytes] = []
        self.node: Node
        self.store: Store

    @property
    def key(self) -> Key:
        return self.signer.key

    def knows(self, other: Person, *addresses: str) -> None:
        self.book.known[other.key] = addresses
        self.book.names[other.key] = other.name

    @asynccontextmanager
    async def awake(
        self, *listen: str, catalog: Catalog | None = None, **options: Any
    ) -> AsyncIterator[Node]:
        """The node runs, for the length of the block."""
        settings: dict[str, Any] = {
            "timings": QUICK,
            "resend_after_s": 0.2,
            "sweep_s": 0.05,
            "noise_static": self.signer.sign(b"test", b"noise")[:32],
            "certificate": certify(self.owner, "node", self.name, self.key, 0.0),
            "on_greeting": self._greeted,
            "on_paired": self._paired,
        }
        async with open_store(self.directory / "db", MIGRATIONS) as store:
            config = NodeConfig(
                name=self.name,
                signer=self.signer,
                owner_key=self.owner.key,
                listen=listen,
                advertise=lambda addresses: addresses,
                store=store,
                blobs=self.directory / "blobs",
                book=self.book,
                check_certificate=check,
                on_undelivered=lambda _, undelivered: self.undelivered.append(undelivered),
                catalog=catalog or Catalog(),
                **(settings | options),
            )
            async with open_node(config) as node:
                self.node, self.store = node, store
                yield node

    async def keep(self, envelope: Envelope, _: object) -> None:
        """A handler: remember the body."""
        self.handled.append(envelope.body)

    async def post(self, to: Person, body: bytes, lifetime_s: float = 60.0) -> Any:
        return await self.node.post(to.key, "note", body, expires_at=time.time() + lifetime_s)

    async def _greeted(self, key: Key, hello: Hello) -> None:
        self.greetings.append((key, hello))

    async def _paired(self, paired: Paired) -> bool:
        self.paired.append(paired)
        self.book.known[paired.node_key] = paired.addresses
        self.book.names[paired.node_key] = paired.name
        self.node.refresh()
        return True


async def until(condition: Callable[[], object], limit_s: float = 10.0) -> None:
    """Wait for something to become true."""
    with anyio.fail_after(limit_s):
        while not condition():
            await anyio.sleep(0.002)


@asynccontextmanager
async def linked(directory: Path, **options: Any) -> AsyncIterator[tuple[Person, Person]]:
    """Two nodes that know each other, over WebSocket on loopback; the first dials."""
    a, b = Person("a", directory), Person("b", directory)
    b.knows(a)
    async with b.awake("ws://127.0.0.1:0", **options) as listener:
        a.knows(b, *listener.addresses)
        async with a.awake(**options) as dialer:
            await until(lambda: dialer.is_online(b.key) and listener.is_online(a.key))
            yield a, b
