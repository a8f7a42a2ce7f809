"""The pump from the links to the mailbox: check, keep, and acknowledge after the commit.

Nobody waits for a commit: what arrives while one is under way shares the next one, and one
acknowledgement. Where nothing else is before it, an envelope's handler begins at once, and the
envelope is kept only if that takes long: the handler's own end is then the one commit.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Final

from orvalho.contexts.identity import Key
from orvalho.errors import LimitExceeded, Unavailable, Untrusted
from orvalho.peers import mailbox
from orvalho.peers.channel import Bearer
from orvalho.peers.envelope import Envelope, EnvelopeId, open_sealed, refer, sender_of
from orvalho.peers.frames import Ack, Mail, Reject
from orvalho.peers.tally import Quota
from orvalho.peers.transfers import Transfers
from orvalho.store import Store

_log = logging.getLogger(__name__)

# What may wait for a commit. A peer that keeps to its window of envelopes stays far below.
_WAITING_COUNT: Final = 8192
_WAITING_BYTES: Final = 64 << 20


# How long an envelope whose handler has begun may wait to be kept. Far below what its sender waits
# before it sends it again.
_LINGER_S: Final = 0.15
_LINGER_AGAIN_S: Final = 2.0
_BEARERS: Final = 7
# Ids of what was handled of late: one that comes again is not handled once more to find that out.
_RECENT: Final = 4096

# What handles an envelope in the transaction that would keep it: on the store's thread, quickly,
# without waiting. Answers what is to be called on the event loop after the commit, or None to have
# the envelope kept for its handler after all.
Stage = Callable[[sqlite3.Connection], Callable[[], None] | None]
# Called with each envelope of a kind as it arrives: how it is to be staged, or None to have it
# kept for its handler.
Fold = Callable[[Envelope], Stage | None]


@dataclass(slots=True)
class _Arrived:
    """What waits for a commit. `stage` is its fold's; `is_begun` says that its handler works."""

    channel: Bearer
    envelope: Envelope
    stage: Stage | None = None
    is_begun: bool = False


@dataclass(slots=True)
class _Begun:
    """An envelope whose handler has begun before it was kept. `bearers` brought it, and wait for
    its acknowledgement."""

    bearers: list[Bearer]
    timer: asyncio.TimerHandle
    is_kept: bool = False


class _Staged(Enum):
    NEW = "new"
    KNOWN = "known"
    FULL = "full"


