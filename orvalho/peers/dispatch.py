"""Live talk between two linked nodes: tells, asks and their replies. Nothing here is durable, but
the loss of a link is not noticed while another one is open or comes soon: what was under way on
it goes over the next one, and is heard and answered once.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import anyio
from anyio.abc import TaskGroup

from orvalho.contexts.identity import Key
from orvalho.errors import LimitExceeded, NotFound, OrvalhoError, Unavailable, from_code
from orvalho.peers import frames
from orvalho.peers.channel import Channel
from orvalho.peers.frames import Ask, Cancel, Fail, Heard, Reply, Tell
from orvalho.peers.once import Answers, InOrder, Untold

_log = logging.getLogger(__name__)

# How many of our asks wait for one peer's answers; a further one waits for its turn.
_ASKS_AT_ONCE: Final = 128
# How many of a peer's asks we work on; a further one is refused.
_ANSWERS_AT_ONCE: Final = 256
# What was heard is confirmed after so many tells, or so much later.
_CONFIRM_COUNT: Final = 64
_CONFIRM_AFTER_S: Final = 0.2
_LARGE_ANSWER_BYTES: Final = 1 << 16
_BOOT_BYTES: Final = 8

# Called in the order in which the tells were sent; must not block.
Hearer = Callable[[Key, bytes], None]
Answerer = Callable[[Key, bytes], Awaitable[bytes]]


@dataclass(eq=False, slots=True)
class _Asked:
    """A question of ours. `channel` is where it went last, None while there is none."""

    kind: str
    body: bytes
    answer: asyncio.Future[bytes]
    channel: Channel | None = None


@dataclass(eq=False, slots=True)
class _Answering:
    """A question of theirs, and where it was asked last."""

    scope: anyio.CancelScope
    channel: Channel


@dataclass(eq=False, slots=True)
class _Talk:
    """What is under way with one process of a peer, over all links to it. `boot` is its name; one
    without has a talk for each of its links. `room` is set when there may be room for tells."""

    peer: Key
    boot: bytes = b""
    is_greeted: bool = False
    channels: list[Channel] = field(default_factory=list)
    turn: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_ASKS_AT_ONCE))
    asked: dict[int, _Asked] = field(default_factory=dict)
    answering: dict[int, _Answering] = field(default_factory=dict)
    last_call: int = 0
    untold: Untold[Channel] = field(default_factory=Untold)
    in_order: InOrder = field(default_factory=InOrder)
    answers: Answers = field(default_factory=Answers)
    room: asyncio.Event = field(default_factory=asyncio.Event)
    unconfirmed: int = 0
    confirming: asyncio.TimerHandle | None = None

    @property
    def settled(self) -> int:
        """Nobody waits for the calls below this one."""
        return next(iter(self.asked), self.last_call + 1)

    def has_lost(self, channel: Channel | None) -> bool:
        return channel not in self.channels


@dataclass(eq=False, slots=True)
class _Presence:
    """Whether to wait for a link to a peer that has none: until `hope_until`, by the loop's clock.
    `changed` is set when one comes or goes."""

    hope_until: float = 0.0
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class Dispatch:
    """Who answers and hears what, and who waits for which answer. `name_of` is what errors call
    a peer, `best` the channel to it to use now; live talk waits `patience_s` for another link
    when the last one is lost."""

    def __init__(
        self,
        *,
        tasks: TaskGroup,
        counters: Counter[str],
        name_of: Callable[[Key], str],
        best: Callable[[Key], Channel | None],
        patience_s: float,
    ) -> None:
        self._tasks = tasks
        self._counters = counters
        self._name_of = name_of
        self._best = best
        self._patience_s = patience_s
        self._hearers: dict[str, Hearer] = {}
        self._answerers: dict[str, Answerer] = {}
        self._by_channel: dict[Channel, _Talk] = {}
        # The talk with the process of each peer that greeted last.
        self._talks: dict[Key, _Talk] = {}
        self._presences: dict[Key, _Presence] = {}
        self._boots: dict[Key, bytes] = {}

    def hear(self, kind: str, hearer: Hearer) -> None:
        self._hearers[kind] = hearer

    def answer(self, kind: str, answerer: Answerer) -> None:
        self._answerers[kind] = answerer

    # ---- links come and go ------------------------------------------------------------------

    def boot(self, peer: Key) -> bytes:
        """What to call ourselves in a Hello to a peer: it says which numbers we have used."""
        return self._boots.setdefault(peer, os.urandom(_BOOT_BYTES))

    def up(self, channel: Channel) -> None:
        self._by_channel[channel] = _Talk(channel.peer, channels=[channel])
        self._stir(channel.peer)

    def greeted(self, channel: Channel, boot: bytes) -> list[Channel]:
        """The process at the other end has named itself. Answers the channels to an earlier one
        of that peer, which is gone."""
        talk = self._by_channel[channel]
        if talk.is_greeted:
            return []
        known = self._talks.get(channel.peer)
        if known is not None and boot and known.boot == boot:
            known.channels.append(channel)
            self._by_channel[channel] = known
            self._place(known)
            self._stir(channel.peer)
            return []
        talk.boot, talk.is_greeted = boot, True
        self._talks[channel.peer] = talk
        self._stir(channel.peer)
        if known is None:
            return []
        if not known.channels:
            self._give_up(known)
        return list(known.channels) if boot and known.boot else []

    def down(self, channel: Channel) -> None:
        """The channel has ended: what was under way on it takes another, or waits for one."""
        talk = self._by_channel.pop(channel)
        talk.channels.remove(channel)
        self._stir(talk.peer)
        if talk.channels:
            self._place(talk)
        elif talk.boot and self._talks.get(talk.peer) is talk:
            loop = asyncio.get_running_loop()
            loop.call_later(self._patience_s, self._give_up_if_alone, talk)
        else:
            self._give_up(talk)

    def forget(self, peer: Key) -> None:
        """It is a peer no longer."""
        self._boots.pop(peer, None)
        self._presences.pop(peer, None)
        if (talk := self._talks.pop(peer, None)) is not None:
            self._give_up(talk)

    def _stir(self, peer: Key) -> None:
        presence = self._presences.setdefault(peer, _Presence())
        presence.hope_until = _now() + self._patience_s
        presence.changed.set()

    def _place(self, talk: _Talk) -> None:
        """Send what went over links that are lost by one that is not."""
        channel = self._channel_of(talk)
        if channel is None:
            return
        for tell in talk.untold.moved(channel, talk.has_lost):
            channel.send(tell)
        for call, asked in list(talk.asked.items()):
            if talk.has_lost(asked.channel):
                self._counters["asks.moved"] += 1
                try:
                    self._put(talk, call, asked, channel)
                except LimitExceeded as error:  # a larger number made it larger
                    asked.answer.set_exception(error)

    def _put(self, talk: _Talk, call: int, asked: _Asked, channel: Channel) -> None:
        asked.channel = channel
        channel.send(Ask(call=call, kind=asked.kind, body=asked.body, settled=talk.settled))

    def _give_up_if_alone(self, talk: _Talk) -> None:
        if not talk.channels:
            self._give_up(talk)

    def _give_up(self, talk: _Talk) -> None:
        """Nobody will answer, and nobody waits for our answers."""
        for asked in talk.asked.values():
            if not asked.answer.done():
                asked.answer.set_exception(self._lost(talk.peer))
        for call, answering in talk.answering.items():
            talk.answers.lose(call)
            answering.scope.cancel()
        talk.answers.lose_all()
        talk.untold.clear()
        talk.room.set()

    def _channel_of(self, talk: _Talk) -> Channel | None:
        best = self._best(talk.peer)
        if best in talk.channels:
            return best
        return next((channel for channel in talk.channels if channel.is_open), None)

    async def _linked(self, peer: Key) -> tuple[_Talk, Channel]:
        """The talk with a peer, and a channel with room: waited for if there was one of late.

        Raises:
            Unavailable: there is none.
        """
        while True:
            presence = self._presences.setdefault(peer, _Presence())
            presence.changed.clear()
            talk = self._talks.get(peer)
            channel = self._channel_of(talk) if talk else None
            if talk is None or channel is None:
                left_s = presence.hope_until - _now()
                if left_s <= 0 and not (talk and talk.channels):
                    raise self._unreached(peer)
                with anyio.move_on_after(left_s if left_s > 0 else self._patience_s):
                    await presence.changed.wait()
                continue
            with suppress(Unavailable):
                await channel.room()
                return talk, channel

    def _unreached(self, peer: Key) -> Unavailable:
        name = self._name_of(peer)
        return Unavailable(f"{name} is not reachable now", where=name, hint="orvalho peer ls")

    def _lost(self, peer: Key) -> Unavailable:
        name = self._name_of(peer)
        return Unavailable(f"the link to {name} was lost", where=name)

    # ---- we speak ---------------------------------------------------------------------------

    async def tell(self, peer: Key, kind: str, body: bytes) -> bool:
        """False when there is no link to say it on, or the peer confirms nothing any more. Waits
        while it hears too slowly.

        Raises:
            LimitExceeded: frame-bytes.
        """
        while True:
            try:
                talk, channel = await self._linked(peer)
            except Unavailable:
                return False
            if not talk.boot:
                channel.send(Tell(kind=kind, body=body))
                return True
            if not talk.untold.is_full:
                tell = talk.untold.number(kind, body)
                channel.send(tell)
                talk.untold.sent(tell, channel)
                return True
            talk.room.clear()
            with anyio.move_on_after(self._patience_s) as waited:
                await talk.room.wait()
            if waited.cancelled_caught:
                return False

    async def ask(self, peer: Key, kind: str, body: bytes, timeout_s: float) -> bytes:
        """Raises:
        Unavailable: no answer in time, or the last link was lost and none came.
        LimitExceeded: frame-bytes.
        OrvalhoError: what the peer raised, with `peer` set.
        """
        name = self._name_of(peer)
        try:
            async with asyncio.timeout(timeout_s):
                talk, _ = await self._linked(peer)
                async with talk.turn:
                    return await self._ask(peer, kind, body)
        except TimeoutError as error:
            raise Unavailable(
                f"{name} did not answer within {timeout_s:g} s", where=name
            ) from error

    async def _ask(self, peer: Key, kind: str, body: bytes) -> bytes:
        talk, channel = await self._linked(peer)
        talk.last_call = call = talk.last_call + 1
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        asked = talk.asked[call] = _Asked(kind, body, answer)
        try:
            self._put(talk, call, asked, channel)
            value = await answer
        except asyncio.CancelledError:
            if asked.channel is not None and asked.channel.is_open:
                asked.channel.send(Cancel(call=call))
            raise
        finally:
            del talk.asked[call]
        if len(value) > _LARGE_ANSWER_BYTES:
            self._confirm_soon(talk)  # it is kept there until we say that we have it
        return value

    # ---- they speak -------------------------------------------------------------------------

    def take(self, channel: Channel, frame: Tell | Ask | Reply | Fail | Cancel | Heard) -> None:
        """A frame has come in."""
        talk = self._by_channel[channel]
        match frame:
            case Tell():
                self._take_tell(talk, frame)
            case Ask():
                self._accept(channel, talk, frame)
            case Cancel():
                self._cancel(talk, frame.call)
            case Reply() | Fail():
                self._settle(talk, frame)
            case Heard():
                talk.untold.confirmed(frame.seq)
                talk.room.set()
                self._forget_calls(talk, frame.settled)

    def _take_tell(self, talk: _Talk, frame: Tell) -> None:
        if not frame.seq:
            self._hear(talk.peer, frame)
            return
        talk.unconfirmed += 1
        for tell in talk.in_order.take(frame):
            self._hear(talk.peer, tell)
        if talk.unconfirmed >= _CONFIRM_COUNT:
            self._confirm(talk)
        else:
            self._confirm_soon(talk)

    def _confirm_soon(self, talk: _Talk) -> None:
        if talk.confirming is None:
            loop = asyncio.get_running_loop()
            talk.confirming = loop.call_later(_CONFIRM_AFTER_S, self._confirm, talk)

    def _confirm(self, talk: _Talk) -> None:
        if talk.confirming is not None:
            talk.confirming.cancel()
            talk.confirming = None
        talk.unconfirmed = 0
        # Without a link it is said when what is not confirmed comes again.
        if (channel := self._channel_of(talk)) is not None:
            channel.send_along(Heard(seq=talk.in_order.next_seq - 1, settled=talk.settled))

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
        self._forget_calls(talk, frame.settled)
        under_way = talk.answering.get(frame.call)
        if under_way is not None:
            under_way.channel = channel
            return
        if talk.answers.was_given(frame.call):
            self._counters["asks.repeated"] += 1
            lost = frames.fail(frame.call, Unavailable("the answer was lost with its link"))
            channel.send(talk.answers.again(frame.call) or lost)
            return
        answerer = self._answerers.get(frame.kind)
        if answerer is None:
            error: OrvalhoError = NotFound(f'nobody answers "{frame.kind}" there')
        elif len(talk.answering) >= _ANSWERS_AT_ONCE:
            error = LimitExceeded(f"asks-at-once: {_ANSWERS_AT_ONCE} are being answered already")
        else:
            talk.answering[frame.call] = _Answering(anyio.CancelScope(), channel)
            self._tasks.start_soon(self._answer, talk, frame, answerer)
            return
        self._counters["asks.refused"] += 1
        channel.send(frames.fail(frame.call, error))

    async def _answer(self, talk: _Talk, frame: Ask, answerer: Answerer) -> None:
        answering = talk.answering[frame.call]
        try:
            with answering.scope:
                reply = await self._answered(talk.peer, frame, answerer)
                talk.answers.keep(frame.call, reply)
        finally:
            del talk.answering[frame.call]
        if answering.scope.cancelled_caught:
            return
        channel: Channel | None = answering.channel
        while channel is not None:
            try:
                await channel.room()
                channel.send(reply)
                return
            except LimitExceeded as error:  # the answer is too large for a frame
                reply = frames.fail(frame.call, error)
                talk.answers.keep(frame.call, reply)
            except Unavailable:  # who still waits asks again, and is given what is kept
                channel = self._channel_of(talk)

    async def _answered(self, peer: Key, frame: Ask, answerer: Answerer) -> Reply | Fail:
        try:
            return Reply(call=frame.call, body=await answerer(peer, frame.body))
        except OrvalhoError as error:
            return frames.fail(frame.call, error)
        except Exception:  # noqa: BLE001 -- the top of a handler
            _log.exception("ask.failed", extra={"kind": frame.kind})
            self._counters["asks.failed"] += 1
            return frames.fail(frame.call, Unavailable("it broke there; their log says why"))

    def _cancel(self, talk: _Talk, call: int) -> None:
        """Also one that has not come yet: it may be on its way over a slower link."""
        talk.answers.lose(call)
        if call in talk.answering:
            talk.answering[call].scope.cancel()

    def _forget_calls(self, talk: _Talk, settled: int) -> None:
        talk.answers.settle(settled)
        for call, answering in talk.answering.items():
            if call < settled:
                answering.scope.cancel()

    def _settle(self, talk: _Talk, frame: Reply | Fail) -> None:
        asked = talk.asked.get(frame.call)
        if asked is None or asked.answer.done():
            self._counters["replies.late"] += 1
        elif isinstance(frame, Reply):
            asked.answer.set_result(frame.body)
        else:
            asked.answer.set_exception(
                from_code(
                    frame.code,
                    frame.message,
                    where=frame.where,
                    rule=frame.rule,
                    hint=frame.hint,
                    peer=self._name_of(talk.peer),
                    detail=frame.detail,
                )
            )


def _now() -> float:
    return asyncio.get_running_loop().time()
