"""The chain that a signed call carries: what may be believed of it."""

from __future__ import annotations

import os

import msgspec
import pytest

from orvalho.contexts.names import new_run_id
from orvalho.errors import InvalidInput
from orvalho.scripts.traces import MAX_DEPTH, Hop, check_chain, trace_of, traceparent

OURS = "ed25519:ours"


def hop(number: int) -> Hop:
    return Hop(
        run=new_run_id(1e9 + number, os.urandom(10)),
        caller=f"peer@n{number - 1}",
        caller_key=f"ed25519:c{number}",
        target=f"peer@n{number}",
        node_key=f"ed25519:n{number}",
    )


def check(chain: tuple[Hop, ...], parent: str | None = None) -> None:
    parent = traceparent(chain) if parent is None else parent
    sender = chain[-1].node_key if chain else "ed25519:anybody"
    check_chain(chain, parent, caller_node=sender, ours=OURS)


def test_a_trace_is_named_after_its_first_run() -> None:
    chain = (hop(1), hop(2))
    version, trace, parent, flags = traceparent(chain).split("-")
    assert (version, flags) == ("00", "01")
    assert trace == trace_of(chain[0].run)
    assert (len(trace), len(parent)) == (32, 16)
    assert trace_of(chain[1].run).endswith(parent)


def test_a_chain_as_it_should_be() -> None:
    check(())
    for length in range(1, MAX_DEPTH):
        check(tuple(map(hop, range(length))))


@pytest.mark.parametrize("length", [MAX_DEPTH, MAX_DEPTH + 1, 60])
def test_one_too_long_is_refused(length: int) -> None:
    with pytest.raises(InvalidInput, match="came through"):
        check(tuple(map(hop, range(length))))


def test_one_that_leads_back_is_refused() -> None:
    here = msgspec.structs.replace(hop(1), node_key=OURS)
    with pytest.raises(InvalidInput, match="leads back"):
        check((here, hop(2)))
    with pytest.raises(InvalidInput, match="leads back"):
        check((hop(1), hop(2), hop(1)))


def test_one_of_somebody_elses_is_refused() -> None:
    with pytest.raises(InvalidInput, match="not its sender's"):
        check_chain((hop(1),), traceparent((hop(1),)), caller_node="ed25519:other", ours=OURS)


@pytest.mark.parametrize(
    "change", [{"run": "r_1"}, {"run": "r_" + "z" * 26}, {"caller": "x" * 999}]
)
def test_names_of_no_form_are_refused(change: dict[str, str]) -> None:
    chain = (hop(1),)
    with pytest.raises(InvalidInput):
        check((msgspec.structs.replace(chain[0], **change),), traceparent(chain))


@pytest.mark.parametrize("parent", ["", "00-0-0-0", "x", "00-" + "0" * 32 + "-" + "0" * 16 + "-01"])
def test_a_traceparent_of_another_chain_is_refused(parent: str) -> None:
    with pytest.raises(InvalidInput, match="traceparent"):
        check((hop(1),), parent)
    if len(parent) < 50 and parent:
        with pytest.raises(InvalidInput, match="malformed"):
            check((), parent)
