"""A JetStream stream that keeps sealed mail for nodes that are off.

Mail for a node lies under `orvalho.mail.<its nkey>`; each node reads with a durable consumer of
its own and acknowledges what it has kept itself. The stream holds copies only: whoever deposited
has the original until the recipient's own answer.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

import anyio

from orvalho.contexts.identity import Key
from orvalho.contexts.nkeys import user_nkey
from orvalho.errors import LimitExceeded, Unavailable
from orvalho.transports.nats import Server
from orvalho.transports.nats_problems import (
    Forbidden,
    NoStream,
    not_ours_to_make,
    stream_problem,
)

if TYPE_CHECKING:
    from orvalho.transports.nats import Client, Msg

_log = logging.getLogger(__name__)

_ANSWER_S: Final = 5.0
_BATCH: Final = 64
_EXPIRES_S: Final = 25
_RETRY_S: Final = 2.0
_MAX_AGE_S: Final = 35 * 86400
_PER_NODE: Final = 10_000
_NS: Final = 1_000_000_000

Take = Callable[[bytes, Callable[[], Awaitable[None]]], None]
# Told why the stream does not serve now; None: it does.
OnProblem = Callable[[Unavailable | None], None]


class NatsCarrier:
    """One stream on one server, which is made when it is not there and this node may."""

    def __init__(self, server: Server, stream: str, on_problem: OnProblem = lambda _: None) -> None:
        self._server = server
        self._stream = stream
        self._on_problem = on_problem

    async def deposit(self, to: Key, id: bytes, sealed: bytes, expires_at: float) -> None:  # noqa: A002
        """Keep this for a node. The stream keeps for 35 days at most whatever `expires_at` says:
        an envelope that has expired is refused by its recipient.

        Raises:
            Unavailable: it is not kept, or that is not known; trying again is harmless.
            LimitExceeded: it is larger than a message of the server.
        """
        async with self._server.used():
            client = await self._server.client()
            if len(sealed) + 512 > client.max_payload:
                raise LimitExceeded("the server takes no message of that size")
            try:
                await self._ask(
                    client,
                    f"orvalho.mail.{user_nkey(to)}",
                    sealed,
                    {"Nats-Msg-Id": id.hex(), "Nats-Expected-Stream": self._stream},
                )
            except Unavailable as error:
                self._on_problem(error)
                raise
            self._on_problem(None)

    async def collect(self, take: Take) -> None:
        """Bring what others left; a task that runs until it is cancelled."""
        problem = None
        async with self._server.used():
            while True:
                try:
                    client = await self._server.client()
                    await self._make_reader(client)
                    problem = None
                    self._on_problem(None)
                    await self._read(client, take)
                except Unavailable as error:
                    if error.message != problem:
                        problem = error.message
                        self._on_problem(error)
                        _log.warning("carrier.away", extra={"reason": problem})
                await anyio.sleep(_RETRY_S)

    async def _read(self, client: Client, take: Take) -> None:
        """Ask for mail, batch by batch, until the connection is lost.

        The library's own pull subscription is not used: when the connection is lost it cancels
        whoever waits, which looks to us like being cancelled ourselves.
        """
        came = asyncio.Event()
        count = 0

        async def on_message(message: Msg) -> None:
            nonlocal count
            if message.headers is not None and "Status" in message.headers:
                count = _BATCH  # no more in this batch
            else:
                count += 1

                async def kept() -> None:
                    await self._server.publish(message.reply, b"+ACK")

                take(message.data, kept)
            if count >= _BATCH:
                came.set()

        where = client.new_inbox()
        await self._server.subscribe(client, where, on_message)
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._server.nkey}"
        request = json.dumps({"batch": _BATCH, "expires": _EXPIRES_S * _NS}).encode()
        while not client.is_closed:
            came.clear()
            count = 0
            await self._server.publish(subject, request, where)
            with anyio.move_on_after(_EXPIRES_S + _ANSWER_S):
                async with anyio.create_task_group() as tasks:
                    for wait in (came.wait, self._server.wait_lost):
                        tasks.start_soon(_first_of, wait, tasks.cancel_scope)

    async def _make_reader(self, client: Client) -> None:
        nkey = self._server.nkey
        mail = f"orvalho.mail.{nkey}"
        subject = f"$JS.API.CONSUMER.CREATE.{self._stream}.{nkey}.{mail}"
        config = {
            "durable_name": nkey,
            "name": nkey,
            "filter_subject": mail,
            "ack_policy": "explicit",
            "ack_wait": 30 * _NS,
            "deliver_policy": "all",
            "replay_policy": "instant",
            "max_ack_pending": 1000,
        }
        request = json.dumps({"stream_name": self._stream, "config": config}).encode()
        try:
            await self._ask(client, subject, request)
        except NoStream:
            await self._make_stream(client)
            await self._ask(client, subject, request)

    async def _make_stream(self, client: Client) -> None:
        config = {
            "name": self._stream,
            "subjects": ["orvalho.mail.*"],
            "retention": "limits",
            "storage": "file",
            "max_age": _MAX_AGE_S * _NS,
            "max_msgs_per_subject": _PER_NODE,
            "duplicate_window": 600 * _NS,
            "discard": "old",
            # Nobody may take away what is for others, also not by way of the server's own words,
            # which whoever asks it for something can have sent to any subject.
            "deny_purge": True,
            "deny_delete": True,
        }
        subject = f"$JS.API.STREAM.CREATE.{self._stream}"
        try:
            await self._ask(client, subject, json.dumps(config).encode())
        except Forbidden as error:
            raise not_ours_to_make(f"the stream {self._stream}", self._server.url) from error

    async def _ask(
        self,
        client: Client,
        subject: str,
        content: bytes,
        headers: dict[str, str] | None = None,
    ) -> None:
        """Raises:
        Unavailable: no answer, or an error.
        """
        answer = await self._server.request(client, subject, content, headers, _ANSWER_S)
        try:
            error = json.loads(answer).get("error")
        except (ValueError, AttributeError) as broken:
            raise Unavailable("the NATS server's answer makes no sense") from broken
        if error:
            raise stream_problem(error, f"the stream {self._stream}", self._server.url)


async def _first_of(wait: Callable[[], Awaitable[Any]], scope: anyio.CancelScope) -> None:
    await wait()
    scope.cancel()
