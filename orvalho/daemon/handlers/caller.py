"""What the target of our script tells us and asks of us while it runs, and how it ended."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Final

import msgspec

from orvalho.contexts.filesystem import virtual_path
from orvalho.contexts.identity import Key, key_text
from orvalho.contexts.names import parse_address, ulid_text
from orvalho.control.messages import RunHeld, RunOutput
from orvalho.daemon.handlers.caller_files import CallerFiles
from orvalho.daemon.house import House
from orvalho.daemon.run_gate import RunGate
from orvalho.daemon.run_rights import RunRights
from orvalho.daemon.run_words import digest_of, is_json_line, run_over, script_error
from orvalho.daemon.subjects import own_subject, peer_subject
from orvalho.errors import Denied, LimitExceeded, NotFound, OrvalhoError, Unavailable, Untrusted
from orvalho.peers.desk import Delivery
from orvalho.peers.envelope import Envelope
from orvalho.peers.receiving import Stage
from orvalho.peers.sending import Outcome, Undelivered
from orvalho.policies.access import AccessRequest, Decision, Rule, Subject
from orvalho.policies.audit import Entry, decided
from orvalho.policies.capability import Capability, Grants, parse_capability
from orvalho.policies.globs import compile_glob
from orvalho.policies.library_guard import changes_code, names_code
from orvalho.policies.quota import Usage
from orvalho.scripts import runs, sources
from orvalho.scripts.messages import (
    CallerCall,
    CallerReply,
    ScriptEnded,
    ScriptError,
    ScriptHeld,
    ScriptOutput,
    decode,
    encode,
)
from orvalho.scripts.plan import stage_plan
from orvalho.scripts.receipts import Receipt, open_receipt
from orvalho.scripts.runs import Run
from orvalho.scripts.signing import denies_of

_log = logging.getLogger(__name__)

_GATES: Final = 1024
_OUTCOMES: Final = frozenset(
    {"done", "failed", "refused", "limited", "cancelled", "interrupted", "planned", "rejected"}
)


class CallerHandler:
    """Our side of the scripts we sent."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._loop = asyncio.get_running_loop()
        # One a run that reaches for its caller, so that what it is allowed is audited once.
        self._gates: OrderedDict[str, RunGate] = OrderedDict()

    def output(self, sender: Key, body: bytes) -> None:
        """A line, live; the ending brings it again."""
        line = decode(body, ScriptOutput)
        run = self._house.runs.at_hand(line.run)
        if run is None or run.peer_key != key_text(sender):
            return
        self._house.feed.publish(
            line.run,
            RunOutput(run=line.run, seq=line.seq, level=line.level, text=line.text, at=line.at),
        )

    def fold_ended(self, envelope: Envelope) -> Stage | None:
        """A `script.ended` envelope for a run that is at hand: who waits for it is told at once,
        and it is written down in the commit that would keep the envelope. A crash in between
        loses nothing: what has not been acknowledged comes again."""
        ended = _read_ending(envelope)
        run = self._house.runs.at_hand(ended.run)
        if run is None or run.peer_key != key_text(envelope.sender):
            return None
        ended, usage = _checked(ended, run, envelope)
        if self._house.runs.ending(ended.run):
            self._house.feed.finish(ended.run, run_over(ended, usage, peer=run.target))

        def stage(connection: sqlite3.Connection) -> Callable[[], None]:
            self._stage_ended(connection, ended, run, usage)
            return partial(self._close, run.id)

        return stage

    async def held(self, envelope: Envelope, delivery: Delivery) -> None:
        """A `script.held` envelope: whoever waits is told. Harmless after its end, or twice."""
        told = decode(envelope.body, ScriptHeld)
        run = await self._house.runs.peek(told.run)
        if run is None or run.direction != "sent" or run.peer_key != key_text(envelope.sender):
            return

        def keep(connection: sqlite3.Connection) -> bool:
            delivery.done(connection)
            is_new = runs.stage_held(connection, run.id)
            if is_new:
                lines = (line for line in told.logs if line.run == run.id)
                runs.stage_output(connection, lines)
            return is_new

        if await self._house.store.transact("run.held", keep):
            self._house.feed.publish(run.id, RunHeld(run=run.id, to=run.target))

    async def ended(self, envelope: Envelope, delivery: Delivery) -> None:
        """A `script.ended` envelope: check the receipt, keep all of it, tell who waits. Seen
        twice, it changes nothing the second time."""
        ended = _read_ending(envelope)
        run = await self._house.runs.peek(ended.run)
        if run is None or run.direction != "sent" or run.peer_key != key_text(envelope.sender):
            _log.warning("run.unknown", extra={"run": ended.run})
            return
        ended, usage = _checked(ended, run, envelope)

        def keep(connection: sqlite3.Connection) -> None:
            self._stage_ended(connection, ended, run, usage)
            delivery.done(connection)

        await self._house.store.transact("run.answered", keep)
        self._over(ended, usage, run.target)

    def _stage_ended(
        self, connection: sqlite3.Connection, ended: ScriptEnded, run: Run, usage: Usage | None
    ) -> None:
        now = time.time()
        if not runs.stage_ended(connection, ended, at=now, usage=usage):
            return
        if ended.plan is not None:
            stage_plan(connection, run.id, ended.plan)
        if ended.held:
            sources.stage_held(
                connection, run.peer_key, sources.sent_in(connection, run, ended.held), now
            )
        gate = self._gates.get(run.id)
        for each in gate.take_allowed() if gate else ():
            entry = decided(each.request, each.decision, at=now, run=run.id)
            self._house.audit.stage(connection, entry)
        self._house.audit.stage(connection, _entry(run, ended, now))

    def stage_undelivered(self, connection: sqlite3.Connection, mail: Undelivered) -> None:
        """A script of ours that could not be delivered ends here. On the store's thread, inside
        the transaction that gives its envelope up."""
        if mail.kind != "script.run":
            return
        expired = mail.outcome is Outcome.EXPIRED
        ended = ScriptEnded(
            run=f"r_{ulid_text(mail.id)}",
            outcome="expired" if expired else "refused",
            error=ScriptError(
                code=Unavailable.code if expired else Untrusted.code,
                message=f"the script was not delivered: {mail.reason}",
                hint="orvalho status",
            ),
        )
        runs.stage_ended(connection, ended, at=time.time())
        self._loop.call_soon_threadsafe(self._over, ended, None, "")

    def _over(self, ended: ScriptEnded, usage: Usage | None, target: str) -> None:
        self._close(ended.run)
        self._house.feed.finish(ended.run, run_over(ended, usage, peer=target))

    def _close(self, run: str) -> None:
        self._gates.pop(run, None)
        self._house.runs.closed(run)

    async def part_from(self, node_key: Key) -> None:
        """The node is a peer no longer: what we sent it ends, whatever became of it there."""
        for run in await self._house.runs.open_runs("sent", held=True):
            if run.peer_key != key_text(node_key):
                continue
            ended = ScriptEnded(
                run=run.id,
                outcome="cancelled",
                error=ScriptError(
                    code=Unavailable.code, message=f"{run.target} was forgotten meanwhile"
                ),
            )
            await self._house.store.transact(
                "run.parted", partial(runs.stage_ended, ended=ended, at=time.time())
            )
            self._over(ended, None, run.target)

    async def call(self, sender: Key, body: bytes) -> bytes:
        """A running script reaches for its caller: only into what was exposed for this run, or
        what a line of our own policy allows the target."""
        asked = decode(body, CallerCall)
        try:
            value = await self._answer(sender, asked)
            reply = CallerReply(run=asked.run, call=asked.call, value=value)
        except OrvalhoError as error:
            reply = CallerReply(run=asked.run, call=asked.call, error=script_error(error))
        raw = encode(reply)
        if asked.most_bytes is None or len(raw) <= asked.most_bytes or reply.value is None:
            return raw
        too_much = LimitExceeded("network: the answer is more than the run may still move")
        return encode(
            CallerReply(
                run=asked.run, call=asked.call, error=script_error(too_much), wanted_bytes=len(raw)
            )
        )

    async def _answer(self, sender: Key, asked: CallerCall) -> str:
        house = self._house
        run = await house.runs.peek(asked.run)
        if run is None or run.direction != "sent" or run.peer_key != key_text(sender):
            raise NotFound("no such run was sent to this node", where=asked.run)
        if run.state == "ended":
            raise Denied("the run has ended, and its rights with it", where=asked.run)
        context = house.contexts.get(parse_address(run.caller).context or "")
        gate = self._gates.get(run.id)
        if gate is None:
            signed = denies_of((await house.runs.bodies(run.id)).envelope)
            gate = self._gates.get(run.id) or self._new_gate(run, context.name, sender, signed)
        files = CallerFiles(house, context, gate)
        call = partial(files.call, asked.op, run)
        try:
            return await house.broker.within_call(asked.call + 1, asked.op, call, asked.argument)
        except Denied as error:
            gate.note_escape(asked.op, error)
            raise _ours(error) from error

    def _new_gate(
        self, run: Run, context: str, sender: Key, denies: tuple[Capability, ...]
    ) -> RunGate:
        declared = tuple(_declared(run))
        gate = RunGate(
            run=run.id,
            side="caller",
            subject=self._target_subject(run, sender),
            context=context,
            grants=Grants(declared),
            decide=lambda request: self._decide(run, request),
            audit=self._house.audit,
            begin=_nothing,
            on_decided=partial(self._publish, run.id),
            rights=RunRights(Grants(declared), denies),
            broker=self._house.broker,
        )
        self._gates[run.id] = gate
        if len(self._gates) > _GATES:
            self._gates.popitem(last=False)
        return gate

    def _publish(self, run: str, request: AccessRequest, decision: Decision) -> None:
        self._house.events.decided(request, decision, kind="access.decided", run=run)

    def _target_subject(self, run: Run, sender: Key) -> Subject:
        """Raises:
        Denied: the target is no peer any more.
        """
        house = self._house
        name = parse_address(run.target).context or ""
        if sender == house.identity.node.key:
            key = house.contexts.get(name).key
            return own_subject(house.name, sender, name, key, house.groups)
        peer = house.trust.by_key(sender)
        if peer is None:
            raise Denied("the target is no peer any more", where=run.target)
        entry = peer.context(name)
        return peer_subject(peer, name, Key(entry.key) if entry else sender, house.groups)

    def _decide(self, run: Run, request: AccessRequest) -> Decision:
        decision = self._house.policy.decide(request)
        # A rule that says no stands; where none speaks, the sender's word for this run does.
        if decision.rule is not None:
            return decision
        for number, exposed in enumerate(run.exposed):
            path, _, mode = exposed.partition(":")
            if request.action != "fs.read" and mode != "rw":
                continue
            glob = f"{virtual_path(path).rstrip('/')}/**"
            if changes_code(request) and not names_code(glob):
                continue
            if compile_glob(glob).matches(request.object):
                return Decision(True, rule=_exposing(number, request, glob))
        return decision


