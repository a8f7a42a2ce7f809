"""Node keys in the text form that NATS servers know, an nkey.

An nkey is the base32 (RFC 4648, without padding) of a prefix byte, the 32 bytes of an Ed25519 key
and the CRC-16/XMODEM of both, little-endian. A user's public key starts with `U`, an account's
with `A`, a server's with `N`, and one that is encrypted to (X25519) with `X`.
"""

from __future__ import annotations

import base64
import binascii
from typing import Final

from orvalho.contexts.identity import Key
from orvalho.errors import InvalidInput

_USER: Final = 20 << 3
_ACCOUNT: Final = 0
_SERVER: Final = 13 << 3
_CURVE: Final = 23 << 3
_RAW_BYTES: Final = 35


def user_nkey(key: Key) -> str:
    """The 56 characters by which a NATS server knows this key as a user."""
    return _encode(_USER, key)


def account_nkey(key: Key) -> str:
    """The same for the key of an account, which signs users."""
    return _encode(_ACCOUNT, key)


def curve_nkey(public: bytes) -> str:
    """The same for 32 bytes of X25519."""
    return _encode(_CURVE, public)


def parse_user_nkey(text: str) -> Key:
    """The key that `user_nkey` wrote.

    Raises:
        InvalidInput: it is not exactly that form, or its checksum does not hold.
    """
    return _parse(_USER, text, "a node goes by an nkey: U and 55 characters")


def parse_server_nkey(text: str) -> Key:
    """The key of a server, by which it goes among others.

    Raises:
        InvalidInput: as `parse_user_nkey`.
    """
    return _parse(_SERVER, text, "a NATS server goes by an nkey: N and 55 characters")


def parse_curve_nkey(text: str) -> bytes:
    """What `curve_nkey` wrote.

    Raises:
        InvalidInput: as `parse_user_nkey`.
    """
    return _parse(_CURVE, text, "a key to encrypt to is an nkey: X and 55 characters")


def _parse(prefix: int, text: str, form: str) -> Key:
    try:
        raw = base64.b32decode(text + "=" * (-len(text) % 8))
    except (binascii.Error, ValueError):
        raw = b""
    key = Key(raw[1:-2])
    # Written again and compared: that checks prefix, checksum and the padding bits at once.
    if len(raw) != _RAW_BYTES or _encode(prefix, key) != text:
        raise InvalidInput(form, where=ascii(text[:80]))
    return key


def _encode(prefix: int, key: bytes) -> str:
    raw = bytes([prefix]) + key
    checked = raw + binascii.crc_hqx(raw, 0).to_bytes(2, "little")
    return base64.b32encode(checked).rstrip(b"=").decode()
