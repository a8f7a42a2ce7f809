"""The open channels to each peer: dial, welcome, keep, notice silence, close."""

from __future__ import annotations

import asyncio
import logging
import os
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

import anyio
from anyio.abc import TaskGroup

from orvalho.contexts.identity import Key, Signer
from orvalho.errors import InvalidInput, Unavailable, Untrusted
from orvalho.peers.channel import Channel, OnFrame
from orvalho.peers.dialing import Dialer, Keeper
from orvalho.peers.routing import Path, choose, rank
from orvalho.peers.session import Mode, Refusal, Session, dial_session, listen_session
from orvalho.peers.succession import Heir
from orvalho.transports.catalog import Catalog
from orvalho.transports.link import Link, Listener

_log = logging.getLogger(__name__)

# More than this to one peer are leftovers of its restarts: the oldest goes.
_CHANNELS_PER_PEER: Final = 4
_KEY_BYTES: Final = 32
# A channel in use needs no pings, but for its round trip: every so many of their times.
_MEASURE_PINGS: Final = 10


# A peer's old key, and its new one: both have been proven.
OnSucceeded = Callable[[Key, Key], Awaitable[None]]


class PeerBook(Protocol):
    """What this room needs to know of the trust book. Answers come from memory."""

    def peers(self) -> Collection[Key]:
        """The node keys of every peer, without our own."""
        ...

    def addresses(self, key: Key) -> Sequence[str]: ...
    def name(self, key: Key) -> str | None: ...


# Further addresses of a peer, which others can reach it at: `relay://RELAY/PEER`.
Relays = Callable[[Key], Sequence[str]]


def no_relays(_: Key) -> Sequence[str]:
    return ()


@dataclass(frozen=True, slots=True)
class Timings:
    """When links are given up and tried again. A peer that hangs is noticed after
    `dead_after_s` and at most a quarter of `ping_s` more.

    `patience_s` is how long live talk waits for another link once the last one is lost;
    `stagger_s` how long one address is waited for before the next is dialed beside it;
    `spare_after_s` when a better way is looked for first, and `relay_spare_s` how long a relay is
    kept beside a direct way.
    """

    handshake_s: float = 5.0
    ping_s: float = 1.0
    dead_after_s: float = 2.5
    redial_first_s: float = 0.25
    redial_limit_s: float = 60.0
    patience_s: float = 3.0
    stagger_s: float = 0.3
    spare_after_s: float = 2.0
    relay_spare_s: float = 60.0


