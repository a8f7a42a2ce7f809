"""What two nodes say to each other about a file on its way: an offer, its parts, its end.

The sender offers; the receiver decides and answers from which byte on it wants the file. Parts
follow, several asks in flight, then the hash of the whole. An offer made again, after a cut link
or a crash of either side, has the same `id` and goes on where the receiver's draft ends.
"""

from __future__ import annotations

from typing import Final

import msgspec

OFFER: Final = "file.offer"
PART: Final = "file.part"
FINISH: Final = "file.finish"

# With what stands around it, a part just fits four Noise messages, which most links carry as one:
# a few bytes more and it takes two (measured: 110 MB/s in place of 150).
PART_BYTES: Final = (1 << 18) - 512
# Parts that are asked about at once; the receiver holds twice as many that came out of order.
WINDOW: Final = 12
ID_BYTES: Final = 16


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """`caller`: which of the sender's contexts; `context`: which of the receiver's, empty for
    its usual one. `size_bytes` is that of the whole file."""

    id: bytes
    caller: str
    context: str
    directory: str
    name: str
    size_bytes: int


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to an offer: the draft here ends at byte `at`; `context` is the one it is for."""

    at: int
    context: str


class Part(msgspec.Struct, frozen=True, kw_only=True):
    id: bytes
    offset: int
    content: bytes


class Taken(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a part: every byte before `at` is written."""

    at: int


class Finish(msgspec.Struct, frozen=True, kw_only=True):
    id: bytes
    sha256: bytes


class Placed(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a finish: the file lies at `path`; `is_new` is false when it lay there."""

    path: str
    is_new: bool
