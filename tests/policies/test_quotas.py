"""Quotas: exact, not to be dodged by many runs at once, and remembered across a restart."""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import suppress

import anyio
import pytest
from anyio.lowlevel import checkpoint

from orvalho.errors import LimitExceeded, Unavailable
from orvalho.policies.quota import Limits, Usage
from orvalho.policies.quotas import Hold, Quotas, Spent, Terms

pytestmark = pytest.mark.anyio

LIMITS = Limits()
FOREVER = 1e12


class Node:
    """A clock and what was written down, around `Quotas`."""

    def __init__(self, *terms: Terms) -> None:
        self.now = 1_000_000.0
        self.written: list[Spent] = []
        self.quotas = Quotas(self.read, lambda: self.now)
        self.quotas.use(terms)

    async def read(self, at: float) -> tuple[int, list[Spent]]:
        await checkpoint()
        return len(self.written), [each for each in self.written if each.at >= at]

    async def admit(
        self, *groups: str, limits: Limits = LIMITS, until: float = FOREVER, subject: str = "n"
    ) -> Hold:
        return await self.quotas.admit(groups, subject, limits, until=until)

    def end(self, hold: Hold, cpu_ms: int = 0) -> None:
        hold.ended(Usage(cpu_ms=cpu_ms))
        spent = Spent(len(self.written) + 1, self.now, hold.cpu_ms, hold.network_bytes, hold.groups)
        self.written.append(spent)
        hold.settle(spent.seq, self.now)

    async def state(self, name: str) -> tuple[int, int, int, int, int]:
        found = next(each for each in await self.quotas.states() if each.terms.name == name)
        return (
            *(found.cpu_ms, found.network_bytes, found.memory_bytes),
            *(found.running, found.waiting),
        )


async def refused(node: Node, *groups: str, limits: Limits = LIMITS) -> str:
    with pytest.raises(LimitExceeded) as caught:
        await node.admit(*groups, limits=limits)
    return caught.value.message


async def test_without_quotas_a_run_gets_its_own_limits() -> None:
    hold = await Node().admit("guests")
    assert hold.limits == LIMITS
    assert hold.metering_s == 0.0


async def test_a_run_is_narrowed_to_what_is_left_and_the_next_is_refused() -> None:
    node = Node(Terms("guests", cpu_ms=1000))
    first = await node.admit("guests")
    assert first.limits.cpu_s == 1.0
    node.end(first, 400)
    second = await node.admit("guests")
    assert second.limits.cpu_s == 0.6
    assert (over := second.over("cpu")) is not None
    assert over.message == "quota cpu exceeded (group guests)"
    assert second.over("memory") is None, "that limit is its own"
    node.end(second, 600)

    assert await refused(node, "guests") == "quota cpu exceeded (group guests)"
    assert (await node.admit("family")).limits == LIMITS


async def test_the_tightest_of_several_quotas_is_named() -> None:
    node = Node(
        Terms("total", cpu_ms=900, memory_bytes=40_000_000),
        Terms("guests", cpu_ms=1000, memory_bytes=20_000_000),
    )
    hold = await node.admit("guests")
    assert (hold.limits.cpu_s, hold.limits.memory_bytes) == (0.9, 20_000_000)
    assert "(total)" in str(hold.over("cpu"))
    assert "(group guests)" in str(hold.over("memory"))


async def test_many_runs_at_once_get_no_more_than_one() -> None:
    node = Node(Terms("guests", cpu_ms=1000))
    holds = [await node.admit("guests") for _ in range(64)]
    stopped: list[int] = []
    for number, hold in enumerate(holds):
        hold.on_stop = lambda number=number: stopped.append(number)  # type: ignore[misc]
    # Each says what it has used after a tenth of a second of two processors.
    told = 0
    while not stopped and told < 64:
        holds[told].metered(16)
        told += 1
    assert told == 63, "a thousand milliseconds, in parts of sixteen"
    assert sorted(stopped) == list(range(64))
    assert str(holds[0].stopped) == "quota cpu exceeded (group guests)"


async def test_use_leaves_the_window_and_not_before() -> None:
    node = Node(Terms("guests", cpu_ms=100, window_s=60))
    node.end(await node.admit("guests"), 100)
    began = node.now
    while node.now < began + 60:
        assert await refused(node, "guests")
        node.now += 0.5
    node.now = began + 61.1
    assert (await node.admit("guests")).limits.cpu_s == 0.1


async def test_a_clock_that_is_set_back_forgets_nothing() -> None:
    node = Node(Terms("guests", cpu_ms=100, window_s=60))
    node.end(await node.admit("guests"), 60)
    node.now -= 500
    node.end(await node.admit("guests"), 40)
    assert await refused(node, "guests")


