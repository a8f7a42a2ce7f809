"""What is known of one node, as `orvalho nodes` shows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from orvalho.contexts.identity import Key
from orvalho.peers.records import Record

State = Literal["alive", "suspect", "dead", "revoked"]


@dataclass(frozen=True, slots=True)
class NodeView:
    """What is known of one node. `known` says how: "this node", "paired", "introduced by laptop",
    "via laptop", "via nats", "revoked by laptop". `note` is what the owner should settle."""

    key: Key
    name: str
    state: State
    known: str
    relation: str | None
    capabilities: tuple[str, ...]
    labels: tuple[str, ...]
    contexts: tuple[str, ...]
    addresses: tuple[str, ...]
    last_seen_at: float | None
    is_introducer: bool = False
    note: str | None = None


def view_of(
    record: Record, key: Key, *, state: State, known: str, note: str | None, seen: float | None
) -> NodeView:
    """The view of a node that is none of our peers, or of this one."""
    return NodeView(
        key=key,
        name=record.name,
        state=state,
        known=known,
        relation=None,
        capabilities=record.capabilities,
        labels=record.labels,
        contexts=tuple(each.name for each in record.contexts),
        addresses=record.addresses,
        last_seen_at=seen,
        note=note,
    )
