"""Ed25519 keys of owner, node and contexts: derive, sign, verify, certify.

One seed of 32 bytes is the whole secret of a node; every key is derived from it with
HKDF-SHA256 (RFC 5869) under a tag of its own. Signatures are Ed25519 (RFC 8032) over
`purpose + NUL + message`, so that none can be passed off as one made for something else.
"""

from __future__ import annotations

import base64
import binascii
import fcntl
import hashlib
import hmac
import os
import stat
from functools import lru_cache
from pathlib import Path
from typing import Final, Literal, NewType

import msgspec
from nacl.exceptions import BadSignatureError, CryptoError
from nacl.public import SealedBox
from nacl.signing import SigningKey, VerifyKey

from orvalho.contexts.names import check_label
from orvalho.errors import Conflict, InvalidInput, NotFound, Untrusted

Key = NewType("Key", bytes)
CertificateKind = Literal["node", "context"]

_PREFIX: Final = "ed25519:"
_KEY_BYTES: Final = 32
_SIGNATURE_BYTES: Final = 64
_SEED_BYTES: Final = 32
_SEED_FILE: Final = "seed"
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

    __slots__ = ("_key", "key")

    def __init__(self, seed: bytes) -> None:
        self._key = SigningKey(seed)
        self.key = Key(bytes(self._key.verify_key))

    def sign(self, purpose: bytes, message: bytes) -> bytes:
        """64 bytes over `purpose`, a NUL and `message`."""
        return self.sign_raw(_tagged(purpose, message))

    def sign_raw(self, message: bytes) -> bytes:
        """64 bytes over the message alone, for formats that bring their own tag (DSSE's PAE)."""
        return self._key.sign(message).signature

    def unseal(self, box: bytes) -> bytes:
        """What `seal_for` closed for this key.

        Raises:
            Untrusted: it is for another key, or was changed.
        """
        try:
            return SealedBox(self._key.to_curve25519_private_key()).decrypt(box)
        except (CryptoError, ValueError, TypeError) as error:
            raise Untrusted("it is not sealed for this node") from error

    def __repr__(self) -> str:
        return f"Signer({key_text(self.key)})"

    def __reduce__(self) -> str:
        raise TypeError("a private key stays in its process")


class Identity:
    """The keys of this node, all derived from the seed in `<directory>/seed`."""

    def __init__(self, seed: bytes) -> None:
        self._seed = seed
        self.owner = self._signer(b"orvalho/1/owner")
        self.node = self._signer(b"orvalho/1/node")

    @classmethod
    def create(cls, directory: Path) -> Identity:
        """A new seed, written durably with mode 0600 in `directory` (made with 0700).

        Raises:
            Conflict: there is one already; it is left as it is.
        """
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        seed = os.urandom(_SEED_BYTES)
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # Two that create at once must not end with one believing in the other's lost seed.
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            _write_seed(directory / _SEED_FILE, seed)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        return cls(seed)

    @classmethod
    def load(cls, directory: Path) -> Identity:
        """The identity whose seed lies in `directory`.

        Raises:
            NotFound: there is none.
            Untrusted: others can read or could have written the file, or it is damaged.
        """
        return cls(_read_seed(directory / _SEED_FILE))

    def context(self, name: str) -> Signer:
        """The key of the context `name`: always the same for the same seed and name."""
        return self._signer(b"orvalho/1/context/" + check_label(name).encode())

    def noise_static(self) -> bytes:
        """32 bytes: the private X25519 key (RFC 7748) of this node's Noise handshakes."""
        return hkdf_sha256(self._seed, info=b"orvalho/1/noise-static")

    def _signer(self, info: bytes) -> Signer:
        return Signer(hkdf_sha256(self._seed, info=info))


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
    """`content`, 48 bytes longer, for the holder of `key` alone: a libsodium sealed box to the
    X25519 key (RFC 7748) that this Ed25519 key converts to. It does not say who closed it.

    Raises:
        Untrusted: this is no key.
    """
    try:
        return SealedBox(VerifyKey(key).to_curve25519_public_key()).encrypt(content)
    except (CryptoError, ValueError) as error:
        raise Untrusted("nothing can be sealed for this key", where=_safe_key_text(key)) from error


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


def _safe_key_text(key: Key) -> str:
    return key_text(key) if len(key) == _KEY_BYTES else f"a key of {len(key)} bytes"


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