async def test_a_restart_forgets_nothing_that_was_written() -> None:
    before = Node(Terms("guests", cpu_ms=1000, network_bytes=500))
    hold = await before.admit("guests")
    hold.move(123)
    before.end(hold, 700)

    after = Node(Terms("guests", cpu_ms=1000, network_bytes=500), Terms("total", cpu_ms=5000))
    after.written, after.now = before.written, before.now
    assert await after.state("guests") == (700, 123, 0, 0, 0)
    assert await after.state("total") == (700, 0 + 123, 0, 0, 0)


async def test_what_is_settled_while_it_is_read_counts_once() -> None:
    for is_seen in (True, False):
        node = Node(Terms("total", cpu_ms=10_000))
        hold = await node.admit()
        # A changed window is read anew; the run ends in the middle of that.
        node.quotas.use([Terms("total", cpu_ms=10_000, window_s=60)])
        started, go = anyio.Event(), anyio.Event()

        async def read(_at: float, *, seen: bool = is_seen) -> tuple[int, list[Spent]]:
            spent = Spent(1, 1_000_000.0, 250, 0, ())
            started.set()  # noqa: B023
            await go.wait()  # noqa: B023
            return (1, [spent]) if seen else (0, [])

        node.quotas._read = read
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(node.quotas.states)
            await started.wait()
            hold.ended(Usage(cpu_ms=250))
            hold.settle(1, node.now)
            go.set()
        assert (await node.state("total"))[0] == 250


async def test_bytes_are_refused_before_they_move() -> None:
    node = Node(Terms("guests", network_bytes=1000))
    one, two = await node.admit("guests"), await node.admit("guests")
    stopped: list[str] = []
    two.on_stop = lambda: stopped.append("two")
    one.move(700)
    two.move(300)
    assert two.room_bytes == 0
    with pytest.raises(LimitExceeded, match=r"quota network exceeded \(group guests\)"):
        two.move(1)
    assert stopped == ["two"]
    assert two.network_bytes == 300
    with pytest.raises(LimitExceeded, match="quota network"):
        two.move(0)


async def test_a_runs_own_limit_of_bytes_is_called_network() -> None:
    hold = await Node().admit(limits=Limits(network_bytes=10))
    hold.move(10)
    with pytest.raises(LimitExceeded, match=r"^network: "):
        hold.move(1)


async def test_memory_is_what_is_reserved_now() -> None:
    node = Node(Terms("guests", memory_bytes=96_000_000))
    one = await node.admit("guests")
    two = await node.admit("guests")
    assert (one.limits.memory_bytes, two.limits.memory_bytes) == (64_000_000, 32_000_000)
    assert await refused(node, "guests") == "quota memory exceeded (group guests)"
    node.end(one)
    assert (await node.admit("guests")).limits.memory_bytes == 64_000_000


async def test_runs_at_once_are_refused_and_cores_waited_for() -> None:
    node = Node(Terms("guests", runs_at_once=1), Terms("family", cores=1))
    one = await node.admit("guests")
    assert await refused(node, "guests") == "quota runs_at_once exceeded (group guests)"
    node.end(one)

    first = await node.admit("family")
    async with anyio.create_task_group() as tasks:
        got: list[Hold] = []

        async def wait() -> None:
            got.append(await node.admit("family"))

        tasks.start_soon(wait)
        await settle()
        assert not got
        assert (await node.state("family"))[4] == 1
        node.end(first)
    assert len(got) == 1


async def settle() -> None:
    for _ in range(10):
        await checkpoint()


async def test_who_queues_begins_in_turn_when_there_is_room() -> None:
    node = Node(Terms("guests", runs_at_once=1, queues=True))
    first = await node.admit("guests")
    began: list[int] = []
    holds: list[Hold] = []

    async def wait(number: int) -> None:
        hold = await node.admit("guests")
        began.append(number)
        holds.append(hold)

    async with anyio.create_task_group() as tasks:
        for number in range(5):
            tasks.start_soon(wait, number)
            await settle()
        assert began == []
        node.end(first)
        for _ in range(4):
            await settle()
            node.end(holds[-1])
        await settle()
    assert began == [0, 1, 2, 3, 4]


async def test_who_waits_for_its_groups_quota_keeps_no_other_group_waiting() -> None:
    node = Node(
        Terms("total", cores=2), Terms("guests", runs_at_once=1, queues=True), Terms("family")
    )
    began: list[str] = []
    first = await node.admit("guests")

    async def wait(group: str) -> None:
        await node.admit(group)
        began.append(group)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait, "guests")
        await settle()
        with anyio.fail_after(30):
            family = await node.admit("family")
        # Both wait for a core of the total, and the first to come is the first to go.
        tasks.start_soon(wait, "guests")
        tasks.start_soon(wait, "family")
        await settle()
        assert began == []
        node.end(family)
        await settle()
        assert began == ["family"], "the guests' own quota is full"
        node.end(first)
        await settle()
        assert began == ["family", "guests"]
        tasks.cancel_scope.cancel()
    assert (await node.state("total"))[3:] == (2, 0)


