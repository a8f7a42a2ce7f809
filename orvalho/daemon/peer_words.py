"""Peers as the control socket tells them."""

from __future__ import annotations

import time
from functools import lru_cache
from typing import Final, Literal

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
    state = standing(house, peer)
    is_online = state == "online"
    kept_by = await house.node.depots.depositor.with_whom(peer.node_key)
    return control.PeerState(
        name=peer.name,
        key=key_text(peer.node_key),
        relation=peer.relation,
        state=state,
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
        return refused_words(house, peer)
    return house.node.problem(peer.node_key) or ", ".join(peer.addresses)


Standing = Literal["online", "offline", "waiting", "revoked", "refused"]

# Stands behind how we came to know a peer whose owner has yet to approve of us.
_UNAPPROVED: Final = ", not approved there yet"


def standing(house: House, peer: Peer) -> Standing:
    """How we stand with a peer, as far as this side can know. `waiting`: its owner has yet to
    approve of this device; `revoked`: it has said so; `refused`: it turned our key away, which
    it has forgotten or rejected."""
    if house.node.is_online(peer.node_key):
        return "online"
    if not house.node.is_refused_by(peer.node_key):
        return "offline"
    if house.mesh.is_revoked_by(peer.node_key):
        return "revoked"
    return "waiting" if peer.introduced.endswith(_UNAPPROVED) else "refused"


def refused_words(house: House, peer: Peer) -> str:
    """Why a peer that refuses our key does so."""
    match standing(house, peer):
        case "waiting":
            return f"{peer.name} has not approved this device yet"
        case "revoked":
            return f"{peer.name} has revoked this device, and refuses its key"
        case _:
            return f"{peer.name} refuses this device's key: it has forgotten or rejected it"


def refused_hint(house: House, peer: Peer) -> str:
    """The hint that goes with `refused_words`."""
    if standing(house, peer) == "waiting":
        return f"on {peer.name}: orvalho node approve {house.name}"
    return f"pair again. On {peer.name}: orvalho peer invite; here: orvalho peer add -"


def unapproved(introduced: str, *, is_held: bool) -> str:
    """How a peer was introduced, with a word on it while its owner has yet to approve of us."""
    return introduced.removesuffix(_UNAPPROVED) + (_UNAPPROVED if is_held else "")
