"""Who is at the other end of a link, and a seal on all that passes over it afterwards. Sans-IO.

The handshake is Noise XX with the prologue `orvalho/1`. The payloads of its second and third
message prove the node keys: 32 bytes of Ed25519 key, one byte of wish, and a signature over the
handshake's hash, so that it holds for these two sides, in these roles, this once; behind it, and
signed with it, what a node that has changed its key says of that (`succession`). The listener
proves itself first: a stranger who dials learns who listens, but the dialer shows itself only
to the node that it expects. The listener's verdict follows as the first sealed message.

Afterwards a link frame is up to four Noise messages in a row. What they carry is a stream of
frames, each behind its length in 4 bytes (big-endian). Noise numbers its messages, so one that
is changed, cut, repeated, lost or late ends the session. Each direction takes a new key (Noise's
REKEY) after 65,536 messages, which is at most 4 GiB.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from typing import Final, NoReturn

from orvalho.contexts.identity import Key, Signer, verify
from orvalho.errors import Untrusted
from orvalho.peers.noise import (
    MAX_MESSAGE_BYTES,
    TAG_BYTES,
    CipherState,
    HandshakeState,
)
from orvalho.peers.succession import Heir

PROLOGUE: Final = b"orvalho/1"
MAX_FRAME_BYTES: Final = 16 * 1024 * 1024 + 65536
_REKEY_MESSAGES: Final = 1 << 16
_PIECE_BYTES: Final = MAX_MESSAGE_BYTES - TAG_BYTES
_LENGTH: Final = struct.Struct(">I")
_PROOF: Final = struct.Struct("32sB64s")
_PURPOSES: Final = {True: b"orvalho/session/dialer/1", False: b"orvalho/session/listener/1"}
# What a node says of its earlier keys, behind its proof.
_MAX_SUCCESSION_BYTES: Final = 768
# No handshake message is longer; a stranger's is not worth more work.
_MAX_HANDSHAKE_BYTES: Final = 256 + _MAX_SUCCESSION_BYTES


class Mode(Enum):
    """What a session is for. The values are bytes on the wire."""

    FULL = 1
    PAIRING = 2


_WISHES: Final = {mode.value: mode for mode in Mode}


class Refusal(Enum):
    """Why a session ended. The values are names of counters."""

    STRANGER = "stranger"
    NOT_INVITING = "not-inviting"
    WRONG_PEER = "wrong-peer"
    REFLECTION = "reflection"
    MALFORMED = "malformed"
    BAD_SEAL = "bad-seal"


_VERDICTS: Final = {0x80: Refusal.STRANGER, 0x81: Refusal.NOT_INVITING}
_VERDICT_BYTES: Final = {refusal: byte for byte, refusal in _VERDICTS.items()}

Allow = Callable[[Key], Mode | None]


class _State(Enum):
    SHAKING = "shaking"
    AWAITING_VERDICT = "awaiting verdict"
    OPEN = "open"
    DEAD = "dead"


class Session:
    """One side of a session. Made by `dial_session` or `listen_session`.

    While `is_shaking`, messages from the link go to `receive`, which answers what to send; then
    `check` says whether it succeeded. Once open: `seal` and `open`. Every Untrusted that this
    raises ends the session, and `refusal` says why.
    """

    def __init__(
        self,
        *,
        signer: Signer,
        noise_static: bytes,
        ephemeral: bytes,
        max_message_bytes: int,
        expected: Key | None,
        wish: Mode,
        allow: Allow | None,
        succession: bytes = b"",
        heir: Heir | None = None,
    ) -> None:
        self.mode = wish
        # The key by which the far side is known, if the one it has proven is its successor.
        self.forerunner: Key | None = None
        self._succession = succession
        self._heir = heir
        self._heard = b""
        self.refusal: Refusal | None = None
        self._signer = signer
        self._expected = expected
        self._allow = allow
        self._is_dialer = allow is None
        self._noise = HandshakeState(
            prologue=PROLOGUE,
            static=noise_static,
            ephemeral=ephemeral,
            initiator=self._is_dialer,
        )
        self._state = _State.SHAKING
        self._peer: Key | None = None
        self._error: Untrusted | None = None
        self._pieces = max(1, max_message_bytes // MAX_MESSAGE_BYTES)
        self._max_message_bytes = self._pieces * MAX_MESSAGE_BYTES
        self._sending = CipherState()
        self._receiving = CipherState()
        self._buffer = bytearray()

    # ---- the handshake ----------------------------------------------------------------------

    @property
    def is_shaking(self) -> bool:
        return self._state in (_State.SHAKING, _State.AWAITING_VERDICT)

    @property
    def peer(self) -> Key:
        """The node key that the far side has proven."""
        assert self._peer is not None
        return self._peer

    @property
    def binding(self) -> bytes:
        """The hash of the finished handshake (Noise, section 11.2): 32 bytes that no other
        session has, the same on both sides."""
        assert not self.is_shaking
        return self._noise.hash

    def start(self) -> bytes | None:
        """The dialer's first message; None for the listener, who waits."""
        return self._noise.write_message(lambda _: b"") if self._is_dialer else None

    def receive(self, message: bytes) -> bytes | None:
        """A handshake message has come; the one to send back, if any.

        Raises:
            Untrusted: the far side is not who it should be, or speaks no Noise.
        """
        assert self.is_shaking
        try:
            return self._advance(message)
        except Untrusted:
            self._state = _State.DEAD
            self.refusal = self.refusal or Refusal.MALFORMED
            raise

    def check(self) -> None:
        """Raises:
        Untrusted: the handshake ended in a refusal.
        """
        if self._error is not None:
            raise self._error

    def _advance(self, message: bytes) -> bytes | None:
        if not 0 < len(message) <= _MAX_HANDSHAKE_BYTES:
            raise Untrusted("a handshake message has an impossible length")
        if self._state is _State.AWAITING_VERDICT:
            self._hear_verdict(self._receiving.decrypt_with_ad(b"", message))
            return None
        payload, transcript = self._noise.read_message(message)
        if self._is_dialer:
            return self._answer_as_dialer(payload, transcript)
        if self._noise.is_complete:
            return self._judge(payload, transcript)
        if payload:
            raise Untrusted("the first handshake message carries a payload")
        return self._noise.write_message(self._prove)

    def _answer_as_dialer(self, payload: bytes, transcript: bytes) -> bytes:
        self._hear_proof(payload, transcript)
        if self._expected is not None and self.peer != self._expected:
            self.forerunner = self._find_forerunner()
        if self._expected not in (None, self.peer, self.forerunner):
            self.refusal = Refusal.WRONG_PEER
            raise Untrusted("another node than the expected one answers there")
        last = self._noise.write_message(self._prove)
        self._sending, self._receiving = self._noise.split()
        self._state = _State.AWAITING_VERDICT
        return last

    def _judge(self, payload: bytes, transcript: bytes) -> bytes:
        wish = self._hear_proof(payload, transcript)
        self._sending, self._receiving = self._noise.split()
        assert self._allow is not None
        allowed = self._allow(self.peer)
        if allowed is not Mode.FULL and wish is Mode.FULL:
            self.forerunner = self._find_forerunner()
            allowed = self._allow(self.forerunner) if self.forerunner else allowed
        if allowed is Mode.FULL or allowed is wish:
            self.mode = wish
            self._state = _State.OPEN
            verdict = wish.value
        else:
            self.refusal = Refusal.STRANGER if wish is Mode.FULL else Refusal.NOT_INVITING
            self._error = Untrusted("a node that is not paired with this one knocked")
            self._state = _State.DEAD
            verdict = _VERDICT_BYTES[self.refusal]
        return self._sending.encrypt_with_ad(b"", bytes([verdict]))

    def _hear_verdict(self, verdict: bytes) -> None:
        if verdict == bytes([self.mode.value]):
            self._state = _State.OPEN
            return
        self.refusal = _VERDICTS.get(verdict[0] if len(verdict) == 1 else 0, Refusal.MALFORMED)
        raise Untrusted(
            "that node expects nobody: the invitation has been used, withdrawn or has expired"
            if self.refusal is Refusal.NOT_INVITING
            else "that node does not know this one",
        )

    def _prove(self, transcript: bytes) -> bytes:
        wish = self.mode.value
        said = transcript + bytes([wish]) + self._succession
        signature = self._signer.sign(_PURPOSES[self._is_dialer], said)
        return _PROOF.pack(self._signer.key, wish, signature) + self._succession

    def _hear_proof(self, payload: bytes, transcript: bytes) -> Mode:
        if not _PROOF.size <= len(payload) <= _PROOF.size + _MAX_SUCCESSION_BYTES:
            raise Untrusted("a handshake message carries no proof")
        key, wish, signature = _PROOF.unpack_from(payload)
        self._heard = payload[_PROOF.size :]
        said = transcript + bytes([wish]) + self._heard
        verify(key, _PURPOSES[not self._is_dialer], said, signature)
        if wish not in _WISHES:
            raise Untrusted("a handshake message wishes for something unknown")
        if key == self._signer.key:
            self.refusal = Refusal.REFLECTION
            raise Untrusted("this node's own key came back")
        self._peer = Key(key)
        return _WISHES[wish]

    def _find_forerunner(self) -> Key | None:
        return self._heir(self.peer, self._heard) if self._heir and self._heard else None

    # ---- the open session -------------------------------------------------------------------

    def seal(self, frames: Sequence[bytes]) -> Iterator[bytes]:
        """The messages for the link that carry these frames, in order, each sealed when it is
        taken. Each frame has at most `MAX_FRAME_BYTES`."""
        assert self._state is _State.OPEN
        stream = b"".join([part for frame in frames for part in (_LENGTH.pack(len(frame)), frame)])
        stride = self._pieces * _PIECE_BYTES
        for start in range(0, len(stream), stride):
            end = min(start + stride, len(stream))
            pieces = [
                self._encrypt(stream[at : min(at + _PIECE_BYTES, end)])
                for at in range(start, end, _PIECE_BYTES)
            ]
            yield pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def open(self, message: bytes) -> list[bytes]:
        """The frames that are whole with this message.

        Raises:
            Untrusted: it is not what the far side sealed next.
        """
        if self._state is not _State.OPEN:
            raise Untrusted("the session has ended")
        if not 0 < len(message) <= self._max_message_bytes:
            self._die(Refusal.BAD_SEAL, Untrusted("a message has an impossible length"))
        try:
            pieces = memoryview(message)
            for start in range(0, len(message), MAX_MESSAGE_BYTES):
                self._buffer += self._decrypt(pieces[start : start + MAX_MESSAGE_BYTES])
        except Untrusted as error:
            self._die(Refusal.BAD_SEAL, error)
        return self._take_frames()

    def _take_frames(self) -> list[bytes]:
        frames = []
        buffer, at, size = self._buffer, 0, len(self._buffer)
        while size - at >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(buffer, at)
            if length > MAX_FRAME_BYTES:
                error = Untrusted(f"a frame has at most {MAX_FRAME_BYTES} bytes, not {length}")
                self._die(Refusal.MALFORMED, error)
            end = at + _LENGTH.size + length
            if end > size:
                break
            frames.append(bytes(buffer[at + _LENGTH.size : end]))
            at = end
        del buffer[:at]
        return frames

    def _encrypt(self, piece: bytes) -> bytes:
        sealed = self._sending.encrypt_with_ad(b"", piece)
        if self._sending.nonce % _REKEY_MESSAGES == 0:
            self._sending.rekey()
        return sealed

    def _decrypt(self, message: memoryview) -> bytes:
        piece = self._receiving.decrypt_with_ad(b"", message)
        if self._receiving.nonce % _REKEY_MESSAGES == 0:
            self._receiving.rekey()
        return piece

    def _die(self, refusal: Refusal, error: Untrusted) -> NoReturn:
        self.refusal = refusal
        self._state = _State.DEAD
        self._buffer.clear()
        raise error


