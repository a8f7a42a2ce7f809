"""The part of the local API that is about the ways to other nodes: transports, links, what is kept
for whom."""

from __future__ import annotations

from orvalho.control.message import Message, tag


class NatsConfig(Message, frozen=True, kw_only=True, tag=tag):
    """Write the configuration of a NATS server for this node and its peers. `out` and `tls` are
    absolute directories, `leaf_hub` is where other servers may lean on this one. With `callout`
    the server asks this node's daemon who may come in. -> NatsConfigured"""

    out: str | None = None
    listen: str = "0.0.0.0:4222"
    tls: str | None = None
    leaf: str | None = None
    leaf_hub: str | None = None
    callout: bool = False


class NatsConfigured(Message, frozen=True, kw_only=True, tag=tag):
    """`path` is the file, `nodes` whom it lets in, `address` where they listen, once HOST is
    replaced by a name of the server; `leaf` what a server is told that is to lean on this one, a
    password in it."""

    path: str
    nodes: tuple[str, ...]
    address: str
    changed: bool = True
    leaf: str | None = None
    callout: bool = False


class TransportList(Message, frozen=True, kw_only=True, tag=tag):
    """-> TransportListReply"""


class TransportState(Message, frozen=True, kw_only=True):
    """`module` is where it comes from; `install` how to get what it needs, None when it is
    here."""

    scheme: str
    module: str
    install: str | None
    listening: tuple[str, ...]
    links: int


class LinkState(Message, frozen=True, kw_only=True):
    """An open link. `used` marks the one that new frames take; `rtt_ms` is None until it has been
    measured."""

    peer: str
    path: str
    transport: str
    used: bool
    rtt_ms: int | None
    opened_at: float


class TransportListReply(Message, frozen=True, kw_only=True, tag=tag):
    transports: tuple[TransportState, ...]
    links: tuple[LinkState, ...]


class DepotList(Message, frozen=True, kw_only=True, tag=tag):
    """What this node keeps for others. -> DepotListReply"""


class DepotRemove(Message, frozen=True, kw_only=True, tag=tag):
    """Throw away what is kept for a peer; only what `depositor` left, if that is given. -> Note"""

    recipient: str
    depositor: str | None = None


class DepotPile(Message, frozen=True, kw_only=True):
    """What one node keeps for `recipient` from `depositor`: sealed, so that is all it knows.
    `expires_at`: when the first of it does."""

    recipient: str
    depositor: str
    count: int
    bytes: int
    expires_at: float


class DepotListReply(Message, frozen=True, kw_only=True, tag=tag):
    piles: tuple[DepotPile, ...]
