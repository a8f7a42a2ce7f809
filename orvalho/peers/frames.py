"""What two nodes say to each other inside a session: one Struct a kind of frame.

A frame is one msgpack array whose first element is the kind's number. Unknown kinds are ignored
and further fields allowed, so that a newer node may say more.
"""

from __future__ import annotations

from typing import Final

import msgspec

from orvalho.errors import OrvalhoError
from orvalho.peers.wire import UNREADABLE


class Frame(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """Keys, hashes and ids are bytes."""


class Hello(Frame, frozen=True, tag=0):
    """The first frame each way, and again when it changes: `addresses` are where the node
    listens, `greeting` what those above want each other to know, `boot` names the process: what
    one process was asked, another knows nothing of."""

    name: str
    addresses: tuple[str, ...]
    greeting: bytes
    boot: bytes = b""


class Mail(Frame, frozen=True, tag=1):
    """An envelope, sealed. `body` brings one along that is kept apart; without it the receiver
    fetches it by GetBlob."""

    sealed: bytes
    body: bytes = b""


class Ack(Frame, frozen=True, tag=2):
    """These envelopes are kept here now, durably."""

    ids: tuple[bytes, ...]


class Reject(Frame, frozen=True, tag=3):
    """This envelope will never be taken."""

    id: bytes
    reason: str


class Ping(Frame, frozen=True, tag=4):
    """`sent_at` is on the sender's own clock, and comes back in the Pong."""

    sent_at: float


class Pong(Frame, frozen=True, tag=5):
    sent_at: float


class Tell(Frame, frozen=True, tag=6):
    """Live, without an answer. `seq` numbers what one process tells another, from 1; those below
    `settled` are heard or given up. 0: it is not numbered, and may be lost."""

    kind: str
    body: bytes
    seq: int = 0
    settled: int = 0


class Ask(Frame, frozen=True, tag=7):
    """Live; answered by a Reply or a Fail with the same `call`. It may come again over another
    link; nobody waits for the calls below `settled` any more."""

    call: int
    kind: str
    body: bytes
    settled: int = 0


class Reply(Frame, frozen=True, tag=8):
    call: int
    body: bytes


class Fail(Frame, frozen=True, tag=9):
    """An error of `orvalho.errors`, part by part."""

    call: int
    code: str
    message: str
    where: str | None = None
    rule: str | None = None
    hint: str | None = None
    detail: str | None = None


class Cancel(Frame, frozen=True, tag=10):
    """Nobody waits for the answer to `call` any more."""

    call: int


class GetBlob(Frame, frozen=True, tag=11):
    """Send the part that starts at `offset` of the body of an envelope of yours."""

    id: bytes
    offset: int


class BlobPart(Frame, frozen=True, tag=12):
    """`content` is empty when the body is not here."""

    id: bytes
    offset: int
    content: bytes


class Pair(Frame, frozen=True, tag=13):
    """The only frame of a pairing session besides Ping and Pong: one request, one answer."""

    body: bytes


class Heard(Frame, frozen=True, tag=20):
    """Every Tell up to `seq` has been heard; no call below `settled` is waited for."""

    seq: int
    settled: int


AnyFrame = (
    Hello
    | Mail
    | Ack
    | Reject
    | Ping
    | Pong
    | Tell
    | Ask
    | Reply
    | Fail
    | Cancel
    | GetBlob
    | BlobPart
    | Pair
    | Heard
)

_encode = msgspec.msgpack.Encoder().encode
_decoder: Final = msgspec.msgpack.Decoder(AnyFrame)


def encode(frame: Frame) -> bytes:
    return _encode(frame)


def decode(content: bytes) -> AnyFrame | None:
    """The frame, or None when it is none that this version knows."""
    try:
        frame: AnyFrame = _decoder.decode(content)
    except UNREADABLE:
        return None
    return frame


def fail(call: int, error: OrvalhoError) -> Fail:
    """The frame that carries an error back to the asker."""
    return Fail(
        call=call,
        code=error.code,
        message=error.message,
        where=error.where,
        rule=error.rule,
        hint=error.hint,
        detail=error.detail,
    )