def dial_session(
    *,
    signer: Signer,
    noise_static: bytes,
    ephemeral: bytes,
    max_message_bytes: int,
    expected: Key | None,
    wish: Mode = Mode.FULL,
    succession: bytes = b"",
    heir: Heir | None = None,
) -> Session:
    """The dialer's side, who accepts nobody but `expected`; to pair by a code, which proves later
    who is there, it may be None. `noise_static` and `ephemeral` are
    private X25519 keys of 32 bytes, the latter fresh randomness; `max_message_bytes` is what
    the link carries."""
    assert expected is not None or wish is Mode.PAIRING
    return Session(
        signer=signer,
        noise_static=noise_static,
        ephemeral=ephemeral,
        max_message_bytes=max_message_bytes,
        expected=expected,
        wish=wish,
        allow=None,
        succession=succession,
        heir=heir,
    )


def listen_session(
    *,
    signer: Signer,
    noise_static: bytes,
    ephemeral: bytes,
    max_message_bytes: int,
    allow: Allow,
    succession: bytes = b"",
    heir: Heir | None = None,
) -> Session:
    """The listener's side. `allow(key)` says how far a proven key may go: FULL, PAIRING (only
    that), or None."""
    return Session(
        signer=signer,
        noise_static=noise_static,
        ephemeral=ephemeral,
        max_message_bytes=max_message_bytes,
        expected=None,
        wish=Mode.FULL,
        allow=allow,
        succession=succession,
        heir=heir,
    )
