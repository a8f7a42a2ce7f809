"""Ed25519 keys of owner, node and contexts: derive, sign, verify, certify.

One seed of 32 bytes is the whole secret of a node; every key is derived from it with
HKDF-SHA256 (RFC 5869) under a tag of its own. The node key can be changed: the seed and how often
that was done (the rotation) give the present one. Signatures are Ed25519 (RFC 8032) over
`purpose + NUL + message`, so that none can be passed off as one made for something else.
"""

from __future__ import annotations

import base64
import binascii
import fcntl
import hashlib
import hmac
import os
import re
import stat
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Literal, NewType, TypeVar

import msgspec
from nacl.exceptions import BadSignatureError, CryptoError
from nacl.public import PrivateKey, SealedBox
from nacl.signing import SigningKey, VerifyKey

from orvalho.contexts.durable import replace_file
from orvalho.contexts.names import check_label
from orvalho.contexts.words import phrase_of, seed_of
from orvalho.errors import Conflict, InvalidInput, LimitExceeded, NotFound, Untrusted

T = TypeVar("T")
Key = NewType("Key", bytes)
CertificateKind = Literal["node", "context"]

_PREFIX: Final = "ed25519:"
_KEY_BYTES: Final = 32
_SIGNATURE_BYTES: Final = 64
_SEED_BYTES: Final = 32
_SEED_FILE: Final = "seed"
_ROTATION_FILE: Final = "rotation"
_MOST_ROTATIONS: Final = 10_000
_CERTIFICATE: Final = b"orvalho/certificate/1"
_CERTIFICATE_LIMIT_BYTES: Final = 1024


class Certificate(msgspec.Struct, frozen=True, kw_only=True):
    """`key` goes by `name`: an owner says so of a node, a node of a context."""

    kind: CertificateKind
    name: str
    key: bytes
    issued_at: float


class Signer:
    """A private key that signs. It cannot be printed, pickled or compared."""

    __slots__ = ("_box", "_key", "key")

    def __init__(self, seed: bytes) -> None:
        self._key = SigningKey(seed)
        self._box: SealedBox[PrivateKey] | None = None
        self.key = Key(bytes(self._key.verify_key))

    def sign(self, purpose: bytes, message: bytes) -> bytes:
        """64 bytes over `purpose`, a NUL and `message`."""
        return self.sign_raw(_tagged(purpose, message))

    def sign_raw(self, message: bytes) -> bytes:
        """64 bytes over the message alone, for formats that bring their own tag (DSSE's PAE)."""
        return self._key.sign(message).signature

    def unseal(self, content: bytes) -> bytes:
        """What `seal_for` sealed for this key.

        Raises:
            Untrusted: it was sealed for another key, or has been changed.
        """
        if self._box is None:
            self._box = SealedBox(self._key.to_curve25519_private_key())
        try:
            return self._box.decrypt(content)
        except (CryptoError, ValueError) as error:
            raise Untrusted("what was sealed for this node does not open") from error

    def lend(self, use: Callable[[bytes], T]) -> T:
        """What `use` makes of the 32 bytes of the seed: for a format whose library signs by itself,
        and whose signatures cover a tag of their own."""
        return use(bytes(self._key))

    def __repr__(self) -> str:
        return f"Signer({key_text(self.key)})"

    def __reduce__(self) -> str:
        raise TypeError("a private key stays in its process")


