"""Pairing over links: give out tickets, welcome who redeems one, redeem one ourselves."""

from __future__ import annotations

import logging
import os
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Final

import anyio

from orvalho.contexts.identity import Key
from orvalho.errors import OrvalhoError, Unavailable, Untrusted
from orvalho.peers import codes, pairing
from orvalho.peers.code_pairing import Arrived, CodePairing, OnPaired, Shown, is_opening
from orvalho.peers.codes import Code
from orvalho.peers.links import Links
from orvalho.peers.pairing import (
    CheckCertificate,
    Introduction,
    Paired,
    Redemption,
    Ticket,
    check_introduction,
)
from orvalho.peers.parley import hear, say
from orvalho.peers.session import Mode, Session
from orvalho.store import Store
from orvalho.transports.link import Link

_log = logging.getLogger(__name__)

_EXCHANGE_S: Final = 20.0
_LINGER_S: Final = 2.0


class Admission:
    """Both sides of pairing. `introduce` gives what we say of ourselves at the moment."""

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
        self._open_until = 0.0
        self.codes: Final = CodePairing(
            store=store,
            me=me,
            clock=clock,
            introduce=introduce,
            check=check,
            on_paired=on_paired,
            counters=counters,
            port=port,
        )

    async def load(self) -> None:
        """Learn which invitations an earlier run gave out."""
        self._open_until = await self._store.read(pairing.remembered_until)
        await self.codes.load()

    def strangers(self, key: Key) -> Mode | None:
        """How far a key may go that is not in the book."""
        is_expected = self._clock() < self._open_until or self.codes.is_expecting()
        return Mode.PAIRING if is_expected else None

    async def invite(self, *, lifetime_s: float, is_guest: bool) -> Ticket:
        token, now = os.urandom(pairing.TOKEN_BYTES), self._clock()
        expires_at = now + lifetime_s
        add = partial(
            pairing.invite, token=token, is_guest=is_guest, expires_at=expires_at, now=now
        )
        await self._store.transact("pairing.invite", add)
        await self.load()
        return Ticket(
            node_key=self._me,
            introduction=self._introduce(),
            token=token,
            expires_at=expires_at,
            is_guest=is_guest,
        )

    @asynccontextmanager
    async def show(self, *, lifetime_s: float, is_guest: bool) -> AsyncIterator[Shown]:
        """A short code, and a ticket beside it: see `CodePairing.show`."""
        ticket = await self.invite(lifetime_s=lifetime_s, is_guest=is_guest)
        async with self.codes.show(ticket) as shown:
            yield shown

    async def join(self, links: Links, code: Code, at: Sequence[str]) -> Paired:
        """Type a code: see `CodePairing.join`."""
        return await self.codes.join(links, code, at)

    async def withdraw(self, ticket: Ticket) -> bool:
        withdraw = partial(pairing.withdraw, token=ticket.token)
        return await self._store.transact("pairing.withdraw", withdraw)

    async def redeem(self, links: Links, ticket: Ticket) -> Paired:
        """Pair with the node that made a ticket; the caller puts it into the trust book.

        Raises:
            Unavailable: it cannot be reached.
            Untrusted: the ticket is expired, used or unknown there, or a certificate is wrong.
            OrvalhoError: what its owner's side raised, with `peer` set.
        """
        if self._clock() >= ticket.expires_at:
            raise pairing.refusal(Redemption.EXPIRED)
        inviter, theirs = Key(ticket.node_key), ticket.introduction
        # Before our own introduction leaves: is the ticket what its owner's key vouches for?
        check_introduction(theirs, inviter, self._check, is_guest=ticket.is_guest)
        link, session = await links.open_pairing(theirs.addresses, inviter)
        try:
            with anyio.fail_after(_EXCHANGE_S):
                await say(link, session, pairing.request(ticket, self._introduce()))
                answer = await hear(link, session)
        except TimeoutError as error:
            raise Unavailable(f"{theirs.name} did not answer", where=link.description) from error
        finally:
            with anyio.CancelScope(shield=True):
                await link.aclose()
        introduction, is_held = pairing.read_answer(answer, theirs.name)
        if introduction.owner_key != theirs.owner_key:
            raise Untrusted("the node belongs to another owner than its ticket says")
        paired = check_introduction(introduction, inviter, self._check, is_guest=ticket.is_guest)
        return replace(paired, is_held=is_held)

    async def welcome(self, link: Link, session: Session) -> None:
        """A stranger has come to redeem a ticket; the link is the listener's to close."""
        try:
            with anyio.fail_after(_EXCHANGE_S):
                await self._serve(link, session)
        except (TimeoutError, Unavailable, Untrusted):
            self._counters["pairing.broken-off"] += 1

    async def _serve(self, link: Link, session: Session) -> None:
        message = await hear(link, session)
        if is_opening(message):
            await self.codes.serve(link, session, message)
            return
        try:
            is_admitted = await self._admit(message, session.peer)
        except OrvalhoError as error:
            answer = pairing.refuse(error)
        except Exception:  # noqa: BLE001 -- the top of a handler
            _log.exception("pairing.failed")
            answer = pairing.refuse(Unavailable("it broke there; their log says why"))
        else:
            answer = pairing.accept(self._introduce(), is_held=not is_admitted)
        await say(link, session, answer)
        # The joiner closes, so that the answer is not lost in our closing.
        with anyio.move_on_after(_LINGER_S):
            await link.receive()

    async def _admit(self, message: bytes, joiner: Key) -> bool:
        token, introduction = pairing.read_request(message)
        # First its certificate: a joiner that shows a wrong one has not used the ticket up.
        check_introduction(introduction, joiner, self._check, is_guest=True)
        redeem = partial(_redeem, token=token, by=joiner, now=self._clock())
        redemption, is_guest, nameplate = await self._store.transact("pairing.redeem", redeem)
        self._counters[f"pairing.{redemption.value}"] += 1
        if redemption is not Redemption.GOOD:
            raise pairing.refusal(redemption)
        paired = check_introduction(introduction, joiner, self._check, is_guest=is_guest)
        is_admitted = await self._on_paired(paired)
        if nameplate is not None:
            self.codes.tell(nameplate, Arrived(paired))
        return is_admitted


def _redeem(
    connection: sqlite3.Connection, *, token: bytes, by: Key, now: float
) -> tuple[Redemption, bool, int | None]:
    """The last part is the nameplate of the code that stood beside the ticket."""
    redemption, is_guest = pairing.redeem(connection, token=token, by=by, now=now)
    is_good = redemption is Redemption.GOOD
    nameplate = codes.ticket_used(connection, pairing.token_hash(token)) if is_good else None
    return redemption, is_guest, nameplate
