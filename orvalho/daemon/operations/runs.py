"""What we do when the owner asks about runs: those sent from here, and those of others here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final

import anyio
import msgspec

from orvalho.contexts.identity import Key, key_text, parse_key
from orvalho.contexts.names import (
    RunId,
    ulid_bytes,
)
from orvalho.control import messages as control
from orvalho.daemon.handlers.script import ScriptHandler
from orvalho.daemon.house import House
from orvalho.daemon.peer_words import name_of
from orvalho.daemon.run_words import (
    RunEvent,
    RunOver,
    ended_reply,
    failed,
    run_over,
    run_state,
)
from orvalho.peers import outbox
from orvalho.peers.envelope import EnvelopeId
from orvalho.policies.quota import parse_duration
from orvalho.scripts import runs, sources
from orvalho.scripts.dsse import open_sealed
from orvalho.scripts.messages import (
    CancelScript,
    ScriptEnded,
    ScriptError,
    ScriptOutput,
    encode,
)
from orvalho.scripts.plan import plan_of
from orvalho.scripts.receipts import MAX_BYTES as RECEIPT_BYTES
from orvalho.scripts.receipts import PAYLOAD_TYPE as RECEIPT_TYPE
from orvalho.scripts.runs import Run

Replies = AsyncIterator[control.Reply]

# How often a peer that is waited for is looked at, and how long it may be away at least: a link
# that is cut is made again within that.
_LOOK_S: Final = 0.5
_AWAY_S: Final = 3.0


class RunOperations:
    """`orvalho script ls|show|logs|result|cancel`."""

    def __init__(self, house: House, handler: ScriptHandler) -> None:
        self._house = house
        self._handler = handler

    def table(self) -> dict[type[control.Message], Callable[[Any], Replies]]:
        """Which request each of these answers."""
        return {
            control.ScriptList: self.list,
            control.ScriptShow: self.show,
            control.ScriptLogs: self.logs,
            control.ScriptResult: self.result,
            control.ScriptCancel: self.cancel,
        }

    async def list(self, request: control.ScriptList) -> Replies:
        found = await self._house.runs.newest(request.limit)
        yield control.ScriptListReply(runs=tuple([await self.state(run) for run in found]))

    async def show(self, request: control.ScriptShow) -> Replies:
        run = await self._house.runs.find(request.run)
        bodies = await self._house.runs.bodies(run.id)
        receipt, signed_by = msgspec.Raw(b"null"), None
        if bodies.receipt is not None:
            payload, key = open_sealed(bodies.receipt, RECEIPT_TYPE, max_bytes=RECEIPT_BYTES)
            receipt, signed_by = msgspec.Raw(payload), key_text(key)
        yield control.ScriptShowReply(
            state=await self.state(run),
            needs=run.needs,
            params_bytes=len(bodies.params),
            expires_at=run.expires_at,
            error=failed(run.error) if run.error else None,
            receipt=receipt,
            receipt_by=signed_by,
            modules=await self._house.store.read(partial(sources.digests_of, run=run.id)),
            sent_bytes=await self._house.store.read(partial(sources.sent_bytes, run=run.id)),
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
            async for reply in self.follow({run.id: run}, events, leaves=False):
                if isinstance(reply, control.RunOutput):
                    yield reply

    async def result(self, request: control.ScriptResult) -> Replies:
        run = await self._house.runs.find(request.run)
        with self._house.feed.watch(run.id) as events:
            run = await self._house.runs.find(run.id)
            if run.state != "ended":
                if not request.wait:
                    yield await self.queued(run, (await self.state(run)).state)
                    return
                while not isinstance(event := await events.get(), RunOver):
                    continue
                yield event.reply
                return
        yield await self.ended(run)

    async def ended(self, run: Run) -> control.RunEnded:
        """How a run ended, as it was kept."""
        bodies = await self._house.runs.bodies(run.id)
        ended = ScriptEnded(
            run=run.id,
            outcome=run.outcome or "",
            result=bodies.result,
            is_bytes=bodies.is_bytes,
            error=run.error,
            plan=await self._house.store.read(partial(plan_of, run=run.id))
            if run.outcome == "planned"
            else None,
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
        id_ = EnvelopeId(ulid_bytes(run.id))
        is_kept = await house.node.depots.depositor.keeper_of(id_) is not None
        if is_ours and await house.node.withdraw(id_):
            taken_back = ScriptError(
                code="conflict", message="the run was taken back by its sender"
            )
            await self.end(run, "cancelled", taken_back)
            yield control.Note(text=f"{run.id} is taken back")
            if not house.node.is_online(node_key) and not is_kept:
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

    async def end(self, run: Run, outcome: str, error: ScriptError) -> None:
        """End a run of ours that will not come to its target any more."""
        ended = ScriptEnded(run=run.id, outcome=outcome, error=error)
        await self._house.store.transact(
            "run.withdrawn",
            lambda connection: runs.stage_ended(connection, ended, at=time.time()),
        )
        self._house.runs.closed(run.id)
        self._house.feed.finish(run.id, run_over(ended, None, peer=run.target))

    async def state(self, run: Run) -> control.RunState:
        """A run of ours that has not ended is queued while its envelope is here, then sent."""
        state = run_state(run)
        if run.direction == "received" or run.state == "ended":
            return state
        if run.state == "held":
            return state
        if self._handler.is_running(run.id):
            return msgspec.structs.replace(state, state="running")
        id_ = EnvelopeId(ulid_bytes(run.id))
        waits = await self._house.store.read(lambda connection: outbox.holds(connection, id_))
        return state if waits else msgspec.structs.replace(state, state="sent")

    # ---- for whoever sends --------------------------------------------------------------------

    async def queued(self, run: Run, state: str) -> control.RunQueued:
        """With whom it waits: another node's depot, if one keeps it, or else here."""
        house, keeper = self._house, None
        if state == "queued":
            id_ = EnvelopeId(ulid_bytes(run.id))
            keeper = await house.node.depots.depositor.keeper_of(id_)
        return control.RunQueued(
            run=run.id,
            to=run.target,
            state=state,
            queued_at=name_of(house, keeper) if keeper else house.name,
            expires_at=run.expires_at,
        )

    async def follow(
        self, awaited: Mapping[str, Run], events: asyncio.Queue[RunEvent], *, leaves: bool = True
    ) -> Replies:
        """The lines of runs as they come, each once; of each run then those that were lost on
        the way, then how it ended. One whose target goes away is told as such, once; it is not
        waited for any longer if one `leaves`."""
        shown: dict[str, set[int]] = {run: set() for run in awaited}
        absences = Absences(self._house, awaited.values())
        while shown:
            event: RunEvent | None = None
            with anyio.move_on_after(_LOOK_S):
                event = await events.get()
            if event is None:
                for gone in absences.new([awaited[each] for each in shown]):
                    yield await self._gone(gone)
                    if leaves:
                        del shown[gone.id]
                continue
            run = event.reply.run if isinstance(event, RunOver) else event.run
            if run not in shown:
                continue
            if isinstance(event, RunOver):
                seen = shown.pop(run)
                if event.lines > len(seen):
                    for line in await self._house.runs.logs(RunId(run)):
                        if line.seq not in seen:
                            yield _output(line)
                yield event.reply
            elif isinstance(event, control.RunHeld):
                # Whoever waits is told, and need not: it may be days.
                del shown[run]
                yield event
            elif event.seq not in shown[run]:
                shown[run].add(event.seq)
                yield event

    async def _gone(self, run: Run) -> control.RunQueued:
        """What is said of a run whose target was there and is not any more."""
        id_ = EnvelopeId(ulid_bytes(run.id))
        if await self._house.store.read(lambda connection: outbox.holds(connection, id_)):
            return await self.queued(run, "queued")
        return control.RunQueued(
            run=run.id,
            to=run.target,
            state="away",
            queued_at=name_of(self._house, parse_key(run.peer_key)),
            expires_at=run.expires_at,
        )


