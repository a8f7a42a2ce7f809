"""Device ids: a public key as a person reads it aloud, with check digits.

The form that Syncthing made known: the 32 bytes in base32 (52 letters), a Luhn mod 32 check
letter after each 13, in eight groups of seven.
"""

from __future__ import annotations

import base64
from typing import Final

from orvalho.contexts.identity import Key

_ALPHABET: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
_PART: Final = 13


def device_id(key: Key) -> str:
    """`MFZWI3D-BONSGYC-...`, 56 letters in 8 groups."""
    text = base64.b32encode(key).decode().rstrip("=")
    parts = [text[i : i + _PART] for i in range(0, len(text), _PART)]
    checked = "".join(part + _check_letter(part) for part in parts)
    return "-".join(checked[i : i + 7] for i in range(0, len(checked), 7))


def _check_letter(part: str) -> str:
    """Luhn mod N (ISO/IEC 7812-1, annex B, with 32 letters for 10 digits)."""
    factor, total = 1, 0
    for letter in part:
        addend = factor * _ALPHABET.index(letter)
        factor = 3 - factor
        total += addend // 32 + addend % 32
    return _ALPHABET[-total % 32]
