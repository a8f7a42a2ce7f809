"""Links through a NATS server, `nats://host:4222/<nkey>` and `nats+tls://...`, and the one place
that knows the NATS client.

A node listens on a server under the nkey of its own key, and is dialled there under it; the
subjects are those of `nats_link`. An address of ours to listen on may carry what nobody else is
told: `nats://user:password@host:4222?ca=/path/to/ca.pem`. Without a user and password the node
proves itself by its key. There is one connection a server, which every link shares; it is opened
for the first and closed after the last.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import random
import re
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Protocol

import anyio
from anyio.abc import TaskGroup

from orvalho.contexts.identity import Key, Signer
from orvalho.contexts.nkeys import user_nkey
from orvalho.errors import InvalidInput, Unavailable
from orvalho.retry import Backoff
from orvalho.transports.link import OnLink
from orvalho.transports.nats_address import Place, read_address
from orvalho.transports.nats_link import CLOSE, OPEN, OPEN_NAME, NatsLink, inbox, read_inbox
from orvalho.transports.nats_problems import NoServer, connect_problem, forbidden, no_jetstream

if TYPE_CHECKING:
    # Under their own names again: the other files of this room that need them look here.
    from nats.aio.client import Client as Client  # noqa: PLC0414
    from nats.aio.msg import Msg as Msg  # noqa: PLC0414

_log = logging.getLogger(__name__)

MAX_STRANGERS: Final = 64
_VERSION: Final = 1
_OPEN_TIMEOUT_S: Final = 5.0
_CONNECT_TIMEOUT_S: Final = 2
_CLOSING_S: Final = 2.0
# Two pings without an answer end a connection: a server that hangs is noticed within 6 s.
_PING_S: Final = 2
_REDIAL_FIRST_S: Final = 0.25
_REDIAL_LIMIT_S: Final = 5.0
# After a failure others who want the same server are not made to wait for it one by one.
_FAILED_FOR_S: Final = 0.2
_PART_HEAD_BYTES: Final = 64
_ORPHANS: Final = 1024
_DENIED: Final = 256
_FORBIDDEN: Final = re.compile(r'permissions violation for publish to "([^"]*)"')
# What a server may have us sign: no statement of ours, since each of those holds a NUL or a space.
_NONCE: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


class SignsNonces(Protocol):
    """The part of a node's Signer that a NATS server asks for."""

    @property
    def key(self) -> Key: ...
    def sign_raw(self, message: bytes) -> bytes: ...


@dataclass(frozen=True, slots=True)
class _NatsListener:
    address: str


@dataclass(slots=True)
class _Ear:
    """Somebody listens: `waiting` are the strangers, in order of arrival."""

    tasks: TaskGroup
    on_link: OnLink
    waiting: dict[NatsLink, None] = field(default_factory=dict)
    guests: set[NatsLink] = field(default_factory=set)


# Told of a server on which we listen, and why it cannot be reached; None: it is.
OnProblem = Callable[[str, Unavailable | None], None]


class NatsTransport:
    """A Transport. `signer` holds the key that the node is known by, on the servers as among its
    peers; without one it goes by a new key. `counters` counts what strangers get wrong.

    Listening succeeds while the server is away: the node is heard there as soon as it is back.
    """

    def __init__(
        self,
        signer: SignsNonces | None = None,
        counters: Counter[str] | None = None,
        on_problem: OnProblem | None = None,
    ) -> None:
        self._signer = signer or Signer(random.SystemRandom().randbytes(32))
        self.counters: Counter[str] = Counter() if counters is None else counters
        self.nkey: Final = user_nkey(self._signer.key)
        self._on_problem = on_problem
        self._servers: dict[str, Server] = {}

    @asynccontextmanager
    async def listen(self, address: str, on_link: OnLink) -> AsyncIterator[_NatsListener]:
        place = read_address(address)
        if place.nkey not in ("", self.nkey):
            raise InvalidInput("that is the address of another node", where=place.server)
        _login(place, self._signer)
        server = self.server(address)
        if server.ear is not None:
            raise Unavailable("this node listens there already", where=place.server)
        async with anyio.create_task_group() as tasks, server.used():
            server.ear = ear = _Ear(tasks, on_link)
            tried = asyncio.Event()
            staying = anyio.CancelScope()
            tasks.start_soon(server.stay, staying, tried, self._on_problem)
            try:
                await tried.wait()
                yield _NatsListener(f"{place.server}/{self.nkey}")
            finally:
                server.ear = None
                staying.cancel()
                tasks.cancel_scope.deadline = anyio.current_time() + _CLOSING_S
                with anyio.CancelScope(shield=True), anyio.move_on_after(_CLOSING_S):
                    for link in list(ear.guests):
                        link.end("this node has stopped listening")
                        await server.notify_closed(link.far)

    async def dial(self, address: str) -> NatsLink:
        place = read_address(address)
        if not place.nkey:
            raise InvalidInput(
                "an address to dial names a node",
                where=place.server,
                hint=f"an address looks like {place.server}/{self.nkey[:5]}...",
            )
        return await self.server(address).open_link(place.nkey)

    def server(self, address: str) -> Server:
        """The server of an address, the same object for the same server. What was said first of
        how to log in there holds.

        Raises:
            InvalidInput: it is no address of this transport.
        """
        place = read_address(address)
        if place.server not in self._servers:
            self._servers[place.server] = Server(place, self._signer, self.counters)
        return self._servers[place.server]


