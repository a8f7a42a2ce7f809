"""The English word list of BIP-39: words for numbers, and a seed as 24 words (the only import of
mnemonic).

The first four letters of a word are no other word's, so four are enough.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from mnemonic import Mnemonic

from orvalho.contexts.names import near_miss
from orvalho.errors import InvalidInput

WORD_BITS: Final = 11
PHRASE_WORDS: Final = 24
_TELLING_LETTERS: Final = 4


@lru_cache(1)
def words() -> tuple[str, ...]:
    """The 2048 words, in order."""
    return tuple(_mnemonic().wordlist)


def read_word(text: str) -> str:
    """The word of the list that was meant: in any case, and cut after four letters or later.

    Raises:
        InvalidInput: there is no such word; the message names the nearest one.
    """
    given = text.lower()
    if given in words():
        return given
    if len(given) >= _TELLING_LETTERS:
        begun = [word for word in words() if word.startswith(given)]
        if len(begun) == 1:
            return begun[0]
    near = near_miss(given, words())
    raise InvalidInput(
        f"{given[:40]!a} is none of the 2048 words" + (f', did you mean "{near}"?' if near else "")
    )


def phrase_of(seed: bytes) -> str:
    """The 24 words of a seed of 32 bytes; the last one holds 8 bits of checksum."""
    phrase: str = _mnemonic().to_mnemonic(seed)
    return phrase


def seed_of(phrase: str) -> bytes:
    """The seed of 32 bytes that `phrase_of` wrote as words.

    Raises:
        InvalidInput: a word is none of the list, there are not 24, or the checksum does not hold.
    """
    given = re.findall(r"[^\W\d_]+", phrase)
    meant = []
    for place, text in enumerate(given, 1):
        try:
            meant.append(read_word(text))
        except InvalidInput as error:
            raise InvalidInput(f"word {place}: {error.message}") from error
    if len(meant) != PHRASE_WORDS:
        raise InvalidInput(f"a recovery phrase has {PHRASE_WORDS} words, not {len(meant)}")
    phrase = " ".join(meant)
    if not _mnemonic().check(phrase):
        raise InvalidInput(
            "the words do not belong together: their checksum does not hold, so a word is wrong"
            " or in the wrong place"
        )
    return bytes(_mnemonic().to_entropy(phrase))


@lru_cache(1)
def _mnemonic() -> Mnemonic:
    return Mnemonic("english")
