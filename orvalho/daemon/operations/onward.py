"""What a script that runs here asks of other nodes: `target.node.call` and `target.node.send`.

Such a call is an ordinary signed script of the context in which the first one runs, so that the
other node decides about it by its own rules. It carries the chain of runs that led to it, gets no
more time than the run that makes it has left, and ends with that run.
"""

from __future__ import annotations

import base64
import logging
import math
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Final

import anyio
import msgspec

from orvalho.contexts.identity import Key, key_text
from orvalho.contexts.names import Address, parse_address
from orvalho.contexts.trust import Peer
from orvalho.control import libraries as words
from orvalho.control import messages as control
from orvalho.daemon.house import House
from orvalho.daemon.operations.libraries import LibraryOperations
from orvalho.daemon.operations.runs import RunOperations
from orvalho.daemon.operations.script import ScriptOperations
from orvalho.daemon.reach import away, comes
from orvalho.daemon.run_gate import RunGate
from orvalho.daemon.run_record import Arrival, RunRecord
from orvalho.daemon.run_words import RunOver
from orvalho.errors import (
    Denied,
    InvalidInput,
    LimitExceeded,
    ScriptFailed,
    Unavailable,
    from_code,
)
from orvalho.policies.quotas import Hold
from orvalho.runtime.job import HostCall
from orvalho.runtime.web.node import LibraryCall, ScriptSent, beyond_calls
from orvalho.scripts.traces import MAX_CALLS, MAX_DEPTH, Caused, Hop
from orvalho.scripts.traces import Onward as Onwards

_log = logging.getLogger(__name__)

_COMES_S: Final = 5.0
_CANCEL_S: Final = 5.0
# A signature lapses this much later than the time that is left: the clocks of two nodes differ.
_LIFE_BEYOND_S: Final = 60


class Onward:
    """Makes the calls of other nodes for every run of this one."""

    def __init__(
        self,
        house: House,
        scripts: ScriptOperations,
        runs: RunOperations,
        libraries: LibraryOperations,
    ) -> None:
        self._house = house
        self._scripts = scripts
        self._runs = runs
        self._libraries = libraries
        self._record = RunRecord(house)

    def calls(self, arrival: Arrival, gate: RunGate, hold: Hold) -> dict[str, HostCall]:
        """`target.node.call` and `.send` of a run that starts now."""
        until = time.monotonic() + hold.limits.wall_s
        return beyond_calls("target", _Beyond(self, arrival, gate, hold, until), gate)

    def hop(self, arrival: Arrival) -> Hop:
        return Hop(
            run=arrival.run,
            caller=self._record.caller_name(arrival),
            caller_key=key_text(arrival.script.signed_by),
            target=self._record.address(arrival),
            node_key=key_text(self._house.identity.node.key),
        )

    def explains_to(self, arrival: Arrival) -> bool:
        return self._record.explains_to(arrival)

    def peer(self, node: str, chain: tuple[Hop, ...]) -> Peer:
        """Who is called, if the chain may go on there.

        Raises:
            LimitExceeded: it would be too deep, or come back to where it was.
            NotFound: no peer is called so.
        """
        house = self._house
        if len(chain) >= MAX_DEPTH:
            raise LimitExceeded(
                f"hops: a call leads through {MAX_DEPTH} nodes at most, and this is one more",
                hint="call it from the first of them",
            )
        if node == house.name:
            raise LimitExceeded(
                f"hops: the script runs on {node} already, and a call does not come back",
                hint='import what is here: import { f } from "lib:NAME"',
            )
        peer = house.trust.resolve(Address(None, node)).peer
        if any(hop.node_key == key_text(peer.node_key) for hop in chain):
            raise LimitExceeded(
                f"hops: the call came through {node} already, and does not come back",
                where=node,
            )
        return peer

    async def stream(
        self,
        script: control.ScriptSend,
        node_key: Key,
        onward: Onwards,
        on_started: Callable[[str], None],
    ) -> AsyncGenerator[control.Reply, None]:
        """Send it, and its end. Whoever leaves before that ends it."""
        parts = await self._scripts.parts(script)
        run = await self._scripts.start(script, parts, node_key, onward)
        has_ended = False
        try:
            on_started(run)
            ended = await self._end_of(run)
            has_ended = True
            yield ended
        finally:
            if not has_ended:
                await self._take_back(run)

    async def reach(self, peer: Peer) -> None:
        """Raises:
        Unavailable, Untrusted: it is not linked. Nothing is queued for later.
        """
        if not await comes(self._house, peer, _COMES_S):
            raise await away(self._house, peer)

    @property
    def libraries(self) -> LibraryOperations:
        return self._libraries

    async def _end_of(self, run: str) -> control.RunEnded:
        with self._house.feed.watch(run) as events:
            found = await self._house.runs.find(run)
            if found.state == "ended":
                return await self._runs.ended(found)
            while not isinstance(event := await events.get(), RunOver):
                continue
            return event.reply

    async def _take_back(self, run: str) -> None:
        with anyio.move_on_after(_CANCEL_S, shield=True):
            try:
                async for _ in self._runs.cancel(control.ScriptCancel(run=run)):
                    pass
            except Unavailable as error:
                _log.warning("onward.not-cancelled", extra={"run": run, "why": error.message})


