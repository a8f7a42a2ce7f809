"""Catching up after an outage: mail that waited in an outbox, and mail that a third node kept."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import uvloop

from bench.table import Row
from orvalho.contexts.identity import Key, Signer, certify, check_certificate
from orvalho.peers.envelope import Envelope
from orvalho.peers.keeping import DepotTerms
from orvalho.peers.node import MIGRATIONS, Node, NodeConfig
from orvalho.peers.opening import open_node
from orvalho.peers.tally import Quota
from orvalho.store import open_store

_COUNT = 10_000
_BODY_BYTES = 256
_LIMIT_S = 300.0
_PLENTY = Quota(count=2 * _COUNT, bytes=1 << 30)


def measure() -> Iterator[Row]:
    for what, work in (
        ("10,000 queued envelopes, from the outbox", _direct),
        ("10,000 queued envelopes, left with a third node", _hand_in),
        ("10,000 queued envelopes, from there", _collect),
    ):
        directory = Path(tempfile.mkdtemp(prefix="orvalho-bench-"))
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                taken_s = runner.run(work(directory))
        finally:
            shutil.rmtree(directory)
        yield Row(what, f"{_COUNT / taken_s:,.0f}/s", "all nodes in one process", "", "1,000/s")


@dataclass
class _Device:
    """A node that knows others by their keys, and counts what it handles."""

    name: str
    top: Path
    known: dict[Key, tuple[str, ...]] = field(default_factory=dict)
    handled: Counter[bytes] = field(default_factory=Counter)
    is_done: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def signer(self) -> Signer:
        return Signer(self.name.encode().ljust(32))

    @asynccontextmanager
    async def awake(self) -> AsyncIterator[Node]:
        signer = self.signer
        (self.top / self.name).mkdir(exist_ok=True)
        async with open_store(self.top / self.name / "db", MIGRATIONS) as store:
            config = NodeConfig(
                name=self.name,
                signer=signer,
                noise_static=signer.sign(b"bench", b"noise")[:32],
                owner_key=signer.key,
                certificate=certify(signer, "node", self.name, signer.key, 0.0),
                listen=("ws://127.0.0.1:0",),
                advertise=lambda addresses: addresses,
                store=store,
                blobs=self.top / self.name / "blobs",
                book=_Book(self.known),
                check_certificate=_certificate,
                on_greeting=_ignore,
                on_paired=_ignore,
                on_undelivered=lambda *_: None,
                quota=_PLENTY,
                depot=DepotTerms(
                    keeps_for=lambda _: True,
                    kept_by=lambda _: True,
                    quota=lambda: _PLENTY,
                    after_s=0.0,
                ),
            )
            async with open_node(config) as node:
                node.handle("note", self._handle)
                yield node

    async def _handle(self, envelope: Envelope, _: object) -> None:
        self.handled[envelope.body] += 1
        if len(self.handled) == _COUNT:
            self.is_done.set()

    async def all_handled(self) -> None:
        """Raises:
        AssertionError: one was handled twice.
        """
        async with asyncio.timeout(_LIMIT_S):
            await self.is_done.wait()
        assert set(self.handled.values()) == {1}, "exactly once"


@dataclass
class _Book:
    known: dict[Key, tuple[str, ...]]

    def peers(self) -> set[Key]:
        return set(self.known)

    def addresses(self, key: Key) -> tuple[str, ...]:
        return self.known[key]

    def name(self, key: Key) -> str | None:
        return None


def _certificate(certificate: bytes, owner: Key) -> tuple[str, Key]:
    checked = check_certificate(certificate, owner, "node")
    return checked.name, Key(checked.key)


async def _ignore(*_: Any) -> None:
    """Nobody needs to know."""


async def _queue(node: Node, to: Key) -> None:
    """Put the mail into the outbox, in one transaction."""
    expires_at = time.time() + 3600

    def work(connection: Any) -> None:
        for _ in range(_COUNT):
            node.stage(connection, to, "note", os.urandom(_BODY_BYTES), expires_at=expires_at)

    await node._store.transact("bench.queue", work)


async def _direct(top: Path) -> float:
    laptop, phone = _Device("laptop", top), _Device("phone", top)
    laptop.known[phone.signer.key] = ()
    async with laptop.awake() as node:
        await _queue(node, phone.signer.key)
        phone.known[laptop.signer.key] = node.addresses
        start = time.perf_counter()
        async with phone.awake():
            await phone.all_handled()
            return time.perf_counter() - start


async def _hand_in(top: Path) -> float:
    return (await _kept(top))[0]


async def _collect(top: Path) -> float:
    return (await _kept(top))[1]


async def _kept(top: Path) -> tuple[float, float]:
    """How long it took to leave the mail with the server, and then to collect it there."""
    laptop, server, phone = (_Device(name, top) for name in ("laptop", "server", "phone"))
    key = phone.signer.key
    laptop.known = {server.signer.key: (), key: ()}
    phone.known = {server.signer.key: (), laptop.signer.key: ()}
    server.known = {laptop.signer.key: (), key: ()}
    async with server.awake() as keeper:
        laptop.known[server.signer.key] = phone.known[server.signer.key] = keeper.addresses
        async with laptop.awake() as node:
            await _queue(node, key)
            start = time.perf_counter()
            node.flush(key)
            with_whom = partial(node.depots.depositor.with_whom, key)
            async with asyncio.timeout(_LIMIT_S):
                while sum((await with_whom()).values()) < _COUNT:  # noqa: ASYNC110 -- it is polled
                    await asyncio.sleep(0.02)
            deposited_s = time.perf_counter() - start
        start = time.perf_counter()
        async with phone.awake():
            await phone.all_handled()
            return deposited_s, time.perf_counter() - start
