"""The Noise Protocol Framework, revision 34: pattern XX with 25519, ChaChaPoly and SHA256.

Sans-IO. The names of objects and methods are those of the specification's section 5. Of its
options only what a session uses is here: one pattern, one cipher suite, no pre-shared keys.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from nacl.bindings import crypto_scalarmult, crypto_scalarmult_base
from nacl.exceptions import CryptoError

from orvalho.errors import Untrusted

PROTOCOL_NAME: Final = b"Noise_XX_25519_ChaChaPoly_SHA256"
KEY_BYTES: Final = 32
TAG_BYTES: Final = 16
MAX_MESSAGE_BYTES: Final = 65535
_MAX_NONCE: Final = 2**64 - 1

# Section 7.5, the pattern XX: initiator and responder write in turn.
_XX: Final = (("e",), ("e", "ee", "s", "es"), ("s", "se"))


class CipherState:
    """A key and a counter (section 5.1). Once `decrypt_with_ad` has raised, the counter stands:
    nothing later can be read."""

    __slots__ = ("_aead", "nonce")

    def __init__(self, key: bytes | None = None) -> None:
        self._aead = None if key is None else ChaCha20Poly1305(key)
        self.nonce = 0

    @property
    def has_key(self) -> bool:
        return self._aead is not None

    def encrypt_with_ad(self, ad: bytes, plaintext: bytes) -> bytes:
        if self._aead is None:
            return plaintext
        sealed = self._aead.encrypt(_nonce(self.nonce), plaintext, ad)
        self.nonce += 1
        return sealed

    def decrypt_with_ad(self, ad: bytes, ciphertext: bytes | memoryview) -> bytes:
        """Raises Untrusted when the ciphertext is not what the other side sealed next."""
        if self._aead is None:
            return bytes(ciphertext)
        if len(ciphertext) < TAG_BYTES:
            raise Untrusted("a message is too short to carry its seal")
        try:
            opened = self._aead.decrypt(_nonce(self.nonce), ciphertext, ad)
        except InvalidTag as error:
            raise Untrusted("a message was changed, repeated or lost on the way") from error
        self.nonce += 1
        return opened

    def rekey(self) -> None:
        """REKEY(k) of section 4.2: the old key cannot be computed from the new one."""
        assert self._aead is not None
        sealed = self._aead.encrypt(_nonce(_MAX_NONCE), bytes(KEY_BYTES), b"")
        self._aead = ChaCha20Poly1305(sealed[:KEY_BYTES])


class SymmetricState:
    """The chaining key and the hash of all that was said (section 5.2)."""

    def __init__(self) -> None:
        # The protocol's name has exactly HASHLEN bytes, so it is the first hash itself.
        self.hash = PROTOCOL_NAME
        self.cipher = CipherState()
        self._chaining_key = PROTOCOL_NAME

    def mix_key(self, key_material: bytes) -> None:
        self._chaining_key, key = _hkdf(self._chaining_key, key_material)
        self.cipher = CipherState(key)

    def mix_hash(self, content: bytes) -> None:
        self.hash = hashlib.sha256(self.hash + content).digest()

    def encrypt_and_hash(self, plaintext: bytes) -> bytes:
        ciphertext = self.cipher.encrypt_with_ad(self.hash, plaintext)
        self.mix_hash(ciphertext)
        return ciphertext

    def decrypt_and_hash(self, ciphertext: bytes) -> bytes:
        plaintext = self.cipher.decrypt_with_ad(self.hash, ciphertext)
        self.mix_hash(ciphertext)
        return plaintext

    def split(self) -> tuple[CipherState, CipherState]:
        first, second = _hkdf(self._chaining_key, b"")
        return CipherState(first), CipherState(second)


class HandshakeState:
    """One side of the handshake (section 5.3), for three messages: the initiator writes the
    first and the last.

    Private keys are 32 bytes of X25519 (RFC 7748); `ephemeral` must be fresh randomness.
    """

    def __init__(
        self, *, prologue: bytes, static: bytes, ephemeral: bytes, initiator: bool
    ) -> None:
        self._symmetric = SymmetricState()
        self._symmetric.mix_hash(prologue)
        self._is_initiator = initiator
        self._private = {"s": static, "e": ephemeral}
        self._public = {name: crypto_scalarmult_base(key) for name, key in self._private.items()}
        self._remote: dict[str, bytes] = {}
        self._messages = list(_XX)

    @property
    def is_complete(self) -> bool:
        return not self._messages

    @property
    def hash(self) -> bytes:
        """All that was said so far; after the last message the channel binding (section 11.2)."""
        return self._symmetric.hash

    def write_message(self, payload: Callable[[bytes], bytes]) -> bytes:
        """The next message. `payload` is given the hash as it stands before the payload, for
        a signature that holds in this handshake only."""
        symmetric = self._symmetric
        parts = []
        for word in self._messages.pop(0):
            if word == "e":
                parts.append(self._public["e"])
                symmetric.mix_hash(self._public["e"])
            elif word == "s":
                parts.append(symmetric.encrypt_and_hash(self._public["s"]))
            else:
                self._mix_agreement(word)
        parts.append(symmetric.encrypt_and_hash(payload(symmetric.hash)))
        return b"".join(parts)

    def read_message(self, message: bytes) -> tuple[bytes, bytes]:
        """The other side's payload, and the hash as it stood before it.

        Raises:
            Untrusted: the message is cut short, changed, or holds a key that is none.
        """
        symmetric = self._symmetric
        rest = message
        for word in self._messages.pop(0):
            if word in ("e", "s"):
                size = KEY_BYTES + TAG_BYTES * (word == "s" and symmetric.cipher.has_key)
                part, rest = rest[:size], rest[size:]
                if len(part) < size:
                    raise Untrusted("a handshake message is cut short")
                if word == "s":
                    part = symmetric.decrypt_and_hash(part)
                else:
                    symmetric.mix_hash(part)
                self._remote[word] = part
            else:
                self._mix_agreement(word)
        before = symmetric.hash
        return symmetric.decrypt_and_hash(rest), before

    def split(self) -> tuple[CipherState, CipherState]:
        """The ciphers to send and to receive with, once the handshake is complete."""
        first, second = self._symmetric.split()
        return (first, second) if self._is_initiator else (second, first)

    def _mix_agreement(self, word: str) -> None:
        # "es" is the initiator's ephemeral key with the responder's static one.
        mine, theirs = word[:1], word[1:]
        if not self._is_initiator:
            mine, theirs = theirs, mine
        try:
            shared = crypto_scalarmult(self._private[mine], self._remote[theirs])
        except (CryptoError, RuntimeError) as error:
            # libsodium refuses points of low order, which would agree on zero with everybody.
            raise Untrusted("a handshake message holds an unusable key") from error
        self._symmetric.mix_key(shared)


def _nonce(counter: int) -> bytes:
    """Section 12.3: 32 bits of zeros, then the counter, little-endian."""
    return bytes(4) + counter.to_bytes(8, "little")


def _hkdf(chaining_key: bytes, key_material: bytes) -> tuple[bytes, bytes]:
    """HKDF of section 4.3 with two outputs."""
    secret = hmac.digest(chaining_key, key_material, "sha256")
    first = hmac.digest(secret, b"\1", "sha256")
    return first, hmac.digest(secret, first + b"\2", "sha256")