class Server:
    """One NATS server, as this node uses it."""

    ear: _Ear | None = None

    def __init__(self, place: Place, signer: SignsNonces, counters: Counter[str]) -> None:
        self.url = place.server
        self.nkey = user_nkey(signer.key)
        self._place = place
        self._signer = signer
        self._counters = counters
        self._client: Client | None = None
        self._lost = asyncio.Event()
        self._lock = asyncio.Lock()
        self._users = 0
        self._failed_at = float("-inf")
        self._problem = Unavailable("it has not been tried", where=place.server)
        self._links: dict[str, NatsLink] = {}
        self._dialled: dict[NatsLink, str] = {}
        # The far inboxes of links that were lost with the server, to be told when it is back.
        self._orphans: list[str] = []
        # What this connection may not publish to, as far as it has tried; in lower case.
        self._denied: set[str] = set()

    # ---- the connection ---------------------------------------------------------------------

    @asynccontextmanager
    async def used(self) -> AsyncIterator[None]:
        """Keep the connection, once there is one, for the length of the block."""
        self._users += 1
        try:
            yield
        finally:
            with anyio.CancelScope(shield=True):
                await self._release()

    async def client(self) -> Client:
        """The connection; whoever asks is inside `used`.

        Raises:
            Unavailable: there is none to be had now.
        """
        async with self._lock:
            if self._client is not None and not self._lost.is_set():
                return self._client
            if _now() - self._failed_at < _FAILED_FOR_S:
                raise self._problem
            try:
                return await self._connect()
            except Unavailable as error:
                self._failed_at, self._problem = _now(), error
                raise

    async def stay(
        self, scope: anyio.CancelScope, tried: asyncio.Event, on_problem: OnProblem | None
    ) -> None:
        """Hold the connection until `scope` ends; `tried` is set after the first attempt."""
        backoff = Backoff(_REDIAL_FIRST_S, _REDIAL_LIMIT_S)
        problem = None
        with scope:
            while True:
                try:
                    await self.client()
                except Unavailable as error:
                    if error.message != problem:
                        problem = error.message
                        _log.warning("nats.away", extra={"server": self.url, "reason": problem})
                        if on_problem is not None:
                            on_problem(self.url, error)
                    tried.set()
                else:
                    problem = None
                    if on_problem is not None:
                        on_problem(self.url, None)
                    tried.set()
                    backoff.succeeded()
                    await self._lost.wait()
                backoff.failed(_now(), random.random())  # noqa: S311 -- it spreads, no more
                await anyio.sleep(backoff.retry_at - _now())

    async def wait_lost(self) -> None:
        """Wait until the connection that there is now has ended."""
        await self._lost.wait()

    async def _connect(self) -> Client:
        lost = asyncio.Event()
        self._denied.clear()

        async def on_closed() -> None:
            self._on_lost(lost)

        client = _make_client(self._place, self._signer)
        try:
            await client.connect(
                f"nats://{self.url.partition('://')[2]}",
                allow_reconnect=False,
                connect_timeout=_CONNECT_TIMEOUT_S,
                ping_interval=_PING_S,
                closed_cb=on_closed,
                error_cb=self._on_error,
                name=self.nkey,
                inbox_prefix=f"_INBOX_{self.nkey}",
                **_login(self._place, self._signer),
            )
            await client.subscribe(inbox(self.nkey), cb=self._take)
            await client.flush(_CONNECT_TIMEOUT_S)
        except BaseException as error:
            with anyio.move_on_after(_CLOSING_S, shield=True), suppress(Exception):
                await client.close()
            if isinstance(error, Exception):
                raise self._refused(error) from error
            raise
        self._client, self._lost = client, lost
        if client.is_closed:
            lost.set()
        orphans, self._orphans = self._orphans, []
        for subject in orphans:
            await self.notify_closed(subject)
        return client

    async def _release(self) -> None:
        self._users -= 1
        if self._users == 0 and self._client is not None:
            client, self._client = self._client, None
            with suppress(Exception), anyio.move_on_after(_CLOSING_S):
                await client.close()

    def _on_lost(self, lost: asyncio.Event) -> None:
        lost.set()
        for link in list(self._links.values()):
            if link.far and len(self._orphans) < _ORPHANS:
                self._orphans.append(link.far)
            link.end("the connection to the NATS server is lost")

    async def _on_error(self, error: Exception) -> None:
        """The server tells of missing rights only here, with the subject in its text, which the
        library has put in lower case."""
        _log.debug("nats.error", extra={"server": self.url, "reason": str(error)})
        found = _FORBIDDEN.search(str(error))
        if found is None:
            return
        self._counters["nats.forbidden"] += 1
        if len(self._denied) < _DENIED:
            self._denied.add(found[1])
        for link, nkey in list(self._dialled.items()):
            if nkey.lower() in found[1]:
                link.end("the NATS server does not let this node speak to that one")

    def _refused(self, error: Exception) -> Unavailable:
        return connect_problem(error, self.url, self.nkey, self._place.user)

    # ---- links ------------------------------------------------------------------------------

    async def open_link(self, nkey: str) -> NatsLink:
        """Open a link to the node of that nkey.

        Raises:
            Unavailable: it does not listen here, or refuses, or the server is away.
        """
        self._users += 1
        try:
            client = await self.client()
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self._release()
            raise
        link = self._make_link(client)
        self._dialled[link] = nkey
        try:
            reply = inbox(self.nkey, link.token)
            await self.publish(inbox(nkey, OPEN_NAME), bytes([OPEN, _VERSION]), reply)
            with anyio.fail_after(_OPEN_TIMEOUT_S):
                await link.wait_accepted()
        except BaseException as error:
            with anyio.CancelScope(shield=True):
                await link.aclose()
            if isinstance(error, TimeoutError):
                raise Unavailable("nobody answers in time", where=self.url) from error
            raise
        return link

    async def publish(self, subject: str, content: bytes, reply: str = "") -> None:
        """Raises:
        Unavailable: the connection is lost.
        """
        if self._client is None or self._lost.is_set():
            raise NoServer("the connection to the NATS server is lost", where=self.url)
        try:
            await self._client.publish(subject, content, reply)
        except _nats_errors() as error:
            raise NoServer(f"the NATS server is lost: {error}", where=self.url) from error

    async def request(
        self,
        client: Client,
        subject: str,
        content: bytes,
        headers: dict[str, str] | None,
        timeout_s: float,
    ) -> bytes:
        """Raises:
        Unavailable: nobody answers in time, or the connection is lost.
        """
        if subject.lower() in self._denied:
            raise forbidden(subject, self.url)
        try:
            answer = await client.request(subject, content, timeout=timeout_s, headers=headers)
        except _nats_errors() as error:
            if type(error).__name__ == "NoRespondersError":
                raise no_jetstream(self.url) from error
            if subject.lower() in self._denied:
                raise forbidden(subject, self.url) from error
            text = str(error) or type(error).__name__
            raise Unavailable(f"the NATS server does not answer: {text}", where=self.url) from error
        return answer.data

    async def subscribe(
        self, client: Client, subject: str, hear: Callable[[Msg], Awaitable[None]]
    ) -> None:
        """Hear a subject for as long as this connection lasts.

        Raises:
            Unavailable: it is lost.
        """
        try:
            await client.subscribe(subject, cb=hear)
        except _nats_errors() as error:
            raise NoServer(f"the NATS server is lost: {error}", where=self.url) from error

    async def notify_closed(self, far: str) -> None:
        """Tell the far side of a link that it is gone, if that can be."""
        with suppress(Unavailable):
            await self.publish(far, bytes([CLOSE]))

    def _make_link(self, client: Client) -> NatsLink:
        part_bytes = max(1, client.max_payload - _PART_HEAD_BYTES)
        link = _SharedLink(self.publish, self.url, part_bytes, self._forget)
        link.release = self._release
        self._links[link.token] = link
        return link

    def _forget(self, link: NatsLink) -> None:
        self._links.pop(link.token, None)
        self._dialled.pop(link, None)

    async def _take(self, message: Msg) -> None:
        """Everything that is sent to an inbox of this node."""
        name = message.subject.rpartition(".")[2]
        if name == OPEN_NAME:
            await self._welcome(message)
            return
        link = self._links.get(name)
        if link is None:
            self._counters["nats.astray"] += 1
        elif message.headers is not None and message.headers.get("Status") == "503":
            link.end("nobody listens there")
        elif not link.take(message.data, self._far_inboxes(link)):
            self._counters["nats.malformed"] += 1
            await self.notify_closed(link.far)

    def _far_inboxes(self, link: NatsLink) -> str:
        return inbox(self._dialled[link], "*").removesuffix(".*") if link in self._dialled else ""

    async def _welcome(self, message: Msg) -> None:
        if read_inbox(message.reply) is None or message.data[:1] != bytes([OPEN]):
            self._counters["nats.malformed"] += 1
            return
        if self.ear is None or self._client is None:
            await self.notify_closed(message.reply)
            return
        ear = self.ear
        if len(ear.waiting) >= MAX_STRANGERS:
            # The longest waiting goes: a flood of strangers then shuts nobody out who proves
            # within a few milliseconds who it is.
            oldest = next(iter(ear.waiting))
            oldest.end("too many strangers are waiting")
            ear.waiting.pop(oldest, None)
            await self.notify_closed(oldest.far)
        self._users += 1
        link = self._make_link(self._client)
        link.far = message.reply
        link.on_admit = lambda link: ear.waiting.pop(link, None)
        ear.waiting[link] = None
        ear.guests.add(link)
        ear.tasks.start_soon(_serve, ear, link)
        with suppress(Unavailable):
            await self.publish(link.far, link.acceptance)


