"""The table of calls that one run may make: into its target, and back to its caller."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property

from orvalho.contexts.context import Context
from orvalho.contexts.identity import Key
from orvalho.daemon.house import House
from orvalho.daemon.run_gate import RunGate
from orvalho.errors import Denied, OrvalhoError, from_code
from orvalho.runtime.job import HostCall
from orvalho.runtime.web.contexts import FILE_CALLS, file_calls, key_value_calls
from orvalho.scripts.messages import CallerCall, CallerReply, ScriptError, decode, encode

_CALLER_ANSWER_S = 60.0
_EFFECTS = frozenset({"fs.write", "fs.mkdir", "fs.remove", "fs.move"})


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


def target_calls(house: House, context: Context, gate: RunGate) -> dict[str, HostCall]:
    """`target.fs.*` and `target.kv.*`."""
    calls = file_calls("target", context.files(gate.decide), gate)
    calls |= key_value_calls("target", house.values_of(context.name), gate)
    return {name: _audited(name, call, gate) for name, call in calls.items()}


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
    return gate.keep_refusal(error) if isinstance(error, Denied) else error


def _audited(name: str, call: HostCall, gate: RunGate) -> HostCall:
    async def audited(argument: str) -> str:
        try:
            return await call(argument)
        except Denied as error:
            gate.note_escape(name, error)
            raise

    return audited


def caller_calls(house: House, sender: Key, run: str, gate: RunGate) -> dict[str, HostCall]:
    """`caller.fs.*`: over the link to the sender, who decides."""
    numbers = itertools.count()

    def over_the_link(name: str) -> HostCall:
        async def call(argument: str) -> str:
            if name in _EFFECTS:
                await gate.begin_effect()
            asked = CallerCall(run=run, call=next(numbers), op=f"caller.{name}", argument=argument)
            if sender == house.identity.node.key:
                raw = await house.answer_caller(sender, encode(asked))
            else:
                raw = await house.node.ask(
                    house.trust.heir(sender),
                    "caller.call",
                    encode(asked),
                    timeout_s=_CALLER_ANSWER_S,
                )
            reply = decode(raw, CallerReply)
            if reply.error is not None:
                raise _refused_there(reply.error, gate)
            return reply.value or "null"

        return call

    return {f"caller.{name}": over_the_link(name) for name in FILE_CALLS}
