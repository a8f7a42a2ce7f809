"""A peer's script: verify, decide, grant, reserve, run, keep. In that order.

A run happens once. Before its first effect its mark "started" is durable (`RunGate`); when a crash
cuts it before that, its envelope is still in the mailbox and it runs again, having done nothing;
after that, it ends as `interrupted`. Receipt, answer and the end of the envelope are one commit.
"""

from __future__ import annotations

import hashlib
import logging
import sqlite3
import time
from collections.abc import Mapping
from typing import Final

import anyio
import anyio.abc

from orvalho.contexts.context import Context
from orvalho.contexts.identity import Key, key_text
from orvalho.contexts.trust import Peer
from orvalho.control.messages import RunOutput
from orvalho.daemon.ending import CANCELLED, INTERRUPTED, Ending
from orvalho.daemon.handlers.target_calls import CallTable, caller_calls, target_calls
from orvalho.daemon.house import House
from orvalho.daemon.limits import allowance
from orvalho.daemon.run_gate import RunGate
from orvalho.daemon.run_record import Arrival, RunRecord
from orvalho.daemon.run_words import run_over, script_error
from orvalho.daemon.subjects import own_subject, peer_subject
from orvalho.errors import (
    LimitExceeded,
    NotFound,
    OrvalhoError,
    Unavailable,
    Untrusted,
)
from orvalho.peers.desk import Delivery
from orvalho.peers.envelope import Envelope, EnvelopeId
from orvalho.policies.access import AccessRequest, Decision, Subject
from orvalho.policies.audit import Entry
from orvalho.policies.capability import Capability, Grants, grant
from orvalho.policies.explain import refusal
from orvalho.policies.quota import narrow
from orvalho.runtime.job import Ended, HostCall, Job, Output
from orvalho.scripts import runs
from orvalho.scripts.messages import (
    CancelScript,
    RunScript,
    ScriptEnded,
    ScriptOutput,
    decode,
    encode,
)
from orvalho.scripts.receipts import sign_receipt
from orvalho.scripts.signing import VerifiedScript, verify_script

_log = logging.getLogger(__name__)

# An answer waits as long for its asker as anything may wait.
_ANSWER_LIFE_S: Final = 30 * 86_400.0
# How long after a script's end its answer may still be on its way.
_ANSWER_GRACE_S: Final = 86_400.0