class _Beyond:
    """What one run reaches of other nodes (`runtime.web.node.Beyond`)."""

    def __init__(
        self, house: Onward, arrival: Arrival, gate: RunGate, hold: Hold, until: float
    ) -> None:
        self._onward = house
        self._arrival = arrival
        self._gate = gate
        self._hold = hold
        self._until = until
        self._made = 0

    async def call(self, asked: LibraryCall) -> bytes:
        name, at, node = asked.library.partition("@")
        if not (name and at and node):
            raise InvalidInput(
                "a library of another node is NAME@NODE", where=ascii(asked.library[:200])
            )
        peer, onward = self._next(node)
        await self._onward.reach(peer)
        request = words.LibraryCall(
            library=asked.library,
            function=asked.function,
            arguments=tuple(map(_text, asked.arguments)) or tuple(asked.options.args),
            env=asked.options.env,
            stdin=asked.options.stdin,
            target=asked.options.context,
            context=self._context,
        )

        def send(script: control.ScriptSend) -> AsyncGenerator[control.Reply, None]:
            return self._send(script, peer, onward, asked.library)

        return await self._answer(self._onward.libraries.call(request, send), peer)

    async def send(self, asked: ScriptSent) -> bytes:
        address = parse_address(asked.to)
        if address.context is None:
            raise InvalidInput("a script is sent to context@node", where=asked.to)
        peer, onward = self._next(address.node)
        await self._onward.reach(peer)
        script = control.ScriptSend(
            to=asked.to,
            filename=asked.options.filename,
            source=asked.source,
            params=asked.options.params,
            context=self._context,
        )
        called = asked.options.filename
        return await self._answer(self._send(script, peer, onward, called), peer)

    @property
    def _context(self) -> str:
        return self._arrival.script.call.target.context

    def _next(self, node: str) -> tuple[Peer, Onwards]:
        chain = (*self._arrival.script.call.chain, self._onward.hop(self._arrival))
        peer = self._onward.peer(node, chain)
        self._made += 1
        if self._made > MAX_CALLS:
            raise LimitExceeded(f"calls: a run makes at most {MAX_CALLS} calls of other nodes")
        left_s = self._until - time.monotonic()
        if left_s <= 0:
            raise LimitExceeded("wall: the run used up its limit")
        return peer, Onwards(chain, left_s)

    async def _send(
        self, script: control.ScriptSend, peer: Peer, onward: Onwards, called: str
    ) -> AsyncGenerator[control.Reply, None]:
        arrival = self._arrival
        self._hold.move(len(script.source) + len(script.params))
        script = msgspec.structs.replace(
            script, expires_s=math.ceil(onward.wall_s) + _LIFE_BEYOND_S
        )

        def started(run: str) -> None:
            arrival.caused[run] = Caused(
                run=run,
                called=called,
                node=peer.name,
                node_key=key_text(peer.node_key),
                outcome=None,
            )

        stream = self._onward.stream(script, peer.node_key, onward, started)
        async with aclosing(stream) as replies:
            async for reply in replies:
                if isinstance(reply, control.RunEnded):
                    known = arrival.caused[reply.run]
                    arrival.caused[reply.run] = msgspec.structs.replace(
                        known, outcome=reply.outcome
                    )
                yield reply

    async def _answer(self, replies: AsyncGenerator[control.Reply, None], peer: Peer) -> bytes:
        """The result of the run elsewhere, as JSON.

        Raises:
            OrvalhoError: what ended it there, with `peer` set.
        """
        async with aclosing(replies):
            async for reply in replies:
                if isinstance(reply, control.RunEnded):
                    return self._result(reply, peer)
        raise Unavailable("the call ended without a word", where=peer.name)

    def _result(self, ended: control.RunEnded, peer: Peer) -> bytes:
        if ended.error is not None:
            failed = ended.error
            error = from_code(
                failed.code,
                failed.message,
                where=failed.where,
                rule=failed.rule,
                hint=failed.hint,
                peer=failed.peer or peer.name,
            )
            if not isinstance(error, Denied):
                raise error
            if not self._onward.explains_to(self._arrival):
                # The rules of a third are told to nobody to whom ours are not.
                error = Denied(f"{peer.name} refuses it", peer=peer.name)
            raise self._gate.keep_refusal(error)
        if ended.outcome != "done":
            raise ScriptFailed(f"the run on {peer.name} ended as {ended.outcome}", where=ended.run)
        raw = bytes(ended.result)
        if ended.result_bytes is not None:
            raw = b'{"$bytes":"' + base64.b64encode(ended.result_bytes) + b'"}'
        self._hold.move(len(raw))
        return raw


def _text(raw: msgspec.Raw) -> str:
    """An argument as it is written on a command line, where the library's types are held to it."""
    value = msgspec.json.decode(raw)
    return value if isinstance(value, str) else bytes(raw).decode()
