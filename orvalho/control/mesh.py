"""The part of the local API that is about other nodes: who there is, and whom we trust how far."""

from __future__ import annotations

from orvalho.control.message import Message, tag


class PeerSet(Message, frozen=True, kw_only=True, tag=tag):
    """Whether a peer's own peers become ours. -> Note"""

    name: str
    introducer: bool


class PeerRename(Message, frozen=True, kw_only=True, tag=tag):
    """Call a peer otherwise here. -> Note"""

    name: str
    new_name: str


class PeerRevoke(Message, frozen=True, kw_only=True, tag=tag):
    """Forget a peer, here and on each device that has this one as its owner's own. -> Note"""

    name: str


class Nodes(Message, frozen=True, kw_only=True, tag=tag):
    """Every node that is known, or with `lan` each that calls on the local network.
    -> NodesReply"""

    lan: bool = False


class NodeState(Message, frozen=True, kw_only=True):
    """`state`: alive, suspect, dead, revoked. `known`: this node, paired, introduced by NODE, via
    NODE, revoked by NODE. `relation`: own, guest, or None for one that is not paired. Capabilities
    and labels are `key=value`. `note`: what the owner should settle."""

    name: str
    key: str
    state: str
    known: str
    relation: str | None
    is_introducer: bool
    capabilities: tuple[str, ...]
    labels: tuple[str, ...]
    contexts: tuple[str, ...]
    addresses: tuple[str, ...]
    last_seen_at: float | None
    note: str | None


class LanNode(Message, frozen=True, kw_only=True):
    """A node that calls on the local network. The name is its own word unless it is paired."""

    name: str
    key: str
    addresses: tuple[str, ...]
    paired: bool
    revoked: bool


class NodesReply(Message, frozen=True, kw_only=True, tag=tag):
    """`nodes`, or `lan` if that was asked. `is_listening`: beacons are on."""

    nodes: tuple[NodeState, ...]
    lan: tuple[LanNode, ...]
    is_listening: bool
    problems: tuple[str, ...]
