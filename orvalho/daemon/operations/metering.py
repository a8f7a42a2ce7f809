"""What we do when the owner asks what is used, by whom, and what happens now."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from functools import partial
from typing import Any, Final, cast, get_args

import msgspec
from anyio import to_thread

from orvalho.contexts.identity import Key, parse_key
from orvalho.contexts.names import parse_address
from orvalho.control import messages as control
from orvalho.control import metering
from orvalho.daemon import events
from orvalho.daemon.house import House
from orvalho.errors import InvalidInput, NotFound
from orvalho.policies import usage
from orvalho.policies.audit import Entry, entries_since
from orvalho.policies.quotas import TOTAL, State

Replies = AsyncIterator[control.Reply]

# The most that is told of the past at once.
_PAST: Final = 100_000
_TWICE: Final = "a run of a sender in two groups counts in both; - is in no group"


class MeteringOperations:
    """`orvalho quota`, `usage` and `events`, and who is in which group."""

    def __init__(self, house: House) -> None:
        self._house = house

    def table(self) -> dict[type[control.Message], Callable[[Any], Any]]:
        """Its rows of the daemon's table: request -> operation."""
        return {
            metering.Quota: self.quota,
            metering.UsageSum: self.usage,
            metering.Events: self.events,
            metering.GroupAdd: self.add_to_group,
            metering.GroupRemove: self.remove_from_group,
        }

    async def quota(self, _request: metering.Quota) -> Replies:
        states = await self._house.quotas.states()
        known = (TOTAL, *self._house.groups.names())
        yield metering.QuotaReply(
            quotas=tuple(_quota(state) for state in states),
            problems=tuple(
                f"there is no group {state.terms.name}: orvalho group add {state.terms.name} PEER"
                for state in states
                if state.terms.name not in known
            ),
        )

    async def usage(self, request: metering.UsageSum) -> Replies:
        if request.by not in get_args(usage.By):
            raise InvalidInput(f"{request.by!a} is not one of {', '.join(get_args(usage.By))}")
        since = 0.0 if request.since_s is None else time.time() - request.since_s
        by = cast("usage.By", request.by)
        # On the writer's thread: every receipt that was handed out by now is counted.
        sums = await self._house.store.transact(
            "usage.read", partial(usage.sums, by=by, at=max(since, 0.0))
        )
        yield metering.UsageReply(
            by=by,
            rows=tuple(
                metering.Used(
                    of=each.of,
                    names=each.names,
                    runs=each.runs,
                    **msgspec.structs.asdict(each.usage),
                )
                for each in sums
            ),
            note=_TWICE if by == "group" else None,
        )

    async def events(self, request: metering.Events) -> Replies:
        with ExitStack() as stack:
            # First, so that nothing is missed between the past and the present.
            reader = stack.enter_context(self._house.events.follow()) if request.follow else None
            told: set[tuple[str | None, ...]] = set()
            if request.since_s > 0:
                past = partial(_past, since=time.time() - request.since_s)
                for event in await self._house.store.transact("events.read", past):
                    told.add(_same(event))
                    yield event
            if reader is not None:
                async for event in reader:
                    if not told or _same(event) not in told:
                        yield event

    # ---- groups -----------------------------------------------------------------------------

    async def add_to_group(self, request: metering.GroupAdd) -> Replies:
        groups, (key, label) = self._house.groups, self._key(request.peer)
        added = await to_thread.run_sync(groups.add, request.name, key, label)
        await self._read_groups()
        if added:
            yield control.Note(text=f"{request.peer} is in @{request.name} now: {added}")
        else:
            yield control.Note(text=f"{request.peer} is in @{request.name} already", changed=False)

    async def remove_from_group(self, request: metering.GroupRemove) -> Replies:
        groups = self._house.groups
        if request.name not in groups.names():
            raise NotFound(f"there is no group {request.name!a}", hint="orvalho group ls")
        key, _ = self._key(request.peer)
        removed = await to_thread.run_sync(groups.remove, request.name, key)
        await self._read_groups()
        text = f"{request.peer} is {'no longer' if removed else 'not'} in @{request.name}"
        yield control.Note(text=text, changed=bool(removed))

    async def _read_groups(self) -> None:
        read = await to_thread.run_sync(self._house.groups.reload)
        self._house.problems["groups"] = read.problems

    def _key(self, peer: str) -> tuple[Key, str]:
        """The key of a node, of a context, or itself; and how its file is called."""
        if peer.startswith("ed25519:"):
            key = parse_key(peer)
            return key, f"key-{key.hex()[:16]}"
        house, address = self._house, parse_address(peer)
        if address.node == house.name:
            if address.context is None:
                return house.identity.node.key, house.name
            return house.contexts.get(address.context).key, f"{address.context}-{house.name}"
        known = house.trust.by_name(address.node)
        if address.context is None:
            return known.node_key, known.name
        entry = known.context(address.context)
        if entry is None:
            raise NotFound(f"{known.name} has no context {address.context}", where=peer)
        return Key(entry.key), f"{entry.name}-{known.name}"


def _quota(state: State) -> metering.QuotaState:
    terms = state.terms
    return metering.QuotaState(
        name=terms.name,
        cpu_ms=state.cpu_ms,
        cpu_limit_ms=terms.cpu_ms,
        network_bytes=state.network_bytes,
        network_limit_bytes=terms.network_bytes,
        memory_bytes=state.memory_bytes,
        memory_limit_bytes=terms.memory_bytes,
        cores_limit=terms.cores,
        running=state.running,
        runs_limit=terms.runs_at_once,
        waiting=state.waiting,
        window_s=terms.window_s,
        room_at=state.room_at,
        queue=terms.queues,
    )


def _past(connection: sqlite3.Connection, since: float) -> list[metering.Event]:
    """What was kept: the receipts and the decisions."""
    charges = usage.since(connection, since, _PAST)
    keys = {charge.run: charge for charge in charges}
    found: list[metering.Event] = []
    for entry in entries_since(connection, since, _PAST):
        if entry.action != "script.ended":
            found.append(_decision(entry, keys.get(entry.run or "")))
    found += map(events.ended, charges)
    # Of one moment, decisions come before the end.
    return sorted(found, key=lambda event: event.at)


def _decision(entry: Entry, charge: usage.Charge | None) -> metering.Event:
    verdict = "allowed" if entry.allowed else "refused"
    return metering.Event(
        kind="script.decided" if entry.action == "script.run" else "access.decided",
        at=entry.at,
        level="info" if entry.allowed else "warn",
        text=f"{entry.actor}: {entry.action} {entry.object} in {entry.context}: {verdict}",
        run=entry.run,
        requester=entry.actor,
        key=charge.caller_key if charge else None,
        node_key=charge.node_key if charge else None,
        context=entry.context,
        action=entry.action,
        object=entry.object,
        allowed=entry.allowed,
        rule=entry.rule,
    )


def _same(event: metering.Event) -> tuple[str | None, ...]:
    """What two tellings of one event have in common."""
    if event.run is None:
        return (event.kind, repr(event.at))
    return (event.kind, event.run, event.action, event.object)
