"""`target.node`, the host's half: what the node says of its machine, and what a script asks of
other nodes through it, if its owner lets it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

import msgspec

from orvalho.errors import InvalidInput
from orvalho.runtime.bridge import HostCall
from orvalho.runtime.web.contexts import Gate

# The one object of the action: a node is asked as a whole.
WHOLE: Final = "/"


def node_calls(side: str, facts: Callable[[], Awaitable[bytes]], gate: Gate) -> dict[str, HostCall]:
    """`<side>.node.facts`; `facts` answers them as JSON."""

    async def tell(argument: str) -> str:
        if argument.strip() not in ("[]", "null", ""):
            raise InvalidInput("node.facts takes no arguments")
        gate.decide("node.read", WHOLE)
        told = await facts()
        gate.count(read_bytes=len(told))
        return told.decode()

    return {f"{side}.node.facts": tell}


class CallOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`context` on that node; the rest is for programs: arguments, environment, input."""

    context: str | None = None
    args: list[str] = msgspec.field(default_factory=list)
    env: dict[str, str] = msgspec.field(default_factory=dict)
    stdin: str | None = None


class LibraryCall(msgspec.Struct, frozen=True, array_like=True):
    """`call("add@phone3", "add", [2, 3])`; without a function, the library is a program."""

    library: str
    function: str | None = None
    arguments: list[msgspec.Raw] = msgspec.field(default_factory=list)
    options: CallOptions = msgspec.field(default_factory=CallOptions)


class SendOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Its ending says which language a script is in; `params` is any JSON."""

    filename: str = "script.js"
    params: msgspec.Raw = msgspec.Raw(b"null")


class ScriptSent(msgspec.Struct, frozen=True, array_like=True):
    """`send("peer@phone3", source, { params })`."""

    to: str
    source: str
    options: SendOptions = msgspec.field(default_factory=SendOptions)


class Beyond(Protocol):
    """What other nodes have, as one run reaches it. Both answer JSON."""

    async def call(self, asked: LibraryCall) -> bytes: ...
    async def send(self, asked: ScriptSent) -> bytes: ...


def beyond_calls(side: str, beyond: Beyond, gate: Gate) -> dict[str, HostCall]:
    """`<side>.node.call` and `.send`. What they do elsewhere is done: the run's start is durable
    before."""

    async def call(argument: str) -> str:
        asked = _decode(argument, LibraryCall)
        gate.decide("node.call", asked.library)
        await gate.begin_effect()
        return _counted(gate, await beyond.call(asked))

    async def send(argument: str) -> str:
        asked = _decode(argument, ScriptSent)
        gate.decide("node.send", asked.to)
        await gate.begin_effect()
        return _counted(gate, await beyond.send(asked))

    return {f"{side}.node.call": call, f"{side}.node.send": send}


def _counted(gate: Gate, answer: bytes) -> str:
    gate.count(read_bytes=len(answer))
    return answer.decode()


def _decode(argument: str, kind: type[Any]) -> Any:
    try:
        return msgspec.json.decode(argument, type=kind)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidInput(f"the arguments are not understood: {error}") from error