class Absences:
    """Which runs' targets were there and have gone, each told once while it stays away."""

    def __init__(self, house: House, runs_: Iterable[Run]) -> None:
        self._house = house
        # From the start: one that goes before the first look was there all the same.
        now, keys = time.monotonic(), {parse_key(run.peer_key) for run in runs_}
        self._seen = {key: now for key in keys if house.node.is_online(key)}
        self._told: set[Key] = set()
        grace_s = parse_duration(house.settings.config.delivery.grace)
        self._away_s = max(_AWAY_S, grace_s)

    def new(self, runs_: Sequence[Run]) -> Iterator[Run]:
        """Those of `runs_` that are to be told of now."""
        now, me = time.monotonic(), self._house.identity.node.key
        by_key: dict[Key, list[Run]] = {}
        for run in runs_:
            by_key.setdefault(parse_key(run.peer_key), []).append(run)
        for key, theirs in by_key.items():
            if key == me or self._house.node.is_online(key):
                self._seen[key] = now
                self._told.discard(key)
            elif key not in self._told and now - self._seen.get(key, now) > self._away_s:
                self._told.add(key)
                yield from theirs


def _output(line: ScriptOutput) -> control.RunOutput:
    return control.RunOutput(
        run=line.run, seq=line.seq, level=line.level, text=line.text, at=line.at
    )
