"""The keeper's part of the depot: keep parcels for peers, and hand them over when they are there.

A keeper acts on nothing that it keeps. It could drop, delay, repeat or reorder parcels; it cannot
read or change them, and their recipient takes each once.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol, TypeVar

import anyio
import msgspec
from anyio import to_thread
from anyio.abc import TaskGroup

from orvalho.contexts.identity import Key
from orvalho.errors import Denied, InvalidInput, LimitExceeded, NotFound, OrvalhoError
from orvalho.peers import deposits, depot, tally
from orvalho.peers.blobs import Blobs
from orvalho.peers.depot import (
    Collect,
    Keep,
    KeptPart,
    OfferedPart,
    Pile,
    Places,
    Removed,
    Verdicts,
    Withdraw,
    Withdrawn,
)
from orvalho.peers.envelope import (
    INLINE_BYTES,
    MAX_BODY_BYTES,
    MAX_LIFETIME_S,
    SKEW_S,
    BlobRef,
)
from orvalho.peers.fetching import fetch_body
from orvalho.peers.parcel import ID_BYTES, SEAL_BYTES, TAG_BYTES, Parcel, kept_name
from orvalho.peers.tally import Box, Quota
from orvalho.peers.wire import UNREADABLE
from orvalho.retry import Backoff
from orvalho.store import Store

_log = logging.getLogger(__name__)

M = TypeVar("M")

_COLLECT_S: Final = 60.0
_PART_S: Final = 30.0
# An envelope that is not kept apart, sealed: its own prefix and header, its body, the box.
_CONTENT_BYTES: Final = INLINE_BYTES + 2048 + SEAL_BYTES
_FETCHES_PER_PEER: Final = 4
_BATCH_COUNT: Final = 1024
_RETRY_FIRST_S: Final = 1.0
_RETRY_LIMIT_S: Final = 60.0


class Asks(Protocol):
    """Ask a linked peer.

    Raises:
        OrvalhoError: Unavailable when it is not linked or does not answer in time, and whatever
            its answerer raised.
    """

    async def __call__(self, to: Key, kind: str, body: bytes, timeout_s: float) -> bytes: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class DepotTerms:
    """For whom we keep mail, and who keeps ours. `keeps_for` says of a peer whether it may
    deposit here, `kept_by` whether ours may be deposited there; both answer from memory, as of
    now. A peer has been away for `after_s` before its mail is deposited."""

    keeps_for: Callable[[Key], bool] = lambda _: False
    kept_by: Callable[[Key], bool] = lambda _: False
    quota: Callable[[], Quota] = lambda: Quota(count=1000, bytes=64 << 20)
    after_s: float = 1.0


class Keeper:
    """Keeps parcels, and runs a pump to each recipient that is linked."""

    def __init__(
        self,
        *,
        store: Store,
        blobs: Blobs,
        tasks: TaskGroup,
        counters: Counter[str],
        clock: Callable[[], float],
        terms: DepotTerms,
        ask: Asks,
        peers: Callable[[], Collection[Key]],
        is_linked: Callable[[Key], bool],
    ) -> None:
        self._store = store
        self._blobs = blobs
        self._tasks = tasks
        self._counters = counters
        self._clock = clock
        self._terms = terms
        self._ask = ask
        self._peers = peers
        self._is_linked = is_linked
        self._wakes: dict[Key, asyncio.Event] = {}
        self._fetching: Counter[Key] = Counter()

    # ---- what a depositor asks --------------------------------------------------------------

    async def keep(self, depositor: Key, body: bytes) -> bytes:
        """Answer `depot.keep`.

        Raises:
            Denied: nothing is kept for this node.
            InvalidInput: this is no such request.
        """
        if not self._terms.keeps_for(depositor):
            raise Denied("no mail is kept here for this node", hint="orvalho config show")
        parcels = bounded(read_message(body, Keep).parcels)
        refusals = [self._flaw(parcel) for parcel in parcels]
        for number, parcel in enumerate(parcels):
            if not refusals[number] and parcel.body is not None:
                refusals[number] = await self._fetch(depositor, parcel, parcel.body)
        work = partial(
            _keep_all,
            depositor=depositor,
            parcels=parcels,
            refusals=refusals,
            quota=self._terms.quota(),
        )
        refusals = await self._store.transact("depot.keep", work)
        self._counters["depot.kept"] += refusals.count("")
        self._counters["depot.refused"] += len(refusals) - refusals.count("")
        for recipient in {parcel.recipient for parcel in parcels}:
            self.wake(Key(recipient))
        return msgspec.msgpack.encode(Verdicts(refusals=tuple(refusals)))

    async def withdraw(self, depositor: Key, body: bytes) -> bytes:
        """Answer `depot.withdraw`."""
        ids = bounded(read_message(body, Withdraw).ids)
        removed = await self._store.transact(
            "depot.withdraw", partial(depot.withdraw, depositor=depositor, ids=ids)
        )
        await self._discard(removed)
        return msgspec.msgpack.encode(Withdrawn(count=len(removed)))

    def _flaw(self, parcel: Parcel) -> str:
        """Why a parcel is not kept, by its outside; empty when nothing speaks against it."""
        if parcel.recipient not in self._peers():
            return "its recipient is no peer here"
        if len(parcel.id) != ID_BYTES or not SEAL_BYTES < len(parcel.content) <= _CONTENT_BYTES:
            return "it is malformed"
        if parcel.body_bytes and not (
            INLINE_BYTES < parcel.body_bytes <= MAX_BODY_BYTES + TAG_BYTES
            and len(parcel.body_sha256) == 32
        ):
            return "it is malformed"
        now = self._clock()
        # Written so that a moment that is no number fails.
        if not now < parcel.expires_at < now + MAX_LIFETIME_S + SKEW_S:
            return "it has expired, or lives for too long"
        return ""

    async def _fetch(self, depositor: Key, parcel: Parcel, blob: BlobRef) -> str:
        """Bring the body of a parcel here; why not, or an empty text."""
        held = await self._store.read(partial(tally.held, box=Box.DEPOT, peer=depositor))
        quota = self._terms.quota()
        if held.bytes + parcel.size_bytes > quota.bytes:
            return f"depot-bytes: {held.bytes} bytes are waiting already, of {quota.bytes}"
        if self._fetching[depositor] >= _FETCHES_PER_PEER:
            return "too many bodies are on their way already"

        async def part(offset: int) -> bytes:
            asked = OfferedPart(id=parcel.id, offset=offset)
            return await self._ask(
                depositor, "depot.offered", msgspec.msgpack.encode(asked), _PART_S
            )

        self._fetching[depositor] += 1
        try:
            await fetch_body(self._blobs, kept_name(depositor, parcel.id), blob, part)
        except OrvalhoError as error:
            return error.message
        finally:
            self._fetching[depositor] -= 1
        return ""

    # ---- what a recipient asks --------------------------------------------------------------

    async def part(self, recipient: Key, body: bytes) -> bytes:
        """Answer `depot.kept`: a part of a body; empty when there is none."""
        asked = read_message(body, KeptPart)
        found = await self._store.read(
            partial(depot.body_of, recipient=recipient, place=asked.place)
        )
        if found is None:
            return b""
        return await to_thread.run_sync(self._blobs.part, kept_name(*found), asked.offset)

    # ---- handing over -----------------------------------------------------------------------

    def up(self, recipient: Key) -> None:
        """A link to a peer has opened."""
        if recipient in self._wakes:
            self.wake(recipient)
            return
        self._wakes[recipient] = asyncio.Event()
        self._tasks.start_soon(self._pump, recipient, self._wakes[recipient])

    def wake(self, recipient: Key) -> None:
        """There is more for a peer, or it may have gone."""
        if recipient in self._wakes:
            self._wakes[recipient].set()

    async def _pump(self, recipient: Key, wake: asyncio.Event) -> None:
        backoff = Backoff(_RETRY_FIRST_S, _RETRY_LIMIT_S)
        try:
            while self._is_linked(recipient):
                wake.clear()
                try:
                    left = await self._hand_over(recipient)
                except NotFound:
                    return  # it does not know what a depot is
                except OrvalhoError as error:
                    _log.info("depot.postponed", extra={"reason": error.message})
                    left = True
                if not left:
                    backoff.succeeded()
                    await wake.wait()
                    continue
                backoff.failed(_now())
                with anyio.move_on_after(backoff.retry_at - _now()):
                    await wake.wait()
        finally:
            del self._wakes[recipient]

    async def _hand_over(self, recipient: Key) -> bool:
        """Offer all that is kept for a peer, once; whether it left something here."""
        place, left = 0, False
        while page := await self._store.read(partial(depot.page, recipient=recipient, after=place)):
            offer = Collect(items=tuple(page))
            answer = await self._ask(
                recipient, "depot.collect", msgspec.msgpack.encode(offer), _COLLECT_S
            )
            offered = {item.place for item in page}
            # Only what was offered: the answer is somebody else's.
            taken = tuple(offered.intersection(read_message(answer, Places).places))
            removed = await self._store.transact(
                "depot.taken", partial(depot.take, recipient=recipient, places=taken)
            )
            self._counters["depot.handed-over"] += len(removed)
            await self._discard(removed)
            left = left or len(removed) < len(page)
            place = page[-1].place
        return left

    # ---- the owner's hand -------------------------------------------------------------------

    async def piles(self) -> list[Pile]:
        """What is kept here, by recipient and depositor."""
        return await self._store.read(depot.piles)

    async def drop_pile(self, depositor: Key, recipient: Key) -> int:
        """Throw away what one node deposited for another; how many parcels that were."""
        work = partial(depot.drop_pile, depositor=depositor, recipient=recipient)
        removed = await self._store.transact("depot.drop", work)
        await self._discard(removed)
        return len(removed)

    async def drop_peer(self, peer: Key) -> None:
        """The peer has left the book."""
        removed = await self._store.transact("depot.forget", partial(depot.drop_peer, peer=peer))
        await self._discard(removed)

    async def expire(self, now: float) -> None:
        """Throw away what has outlived itself, and forget which of ours lay elsewhere until it
        did: one commit, since it happens every few seconds."""

        def work(connection: sqlite3.Connection) -> list[Removed]:
            deposits.expire(connection, now)
            return depot.expire(connection, now)

        removed = await self._store.transact("depot.expire", work)
        if removed:
            self._counters["depot.expired"] += len(removed)
        await self._discard(removed)

    async def _discard(self, removed: Sequence[Removed]) -> None:
        names = [kept_name(each.depositor, each.id) for each in removed if each.body_bytes]
        if names:
            await to_thread.run_sync(self._blobs.remove, *names)


def read_message(body: bytes, kind: type[M]) -> M:
    """Raises:
    InvalidInput: this is no such message.
    """
    try:
        return msgspec.msgpack.decode(body, type=kind)
    except UNREADABLE as error:
        raise InvalidInput(f"a message of the depot is malformed: {error}") from error


def bounded(batch: tuple[M, ...]) -> tuple[M, ...]:
    """Raises:
    LimitExceeded: depot-batch.
    """
    if len(batch) > _BATCH_COUNT:
        raise LimitExceeded(f"depot-batch: at most {_BATCH_COUNT} at once, not {len(batch)}")
    return batch


def _keep_all(
    connection: sqlite3.Connection,
    depositor: Key,
    parcels: Sequence[Parcel],
    refusals: Sequence[str],
    quota: Quota,
) -> list[str]:
    """Keep those that nothing speaks against; what speaks against the others."""
    results = list(refusals)
    for number, parcel in enumerate(parcels):
        if not results[number]:
            try:
                depot.keep(connection, depositor, parcel, quota)
            except LimitExceeded as error:
                results[number] = error.message
    return results


def _now() -> float:
    return asyncio.get_running_loop().time()
