"""Bodies kept apart, over links: the receiver asks for part after part, from where it last
stopped."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Final

from anyio import to_thread
from anyio.abc import TaskGroup

from orvalho.contexts.identity import Key
from orvalho.errors import OrvalhoError, Unavailable
from orvalho.peers import mailbox, outbox
from orvalho.peers.blobs import PART_BYTES, Blobs, incoming_name, outgoing_name
from orvalho.peers.channel import Bearer, Channel
from orvalho.peers.envelope import BlobRef, Envelope, EnvelopeId
from orvalho.peers.frames import BlobPart, GetBlob
from orvalho.store import Store

_log = logging.getLogger(__name__)

# Parts asked for at once: enough to keep a link busy, little enough to let others through.
_PARTS_AT_ONCE: Final = 4
_TAKEN_PER_PEER: Final = 8
_SERVED_PER_PEER: Final = 32
_PART_TIMEOUT_S: Final = 30.0

_PartName = tuple[Key, bytes, int]


class Transfers:
    """Takes the bodies of envelopes that arrive, and serves those of envelopes that we owe."""

    def __init__(
        self, *, store: Store, blobs: Blobs, tasks: TaskGroup, counters: Counter[str]
    ) -> None:
        self._store = store
        self._blobs = blobs
        self._tasks = tasks
        self._counters = counters
        self._taking: dict[EnvelopeId, Key] = {}
        self._parts: dict[_PartName, asyncio.Future[bytes | None]] = {}
        # On which channel each of these was asked for.
        self._asked_on: dict[_PartName, Bearer] = {}
        self._serving: Counter[Key] = Counter()

    def take(
        self,
        channel: Bearer,
        envelope: Envelope,
        body: bytes,
        on_here: Callable[[Envelope], None],
    ) -> None:
        """Keep the body of an envelope, which came along or is fetched; then call `on_here`.
        Given up when the channel ends or too many are under way: then the envelope comes again,
        and the rest of its body with it."""
        busy = sum(each == channel.peer for each in self._taking.values())
        if envelope.id in self._taking or busy >= _TAKEN_PER_PEER:
            self._counters["bodies.postponed"] += 1
            return
        self._taking[envelope.id] = channel.peer
        self._tasks.start_soon(self._take, channel, envelope, body, on_here)

    def serve(self, channel: Channel, asked: GetBlob) -> None:
        """The peer wants a part of a body."""
        if self._serving[channel.peer] >= _SERVED_PER_PEER:
            self._counters["bodies.refused"] += 1
            return
        self._serving[channel.peer] += 1
        self._tasks.start_soon(self._serve, channel, asked)

    def arrived(self, channel: Channel, part: BlobPart) -> None:
        """A part has come."""
        waiter = self._parts.get((channel.peer, part.id, part.offset))
        if waiter is None:
            self._counters["bodies.unasked"] += 1
        elif not waiter.done():
            waiter.set_result(part.content)

    def lost(self, channel: Channel) -> None:
        """A channel has ended: what was asked for on it will not come."""
        for name, waiter in self._parts.items():
            if self._asked_on[name] is channel and not waiter.done():
                waiter.set_result(None)

    async def _take(
        self,
        channel: Bearer,
        envelope: Envelope,
        body: bytes,
        on_here: Callable[[Envelope], None],
    ) -> None:
        blob = envelope.blob
        assert blob is not None
        name = incoming_name(envelope.sender, envelope.id)
        try:
            if body:
                await to_thread.run_sync(self._blobs.write_checked, name, body, blob)
            # One that came before is only waiting for its acknowledgement.
            elif not await self._store.read(lambda c: mailbox.has_seen(c, envelope.id)):
                await self._fetch(channel, envelope.id, name, blob)
            on_here(envelope.with_body(body))
        except (OrvalhoError, TimeoutError) as error:
            self._counters["bodies.broken-off"] += 1
            _log.info("body.broken-off", extra={"reason": str(error)})
        finally:
            del self._taking[envelope.id]

    async def _fetch(self, channel: Bearer, id_: EnvelopeId, name: str, blob: BlobRef) -> None:
        if await to_thread.run_sync(self._blobs.has, name):
            return
        offset = await to_thread.run_sync(self._blobs.arrived_bytes, name)
        # Whole, but the check of its hash was interrupted: the last part comes once more.
        offset = min(offset, blob.size_bytes - 1)
        add = partial(self._blobs.add, name, blob)
        is_whole = False
        while not is_whole:
            end = min(blob.size_bytes, offset + _PARTS_AT_ONCE * PART_BYTES)
            offsets = range(offset, end, PART_BYTES)
            is_whole = await self._fetch_parts(channel, id_, offsets, add)
            offset = end

    async def _fetch_parts(
        self,
        channel: Bearer,
        id_: EnvelopeId,
        offsets: range,
        add: Callable[[int, bytes], bool],
    ) -> bool:
        """Ask for these parts, and write them as they come; True when that was the last."""
        if not channel.is_open:
            raise Unavailable("the link is lost")
        loop = asyncio.get_running_loop()
        waiters = {offset: loop.create_future() for offset in offsets}
        names: dict[int, _PartName] = {offset: (channel.peer, id_, offset) for offset in offsets}
        self._parts |= {names[offset]: waiter for offset, waiter in waiters.items()}
        self._asked_on |= dict.fromkeys(names.values(), channel)
        is_whole = False
        try:
            for offset in offsets:
                channel.send(GetBlob(id=id_, offset=offset))
            for offset, waiter in waiters.items():
                async with asyncio.timeout(_PART_TIMEOUT_S):
                    content = await waiter
                if content is None:
                    raise Unavailable("the link is lost")
                is_whole = await to_thread.run_sync(add, offset, content)
        finally:
            for name in names.values():
                self._parts.pop(name).cancel()
                self._asked_on.pop(name)
        return is_whole

    async def _serve(self, channel: Channel, asked: GetBlob) -> None:
        try:
            id_ = EnvelopeId(asked.id)
            content = b""
            if await self._store.read(lambda c: outbox.owes_body(c, channel.peer, id_)):
                content = await to_thread.run_sync(
                    self._blobs.part, outgoing_name(id_), asked.offset
                )
            await channel.room()
            channel.send(BlobPart(id=id_, offset=asked.offset, content=content))
        except Unavailable:
            return
        finally:
            self._serving[channel.peer] -= 1