class _SharedLink(NatsLink):
    """A link that gives its share of the connection back when it is closed."""

    release: Callable[[], Any]
    _is_released = False

    async def aclose(self) -> None:
        try:
            await super().aclose()
        finally:
            if not self._is_released:
                self._is_released = True
                with anyio.CancelScope(shield=True):
                    await self.release()


async def _serve(ear: _Ear, link: NatsLink) -> None:
    try:
        await ear.on_link(link)
    finally:
        ear.waiting.pop(link, None)
        ear.guests.discard(link)
        with anyio.CancelScope(shield=True), anyio.move_on_after(_CLOSING_S):
            await link.aclose()


def _login(place: Place, signer: SignsNonces) -> dict[str, Any]:
    """What the client is told of who we are, and of whom we believe."""
    options: dict[str, Any] = {}
    if place.scheme == "nats+tls":
        try:
            options["tls"] = ssl.create_default_context(cafile=place.ca)
        except (OSError, ssl.SSLError) as error:
            raise InvalidInput(
                f"the certificate authority cannot be read: {error}", where=place.ca
            ) from error
        options["tls_hostname"] = place.host
    if place.user is not None:
        return options | {"user": place.user, "password": place.password or ""}

    def sign(nonce: str) -> bytes:
        # A server that may choose any text would have envelopes of ours signed.
        if not _NONCE.fullmatch(nonce):
            raise ValueError("the server's nonce is none")
        return base64.b64encode(signer.sign_raw(nonce.encode()))

    return options | {"signature_cb": sign}


