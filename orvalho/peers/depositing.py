"""The depositor's part of the depot: mail for a peer that is away also goes to one that is not.

The envelope stays in our outbox: whichever way it takes, the recipient's mailbox takes it once.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

import anyio
import msgspec
from anyio import to_thread
from anyio.abc import TaskGroup

from orvalho.contexts.identity import Key
from orvalho.errors import OrvalhoError, Unavailable
from orvalho.peers import deposits, outbox
from orvalho.peers.blobs import Blobs, outgoing_name
from orvalho.peers.deposits import Deposit
from orvalho.peers.depot import TAKEN, Keep, OfferedPart, Taken, Verdicts, Withdraw
from orvalho.peers.envelope import Envelope, EnvelopeId, refer
from orvalho.peers.keeping import Asks, DepotTerms, read_message
from orvalho.peers.outbox import Outgoing
from orvalho.peers.parcel import Parcel, encrypt_body, offered_name, parcel_id, wrap
from orvalho.peers.sending import Sender
from orvalho.store import Store

_log = logging.getLogger(__name__)

_BATCH_COUNT: Final = 256
_BATCH_BYTES: Final = 1 << 20
_KEEP_S: Final = 30.0
# A body of 64 MiB over a slow link.
_KEEP_BODY_S: Final = 300.0
# Beyond the reasons that are told: keepers that declined are asked again.
_LOOK_S: Final = 10.0
_DECLINED_S: Final = 30.0


class Depositor:
    """Deposits what lies in the outbox for peers that are away. `linked` answers with the peers
    that are not, the nearest first."""

    def __init__(
        self,
        *,
        store: Store,
        blobs: Blobs,
        tasks: TaskGroup,
        counters: Counter[str],
        terms: DepotTerms,
        ask: Asks,
        linked: Callable[[], Sequence[Key]],
        is_linked: Callable[[Key], bool],
        sender: Sender,
    ) -> None:
        self._store = store
        self._blobs = blobs
        self._tasks = tasks
        self._counters = counters
        self._terms = terms
        self._ask = ask
        self._linked = linked
        self._is_linked = is_linked
        self._sender = sender
        self._wake = asyncio.Event()
        self._started_at = _now()
        self._away_since: dict[Key, float] = {}
        self._busy: set[Key] = set()
        # Who had more while busy.
        self._again: set[Key] = set()
        # Until when a keeper is not asked again about a recipient, and what it said.
        self._declined: dict[tuple[Key, Key], tuple[float, str]] = {}
        self._offered: dict[tuple[Key, bytes], str] = {}

    # ---- from us ----------------------------------------------------------------------------

    def wake(self, peer: Key) -> None:
        """There is more in the outbox for a peer."""
        if not self._is_linked(peer):
            self._wake.set()

    def look(self) -> None:
        """Something may have changed: deposit and withdraw what is to be."""
        self._wake.set()

    def up(self, peer: Key) -> None:
        """A link to a peer has opened."""
        self._away_since.pop(peer, None)
        self._declined = {pair: said for pair, said in self._declined.items() if peer not in pair}
        self._wake.set()

    def down(self, peer: Key) -> None:
        """The last link to a peer has ended."""
        self._away_since[peer] = _now()
        self._look_later()

    def refusal(self, peer: Key) -> str | None:
        """Why mail for a peer was not kept elsewhere the last time; None when it was."""
        said = [text for (_, recipient), (_, text) in self._declined.items() if recipient == peer]
        return said[-1] if said else None

    async def with_whom(self, peer: Key) -> dict[Key, int]:
        """Where the mail for a peer lies besides here, and how much of it."""
        return await self._store.read(partial(deposits.with_whom, peer=peer))

    async def keeper_of(self, id_: EnvelopeId) -> Key | None:
        return await self._store.read(partial(deposits.keeper_of, id_=id_))

    async def drop_peer(self, peer: Key) -> None:
        """The peer has left the book."""
        await self._store.transact("deposit.forget", partial(deposits.drop_keeper, keeper=peer))

    # ---- from others ------------------------------------------------------------------------

    async def part(self, keeper: Key, body: bytes) -> bytes:
        """Answer `depot.offered`: a part of a body; empty when it is not offered to this node."""
        asked = read_message(body, OfferedPart)
        name = self._offered.get((keeper, asked.id))
        if name is None:
            return b""
        return await to_thread.run_sync(self._blobs.part, name, asked.offset)

    def fold_taken(self, connection: sqlite3.Connection, envelope: Envelope) -> Callable[[], None]:
        """A `depot.taken` envelope, in the commit that would keep it: the recipient has collected
        envelopes of ours, or refuses them."""
        taken = read_message(envelope.body, Taken)
        peer = envelope.sender
        deposits.taken(connection, peer, [*taken.ids, *(id_ for id_, _ in taken.rejected)])
        removed = outbox.acknowledge(connection, [(peer, EnvelopeId(id_)) for id_ in taken.ids])

        def after() -> None:
            self._counters["outbox.collected"] += len(removed)
            self._tasks.start_soon(self._sender.settled, removed)
            for id_, reason in taken.rejected:
                self._tasks.start_soon(self._sender.rejected, peer, EnvelopeId(id_), reason)

        return after

    async def taken(self, envelope: Envelope, _: object) -> None:
        """The same, outside of that commit: its handler."""

        def work(connection: sqlite3.Connection) -> Callable[[], None]:
            return self.fold_taken(connection, envelope)

        (await self._store.transact("outbox.collected", work))()

    def answered(self, answers: Sequence[tuple[Key, EnvelopeId]]) -> None:
        """These envelopes of ours have been answered, so they have arrived."""

        async def settle() -> None:
            work = partial(outbox.acknowledge, pairs=answers)
            with suppress(Unavailable):  # a full disk: it is settled in another way, or expires
                await self._sender.settled(await self._store.transact("outbox.answered", work))

        self._tasks.start_soon(settle)

    # ---- the work ---------------------------------------------------------------------------

    async def run(self) -> None:
        """Look for mail to deposit, now and then and when there is a reason; a task."""
        self._look_later()
        while True:
            self._wake.clear()
            try:
                await self._look()
            except OrvalhoError as error:
                _log.warning("deposit.failed", extra={"reason": error.message})
            with anyio.move_on_after(_LOOK_S):
                await self._wake.wait()

    def _look_later(self) -> None:
        """Look again once who has just gone has been away for long enough."""
        asyncio.get_running_loop().call_later(self._terms.after_s + 0.01, self._wake.set)

    async def _look(self) -> None:
        linked = self._linked()
        keepers = [peer for peer in linked if self._terms.kept_by(peer)]
        if not keepers:
            return
        for keeper in keepers:
            await self._withdraw(keeper)
        now = _now()
        for peer in await self._store.read(deposits.waiting):
            away_s = now - self._away_since.get(peer, self._started_at)
            if peer in linked or away_s < self._terms.after_s:
                continue
            if peer in self._busy:
                self._again.add(peer)
                continue
            self._busy.add(peer)
            self._tasks.start_soon(self._deposit, peer)

    async def _deposit(self, peer: Key) -> None:
        try:
            for keeper in self._linked():
                until, _ = self._declined.get((keeper, peer), (0.0, ""))
                if keeper == peer or not self._terms.kept_by(keeper) or _now() < until:
                    continue
                try:
                    refusal = await self._deposit_with(keeper, peer)
                except Unavailable:
                    # It may be back already, so that nothing more would make us look.
                    self._look_later()
                    continue
                if not refusal:
                    return
                self._counters["deposits.declined"] += 1
                self._declined[keeper, peer] = (_now() + _DECLINED_S, refusal)
                _log.info("deposit.declined", extra={"reason": refusal})
        finally:
            self._busy.discard(peer)
            if peer in self._again:
                self._again.discard(peer)
                self._wake.set()

    async def _deposit_with(self, keeper: Key, peer: Key) -> str:
        """Deposit all that waits for a peer with one keeper; why not all of it, or nothing.

        Raises:
            Unavailable: the keeper has gone, or nothing can be written here.
        """
        place, refusal = 0, ""
        page = partial(deposits.page, peer=peer, count=_BATCH_COUNT, size_bytes=_BATCH_BYTES)
        while found := await self._store.read(partial(page, after=place)):
            if self._is_linked(peer):
                return ""
            place = found[-1].seq
            try:
                refusal = await self._hand_in(keeper, peer, found) or refusal
            except OrvalhoError as error:
                if isinstance(error, Unavailable) and error.peer is None:
                    raise
                return error.message
        return refusal

    async def _hand_in(self, keeper: Key, peer: Key, found: Sequence[Outgoing]) -> str:
        """Give some envelopes to a keeper, and write down which it has; why not all of them."""
        apart = found[-1] if found[-1].is_apart else None
        offered: tuple[Key, bytes] | None = None
        try:
            if apart is not None:
                name = await to_thread.run_sync(self._write_offer, keeper, apart)
                offered = keeper, parcel_id(apart.sealed, keeper)
                self._offered[offered] = name
            parcels = await to_thread.run_sync(self._wrap_all, keeper, found)
            body = msgspec.msgpack.encode(Keep(parcels=tuple(parcels)))
            limit_s = _KEEP_BODY_S if apart else _KEEP_S
            verdicts = read_message(
                await self._ask(keeper, "depot.keep", body, limit_s), Verdicts
            ).refusals
        finally:
            if offered is not None:
                await to_thread.run_sync(self._blobs.remove, self._offered.pop(offered))
        kept = [
            (outgoing, parcel)
            for outgoing, parcel, refusal in zip(found, parcels, verdicts, strict=False)
            if not refusal
        ]
        await self._write_down(keeper, peer, kept)
        return next((refusal for refusal in verdicts if refusal), "")

    async def _write_down(
        self, keeper: Key, peer: Key, kept: Sequence[tuple[Outgoing, Parcel]]
    ) -> None:
        made = [
            Deposit(outgoing.id, keeper, parcel.id, peer, outgoing.expires_at)
            for outgoing, parcel in kept
            if outgoing.kind != TAKEN
        ]
        # Nobody tells us that such a letter has come: it has done its duty once it is kept.
        letters = [(peer, outgoing.id) for outgoing, _ in kept if outgoing.kind == TAKEN]

        def work(connection: sqlite3.Connection) -> list[outbox.Removed]:
            deposits.made(connection, made)
            return outbox.acknowledge(connection, letters)

        removed = await self._store.transact("deposit.made", work)
        self._counters["deposits.made"] += len(made)
        await self._sender.settled(removed)

    def _write_offer(self, keeper: Key, outgoing: Outgoing) -> str:
        body = self._blobs.read(outgoing_name(outgoing.id))
        name = offered_name(outgoing.id, keeper)
        self._blobs.write(name, encrypt_body(outgoing.sealed, keeper, body))
        return name

    def _wrap_all(self, keeper: Key, found: Sequence[Outgoing]) -> list[Parcel]:
        """In a thread: sealing takes a while."""
        return [self._wrap(keeper, outgoing) for outgoing in found]

    def _wrap(self, keeper: Key, outgoing: Outgoing) -> Parcel:
        body = None
        if outgoing.is_apart:
            body = refer(self._blobs.read(offered_name(outgoing.id, keeper)))
        return wrap(
            outgoing.sealed,
            recipient=outgoing.peer,
            keeper=keeper,
            expires_at=outgoing.expires_at,
            body=body,
        )

    async def _withdraw(self, keeper: Key) -> None:
        """Tell a keeper what need not be kept any longer."""
        over = partial(deposits.over, keeper=keeper, limit=_BATCH_COUNT)
        while parcels := await self._store.read(over):
            body = msgspec.msgpack.encode(Withdraw(ids=tuple(parcels)))
            try:
                await self._ask(keeper, "depot.withdraw", body, _KEEP_S)
            except OrvalhoError as error:
                _log.info("deposit.not-withdrawn", extra={"reason": error.message})
                return
            forget = partial(deposits.forget_over, keeper=keeper, parcels=parcels)
            await self._store.transact("deposit.withdrawn", forget)


def _now() -> float:
    return asyncio.get_running_loop().time()
