"""What we do when the owner asks for this node's keys."""

from __future__ import annotations

from collections.abc import AsyncIterator

from orvalho.contexts.device_id import device_id
from orvalho.contexts.identity import key_text
from orvalho.control import messages as control
from orvalho.control import pairing_messages as messages
from orvalho.daemon.house import House

Replies = AsyncIterator[control.Reply]


class KeyOperations:
    """`orvalho key ...`."""

    def __init__(self, house: House) -> None:
        self._house = house

    async def show(self, _request: messages.KeyShow) -> Replies:
        identity = self._house.identity
        yield messages.KeyReply(
            device_id=device_id(identity.node.key),
            key=key_text(identity.node.key),
            owner_key=key_text(identity.owner.key),
            created_at=identity.created_at(self._house.home.keys),
            rotations=len(identity.rotations),
            rotated_at=(identity.rotations[-1] or None) if identity.rotations else None,
        )

    async def phrase(self, _request: messages.KeyPhrase) -> Replies:
        yield messages.KeyPhraseReply(phrase=self._house.identity.phrase())