def _make_client(place: Place, signer: SignsNonces) -> Client:
    nkey = None if place.user is not None else user_nkey(signer.key)
    client: Client = _client_class()(nkey, is_secret=place.scheme == "nats+tls")
    return client


@lru_cache(1)
def _client_class() -> Any:
    """The library's client, with what it does not do by itself.

    Raises:
        Unavailable: the library is not installed.
    """
    try:
        from nats import errors  # noqa: PLC0415 -- optional, and slow to import
        from nats.aio.client import Client  # noqa: PLC0415
    except ImportError as error:
        raise Unavailable(
            "the client of NATS servers is not installed", hint="pip install orvalho[nats]"
        ) from error

    class NodeClient(Client):
        """It logs in by an nkey without being given the seed. It never falls back to plain text
        where TLS was asked for: a server, or who sits before it, could say that it has none. It
        gives up after one refused connection, where the library would try for ever; and its end
        is always told, also when its last words cannot be sent."""

        def __init__(self, nkey: str | None, *, is_secret: bool) -> None:
            super().__init__()
            self._public_nkey = nkey
            self._is_secret = is_secret

        def _connect_command(self) -> bytes:
            if self._is_secret and not self._server_info.get("tls_required"):
                raise errors.Error("the server offers no TLS")
            return super()._connect_command()

        async def _select_next_server(self) -> None:
            server = self._server_pool[0]
            await self._connect_to_server(server)
            self._current_server = server

        async def _close(self, status: int, do_cbs: bool = True) -> None:
            try:
                await super()._close(status, do_cbs)
            except OSError:
                if self._transport is not None:
                    self._transport.close()  # type: ignore[no-untyped-call]
                if do_cbs and self._closed_cb is not None:
                    await self._closed_cb()

    return NodeClient


@lru_cache(1)
def _nats_errors() -> tuple[type[Exception], ...]:
    from nats import errors  # noqa: PLC0415

    return errors.Error, OSError, TimeoutError


def _now() -> float:
    return asyncio.get_running_loop().time()