class Identity:
    """The keys of this node, all derived from the seed in `<directory>/seed`. `rotations` holds
    the moment of each change of the node key, in Unix seconds."""

    def __init__(self, seed: bytes, rotations: tuple[float, ...] = ()) -> None:
        self._seed = seed
        self.rotations = rotations
        self.owner = self._signer(b"orvalho/1/owner")
        self.node = self.node_of(len(rotations))
        # Not the node key: a grant holds on when that is changed, and who has only stolen that
        # one gives none.
        self.granting = self._signer(b"orvalho/1/grants")

    @classmethod
    def create(
        cls, directory: Path, seed: bytes | None = None, rotations: tuple[float, ...] = ()
    ) -> Identity:
        """A new seed, or one that is restored, written durably with mode 0600 in `directory`
        (made with 0700).

        Raises:
            Conflict: there is one already; it is left as it is.
        """
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        seed = seed or os.urandom(_SEED_BYTES)
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # Two that create at once must not end with one believing in the other's lost seed.
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            # The seed last: with it there is an identity.
            if not (directory / _SEED_FILE).exists():
                # What a restore that broke off has left is not ours.
                (directory / _ROTATION_FILE).unlink(missing_ok=True)
                if rotations:
                    _write_rotations(directory, rotations)
            _write_seed(directory / _SEED_FILE, seed)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        return cls(seed, rotations)

    @classmethod
    def load(cls, directory: Path) -> Identity:
        """The identity whose seed lies in `directory`.

        Raises:
            NotFound: there is none.
            Untrusted: others can read or could have written the file, or it is damaged.
        """
        return cls(_read_seed(directory / _SEED_FILE), _read_rotations(directory))

    @staticmethod
    def created_at(directory: Path) -> float:
        """When the seed was made, or restored, in Unix seconds."""
        return (directory / _SEED_FILE).stat().st_mtime

    def rotated(self, directory: Path, now: float) -> Identity:
        """The identity with the next node key, durable when this returns. A crash leaves the old
        one or the new one in force.

        Raises:
            LimitExceeded: rotations: it was done too often.
        """
        if len(self.rotations) >= _MOST_ROTATIONS:
            raise LimitExceeded(f"rotations: a node key is changed {_MOST_ROTATIONS} times at most")
        rotations = (*self.rotations, now)
        _write_rotations(directory, rotations)
        return Identity(self._seed, rotations)

    def node_of(self, rotation: int) -> Signer:
        """The node key after so many changes."""
        return self._signer(_numbered(b"orvalho/1/node", rotation))

    @property
    def former_keys(self) -> tuple[Key, ...]:
        """The node keys there were before this one."""
        return tuple(self.node_of(rotation).key for rotation in range(len(self.rotations)))

    def phrase(self) -> str:
        """The seed as 24 words, and the number of rotations if there were any: all that it takes
        to have the same keys again."""
        words = phrase_of(self._seed)
        return f"{words} {len(self.rotations)}" if self.rotations else words

    def context(self, name: str) -> Signer:
        """The key of the context `name`: always the same for the same seed and name."""
        return self._signer(b"orvalho/1/context/" + check_label(name).encode())

    def noise_static(self) -> bytes:
        """32 bytes: the private X25519 key (RFC 7748) of this node's Noise handshakes."""
        info = _numbered(b"orvalho/1/noise-static", len(self.rotations))
        return hkdf_sha256(self._seed, info=info)

    def secrets_key(self) -> bytes:
        """32 bytes: the private X25519 key that the owner's secrets are kept under."""
        return hkdf_sha256(self._seed, info=b"orvalho/1/secrets")

    def _signer(self, info: bytes) -> Signer:
        return Signer(hkdf_sha256(self._seed, info=info))


def read_phrase(text: str) -> tuple[bytes, int]:
    """The seed and the number of rotations that `Identity.phrase` wrote.

    Raises:
        InvalidInput: a word is none, there are not 24, or the checksum does not hold.
    """
    words, number = re.fullmatch(r"(.*?)\s*(\d{0,5})\s*", text, re.DOTALL).groups()  # type: ignore[union-attr]  # it matches any text
    rotation = int(number or 0)
    if rotation > _MOST_ROTATIONS:
        raise InvalidInput(f"the number behind the words is at most {_MOST_ROTATIONS}")
    return seed_of(words), rotation


# The same few keys are written again and again.
@lru_cache(1024)
def key_text(key: Key) -> str:
    """`ed25519:` and the key in base64url without padding, 51 characters."""
    return _PREFIX + base64.urlsafe_b64encode(key).rstrip(b"=").decode()


def parse_key(text: str) -> Key:
    """The key that `key_text` wrote.

    Raises:
        InvalidInput: it is not exactly that form.
    """
    try:
        raw = base64.b64decode(text.removeprefix(_PREFIX) + "=", altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    key = Key(raw)
    # Written again and compared: one key has one text, or a deny rule could be sidestepped.
    if len(raw) != _KEY_BYTES or key_text(key) != text:
        raise InvalidInput(
            "a key is ed25519: and 43 characters of base64url", where=ascii(text[:80])
        )
    return key


def verify(key: Key, purpose: bytes, message: bytes, signature: bytes) -> None:
    """Raises:
    Untrusted: `key` did not sign this message for this purpose.
    """
    verify_raw(key, _tagged(purpose, message), signature)


def verify_raw(key: Key, message: bytes, signature: bytes) -> None:
    """Raises:
    Untrusted: `key` did not sign exactly these bytes.
    """
    try:
        if len(signature) != _SIGNATURE_BYTES:
            raise BadSignatureError("wrong length")
        _verify_key(key).verify(message, signature)
    except (CryptoError, ValueError) as error:
        raise Untrusted("the signature does not hold", where=_safe_key_text(key)) from error


def seal_for(key: Key, content: bytes) -> bytes:
    """`content`, so that only the holder of `key` can read it, and nobody can tell who sealed it:
    libsodium's sealed box to the X25519 form of the key, 48 bytes longer.

    Raises:
        Untrusted: `key` is no Ed25519 key.
    """
    return _box_for(key).encrypt(content)


def certify(signer: Signer, kind: CertificateKind, name: str, key: Key, now: float) -> bytes:
    """The statement that `key` goes by `name`: 64 bytes of signature, then a msgpack
    `Certificate`. The owner certifies nodes, a node its contexts."""
    body = msgspec.msgpack.encode(
        Certificate(kind=kind, name=check_label(name), key=key, issued_at=now)
    )
    return signer.sign(_CERTIFICATE, body) + body


def check_certificate(blob: bytes, by: Key, kind: CertificateKind) -> Certificate:
    """What the certificate says, once the signature of `by` holds over the bytes that arrived.

    Raises:
        Untrusted: it is not signed by `by`, is of another kind, or is malformed.
    """
    if len(blob) > _CERTIFICATE_LIMIT_BYTES:
        raise Untrusted(f"a certificate has at most {_CERTIFICATE_LIMIT_BYTES} bytes")
    return _checked(blob, by, kind)


# The same few certificates come with every script; what held once holds again.
@lru_cache(1024)
def _checked(blob: bytes, by: Key, kind: CertificateKind) -> Certificate:
    signature, body = blob[:_SIGNATURE_BYTES], blob[_SIGNATURE_BYTES:]
    verify(by, _CERTIFICATE, body, signature)
    try:
        certificate = msgspec.msgpack.decode(body, type=Certificate)
        check_label(certificate.name)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, InvalidInput) as error:
        raise Untrusted(f"the certificate is malformed: {error}") from error
    if certificate.kind != kind or len(certificate.key) != _KEY_BYTES:
        raise Untrusted(f"the certificate is not one of a {kind}", where=certificate.name)
    return certificate


