"""SPAKE2 (RFC 9382, over Ed25519) with key confirmation: two who hold the same short code get the
same keys, and whoever holds another one learns nothing but that. Sans-IO (the only import of
spake2).

The identities that go into the key are the two node keys and the hash of the Noise handshake they
were proven in. So somebody in the middle, who has a session of his own with each side, cannot
pass the one side's messages on to the other: he must know the code, and has one guess a try.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from enum import Enum
from typing import Final

from spake2 import SPAKE2_A, SPAKE2_B
from spake2.ed25519_basic import NotOnCurve
from spake2.spake2 import SPAKEError

from orvalho.contexts.identity import Key, hkdf_sha256
from orvalho.errors import Untrusted
from orvalho.peers.noise import CipherState

# One byte that names the side, and a point of the curve.
MESSAGE_BYTES: Final = 33
_PURPOSE: Final = b"orvalho/pake/1/"


class Side(Enum):
    """JOINER types the code (SPAKE2's A), INVITER shows it (B)."""

    JOINER = b"joiner"
    INVITER = b"inviter"

    @property
    def other(self) -> Side:
        return Side.INVITER if self is Side.JOINER else Side.JOINER


class PakeKeys:
    """What one side has when both messages are exchanged. The keys agree only if the codes do.

    A sealed text is always confirmed by `confirm` too: the seal alone (ChaCha20-Poly1305) does
    not commit to a key, and could be made to open under several guesses at once.
    """

    def __init__(self, shared: bytes, side: Side) -> None:
        self._shared = shared
        self._side = side

    def seal(self, plaintext: bytes) -> bytes:
        """For the other side alone. Once: the key is used with one nonce only."""
        return CipherState(self._key(b"seal", self._side)).encrypt_with_ad(b"", plaintext)

    def open(self, sealed: bytes) -> bytes:
        """Raises:
        Untrusted: the other side did not seal this.
        """
        return CipherState(self._key(b"seal", self._side.other)).decrypt_with_ad(b"", sealed)

    def confirm(self, sealed: bytes) -> bytes:
        """32 bytes: proof that this side knows the code, and sealed just this."""
        return hmac.digest(self._key(b"confirm", self._side), sealed, hashlib.sha256)

    def is_confirmed(self, confirmation: bytes, sealed: bytes) -> bool:
        """Whether the other side knows the code, and sealed just this."""
        expected = hmac.digest(self._key(b"confirm", self._side.other), sealed, hashlib.sha256)
        return hmac.compare_digest(confirmation, expected)

    def _key(self, use: bytes, by: Side) -> bytes:
        return hkdf_sha256(self._shared, info=_PURPOSE + use + b"/" + by.value)


class Pake:
    """One side of one exchange: send `message`, then `finish` with the other side's.

    `binding` is the hash of the finished Noise handshake; `entropy(n)` gives n random bytes.
    Both steps take about 4 ms of pure Python each: call them in a thread.
    """

    def __init__(
        self,
        side: Side,
        secret: bytes,
        *,
        joiner: Key,
        inviter: Key,
        binding: bytes,
        entropy: Callable[[int], bytes],
    ) -> None:
        kind = SPAKE2_A if side is Side.JOINER else SPAKE2_B
        self._side = side
        self._exchange = kind(
            secret,
            idA=_PURPOSE + Side.JOINER.value + b"/" + joiner + binding,
            idB=_PURPOSE + Side.INVITER.value + b"/" + inviter + binding,
            entropy_f=entropy,
        )
        self.message: Final[bytes] = self._exchange.start()

    def finish(self, message: bytes) -> PakeKeys:
        """The keys; whether the other side has the same ones is not known yet. Once.

        Raises:
            Untrusted: the message is of another length or side, our own, or no point of the
                curve's prime-order group.
        """
        try:
            if len(message) != MESSAGE_BYTES:
                raise ValueError("another length")
            return PakeKeys(self._exchange.finish(message), self._side)
        except (SPAKEError, NotOnCurve, ValueError) as error:
            raise Untrusted("the message of the code exchange is malformed") from error
