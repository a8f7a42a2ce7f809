"""A node key that changes: what we tell of ours, and how we follow a peer's."""

from __future__ import annotations

import logging
import sqlite3
import time

from anyio import to_thread

from orvalho.contexts.identity import Identity, Key, check_certificate, key_text
from orvalho.contexts.refused import Refusal, RefusedKeys
from orvalho.contexts.trust import TrustBook
from orvalho.daemon.house import House
from orvalho.errors import Unavailable
from orvalho.peers import deposits, outbox, succession
from orvalho.peers.succession import Heir
from orvalho.scripts import runs

_log = logging.getLogger(__name__)


def node_certificate(blob: bytes, owner: Key) -> tuple[str, Key]:
    """The node's name and key that an owner vouches for.

    Raises:
        Untrusted: the certificate does not hold.
    """
    certificate = check_certificate(blob, owner, "node")
    return certificate.name, Key(certificate.key)


def write_succession(identity: Identity, certificate: bytes, now: float) -> bytes:
    """What we say of our earlier keys; `certificate` is our owner's for the present one."""
    changes = [(identity.node_of(n), at) for n, at in enumerate(identity.rotations)]
    return succession.write(certificate, changes, identity.node.key, now)


def heir_by(book: TrustBook, refused: RefusedKeys) -> Heir:
    """Checks what a node says of its earlier keys against the book, and that it is not refused."""

    def owner_of(key: Key) -> Key | None:
        peer = book.by_key(key)
        return peer.owner_key if peer else None

    def heir(new_key: Key, said: bytes) -> Key | None:
        old = succession.forerunner(
            said, new_key, now=time.time(), owner_of=owner_of, check=node_certificate
        )
        owner = owner_of(old) if old else None
        return None if owner is None or refused.refuses(new_key, owner) else old

    return heir


async def succeed(house: House, old: Key, new: Key) -> None:
    """A peer has proven its new key: it is the same peer from now on, and what waits for it goes
    there. The old key is a stranger's.

    Raises:
        Unavailable: the new key cannot be written down here; the old one stays the peer's.
    """

    def move(connection: sqlite3.Connection) -> None:
        outbox.move(connection, old, new)
        deposits.drop_recipient(connection, old)
        runs.stage_moved(connection, key_text(old), key_text(new))

    known = house.trust.by_key(old)
    if known is None or house.trust.by_key(new) is not None:
        return
    # Before it counts: a new key that counts must not be out of its groups for a moment, nor for
    # good when we are stopped between the two.
    await _keep_groups(house, old, new, known.name)
    peer = await house.trust.succeed(old, new, move)
    if peer is None:
        return
    # Or an introducer that has not heard of the change would bring the old key back.
    me = house.identity.node.key
    await house.refused.add(
        Refusal(old, me, "removed", peer.name, "its change of key", time.time())
    )
    house.runs.moved(key_text(old), key_text(new))
    house.node.move(old, new)
    house.mesh.stir()
    _log.warning("peer.rotated", extra={"peer": peer.name, "key": key_text(new)})


async def _keep_groups(house: House, old: Key, new: Key, name: str) -> None:
    """A new key does not lead out of a group, nor out of its rules and quotas.

    Raises:
        Unavailable: a group cannot be written.
    """
    groups = house.groups.groups_of(old)
    if not groups:
        return
    for group in sorted(groups):
        await to_thread.run_sync(house.groups.add, group, new, name)
    read = await to_thread.run_sync(house.groups.reload)
    house.problems["groups"] = read.problems
    if left := sorted(groups - house.groups.groups_of(new)):
        raise Unavailable(
            f"the new key of {name} is not in {', '.join(f'@{each}' for each in left)}",
            hint=f"orvalho group show {left[0]}",
        )
