"""What we do when the owner asks many nodes at once: one run each, an answer as each comes."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final

import anyio
import anyio.abc
import msgspec

from orvalho.contexts.identity import Key
from orvalho.contexts.names import Address, Several, parse_target
from orvalho.control import asking
from orvalho.control import messages as control
from orvalho.daemon.house import House
from orvalho.daemon.operations.runs import RunOperations
from orvalho.daemon.operations.script import ScriptOperations
from orvalho.daemon.run_words import RunOver
from orvalho.daemon.selection import Candidate, Selection
from orvalho.errors import Denied, InvalidInput, OrvalhoError, ScriptFailed, Unavailable
from orvalho.scripts.signing import Parts

Replies = AsyncIterator[control.Reply]

_log = logging.getLogger(__name__)

_NULL: Final = msgspec.Raw(b"null")
_ANSWER_BYTES: Final = 256 << 10
_NESTED: Final = 64
# A signature that lapses this much later: the clocks of two nodes differ, and the run of who is
# silent is taken back anyway.
_LIFE_BEYOND_S: Final = 60
_LONGEST_S: Final = 3600.0
_CANCEL_S: Final = 5.0
_INTRODUCED: Final = "introduced by "


@dataclass(frozen=True, slots=True)
class _Asked:
    """One node, and how many introductions away from us it is."""

    member: Candidate
    hops: int

    @property
    def choice(self) -> asking.AskChoice:
        member = self.member
        to = str(member.address)
        return asking.AskChoice(to=to, node=member.node, hops=self.hops, why=member.why)


class AskOperations:
    """`orvalho ask` and `orvalho top`. An answer comes from the node's own run of the program,
    under its own rules; nothing that it says is believed beyond its own row."""

    def __init__(
        self,
        house: House,
        scripts: ScriptOperations,
        runs: RunOperations,
        tasks: anyio.abc.TaskGroup,
    ) -> None:
        self._house = house
        self._scripts = scripts
        self._runs = runs
        self._tasks = tasks
        self._selection = Selection(house)

    async def ask(self, request: asking.Ask) -> Replies:
        """Raises:
        NotFound: nobody is meant, or this node has no context to ask from.
        InvalidInput: the program has a mistake, or the time is none.
        """
        if not (math.isfinite(request.timeout_s) and 0 < request.timeout_s <= _LONGEST_S):
            raise InvalidInput(f"a program may be waited for up to {_LONGEST_S:g} s")
        here = self._scripts.caller_address(request.context)
        everyone = await self._everyone(request)
        parts = await self._scripts.parts(_sent(request, here))
        asked = [each for each in everyone if each.hops <= request.hops]
        left_out = tuple(each.choice for each in everyone if each.hops > request.hops)
        yield asking.AskPlaced(
            name=request.to,
            here=str(here),
            choices=tuple(each.choice for each in asked),
            left_out=left_out,
        )
        answers: asyncio.Queue[asking.AskAnswer] = asyncio.Queue()
        deadline = anyio.current_time() + request.timeout_s
        scopes = [anyio.CancelScope(deadline=deadline) for _ in asked]
        for each, scope in zip(asked, scopes, strict=True):
            self._tasks.start_soon(self._put, request, parts, each, scope, answers)
        try:
            for _ in asked:
                yield await answers.get()
        finally:
            # The asker has gone, or has every answer: then this cancels nothing.
            for scope in scopes:
                scope.cancel()

    # ---- who --------------------------------------------------------------------------------

    async def _everyone(self, request: asking.Ask) -> list[_Asked]:
        house, name = self._house, parse_target(request.to)
        if isinstance(name, Address):
            members = [self._selection.member(name)]
        elif name.is_any:
            members = [await self._selection.choose(name)]
        elif request.here and not house.trust.peers() and name.group is None:
            members = []  # alone: then only this node is asked
        else:
            members = self._selection.members(name)
        me = house.identity.node.key
        if request.here and all(each.node_key != me for each in members):
            context = name.context if isinstance(name, Several) else None
            members.insert(0, self._selection.member(Address(context, house.name)))
        return [_Asked(each, self._hops(each)) for each in members]

    def _hops(self, member: Candidate) -> int:
        """Introductions from us to it: a node that was paired here is one hop away."""
        if member.node_key == self._house.identity.node.key:
            return 0
        trust = self._house.trust
        peers = {peer.name: peer for peer in trust.peers()}
        peer, hops = trust.by_key(member.node_key), 1
        while peer is not None and peer.introduced.startswith(_INTRODUCED):
            hops += 1
            if hops > len(peers):
                break
            peer = peers.get(peer.introduced.removeprefix(_INTRODUCED))
        return hops

    # ---- one node ---------------------------------------------------------------------------

    async def _put(
        self,
        request: asking.Ask,
        parts: Parts,
        asked: _Asked,
        scope: anyio.CancelScope,
        answers: asyncio.Queue[asking.AskAnswer],
    ) -> None:
        """Whatever becomes of it, each node's answer is one: the asker counts them."""
        began_at = time.monotonic()
        choice = asked.choice
        answer = asking.AskAnswer(to=choice.to, node=choice.node, hops=choice.hops, state="silent")
        run: str | None = None
        with scope:
            try:
                address, run = await self._send(request, parts, asked.member)
                answer = msgspec.structs.replace(answer, to=str(address), run=run)
                answer = _answered(answer, await self._end_of(run))
            except OrvalhoError as error:
                answer = msgspec.structs.replace(answer, state="not sent", error=_parts(error))
            except Exception:  # noqa: BLE001 -- the top of a task
                _log.exception("ask.failed", extra={"node": asked.member.node})
                broken = OrvalhoError("asking it failed here; the daemon's log says why")
                answer = msgspec.structs.replace(answer, state="not sent", error=_parts(broken))
        if answer.state == "silent":
            why = f"no answer within {request.timeout_s:g} s"
            if run is None:
                why = f"it was not reached within {request.timeout_s:g} s"
            answer = msgspec.structs.replace(answer, error=_parts(Unavailable(why)))
        took_ms = round(1000 * (time.monotonic() - began_at))
        answers.put_nowait(msgspec.structs.replace(answer, took_ms=took_ms))
        if answer.state == "silent" and run is not None:
            await self._take_back(run)

    async def _send(
        self, request: asking.Ask, parts: Parts, member: Candidate
    ) -> tuple[Address, str]:
        """The context that is asked, and the run. Who is away is waited for, with nothing queued:
        an answer that comes tomorrow answers nobody.

        Raises:
            OrvalhoError: no context there can be meant, or we may send to none of them.
        """
        known = member.known if member.context is None else (member.context,)
        if not known:
            assert member.problem is not None
            raise member.problem
        if member.node_key != self._house.identity.node.key:
            await self._comes(member.node_key)
        refused: Denied | None = None
        for entry in known:
            address = Address(entry.name, member.node)
            try:
                sent = _sent(request, address)
                return address, await self._scripts.start(sent, parts, member.node_key)
            except Denied as error:
                refused = refused or error
        assert refused is not None
        raise refused

    async def _comes(self, node_key: Key) -> None:
        node = self._house.node
        with node.watch() as events:
            while not node.is_online(node_key):
                await anext(events)

    async def _end_of(self, run: str) -> control.RunEnded:
        with self._house.feed.watch(run) as events:
            found = await self._house.runs.find(run)
            if found.state == "ended":
                return await self._runs.ended(found)
            while not isinstance(event := await events.get(), RunOver):
                if isinstance(event, control.RunHeld):
                    # Tomorrow's answer is to nobody's question.
                    raise Denied(f"{event.to} holds it for its owner to look at")
            return event.reply

    async def _take_back(self, run: str) -> None:
        with anyio.move_on_after(_CANCEL_S, shield=True):
            async for _ in self._runs.cancel(control.ScriptCancel(run=run)):
                pass


