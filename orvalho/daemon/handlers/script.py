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
from dataclasses import dataclass, field
from typing import Final

import anyio
import anyio.abc
import msgspec

from orvalho.contexts.context import Context
from orvalho.contexts.identity import Key, key_text
from orvalho.contexts.names import Address
from orvalho.contexts.trust import Peer
from orvalho.control.messages import RunOutput
from orvalho.daemon.handlers.target_calls import caller_calls, target_calls
from orvalho.daemon.house import House
from orvalho.daemon.limits import allowance
from orvalho.daemon.run_gate import RunGate
from orvalho.daemon.run_words import run_over, script_error
from orvalho.daemon.subjects import own_subject, peer_subject
from orvalho.errors import (
    Denied,
    LimitExceeded,
    NotFound,
    OrvalhoError,
    ScriptFailed,
    Unavailable,
    Untrusted,
)
from orvalho.peers.desk import Delivery
from orvalho.peers.envelope import Envelope, EnvelopeId
from orvalho.policies.access import AccessRequest, Decision, Subject
from orvalho.policies.audit import Entry, decided
from orvalho.policies.capability import Capability, Grants, grant
from orvalho.policies.explain import refusal
from orvalho.policies.quota import Usage, narrow
from orvalho.runtime.job import Ended, HostCall, Job, Output
from orvalho.scripts import runs
from orvalho.scripts.messages import (
    CancelScript,
    RunScript,
    ScriptEnded,
    ScriptError,
    ScriptOutput,
    decode,
    encode,
)
from orvalho.scripts.receipts import Receipt, Tried, sign_receipt
from orvalho.scripts.runs import Run
from orvalho.scripts.signing import SKEW_S, VerifiedScript, verify_script

_log = logging.getLogger(__name__)

# An answer waits as long for its asker as anything may wait.
_NO_USAGE: Final = Usage()
# How a script asks for more of a limit, by the limit's name.
_ASKED_BY: Final = {
    "wall": 'timeout = "1m"',
    "cpu": 'cpu = "20s"',
    "memory": 'memory = "128MB"',
    "output": 'output = "2MB"',
    "host_calls": "host_calls = 20000",
}
_ANSWER_LIFE_S: Final = 30 * 86_400.0
# How long after a script's end its answer may still be on its way.
_ANSWER_GRACE_S: Final = 86_400.0


@dataclass(slots=True)
class Arrival:
    """One script that has come, and what is known of it so far. `delivery` is None for a script
    of this very node, which comes by no mail."""

    script: VerifiedScript
    message: RunScript
    sender: Key
    delivery: Delivery | None
    started_at: float
    is_written: bool = False
    gate: RunGate | None = None
    lines: list[ScriptOutput] = field(default_factory=list)

    @property
    def run(self) -> str:
        return self.script.call.run


@dataclass(frozen=True, slots=True)
class Ending:
    """How a run ended, in the words of errors. `error` is None when it is done."""

    outcome: str
    error: OrvalhoError | None = None
    usage: Usage = _NO_USAGE
    result: bytes | None = None
    is_bytes: bool = False

    @classmethod
    def of(cls, ended: Ended, gate: RunGate | None) -> Ending:
        """What the engine says. A run that was lost with this daemon ends as cancelled."""
        outcome = "cancelled" if ended.outcome == "lost" else ended.outcome
        return cls(outcome, _error_of(ended, gate), ended.usage, ended.result, ended.is_bytes)


