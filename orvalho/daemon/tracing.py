"""The tree of runs that one run belongs to: what is written down here, and what other nodes tell.

Who has sent a run may ask the node that it went to about it, and about what it called in turn; that
node asks on, as the sender of those. What comes is held against receipts, each of which was signed
by the node where its run took place, and names both the run above it and those below.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import anyio
import msgspec

from orvalho.contexts.identity import Key, key_text, parse_key
from orvalho.contexts.names import parse_run_id
from orvalho.daemon.house import House
from orvalho.daemon.peer_words import name_of
from orvalho.daemon.wire import decode, encode
from orvalho.errors import InvalidInput, NotFound, OrvalhoError, Unavailable, Untrusted
from orvalho.scripts import traces
from orvalho.scripts.dsse import open_sealed
from orvalho.scripts.receipts import Receipt, open_receipt
from orvalho.scripts.runs import Run
from orvalho.scripts.signing import MAX_ENVELOPE_BYTES, PAYLOAD_TYPES, Call
from orvalho.scripts.traces import MAX_DEPTH, Hop

TRACE: Final = "run.trace"

_MOST_PARTS: Final = 1_000
_MOST_RECEIPTS_BYTES: Final = 8 << 20
_AT_ONCE: Final = 16
_LONGEST_S: Final = 60.0
# What each node on the way keeps back, so that its own answer is in time.
_KEPT_BACK_S: Final = 0.3


class AskTrace(msgspec.Struct, frozen=True, kw_only=True):
    """What became of this run, which the asker has sent; asking on takes at most `timeout_s`."""

    run: str
    timeout_s: float


class TracePart(msgspec.Struct, frozen=True, kw_only=True):
    """One run as a node tells it: as in `control.tracing.TracedRun`. `receipt` is what
    `sign_receipt` made, once it has ended."""

    run: str
    parent: str | None
    node: str
    node_key: str
    caller: str
    target: str
    filename: str
    state: str
    outcome: str | None = None
    started_at: float | None = None
    wall_ms: int | None = None
    receipt: bytes | None = None
    problem: str | None = None


class TraceTold(msgspec.Struct, frozen=True, kw_only=True):
    """Each run after the one that caused it; the first is what was asked for."""

    parts: tuple[TracePart, ...]


@dataclass(frozen=True, slots=True)
class Proven:
    """A part, and what the receipts say of the edge that leads to it."""

    part: TracePart
    signed: str


@dataclass(frozen=True, slots=True)
class Tree:
    """What is known of a run's tree: `above` is what its call says, outermost first."""

    trace: str
    runs: tuple[Proven, ...]
    above: tuple[Hop, ...] = field(default=())