def _sent(request: asking.Ask, address: Address) -> control.ScriptSend:
    return control.ScriptSend(
        to=str(address),
        filename=request.filename,
        source=request.source,
        module=request.module,
        needs=request.needs,
        params=request.params,
        context=request.context,
        modules=request.modules,
        expires_s=math.ceil(request.timeout_s) + _LIFE_BEYOND_S,
    )


def _answered(answer: asking.AskAnswer, ended: control.RunEnded) -> asking.AskAnswer:
    """The run's end; an answer that is no answer to a program of ours is a failure of its own."""
    error = ended.error and asking.AskError(
        code=ended.error.code,
        message=ended.error.message,
        where=ended.error.where,
        rule=ended.error.rule,
        hint=ended.error.hint,
        peer=ended.error.peer,
        detail=ended.error.detail,
    )
    state, result, raw = ended.outcome, ended.result or _NULL, ended.result_bytes
    if problem := _problem(bytes(result), raw):
        error = _parts(ScriptFailed(problem))
        state, result, raw = "failed", _NULL, None
    return msgspec.structs.replace(
        answer, state=state, result=result, result_bytes=raw, error=error
    )


def _problem(result: bytes, raw: bytes | None) -> str | None:
    size = len(result) if raw is None else len(raw)
    if size > _ANSWER_BYTES:
        return f"its answer has {size} bytes, and at most {_ANSWER_BYTES} are taken"
    try:
        decoded = msgspec.json.decode(result)
    except RecursionError:
        return "its answer is nested too deeply"
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return f"its answer is not JSON: {error}"
    return "its answer is nested too deeply" if _is_deep(decoded) else None


def _is_deep(value: Any) -> bool:
    """Whether it is nested deeper than whoever prints it should have to follow."""
    level = [value]
    for _ in range(_NESTED):
        level = [
            inner
            for each in level
            if isinstance(each, (dict, list))
            for inner in (each.values() if isinstance(each, dict) else each)
        ]
    return bool(level)


def _parts(error: OrvalhoError) -> asking.AskError:
    return asking.AskError(**error.parts())
