"""Peers as the control socket tells them."""

from __future__ import annotations

import time
from functools import lru_cache

from anyio import to_thread

from orvalho.contexts.identity import Key, key_text
from orvalho.contexts.trust import Peer, check_words
from orvalho.control import messages as control
from orvalho.daemon.house import House


async def words_for(house: House, peer: Peer) -> str:
    """The four words both sides show, joined by dashes. The first time takes 0.1 s and 64 MB."""
    return await words_between(house, peer.node_key)


async def words_between(house: House, node_key: Key) -> str:
    """The same, for a node that is no peer yet."""
    return await to_thread.run_sync(_words, house.identity.node.key, node_key)


@lru_cache(256)
def _words(ours: Key, theirs: Key) -> str:
    return "-".join(check_words(ours, theirs))


async def peer_state(house: House, peer: Peer, words: str = "") -> control.PeerState:
    """`words` is left empty where nobody compares them."""
    is_online = house.node.is_online(peer.node_key)
    kept_by = await house.node.depots.depositor.with_whom(peer.node_key)
    return control.PeerState(
        name=peer.name,
        key=key_text(peer.node_key),
        relation=peer.relation,
        state="online" if is_online else "offline",
        path=path_to(house, peer),
        contexts=tuple(entry.name for entry in peer.contexts),
        check_words=words,
        added_at=peer.added_at,
        introduced=peer.introduced,
        last_seen_at=time.time() if is_online else peer.last_seen_at or None,
        queued=await house.node.queued(peer.node_key),
        queued_at={name_of(house, keeper): count for keeper, count in kept_by.items()},
    )


def name_of(house: House, node_key: Key) -> str:
    """What a node is called here; its key, if it is no peer."""
    if node_key == house.identity.node.key:
        return house.name
    peer = house.trust.by_key(node_key)
    return peer.name if peer else key_text(node_key)


def path_to(house: House, peer: Peer) -> str:
    paths = house.node.paths(peer.node_key)
    if paths:
        return paths[0]
    if house.node.is_refused_by(peer.node_key):
        return refused_words(peer)
    return house.node.problem(peer.node_key) or ", ".join(peer.addresses)


def refused_words(peer: Peer) -> str:
    return f"{peer.name} refuses our key: pair again"


def pair_again(peer: Peer) -> str:
    """The hint that goes with `refused_words`."""
    return f"on {peer.name}: orvalho peer invite; here: orvalho peer add -"