class ScriptHandler:
    """Runs what peers send, and stops it when they say so."""

    def __init__(self, house: House, tasks: anyio.abc.TaskGroup) -> None:
        self._house = house
        self._record = RunRecord(house)
        self._tasks = tasks
        self._running: dict[str, tuple[anyio.CancelScope, Key]] = {}
        self._interrupted: set[str] = set()
        self._idle = anyio.Event()
        self._resumed = anyio.Event()

    async def until_idle(self) -> None:
        """Until no script runs here."""
        while self._running:
            self._idle = anyio.Event()
            await self._idle.wait()

    async def resume(self) -> None:
        """Learn what an earlier daemon left: what had begun ends as interrupted when its envelope
        is seen again; what this node sent to itself and had not begun is run now."""
        await self._house.store.transact(
            "run.expired",
            lambda connection: runs.stage_expired(connection, time.time() - _ANSWER_GRACE_S),
        )
        found = await self._house.runs.open_runs("received")
        self._interrupted = {run.id for run in found}
        me = key_text(self._house.identity.node.key)
        for run in await self._house.runs.open_runs("sent"):
            if run.peer_key == me:
                if run.state == "running":
                    self._interrupted.add(run.id)
                bodies = await self._house.runs.bodies(run.id)
                message = RunScript(
                    envelope=bodies.envelope, source=bodies.source, params=bodies.params
                )
                self.run_here(encode(message))
        self._resumed.set()

    # ---- what comes -------------------------------------------------------------------------

    async def run(self, envelope: Envelope, delivery: Delivery) -> None:
        """A `script.run` envelope. Seen twice after a crash: see the top of this file."""
        await self._take(envelope.body, envelope.sender, delivery)

    def run_here(self, body: bytes) -> None:
        """A script from this node to itself: the same way, without the mail."""
        self._tasks.start_soon(self._take, body, self._house.identity.node.key, None)

    async def cancel(self, envelope: Envelope, _delivery: Delivery) -> None:
        """A `script.cancel` envelope. Harmless when it comes late, or twice."""
        run = decode(envelope.body, CancelScript).run
        scope, sender = self._running.get(run, (None, None))
        if scope is not None and sender == envelope.sender:
            scope.cancel()

    def is_running(self, run: str) -> bool:
        return run in self._running

    def stop(self, run: str) -> bool:
        """End a run that is running here; False when it is not."""
        found = self._running.get(run)
        if found:
            found[0].cancel()
        return found is not None

    async def _take(self, body: bytes, sender: Key, delivery: Delivery | None) -> None:
        await self._resumed.wait()
        message = decode(body, RunScript)
        try:
            script = self._verify(message, sender)
        except Untrusted as error:
            await self._refuse_unverified(message, sender, delivery, error)
            return
        arrival = Arrival(script, message, sender, delivery, time.time())
        if arrival.run in self._interrupted:
            self._interrupted.discard(arrival.run)
            arrival.is_written = True
            ending = Ending("interrupted", INTERRUPTED)
        else:
            ending = await self._run_once(arrival)
        await self._end(arrival, ending)

    def _verify(self, message: RunScript, sender: Key) -> VerifiedScript:
        house = self._house
        me = house.identity.node.key
        script = verify_script(
            message.envelope,
            message.source,
            message.params,
            node_key=me,
            now=time.time(),
            is_known_node=lambda key: key == me or house.trust.by_key(key) is not None,
            sender=sender,
        )
        if script.call.run in self._running:
            raise Untrusted("this script was sent once before, and runs once")
        return script

    async def _run_once(self, arrival: Arrival) -> Ending:
        with anyio.CancelScope() as scope:
            self._running[arrival.run] = (scope, arrival.sender)
            try:
                return await self._admit(arrival)
            except OrvalhoError as error:
                limited = isinstance(error, LimitExceeded)
                return Ending("limited" if limited else "refused", error)
            finally:
                del self._running[arrival.run]
                if not self._running:
                    self._idle.set()
        return Ending("cancelled", CANCELLED)

    # ---- decide, grant, reserve, run --------------------------------------------------------

    async def _admit(self, arrival: Arrival) -> Ending:
        """Raises:
        Denied: the policy refuses the script, or something that it needs.
        """
        house, call = self._house, arrival.script.call
        subject = self._subject(arrival)
        gate = self._gate(arrival, subject)
        arrival.gate = gate
        decision = gate.put("script.run", arrival.script.script.id)
        context = self._context(call.target.context)
        if not decision.allowed or context is None:
            # A context that is not there is refused in the words of one that says no.
            request = AccessRequest(
                subject, call.target.context, "script.run", arrival.script.script.id
            )
            raise refusal(request, decision if not decision.allowed else Decision(allowed=False))

        def decide(capability: Capability) -> tuple[AccessRequest, Decision] | None:
            if capability.side == "caller":
                return None
            request = AccessRequest(
                subject, call.target.context, capability.action, capability.object
            )
            return request, gate.put(capability.action, capability.object)

        grant(arrival.script.needs, (), decide)
        limits = narrow(call.limits, allowance(house.settings.config.limits))
        async with house.ledger.reserve(subject.key, limits) as lease:
            job = Job(
                run_id=arrival.run,
                context=call.target.context,
                filename=call.filename,
                source=arrival.script.script.source,
                params=arrival.script.params,
                caller={"id": call.caller.context_key, "name": subject.spoken},
                target={"id": key_text(context.key), "name": f"{context.name}@{house.name}"},
                limits=limits,
                ops=self._calls(arrival, context, gate),
            )
            ending = await self._follow(arrival, job)
            lease.settle(self._record.used(arrival, ending.usage))
        return ending

    def _subject(self, arrival: Arrival) -> Subject:
        house, call = self._house, arrival.script.call
        name, key = call.caller.context, arrival.script.signed_by
        peer = self._peer(arrival)
        if peer is None:
            return own_subject(house.name, house.identity.node.key, name, key, house.groups)
        return peer_subject(peer, name, key, house.groups)

    def _peer(self, arrival: Arrival) -> Peer | None:
        return self._house.trust.by_key(arrival.script.caller_node)

    def _gate(self, arrival: Arrival, subject: Subject) -> RunGate:
        async def begin() -> None:
            # Not to be cut: whether the mark stands must be known.
            with anyio.CancelScope(shield=True):
                await self._house.store.transact(
                    "run.started",
                    lambda connection: self._record.stage_started(connection, arrival),
                )
                arrival.is_written = True

        return RunGate(
            run=arrival.run,
            side="target",
            subject=subject,
            context=arrival.script.call.target.context,
            grants=Grants((*arrival.script.needs, *arrival.script.wants)),
            decide=self._house.policy.decide,
            audit=self._house.audit,
            begin=begin,
        )

    def _context(self, name: str) -> Context | None:
        try:
            return self._house.contexts.get(name)
        except NotFound:
            return None

    def _calls(self, arrival: Arrival, context: Context, gate: RunGate) -> Mapping[str, HostCall]:
        def make() -> Mapping[str, HostCall]:
            return target_calls(self._house, context, gate) | caller_calls(
                self._house, arrival.sender, arrival.run, gate
            )

        return CallTable(make)

    async def _follow(self, arrival: Arrival, job: Job) -> Ending:
        """The run's lines go to its sender as they come; then its end."""
        async with self._house.jobs.open(job) as run:
            async for event in run:
                if isinstance(event, Ended):
                    return Ending.of(event, arrival.gate)
                await self._tell(arrival, event)
        raise Unavailable("the run ended without a word", where=arrival.run)

    async def _tell(self, arrival: Arrival, output: Output) -> None:
        line = ScriptOutput(
            run=arrival.run, seq=output.seq, level=output.level, text=output.text, at=output.at
        )
        arrival.lines.append(line)
        shown = RunOutput(run=line.run, seq=line.seq, level=line.level, text=line.text, at=line.at)
        self._house.feed.publish(arrival.run, shown)
        if arrival.delivery is not None:
            await self._house.node.tell(arrival.sender, "script.output", encode(line))

    # ---- keep -------------------------------------------------------------------------------

    async def _end(self, arrival: Arrival, ended: Ending) -> None:
        """One commit: the run with its receipt, the answer, and the end of its envelope."""
        house = self._house
        now = time.time()
        receipt = self._record.receipt(arrival, ended, now)
        answer = ScriptEnded(
            run=arrival.run,
            outcome=ended.outcome,
            result=ended.result,
            is_bytes=ended.is_bytes,
            error=script_error(ended.error) if ended.error else None,
            receipt=sign_receipt(house.identity.node, receipt),
            logs=tuple(arrival.lines),
        )
        told = self._record.as_told(arrival, answer)

        def keep(connection: sqlite3.Connection) -> list[EnvelopeId]:
            self._record.stage_end(connection, arrival, answer, receipt)
            for entry in self._record.entries(arrival, answer, now):
                house.audit.stage(connection, entry)
            if arrival.delivery is None:
                return []
            arrival.delivery.done(connection)
            return [
                house.node.stage(
                    connection,
                    arrival.sender,
                    "script.ended",
                    encode(told),
                    expires_at=now + _ANSWER_LIFE_S,
                    reply_to=arrival.delivery.envelope_id,
                )
            ]

        try:
            staged = await house.store.transact("run.ended", keep)
        except Untrusted as error:
            # The run id was seen before: a replay. What it computed touched nothing.
            await self._refuse_unverified(arrival.message, arrival.sender, arrival.delivery, error)
            return
        if staged:
            house.node.flush(arrival.sender, *staged)
        house.feed.publish(
            arrival.run, run_over(answer, receipt.usage, peer=self._record.address(arrival))
        )

    async def _refuse_unverified(
        self, message: RunScript, sender: Key, delivery: Delivery | None, error: Untrusted
    ) -> None:
        """A script whose signature, target, age or novelty does not hold: told, audited, and not
        written down as a run, since nothing it says of itself is believed."""
        house = self._house
        peer = house.trust.by_key(sender)
        _log.warning("script.untrusted", extra={"why": str(error)})
        entry = Entry(
            at=time.time(),
            actor=peer.name if peer else key_text(sender),
            context="",
            action="script.run",
            object=f"sha256:{hashlib.sha256(message.source.encode()).hexdigest()}",
            allowed=False,
            text=error.message,
        )
        answer = ScriptEnded(run="", outcome="refused", error=script_error(error))

        def keep(connection: sqlite3.Connection) -> list[EnvelopeId]:
            house.audit.stage(connection, entry)
            if delivery is None:
                return []
            delivery.done(connection)
            return [
                house.node.stage(
                    connection,
                    sender,
                    "script.ended",
                    encode(answer),
                    expires_at=time.time() + _ANSWER_LIFE_S,
                    reply_to=delivery.envelope_id,
                )
            ]

        staged = await house.store.transact("run.refused", keep)
        if staged:
            house.node.flush(sender, *staged)
