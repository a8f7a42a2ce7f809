"""Scripts that wait for the owner's word: kept with what they would change, accepted, rejected.

A held script has run, in a workspace that nothing came of. Accepting it commits exactly that, if
what it read and changes is still as it was; it does not run again. It is kept in the transaction
that would have kept its end, and ends in the one that commits it.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from typing import Final

import msgspec
from anyio import to_thread

from orvalho.contexts import contents as contents_table
from orvalho.contexts.changes import ContextChanged
from orvalho.contexts.history import Origin, new_commit_id
from orvalho.contexts.identity import Key, key_text
from orvalho.contexts.workspace import FrozenWorkspace, Workspace
from orvalho.control.planning import RunHeld
from orvalho.daemon.ending import Ending
from orvalho.daemon.house import House
from orvalho.daemon.run_keeping import ANSWER_LIFE_S
from orvalho.daemon.run_record import Arrival, RunRecord
from orvalho.daemon.run_words import digest_of, run_over, script_error
from orvalho.errors import Conflict, Denied, LimitExceeded, NotFound, OrvalhoError, ScriptFailed
from orvalho.peers.envelope import EnvelopeId
from orvalho.policies import usage
from orvalho.policies.audit import Entry
from orvalho.scripts import held_runs, runs
from orvalho.scripts.held_runs import HeldRun
from orvalho.scripts.messages import ScriptEnded, ScriptHeld, encode
from orvalho.scripts.plan import stage_plan
from orvalho.scripts.receipts import Receipt, sign_receipt

# So many of one sender wait at most.
MOST_OF_ONE: Final = 64
# What the audit log calls the owner's part in it, for which there are no rules.
HELD: Final = "script.held"
WAITS: Final = "is held until the owner has looked at it"
VOID: Final = "the context has changed since the plan, which is void"


class Holding:
    """The runs of one node that are held."""

    def __init__(self, house: House, record: RunRecord) -> None:
        self._house = house
        self._record = record

    async def hold(self, arrival: Arrival, ending: Ending) -> None:
        """Keep a run that came to a good end, with its plan.

        Raises:
            Untrusted, Conflict: the run's id was seen before.
            LimitExceeded: too many of its sender's are held.
            Unavailable: the disk does not take it.
        """
        house, now = self._house, time.time()
        workspace = arrival.workspace or house.workspace(
            house.contexts.get(arrival.script.call.target.context)
        )
        frozen, contents = workspace.freeze()

        def keep_large() -> None:
            for content in contents:
                house.committer.contents.keep_large(content)

        await to_thread.run_sync(keep_large)
        receipt = self._record.receipt(arrival, ending, now)
        held = HeldRun(
            run=arrival.run,
            at=now,
            context=workspace.context.name,
            sender=arrival.sender,
            envelope=arrival.delivery.envelope_id if arrival.delivery else None,
            rule=arrival.held_by.where if arrival.held_by else None,
            rule_text=arrival.held_by.text if arrival.held_by else None,
            frozen=frozen,
            plan=ending.plan or b"",
            result=ending.result,
            is_bytes=ending.is_bytes,
            logs=tuple(arrival.lines),
            receipt=receipt,
            charge=self._record.charge(arrival, receipt),
        )

        def keep(connection: sqlite3.Connection) -> list[EnvelopeId]:
            if held_runs.count_of(connection, key_text(arrival.sender)) >= MOST_OF_ONE:
                raise LimitExceeded(
                    f"held: {MOST_OF_ONE} scripts of this sender wait for the owner already",
                    hint="orvalho script cancel",
                )
            if arrival.delivery is not None:
                arrival.delivery.done(connection)
            self._record.stage_held(connection, arrival, now)
            contents_table.stage(connection, contents)
            stage_plan(connection, arrival.run, held.plan)
            held_runs.stage_held(connection, held, [each.sha256 for each in contents])
            runs.stage_output(connection, held.logs)
            self._stage_note(connection, held, now, WAITS)
            if arrival.delivery is None:
                return []
            # Not its lines: they may say what it has read.
            told = ScriptHeld(run=held.run)
            return [self._stage_mail(connection, held, "script.held", told)]

        staged = await house.store.transact("run.held", keep)
        house.runs.closed(arrival.run)
        if staged:
            house.node.flush(house.trust.heir(arrival.sender), *staged)
        else:
            house.feed.publish(arrival.run, RunHeld(run=held.run, to=receipt.target))

    async def all(self) -> list[HeldRun]:
        """The oldest first."""
        return await self._house.store.read(held_runs.all_held)

    async def get(self, run: str) -> HeldRun:
        """Raises:
        NotFound: it is not held.
        """
        found = await self._house.store.read(lambda connection: held_runs.held(connection, run))
        if found is None:
            raise NotFound(f"{run} is not held", where=run, hint="orvalho inbox")
        return found

    async def accept(self, run: str) -> Receipt:
        """Commit exactly what was planned, and give its sender the result.

        Raises:
            NotFound: it is not held.
            Conflict: what it read or changes is not any more as it was: the run has ended so.
            LimitExceeded, Unavailable: the context cannot take it now; it stays held.
        """
        held = await self.get(run)
        house, now = self._house, time.time()
        try:
            workspace = await self._workspace(held)
        except ContextChanged as error:
            raise await self._void(held, error) from error
        id_ = new_commit_id(now) if workspace.is_changed else None
        receipt = self._receipt(held, "done", now, commit=id_)
        answer = self._answer(held, receipt, result=held.result)
        origin = Origin(
            context=held.context,
            author=held.receipt.caller,
            cause="accept",
            at=now,
            run=run,
            note=held.receipt.filename,
        )
        end = self._end(held, answer, receipt, "accepted by the owner")
        try:
            if id_ is not None:
                staged = await house.committer.commit(
                    workspace, origin, end, name="run.accepted", id_=id_
                )
            else:
                staged = await house.store.transact("run.accepted", end)
        except ContextChanged as error:
            raise await self._void(held, error) from error
        self._tell(held, answer, receipt, staged)
        return receipt

    async def reject(self, run: str, reason: str) -> None:
        """Drop what was planned, and tell its sender why.

        Raises:
            NotFound: it is not held.
        """
        held = await self.get(run)
        words = f"the owner of {self._house.name} rejected it" + (f": {reason}" if reason else "")
        await self._finish(held, "rejected", Denied(words), _rejected(reason))

    async def cancel(self, run: str, teller: Key) -> bool:
        """Its sender takes it back; False when it is not held, or another's."""
        found = await self._house.store.read(lambda connection: held_runs.held(connection, run))
        if found is None or self._house.trust.heir(Key(found.sender)) != teller:
            return False
        await self._finish(
            found, "cancelled", ScriptFailed("the run was cancelled"), "taken back by its sender"
        )
        return True

    async def part_from(self, node_key: Key) -> None:
        """Its sender is a peer no longer: nothing comes of what waits."""
        error = Denied("its sender is a peer no longer")
        for held in await self.all():
            if node_key in (held.sender, self._house.trust.heir(Key(held.sender))):
                await self._finish(held, "rejected", error, "rejected: its sender is forgotten")

    async def _void(self, held: HeldRun, why: ContextChanged) -> Conflict:
        """End it, since it fits no more; what the owner is told."""
        void = Conflict(f"{VOID}: {why.message}", where=why.where, hint="send it again")
        await self._finish(held, "failed", void, "accepted, but the plan was void")
        return Conflict(
            void.message,
            where=why.where,
            hint=f"its sender is told; {held.receipt.caller} may send it again",
        )

    async def _finish(self, held: HeldRun, outcome: str, error: OrvalhoError, words: str) -> None:
        receipt = self._receipt(held, outcome, time.time(), error=error.code)
        answer = self._answer(held, receipt, error=error)
        end = self._end(held, answer, receipt, words)
        staged = await self._house.store.transact("run.unheld", end)
        self._tell(held, answer, receipt, staged)

    async def _workspace(self, held: HeldRun) -> Workspace:
        house = self._house
        frozen = msgspec.msgpack.decode(held.frozen, type=FrozenWorkspace)
        contents = {
            sha256: await house.committer.contents.content(sha256, size_bytes)
            for sha256, size_bytes in frozen.contents().items()
        }
        workspace = house.workspace(house.contexts.get(held.context))
        await to_thread.run_sync(workspace.thaw, frozen, contents)
        return workspace

    def _receipt(
        self,
        held: HeldRun,
        outcome: str,
        now: float,
        *,
        error: str | None = None,
        commit: str | None = None,
    ) -> Receipt:
        is_done = outcome == "done"
        return msgspec.structs.replace(
            held.receipt,
            outcome=outcome,
            error=error,
            ended_at=now,
            commit=commit,
            result_sha256=digest_of(held.result) if is_done else None,
            output_sha256=held.receipt.output_sha256 if is_done else None,
            plan_sha256=None,
        )

    def _answer(
        self,
        held: HeldRun,
        receipt: Receipt,
        *,
        result: bytes | None = None,
        error: OrvalhoError | None = None,
    ) -> ScriptEnded:
        return ScriptEnded(
            run=held.run,
            outcome=receipt.outcome,
            result=result,
            is_bytes=held.is_bytes and result is not None,
            error=script_error(error) if error else None,
            receipt=sign_receipt(self._house.identity.node, receipt),
            logs=held.logs if receipt.outcome == "done" else (),
        )

    def _end(
        self, held: HeldRun, answer: ScriptEnded, receipt: Receipt, words: str
    ) -> Callable[[sqlite3.Connection], list[EnvelopeId]]:
        def end(connection: sqlite3.Connection) -> list[EnvelopeId]:
            if not held_runs.stage_released(connection, held.run):
                raise NotFound(f"{held.run} is not held any more", where=held.run)
            runs.stage_ended(connection, answer, at=receipt.ended_at, usage=receipt.usage)
            charge = msgspec.structs.replace(
                held.charge, at=receipt.ended_at, outcome=receipt.outcome
            )
            usage.stage(connection, charge)
            self._stage_note(connection, held, receipt.ended_at, words)
            if held.envelope is None:
                return []
            return [self._stage_mail(connection, held, "script.ended", answer)]

        return end

    def _stage_mail(
        self,
        connection: sqlite3.Connection,
        held: HeldRun,
        kind: str,
        body: ScriptEnded | ScriptHeld,
    ) -> EnvelopeId:
        house = self._house
        assert held.envelope is not None, "a run of this node needs no mail"
        return house.node.stage(
            connection,
            house.trust.heir(Key(held.sender)),
            kind,
            encode(body),
            expires_at=time.time() + ANSWER_LIFE_S,
            reply_to=EnvelopeId(held.envelope),
        )

    def _stage_note(
        self, connection: sqlite3.Connection, held: HeldRun, now: float, words: str
    ) -> None:
        entry = Entry(
            at=now,
            actor=held.receipt.caller,
            context=held.context,
            action=HELD,
            object=f"sha256:{held.receipt.script_sha256}",
            allowed="rejected" not in words,
            rule=held.rule,
            run=held.run,
            rule_text=held.rule_text,
            text=f"{held.receipt.filename}: {words}",
        )
        self._house.audit.stage(connection, entry)

    def _tell(
        self, held: HeldRun, answer: ScriptEnded, receipt: Receipt, staged: list[EnvelopeId]
    ) -> None:
        house = self._house
        if staged:
            house.node.flush(house.trust.heir(Key(held.sender)), *staged)
        house.runs.closed(held.run)
        house.feed.finish(held.run, run_over(answer, receipt.usage, peer=receipt.target))


def _rejected(reason: str) -> str:
    return "rejected by the owner" + (f": {reason}" if reason else "")
