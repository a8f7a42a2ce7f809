"""How a run ends where it ran: what it changed, its receipt and its answer, in one commit."""

from __future__ import annotations

import hashlib
import logging
import sqlite3
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import anyio

from orvalho.contexts.changes import ContextChanged
from orvalho.contexts.history import Origin, new_commit_id
from orvalho.contexts.identity import Key, key_text
from orvalho.daemon.ending import Ending
from orvalho.daemon.house import House
from orvalho.daemon.run_news import RunNews
from orvalho.daemon.run_record import Arrival, RunRecord
from orvalho.daemon.run_words import run_over, script_error
from orvalho.errors import (
    Conflict,
    Denied,
    InvalidInput,
    LimitExceeded,
    NotFound,
    Unavailable,
    Untrusted,
)
from orvalho.peers.desk import Delivery
from orvalho.peers.envelope import EnvelopeId
from orvalho.policies.audit import Entry
from orvalho.policies.usage import Charge
from orvalho.retry import Backoff
from orvalho.scripts import runs, sources
from orvalho.scripts.messages import RunScript, ScriptEnded, encode
from orvalho.scripts.receipts import Receipt, sign_receipt
from orvalho.scripts.script import raw_source

_log = logging.getLogger(__name__)

# An answer waits for its asker as long as anything may wait.
ANSWER_LIFE_S: Final = 30 * 86_400.0

Again = Callable[[Arrival, Ending, ContextChanged], Awaitable[Ending]]
# What is charged, and the answers to send.
_Kept = tuple[Charge | None, list[EnvelopeId]]


