"""Signed records: what holds, what is refused, and that nothing is decoded before it may be."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as some

from orvalho.contexts.identity import Key, Signer, certify, check_certificate
from orvalho.errors import Untrusted
from orvalho.peers import records
from orvalho.peers.records import (
    Kind,
    NamedKey,
    Record,
    Revocation,
    Sight,
    Statement,
    Vouch,
    open_record,
    open_sight,
    read_head,
    short_key,
    sign_record,
    sign_sight,
)
from orvalho.store import open_store

OWNER, SIGNER, OTHER = (Signer(bytes([number]) * 32) for number in (1, 2, 3))


def check(certificate: bytes, owner: Key) -> tuple[str, Key]:
    held = check_certificate(certificate, owner, "node")
    return held.name, Key(held.key)


def record(**changes: Any) -> Record:
    fields: dict[str, Any] = {
        "name": "laptop",
        "owner_key": OWNER.key,
        "certificate": certify(OWNER, "node", "laptop", SIGNER.key, 0.0),
        "addresses": ("ws://192.0.2.1:4455",),
        "contexts": (NamedKey(name="peer", key=bytes(32)),),
        "capabilities": ("os=linux",),
        "labels": ("env=home",),
        "vouches": (Vouch(node_key=OTHER.key, owner_key=OWNER.key, name="phone2"),),
        "revocations": (Revocation(node_key=bytes(32), at=1.0),),
        "issued_at": 1.0,
    }
    return Record(**(fields | changes))


def test_what_was_signed_is_read_again() -> None:
    statement = sign_record(SIGNER, 7, record())
    assert read_head(statement.blob) == statement
    assert (statement.kind, statement.node_key, statement.seq) == (Kind.RECORD, SIGNER.key, 7)
    assert open_record(statement, check) == record()

    sight = Sight(links=(short_key(OTHER.key),))
    assert open_sight(sign_sight(SIGNER, 1, sight)) == sight


@given(some.integers(0, 10_000), some.integers(0, 7))
def test_a_flipped_bit_is_refused(place: int, bit: int) -> None:
    blob = bytearray(sign_record(SIGNER, 7, record()).blob)
    blob[place % len(blob)] ^= 1 << bit
    statement = read_head(bytes(blob))
    if statement is not None:
        with pytest.raises(Untrusted):
            (open_record if statement.kind is Kind.RECORD else open_any)(statement, check)


def open_any(statement: Statement, _: object) -> Sight:
    return open_sight(statement)


def test_a_statement_of_one_kind_cannot_pass_for_another() -> None:
    blob = sign_sight(SIGNER, 1, Sight(links=())).blob
    forged = read_head(bytes([Kind.RECORD]) + blob[1:])
    assert forged is not None
    with pytest.raises(Untrusted, match="signature"):
        open_record(forged, check)


@pytest.mark.parametrize(
    "changes",
    [
        {"certificate": certify(OTHER, "node", "laptop", SIGNER.key, 0.0)},
        {"certificate": certify(OWNER, "node", "laptop", OTHER.key, 0.0)},
        {"name": "phone2"},
        {"owner_key": OTHER.key},
        {"addresses": ("ws://192.0.2.1:1",) * (records.MAX_ADDRESSES + 1)},
        {"addresses": ("x" * 300,)},
        {"contexts": (NamedKey(name="No Label", key=bytes(32)),)},
        {"contexts": (NamedKey(name="peer", key=b"short"),)},
        {"contexts": (NamedKey(name="a", key=bytes(32)),) * (records.MAX_CONTEXTS + 1)},
        {"labels": ("a=b",) * 200},
        {"vouches": (Vouch(node_key=b"", owner_key=bytes(32), name="x"),)},
        {"vouches": (Vouch(node_key=bytes(32), owner_key=bytes(32), name="x"),) * 257},
        {"revocations": (Revocation(node_key=bytes(32), at=float("nan")),)},
        {"revocations": (Revocation(node_key=bytes(32), at=1.0),) * 257},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_record_that_claims_or_holds_too_much_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(Untrusted):
        open_record(sign_record(SIGNER, 1, record(**changes)), check)


def test_a_sight_that_holds_too_much_is_refused() -> None:
    for links in ((bytes(16),) * 257, (b"short",)):
        with pytest.raises(Untrusted):
            open_sight(sign_sight(SIGNER, 1, Sight(links=links)))


def test_what_is_too_large_or_no_statement_has_no_head() -> None:
    assert read_head(b"") is None
    assert read_head(bytes(200)) is None
    head = sign_record(SIGNER, 1, record()).blob[:105]
    assert read_head(head) is None
    assert read_head(head + bytes(records.RECORD_BYTES)) is None
    chance = random.Random(1)
    for _ in range(10_000):
        blob = bytes([chance.choice((0, 1, 2, 3))]) + os.urandom(chance.randrange(300))
        statement = read_head(blob)
        if statement is not None:
            with pytest.raises(Untrusted):
                (open_record if statement.kind is Kind.RECORD else open_any)(statement, check)


def test_records_are_kept_and_starts_counted(tmp_path: Path) -> None:
    async def keep() -> None:
        first, second = sign_record(SIGNER, 1, record()), sign_record(SIGNER, 2, record())
        other = sign_record(OTHER, 1, record())
        async with open_store(tmp_path / "db", (records.MIGRATIONS,)) as store:
            assert await store.transact("s", records.count_start) == 1
            await store.transact("k", lambda c: records.keep(c, [first, other]))
            await store.transact("k", lambda c: records.keep(c, [second]))
            await store.transact("d", lambda c: records.drop(c, [OTHER.key]))
        async with open_store(tmp_path / "db", (records.MIGRATIONS,)) as store:
            assert await store.transact("s", records.count_start) == 2
            assert list(await store.read(records.kept)) == [second]

    anyio.run(keep)
