"""The pump from the links to the mailbox: check, keep, and acknowledge after the commit.

Nobody waits for a commit: what arrives while one is under way shares the next one, and one
acknowledgement.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections import Counter
from collections.abc import Callable, Sequence
from enum import Enum
from functools import partial
from typing import Final

from orvalho.contexts.identity import Key
from orvalho.errors import LimitExceeded, Unavailable, Untrusted
from orvalho.peers import mailbox
from orvalho.peers.channel import Bearer, Channel
from orvalho.peers.envelope import Envelope, open_sealed, sender_of
from orvalho.peers.frames import Ack, Mail, Reject
from orvalho.peers.tally import Quota
from orvalho.peers.transfers import Transfers
from orvalho.store import Store

_log = logging.getLogger(__name__)

# What may wait for a commit. A peer that keeps to its window of envelopes stays far below.
_WAITING_COUNT: Final = 8192
_WAITING_BYTES: Final = 64 << 20


# Handles an envelope in the very transaction that would keep it: on the store's thread, quickly,
# without waiting. Answers what is to be called on the event loop after the commit, or None to have
# the envelope kept for its handler after all.
Fold = Callable[[sqlite3.Connection, Envelope], Callable[[], None] | None]


class _Staged(Enum):
    NEW = "new"
    KNOWN = "known"
    FULL = "full"


class Receiver:
    """Takes envelopes from channels. `on_new` is told of each one that is kept, once;
    `knows_kind` says whether it could be handled at all."""

    def __init__(
        self,
        *,
        store: Store,
        me: Key,
        clock: Callable[[], float],
        quota: Quota,
        transfers: Transfers,
        counters: Counter[str],
        knows_kind: Callable[[str], bool],
        on_new: Callable[[Envelope], None],
    ) -> None:
        self._store = store
        self._me = me
        self._clock = clock
        self._quota = quota
        self._transfers = transfers
        self._counters = counters
        self._knows_kind = knows_kind
        self._on_new = on_new
        self._folds: dict[str, Fold] = {}
        self._waiting: list[tuple[Bearer, Envelope]] = []
        self._waiting_bytes = 0
        self._wake = asyncio.Event()

    def fold(self, kind: str, fold: Fold) -> None:
        self._folds[kind] = fold

    def take(self, channel: Channel, mail: Mail) -> None:
        """An envelope has come in."""
        try:
            if sender_of(mail.sealed) != channel.peer:
                raise Untrusted("the envelope is not from the node that sent it")
            envelope = open_sealed(mail.sealed, self._me, self._clock())
        except (Untrusted, LimitExceeded) as error:
            self._counters[f"envelopes.refused: {error.message}"] += 1
            return
        self.accept(channel, envelope, mail.body)

    def accept(self, channel: Bearer, envelope: Envelope, body: bytes) -> None:
        """An envelope that has been checked. `body` comes along if it is kept apart, or is empty
        and then fetched from a channel; nobody else is asked for one."""
        if not self._knows_kind(envelope.kind):
            self._counters["envelopes.refused: of an unknown kind"] += 1
            channel.send(Reject(id=envelope.id, reason=f'nobody handles "{envelope.kind}" there'))
        elif envelope.blob is not None:
            self._transfers.take(channel, envelope, body, partial(self._keep, channel))
        else:
            self._keep(channel, envelope)

    async def commit(self) -> None:
        """Keep what has arrived, again and again; a task."""
        while True:
            if not self._waiting:
                self._wake.clear()
                await self._wake.wait()
            batch, self._waiting, self._waiting_bytes = self._waiting, [], 0
            try:
                staged = await self._store.transact("mailbox.stage", partial(self._stage, batch))
            except Unavailable as error:
                # Not acknowledged, so it comes again.
                _log.error("mailbox.failed", extra={"reason": error.message})
                continue
            self._acknowledge(batch, staged)

    def _keep(self, channel: Bearer, envelope: Envelope) -> None:
        size = self._waiting_bytes + len(envelope.body)
        if len(self._waiting) >= _WAITING_COUNT or size > _WAITING_BYTES:
            self._counters["envelopes.dropped"] += 1
            return
        self._waiting.append((channel, envelope))
        self._waiting_bytes = size
        self._wake.set()

    def _stage(
        self, batch: Sequence[tuple[Bearer, Envelope]], connection: sqlite3.Connection
    ) -> list[_Staged | Callable[[], None]]:
        staged: list[_Staged | Callable[[], None]] = []
        for _, envelope in batch:
            if (after := self._folded(connection, envelope)) is not None:
                staged.append(after)
                continue
            try:
                is_new = mailbox.stage(connection, envelope, self._quota)
                staged.append(_Staged.NEW if is_new else _Staged.KNOWN)
            except LimitExceeded:
                staged.append(_Staged.FULL)
        return staged

    def _folded(
        self, connection: sqlite3.Connection, envelope: Envelope
    ) -> Callable[[], None] | None:
        fold = self._folds.get(envelope.kind)
        if fold is None or envelope.blob is not None or mailbox.has_seen(connection, envelope.id):
            return None
        connection.execute("SAVEPOINT fold")
        try:
            mailbox.remember(connection, envelope)
            after = fold(connection, envelope)
        except Exception:  # noqa: BLE001 -- the top of a handler; its other way tells more
            _log.exception("fold.failed", extra={"kind": envelope.kind})
            after = None
        if after is None:
            connection.execute("ROLLBACK TO fold")
        connection.execute("RELEASE fold")
        return after

    def _acknowledge(
        self,
        batch: Sequence[tuple[Bearer, Envelope]],
        staged: Sequence[_Staged | Callable[[], None]],
    ) -> None:
        kept: dict[Bearer, list[bytes]] = {}
        for (channel, envelope), result in zip(batch, staged, strict=True):
            if result is _Staged.FULL:
                self._counters["envelopes.postponed"] += 1
                continue
            kept.setdefault(channel, []).append(envelope.id)
            if result is _Staged.KNOWN:
                self._counters["envelopes.repeated"] += 1
        for channel, ids in kept.items():
            if channel.is_open:
                channel.send_along(Ack(ids=tuple(ids)))
        for (_, envelope), result in zip(batch, staged, strict=True):
            if result is _Staged.NEW:
                self._on_new(envelope)
            elif not isinstance(result, _Staged):
                result()