def hkdf_sha256(secret: bytes, *, info: bytes, salt: bytes = b"", size_bytes: int = 32) -> bytes:
    """HKDF with SHA-256 (RFC 5869): extract, then expand to `size_bytes` (at most 8160)."""
    if size_bytes > 255 * 32:
        raise ValueError("HKDF-SHA256 gives at most 8160 bytes")
    extracted = hmac.digest(salt or bytes(32), secret, hashlib.sha256)
    block, output = b"", b""
    for counter in range(1, -(-size_bytes // 32) + 1):
        block = hmac.digest(extracted, block + info + bytes([counter]), hashlib.sha256)
        output += block
    return output[:size_bytes]


def _tagged(purpose: bytes, message: bytes) -> bytes:
    if b"\0" in purpose:
        raise ValueError("a purpose holds no NUL, or two of them could run together")
    return purpose + b"\0" + message


@lru_cache(256)
def _verify_key(key: Key) -> VerifyKey:
    return VerifyKey(key)


def _numbered(info: bytes, rotation: int) -> bytes:
    return info + b"/%d" % rotation if rotation else info


@lru_cache(256)
def _box_for(key: Key) -> SealedBox[Any]:
    try:
        return SealedBox(VerifyKey(key).to_curve25519_public_key())
    except (CryptoError, ValueError) as error:
        raise Untrusted("this is no key to seal for", where=_safe_key_text(key)) from error


def _safe_key_text(key: Key) -> str:
    return key_text(key) if len(key) == _KEY_BYTES else f"a key of {len(key)} bytes"


def _write_rotations(directory: Path, rotations: tuple[float, ...]) -> None:
    replace_file(directory / _ROTATION_FILE, msgspec.json.encode(rotations))


def _read_rotations(directory: Path) -> tuple[float, ...]:
    path = directory / _ROTATION_FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=tuple[float, ...])
    except FileNotFoundError:
        return ()
    except (OSError, msgspec.DecodeError) as error:
        raise Untrusted(f"the list of rotations is damaged: {error}", where=str(path)) from error


def _write_seed(path: Path, seed: bytes) -> None:
    if path.exists():
        raise Conflict("there is a seed already", where=str(path))
    # Under another name first: a crash in between must not leave half a seed in its place.
    draft = path.with_suffix(".draft")
    draft.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(draft, flags, 0o600), "wb") as file:
        file.write(seed)
        file.flush()
        os.fsync(file.fileno())
    draft.rename(path)


def _read_seed(path: Path) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise NotFound("this node has no keys yet", where=str(path), hint="orvalho init") from error
    except OSError as error:
        raise Untrusted(f"the seed cannot be read: {error.strerror}", where=str(path)) from error
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise Untrusted("the seed is not a plain file", where=str(path))
        if status.st_uid != os.geteuid():
            raise Untrusted(
                f"the seed belongs to user {status.st_uid}, not to you ({os.geteuid()})",
                where=str(path),
                hint=f"chown {os.geteuid()} {path}",
            )
        if mode := status.st_mode & 0o077:
            raise Untrusted(
                f"others may use the seed: its mode is {status.st_mode & 0o777:04o}"
                f" ({mode:04o} too wide)",
                where=str(path),
                hint=f"chmod 600 {path}",
            )
        seed = file.read(_SEED_BYTES + 1)
    if len(seed) != _SEED_BYTES:
        raise Untrusted(f"the seed is damaged: not {_SEED_BYTES} bytes", where=str(path))
    return seed
