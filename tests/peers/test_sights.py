"""Alive, suspect, dead: by links that both ends confirm, and by spans of one clock."""

from __future__ import annotations

from orvalho.contexts.identity import Key
from orvalho.peers.records import short_key
from orvalho.peers.sights import Sights

A, B, C, D, E = (Key(bytes([number]) * 32) for number in range(1, 6))
# Whatever a clock says: it is only ever compared with itself.
START = 1e9


def told(sights: Sights, links: dict[Key, tuple[Key, ...]], now: float) -> None:
    for node, others in links.items():
        sights.told(node, [short_key(other) for other in others], now)


def chain() -> Sights:
    """A - B - C - D, seen from A."""
    sights = Sights(A, 5.0, START)
    sights.linked([B], START)
    told(sights, {B: (A, C), C: (B, D), D: (C,)}, START)
    return sights


def test_a_chain_of_links_leads_to_a_node_that_was_never_met() -> None:
    sights = chain()
    assert [sights.state(node, START) for node in (B, C, D)] == ["alive"] * 3


def test_a_dead_node_is_suspect_and_then_dead_within_three_intervals() -> None:
    sights = chain()
    # D dies and says nothing; C misses it, at the latest after one interval.
    told(sights, {C: (B,)}, START + 5.0)
    assert sights.state(D, START + 5.0) == "suspect"
    assert sights.state(D, START + 12.4) == "suspect"
    assert sights.state(D, START + 12.5) == "dead"
    assert sights.state(C, START + 12.5) == "alive"
    assert sights.lost_for_s(D, START + 15.0) == 10.0


def test_what_a_dead_node_said_does_not_keep_others_alive() -> None:
    sights = chain()
    sights.linked([], START + 1)  # B is gone; it cannot take back its link to C
    assert {sights.state(node, START + 1) for node in (B, C, D)} == {"suspect"}
    assert {sights.state(node, START + 60) for node in (B, C, D)} == {"dead"}


def test_another_way_round_keeps_a_node_alive() -> None:
    sights = chain()
    told(sights, {E: (A, D), D: (C, E)}, START)
    sights.linked([B, E], START)
    sights.linked([E], START + 1)
    assert sights.state(C, START + 1) == "alive"
    assert sights.state(D, START + 1) == "alive"


def test_a_link_that_one_end_alone_claims_counts_for_nothing() -> None:
    sights = Sights(A, 5.0, START)
    sights.linked([B], START)
    told(sights, {B: (A, C), C: (D,)}, START)
    assert sights.state(C, START) == "suspect"
    # Nor does anybody's claim to be linked with us.
    told(sights, {C: (A,)}, START)
    assert sights.state(C, START) == "suspect"


def test_a_node_never_seen_counts_from_our_start_and_comes_alive() -> None:
    sights = Sights(A, 5.0, START)
    assert sights.state(B, START + 1) == "suspect"
    assert sights.state(B, START + 8) == "dead"
    assert sights.lost_for_s(B, START + 8) is None
    sights.linked([B], START + 9)
    assert sights.state(B, START + 9) == "alive"
    assert sights.lost_for_s(B, START + 9) == 0.0


def test_a_node_that_is_forgotten_leads_nowhere() -> None:
    sights = chain()
    sights.forget(C, START + 1)
    assert sights.state(D, START + 1) == "suspect"
    assert sights.state(A, START + 1) == "alive"
