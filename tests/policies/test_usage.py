"""The sums are those of the receipts, before folding and after."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlite_utils import Database

from orvalho.policies import usage
from orvalho.policies.quota import Usage
from orvalho.policies.usage import Charge, Sum

DAY = usage.DAY_S


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    found = sqlite3.connect(tmp_path / "x.db", isolation_level=None)
    usage.MIGRATIONS.apply(Database(found))
    yield found
    found.close()


def charge(chance: random.Random, number: int, at: float) -> Charge:
    key = chance.choice("abc")
    return Charge(
        at=at,
        run=f"r_{number:026d}",
        caller=f"{key}@laptop",
        caller_key=f"ed25519:{key}",
        node_key="ed25519:n",
        context=chance.choice(("peer", "gil")),
        groups=chance.choice(((), ("guests",), ("family", "guests"))),
        digest="0" * 64,
        filename="a.js",
        outcome=chance.choice(("done", "failed", "limited", "refused")),
        usage=Usage(
            **{name: chance.randrange(10**9) for name in Usage.__struct_fields__},
        ),
    )


def expected(charges: list[Charge], by: usage.By) -> dict[str, tuple[int, Usage]]:
    found: dict[str, tuple[int, Usage]] = {}
    for each in charges:
        if by == "group":
            keys = each.groups or ("-",)
        else:
            keys = (each.caller_key if by == "key" else each.context,)
        for key in keys:
            runs, used = found.get(key, (0, Usage()))
            found[key] = runs + 1, usage.add(used, each.usage)
    return found


def told(sums: list[Sum]) -> dict[str, tuple[int, Usage]]:
    return {each.of: (each.runs, each.usage) for each in sums}


@pytest.mark.parametrize("by", ["key", "group", "context"])
def test_sums_are_exact_whatever_part_is_folded(
    connection: sqlite3.Connection, by: usage.By
) -> None:
    chance = random.Random(by)
    charges = [charge(chance, n, chance.uniform(0, 40 * DAY)) for n in range(500)]
    for each in charges:
        usage.stage(connection, each)
    assert told(usage.sums(connection, by)) == expected(charges, by)

    for before in (10 * DAY, 25.5 * DAY, 100 * DAY):
        while usage.fold(connection, before, 37):
            assert told(usage.sums(connection, by)) == expected(charges, by)
    (left,) = connection.execute("select count(*) from charges").fetchone()
    assert left == 1, "the newest stays, so that its number is not used again"


def test_since_counts_from_that_moment_and_folded_days_whole(
    connection: sqlite3.Connection,
) -> None:
    chance = random.Random(1)
    charges = [charge(chance, n, n * DAY / 4) for n in range(80)]
    for each in charges:
        usage.stage(connection, each)
    since = 5.3 * DAY
    recent = [each for each in charges if each.at >= since]
    assert told(usage.sums(connection, "key", since)) == expected(recent, "key")

    while usage.fold(connection, 10 * DAY, 100):
        pass
    whole = [each for each in charges if each.at >= 6 * DAY]
    assert told(usage.sums(connection, "key", since)) == expected(whole, "key")


def test_names_are_those_a_key_had(connection: sqlite3.Connection) -> None:
    chance = random.Random(2)
    usage.stage(connection, charge(chance, 1, 1.0))
    (found,) = usage.sums(connection, "key")
    assert found.names == (f"{found.of[-1]}@laptop",)


def test_what_a_window_reads_is_what_was_spent_in_it(connection: sqlite3.Connection) -> None:
    chance = random.Random(3)
    charges = [charge(chance, n, float(n)) for n in range(50)]
    for each in charges:
        usage.stage(connection, each)
    seq, spent = usage.spent_since(connection, 20.0)
    assert seq == 50
    assert [each.cpu_ms for each in spent] == [each.usage.cpu_ms for each in charges[20:]]
    assert [tuple(each.groups) for each in spent] == [each.groups for each in charges[20:]]


def test_a_number_is_not_used_twice_when_all_is_folded(connection: sqlite3.Connection) -> None:
    chance = random.Random(4)
    last = 0
    for number in range(10):
        last, before = usage.stage(connection, charge(chance, number, float(number))), last
        assert last > before
        usage.fold(connection, 1e9, 100)


def test_charges_come_back_as_they_were(connection: sqlite3.Connection) -> None:
    chance = random.Random(5)
    charges = [charge(chance, n, float(n)) for n in range(20)]
    for each in charges:
        usage.stage(connection, each)
    found = usage.since(connection, 5.0)
    assert [each.run for each in found] == [each.run for each in charges[5:]]
    assert [each.usage for each in found] == [each.usage for each in charges[5:]]