def _ours(error: Denied) -> Denied:
    """Who reads it has sent the script from here, and looks for the rule at the target."""
    hint = error.hint
    if error.rule is None:
        hint = "orvalho script send --expose PATH (or PATH:rw)" + (f", or {hint}" if hint else "")
    return Denied(
        f"your own policy refuses it: {error.message}",
        where=error.where,
        rule=error.rule,
        hint=hint,
        detail=error.detail,
    )


async def _nothing() -> None:
    """The sender's side has no start to mark: the target's mark stands for both."""


def _exposing(number: int, request: AccessRequest, glob: str) -> Rule:
    return Rule(
        file="--expose",
        line=number + 1,
        order=number,
        subject=request.subject.spoken,
        context=request.context,
        action=request.action,
        object=glob,
        effect="allow",
    )


def _declared(run: Run) -> list[Capability]:
    return [parse_capability(text) for text in (*run.needs, *run.wants)]


def _read_ending(envelope: Envelope) -> ScriptEnded:
    ended = decode(envelope.body, ScriptEnded)
    if ended.run:
        return ended
    # Refused before anything in it was believed: what it answers says which run it was.
    return msgspec.structs.replace(ended, run=f"r_{ulid_text(envelope.reply_to)}")


def _checked(ended: ScriptEnded, run: Run, envelope: Envelope) -> tuple[ScriptEnded, Usage | None]:
    """What may be believed of an answer, and what the run used by its receipt."""
    if ended.receipt is None and ended.outcome == "refused" and ended.result is None:
        # A node that believes nothing of a script signs nothing about it.
        return ended, None
    try:
        return ended, check_answer(ended, run, envelope.sender).usage
    except Untrusted as error:
        return _distrusted(ended, error), None


