"""Device ids: a key in groups that a person can read aloud and compare."""

from __future__ import annotations

import base64

from orvalho.contexts.device_id import device_id
from orvalho.contexts.identity import Key

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"


def is_sound(part: str) -> bool:
    """Luhn mod 32, from the check letter backwards, as its definition has it."""
    total = 0
    for place, letter in enumerate(reversed(part)):
        addend = ALPHABET.index(letter) * (1 + place % 2)
        total += addend // 32 + addend % 32
    return total % 32 == 0


def test_an_id_is_the_key_with_a_check_letter_after_each_thirteen() -> None:
    key = Key(bytes(range(32)))
    text = device_id(key)
    assert [len(group) for group in text.split("-")] == [7] * 8

    plain = text.replace("-", "")
    parts = [plain[place : place + 14] for place in range(0, 56, 14)]
    assert base64.b32decode("".join(part[:13] for part in parts) + "====") == key
    checks = [sum(is_sound(part[:13] + letter) for letter in ALPHABET) for part in parts]
    assert checks == [1, 1, 1, 1], "one letter fits, and only one"
