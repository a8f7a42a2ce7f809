"""A question about a tree on another node: the asker's half of `handlers/trees.py`."""

from __future__ import annotations

from typing import Final

from orvalho.contexts.mounts import tree_words as words
from orvalho.contexts.names import Address
from orvalho.daemon.house import House
from orvalho.daemon.reach import comes
from orvalho.daemon.wire import encode
from orvalho.errors import InvalidInput, Unavailable

_COMES_S: Final = 2.0
_ANSWER_S: Final = 20.0


async def ask_tree(house: House, address: Address, caller: str, question: words.Question) -> bytes:
    """A question of our context `caller` to a context on another node.

    Raises:
        Unavailable: the node is not reached.
        OrvalhoError: what it answers instead, with `peer` set.
    """
    if address.node == house.name or address.context is None:
        raise InvalidInput(f"{address} is no context of another node")
    peer = house.trust.resolve(address).peer
    if not house.node.is_online(peer.node_key) and not await comes(house, peer, _COMES_S):
        raise Unavailable(
            f"{peer.name} is not reached", where=peer.name, hint=f"orvalho ping {peer.name}"
        )
    body = encode(words.Asked(caller=caller, context=address.context, question=question))
    return await house.node.ask(peer.node_key, words.ASK, body, _ANSWER_S)
