"""A third node keeps sealed mail for one that is off: it arrives once, and the keeper reads
nothing of it."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from orvalho.peers.envelope import INLINE_BYTES
from orvalho.peers.keeping import DepotTerms
from orvalho.peers.sending import Outcome
from orvalho.transports.catalog import Catalog
from orvalho.transports.memory import MemoryNetwork
from tests.peers.world import Person, until

pytestmark = pytest.mark.anyio

OPEN = DepotTerms(keeps_for=lambda _: True, kept_by=lambda _: True, after_s=0.05)
LIMIT_S = 30.0


class World:
    """Laptop, server and phone on one memory network. The laptop and the phone meet only if
    somebody says so: each knows no address of the other."""

    def __init__(self, directory: Path) -> None:
        self.network = MemoryNetwork()
        self.catalog = Catalog({"memory": self.network})
        self.laptop = Person("laptop", directory)
        self.server = Person("server", directory)
        self.phone = Person("phone", directory)
        for person in (self.laptop, self.phone):
            person.knows(self.server, "memory://server")
            self.server.knows(person)
        self.laptop.knows(self.phone)
        self.phone.knows(self.laptop)

    @asynccontextmanager
    async def awake(self, *people: Person, **options: Any) -> AsyncIterator[None]:
        settings: dict[str, Any] = {"depot": OPEN, **options}
        async with AsyncExitStack() as stack:
            for person in people:
                await stack.enter_async_context(
                    person.awake(f"memory://{person.name}", catalog=self.catalog, **settings)
                )
                person.node.handle("note", person.keep)
            yield

    async def deposited(self, count: int = 1) -> None:
        """Wait until so much mail of the laptop's lies at the server, and nothing is under way."""
        await eventually(
            self.laptop.node.depots.depositor.with_whom, self.phone.key, {self.server.key: count}
        )


async def eventually(call: Any, argument: Any, expected: Any) -> None:
    seen: list[Any] = []

    async def look() -> None:
        seen.append(await call(argument))

    deadline = time.monotonic() + LIMIT_S
    while not seen or seen[-1] != expected:
        assert time.monotonic() < deadline, seen[-1:]
        await look()


async def lies_at(person: Person) -> int:
    return sum(pile.count for pile in await person.node.depots.keeper.piles())


@pytest.mark.parametrize("size_bytes", [0, 100, INLINE_BYTES, INLINE_BYTES + 1, 3_000_000])
async def test_mail_reaches_a_node_that_never_meets_its_sender(
    tmp_path: Path, size_bytes: int
) -> None:
    world = World(tmp_path)
    laptop, server, phone = world.laptop, world.server, world.phone
    body = os.urandom(size_bytes)
    # given a phone that is off: its mail is left with the server, and then the laptop goes
    async with world.awake(server):
        async with world.awake(laptop):
            id_ = await laptop.post(phone, body)
            await world.deposited()
            assert await laptop.node.queued(phone.key) == 1
            assert await laptop.node.depots.depositor.keeper_of(id_) == server.key
        assert await lies_at(server) == 1
        # when the phone wakes
        async with world.awake(phone):
            await until(lambda: phone.handled, LIMIT_S)
            # The word that it was taken goes to the server too, for the laptop.
            await until(lambda: server.node.statistics().get("depot.kept") == 2, LIMIT_S)
            await eventually(lies_at, server, 1)
            await eventually(phone.node.queued, laptop.key, 0)
        # then it has the mail once, and the laptop learns of it when it returns, the phone gone
        assert phone.handled == [body]
        async with world.awake(laptop):
            assert await laptop.node.delivered(id_) is Outcome.DELIVERED
            await eventually(laptop.node.queued, phone.key, 0)
            await eventually(lies_at, server, 0)
            assert await laptop.node.depots.depositor.with_whom(phone.key) == {}
    assert laptop.undelivered == []
    left = [p for who in (laptop, server, phone) for p in (who.directory / "blobs").rglob("*-*")]
    assert left == []
