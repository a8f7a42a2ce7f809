"""What stays of a run where it ran: its row, receipt and audit entries, and what its sender is
told."""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import reduce
from typing import Final

import msgspec

from orvalho.contexts.commit import Exclusive
from orvalho.contexts.identity import Key, key_text
from orvalho.contexts.names import Address
from orvalho.contexts.trust import Peer
from orvalho.contexts.workspace import Workspace
from orvalho.daemon.ending import Ending
from orvalho.daemon.granting import Granted
from orvalho.daemon.house import House
from orvalho.daemon.run_gate import RunGate
from orvalho.daemon.run_words import digest_of
from orvalho.errors import Denied, LimitExceeded
from orvalho.peers.desk import Delivery
from orvalho.policies import usage
from orvalho.policies.access import Rule
from orvalho.policies.audit import Entry, decided
from orvalho.policies.quota import Usage, add
from orvalho.policies.quotas import Hold
from orvalho.policies.usage import Charge
from orvalho.runtime.job import HostCall
from orvalho.scripts import recordings, runs, sources, traces
from orvalho.scripts.messages import RunScript, ScriptEnded, ScriptError, ScriptOutput
from orvalho.scripts.plan import PlannedCall, stage_plan
from orvalho.scripts.receipts import Interpreted, Receipt, Tried, UsedLibrary
from orvalho.scripts.runs import Run
from orvalho.scripts.signing import VerifiedScript
from orvalho.scripts.traces import Caused

# What a line costs beside its text.
_LINE_BYTES: Final = 100
_MOST_LINE_BYTES: Final = 16 << 20


@dataclass(slots=True)
class Arrival:
    """One script that has come, and what is known of it so far. `delivery` is None for a script
    of this very node, which comes by no mail."""

    script: VerifiedScript
    message: RunScript
    sender: Key
    delivery: Delivery | None
    peer: Peer | None
    started_at: float
    is_written: bool = False
    is_answered: bool = True
    gate: RunGate | None = None
    # Its sender's groups, and what it holds of their quotas.
    groups: tuple[str, ...] = ()
    hold: Hold | None = None
    # What it would change here, and what was used by attempts that came to nothing.
    workspace: Workspace | None = None
    attempts: tuple[Usage, ...] = ()
    commit: str | None = None
    turn: Exclusive | None = None
    # Its lines go on where those of an earlier attempt ended.
    first_line: int = 0
    # What answers lives on after it, so it cannot be asked twice.
    is_served: bool = False
    # Calls that reach beyond this node and were not made, for a plan.
    not_run: list[PlannedCall] = field(default_factory=list)
    is_held: bool = False
    # The rule by which its target's owner wants to look at it before anything comes of it.
    held_by: Rule | None = None
    interpreted: Interpreted | None = None
    # What was recorded of its last attempt, see `scripts/recordings.py`.
    recorded: str | None = None
    recording: bytes | None = None

    @property
    def is_foreign(self) -> bool:
        """Whether it used a tree that is not this node's."""
        parts = self.workspace.parts() if self.workspace else ()
        return any(part.mount.lower.is_foreign for part in parts)

    @property
    def is_rehearsed(self) -> bool:
        """Whether nothing that it does is to have an effect."""
        return self.is_held or self.script.call.plan

    # What its sender's grants add to the rules.
    granted: Granted | None = None
    lines: list[ScriptOutput] = field(default_factory=list)
    line_bytes: int = 0
    libraries: tuple[UsedLibrary, ...] = ()
    # What ended it, for its owner's own statistics: a receipt may say less.
    limit: str | None = None
    # What reading these, and the context's hook, took of processors.
    read_cpu_ms: int = 0
    # What it called on other nodes, by the run that came of it.
    caused: dict[str, Caused] = field(default_factory=dict)

    @property
    def run(self) -> str:
        return self.script.call.run

    def add(self, line: ScriptOutput) -> None:
        """Raises:
        LimitExceeded: its lines, with what each costs on its way, are too much for an answer.
        """
        self.line_bytes += len(line.text) + _LINE_BYTES
        if self.line_bytes > _MOST_LINE_BYTES:
            raise LimitExceeded(f"output: a run's lines take at most {_MOST_LINE_BYTES} bytes")
        self.lines.append(line)


# What a run that starts now may call on other nodes.
OnwardCalls = Callable[[Arrival, RunGate, Hold], dict[str, HostCall]]