class Links:
    """Channels to every peer in the book, kept for as long as `run` runs.

    `on_up` and `on_down` are told of each channel, before its first frame and after its last.
    `relays` names further addresses of a peer, tried after its own.
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
        succession: bytes = b"",
        heir: Heir | None = None,
        on_succeeded: OnSucceeded | None = None,
        relays: Relays = no_relays,
    ) -> None:
        self._succession = succession
        self._heir = heir
        self._on_succeeded = on_succeeded
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
        self._relays = relays
        self._channels: dict[Key, list[Channel]] = {}
        self._chosen: dict[Key, Channel] = {}
        self._relays = relays
        self._keepers: dict[Key, Keeper] = {}
        self._problems: dict[Key, str] = {}
        # Peers that proved who they are and then refused our key: they have forgotten us.
        self._refused_by: set[Key] = set()
        self._dialer = Dialer(
            pace=timings,
            addresses=self._addresses,
            paths=self.paths,
            dial=self._dial_and_open,
            problems=self._problems,
        )
        self._tasks: TaskGroup | None = None
        self._is_running = asyncio.Event()

    # ---- what is open -----------------------------------------------------------------------

    def best(self, peer: Key) -> Channel | None:
        """The channel to use for a peer now."""
        chosen = self._chosen.get(peer)
        return chosen if chosen is not None and chosen.is_open else self._choose(peer)

    def direct(self, peer: Key) -> Channel | None:
        """The best channel to a peer that runs through no other node."""
        channels = [
            c for c in self._channels.get(peer, ()) if c.is_open and c.path.kind == "direct"
        ]
        return channels[rank([c.path for c in channels])[0]] if channels else None

    def paths(self, peer: Key) -> list[Path]:
        """The open ways to a peer, best first."""
        best = self.best(peer)
        others = [each.path for each in self._open_channels(peer) if each is not best]
        in_order = [others[place] for place in rank(others)]
        return in_order if best is None else [best.path, *in_order]

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
        scheme = address.partition("://")[0]
        welcome = partial(self.welcome, transport=scheme)
        return self._catalog.find(address).listen(address, welcome)

    def refresh(self) -> None:
        """The book has changed: dial who is new, drop who is gone."""
        if self._tasks is None:
            return
        known = set(self._book.peers())
        for peer in known - self._keepers.keys():
            self._keepers[peer] = Keeper()
            self._tasks.start_soon(self._dialer.keep, peer, self._keepers[peer])
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

    async def open_pairing(
        self, addresses: Sequence[str], peer: Key | None
    ) -> tuple[Link, Session]:
        """A session in pairing mode with a node that is not in the book; the caller closes the
        link. With `peer` None it is whoever answers, who must be proven otherwise.

        Raises:
            Unavailable, InvalidInput: none of the addresses answers.
            Untrusted: another node answers there, or it is not inviting.
        """
        problem: Unavailable | Untrusted | InvalidInput | None = None
        for address in addresses:
            try:
                return await self._dial(address, peer, Mode.PAIRING)
            except (Unavailable, Untrusted, InvalidInput) as error:
                # Also another node (the address of a bridge, say, that every machine has), or a
                # transport that we do not have.
                if problem is None or isinstance(error, Untrusted):
                    problem = error
        raise problem or Unavailable("there is no address to dial")

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

    async def welcome(self, link: Link, transport: str) -> None:
        """A link has come in, by a transport of this URL scheme: who is it? Returns when it is
        over; the caller closes the link."""
        await self._is_running.wait()
        session = listen_session(
            signer=self._signer,
            noise_static=self._noise_static,
            ephemeral=os.urandom(_KEY_BYTES),
            max_message_bytes=link.max_frame_bytes,
            allow=self._allow,
            succession=self._succession,
            heir=self._heir,
        )
        try:
            await self._shake_hands(link, session)
        except (Unavailable, Untrusted):
            return
        if session.mode is Mode.PAIRING:
            await self._on_pairing(link, session)
            return
        link.admit()
        if session.forerunner is not None:
            await self._succeed(session.forerunner, session.peer)
            if session.peer not in self._book.peers():  # which could not be written
                return
        await self._carry(self._open(link, session, transport), link)

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

    def _open(self, link: Link, session: Session, transport: str) -> Channel:
        channel = Channel(link, session, self._counters, transport)
        peer = channel.peer
        self._refused_by.discard(peer)
        channels = self._channels.setdefault(peer, [])
        channels.append(channel)
        if len(channels) > _CHANNELS_PER_PEER:
            channels[0].close()
        self._choose(peer)
        _log.info("link.up", extra={"peer": self._book.name(peer), "path": str(channel.path)})
        self._on_up(channel)
        channel.ping()
        self.nudge(peer)
        return channel

    async def _carry(self, channel: Channel, link: Link) -> None:
        """Run an open channel until it is over."""
        peer = channel.peer
        try:
            if peer in self._book.peers():
                await channel.run(self._on_frame)
        except Exception:  # noqa: BLE001 -- the top of a task: a bug costs this link, no more
            _log.exception("link.failed", extra={"peer": self._book.name(peer)})
        finally:
            channel.close()
            self._channels[peer].remove(channel)
            if not self._channels[peer]:
                del self._channels[peer]
            self._choose(peer)
            self._on_down(channel)
            _log.info("link.down", extra={"peer": self._book.name(peer)})
            self.nudge(peer)
            with anyio.CancelScope(shield=True):
                await link.aclose()

    async def _succeed(self, old: Key, new: Key) -> None:
        """A peer has proven that it has a new key."""
        try:
            if self._on_succeeded is not None:
                await self._on_succeeded(old, new)
        except Exception:  # noqa: BLE001 -- the top of a handler: it is tried again with the next link
            _log.exception("succession.failed", extra={"peer": self._book.name(old)})
        self.refresh()

    def _drop(self, peer: Key) -> None:
        for channel in self._channels.get(peer, ()):
            channel.close()

    def _open_channels(self, peer: Key) -> list[Channel]:
        return [channel for channel in self._channels.get(peer, ()) if channel.is_open]

    def _choose(self, peer: Key) -> Channel | None:
        """Look again which channel is the best."""
        channels = self._open_channels(peer)
        before = self._chosen.pop(peer, None)
        if not channels:
            return None
        place = 0
        if len(channels) > 1:
            current = channels.index(before) if before in channels else None
            place = choose([channel.path for channel in channels], current)
        self._chosen[peer] = channels[place]
        return channels[place]

    def _addresses(self, peer: Key) -> Sequence[str]:
        if peer not in self._book.peers():
            return ()
        return [*self._book.addresses(peer), *self._relays(peer)]

    async def _dial_and_open(self, address: str, peer: Key) -> None:
        link, session = await self._dial(address, peer, Mode.FULL)
        if session.forerunner is not None:
            # The book's next refresh ends this task, and begins one for the new key.
            with anyio.CancelScope(shield=True):
                await link.aclose()
                await self._succeed(session.forerunner, session.peer)
        elif self._tasks is not None:
            channel = self._open(link, session, address.partition("://")[0])
            self._tasks.start_soon(self._carry, channel, link)

    async def _dial(self, address: str, peer: Key | None, wish: Mode) -> tuple[Link, Session]:
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
            succession=self._succession if wish is Mode.FULL else b"",
            heir=self._heir,
        )
        try:
            await self._shake_hands(link, session)
        except BaseException:
            # A node that knows us lets us in whatever we wish for: it has forgotten us.
            is_refused = session.refusal in (Refusal.STRANGER, Refusal.NOT_INVITING)
            if is_refused and peer is not None and peer in self._book.peers():
                self._refused_by.add(peer)
            with anyio.CancelScope(shield=True):
                await link.aclose()
            raise
        return link, session

    async def _watch(self) -> None:
        """Ping what we have been silent on, end what has gone silent, and look again which
        channels are the best."""
        timings = self._timings
        pause_s = timings.ping_s / 4
        while True:
            slept_at = _now()
            await anyio.sleep(pause_s)
            now = _now()
            # After a pause of our own (suspend, a stopped process) what came in meanwhile has
            # not been read yet: nobody else is to blame for the silence.
            overslept = now - slept_at > pause_s + timings.dead_after_s / 2
            for peer, channels in list(self._channels.items()):
                for channel in list(channels):
                    silent_s = now - channel.heard_at
                    channel.is_quiet = silent_s > (timings.ping_s + timings.dead_after_s) / 2
                    if silent_s > timings.dead_after_s and not overslept:
                        self._counters["links.silent"] += 1
                        channel.close()
                    elif self._is_ping_due(channel, now):
                        channel.ping()
                if len(channels) > 1:
                    self._part_from_relays(channels, now)
                    self._choose(peer)

    def _is_ping_due(self, channel: Channel, now: float) -> bool:
        """Each side must be heard every `ping_s`; an answer to a ping will do. One side pings a
        little later than the other, so that one exchange serves both."""
        ping_s = self._timings.ping_s
        patience_s = ping_s if self._signer.key < channel.peer else 1.25 * ping_s
        if now - channel.pinged_at < patience_s:
            return False
        is_unmeasured = channel.rtt_s is None or now - channel.pinged_at > _MEASURE_PINGS * ping_s
        return is_unmeasured or now - channel.said_at >= patience_s

    def _part_from_relays(self, channels: Sequence[Channel], now: float) -> None:
        """A relay's work is somebody's else: it is spared once a direct way has proven good."""
        proven_at = now - self._timings.relay_spare_s
        paths = [(channel, channel.path) for channel in channels]
        if any(path.kind == "direct" and path.opened_at < proven_at for _, path in paths):
            for channel, path in paths:
                if path.kind == "relay":
                    channel.close()


def _now() -> float:
    return asyncio.get_running_loop().time()
