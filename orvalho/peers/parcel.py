"""Parcels: envelopes as a third node keeps them, readable by their recipient alone. Sans-IO.

The content of a parcel is the sealed envelope in a libsodium sealed box to the recipient's node
key (Ed25519, used as X25519). A body that is kept apart is encrypted as a whole with
XChaCha20-Poly1305. Its key and the id of the parcel are hashes of the sealed envelope and the
keeper: they can be computed again by both ends, but only by who can read the envelope, and two
keepers cannot tell that they hold the same one. The keeper learns who deposited, for whom, how
much, and until when.

The sealed box has no forward secrecy: who comes to hold the recipient's node key can read what
was kept for it before.
"""

from __future__ import annotations

import hashlib
from typing import Final

import msgspec
from nacl import bindings
from nacl.exceptions import CryptoError

from orvalho.contexts.identity import Key, seal_for
from orvalho.errors import Untrusted
from orvalho.peers.envelope import BlobRef, EnvelopeId

# What a sealed box, and the tag of a body, add.
SEAL_BYTES: Final = 48
TAG_BYTES: Final = 16
ID_BYTES: Final = 16
_NONCE: Final = bytes(24)  # each key encrypts one body, once


class Parcel(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """What a keeper is given. `id` is 16 bytes, `recipient` a node key; `body_sha256` and
    `body_bytes` describe an encrypted body that is fetched apart, and are empty and 0 if there is
    none. `expires_at` is in Unix seconds."""

    id: bytes
    recipient: bytes
    content: bytes
    expires_at: float
    body_sha256: bytes = b""
    body_bytes: int = 0

    @property
    def size_bytes(self) -> int:
        return len(self.content) + self.body_bytes

    @property
    def body(self) -> BlobRef | None:
        return BlobRef(self.body_sha256, self.body_bytes) if self.body_bytes else None


def parcel_id(sealed: bytes, keeper: Key) -> bytes:
    """What the keeper calls it: 16 bytes that say nothing about the envelope."""
    return hashlib.sha256(b"orvalho/parcel/1\0" + keeper + sealed).digest()[:ID_BYTES]


def wrap(
    sealed: bytes, *, recipient: Key, keeper: Key, expires_at: float, body: BlobRef | None = None
) -> Parcel:
    """`body` describes the body as `encrypt_body` made it."""
    return Parcel(
        id=parcel_id(sealed, keeper),
        recipient=recipient,
        content=seal_for(recipient, sealed),
        expires_at=expires_at,
        body_sha256=body.sha256 if body else b"",
        body_bytes=body.size_bytes if body else 0,
    )


def encrypt_body(sealed: bytes, keeper: Key, body: bytes) -> bytes:
    """The body that belongs to the envelope `sealed`, for this keeper."""
    encrypted: bytes = bindings.crypto_aead_xchacha20poly1305_ietf_encrypt(
        body, None, _NONCE, _body_key(sealed, keeper)
    )
    return encrypted


def decrypt_body(sealed: bytes, keeper: Key, encrypted: bytes) -> bytes:
    """Raises:
    Untrusted: it is another body, or has been changed.
    """
    try:
        body: bytes = bindings.crypto_aead_xchacha20poly1305_ietf_decrypt(
            encrypted, None, _NONCE, _body_key(sealed, keeper)
        )
    except (CryptoError, ValueError) as error:
        raise Untrusted("the body of a kept envelope does not open") from error
    return body


def offered_name(id_: EnvelopeId, keeper: Key) -> str:
    """The file of an encrypted body, while a keeper fetches it from us."""
    return f"offered-{keeper.hex()}-{id_.hex()}"


def kept_name(depositor: Key, id_: bytes) -> str:
    """The file of an encrypted body that we keep for somebody."""
    return f"kept-{depositor.hex()}-{id_.hex()}"


def carried_name(keeper: Key, place: int) -> str:
    """The file of an encrypted body for us, while we fetch it from a keeper."""
    return f"carried-{keeper.hex()}-{place}"


def _body_key(sealed: bytes, keeper: Key) -> bytes:
    return hashlib.sha256(b"orvalho/parcel-body/1\0" + keeper + sealed).digest()
