"""Envelopes: what one node sends another, signed, with an end. Sans-IO.

A sealed envelope is `signature (64) | sender (32) | length (2) | header | body`. The signature
covers all between itself and the body; the header, in msgpack, pins the body by its SHA-256 and
size. A body larger than `INLINE_BYTES` stays out: it is kept and travels apart, as a blob.

This gives integrity and origin, also to whom it reaches by way of others. That nobody reads it on
the way is the session's doing.
"""

from __future__ import annotations

import hashlib
import math
import struct
from dataclasses import dataclass, replace
from typing import Final, NewType, Protocol

import msgspec

from orvalho.contexts.identity import Key, verify
from orvalho.errors import InvalidInput, LimitExceeded, Untrusted
from orvalho.peers.wire import UNREADABLE

EnvelopeId = NewType("EnvelopeId", bytes)

ID_BYTES: Final = 16
INLINE_BYTES: Final = 1 << 16
MAX_BODY_BYTES: Final = 64 << 20
# How far two nodes' clocks may differ.
SKEW_S: Final = 300.0
# The ids of what has arrived are kept until it expires, so nothing may live for ever.
MAX_LIFETIME_S: Final = 35 * 86400.0
_MAX_KIND_CHARACTERS: Final = 64
_MAX_HEADER_BYTES: Final = 1024
_PREFIX: Final = struct.Struct(">64s32sH")
_SIGNATURE_BYTES: Final = 64
_PURPOSE: Final = b"orvalho/envelope/1"


class SignsEnvelopes(Protocol):
    """The part of a node's Signer that sealing needs."""

    @property
    def key(self) -> Key: ...
    def sign(self, purpose: bytes, message: bytes) -> bytes: ...


@dataclass(frozen=True, slots=True)
class BlobRef:
    """A body by its SHA-256 (32 bytes) and size."""

    sha256: bytes
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Envelope:
    """`id` and `reply_to` are 16 bytes (`reply_to` may be empty); `sender` and `recipient` are
    node keys; moments are Unix seconds by the sender's clock. `blob` is set for a body that is
    kept apart, and may not be here yet."""

    id: EnvelopeId
    kind: str
    sender: Key
    recipient: Key
    reply_to: bytes
    sent_at: float
    expires_at: float
    body: bytes
    blob: BlobRef | None = None

    @property
    def size_bytes(self) -> int:
        return self.blob.size_bytes if self.blob else len(self.body)

    def with_body(self, body: bytes) -> Envelope:
        """The same, its body having arrived."""
        return replace(self, body=body)


class _Header(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    id: bytes
    kind: str
    recipient: bytes
    reply_to: bytes
    sent_at: float
    expires_at: float
    sha256: bytes
    size_bytes: int


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Header).decode


def new_id(now: float, randomness: bytes) -> EnvelopeId:
    """48 bits of milliseconds, then 10 random bytes (the ULID layout): ids of one time lie
    together in an index."""
    return EnvelopeId(int(now * 1000).to_bytes(6) + randomness)


def refer(body: bytes) -> BlobRef:
    return BlobRef(hashlib.sha256(body).digest(), len(body))


def seal(
    signer: SignsEnvelopes,
    *,
    id: EnvelopeId,  # noqa: A002 -- it is what the field is called
    kind: str,
    recipient: Key,
    body: bytes | BlobRef,
    sent_at: float,
    expires_at: float,
    reply_to: bytes = b"",
) -> bytes:
    """The envelope as it travels.

    Raises:
        InvalidInput: it would be refused at the far side: the kind is too long, the lifetime is
            over 35 days.
        LimitExceeded: body-bytes.
    """
    if not 0 < len(kind) <= _MAX_KIND_CHARACTERS:
        raise InvalidInput(f"a kind has 1 to {_MAX_KIND_CHARACTERS} characters", where=kind)
    if expires_at - sent_at > MAX_LIFETIME_S:
        raise InvalidInput("an envelope lives for 35 days at most", where=kind)
    reference = refer(body) if isinstance(body, bytes) else body
    if reference.size_bytes > MAX_BODY_BYTES:
        raise LimitExceeded(
            f"body-bytes: a body has at most {MAX_BODY_BYTES} bytes, not {reference.size_bytes}"
        )
    header = _encode(
        _Header(
            id=id,
            kind=kind,
            recipient=recipient,
            reply_to=reply_to,
            sent_at=sent_at,
            expires_at=expires_at,
            sha256=reference.sha256,
            size_bytes=reference.size_bytes,
        )
    )
    signed = signer.key + len(header).to_bytes(2) + header
    inline = body if isinstance(body, bytes) and len(body) <= INLINE_BYTES else b""
    return signer.sign(_PURPOSE, signed) + signed + inline


