"""Live talk between two linked nodes: tells, asks and their replies. Nothing here is durable."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

import anyio
from anyio.abc import TaskGroup

from orvalho.contexts.identity import Key
from orvalho.errors import LimitExceeded, NotFound, OrvalhoError, Unavailable, from_code
from orvalho.peers import frames
from orvalho.peers.channel import Channel
from orvalho.peers.frames import Ask, Cancel, Fail, Reply, Tell

_log = logging.getLogger(__name__)

# How many of our asks wait for one peer's answers; a further one waits for its turn.
_ASKS_AT_ONCE: Final = 128
# How many of a peer's asks we work on; a further one is refused.
_ANSWERS_AT_ONCE: Final = 256

# Called in the order in which the tells were sent; must not block.
Hearer = Callable[[Key, bytes], None]
Answerer = Callable[[Key, bytes], Awaitable[bytes]]


@dataclass(slots=True)
class _Talk:
    """What is under way on one channel."""

    turn: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_ASKS_AT_ONCE))
    asked: dict[int, asyncio.Future[bytes]] = field(default_factory=dict)
    answering: dict[int, anyio.CancelScope] = field(default_factory=dict)
    last_call: int = 0


class Dispatch:
    """Who answers and hears what, and who waits for which answer. `name_of` is what errors call
    a peer."""

    def __init__(
        self, *, tasks: TaskGroup, counters: Counter[str], name_of: Callable[[Key], str]
    ) -> None:
        self._tasks = tasks
        self._counters = counters
        self._name_of = name_of
        self._hearers: dict[str, Hearer] = {}
        self._answerers: dict[str, Answerer] = {}
        self._talks: dict[Channel, _Talk] = {}

    def hear(self, kind: str, hearer: Hearer) -> None:
        self._hearers[kind] = hearer

    def answer(self, kind: str, answerer: Answerer) -> None:
        self._answerers[kind] = answerer

    def up(self, channel: Channel) -> None:
        self._talks[channel] = _Talk()

    def down(self, channel: Channel) -> None:
        """The channel has ended: nobody will answer on it, and nobody waits for our answers."""
        talk = self._talks.pop(channel)
        name = self._name_of(channel.peer)
        for waiting in talk.asked.values():
            if not waiting.done():
                waiting.set_exception(Unavailable(f"the link to {name} was lost", where=name))
        for scope in talk.answering.values():
            scope.cancel()

    async def ask(self, channel: Channel, kind: str, body: bytes, timeout_s: float) -> bytes:
        """Raises:
        Unavailable: no answer in time, or the link was lost.
        LimitExceeded: frame-bytes.
        OrvalhoError: what the peer raised, with `peer` set.
        """
        name = self._name_of(channel.peer)
        talk = self._talks.get(channel)
        if talk is None:
            raise Unavailable(f"the link to {name} was lost", where=name)
        try:
            async with asyncio.timeout(timeout_s), talk.turn:
                return await self._ask(channel, talk, kind, body)
        except TimeoutError as error:
            raise Unavailable(
                f"{name} did not answer within {timeout_s:g} s", where=name
            ) from error

    async def _ask(self, channel: Channel, talk: _Talk, kind: str, body: bytes) -> bytes:
        await channel.room()
        talk.last_call = call = talk.last_call + 1
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        talk.asked[call] = answer
        try:
            channel.send(Ask(call=call, kind=kind, body=body))
            return await answer
        except asyncio.CancelledError:
            if channel.is_open:
                channel.send(Cancel(call=call))
            raise
        finally:
            talk.asked.pop(call, None)

    def take(self, channel: Channel, frame: Tell | Ask | Reply | Fail | Cancel) -> None:
        """A frame has come in."""
        talk = self._talks[channel]
        match frame:
            case Tell():
                self._hear(channel.peer, frame)
            case Ask():
                self._accept(channel, talk, frame)
            case Cancel():
                if frame.call in talk.answering:
                    talk.answering[frame.call].cancel()
            case Reply() | Fail():
                self._settle(channel, talk, frame)

    def _hear(self, peer: Key, frame: Tell) -> None:
        hearer = self._hearers.get(frame.kind)
        if hearer is None:
            self._counters["tells.unheard"] += 1
            return
        try:
            hearer(peer, frame.body)
        except Exception:  # noqa: BLE001 -- the top of a handler
            _log.exception("tell.failed", extra={"kind": frame.kind})

    def _accept(self, channel: Channel, talk: _Talk, frame: Ask) -> None:
        answerer = self._answerers.get(frame.kind)
        if answerer is None:
            error: OrvalhoError = NotFound(f'nobody answers "{frame.kind}" there')
        elif len(talk.answering) >= _ANSWERS_AT_ONCE or frame.call in talk.answering:
            error = LimitExceeded(f"asks-at-once: {_ANSWERS_AT_ONCE} are being answered already")
        else:
            talk.answering[frame.call] = scope = anyio.CancelScope()
            self._tasks.start_soon(self._answer, channel, talk, frame, answerer, scope)
            return
        self._counters["asks.refused"] += 1
        channel.send(frames.fail(frame.call, error))

    async def _answer(
        self,
        channel: Channel,
        talk: _Talk,
        frame: Ask,
        answerer: Answerer,
        scope: anyio.CancelScope,
    ) -> None:
        try:
            with scope:
                reply = await self._answered(channel, frame, answerer)
                await channel.room()
                channel.send(reply)
        except LimitExceeded as error:  # the answer is too large for a frame
            channel.send(frames.fail(frame.call, error))
        except Unavailable:  # nobody is left to answer
            return
        finally:
            del talk.answering[frame.call]

    async def _answered(self, channel: Channel, frame: Ask, answerer: Answerer) -> Reply | Fail:
        try:
            return Reply(call=frame.call, body=await answerer(channel.peer, frame.body))
        except OrvalhoError as error:
            return frames.fail(frame.call, error)
        except Exception:  # noqa: BLE001 -- the top of a handler
            _log.exception("ask.failed", extra={"kind": frame.kind})
            self._counters["asks.failed"] += 1
            return frames.fail(frame.call, Unavailable("it broke there; their log says why"))

    def _settle(self, channel: Channel, talk: _Talk, frame: Reply | Fail) -> None:
        waiting = talk.asked.get(frame.call)
        if waiting is None or waiting.done():
            self._counters["replies.late"] += 1
        elif isinstance(frame, Reply):
            waiting.set_result(frame.body)
        else:
            waiting.set_exception(
                from_code(
                    frame.code,
                    frame.message,
                    where=frame.where,
                    rule=frame.rule,
                    hint=frame.hint,
                    peer=self._name_of(channel.peer),
                    detail=frame.detail,
                )
            )
