"""What we do when the owner sends a script, or asks about one."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass

import msgspec

from orvalho.contexts.context import Context
from orvalho.contexts.filesystem import virtual_path
from orvalho.contexts.identity import Key, key_text, parse_key
from orvalho.contexts.names import Address, new_run_id, parse_address, ulid_bytes
from orvalho.control import messages as control
from orvalho.daemon.handlers.script import ScriptHandler
from orvalho.daemon.house import House
from orvalho.daemon.limits import allowance
from orvalho.daemon.peer_words import path_to
from orvalho.daemon.run_words import (
    RunEvent,
    RunOver,
    ended_reply,
    failed,
    run_over,
    run_state,
)
from orvalho.daemon.subjects import own_subject, peer_subject
from orvalho.errors import InvalidInput, NotFound
from orvalho.peers import outbox
from orvalho.peers.envelope import EnvelopeId
from orvalho.policies.access import AccessRequest
from orvalho.policies.audit import decided
from orvalho.policies.explain import explain, refusal
from orvalho.policies.quota import narrow, parse_duration
from orvalho.scripts import runs
from orvalho.scripts.dsse import open_sealed
from orvalho.scripts.manifest import find_problems, read_manifest
from orvalho.scripts.messages import (
    CancelScript,
    ScriptEnded,
    ScriptError,
    ScriptOutput,
    encode,
    run_script,
)
from orvalho.scripts.receipts import MAX_BYTES as RECEIPT_BYTES
from orvalho.scripts.receipts import PAYLOAD_TYPE as RECEIPT_TYPE
from orvalho.scripts.receipts import open_receipt
from orvalho.scripts.runs import Run
from orvalho.scripts.script import Source, make_script, raw_source
from orvalho.scripts.signing import (
    MAX_ENVELOPE_BYTES,
    Caller,
    SignedScript,
    Target,
    json_value,
    sign_script,
)
from orvalho.scripts.signing import PAYLOAD_TYPE as SCRIPT_TYPE
from orvalho.scripts.wasm_module import check_call, read_module

Replies = AsyncIterator[control.Reply]


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a script goes: a context on a node, which may be this one."""

    address: Address
    node_key: Key


