"""The open channels to each peer: dial, welcome, keep, notice silence, close."""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Final, Protocol

import anyio
from anyio.abc import TaskGroup

from orvalho.contexts.identity import Key, Signer
from orvalho.errors import InvalidInput, Unavailable, Untrusted
from orvalho.peers.channel import Channel, OnFrame
from orvalho.peers.routing import Path, rank
from orvalho.peers.session import Mode, Refusal, Session, dial_session, listen_session
from orvalho.retry import Backoff
from orvalho.transports.catalog import Catalog
from orvalho.transports.link import Link, Listener

_log = logging.getLogger(__name__)

# More than this to one peer are leftovers of its restarts: the oldest goes.
_CHANNELS_PER_PEER: Final = 4
_KEY_BYTES: Final = 32


class PeerBook(Protocol):
    """What this room needs to know of the trust book. Answers come from memory."""

    def peers(self) -> Collection[Key]:
        """The node keys of every peer, without our own."""
        ...

    def addresses(self, key: Key) -> Sequence[str]: ...
    def name(self, key: Key) -> str | None: ...


@dataclass(frozen=True, slots=True)
class Timings:
    """When links are given up and tried again. A peer that hangs is noticed after
    `dead_after_s` and at most half a `ping_s` more."""

    handshake_s: float = 5.0
    ping_s: float = 1.5
    dead_after_s: float = 4.5
    redial_first_s: float = 0.25
    redial_limit_s: float = 60.0


@dataclass(slots=True)
class _Keeper:
    """The task that dials one peer. `nudge` ends its wait."""

    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    nudge: asyncio.Event = field(default_factory=asyncio.Event)


