"""What a node tells of its machine: whole numbers in their bounds, or nothing."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec

from orvalho.daemon.facts import NodeFacts, read_facts

LABELS = frozenset({"gpu=yes", "env=home"})


def test_facts_are_in_their_bounds(tmp_path: Path) -> None:
    facts = read_facts("phone2", LABELS, tmp_path, time.time() - 5)
    assert facts.name == "phone2"
    assert facts.labels == ("env=home", "gpu=yes")
    assert facts.cores >= 1
    assert facts.node_uptime_s >= 5
    assert facts.memory_total_bytes is not None
    assert facts.disk_total_bytes is not None
    assert 0 <= (facts.disk_free_bytes or 0) <= facts.disk_total_bytes
    assert 0 <= (facts.memory_free_bytes or 0) <= facts.memory_total_bytes


def test_what_is_not_to_be_had_is_null(tmp_path: Path) -> None:
    facts = read_facts("x", frozenset(), tmp_path / "none", time.time() + 3600)
    assert (facts.disk_total_bytes, facts.disk_free_bytes) == (None, None)
    assert facts.node_uptime_s == 0, "a clock that was set back"
    told = msgspec.json.encode(facts)
    assert b'"disk_free_bytes":null' in told
    assert msgspec.json.decode(told, type=NodeFacts) == facts
