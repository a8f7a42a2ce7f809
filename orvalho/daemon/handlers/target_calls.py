"""The table of calls that one run may make: into its target, and back to its caller."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property, partial

import msgspec
from anyio import to_thread

from orvalho.contexts.documents import Documents, Page
from orvalho.contexts.identity import Key
from orvalho.contexts.query import Asked
from orvalho.contexts.workspace import Workspace
from orvalho.daemon.facts import read_facts
from orvalho.daemon.house import House
from orvalho.daemon.run_gate import RunGate
from orvalho.daemon.run_switches import off_of
from orvalho.errors import Denied, LimitExceeded, OrvalhoError, from_code
from orvalho.policies.quotas import Hold
from orvalho.runtime.job import HostCall
from orvalho.runtime.web.contexts import FILE_CALLS, file_calls, key_value_calls
from orvalho.runtime.web.documents import document_calls
from orvalho.runtime.web.node import node_calls
from orvalho.scripts.messages import CallerCall, CallerReply, ScriptError, decode, encode
from orvalho.scripts.plan import PlannedCall

_CALLER_ANSWER_S = 60.0
# What the number in `most_bytes` itself takes.
_NUMBER_BYTES = 16
_SHOWN = 200
_EFFECTS = frozenset({"fs.write", "fs.mkdir", "fs.remove", "fs.move"})
_OUTWARD = _EFFECTS | {"node.call", "node.send"}


class CallTable(Mapping[str, HostCall]):
    """The calls of one run, by name; made when the first is made, since many scripts make none."""

    def __init__(self, make: Callable[[], Mapping[str, HostCall]]) -> None:
        self._make = make

    @cached_property
    def _calls(self) -> Mapping[str, HostCall]:
        return self._make()

    def __getitem__(self, name: str) -> HostCall:
        return self._calls[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._calls)

    def __len__(self) -> int:
        return len(self._calls)


class _Staged:
    """The gate in front of a workspace: what is written there is no effect yet."""

    def __init__(self, gate: RunGate) -> None:
        self.decide = gate.decide
        self.count = gate.count

    async def begin_effect(self) -> None:
        """Nothing can have happened yet."""


class _SeenDocuments(Documents):
    """Documents whose queries a run is held to: they must answer the same at its commit."""

    def __init__(self, house: House, workspace: Workspace) -> None:
        context, values = workspace.context, workspace.values
        super().__init__(house.store, context.name, context.schemas.current, lambda: values.pending)
        self._values = values

    async def query(self, collection: str, asked: Asked) -> Page:
        await self._values.watch(f"{collection}/")
        return await super().query(collection, asked)


def target_calls(house: House, workspace: Workspace, gate: RunGate) -> dict[str, HostCall]:
    """`target.fs.*`, `target.kv.*`, `target.docs.*` and `target.node.*`."""
    staged, values = _Staged(gate), workspace.values
    calls = file_calls("target", workspace.files(gate.decide), staged)
    calls |= key_value_calls("target", values, staged)
    calls |= document_calls("target", values, _SeenDocuments(house, workspace), staged)
    calls |= node_calls("target", partial(_facts, house), gate)
    calls |= gate.rights.calls()
    return governed(house, workspace.context.name, calls, gate)


def governed(
    house: House, context: str, calls: Mapping[str, HostCall], gate: RunGate
) -> dict[str, HostCall]:
    """The same calls, less those that the context has switched off; the broker is asked before
    each, and what is refused is audited."""
    off = off_of(house, context).ops
    return {name: _audited(name, call, gate) for name, call in calls.items() if name not in off}


async def _facts(house: House) -> bytes:
    labels = house.labels_of(house.identity.node.key)
    read = partial(read_facts, house.name, labels, house.home.contexts, house.started_at)
    return msgspec.json.encode(await to_thread.run_sync(read, abandon_on_cancel=True))


def _refused_there(told: ScriptError, gate: RunGate) -> OrvalhoError:
    error = from_code(
        told.code,
        told.message,
        where=told.where,
        rule=told.rule,
        hint=told.hint,
        peer=told.peer,
        detail=told.detail,
    )
    if isinstance(error, LimitExceeded):
        return gate.keep_exceeded(error)
    return gate.keep_refusal(error) if isinstance(error, Denied) else error


def _audited(name: str, call: HostCall, gate: RunGate) -> HostCall:
    async def audited(argument: str) -> str:
        try:
            if gate.broker is None:
                return await call(argument)
            return await gate.broker.within_call(next(gate.calls), name, call, argument)
        except Denied as error:
            gate.note_escape(name, error)
            raise
        except LimitExceeded as error:
            raise gate.keep_exceeded(error) from None

    return audited


def rehearsed(calls: Mapping[str, HostCall], not_run: list[PlannedCall]) -> dict[str, HostCall]:
    """The same calls, but that those with an effect are noted and not made."""

    def noted(name: str) -> HostCall:
        async def note(argument: str) -> str:
            shown = argument if len(argument) <= _SHOWN else f"{argument[:_SHOWN]}..."
            not_run.append(PlannedCall(call=name, argument=shown))
            return "null"

        return note

    return {
        name: noted(name) if name.partition(".")[2] in _OUTWARD else call
        for name, call in calls.items()
    }


def caller_calls(
    house: House, sender: Key, run: str, gate: RunGate, hold: Hold
) -> dict[str, HostCall]:
    """`caller.fs.*`: over the link to the sender, who decides; no more than `hold` lets move."""
    numbers = itertools.count()

    def over_the_link(name: str) -> HostCall:
        async def call(argument: str) -> str:
            next(gate.calls)
            if (dropped := gate.rights.refusal_of_call(name)) is not None:
                raise gate.keep_refusal(dropped)
            if name in _EFFECTS:
                await gate.begin_effect()
            asked = CallerCall(run=run, call=next(numbers), op=f"caller.{name}", argument=argument)
            if sender == house.identity.node.key:
                reply = decode(await house.answer_caller(sender, encode(asked)), CallerReply)
            else:
                reply = await _over_link(house, house.trust.heir(sender), asked, hold)
            if reply.error is not None:
                raise _refused_there(reply.error, gate)
            return reply.value or "null"

        return call

    return {f"caller.{name}": over_the_link(name) for name in FILE_CALLS}


async def _over_link(house: House, sender: Key, asked: CallerCall, hold: Hold) -> CallerReply:
    """Raises:
    LimitExceeded: the question, or the answer, is more than the run may move.
    """
    room_bytes = hold.room_bytes - len(encode(asked)) - _NUMBER_BYTES
    body = encode(msgspec.structs.replace(asked, most_bytes=max(room_bytes, 0)))
    hold.move(len(body))
    raw = await house.node.ask(sender, "caller.call", body, timeout_s=_CALLER_ANSWER_S)
    reply = decode(raw, CallerReply)
    hold.move(max(len(raw), reply.wanted_bytes))
    return reply
