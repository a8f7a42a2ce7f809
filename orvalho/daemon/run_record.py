"""What stays of a run where it ran: its row, receipt and audit entries, and what its sender is
told."""

from __future__ import annotations

import hashlib
import sqlite3
import time
from dataclasses import dataclass, field

import msgspec

from orvalho.contexts.identity import Key, key_text
from orvalho.contexts.names import Address
from orvalho.daemon.ending import Ending
from orvalho.daemon.house import House
from orvalho.daemon.run_gate import RunGate
from orvalho.errors import Denied
from orvalho.peers.desk import Delivery
from orvalho.policies.audit import Entry, decided
from orvalho.policies.quota import Usage
from orvalho.scripts import runs
from orvalho.scripts.messages import RunScript, ScriptEnded, ScriptError, ScriptOutput
from orvalho.scripts.receipts import Receipt, Tried
from orvalho.scripts.runs import Run
from orvalho.scripts.signing import SKEW_S, VerifiedScript


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


class RunRecord:
    """Writes down what scripts from elsewhere did here."""

    def __init__(self, house: House) -> None:
        self._house = house

    def stage_started(self, connection: sqlite3.Connection, arrival: Arrival) -> None:
        """The mark that it may have had an effect. A script of this node was written down when
        it was sent.

        Raises:
            Untrusted: its id has come before.
        """
        if arrival.delivery is not None:
            self._stage_new(connection, arrival, self._row(arrival))
        runs.stage_started(connection, arrival.run, time.time())

    def stage_end(
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

    def caller_name(self, arrival: Arrival) -> str:
        peer = self._house.trust.by_key(arrival.script.caller_node)
        node = peer.name if peer else self._house.name
        return str(Address(arrival.script.call.caller.context, node))

    def address(self, arrival: Arrival) -> str:
        return str(Address(arrival.script.call.target.context, self._house.name))

    def receipt(self, arrival: Arrival, ended: Ending, now: float) -> Receipt:
        made = arrival.gate.made() if arrival.gate else ()
        logs = "\n".join(line.text for line in arrival.lines)
        return Receipt(
            run=arrival.run,
            script_sha256=arrival.script.script.digest,
            filename=arrival.script.call.filename,
            caller=self.caller_name(arrival),
            caller_key=key_text(arrival.script.signed_by),
            target=self.address(arrival),
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
            usage=self.used(arrival, ended.usage),
            result_sha256=_digest(ended.result),
            output_sha256=_digest(logs.encode()) if logs else None,
            started_at=arrival.started_at,
            ended_at=now,
        )

    def used(self, arrival: Arrival, usage: Usage) -> Usage:
        gate = arrival.gate
        if gate is None:
            return usage
        fields = {name: getattr(usage, name) for name in Usage.__struct_fields__}
        return Usage(
            **fields | {"read_bytes": gate.read_bytes, "written_bytes": gate.written_bytes}
        )

    def entries(self, arrival: Arrival, answer: ScriptEnded, now: float) -> list[Entry]:
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
                actor=self.caller_name(arrival),
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
        peer = self._house.trust.by_key(arrival.script.caller_node)
        return whom == "all" or (whom == "own" and (peer is None or peer.relation == "own"))

    def as_told(self, arrival: Arrival, answer: ScriptEnded) -> ScriptEnded:
        """The answer as far as our policy shares its reasons with the sender."""
        error = answer.error
        if error is None or error.code != Denied.code or self._explains_to(arrival):
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


def _digest(content: bytes | None) -> str | None:
    return None if content is None else hashlib.sha256(content).hexdigest()