class ScriptHandler:
    """Runs what peers send, and stops it when they say so."""

    def __init__(self, house: House, tasks: anyio.abc.TaskGroup) -> None:
        self._house = house
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
            ending = Ending("interrupted", _INTERRUPTED)
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
        return Ending("cancelled", _CANCELLED)

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
        limits = narrow(call.limits, allowance(house.settings.config))
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
            lease.settle(self._used(arrival, ending.usage))
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
            await self._house.store.transact(
                "run.started", lambda connection: self._stage_started(connection, arrival)
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
        return target_calls(self._house, context, gate) | caller_calls(
            self._house, arrival.sender, arrival.run, gate
        )

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
        receipt = self._receipt(arrival, ended, now)
        answer = ScriptEnded(
            run=arrival.run,
            outcome=ended.outcome,
            result=ended.result,
            is_bytes=ended.is_bytes,
            error=_travelling(ended.error),
            receipt=sign_receipt(house.identity.node, receipt),
            logs=tuple(arrival.lines),
        )
        told = self._as_told(arrival, answer)

        def keep(connection: sqlite3.Connection) -> list[EnvelopeId]:
            self._stage_end(connection, arrival, answer, receipt)
            for entry in self._entries(arrival, answer, now):
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
            arrival.run, run_over(answer, receipt.usage, peer=self._address(arrival))
        )

    def _stage_started(self, connection: sqlite3.Connection, arrival: Arrival) -> None:
        """The mark that it may have had an effect. A script of this node was written down when
        it was sent.

        Raises:
            Untrusted: its id has come before.
        """
        if arrival.delivery is not None:
            self._stage_new(connection, arrival, self._row(arrival))
        runs.stage_started(connection, arrival.run, time.time())

    def _stage_end(
        self,
        connection: sqlite3.Connection,
        arrival: Arrival,
        answer: ScriptEnded,
        receipt: Receipt,
    ) -> None:
        if arrival.delivery is None or arrival.is_written:
            runs.stage_ended(connection, answer, at=receipt.ended_at, usage=receipt.usage)
            return
        row = msgspec.structs.replace(
            self._row(arrival), ended_at=receipt.ended_at, usage=receipt.usage
        )
        self._stage_new(connection, arrival, row, answer)

    def _stage_new(
        self,
        connection: sqlite3.Connection,
        arrival: Arrival,
        row: Run,
        ended: ScriptEnded | None = None,
    ) -> None:
        expires_at = arrival.script.call.expires_at
        now = time.time()
        runs.stage_seen(connection, arrival.run, until=expires_at + 2 * SKEW_S, now=now)
        runs.stage_new(
            connection,
            row,
            envelope=arrival.message.envelope,
            source=arrival.message.source,
            params=arrival.script.params,
            ended=ended,
        )

    def _row(self, arrival: Arrival) -> Run:
        call = arrival.script.call
        return Run(
            id=arrival.run,
            direction="received",
            caller=self._caller_name(arrival),
            target=self._address(arrival),
            peer_key=key_text(arrival.sender),
            filename=call.filename,
            digest=arrival.script.script.digest,
            needs=call.needs,
            wants=call.wants,
            created_at=arrival.started_at,
            expires_at=call.expires_at,
        )

    def _caller_name(self, arrival: Arrival) -> str:
        peer = self._peer(arrival)
        node = peer.name if peer else self._house.name
        return str(Address(arrival.script.call.caller.context, node))

    def _address(self, arrival: Arrival) -> str:
        return str(Address(arrival.script.call.target.context, self._house.name))

    def _receipt(self, arrival: Arrival, ended: Ending, now: float) -> Receipt:
        made = arrival.gate.made() if arrival.gate else ()
        logs = "\n".join(line.text for line in arrival.lines)
        return Receipt(
            run=arrival.run,
            script_sha256=arrival.script.script.digest,
            filename=arrival.script.call.filename,
            caller=self._caller_name(arrival),
            caller_key=key_text(arrival.script.signed_by),
            target=self._address(arrival),
            outcome=ended.outcome,
            error=ended.error.code if ended.error else None,
            tried=tuple(
                Tried(
                    action=each.request.action,
                    object=each.request.object,
                    allowed=each.decision.allowed,
                    rule=each.decision.rule.where if each.decision.rule else None,
                )
                for each in (made if self._explains_to(arrival) else ())
            ),
            usage=self._used(arrival, ended.usage),
            result_sha256=_digest(ended.result),
            output_sha256=_digest(logs.encode()) if logs else None,
            started_at=arrival.started_at,
            ended_at=now,
        )

    def _used(self, arrival: Arrival, usage: Usage) -> Usage:
        gate = arrival.gate
        if gate is None:
            return usage
        fields = {name: getattr(usage, name) for name in Usage.__struct_fields__}
        return Usage(
            **fields | {"read_bytes": gate.read_bytes, "written_bytes": gate.written_bytes}
        )

    def _entries(self, arrival: Arrival, answer: ScriptEnded, now: float) -> list[Entry]:
        """What is allowed is written down at the end; refusals were at once."""
        made = arrival.gate.made() if arrival.gate else ()
        entries = [
            decided(each.request, each.decision, at=now, run=arrival.run)
            for each in made
            if each.decision.allowed
        ]
        entries.append(
            Entry(
                at=now,
                actor=self._caller_name(arrival),
                context=arrival.script.call.target.context,
                action="script.ended",
                object=arrival.script.script.id,
                allowed=answer.outcome == "done",
                rule=answer.error.rule if answer.error else None,
                run=arrival.run,
                text=f"{arrival.script.call.filename}: {answer.outcome}",
            )
        )
        return entries

    def _explains_to(self, arrival: Arrival) -> bool:
        whom = self._house.settings.config.policy.explain_to
        peer = self._peer(arrival)
        return whom == "all" or (whom == "own" and (peer is None or peer.relation == "own"))

    def _as_told(self, arrival: Arrival, answer: ScriptEnded) -> ScriptEnded:
        """The answer as far as our policy shares its reasons with the sender."""
        error = answer.error
        if error is None or error.code != Denied.code or self._explains_to(arrival):
            return answer
        bare = ScriptError(
            code=error.code,
            message=f"{self._address(arrival)} refuses this script",
            hint=f"ask the owner of {self._house.name}",
        )
        return ScriptEnded(
            run=answer.run,
            outcome=answer.outcome,
            error=bare,
            receipt=answer.receipt,
            logs=answer.logs,
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


_INTERRUPTED: Final = ScriptFailed(
    "the target node stopped while the script was running; what it had done until then stays",
    hint="look at what it did, and send it again if that is right",
)
_CANCELLED: Final = ScriptFailed("the run was cancelled")


def _error_of(ended: Ended, gate: RunGate | None) -> OrvalhoError | None:
    if ended.outcome == "done":
        return None
    if ended.outcome == "limited":
        return LimitExceeded(
            f"{ended.limit}: the run used up its limit",
            hint=f"ask for more in its header: {_ASKED_BY[ended.limit or 'wall']}",
        )
    if ended.outcome in ("cancelled", "lost"):
        return _CANCELLED
    if ended.error_name == "Unavailable":
        return Unavailable(
            f"the run was lost: {ended.error_message}", hint="send it again, if that is right"
        )
    denied = gate.refusal_behind(ended.error_message or "") if gate else None
    if denied is not None and ended.error_name == "Denied":
        return Denied(
            denied.message,
            where=denied.where,
            rule=denied.rule,
            hint=denied.hint,
            detail=ended.error_stack or None,
        )
    name = ended.error_name or "Error"
    return ScriptFailed(f"{name}: {ended.error_message}", detail=ended.error_stack or None)


def _digest(content: bytes | None) -> str | None:
    return None if content is None else hashlib.sha256(content).hexdigest()


def _travelling(error: OrvalhoError | None) -> ScriptError | None:
    return None if error is None else script_error(error)