class RunKeeper:
    """Keeps what runs came to. `again` makes a run once more whose context has changed."""

    def __init__(self, house: House, record: RunRecord, news: RunNews, again: Again) -> None:
        self._house = house
        self._record = record
        self._news = news
        self._again = again

    async def end(self, arrival: Arrival, ending: Ending) -> None:
        """One commit: the run with its receipt, the answer, and the end of its envelope. It is
        tried until it succeeds: the script itself must not run again."""
        backoff = Backoff()
        while True:
            try:
                await self._keep(arrival, ending)
                return
            except ContextChanged as error:
                ending = await self._again(arrival, ending, error)
            except (Untrusted, Conflict) as error:
                # The run id was seen before: a replay. What it computed touched nothing.
                untrusted = Untrusted(error.message, where=arrival.run)
                await self.refuse_unverified(
                    arrival.message, arrival.sender, arrival.delivery, untrusted
                )
                return
            except LimitExceeded as error:
                # The answer is too large, or its sender has too many waiting already.
                _log.warning("answer.refused", extra={"run": arrival.run, "why": error.message})
                if not arrival.lines and ending.result is None:
                    arrival.is_answered = False
                arrival.lines.clear()
                ending = Ending("limited", error, ending.usage)
            except (NotFound, InvalidInput, Denied) as error:
                # What it wrote to is there no longer, or not for writing.
                ending = Ending("failed", error, ending.usage)
            except Unavailable as error:
                if arrival.commit is not None and arrival.is_foreign:
                    # A tree that is not ours: it need not come back.
                    ending = Ending("failed", error, ending.usage)
                    continue
                _log.error("run.not-kept", extra={"run": arrival.run, "why": error.message})
                backoff.failed(0.0)
                await anyio.sleep(backoff.retry_at)

    async def _keep(self, arrival: Arrival, ending: Ending) -> None:
        house = self._house
        now = time.time()
        is_changed = _is_changed(arrival, ending)
        arrival.commit = new_commit_id(now) if is_changed else None
        receipt = self._record.receipt(arrival, ending, now)
        answer = ScriptEnded(
            run=arrival.run,
            outcome=ending.outcome,
            result=ending.result,
            is_bytes=ending.is_bytes,
            error=script_error(ending.error) if ending.error else None,
            receipt=sign_receipt(house.identity.node, receipt),
            logs=tuple(arrival.lines),
            plan=ending.plan,
            held=tuple(sources.large(arrival.message.script, arrival.message.modules).values()),
        )
        told = self._record.as_told(arrival, answer)

        def keep(connection: sqlite3.Connection) -> _Kept:
            if arrival.delivery is not None:
                arrival.delivery.done(connection)
            charge = self._record.stage_end(connection, arrival, answer, receipt)
            if arrival.delivery is None or not arrival.is_answered:
                return charge, []
            return charge, [self._answer(connection, arrival.sender, told, arrival.delivery)]

        taken = arrival.gate.taken if arrival.gate else 0
        try:
            charge, staged = await self._commit(arrival, receipt, keep)
        except BaseException:
            if arrival.gate is not None:
                arrival.gate.give_back(taken)
            raise
        if arrival.hold is not None:
            arrival.hold.settle(charge.seq if charge else None, now)
        if charge is not None:
            self._news.ended(charge)
        if staged:
            house.node.flush(self._house.trust.heir(arrival.sender), *staged)
        house.runs.closed(arrival.run)
        address = self._record.address(arrival)
        house.feed.finish(arrival.run, run_over(answer, receipt.usage, peer=address))

    async def _commit(
        self, arrival: Arrival, receipt: Receipt, keep: Callable[[sqlite3.Connection], _Kept]
    ) -> _Kept:
        """Raises: as `Committer.commit`."""
        house, workspace = self._house, arrival.workspace
        if workspace is not None and arrival.commit is not None:
            origin = Origin(
                context=workspace.context.name,
                author=receipt.caller,
                cause="run",
                at=receipt.ended_at,
                run=receipt.run,
                note=receipt.filename,
            )
            return await house.committer.commit(
                workspace, origin, keep, name="run.ended", id_=arrival.commit, turn=arrival.turn
            )
        if workspace is not None and receipt.outcome == "done" and workspace.has_looked:
            await house.committer.refuse_stale(workspace)
        return await house.store.transact("run.ended", keep)

    def _answer(
        self, connection: sqlite3.Connection, to: Key, answer: ScriptEnded, delivery: Delivery
    ) -> EnvelopeId:
        return self._house.node.stage(
            connection,
            self._house.trust.heir(to),
            "script.ended",
            encode(answer),
            expires_at=time.time() + ANSWER_LIFE_S,
            reply_to=delivery.envelope_id,
        )

    async def refuse_unverified(
        self, message: RunScript, sender: Key, delivery: Delivery | None, error: Untrusted
    ) -> None:
        """A script whose signature, target, age or novelty does not hold: told, audited, and not
        written down as a run, since nothing it says of itself is believed."""
        house = self._house
        peer = house.trust.by_key(sender)
        _log.warning("script.untrusted", extra={"why": str(error)})
        self._news.refused(peer.name if peer else None, sender, error)
        entry = Entry(
            at=time.time(),
            actor=peer.name if peer else key_text(sender),
            context="",
            action="script.run",
            object=f"sha256:{hashlib.sha256(raw_source('', message.script)).hexdigest()}",
            allowed=False,
            text=error.message,
        )
        answer = ScriptEnded(run="", outcome="refused", error=script_error(error))

        def keep(connection: sqlite3.Connection) -> list[EnvelopeId]:
            if delivery is not None:
                delivery.done(connection)
            house.audit.stage(connection, entry)
            return [self._answer(connection, sender, answer, delivery)] if delivery else []

        staged = await house.store.transact("run.refused", keep)
        if staged:
            house.node.flush(self._house.trust.heir(sender), *staged)
        if delivery is None:
            await self._end_unverified(message, error)

    async def _end_unverified(self, message: RunScript, error: Untrusted) -> None:
        """A script of this very node whose time ran out while it waited."""
        house = self._house
        for run in await house.runs.open_runs("sent"):
            bodies = await house.runs.bodies(run.id)
            if bodies.envelope == message.envelope:
                ended = ScriptEnded(run=run.id, outcome="expired", error=script_error(error))
                await house.store.transact(
                    "run.expired",
                    partial(runs.stage_ended, ended=ended, at=time.time()),
                )
                house.feed.finish(run.id, run_over(ended, None, peer=run.target))


def _is_changed(arrival: Arrival, ending: Ending) -> bool:
    """Whether there is something to commit: what did not come to a good end changes nothing."""
    workspace = arrival.workspace
    return workspace is not None and ending.outcome == "done" and workspace.is_changed