class Receiver:
    """Takes envelopes from channels. `on_new` is told of each one that is kept, once;
    `knows_kind` says whether it could be handled at all. `begin` starts the handler of one that is
    not kept yet, and answers False where others come first; `handled` is told when that is over.
    """

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
        begin: Callable[[Envelope], bool],
        formerly: frozenset[Key] = frozenset(),
    ) -> None:
        self._store = store
        self._me = me
        self._formerly = formerly
        self._clock = clock
        self._quota = quota
        self._transfers = transfers
        self._counters = counters
        self._knows_kind = knows_kind
        self._on_new = on_new
        self._begin = begin
        self._folds: dict[str, Fold] = {}
        self._begun: dict[EnvelopeId, _Begun] = {}
        self._recent: OrderedDict[EnvelopeId, None] = OrderedDict()
        self._unfolded: OrderedDict[EnvelopeId, None] = OrderedDict()
        self._waiting: list[_Arrived] = []
        self._waiting_bytes = 0
        self._wake = asyncio.Event()

    def fold(self, kind: str, fold: Fold) -> None:
        self._folds[kind] = fold

    def take(self, channel: Bearer, mail: Mail) -> None:
        """An envelope has come in."""
        try:
            if sender_of(mail.sealed) != channel.peer:
                raise Untrusted("the envelope is not from the node that sent it")
            envelope = open_sealed(
                mail.sealed,
                self._me,
                self._clock(),
                formerly=self._formerly,
                proven=channel.peer,
            )
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
            self._apart(channel, envelope, body)
        elif not self._at_once(channel, envelope):
            self._keep(_Arrived(channel, envelope))

    def handled(self, id_: EnvelopeId) -> None:
        """The handler of an envelope that `begin` took has come to its end, which is durable."""
        begun = self._begun.pop(id_, None)
        _remember(self._recent, id_)
        if begun is None:
            return
        begun.timer.cancel()
        for bearer in () if begun.is_kept else begun.bearers:
            if bearer.is_open:
                bearer.send_along(Ack(ids=(id_,)))

    async def commit(self) -> None:
        """Keep what has arrived, again and again; a task."""
        while True:
            if not self._waiting:
                self._wake.clear()
                await self._wake.wait()
            batch, self._waiting, self._waiting_bytes = self._waiting, [], 0
            try:
                # Those that are folded have been told already: only their acknowledgement waits.
                staged = await self._store.transact(
                    "mailbox.stage",
                    partial(self._stage, batch),
                    is_urgent=any(arrived.stage is None for arrived in batch),
                )
            except Unavailable as error:
                # Not acknowledged, so it comes again.
                _log.error("mailbox.failed", extra={"reason": error.message})
                continue
            self._acknowledge(batch, staged)

    def _apart(self, channel: Bearer, envelope: Envelope, body: bytes) -> None:
        """Its large body comes along, or is to be fetched."""
        is_here = bool(body) and refer(body) == envelope.blob
        if not is_here or not self._at_once(channel, envelope.with_body(body)):
            self._transfers.take(channel, envelope, body, partial(self._whole, channel, False))

    def _whole(self, channel: Bearer, is_begun: bool, envelope: Envelope) -> None:
        """Its large body is a file now."""
        self._keep(_Arrived(channel, envelope, is_begun=is_begun))

    def _at_once(self, channel: Bearer, envelope: Envelope) -> bool:
        """Do what may be done with an envelope before it is kept. False: keep it first."""
        id_ = envelope.id
        if id_ in self._begun:
            self._repeated(self._begun[id_], channel, id_)
            return True
        if envelope.kind in self._folds:
            stage = None if id_ in self._unfolded else self._fold(envelope)
            if stage is not None:
                self._keep(_Arrived(channel, envelope, stage))
            return stage is not None
        if id_ in self._recent or not self._begin(envelope):
            return False
        timer = asyncio.get_running_loop().call_later(_LINGER_S, self._linger, envelope)
        self._begun[id_] = _Begun([channel], timer)
        return True

    def _repeated(self, begun: _Begun, channel: Bearer, id_: EnvelopeId) -> None:
        self._counters["envelopes.repeated"] += 1
        if begun.is_kept:
            channel.send_along(Ack(ids=(id_,)))
        else:
            begun.bearers = [*begun.bearers[-_BEARERS:], channel]

    def _linger(self, envelope: Envelope) -> None:
        """Its handler takes long. Looked at again, should there be no room for it now."""
        begun = self._begun.get(envelope.id)
        if begun is None or begun.is_kept:
            return
        loop = asyncio.get_running_loop()
        begun.timer = loop.call_later(_LINGER_AGAIN_S, self._linger, envelope)
        if envelope.blob is None:
            self._keep(_Arrived(begun.bearers[0], envelope, is_begun=True))
        else:
            on_here = partial(self._whole, begun.bearers[0], True)
            self._transfers.take(begun.bearers[0], envelope, envelope.body, on_here)

    def _fold(self, envelope: Envelope) -> Stage | None:
        try:
            return self._folds[envelope.kind](envelope)
        except Exception:  # noqa: BLE001 -- the top of a handler; its other way tells more
            _log.exception("fold.failed", extra={"kind": envelope.kind})
            return None

    def _keep(self, arrived: _Arrived) -> None:
        size = self._waiting_bytes + len(arrived.envelope.body)
        if len(self._waiting) >= _WAITING_COUNT or size > _WAITING_BYTES:
            self._counters["envelopes.dropped"] += 1
            return
        self._waiting.append(arrived)
        self._waiting_bytes = size
        self._wake.set()

    def _stage(
        self, batch: Sequence[_Arrived], connection: sqlite3.Connection
    ) -> list[_Staged | Callable[[], None]]:
        staged: list[_Staged | Callable[[], None]] = []
        for arrived in batch:
            if (after := self._folded(connection, arrived)) is not None:
                staged.append(after)
                continue
            if arrived.stage is not None and arrived.envelope.blob is not None:
                # Its body is no file: it must come again, and is kept first then.
                is_known = mailbox.has_seen(connection, arrived.envelope.id)
                staged.append(_Staged.KNOWN if is_known else _Staged.FULL)
                continue
            staged.append(self._stage_one(connection, arrived.envelope))
        return staged

    def _stage_one(self, connection: sqlite3.Connection, envelope: Envelope) -> _Staged:
        connection.execute("SAVEPOINT mail")
        try:
            is_new = mailbox.stage(connection, envelope, self._quota)
            return _Staged.NEW if is_new else _Staged.KNOWN
        except LimitExceeded:
            return _Staged.FULL
        except sqlite3.OperationalError:
            raise  # a full disk, say: nothing of the batch can be kept
        except Exception:  # noqa: BLE001 -- one envelope must not cost the others their commit
            _log.exception("mail.unkept", extra={"kind": envelope.kind})
            connection.execute("ROLLBACK TO mail")
            return _Staged.FULL
        finally:
            if connection.in_transaction:
                connection.execute("RELEASE mail")

    def _folded(
        self, connection: sqlite3.Connection, arrived: _Arrived
    ) -> Callable[[], None] | None:
        envelope = arrived.envelope
        if arrived.stage is None:
            return None
        connection.execute("SAVEPOINT fold")
        try:
            is_new = mailbox.remember(connection, envelope)
            after = arrived.stage(connection) if is_new else None
        except Exception:  # noqa: BLE001 -- the top of a handler; its other way tells more
            _log.exception("fold.failed", extra={"kind": envelope.kind})
            after = None
        if after is None:
            connection.execute("ROLLBACK TO fold")
        connection.execute("RELEASE fold")
        return after

    def _acknowledge(
        self, batch: Sequence[_Arrived], staged: Sequence[_Staged | Callable[[], None]]
    ) -> None:
        kept: dict[Bearer, list[bytes]] = {}
        for arrived, result in zip(batch, staged, strict=True):
            if result is _Staged.FULL:
                self._counters["envelopes.postponed"] += 1
                if arrived.stage is not None:
                    _remember(self._unfolded, arrived.envelope.id)
                continue
            begun = self._begun.get(arrived.envelope.id) if arrived.is_begun else None
            for bearer in begun.bearers if begun else [arrived.channel]:
                kept.setdefault(bearer, []).append(arrived.envelope.id)
            if begun:
                begun.is_kept = True
            elif result is _Staged.KNOWN:
                self._counters["envelopes.repeated"] += 1
        for channel, ids in kept.items():
            if channel.is_open:
                channel.send_along(Ack(ids=tuple(ids)))
        for arrived, result in zip(batch, staged, strict=True):
            if result is _Staged.NEW:
                if not arrived.is_begun:
                    self._on_new(arrived.envelope)
            elif not isinstance(result, _Staged):
                result()


def _remember(ids: OrderedDict[EnvelopeId, None], id_: EnvelopeId) -> None:
    ids[id_] = None
    if len(ids) > _RECENT:
        ids.popitem(last=False)
