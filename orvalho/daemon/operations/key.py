"""What we do when the owner asks for this node's keys."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable

from anyio import to_thread

from orvalho.contexts.device_id import device_id
from orvalho.contexts.identity import Key, key_text
from orvalho.contexts.trust import Peer, check_words
from orvalho.control import messages as control
from orvalho.control import pairing as messages
from orvalho.daemon.house import House
from orvalho.errors import Conflict, LimitExceeded
from orvalho.peers.succession import MOST_CHANGES, NEWS_LIFE_S

Replies = AsyncIterator[control.Reply]


class KeyOperations:
    """`orvalho key ...`. `restart` begins the daemon anew, with the keys that lie there then."""

    def __init__(self, house: House, restart: Callable[[], None]) -> None:
        self._house = house
        self._restart = restart

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

    async def rotate(self, request: messages.KeyRotate) -> Replies:
        """Raises:
        Conflict: mail waits or scripts run, which the change would cost.
        LimitExceeded: rotations: the key was changed too often of late.
        """
        house = self._house
        now, old = time.time(), house.identity.node.key
        if sum(now - at < NEWS_LIFE_S for at in house.identity.rotations) >= MOST_CHANGES:
            raise LimitExceeded(
                f"rotations: the key was changed {MOST_CHANGES} times within 30 days, and peers"
                " that are off could not follow"
            )
        await self._clear_the_way(force=request.force)
        identity = house.identity.rotated(house.home.keys, now)
        try:
            yield messages.KeyRotated(
                device_id=device_id(identity.node.key),
                key=key_text(identity.node.key),
                old_key=key_text(old),
                peers=tuple(
                    [await _state(peer, identity.node.key) for peer in house.trust.peers()]
                ),
            )
        finally:
            # Whoever asked may have gone: the new key lies there, and must come into force.
            self._restart()

    async def _clear_the_way(self, *, force: bool) -> None:
        """What waits is signed with the old key, and would be refused from a node with another."""
        house = self._house
        queued = {peer: await house.node.queued(peer.node_key) for peer in house.trust.peers()}
        waiting = [f"{count} for {peer.name}" for peer, count in queued.items() if count]
        running = house.ledger.statistics()["running"]
        if not force and (waiting or running):
            what = [f"mail waits ({', '.join(waiting)})"] if waiting else []
            what += [f"scripts run here ({running})"] if running else []
            raise Conflict(
                f"{' and '.join(what)}: it is signed with the key that is to go",
                hint="wait until it is done, or orvalho key rotate --force, which gives it up",
            )
        for peer, count in queued.items():
            if count:
                await house.node.give_up(peer.node_key, "this node has changed its key")


async def _state(peer: Peer, new_key: Key) -> messages.PairedState:
    words = await to_thread.run_sync(check_words, new_key, peer.node_key)
    return messages.PairedState(
        name=peer.name,
        key=key_text(peer.node_key),
        relation=peer.relation,
        contexts=tuple(entry.name for entry in peer.contexts),
        check_words="-".join(words),
    )
