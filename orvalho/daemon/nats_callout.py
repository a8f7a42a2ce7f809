"""Whom a NATS server lets in, answered from the trust book at the moment it asks: pairing and
parting need no new configuration. Who is let in no more is dropped.

A server that was configured so asks about every connection but ours. We answer as its user of the
system account, which nobody else has, so that no node can answer in our place.
"""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import anyio

from orvalho.contexts.identity import Key
from orvalho.contexts.nkeys import parse_user_nkey
from orvalho.daemon.nats_jwt import CalloutKeys
from orvalho.daemon.nats_rights import NatsUser, rights_of
from orvalho.errors import InvalidInput, OrvalhoError, Untrusted
from orvalho.transports.nats import NatsTransport, Server

if TYPE_CHECKING:
    from orvalho.transports.nats import Client, Msg

_log = logging.getLogger(__name__)

SUBJECT: Final = "$SYS.REQ.USER.AUTH"
SERVER_KEY: Final = "Nats-Server-Xkey"
_RETRY_S: Final = 1.0
_ANSWER_S: Final = 5.0
# A client that was admitted while the book changed is found by the second look.
_LOOKS_S: Final = (0.0, 2.0)
_MOST: Final = 4096

OnProblem = Callable[[OrvalhoError | None], None]


class Callout:
    """`run` it while the server asks us. `users` are those that may come in now, `stream` what
    keeps their mail, `url` where the server is reached from here."""

    def __init__(
        self,
        url: str,
        keys: CalloutKeys,
        users: Callable[[], tuple[NatsUser, ...]],
        stream: str,
        on_problem: OnProblem,
    ) -> None:
        self.counters: Counter[str] = Counter()
        self._keys = keys
        self._users = users
        self._stream = stream
        self._on_problem = on_problem
        self._server: Server = NatsTransport(keys.service).server(url)
        self._changed = anyio.Event()

    def changed(self) -> None:
        """Another may come in, or one may no more."""
        self._changed.set()

    async def run(self) -> None:
        """A task, until cancelled."""
        async with self._server.used():
            while True:
                try:
                    client = await self._server.client()
                    await self._server.subscribe(client, SUBJECT, self._hear)
                    self._on_problem(None)
                    async with anyio.create_task_group() as tasks:
                        tasks.start_soon(self._drop_strangers, client)
                        await self._server.wait_lost()
                        tasks.cancel_scope.cancel()
                except* OrvalhoError as group:
                    for error in group.exceptions:
                        if isinstance(error, OrvalhoError):
                            self._on_problem(error)
                await anyio.sleep(_RETRY_S)

    async def _hear(self, message: Msg) -> None:
        try:
            question = self._keys.read(message.data, (message.headers or {}).get(SERVER_KEY, ""))
        except Untrusted as error:
            self.counters["callout.malformed"] += 1
            _log.warning("nats.callout_malformed", extra={"reason": error.message})
            return
        now = time.time()
        user = self._user(question.client)
        if user is None:
            self.counters["callout.refused"] += 1
            answer = self._keys.refuse(question, "this node is not paired", now)
        else:
            self.counters["callout.admitted"] += 1
            answer = self._keys.admit(question, rights_of(user, self._stream), now)
        try:
            await self._server.publish(message.reply, answer)
        except OrvalhoError as error:
            _log.info("nats.callout_unanswered", extra={"reason": error.message})

    def _user(self, key: Key | None) -> NatsUser | None:
        return next((user for user in self._users() if user.key == key), None)

    async def _drop_strangers(self, client: Client) -> None:
        """Once at the start, for what was missed, and after each change."""
        while True:
            self._changed = anyio.Event()
            for wait_s in _LOOKS_S:
                await anyio.sleep(wait_s)
                try:
                    await self._drop(client)
                except OrvalhoError as error:
                    _log.warning("nats.callout_blind", extra={"reason": error.message})
            await self._changed.wait()

    async def _drop(self, client: Client) -> None:
        wanted = json.dumps({"auth": True, "limit": _MOST}).encode()
        found = await self._server.request(
            client, "$SYS.REQ.SERVER.PING.CONNZ", wanted, None, _ANSWER_S
        )
        server, connections = _read(found)
        for cid, key in connections:
            if key not in (None, self._keys.service.key) and self._user(key) is None:
                _log.info("nats.dropped", extra={"cid": cid})
                self.counters["callout.dropped"] += 1
                kick = json.dumps({"cid": cid}).encode()
                # The server does not listen to one who wants no answer.
                subject = f"$SYS.REQ.SERVER.{server}.KICK"
                await self._server.request(client, subject, kick, None, _ANSWER_S)


def _read(content: bytes) -> tuple[str, list[tuple[int, Key | None]]]:
    """The server's name for itself, and each connection: its number and the key that it proved,
    None for one that came in otherwise."""
    try:
        told: dict[str, Any] = json.loads(content)
        found = [
            (int(each["cid"]), _key(each.get("authorized_user") or ""))
            for each in told["data"].get("connections") or ()
        ]
        return str(told["server"]["id"]), found
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Untrusted("a NATS server's list of connections makes no sense") from error


def _key(nkey: str) -> Key | None:
    try:
        return parse_user_nkey(nkey)
    except InvalidInput:
        return None