async def test_a_newcomer_does_not_pass_one_that_could_begin_as_well() -> None:
    node = Node(Terms("total", cores=1), Terms("guests", cores=5), Terms("family", cores=5))
    first = await node.admit()
    began: list[str] = []
    async with anyio.create_task_group() as tasks:

        async def wait(group: str) -> None:
            hold = await node.admit(group)
            began.append(group)
            await settle()
            node.end(hold)

        for group in ("guests", "family", "guests"):
            tasks.start_soon(wait, group)
            await settle()
        node.end(first)
        # It is free at this very moment, and belongs to the one who came first.
        tasks.start_soon(wait, "family")
    assert began == ["guests", "family", "guests", "family"]


async def test_one_that_is_cancelled_while_it_waits_lets_the_next_go() -> None:
    node = Node(Terms("guests", runs_at_once=1, queues=True))
    first = await node.admit("guests")
    scope = anyio.CancelScope()
    got: list[Hold] = []

    async def wait(within: anyio.CancelScope) -> None:
        with within:
            got.append(await node.admit("guests"))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait, scope)
        await settle()
        tasks.start_soon(wait, anyio.CancelScope())
        await settle()
        scope.cancel()
        await settle()
        node.end(first)
    assert len(got) == 1
    assert (await node.state("guests"))[3:] == (1, 0)


async def test_who_waits_until_its_script_expires_is_told_so() -> None:
    node = Node(Terms("guests", cpu_ms=100, queues=True))
    node.end(await node.admit("guests"), 100)
    with pytest.raises(LimitExceeded, match=r"quota cpu exceeded .*expired while it waited"):
        await node.admit("guests", until=node.now)


async def test_one_node_cannot_fill_a_queue() -> None:
    node = Node(Terms("guests", runs_at_once=1, queues=True))
    first = await node.admit("guests")
    async with anyio.create_task_group() as tasks:

        async def wait(subject: str) -> None:
            node.end(await node.admit("guests", subject=subject))

        for _ in range(64):
            tasks.start_soon(wait, "greedy")
        await settle()
        with pytest.raises(Unavailable, match="too many runs wait"):
            await node.admit("guests", subject="greedy")
        tasks.start_soon(wait, "modest")
        await settle()
        assert (await node.state("guests"))[4] == 65
        node.end(first)


async def test_a_queue_behind_another_quota_still_refuses() -> None:
    node = Node(Terms("guests", runs_at_once=1, queues=True), Terms("total", cpu_ms=100))
    node.end(await node.admit("guests"), 100)
    assert await refused(node, "guests") == "quota cpu exceeded (total)"


async def test_a_quota_that_is_narrowed_cuts_what_runs() -> None:
    node = Node(Terms("guests", cpu_ms=10_000))
    hold = await node.admit("guests")
    hold.metered(500)
    node.quotas.use([Terms("guests", cpu_ms=400)])
    assert str(hold.stopped) == "quota cpu exceeded (group guests)"


async def test_a_quota_that_is_lifted_lets_those_in_who_wait() -> None:
    node = Node(Terms("guests", cpu_ms=100, queues=True))
    node.end(await node.admit("guests"), 100)
    got: list[Hold] = []

    async def wait() -> None:
        got.append(await node.admit("guests"))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await settle()
        assert not got
        node.quotas.use([])
    assert got[0].limits == LIMITS


async def test_a_worker_that_died_says_less_and_is_charged_what_it_said_before() -> None:
    node = Node(Terms("guests", cpu_ms=1000))
    hold = await node.admit("guests")
    hold.metered(300)
    node.end(hold, 0)
    assert (await node.state("guests"))[0] == 300


@pytest.mark.parametrize("seed", range(20))
async def test_whatever_happens_the_books_balance(seed: int) -> None:
    chance = random.Random(seed)
    node = Node(
        Terms("total", cpu_ms=5000, network_bytes=9000, memory_bytes=400_000_000, window_s=600),
        Terms("a", cpu_ms=3000, runs_at_once=5, window_s=600),
    )
    held: list[Hold] = []
    for _ in range(400):
        node.now += chance.random()
        if chance.random() < 0.5:
            groups: Sequence[str] = chance.choice(((), ("a",), ("a", "b")))
            with suppress(LimitExceeded):
                held.append(await node.admit(*groups))
        elif held:
            hold = held.pop(chance.randrange(len(held)))
            with suppress(LimitExceeded):
                hold.move(chance.randrange(200))
            hold.metered(chance.randrange(50))
            node.end(hold, hold.cpu_ms + chance.randrange(50))
    running = len(held)
    spent = [each for each in node.written if each.at > node.now - 600]
    total = await node.state("total")
    assert total[3] == running
    assert total[2] == sum(hold.limits.memory_bytes for hold in held) <= 400_000_000
    assert total[0] >= sum(each.cpu_ms for each in spent)
    assert total[1] <= 9000, "bytes are never more than the quota"
    for hold in held:
        node.end(hold)
    assert (await node.state("total"))[2:] == (0, 0, 0)
    assert (await node.state("a"))[2:] == (0, 0, 0)
