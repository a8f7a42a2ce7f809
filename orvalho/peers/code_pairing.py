"""Pairing by a short code over links: show one, serve who types it, type one ourselves.

Four messages inside a session in pairing mode, whose handshake the exchange is bound to:

    joiner   the nameplate, and its SPAKE2 message
    inviter  its own, or why not
    joiner   proof that it knows the code, and its introduction, sealed under the code's key
    inviter  the same, or that the code is wrong

The joiner proves itself first, so a guesser learns no more than whether it was right, and that is
counted, durably, before it is told. The inviter's proof is checked before anything it says.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, TypeVar

import anyio
import msgspec
from anyio import to_thread
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from orvalho.contexts.identity import Key
from orvalho.errors import OrvalhoError, Unavailable, Untrusted, from_code
from orvalho.peers import codes, pairing
from orvalho.peers.codes import Code, Judgement, Standing
from orvalho.peers.links import Links
from orvalho.peers.pairing import CheckCertificate, Introduction, Paired, Ticket, check_introduction
from orvalho.peers.pake import Pake, PakeKeys, Side
from orvalho.peers.parley import hear, say
from orvalho.peers.seeker import answer_seekers, seek
from orvalho.peers.session import Session
from orvalho.peers.wire import UNREADABLE
from orvalho.store import Store
from orvalho.transports.link import Link

_log = logging.getLogger(__name__)

T = TypeVar("T", bound=msgspec.Struct)

DEFAULT_PORT: Final = 4457
_EXCHANGE_S: Final = 20.0
_LINGER_S: Final = 2.0
_SEEK_S: Final = 6.0
_WITHDRAW_S: Final = 2.0
_WATCHED_EVENTS: Final = 16
# To how many that answer to a nameplate we prove ourselves: each of them has one guess.
_MOST_GUESSES: Final = 3
# So that strangers cannot keep every thread busy with curves.
_EXCHANGES_AT_ONCE: Final = 2
_SOCKET_PAUSE_S: Final = 30.0

# Puts the far side into the trust book, or holds it for the owner's approval (False); what it
# raises is told to the joiner.
OnPaired = Callable[[Paired], Awaitable[bool]]


@dataclass(frozen=True, slots=True)
class Tried:
    """Somebody came with a wrong code. `left`: how many tries are left."""

    left: int


@dataclass(frozen=True, slots=True)
class Arrived:
    """Somebody came with the right code, or with the ticket beside it."""

    paired: Paired


@dataclass(frozen=True, slots=True)
class Ended:
    """Nobody will come any more: why."""

    error: OrvalhoError


ShownEvent = Tried | Arrived | Ended


@dataclass(frozen=True, slots=True)
class Shown:
    """A code that is good now, the ticket that may be used in its place, and what happens."""

    code: Code
    ticket: Ticket
    events: MemoryObjectReceiveStream[ShownEvent]


# ---- on the wire ------------------------------------------------------------------------------

_OPENING: Final = b"orvalho/code/1\n"


class _Opening(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    nameplate: int
    element: bytes


class _Step(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """Either a SPAKE2 message, or a proof with what it seals, or why not (the `code` of an
    error)."""

    element: bytes = b""
    confirmation: bytes = b""
    sealed: bytes = b""
    code: str = ""
    message: str = ""
    hint: str | None = None


def is_opening(body: bytes) -> bool:
    """Whether a pairing begins by a code, and not by a ticket."""
    return body.startswith(_OPENING)


def _read(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.msgpack.decode(body, type=kind)
    except UNREADABLE as error:
        raise Untrusted("a message of the code exchange is malformed") from error


def _refuse(error: OrvalhoError) -> bytes:
    return msgspec.msgpack.encode(_Step(code=error.code, message=error.message, hint=error.hint))


# ---- both sides -------------------------------------------------------------------------------


class CodePairing:
    """Both sides of pairing by code. `port` is where seekers ask (UDP); 0 hears nobody."""

    def __init__(
        self,
        *,
        store: Store,
        me: Key,
        clock: Callable[[], float],
        introduce: Callable[[], Introduction],
        check: CheckCertificate,
        on_paired: OnPaired,
        counters: Counter[str],
        port: int,
    ) -> None:
        self._store = store
        self._me = me
        self._clock = clock
        self._introduce = introduce
        self._check = check
        self._on_paired = on_paired
        self._counters = counters
        self._port = port
        self._until: dict[bytes, float] = {}
        self._shown: dict[int, MemoryObjectSendStream[ShownEvent]] = {}
        self._wake = asyncio.Event()
        self._curves = anyio.CapacityLimiter(_EXCHANGES_AT_ONCE)

    async def load(self) -> None:
        """Learn which codes were shown, also by an earlier run."""
        remembered = await self._store.read(codes.remembered)
        self._until = {codes.nameplate_hash(n): until for n, until in remembered.items()}
        self._wake.set()

    def is_expecting(self) -> bool:
        """Whether a stranger may knock, if only to be told that it is too late."""
        return any(self._clock() < until for until in self._until.values())

    # ---- the inviter

    @asynccontextmanager
    async def show(self, ticket: Ticket) -> AsyncIterator[Shown]:
        """A code that is good until `ticket.expires_at`, or the end of the block; the ticket ends
        with it.

        Raises:
            LimitExceeded: pairing-codes: every nameplate is taken.
        """
        add = partial(
            codes.show,
            token_hash=pairing.token_hash(ticket.token),
            is_guest=ticket.is_guest,
            expires_at=ticket.expires_at,
            now=self._clock(),
            below=secrets.randbelow,
        )
        code = await self._store.transact("pairing.show-code", add)
        send, receive = anyio.create_memory_object_stream[ShownEvent](_WATCHED_EVENTS)
        self._shown[code.nameplate] = send
        try:
            await self.load()
            yield Shown(code, ticket, receive)
        finally:
            self._shown.pop(code.nameplate, None)
            send.close()
            receive.close()
            with anyio.move_on_after(_WITHDRAW_S, shield=True):
                withdraw = partial(codes.withdraw, nameplate=code.nameplate, now=self._clock())
                await self._store.transact("pairing.withdraw-code", withdraw)

    async def answer(self) -> None:
        """Answer those who ask for a nameplate of ours, while there is one; a task."""
        while self._port:
            self._wake.clear()
            while not self.is_expecting():
                await self._wake.wait()
                self._wake.clear()
            try:
                async with answer_seekers(self._port, self._addresses_for):
                    while self.is_expecting():  # noqa: ASYNC110 -- it ends by the clock
                        await anyio.sleep(_SOCKET_PAUSE_S)
            except OSError as error:
                _log.warning("pairing.deaf", extra={"port": self._port, "why": str(error)})
                await anyio.sleep(_SOCKET_PAUSE_S)

    def _addresses_for(self, nameplate_hash: bytes) -> Sequence[str] | None:
        if self._clock() >= self._until.get(nameplate_hash, 0.0):
            return None
        self._counters["codes.sought"] += 1
        return self._introduce().addresses

    def tell(self, nameplate: int, event: ShownEvent) -> None:
        """Something happened to a code: tell who shows it."""
        if nameplate in self._shown:
            with contextlib.suppress(anyio.WouldBlock):
                self._shown[nameplate].send_nowait(event)

    async def serve(self, link: Link, session: Session, body: bytes) -> None:
        """Somebody comes with a code; `body` is what it said first.

        Raises:
            Unavailable, Untrusted: it went away, or said something else.
        """
        try:
            opening = _read(body.removeprefix(_OPENING), _Opening)
            secret, pake, keys = await self._begin(session, opening)
            await say(link, session, msgspec.msgpack.encode(_Step(element=pake.message)))
            answer = await self._judge(session, opening.nameplate, secret, keys, link)
        except OrvalhoError as error:
            answer = _refuse(error)
        await say(link, session, answer)
        # The joiner closes, so that the answer is not lost in our closing.
        with anyio.move_on_after(_LINGER_S):
            await link.receive()

    async def _begin(self, session: Session, opening: _Opening) -> tuple[bytes, Pake, PakeKeys]:
        look = partial(codes.look, nameplate=opening.nameplate, now=self._clock())
        standing, secret = await self._store.read(look)
        if standing is not Standing.OPEN:
            self._counters[f"codes.{standing.value}"] += 1
            raise codes.refusal(standing)
        pake = await self._pake(Side.INVITER, secret, session)
        keys = await to_thread.run_sync(pake.finish, opening.element, limiter=self._curves)
        return secret, pake, keys

    async def _judge(
        self, session: Session, nameplate: int, secret: bytes, keys: PakeKeys, link: Link
    ) -> bytes:
        proof = _read(await hear(link, session), _Step)
        is_right = keys.is_confirmed(proof.confirmation, proof.sealed)
        if is_right:
            introduction = _read(keys.open(proof.sealed), Introduction)
            # First its certificate: a joiner that shows a wrong one has not used the code up.
            check_introduction(introduction, session.peer, self._check, is_guest=True)
        judge = partial(
            codes.judge, nameplate=nameplate, secret=secret, is_right=is_right, now=self._clock()
        )
        judgement = await self._store.transact("pairing.judge", judge)
        self._counters[f"codes.{judgement.standing.value}"] += 1
        if judgement.standing is not Standing.GOOD:
            self._tell_of_failure(nameplate, judgement)
            raise codes.refusal(judgement.standing)
        paired = check_introduction(
            introduction, session.peer, self._check, is_guest=judgement.is_guest
        )
        sealed = keys.seal(await self._admit(nameplate, replace(paired, by_code=True)))
        return msgspec.msgpack.encode(_Step(confirmation=keys.confirm(sealed), sealed=sealed))

    def _tell_of_failure(self, nameplate: int, judgement: Judgement) -> None:
        if judgement.standing is Standing.WRONG:
            self.tell(nameplate, Tried(judgement.left))
        elif judgement.standing is Standing.LOCKED:
            self.tell(nameplate, Ended(codes.refusal(Standing.LOCKED)))

    async def _admit(self, nameplate: int, paired: Paired) -> bytes:
        try:
            is_admitted = await self._on_paired(paired)
        except OrvalhoError as error:
            self.tell(nameplate, Ended(error))
            return pairing.refuse(error)
        self.tell(nameplate, Arrived(paired))
        return pairing.accept(self._introduce(), is_held=not is_admitted)

    # ---- the joiner

    async def join(self, links: Links, code: Code, at: Sequence[str]) -> Paired:
        """Pair with the node that shows a code; the caller puts it into the trust book. It is
        looked for at the addresses `at`, or else on the local network.

        Raises:
            Unavailable: who shows it cannot be reached.
            Untrusted: nobody shows it; it is wrong, expired, used or withdrawn there; or a
                certificate is wrong.
            OrvalhoError: what its owner's side raised, with `peer` set.
        """
        found = [tuple(at)] if at else await self._seek(code)
        problem: OrvalhoError | None = None
        guesses = Counter[str]()
        for addresses in found:
            if guesses.total() >= _MOST_GUESSES:
                break
            guesses_before = guesses.total()
            for address in addresses:
                try:
                    return await self._try(links, code, address, guesses)
                except (Unavailable, Untrusted) as error:
                    # Who refuses the code says more than who is not there.
                    if problem is None or isinstance(error, Untrusted):
                        problem = error
                if guesses.total() > guesses_before:  # this one has judged: it says so once
                    break
        assert problem is not None
        raise problem

    async def _seek(self, code: Code) -> list[tuple[str, ...]]:
        found = await seek(
            codes.nameplate_hash(code.nameplate), self._port or DEFAULT_PORT, _SEEK_S
        )
        if not found:
            raise Untrusted(
                f"nobody on this network shows the code {code.nameplate}-...: it is wrong, expired"
                " or used, or the other device is elsewhere",
                hint="orvalho pair CODE --at ADDRESS, with an address of the other device",
            )
        return found

    async def _try(self, links: Links, code: Code, address: str, guesses: Counter[str]) -> Paired:
        link, session = await links.open_pairing([address], None)
        try:
            with anyio.fail_after(_EXCHANGE_S):
                return await self._prove(link, session, code, guesses)
        except TimeoutError as error:
            raise Unavailable("the other device did not answer", where=link.description) from error
        finally:
            with anyio.CancelScope(shield=True):
                await link.aclose()

    async def _prove(
        self, link: Link, session: Session, code: Code, guesses: Counter[str]
    ) -> Paired:
        pake = await self._pake(Side.JOINER, code.secret, session)
        opening = _Opening(nameplate=code.nameplate, element=pake.message)
        await say(link, session, _OPENING + msgspec.msgpack.encode(opening))
        answer = _checked(await hear(link, session), link)
        keys = await to_thread.run_sync(pake.finish, answer.element, limiter=self._curves)
        sealed = keys.seal(msgspec.msgpack.encode(self._introduce()))
        guesses["made"] += 1
        proof = _Step(confirmation=keys.confirm(sealed), sealed=sealed)
        await say(link, session, msgspec.msgpack.encode(proof))
        answer = _checked(await hear(link, session), link)
        if not keys.is_confirmed(answer.confirmation, answer.sealed):
            raise Untrusted(
                "who answers does not know the code: it is not the device that shows it",
                where=link.description,
            )
        introduction, is_held = pairing.read_answer(keys.open(answer.sealed), link.description)
        paired = check_introduction(introduction, session.peer, self._check, is_guest=False)
        return replace(paired, is_held=is_held, by_code=True)

    async def _pake(self, side: Side, secret: bytes, session: Session) -> Pake:
        joiner, inviter = self._me, session.peer
        if side is Side.INVITER:
            joiner, inviter = inviter, joiner
        make = partial(
            Pake,
            side,
            secret,
            joiner=joiner,
            inviter=inviter,
            binding=session.binding,
            entropy=os.urandom,
        )
        return await to_thread.run_sync(make, limiter=self._curves)


def _checked(body: bytes, link: Link) -> _Step:
    """Raises:
    OrvalhoError: what the inviter refused with.
    """
    step = _read(body, _Step)
    if step.code:
        raise from_code(step.code, step.message, hint=step.hint, where=link.description)
    return step