class ScriptOperations:
    """`orvalho script ...` and `orvalho why`."""

    def __init__(self, house: House, handler: ScriptHandler) -> None:
        self._house = house
        self._handler = handler

    # ---- send -------------------------------------------------------------------------------

    async def send(self, request: control.ScriptSend) -> Replies:
        destination = self._destination(request.to)
        context = self._caller(request.context)
        run, signed = self._sign(request, destination, context)
        with self._house.feed.watch(run.id) as events:
            await self._queue(run, signed, request.module or request.source, destination)
            is_here = self._is_here(destination.node_key)
            yield self._queued(run, "sending" if is_here else "queued")
            if request.detach:
                return
            is_awaited = is_here or request.wait or await self._comes(destination.node_key)
            # Between our last look and now it may have ended after all.
            if not is_awaited and events.empty():
                yield self._queued(run, "queued")
                return
            async for reply in self._follow(run, events):
                yield reply

    def _destination(self, to: str) -> Destination:
        address = parse_address(to)
        if address.context is None:
            raise InvalidInput(
                f'"{to}" names a node; a script is sent to a context on it',
                hint=self._contexts_hint(address),
            )
        if address.node == self._house.name:
            self._house.contexts.get(address.context)
            return Destination(address, self._house.identity.node.key)
        return Destination(address, self._house.trust.resolve(address).peer.node_key)

    def _contexts_hint(self, address: Address) -> str:
        with suppress(NotFound):
            peer = self._house.trust.by_name(address.node)
            if peer.contexts:
                return f"orvalho script send {peer.contexts[0].name}@{peer.name} ..."
        return f"orvalho script send CONTEXT@{address.node} ..."

    def _caller(self, name: str | None) -> Context:
        contexts = self._house.contexts
        if name is not None:
            return contexts.get(name)
        usual = self._house.settings.config.context
        if usual:
            return contexts.get(usual)
        found = contexts.list()
        if not found:
            raise NotFound("this node has no context to send from", hint="orvalho ctx new NAME")
        return found[0]

    def _sign(
        self, request: control.ScriptSend, destination: Destination, context: Context
    ) -> tuple[Run, SignedScript]:
        """Raises:
        InvalidInput: the script's name, header or parameters are wrong.
        Denied: our own policy does not let this context send there.
        """
        house, now = self._house, time.time()
        script = make_script(request.filename, request.module or request.source)
        manifest = read_manifest(script, request.needs)
        caller = Address(context.name, house.name)
        params = json_value(bytes(request.params))
        if script.module:
            _check_arguments(script.module, params)
        run_id = new_run_id(now, os.urandom(10))
        asked = AccessRequest(
            own_subject(
                house.name, house.identity.node.key, context.name, context.key, house.groups
            ),
            context.name,
            "script.send",
            str(destination.address),
        )
        decision = house.policy.decide(asked)
        if not decision.allowed:
            house.audit.note(decided(asked, decision, at=now))
            raise refusal(asked, decision)
        house.runs.keep_params(run_id, params)
        signed = sign_script(
            script,
            manifest,
            signer=context.signer,
            caller=Caller(
                node=house.name,
                node_key=key_text(house.identity.node.key),
                context=context.name,
                context_key=key_text(context.key),
                certificate=context.certificate,
            ),
            target=Target(
                node_key=key_text(destination.node_key),
                context=destination.address.context or "",
            ),
            params=params,
            run=run_id,
            now=now,
            life_s=request.expires_s,
        )
        run = Run(
            id=run_id,
            direction="sent",
            caller=str(caller),
            target=str(destination.address),
            peer_key=key_text(destination.node_key),
            filename=script.filename,
            digest=script.digest,
            needs=signed.call.needs,
            wants=signed.call.wants,
            exposed=tuple(_exposed(text) for text in request.expose),
            created_at=now,
            expires_at=signed.call.expires_at,
        )
        return run, signed

    async def _queue(
        self, run: Run, signed: SignedScript, source: Source, destination: Destination
    ) -> None:
        """Durable from here: the run and its envelope are one commit."""
        house = self._house
        body = encode(run_script(signed.envelope, source, signed.params))
        is_local = destination.node_key == house.identity.node.key

        def stage(connection: sqlite3.Connection) -> None:
            runs.stage_new(
                connection,
                run,
                envelope=signed.envelope,
                source=source,
                params=signed.params,
            )
            if not is_local:
                house.node.stage(
                    connection,
                    destination.node_key,
                    "script.run",
                    body,
                    expires_at=run.expires_at,
                    id=EnvelopeId(ulid_bytes(run.id)),
                )

        await house.store.transact("run.queued", stage)
        if is_local:
            self._handler.run_here(body)
        else:
            house.runs.opened(run)
            house.node.flush(destination.node_key, EnvelopeId(ulid_bytes(run.id)))

    def _queued(self, run: Run, state: str) -> control.RunQueued:
        return control.RunQueued(
            run=run.id,
            to=run.target,
            state=state,
            queued_at=self._house.name,
            expires_at=run.expires_at,
        )

    def _is_here(self, node_key: Key) -> bool:
        return node_key == self._house.identity.node.key or self._house.node.is_online(node_key)

    async def _comes(self, node_key: Key) -> bool:
        """Whether the target is reached within the configured grace."""
        deadline = time.monotonic() + parse_duration(self._house.settings.config.delivery.grace)
        while time.monotonic() < deadline:
            if self._is_here(node_key):
                return True
            await asyncio.sleep(0.05)
        return False

    async def _follow(self, run: Run, events: asyncio.Queue[RunEvent]) -> Replies:
        """Its lines as they come, each once; then those that were lost on the way; then how it
        ended."""
        shown: set[int] = set()
        while True:
            event = await events.get()
            if isinstance(event, RunOver):
                if event.lines > len(shown):
                    for line in await self._house.runs.logs(run.id):
                        if line.seq not in shown:
                            yield _output(line)
                yield event.reply
                return
            if event.seq not in shown:
                shown.add(event.seq)
                yield event

    # ---- ask --------------------------------------------------------------------------------

    async def check(self, request: control.ScriptCheck) -> Replies:
        script = make_script(request.filename, request.module or request.source)
        problems = find_problems(script, request.needs)
        described = read_module(script.module) if script.module else None
        needs: tuple[str, ...] = ()
        wants: tuple[str, ...] = ()
        limits: dict[str, int] = {}
        if not problems:
            manifest = read_manifest(script, request.needs)
            needs, wants = tuple(map(str, manifest.needs)), tuple(map(str, manifest.wants))
            granted = narrow(manifest.limits, allowance(self._house.settings.config.limits))
            limits = {
                "wall_ms": round(granted.wall_s * 1000),
                "cpu_ms": round(granted.cpu_s * 1000),
                "memory_bytes": granted.memory_bytes,
                "output_bytes": granted.output_bytes,
                "host_calls": granted.host_calls,
            }
        problems += tuple(
            f"{each.line}:{each.column}: {each.message}"
            for each in await self._house.jobs.check(script.filename, script.source)
        )
        yield control.ScriptChecked(
            filename=script.filename,
            language=script.language.value,
            digest=script.id,
            size_bytes=len(raw_source(script.filename, script.source)),
            needs=needs,
            wants=wants,
            limits=limits,
            problems=problems,
            imports=tuple(map(str, described.imports)) if described else (),
            exports=tuple(map(str, described.exports)) if described else (),
        )

    async def list(self, request: control.ScriptList) -> Replies:
        found = await self._house.runs.newest(request.limit)
        yield control.ScriptListReply(runs=tuple([await self._state(run) for run in found]))

    async def show(self, request: control.ScriptShow) -> Replies:
        run = await self._house.runs.find(request.run)
        bodies = await self._house.runs.bodies(run.id)
        receipt, signed_by = msgspec.Raw(b"null"), None
        if bodies.receipt is not None:
            payload, key = open_sealed(bodies.receipt, RECEIPT_TYPE, max_bytes=RECEIPT_BYTES)
            receipt, signed_by = msgspec.Raw(payload), key_text(key)
        yield control.ScriptShowReply(
            state=await self._state(run),
            needs=run.needs,
            params_bytes=len(bodies.params),
            expires_at=run.expires_at,
            error=failed(run.error) if run.error else None,
            receipt=receipt,
            receipt_by=signed_by,
        )

    async def logs(self, request: control.ScriptLogs) -> Replies:
        run = await self._house.runs.find(request.run)
        with self._house.feed.watch(run.id) as events:
            run = await self._house.runs.find(run.id)
            lines = await self._house.runs.logs(run.id)
            for line in lines:
                yield _output(line)
            if not request.follow or run.state == "ended":
                return
            async for reply in self._follow(run, events):
                if isinstance(reply, control.RunOutput):
                    yield reply

    async def result(self, request: control.ScriptResult) -> Replies:
        run = await self._house.runs.find(request.run)
        with self._house.feed.watch(run.id) as events:
            run = await self._house.runs.find(run.id)
            if run.state != "ended":
                if not request.wait:
                    yield self._queued(run, (await self._state(run)).state)
                    return
                while not isinstance(event := await events.get(), RunOver):
                    continue
                yield event.reply
                return
        yield await self._ended(run)

    async def _ended(self, run: Run) -> control.RunEnded:
        bodies = await self._house.runs.bodies(run.id)
        ended = ScriptEnded(
            run=run.id,
            outcome=run.outcome or "",
            result=bodies.result,
            is_bytes=bodies.is_bytes,
            error=run.error,
        )
        return ended_reply(ended, run.usage, peer=run.target)

    async def cancel(self, request: control.ScriptCancel) -> Replies:
        house = self._house
        run = await house.runs.find(request.run)
        if run.state == "ended":
            yield control.Note(text=f"{run.id} has ended already: {run.outcome}", changed=False)
            return
        if self._handler.stop(run.id):
            yield control.Note(text=f"{run.id} is being stopped")
            return
        node_key = parse_key(run.peer_key)
        is_ours = run.direction == "sent"
        if is_ours and await house.node.withdraw(EnvelopeId(ulid_bytes(run.id))):
            await self._end_here(run)
            yield control.Note(text=f"{run.id} is taken back")
            if not house.node.is_online(node_key):
                return
            # It may be on its way, or there already without our knowing.
        await house.node.post(
            node_key,
            "script.cancel",
            encode(CancelScript(run=run.id)),
            expires_at=run.expires_at,
        )
        else_where = run.target if is_ours else run.caller
        yield control.Note(text=f"{else_where} is told to stop {run.id}")

    async def _end_here(self, run: Run) -> None:
        ended = ScriptEnded(
            run=run.id,
            outcome="cancelled",
            error=ScriptError(code="conflict", message="the run was taken back by its sender"),
        )
        await self._house.store.transact(
            "run.withdrawn",
            lambda connection: runs.stage_ended(connection, ended, at=time.time()),
        )
        self._house.runs.closed(run.id)
        self._house.feed.finish(run.id, run_over(ended, None, peer=run.target))

    async def why(self, request: control.Why) -> Replies:
        house = self._house
        run = await house.runs.find(request.run)
        entries = await house.audit.newest(1000, run=run.id)
        here = [entry for entry in entries if entry.action != "script.ended"]
        decisions = [
            control.DecisionState(
                action=each.action,
                object=each.object,
                allowed=each.allowed,
                rule=each.rule,
                text=each.text,
                nearest=each.nearest,
                suggestion=each.suggestion,
                times=each.times,
            )
            for each in explain(here)
        ]
        bodies = await house.runs.bodies(run.id)
        if not decisions and bodies.receipt is not None:
            me = house.identity.node.key
            ran_at = me if run.direction == "received" else parse_key(run.peer_key)
            decisions = _decisions_of(bodies.receipt, ran_at)
        _, signed_by = open_sealed(bodies.envelope, SCRIPT_TYPE, max_bytes=MAX_ENVELOPE_BYTES)
        yield control.WhyReply(
            state=await self._state(run),
            caller_key=key_text(signed_by),
            signature="the caller's signature over script, parameters, target and times holds",
            road=self._road(run),
            roles=self._roles(run, signed_by),
            decisions=tuple(decisions),
            error=failed(run.error) if run.error else None,
        )

    def _road(self, run: Run) -> str:
        house = self._house
        node_key = parse_key(run.peer_key)
        if node_key == house.identity.node.key:
            return "within this node"
        peer = house.trust.by_key(node_key)
        if peer is None:
            return "a node that is no peer any more"
        way = "to" if run.direction == "sent" else "from"
        return f"{way} {peer.name}: {path_to(house, peer)}"

    def _roles(self, run: Run, signed_by: Key) -> tuple[str, ...]:
        """The words of our policy that hold for the caller now."""
        house = self._house
        context = parse_address(run.caller).context or ""
        me, node_key = house.identity.node.key, parse_key(run.peer_key)
        if run.direction == "sent" or node_key == me:
            subject = own_subject(house.name, me, context, signed_by, house.groups)
        elif (peer := house.trust.by_key(node_key)) is not None:
            subject = peer_subject(peer, context, signed_by, house.groups)
        else:
            return ()
        return tuple(sorted(subject.names))

    async def _state(self, run: Run) -> control.RunState:
        """A run of ours that has not ended is queued while its envelope is here, then sent."""
        state = run_state(run)
        if run.direction == "received" or run.state == "ended":
            return state
        if self._handler.is_running(run.id):
            return msgspec.structs.replace(state, state="running")
        id_ = EnvelopeId(ulid_bytes(run.id))
        waits = await self._house.store.read(lambda connection: outbox.holds(connection, id_))
        return state if waits else msgspec.structs.replace(state, state="sent")


def _decisions_of(receipt: bytes, target: Key) -> list[control.DecisionState]:
    """What the target shared with us of how it decided."""
    return [
        control.DecisionState(
            action=each.action,
            object=each.object,
            allowed=each.allowed,
            rule=each.rule,
            text=None,
            nearest=None,
            suggestion=None,
            times=1,
        )
        for each in open_receipt(receipt, target).tried
    ]


def _output(line: ScriptOutput) -> control.RunOutput:
    return control.RunOutput(
        run=line.run, seq=line.seq, level=line.level, text=line.text, at=line.at
    )


def _check_arguments(module: bytes, params: bytes) -> None:
    """Before anything is signed: a library's function is called with what it can take."""
    described = read_module(module)
    if not described.is_command:
        check_call(described, msgspec.json.decode(params))


def _exposed(text: str) -> str:
    """`/notes` or `/notes:rw`, spelled in the one way."""
    path, colon, mode = text.partition(":")
    if colon and mode != "rw":
        raise InvalidInput(
            f'"{text}" exposes nothing: write PATH to be read, or PATH:rw', where="--expose"
        )
    return virtual_path(path) + (":rw" if colon else "")
