"""The three parts of the depot on one node, wired: depositor, keeper and recipient."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

from anyio.abc import TaskGroup

from orvalho.contexts.identity import Key, Signer
from orvalho.peers import depot
from orvalho.peers.blobs import Blobs
from orvalho.peers.channel import Channel
from orvalho.peers.collecting import Collector, Flush, Stage
from orvalho.peers.depositing import Depositor
from orvalho.peers.depot import TAKEN
from orvalho.peers.desk import Desk
from orvalho.peers.dispatch import Dispatch
from orvalho.peers.keeping import Asks, DepotTerms, Keeper
from orvalho.peers.links import Links, PeerBook
from orvalho.peers.parcel import kept_name
from orvalho.peers.receiving import Receiver
from orvalho.peers.sending import Sender
from orvalho.store import Store


class Depots:
    """Made by a Node, which tells it of links and of time passing."""

    def __init__(
        self,
        *,
        store: Store,
        blobs: Blobs,
        tasks: TaskGroup,
        counters: Counter[str],
        signer: Signer,
        formerly: frozenset[Key],
        clock: Callable[[], float],
        terms: DepotTerms,
        book: PeerBook,
        links: Links,
        dispatch: Dispatch,
        ask: Asks,
        sender: Sender,
        receiver: Receiver,
        desk: Desk,
        stage: Stage,
        flush: Flush,
    ) -> None:
        self._links = links
        self.depositor = Depositor(
            store=store,
            blobs=blobs,
            tasks=tasks,
            counters=counters,
            terms=terms,
            ask=ask,
            linked=self._linked,
            is_linked=self._is_linked,
            sender=sender,
        )
        self.keeper = Keeper(
            store=store,
            blobs=blobs,
            tasks=tasks,
            counters=counters,
            clock=clock,
            terms=terms,
            ask=ask,
            peers=book.peers,
            is_linked=self._is_linked,
        )
        collector = Collector(
            store=store,
            blobs=blobs,
            counters=counters,
            signer=signer,
            formerly=formerly,
            clock=clock,
            ask=ask,
            peers=book.peers,
            receiver=receiver,
            stage=stage,
            flush=flush,
            on_reply=self.depositor.answered,
        )
        dispatch.answer("depot.keep", self.keeper.keep)
        dispatch.answer("depot.withdraw", self.keeper.withdraw)
        dispatch.answer("depot.kept", self.keeper.part)
        dispatch.answer("depot.offered", self.depositor.part)
        dispatch.answer("depot.collect", collector.collect)
        desk.handle(TAKEN, self.depositor.taken)
        receiver.fold(TAKEN, lambda mail: partial(self.depositor.fold_taken, envelope=mail))

    def up(self, channel: Channel) -> None:
        """A channel has opened."""
        self.keeper.up(channel.peer)
        self.depositor.up(channel.peer)

    def down(self, channel: Channel) -> None:
        """A channel has ended."""
        if not self._is_linked(channel.peer):
            self.keeper.wake(channel.peer)
            self.depositor.down(channel.peer)

    async def drop_peer(self, peer: Key) -> None:
        """The peer has left the book."""
        await self.keeper.drop_peer(peer)
        await self.depositor.drop_peer(peer)

    def _linked(self) -> Sequence[Key]:
        """The peers that can be asked now, the nearest first."""

        def distance(peer: Key) -> tuple[bool, float]:
            channel = self._links.best(peer)
            rtt_s = channel.rtt_s if channel else None
            return rtt_s is None, rtt_s or 0.0

        return sorted(filter(self._is_linked, self._links.online()), key=distance)

    def _is_linked(self, peer: Key) -> bool:
        return self._links.best(peer) is not None


def files(connection: sqlite3.Connection) -> set[str]:
    """The files that rows of the depot need."""
    return {kept_name(depositor, id_) for depositor, id_ in depot.apart(connection)}
