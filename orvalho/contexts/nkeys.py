"""Node keys in the text form that NATS servers know, an nkey.

An nkey is the base32 (RFC 4648, without padding) of a prefix byte, the 32 bytes of an Ed25519 key
and the CRC-16/XMODEM of both, little-endian. A user's public key starts with `U`.
"""

from __future__ import annotations

import base64
import binascii
from typing import Final

from orvalho.contexts.identity import Key
from orvalho.errors import InvalidInput

_USER: Final = 20 << 3
_RAW_BYTES: Final = 35


def user_nkey(key: Key) -> str:
    """The 56 characters by which a NATS server knows this key as a user."""
    return _encode(_USER, key)


def parse_user_nkey(text: str) -> Key:
    """The key that `user_nkey` wrote.

    Raises:
        InvalidInput: it is not exactly that form, or its checksum does not hold.
    """
    try:
        raw = base64.b32decode(text + "=" * (-len(text) % 8))
    except (binascii.Error, ValueError):
        raw = b""
    key = Key(raw[1:-2])
    # Written again and compared: that checks prefix, checksum and the padding bits at once.
    if len(raw) != _RAW_BYTES or user_nkey(key) != text:
        raise InvalidInput("a node goes by an nkey: U and 55 characters", where=ascii(text[:80]))
    return key


def _encode(prefix: int, key: Key) -> str:
    raw = bytes([prefix]) + key
    checked = raw + binascii.crc_hqx(raw, 0).to_bytes(2, "little")
    return base64.b32encode(checked).rstrip(b"=").decode()
