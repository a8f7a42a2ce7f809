"""What another node tells of a tree of runs: what may be believed, and what is refused."""

from __future__ import annotations

import os
import random

import msgspec
import pytest

from orvalho.contexts.identity import Signer, key_text
from orvalho.contexts.names import new_run_id
from orvalho.daemon.tracing import TracePart, TraceTold, _bounded, _checked, proven
from orvalho.daemon.wire import decode, encode
from orvalho.errors import InvalidInput, OrvalhoError
from orvalho.policies.quota import Usage
from orvalho.scripts.receipts import Receipt, sign_receipt
from orvalho.scripts.traces import Caused

NEAR, FAR, OTHER = (Signer(bytes([n]) * 32) for n in (1, 2, 3))


def run_id() -> str:
    return new_run_id(1e9, os.urandom(10))


def receipt(signer: Signer, run: str, parent: str | None = None, *caused: Caused) -> bytes:
    made = Receipt(
        run=run,
        script_sha256="0" * 64,
        filename="job.js",
        caller="root@laptop",
        caller_key="ed25519:x",
        target="peer@near",
        outcome="done",
        error=None,
        tried=(),
        usage=Usage(wall_ms=7),
        result_sha256=None,
        output_sha256=None,
        started_at=1.0,
        ended_at=2.0,
        parent=parent,
        caused=caused,
    )
    return sign_receipt(signer, made)


def part(run: str, parent: str | None, signer: Signer, raw: bytes | None) -> TracePart:
    return TracePart(
        run=run,
        parent=parent,
        node="n",
        node_key=key_text(signer.key),
        caller="a@b",
        target="c@d",
        filename="job.js",
        state="ended",
        outcome="failed",
        wall_ms=99_999,
        receipt=raw,
    )


def edge(far: Signer = FAR, named: Signer = FAR, parent: str | None = None) -> list[str]:
    """The word on an edge where `near` names a run of `named`'s, and `far` signs that run."""
    above, below = run_id(), run_id()
    caused = Caused(
        run=below, called="add@far", node="far", node_key=key_text(named.key), outcome="done"
    )
    told = proven(
        [
            part(above, None, NEAR, receipt(NEAR, above, None, caused)),
            part(below, above, far, receipt(far, below, parent or above)),
        ]
    )
    return [each.signed for each in told]


def test_an_edge_that_both_have_signed() -> None:
    assert edge() == ["both", "both"]


def test_a_run_that_another_key_signed_is_not_proven() -> None:
    assert edge(far=OTHER) == ["both", "no"]
    assert edge(named=OTHER) == ["both", "no"]


def test_a_run_that_names_another_cause_is_not_proven() -> None:
    assert edge(parent=run_id()) == ["both", "no"]


def test_a_run_that_its_caller_does_not_name_is_not_proven() -> None:
    above, below = run_id(), run_id()
    told = proven(
        [
            part(above, None, NEAR, receipt(NEAR, above)),
            part(below, above, FAR, receipt(FAR, below, above)),
        ]
    )
    assert [each.signed for each in told] == ["both", "no"]


def test_what_is_signed_counts_and_not_what_is_told_beside_it() -> None:
    above, below = run_id(), run_id()
    caused = Caused(run=below, called="x", node="far", node_key=key_text(FAR.key), outcome="done")
    told = proven(
        [
            part(above, None, NEAR, receipt(NEAR, above, None, caused)),
            part(below, above, FAR, receipt(FAR, below, above)),
        ]
    )
    assert (told[1].part.outcome, told[1].part.wall_ms) == ("done", 7)


def test_what_has_not_ended_is_not_signed_yet() -> None:
    above, below = run_id(), run_id()
    told = proven([part(above, None, NEAR, None), part(below, above, FAR, None)])
    assert [each.signed for each in told] == ["running", "running"]


def test_a_tree_that_is_none_is_refused() -> None:
    first = part(run_id(), None, NEAR, None)
    chain = [first]
    for _ in range(6):
        chain.append(part(run_id(), chain[-1].run, NEAR, None))
    assert len(_checked(tuple(chain[:4]), first.run)) == 4
    twice = (first, part(first.run, first.run, NEAR, None))
    orphan = (first, part(run_id(), run_id(), NEAR, None))
    many = (first, *(part(run_id(), first.run, NEAR, None) for _ in range(1001)))
    for parts in (tuple(chain), twice, orphan, many, ()):
        with pytest.raises(InvalidInput):
            _checked(parts, first.run)
    with pytest.raises(InvalidInput):
        _checked((first,), run_id())


def test_an_answer_is_bounded() -> None:
    first = part(run_id(), None, NEAR, bytes(3 << 20))
    parts = [first, *(part(run_id(), first.run, NEAR, bytes(3 << 20)) for _ in range(2000))]
    kept = _bounded(parts)
    assert (len(kept), kept[0].problem is not None) == (1000, True)
    assert len(encode(TraceTold(parts=tuple(kept)))) < 10 << 20


def test_ten_thousand_damaged_answers_do_nothing_but_fail() -> None:
    above, below = run_id(), run_id()
    good = encode(
        TraceTold(
            parts=(
                part(above, None, NEAR, receipt(NEAR, above)),
                part(below, above, FAR, receipt(FAR, below, above)),
            )
        )
    )
    chance = random.Random(4)
    for _ in range(10_000):
        raw = bytearray(good)
        for _ in range(chance.randint(1, 4)):
            raw[chance.randrange(len(raw))] = chance.randrange(256)
        try:
            found = proven(_checked(decode(bytes(raw), TraceTold).parts, above))
        except OrvalhoError:
            continue
        assert all(isinstance(each.part, msgspec.Struct) for each in found)
        assert found[-1].signed != "both" or len(found) == 1