def sender_of(sealed: bytes) -> Key:
    """Who claims to have sent it; nothing has been checked."""
    return Key(sealed[_SIGNATURE_BYTES : _SIGNATURE_BYTES + 32])


def open_sealed(
    sealed: bytes,
    me: Key,
    now: float,
    *,
    formerly: frozenset[Key] = frozenset(),
    proven: Key | None = None,
) -> Envelope:
    """The envelope, which may be for one of our former keys, checked in this order: its size, its
    signature over the bytes that arrived, its recipient, its age, its body. `proven` is whom a
    session has shown to be at the other end: what comes from there needs no second proof to be
    that node's.

    Raises:
        LimitExceeded: body-bytes.
        Untrusted: forged, changed, not for `me`, expired, or living for too long.
    """
    if len(sealed) > _PREFIX.size + _MAX_HEADER_BYTES + INLINE_BYTES:
        raise LimitExceeded(f"body-bytes: at most {INLINE_BYTES} bytes travel in an envelope")
    if len(sealed) < _PREFIX.size:
        raise Untrusted("an envelope is cut short")
    signature, sender, header_bytes = _PREFIX.unpack_from(sealed)
    end = _PREFIX.size + header_bytes
    # Before decoding: bytes from a stranger must not reach the decoder.
    if sender != proven:
        verify(Key(sender), _PURPOSE, sealed[_SIGNATURE_BYTES:end], signature)
    header = _read_header(sealed[_PREFIX.size : end])
    if header.recipient != me and header.recipient not in formerly:
        raise Untrusted("the envelope is for another node")
    _check_age(header, now)
    body = sealed[end:]
    envelope = Envelope(
        id=EnvelopeId(header.id),
        kind=header.kind,
        sender=Key(sender),
        recipient=me,
        reply_to=header.reply_to,
        sent_at=header.sent_at,
        expires_at=header.expires_at,
        body=body,
    )
    return _with_body(envelope, BlobRef(header.sha256, header.size_bytes), body)


def _read_header(content: bytes) -> _Header:
    try:
        header = _decode(content)
    except UNREADABLE as error:
        raise Untrusted("the envelope is malformed") from error
    if (
        len(header.id) != ID_BYTES
        or len(header.reply_to) not in (0, ID_BYTES)
        or not 0 < len(header.kind) <= _MAX_KIND_CHARACTERS
    ):
        raise Untrusted("the envelope is malformed")
    return header


def _check_age(header: _Header, now: float) -> None:
    # Written so that a moment that is no number fails.
    if not now < header.expires_at + SKEW_S:
        raise Untrusted("the envelope has expired")
    if not header.expires_at < now + MAX_LIFETIME_S + SKEW_S:
        raise Untrusted("the envelope lives for too long")
    if not math.isfinite(header.sent_at):
        raise Untrusted("the envelope is malformed")


def _with_body(envelope: Envelope, expected: BlobRef, body: bytes) -> Envelope:
    if not body and expected.size_bytes > 0:
        if not INLINE_BYTES < expected.size_bytes <= MAX_BODY_BYTES:
            raise LimitExceeded(f"body-bytes: a body has at most {MAX_BODY_BYTES} bytes")
        if len(expected.sha256) != hashlib.sha256().digest_size:
            raise Untrusted("the envelope is malformed")
        return replace(envelope, blob=expected)
    if refer(body) != expected:
        raise Untrusted("the body is not the one that was signed")
    return envelope
