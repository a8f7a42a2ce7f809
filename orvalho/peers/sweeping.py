"""What a node does every now and then: give up what has expired, send again what was not
acknowledged, forget ids, and delete files that no row names."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Final

import anyio
from anyio import to_thread

from orvalho.errors import Unavailable
from orvalho.peers import depots, mailbox, outbox
from orvalho.peers.blobs import Blobs, incoming_name, outgoing_name
from orvalho.peers.keeping import Keeper
from orvalho.peers.sending import Sender
from orvalho.store import Store

_FORGET_EVERY_S: Final = 600.0


async def sweep(
    *,
    store: Store,
    blobs: Blobs,
    sender: Sender,
    keeper: Keeper,
    clock: Callable[[], float],
    pause_s: float,
) -> None:
    """Until it is cancelled, with a pause of `pause_s` each time; a task."""
    forgot_at = 0.0
    while True:
        now = clock()
        with suppress(Unavailable):  # a full disk, for now
            await sender.expire(now)
            await keeper.expire(now)
        sender.resend()
        if now - forgot_at > _FORGET_EVERY_S:
            forgot_at = now
            store.transact_soon("mailbox.forget", partial(mailbox.forget, now=now))
            needed = await store.read(_files)
            await to_thread.run_sync(blobs.sweep, needed, now)
        await anyio.sleep(pause_s)


def _files(connection: sqlite3.Connection) -> set[str]:
    """The files that rows need."""
    ours = {outgoing_name(id_) for id_ in outbox.apart(connection)}
    theirs = {incoming_name(sender, id_) for sender, id_ in mailbox.apart(connection)}
    return ours | theirs | depots.files(connection)