class Links:
    """Channels to every peer in the book, kept for as long as `run` runs.

    `on_up` and `on_down` are told of each channel, before its first frame and after its last.
    `strangers` says how far a key may go that is not in the book; `on_pairing` then talks with
    it over a session in pairing mode.
    """

    def __init__(
        self,
        *,
        signer: Signer,
        noise_static: bytes,
        catalog: Catalog,
        book: PeerBook,
        timings: Timings,
        counters: Counter[str],
        strangers: Callable[[Key], Mode | None],
        on_pairing: Callable[[Link, Session], Awaitable[None]],
        on_up: Callable[[Channel], None],
        on_down: Callable[[Channel], None],
        on_frame: OnFrame,
    ) -> None:
        self._signer = signer
        self._noise_static = noise_static
        self._catalog = catalog
        self._book = book
        self._timings = timings
        self._counters = counters
        self._strangers = strangers
        self._on_pairing = on_pairing
        self._on_up = on_up
        self._on_down = on_down
        self._on_frame = on_frame
        self._channels: dict[Key, list[Channel]] = {}
        self._keepers: dict[Key, _Keeper] = {}
        self._problems: dict[Key, str] = {}
        # Peers that proved who they are and then refused our key: they have forgotten us.
        self._refused_by: set[Key] = set()
        self._tasks: TaskGroup | None = None
        self._is_running = asyncio.Event()

    # ---- what is open -----------------------------------------------------------------------

    def best(self, peer: Key) -> Channel | None:
        """The channel to use for a peer now."""
        channels = [channel for channel in self._channels.get(peer, ()) if channel.is_open]
        if len(channels) > 1:
            return channels[rank([channel.path for channel in channels])[0]]
        return channels[0] if channels else None

    def paths(self, peer: Key) -> list[Path]:
        """The open ways to a peer, best first."""
        paths = [channel.path for channel in self._channels.get(peer, ())]
        return [paths[place] for place in rank(paths)]

    def online(self) -> list[Key]:
        return list(self._channels)

    def problem(self, peer: Key) -> str | None:
        """Why the last attempt to dial a peer failed; None when there was none, or it did not."""
        return self._problems.get(peer)

    def is_refused_by(self, peer: Key) -> bool:
        """Whether the peer itself, having proved its key, turned ours away when last dialled."""
        return peer in self._refused_by

    # ---- the work ---------------------------------------------------------------------------

    async def run(self) -> None:
        """Dial the peers, and watch over what is open."""
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            self._is_running.set()
            try:
                self.refresh()
                await self._watch()
            finally:
                self._tasks = None

    def listen(self, address: str) -> AbstractAsyncContextManager[Listener]:
        """Welcome links at an address, for the length of the block.

        Raises:
            InvalidInput, Unavailable: as `Transport.listen`.
        """
        return self._catalog.find(address).listen(address, self._welcome)

    def refresh(self) -> None:
        """The book has changed: dial who is new, drop who is gone."""
        if self._tasks is None:
            return
        known = set(self._book.peers())
        for peer in known - self._keepers.keys():
            self._keepers[peer] = _Keeper()
            self._tasks.start_soon(self._keep, peer, self._keepers[peer])
        for peer in self._keepers.keys() - known:
            self._keepers.pop(peer).scope.cancel()
            self._problems.pop(peer, None)
            self._refused_by.discard(peer)
        for peer in self._channels.keys() - known:
            self._drop(peer)
        self.nudge(*known)

    def nudge(self, *peers: Key) -> None:
        """There is a reason to try again to reach these, if they are not."""
        for peer in peers:
            if peer in self._keepers:
                self._keepers[peer].nudge.set()

    async def open_pairing(self, addresses: Sequence[str], peer: Key) -> tuple[Link, Session]:
        """A session in pairing mode with a node that is not in the book; the caller closes the
        link.

        Raises:
            Unavailable: none of the addresses answers.
            Untrusted: another node answers there, or it is not inviting.
        """
        problem: Exception = Unavailable("the ticket names no address")
        for address in addresses:
            try:
                return await self._dial(address, peer, Mode.PAIRING)
            except Unavailable as error:
                problem = error
        raise problem

    async def probe(self, address: str, peer: Key) -> float:
        """Prove keys with a peer at one address and hang up: how long that took, in seconds. Its
        other links, and what it thinks of ours, stay as they are.

        Raises:
            Unavailable, InvalidInput: nobody answers there, or no transport serves the address.
            Untrusted: another node answers there, or the peer refuses our key.
        """
        started = _now()
        # In pairing mode a session carries nothing, so that it can replace no link in use.
        link, _ = await self._dial(address, peer, Mode.PAIRING)
        took_s = _now() - started
        await link.aclose()
        return took_s

    async def _welcome(self, link: Link) -> None:
        await self._is_running.wait()
        session = listen_session(
            signer=self._signer,
            noise_static=self._noise_static,
            ephemeral=os.urandom(_KEY_BYTES),
            max_message_bytes=link.max_frame_bytes,
            allow=self._allow,
        )
        try:
            await self._shake_hands(link, session)
        except (Unavailable, Untrusted):
            return
        if session.mode is Mode.PAIRING:
            await self._on_pairing(link, session)
            return
        link.admit()
        await self._live(link, session)

    def _allow(self, key: Key) -> Mode | None:
        return Mode.FULL if key in self._book.peers() else self._strangers(key)

    async def _shake_hands(self, link: Link, session: Session) -> None:
        """Raises:
        Unavailable: the far side went away, or took too long.
        Untrusted: it is not who it should be; counted.
        """
        try:
            with anyio.fail_after(self._timings.handshake_s):
                if (first := session.start()) is not None:
                    await link.send(first)
                while session.is_shaking:
                    answer = session.receive(await link.receive())
                    if answer is not None:
                        await link.send(answer)
            session.check()
        except TimeoutError as error:
            self._counters["handshakes.refused.slow"] += 1
            raise Unavailable("the handshake took too long", where=link.description) from error
        except Untrusted as error:
            assert session.refusal is not None
            self._counters[f"handshakes.refused.{session.refusal.value}"] += 1
            error.where = link.description
            raise

    async def _live(self, link: Link, session: Session) -> None:
        channel = Channel(link, session, self._counters)
        peer = channel.peer
        self._refused_by.discard(peer)
        channels = self._channels.setdefault(peer, [])
        channels.append(channel)
        if len(channels) > _CHANNELS_PER_PEER:
            channels[0].close()
        _log.info("link.up", extra={"peer": self._book.name(peer), "path": str(channel.path)})
        self._on_up(channel)
        try:
            await channel.run(self._on_frame)
        except Exception:  # noqa: BLE001 -- the top of a task: a bug costs this link, no more
            _log.exception("link.failed", extra={"peer": self._book.name(peer)})
        finally:
            channels.remove(channel)
            if not channels:
                del self._channels[peer]
            self._on_down(channel)
            _log.info("link.down", extra={"peer": self._book.name(peer)})
            self.nudge(peer)
            with anyio.CancelScope(shield=True):
                await link.aclose()

    def _drop(self, peer: Key) -> None:
        for channel in self._channels.get(peer, ()):
            channel.close()

    async def _keep(self, peer: Key, keeper: _Keeper) -> None:
        """Hold a channel to one peer: dial while there is none."""
        timings = self._timings
        backoff = Backoff(timings.redial_first_s, timings.redial_limit_s)
        with keeper.scope:
            while True:
                keeper.nudge.clear()
                if peer in self._channels:
                    await keeper.nudge.wait()
                    continue
                started = _now()
                await self._dial_any(peer)
                # A link that is lost at once is no success.
                if _now() - started > timings.dead_after_s:
                    backoff.succeeded()
                backoff.failed(_now(), random.random())  # noqa: S311 -- it spreads, no more
                keeper.nudge.clear()
                await anyio.sleep(timings.redial_first_s / 2)
                with anyio.move_on_after(backoff.retry_at - _now()):
                    await keeper.nudge.wait()

    async def _dial_any(self, peer: Key) -> None:
        """Live on the first address that answers, until that link is lost."""
        if peer not in self._book.peers():
            return
        for address in self._book.addresses(peer):
            if peer in self._channels:
                return
            try:
                link, session = await self._dial(address, peer, Mode.FULL)
            except (Unavailable, Untrusted, InvalidInput) as error:
                self._problems[peer] = f"{address}: {error.message}"
                continue
            self._problems.pop(peer, None)
            await self._live(link, session)
            return

    async def _dial(self, address: str, peer: Key, wish: Mode) -> tuple[Link, Session]:
        try:
            with anyio.fail_after(self._timings.handshake_s):
                link = await self._catalog.find(address).dial(address)
        except TimeoutError as error:
            raise Unavailable("nobody answers in time", where=address) from error
        session = dial_session(
            signer=self._signer,
            noise_static=self._noise_static,
            ephemeral=os.urandom(_KEY_BYTES),
            max_message_bytes=link.max_frame_bytes,
            expected=peer,
            wish=wish,
        )
        try:
            await self._shake_hands(link, session)
        except BaseException:
            # A node that knows us lets us in whatever we wish for: it has forgotten us.
            is_refused = session.refusal in (Refusal.STRANGER, Refusal.NOT_INVITING)
            if is_refused and peer in self._book.peers():
                self._refused_by.add(peer)
            with anyio.CancelScope(shield=True):
                await link.aclose()
            raise
        return link, session

    async def _watch(self) -> None:
        """Ping every channel, and end those that have gone silent."""
        timings = self._timings
        pause_s = timings.ping_s / 2
        while True:
            slept_at = _now()
            await anyio.sleep(pause_s)
            now = _now()
            # After a pause of our own (suspend, a stopped process) what came in meanwhile has
            # not been read yet: nobody else is to blame for the silence.
            overslept = now - slept_at > pause_s + timings.dead_after_s / 2
            for channel in [channel for each in self._channels.values() for channel in each]:
                if now - channel.heard_at > timings.dead_after_s and not overslept:
                    self._counters["links.silent"] += 1
                    channel.close()
                elif now - channel.pinged_at >= timings.ping_s:
                    channel.ping()


def _now() -> float:
    return asyncio.get_running_loop().time()