def check_answer(ended: ScriptEnded, run: Run, target: Key) -> Receipt:
    """The receipt of an answer, which must say what the answer says.

    Raises:
        Untrusted: it has none, or one about something else; or the result is not what it claims.
    """
    if ended.receipt is None:
        raise Untrusted("the answer comes without a receipt", where=run.id)
    receipt = open_receipt(ended.receipt, target)
    lines = "\n".join(line.text for line in ended.logs)
    said = (
        run.id,
        run.digest,
        ended.outcome,
        digest_of(ended.result),
        digest_of(lines.encode() if lines else None),
    )
    signed = (
        receipt.run,
        receipt.script_sha256,
        receipt.outcome,
        receipt.result_sha256,
        receipt.output_sha256,
    )
    if said != signed or ended.outcome not in _OUTCOMES:
        raise Untrusted("the receipt is about another run, or another end of it", where=run.id)
    if ended.result is not None and not ended.is_bytes and not is_json_line(ended.result):
        raise Untrusted("the result is not the JSON that it claims to be", where=run.id)
    return receipt


def _distrusted(ended: ScriptEnded, error: Untrusted) -> ScriptEnded:
    return ScriptEnded(run=ended.run, outcome="failed", error=script_error(error))


def _entry(run: Run, ended: ScriptEnded, now: float) -> Entry:
    return Entry(
        at=now,
        actor=run.caller,
        context=run.target,
        action="script.ended",
        object=f"sha256:{run.digest}",
        allowed=ended.outcome != "refused",
        rule=ended.error.rule if ended.error else None,
        run=run.id,
        text=f"{run.filename}: {ended.outcome}",
    )