class Tracing:
    """Finds trees, and answers those who ask for theirs."""

    def __init__(self, house: House, is_running: Callable[[str], bool]) -> None:
        self._house = house
        self._is_running = is_running

    async def tree(self, prefix: str, timeout_s: float) -> Tree:
        """The whole tree of the run whose id begins so, from the first of its runs that is known
        here.

        Raises:
            NotFound: there is no such run.
        """
        house = self._house
        run = await house.runs.find(prefix)
        for _ in range(MAX_DEPTH):
            cause = await house.store.read(partial(traces.cause_of, run=run.id))
            above = await house.runs.peek(cause) if cause else None
            if above is None:
                break
            run = above
        chain = _chain_of((await house.runs.bodies(run.id)).envelope)
        parts = await self._below(run, min(max(timeout_s, 0.1), _LONGEST_S))
        trace = traces.trace_of(chain[0].run if chain else run.id)
        return Tree(trace, tuple(proven(parts)), chain)

    async def answer(self, sender: Key, body: bytes) -> bytes:
        """A peer asks about a run that it has sent here.

        Raises:
            NotFound: it has sent none of that id, or none any more.
        """
        asked = decode(body, AskTrace)
        house = self._house
        found = await house.runs.peek(parse_run_id(asked.run))
        peer = house.trust.by_key(sender)
        is_theirs = (
            found is not None
            and found.direction == "received"
            and house.trust.heir(parse_key(found.peer_key)) == house.trust.heir(sender)
        )
        if found is None or peer is None or not is_theirs:
            raise NotFound("no run of that id has come from you", where=asked.run)
        whom = house.settings.config.policy.explain_to
        if whom == "all" or (whom == "own" and peer.relation == "own"):
            parts = await self._below(found, min(asked.timeout_s, _LONGEST_S) - _KEPT_BACK_S)
        else:
            only = await self._part(found, None)
            why = f"{house.name} does not tell what it called"
            parts = [msgspec.structs.replace(only, problem=why)]
        return encode(TraceTold(parts=tuple(_bounded(parts))))

    async def _below(
        self, run: Run, timeout_s: float, parent: str | None = None
    ) -> list[TracePart]:
        """A run, and all that it caused."""
        if run.direction == "sent" and run.peer_key != key_text(self._house.identity.node.key):
            return await self._asked(run, timeout_s, parent)
        own = await self._part(run, parent)
        caused = await self._house.store.read(partial(traces.caused_by, run=run.id))
        told: dict[str, list[TracePart]] = {each: [] for each in caused}
        limiter = anyio.Semaphore(_AT_ONCE)

        async def ask(child: str) -> None:
            async with limiter:
                found = await self._house.runs.peek(child)
                if found is not None:
                    told[child] = await self._asked(found, timeout_s, run.id)

        async with anyio.create_task_group() as tasks:
            for child in caused:
                tasks.start_soon(ask, child)
        return [own, *(part for parts in told.values() for part in parts)]

    async def _asked(self, run: Run, timeout_s: float, parent: str | None) -> list[TracePart]:
        """A run that we sent, as its node tells it."""
        own = await self._part(run, parent)
        caused = _caused(own)
        if caused == []:
            # Its receipt says that it called nothing: nobody need be asked.
            return [own]
        if timeout_s <= 0:
            return [msgspec.structs.replace(own, problem="there was no time left to ask")]
        body = encode(AskTrace(run=run.id, timeout_s=timeout_s))
        try:
            node_key = self._house.trust.heir(parse_key(run.peer_key))
            raw = await self._house.node.ask(node_key, TRACE, body, timeout_s)
            first, *rest = _checked(decode(raw, TraceTold).parts, run.id)
        except NotFound:
            # It has not come there yet, or was refused before it was written down.
            return [own]
        except OrvalhoError as error:
            what = error.message if isinstance(error, Unavailable) else "its answer is none"
            problem = f"what it called is not known: {what}"
            return [msgspec.structs.replace(own, problem=problem), *(caused or ())]
        if own.state != "ended":
            own = msgspec.structs.replace(
                own, state=first.state, outcome=first.outcome, started_at=first.started_at
            )
        return [msgspec.structs.replace(own, problem=first.problem), *rest]

    async def _part(self, run: Run, parent: str | None) -> TracePart:
        house = self._house
        bodies = await house.runs.bodies(run.id)
        is_here = run.direction == "received" or run.peer_key == key_text(house.identity.node.key)
        key = house.identity.node.key if is_here else parse_key(run.peer_key)
        state = "running" if is_here and self._is_running(run.id) else run.state
        return TracePart(
            run=run.id,
            parent=parent,
            node=house.name if is_here else name_of(house, key),
            node_key=key_text(key),
            caller=run.caller,
            target=run.target,
            filename=run.filename,
            state=state,
            outcome=run.outcome,
            started_at=run.started_at or run.created_at,
            wall_ms=run.usage.wall_ms if run.state == "ended" else None,
            receipt=bodies.receipt,
        )


