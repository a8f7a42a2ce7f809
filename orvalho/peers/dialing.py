"""Whom to dial, where and when: a task for each peer that looks for a way while there is none,
for a direct one while there are only relays, and for a spare over another transport."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import anyio

from orvalho.contexts.identity import Key
from orvalho.errors import OrvalhoError
from orvalho.peers.routing import Path, is_relay, wanted
from orvalho.retry import Backoff

_log = logging.getLogger(__name__)


class Pace(Protocol):
    """The part of `links.Timings` that matters here."""

    @property
    def dead_after_s(self) -> float: ...
    @property
    def redial_first_s(self) -> float: ...
    @property
    def redial_limit_s(self) -> float: ...
    @property
    def stagger_s(self) -> float: ...
    @property
    def spare_after_s(self) -> float: ...


@dataclass(slots=True)
class Keeper:
    """The task that dials one peer. `nudge` ends its wait."""

    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    nudge: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(slots=True)
class _Waits:
    """When one peer is dialed again: `alone` while nothing is open, `more` for a better way or a
    spare. `up_since` is when a path was first seen, None while there is none."""

    alone: Backoff
    more: Backoff
    paths: int = 0
    up_since: float | None = None

    def see(self, paths: int, now: float, lasting_s: float) -> None:
        if paths and self.up_since is None:
            self.up_since = now
        if not paths and self.up_since is not None:
            # A link that is lost at once is no success.
            if now - self.up_since > lasting_s:
                self.alone.succeeded()
            self.up_since = None
        if paths != self.paths:
            # Two nodes that have just met do not dial each other for a spare in the same moment.
            self.more.succeeded()
            self.more.failed(now, _draw())
        self.paths = paths


class Dialer:
    """`dial(address, peer)` opens a channel, and raises an OrvalhoError when it cannot;
    `addresses` are where a peer may be reached, `paths` the ways that are open to it. `problems`
    is kept here: why the last attempt for a peer that is not reached failed."""

    def __init__(
        self,
        *,
        pace: Pace,
        addresses: Callable[[Key], Sequence[str]],
        paths: Callable[[Key], Sequence[Path]],
        dial: Callable[[str, Key], Awaitable[None]],
        problems: dict[Key, str],
    ) -> None:
        self._pace = pace
        self._addresses = addresses
        self._paths = paths
        self._dial = dial
        self._problems = problems

    async def keep(self, peer: Key, keeper: Keeper) -> None:
        """Dial the peer whenever there is a way to look for, until the keeper is cancelled."""
        pace = self._pace
        waits = _Waits(
            Backoff(pace.redial_first_s, pace.redial_limit_s),
            Backoff(pace.spare_after_s, pace.redial_limit_s),
        )
        is_nudged = False
        with keeper.scope:
            while True:
                keeper.nudge.clear()
                now = _now()
                paths = self._paths(peer)
                waits.see(len(paths), now, pace.dead_after_s)
                addresses = wanted(self._addresses(peer), paths)
                backoff = waits.more if paths else waits.alone
                wait_s = backoff.retry_at - now if addresses else pace.redial_limit_s
                if wait_s > 0 and not (is_nudged and addresses and not paths):
                    is_nudged = await self._wait(keeper, wait_s)
                    continue
                is_nudged = False
                await self._dial_first(peer, addresses)
                backoff.failed(_now(), _draw())
                # However often it is nudged, nobody is dialed in a storm.
                await anyio.sleep(pace.redial_first_s / 2)

    async def _wait(self, keeper: Keeper, limit_s: float) -> bool:
        """Whether it was ended by a nudge."""
        with anyio.move_on_after(limit_s):
            await keeper.nudge.wait()
        return keeper.nudge.is_set()

    async def _dial_first(self, peer: Key, addresses: Sequence[str]) -> None:
        """Open a channel to the first address that answers. A slow one is not waited for: the
        next one is tried beside it."""
        async with anyio.create_task_group() as tasks:
            for address in addresses:
                if address not in wanted(self._addresses(peer), self._paths(peer)):
                    continue  # the peer has dialed us meanwhile
                over = anyio.Event()
                tasks.start_soon(self._attempt, peer, address, over, tasks.cancel_scope)
                with anyio.move_on_after(self._pace.stagger_s):
                    await over.wait()

    async def _attempt(
        self, peer: Key, address: str, over: anyio.Event, others: anyio.CancelScope
    ) -> None:
        try:
            await self._dial(address, peer)
        except OrvalhoError as error:
            self._note(peer, address, error.message)
        except Exception:  # noqa: BLE001 -- a transport may be anybody's: a bug costs this try
            _log.exception("dial.failed", extra={"address": address})
            self._note(peer, address, "the transport broke; the log says why")
        else:
            self._problems.pop(peer, None)
            others.cancel()
        finally:
            over.set()

    def _note(self, peer: Key, address: str, problem: str) -> None:
        # That a relay does not reach it either is nothing to mend.
        if not self._paths(peer) and not is_relay(address):
            self._problems[peer] = f"{address}: {problem}"


def _draw() -> float:
    return random.random()  # noqa: S311 -- it spreads, no more


def _now() -> float:
    return asyncio.get_running_loop().time()
