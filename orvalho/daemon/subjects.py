"""From a verified key to the words of a policy that hold for it."""

from __future__ import annotations

from collections.abc import Iterable

from orvalho.contexts.groups import Groups
from orvalho.contexts.identity import Key, key_text
from orvalho.contexts.names import Address
from orvalho.contexts.trust import Peer
from orvalho.policies.access import ANY, OWNER, PAIRED, Subject


def peer_subject(peer: Peer, context: str, key: Key, groups: Groups) -> Subject:
    """A context of a peer whose certificate and signature held. The node's name is the one that
    our trust book gives it, never the one it gives itself."""
    names = {ANY, PAIRED, peer.name, str(Address(context, peer.name))}
    if peer.relation == "own":
        names.add(OWNER)
    return _subject(key, peer.node_key, names, groups)


def own_subject(node: str, node_key: Key, context: str, key: Key, groups: Groups) -> Subject:
    """A context of this very node."""
    names = {ANY, PAIRED, OWNER, node, str(Address(context, node))}
    return _subject(key, node_key, names, groups)


def groups_of(groups: Groups, keys: Iterable[Key], peer: Peer | None) -> tuple[str, ...]:
    """Those that a sender's node is in: by these keys, and by every context of it that we know. So
    no new context or key leads out of a group's quota."""
    known = (Key(entry.key) for entry in (peer.contexts if peer else ()))
    return tuple(sorted({name for key in (*keys, *known) for name in groups.groups_of(key)}))


def _subject(key: Key, node_key: Key, names: set[str], groups: Groups) -> Subject:
    for one in (key, node_key):
        names.add(key_text(one))
        names |= {f"@{group}" for group in groups.groups_of(one)}
    return Subject(key_text(key), frozenset(names))
