"""Bodies of parcels, over asks: part after part, from where it last stopped."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from anyio import to_thread

from orvalho.errors import Unavailable
from orvalho.peers.blobs import PART_BYTES, Blobs
from orvalho.peers.envelope import BlobRef

# Parts asked for at once: enough to keep a link busy, little enough to let others through.
_PARTS_AT_ONCE: Final = 4


async def fetch_body(
    blobs: Blobs, name: str, blob: BlobRef, part: Callable[[int], Awaitable[bytes]]
) -> None:
    """Bring a body into the file `name`: `part(offset)` answers with at most `PART_BYTES` from
    there on, or nothing when the far side does not have it.

    Raises:
        Unavailable: the far side does not have it, or the disk fails.
        Untrusted: it is not the body that was announced; it must come again from the start.
        OrvalhoError: whatever `part` raises.
    """
    if await to_thread.run_sync(blobs.has, name):
        return
    offset = await to_thread.run_sync(blobs.arrived_bytes, name)
    # Whole, but the check of its hash was interrupted: the last part comes once more.
    offset = min(offset, blob.size_bytes - 1)
    is_whole = False
    while not is_whole:
        end = min(blob.size_bytes, offset + _PARTS_AT_ONCE * PART_BYTES)
        offsets = range(offset, end, PART_BYTES)
        for at, content in zip(
            offsets, await asyncio.gather(*[part(at) for at in offsets]), strict=True
        ):
            if not content:
                raise Unavailable("the far side does not have the rest of a body")
            is_whole = await to_thread.run_sync(blobs.add, name, blob, at, content)
        offset = end