def proven(parts: Iterable[TracePart]) -> list[Proven]:
    """Each part with what its receipts prove. The first is ours, or was sent by us: its receipt was
    checked when it came."""
    found: list[Proven] = []
    receipts: dict[str, Receipt | None] = {}
    for part in parts:
        if not found:
            receipts[part.run] = _opened(part.receipt, part.node_key, part.run)
            found.append(Proven(part, "both" if receipts[part.run] else "running"))
            continue
        above = receipts.get(part.parent or "")
        named = (
            next((each for each in above.caused if each.run == part.run), None) if above else None
        )
        key = named.node_key if named else part.node_key
        receipt = _opened(part.receipt, key, part.run)
        if receipt is not None and receipt.parent != part.parent:
            receipt = None
        receipts[part.run] = receipt
        if receipt is not None and named is not None:
            part = _as_signed(part, receipt)  # noqa: PLW2901 -- the same, as it is proven
        found.append(Proven(part, _standing(part, above, named is not None, receipt)))
    return found


def _standing(part: TracePart, above: Receipt | None, is_named: bool, below: Receipt | None) -> str:
    if above is not None and is_named and below is not None:
        return "both"
    if part.receipt is not None and below is None:
        return "no"
    if above is not None and not is_named:
        return "no"
    return "running" if above is None else "caller"


def _as_signed(part: TracePart, receipt: Receipt) -> TracePart:
    return msgspec.structs.replace(
        part,
        state="ended",
        outcome=receipt.outcome,
        target=receipt.target,
        caller=receipt.caller,
        filename=receipt.filename,
        started_at=receipt.started_at,
        wall_ms=receipt.usage.wall_ms,
    )


def _opened(raw: bytes | None, key: str, run: str) -> Receipt | None:
    if raw is None:
        return None
    try:
        receipt = open_receipt(raw, parse_key(key))
    except (Untrusted, InvalidInput):
        return None
    return receipt if receipt.run == run else None


def _caused(part: TracePart) -> list[TracePart] | None:
    """What a run has called, as its receipt alone tells; None where there is none."""
    receipt = _opened(part.receipt, part.node_key, part.run)
    if receipt is None:
        return None
    return [
        TracePart(
            run=each.run,
            parent=part.run,
            node=each.node,
            node_key=each.node_key,
            caller=receipt.target,
            target=each.node,
            filename=each.called,
            state="ended" if each.outcome else "told",
            outcome=each.outcome,
        )
        for each in receipt.caused
    ]


def _checked(parts: tuple[TracePart, ...], run: str) -> tuple[TracePart, ...]:
    """Raises:
    InvalidInput: this is no tree, not that of this run, or deeper than any can be.
    """
    if not 0 < len(parts) <= _MOST_PARTS or parts[0].run != run:
        raise InvalidInput("this is not the tree that was asked for")
    depths = {run: 1}
    for part in parts[1:]:
        parse_run_id(part.run)
        depth = depths.get(part.parent or "", MAX_DEPTH) + 1
        if depth > MAX_DEPTH or part.run in depths:
            raise InvalidInput("this is no tree of runs")
        depths[part.run] = depth
    return parts


def _bounded(parts: list[TracePart]) -> list[TracePart]:
    """What one answer holds: the first thousand, with receipts as far as there is room."""
    room, kept = _MOST_RECEIPTS_BYTES, []
    for part in parts[:_MOST_PARTS]:
        room -= len(part.receipt or b"")
        kept.append(part if room >= 0 else msgspec.structs.replace(part, receipt=None))
    if len(parts) > _MOST_PARTS:
        kept[0] = msgspec.structs.replace(kept[0], problem="it called more than is told here")
    return kept


def _chain_of(envelope: bytes) -> tuple[Hop, ...]:
    """What a call that was verified when it came says of its way."""
    payload, _ = open_sealed(envelope, *PAYLOAD_TYPES, max_bytes=MAX_ENVELOPE_BYTES)
    return msgspec.json.decode(payload, type=Call).chain
