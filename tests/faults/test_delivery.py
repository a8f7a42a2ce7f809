"""Mail over a network that loses, repeats, delays, reorders and cuts: each envelope is handled
exactly once, and each sender learns of it."""

from __future__ import annotations

import os
import sqlite3
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio
import pytest

from orvalho.peers.desk import Delivery
from orvalho.peers.envelope import Envelope, EnvelopeId
from orvalho.peers.sending import Outcome
from orvalho.transports.catalog import Catalog
from orvalho.transports.memory import Faults, MemoryNetwork
from tests.peers.world import Person, until

pytestmark = pytest.mark.anyio

COUNT = 60
SCRIPTS = {
    "delay": Faults(delay_s=0.01),
    "drop": Faults(drop=0.05),
    "repeat": Faults(repeat=0.1),
    "reorder": Faults(reorder=0.05),
    "cut": Faults(cut=0.05),
    "all": Faults(delay_s=0.002, drop=0.02, repeat=0.02, reorder=0.02, cut=0.02),
}


class Counting(Person):
    """Counts what it handles in its own database, in the transaction that marks it as done."""

    async def count(self, envelope: Envelope, delivery: Delivery) -> None:
        def work(connection: sqlite3.Connection) -> None:
            connection.execute("CREATE TABLE IF NOT EXISTS counted (body BLOB)")
            connection.execute("INSERT INTO counted VALUES (?)", (envelope.body,))
            delivery.done(connection)

        await self.store.transact("note.count", work)

    async def counted(self) -> Counter[bytes]:
        def work(connection: sqlite3.Connection) -> list[bytes]:
            connection.execute("CREATE TABLE IF NOT EXISTS counted (body BLOB)")
            return [row[0] for row in connection.execute("SELECT body FROM counted")]

        return Counter(await self.store.transact("note.read", work))


def pair(directory: Path) -> tuple[Counting, Counting]:
    a, b = Counting("a", directory), Counting("b", directory)
    a.knows(b, "memory://b")
    b.knows(a, "memory://a")
    return a, b


async def wake(stack: AsyncExitStack, person: Counting, network: MemoryNetwork) -> None:
    catalog = Catalog({"memory": network})
    node = await stack.enter_async_context(person.awake(f"memory://{person.name}", catalog=catalog))
    node.handle("note", person.count)


async def settled(person: Counting, ids: list[EnvelopeId]) -> None:
    """Wait until all that it sent is known to have arrived."""
    with anyio.fail_after(30):
        for id_ in ids:
            assert await person.node.delivered(id_) is Outcome.DELIVERED


def bodies(mark: bytes, count: int = COUNT) -> list[bytes]:
    return [mark + b"%d" % n for n in range(count)]


async def exactly_once(person: Counting, expected: list[bytes]) -> None:
    with anyio.fail_after(20):
        while (counted := await person.counted()).total() < len(expected):
            await anyio.sleep(0.02)
    assert counted == Counter(expected)


@pytest.mark.parametrize("script", SCRIPTS)
async def test_each_envelope_is_handled_once_under(script: str, tmp_path: Path) -> None:
    network = MemoryNetwork(SCRIPTS[script], seed=7)
    a, b = pair(tmp_path)
    async with AsyncExitStack() as stack:
        await wake(stack, a, network)
        await wake(stack, b, network)
        sent: dict[str, list[EnvelopeId]] = {"a": [], "b": []}
        for mine, yours in zip(bodies(b"a"), bodies(b"b"), strict=True):
            sent["a"].append(await a.post(b, mine))
            sent["b"].append(await b.post(a, yours))
        await settled(a, sent["a"])
        await settled(b, sent["b"])
        await exactly_once(b, bodies(b"a"))
        await exactly_once(a, bodies(b"b"))


async def test_large_bodies_arrive_once_although_every_link_is_cut(tmp_path: Path) -> None:
    network = MemoryNetwork(Faults(cut=0.03, delay_s=0.001), seed=3)
    a, b = pair(tmp_path)
    large = [os.urandom(size) for size in (100_000, 1_500_000, 3_000_000)]
    async with AsyncExitStack() as stack:
        await wake(stack, a, network)
        await wake(stack, b, network)
        ids = [await a.post(b, body) for body in large]
        await settled(a, ids)
        await exactly_once(b, large)


async def test_a_partition_holds_mail_back_and_loses_none(tmp_path: Path) -> None:
    network = MemoryNetwork()
    a, b = pair(tmp_path)
    async with AsyncExitStack() as stack:
        await wake(stack, a, network)
        await wake(stack, b, network)
        await until(lambda: a.node.is_online(b.key))
        for name in ("memory://a", "memory://b"):
            network.part(name)
        await until(lambda: not a.node.is_online(b.key) and not b.node.is_online(a.key))
        ids = [await a.post(b, body) for body in bodies(b"a")]
        assert await a.node.queued(b.key) == COUNT
        assert await b.counted() == Counter()
        network.heal()
        await settled(a, ids)
        await exactly_once(b, bodies(b"a"))


async def test_a_far_side_that_hangs_is_noticed(tmp_path: Path) -> None:
    network = MemoryNetwork()
    a, b = pair(tmp_path)
    async with AsyncExitStack() as stack:
        await wake(stack, a, network)
        await wake(stack, b, network)
        await until(lambda: a.node.is_online(b.key))
        network.freeze()
        started = anyio.current_time()
        await until(lambda: not a.node.is_online(b.key))
        # dead_after_s and half a ping_s of the quick timings, and the machine's mood
        assert anyio.current_time() - started < 1.0
        silent = [each.node.statistics().get("links.silent", 0) for each in (a, b)]
        assert sum(silent) >= 1


@pytest.mark.parametrize("sleeper", ["a", "b"])
async def test_a_restart_of_either_side_in_between(sleeper: str, tmp_path: Path) -> None:
    network = MemoryNetwork(Faults(delay_s=0.002), seed=1)
    people: dict[str, Counting] = dict(zip("ab", pair(tmp_path), strict=True))
    a, b = people["a"], people["b"]
    other = b if sleeper == "a" else a
    expected: list[bytes] = []
    ids: list[EnvelopeId] = []
    async with AsyncExitStack() as stack:
        await wake(stack, other, network)
        for turn in range(3):
            async with AsyncExitStack() as nap:
                await wake(nap, people[sleeper], network)
                batch = bodies(b"%d-" % turn, 40)
                expected += batch
                async with anyio.create_task_group() as tasks:
                    for body in batch:
                        tasks.start_soon(_post, a, b, body, ids)
                # Not waiting for anything: the store and the links close on mail under way.
        async with AsyncExitStack() as nap:
            await wake(nap, people[sleeper], network)
            await exactly_once(b, expected)
            with anyio.fail_after(10):
                while await a.node.queued(b.key):
                    await anyio.sleep(0.02)


async def _post(a: Counting, b: Counting, body: bytes, ids: list[Any]) -> None:
    ids.append(await a.post(b, body))
