"""Envelopes: sealed, opened, and every way to tamper with one."""

from __future__ import annotations

import math
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orvalho.contexts.identity import Signer
from orvalho.errors import InvalidInput, LimitExceeded, Untrusted
from orvalho.peers.envelope import (
    INLINE_BYTES,
    MAX_BODY_BYTES,
    MAX_LIFETIME_S,
    SKEW_S,
    BlobRef,
    EnvelopeId,
    new_id,
    open_sealed,
    refer,
    seal,
    sender_of,
)

SENDER, ME, OTHER = (Signer(bytes([n]) * 32) for n in (1, 2, 3))
NOW = 1_700_000_000.0
ID = new_id(NOW, bytes(10))


def sealed(body: bytes | BlobRef = b"hello", **changes: object) -> bytes:
    fields: dict[str, object] = {
        "id": ID, "kind": "note", "recipient": ME.key, "sent_at": NOW, "expires_at": NOW + 60,
    }  # fmt: skip
    return seal(SENDER, body=body, **(fields | changes))  # type: ignore[arg-type]


@settings(max_examples=50, deadline=None)
@given(body=st.binary(max_size=300), kind=st.text(min_size=1, max_size=64))
def test_what_is_sealed_is_what_is_opened(body: bytes, kind: str) -> None:
    reply_to = os.urandom(16)
    envelope = open_sealed(sealed(body, kind=kind, reply_to=reply_to), ME.key, NOW)
    assert (envelope.id, envelope.kind, envelope.body) == (ID, kind, body)
    assert (envelope.sender, envelope.recipient) == (SENDER.key, ME.key)
    assert (envelope.reply_to, envelope.sent_at, envelope.expires_at) == (reply_to, NOW, NOW + 60)
    assert envelope.blob is None
    assert sender_of(sealed()) == SENDER.key


def test_a_large_body_stays_out_and_is_pinned() -> None:
    body = os.urandom(INLINE_BYTES + 1)
    message = sealed(body)
    assert len(message) < 1000
    envelope = open_sealed(message, ME.key, NOW)
    assert envelope.blob == refer(body)
    assert envelope.size_bytes == len(body)
    assert open_sealed(sealed(bytes(INLINE_BYTES)), ME.key, NOW).body == bytes(INLINE_BYTES)


def test_an_envelope_changed_or_cut_anywhere_is_refused() -> None:
    message = sealed()
    for at in range(len(message)):
        changed = bytearray(message)
        changed[at] ^= 1 << (at % 8)
        with pytest.raises((Untrusted, LimitExceeded)):
            open_sealed(bytes(changed), ME.key, NOW)
        with pytest.raises((Untrusted, LimitExceeded)):
            open_sealed(message[:at], ME.key, NOW)
    with pytest.raises(Untrusted, match="not the one that was signed"):
        open_sealed(message + b"!", ME.key, NOW)


def test_an_envelope_for_another_node_is_refused() -> None:
    with pytest.raises(Untrusted, match="for another node"):
        open_sealed(sealed(), OTHER.key, NOW)


def test_another_sender_cannot_take_over_a_signature() -> None:
    message = bytearray(sealed())
    message[64:96] = OTHER.key
    with pytest.raises(Untrusted, match="signature"):
        open_sealed(bytes(message), ME.key, NOW)


@pytest.mark.parametrize(
    ("expires_at", "reason"),
    [
        (NOW - SKEW_S - 1, "has expired"),
        (math.nan, "has expired"),
        (-math.inf, "has expired"),
        (NOW + MAX_LIFETIME_S + 2 * SKEW_S, "lives for too long"),
        (math.inf, "lives for too long"),
    ],
)
def test_the_age_is_bounded_on_both_sides(expires_at: float, reason: str) -> None:
    message = sealed(expires_at=expires_at, sent_at=expires_at)
    with pytest.raises(Untrusted, match=reason):
        open_sealed(message, ME.key, NOW)


def test_a_clock_that_differs_a_little_is_forgiven() -> None:
    assert open_sealed(sealed(expires_at=NOW - SKEW_S / 2), ME.key, NOW).kind == "note"


def test_what_would_be_refused_is_not_sealed() -> None:
    with pytest.raises(LimitExceeded, match="body-bytes"):
        sealed(BlobRef(bytes(32), MAX_BODY_BYTES + 1))
    with pytest.raises(InvalidInput, match="35 days"):
        sealed(expires_at=NOW + MAX_LIFETIME_S + 1)
    for kind in ("", "x" * 65):
        with pytest.raises(InvalidInput, match="a kind"):
            sealed(kind=kind)


@pytest.mark.parametrize(
    "changes",
    [
        {"id": EnvelopeId(b"short")},
        {"reply_to": b"odd"},
        {"recipient": b""},
        {"sent_at": float("nan")},
        {"sent_at": float("inf")},
    ],
)
def test_a_signed_but_malformed_envelope_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(Untrusted):
        open_sealed(sealed(**changes), ME.key, NOW)


def test_a_signed_lie_about_a_body_kept_apart_is_refused() -> None:
    for reference in (BlobRef(b"short", INLINE_BYTES + 1), BlobRef(bytes(32), 5)):
        with pytest.raises((Untrusted, LimitExceeded)):
            open_sealed(sealed(reference), ME.key, NOW)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400))
def test_noise_is_no_envelope(noise: bytes) -> None:
    with pytest.raises(Untrusted):
        open_sealed(noise, ME.key, NOW)