class RunRecord:
    """Writes down what scripts from elsewhere did here."""

    def __init__(self, house: House) -> None:
        self._house = house

    def stage_started(self, connection: sqlite3.Connection, arrival: Arrival) -> None:
        """The mark that it may have had an effect. A script of this node was written down when
        it was sent.

        Raises:
            Repeated: its envelope has come before.
            Untrusted: its id has, in another envelope.
        """
        if arrival.delivery is not None:
            arrival.delivery.keep(connection)
            self._stage_new(connection, arrival, self._row(arrival))
        runs.stage_started(connection, arrival.run, time.time())
        self._stage_decisions(connection, arrival, time.time())
        arrival.is_written = True

    def stage_end(
        self,
        connection: sqlite3.Connection,
        arrival: Arrival,
        answer: ScriptEnded,
        receipt: Receipt,
    ) -> Charge | None:
        """What is charged for it, written down with its receipt; None where the run had ended
        before, with a receipt of its own."""
        self._stage_decisions(connection, arrival, receipt.ended_at)
        self._house.audit.stage(connection, self._last_entry(arrival, answer, receipt.ended_at))
        is_kept = (arrival.delivery is None or arrival.is_written) and runs.stage_ended(
            connection,
            answer,
            at=receipt.ended_at,
            usage=receipt.usage,
            recorded=arrival.recorded,
        )
        if not is_kept:
            if arrival.delivery is None:
                return None
            row = msgspec.structs.replace(
                self._row(arrival),
                ended_at=receipt.ended_at,
                usage=receipt.usage,
                recorded=arrival.recorded,
            )
            self._stage_new(connection, arrival, row, answer)
        recordings.stage_kept(connection, arrival.run, arrival.recording)
        if answer.plan is not None:
            stage_plan(connection, arrival.run, answer.plan)
        charge = self.charge(arrival, receipt)
        return msgspec.structs.replace(charge, seq=usage.stage(connection, charge))

    def stage_held(self, connection: sqlite3.Connection, arrival: Arrival, now: float) -> None:
        """It waits for the owner's word.

        Raises: as `stage_started`.
        """
        self._stage_decisions(connection, arrival, now)
        if arrival.delivery is not None and not arrival.is_written:
            self._stage_new(connection, arrival, self._row(arrival))
        runs.stage_held(connection, arrival.run)
        if arrival.recorded is not None:
            recordings.stage(connection, arrival.run, arrival.recorded, arrival.recording)

    def _stage_new(
        self,
        connection: sqlite3.Connection,
        arrival: Arrival,
        row: Run,
        ended: ScriptEnded | None = None,
    ) -> None:
        runs.stage_new(
            connection,
            row,
            envelope=arrival.message.envelope,
            source=arrival.message.script,
            params=arrival.script.params,
            ended=ended,
        )
        sources.stage_modules(connection, row.id, arrival.script.modules)
        traces.stage(connection, row.id, arrival.script.call.chain)

    def _row(self, arrival: Arrival) -> Run:
        call = arrival.script.call
        return Run(
            id=arrival.run,
            direction="received",
            caller=self.caller_name(arrival),
            target=self.address(arrival),
            peer_key=key_text(arrival.sender),
            filename=call.filename,
            digest=arrival.script.script.digest,
            needs=call.needs,
            wants=call.wants,
            created_at=arrival.started_at,
            expires_at=call.expires_at,
        )

    def charge(self, arrival: Arrival, receipt: Receipt) -> Charge:
        gate = arrival.gate
        first = next(iter(gate.made()), None) if gate else None
        return Charge(
            at=receipt.ended_at,
            run=receipt.run,
            caller=receipt.caller,
            caller_key=receipt.caller_key,
            node_key=key_text(arrival.sender),
            context=arrival.script.call.target.context,
            groups=arrival.groups,
            digest=receipt.script_sha256,
            filename=receipt.filename,
            outcome=receipt.outcome,
            rule=first.decision.rule.where if first and first.decision.rule else None,
            limit=arrival.limit,
            usage=receipt.usage,
        )

    def caller_name(self, arrival: Arrival) -> str:
        node = arrival.peer.name if arrival.peer else self._house.name
        return str(Address(arrival.script.call.caller.context, node))

    def address(self, arrival: Arrival) -> str:
        return str(Address(arrival.script.call.target.context, self._house.name))

    def receipt(self, arrival: Arrival, ended: Ending, now: float) -> Receipt:
        call = arrival.script.call
        made = arrival.gate.made() if arrival.gate else ()
        logs = "\n".join(line.text for line in arrival.lines)
        arrival.limit = _limit(ended)
        return Receipt(
            run=arrival.run,
            script_sha256=arrival.script.script.digest,
            filename=arrival.script.call.filename,
            caller=self.caller_name(arrival),
            caller_key=key_text(arrival.script.signed_by),
            target=self.address(arrival),
            outcome=ended.outcome,
            error=ended.error.code if ended.error else None,
            limit=_limit(ended) if self.explains_to(arrival) else without_group(_limit(ended)),
            tried=tuple(
                Tried(
                    action=each.request.action,
                    object=each.request.object,
                    allowed=each.decision.allowed,
                    rule=each.decision.rule.where if each.decision.rule else None,
                )
                for each in (made if self.explains_to(arrival) else ())
            ),
            usage=reduce(add, arrival.attempts, self.used(arrival, ended.usage)),
            result_sha256=digest_of(ended.result),
            output_sha256=digest_of(logs.encode()) if logs else None,
            started_at=arrival.started_at,
            ended_at=now,
            modules=arrival.script.call.modules,
            libraries=arrival.libraries,
            commit=arrival.commit,
            plan_sha256=digest_of(ended.plan),
            interpreted=arrival.interpreted,
            parent=call.chain[-1].run if call.chain else None,
            trace=traces.trace_of(call.chain[0].run if call.chain else arrival.run),
            # Whom it calls in turn is the owner's affair, as the rules are.
            caused=tuple(arrival.caused.values()) if self.explains_to(arrival) else (),
            recording_sha256=digest_of(arrival.recording),
        )

    def used(self, arrival: Arrival, measured: Usage) -> Usage:
        """By this attempt."""
        gate, hold = arrival.gate, arrival.hold
        if gate is None:
            return measured
        return msgspec.structs.replace(
            measured,
            cpu_ms=measured.cpu_ms + arrival.read_cpu_ms,
            read_bytes=gate.read_bytes,
            written_bytes=gate.written_bytes,
            network_bytes=hold.network_bytes if hold else 0,
        )

    def _stage_decisions(
        self, connection: sqlite3.Connection, arrival: Arrival, now: float
    ) -> None:
        """What was allowed since the last time; what was refused was written down at once."""
        for each in arrival.gate.take_allowed() if arrival.gate else ():
            entry = decided(each.request, each.decision, at=now, run=arrival.run, call=each.call)
            self._house.audit.stage(connection, entry)

    def _last_entry(self, arrival: Arrival, answer: ScriptEnded, now: float) -> Entry:
        return Entry(
            at=now,
            actor=self.caller_name(arrival),
            context=arrival.script.call.target.context,
            action="script.ended",
            object=arrival.script.script.id,
            allowed=answer.outcome != "refused",
            rule=answer.error.rule if answer.error else None,
            run=arrival.run,
            text=f"{arrival.script.call.filename}: {answer.outcome}"
            + (f", {answer.error.message}" if answer.error and answer.outcome == "limited" else ""),
        )

    def explains_to(self, arrival: Arrival) -> bool:
        whom = self._house.settings.config.policy.explain_to
        is_own = arrival.peer is None or arrival.peer.relation == "own"
        return whom == "all" or (whom == "own" and is_own)

    def as_told(self, arrival: Arrival, answer: ScriptEnded) -> ScriptEnded:
        """The answer as far as our policy shares its reasons with the sender."""
        error = answer.error
        if error is None or self.explains_to(arrival):
            return answer
        if error.code == LimitExceeded.code:
            # Which group of ours it is in is nobody's business.
            told = msgspec.structs.replace(error, message=without_group(error.message) or "")
            return msgspec.structs.replace(answer, error=told)
        if error.code != Denied.code:
            return answer
        bare = ScriptError(
            code=error.code,
            message=f"{self.address(arrival)} refuses this script",
            hint=f"ask the owner of {self._house.name}",
        )
        return ScriptEnded(
            run=answer.run,
            outcome=answer.outcome,
            error=bare,
            receipt=answer.receipt,
            logs=answer.logs,
        )


def _limit(ended: Ending) -> str | None:
    """`cpu`, or `quota cpu exceeded (group guests)`: the beginning of what the error says."""
    if ended.outcome != "limited" or ended.error is None:
        return None
    return ended.error.message.partition(":")[0]


def without_group(text: str | None) -> str | None:
    """`quota cpu exceeded`, without whose."""
    return re.sub(r" \(group [^)]*\)", "", text) if text else text
