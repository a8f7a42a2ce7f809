"""A JetStream KV bucket in which every node of a network has one value, under its nkey.

What lies there is whatever the server, or whoever has rights on it, put there: those who read must
judge it. So no key is read but those that are asked for, and a value too large for one is none.
Reading needs no consumer: what is there is got key by key, and what is put afterwards is heard on
the bucket's own subjects, `$KV.<bucket>.<key>`. (JetStream and KV: ADR-8 and ADR-31 of NATS.)
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from orvalho.contexts.identity import Key
from orvalho.contexts.nkeys import parse_user_nkey, user_nkey
from orvalho.errors import InvalidInput, Unavailable
from orvalho.transports.nats import Server
from orvalho.transports.nats_problems import (
    Forbidden,
    NoJetStream,
    not_ours_to_make,
    stream_problem,
)

if TYPE_CHECKING:
    from orvalho.transports.nats import Client, Msg

BUCKET: Final = "orvalho-nodes"
STREAM: Final = f"KV_{BUCKET}"
SUBJECTS: Final = f"$KV.{BUCKET}"
GET: Final = f"$JS.API.DIRECT.GET.{STREAM}.{SUBJECTS}"
MAX_VALUE_BYTES: Final = 128 << 10

_ANSWER_S: Final = 5.0
_MAX_BYTES: Final = 256 << 20

# Told a node whose value this is said to be, and the value.
Take = Callable[[Key, bytes], None]


class NatsBucket:
    """The bucket on one server. Inside `joined`, on which all else stands."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._own = f"{SUBJECTS}.{server.nkey}"

    @asynccontextmanager
    async def joined(self, take: Take) -> AsyncIterator[None]:
        """Connected, and `take` is told what is put from now on by others; it must not wait.

        Raises:
            Unavailable: the server is away, or has no such bucket, which we may not make.
        """
        async with self._server.used():
            client = await self._server.client()
            await self._make(client)

            async def hear(message: Msg) -> None:
                name = message.subject.rpartition(".")[2]
                if name == self._server.nkey or not 0 < len(message.data) <= MAX_VALUE_BYTES:
                    return
                try:
                    key = parse_user_nkey(name)
                except InvalidInput:
                    return
                take(key, message.data)

            await self._server.subscribe(client, f"{SUBJECTS}.*", hear)
            yield

    async def wait_lost(self) -> None:
        """Wait until the connection has ended."""
        await self._server.wait_lost()

    async def get(self, node: Key) -> bytes | None:
        """What lies there for a node.

        Raises:
            Unavailable: that is not known.
        """
        client = await self._server.client()
        subject = f"{GET}.{user_nkey(node)}"
        value = await self._server.request(client, subject, b"", None, _ANSWER_S)
        return value if 0 < len(value) <= MAX_VALUE_BYTES else None

    async def put(self, value: bytes) -> None:
        """Keep this node's value.

        Raises:
            Unavailable: it is not kept, or that is not known.
        """
        client = await self._server.client()
        answer = await self._server.request(client, self._own, value, None, _ANSWER_S)
        self._check(answer)

    async def _make(self, client: Client) -> None:
        """Unless it is there. Only the node that looks after the server may make it, and who may
        not is not told so, but finds it once it has been made."""
        try:
            await self._server.request(client, f"{GET}.{self._server.nkey}", b"", None, _ANSWER_S)
        except NoJetStream:
            # So it is told whether JetStream is off or the bucket missing.
            await self._create(client)

    async def _create(self, client: Client) -> None:
        config = {
            "name": STREAM,
            "subjects": [f"{SUBJECTS}.>"],
            "storage": "file",
            "max_msgs_per_subject": 1,
            "max_msg_size": MAX_VALUE_BYTES,
            "max_bytes": _MAX_BYTES,
            "discard": "new",
            "deny_delete": True,
            "deny_purge": True,
            "allow_direct": True,
        }
        create = f"$JS.API.STREAM.CREATE.{STREAM}"
        try:
            content = json.dumps(config).encode()
            answer = await self._server.request(client, create, content, None, _ANSWER_S)
        except Forbidden as error:
            raise not_ours_to_make(f"the bucket {BUCKET}", self._server.url) from error
        self._check(answer)

    def _check(self, answer: bytes) -> None:
        """Raises:
        Unavailable: the answer of JetStream is an error, or none.
        """
        try:
            error = json.loads(answer).get("error")
        except (ValueError, AttributeError) as broken:
            raise Unavailable("the NATS server's answer makes no sense") from broken
        if error:
            raise stream_problem(error, f"the bucket {BUCKET}", self._server.url)
