"""The words of BIP-39: read as people type them, and a phrase told where it is wrong."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orvalho.contexts.words import phrase_of, read_word, seed_of, words
from orvalho.errors import InvalidInput

# The test vectors of the BIP-39 reference, for 256 bits of entropy.
VECTORS = {
    "00" * 32: "abandon " * 23 + "art",
    "7f" * 32: "legal winner thank year wave sausage worth useful " * 2
    + "legal winner thank year wave sausage worth title",
    "ff" * 32: "zoo " * 23 + "vote",
}


@pytest.mark.parametrize(("seed", "phrase"), VECTORS.items())
def test_the_published_vectors_hold(seed: str, phrase: str) -> None:
    assert phrase_of(bytes.fromhex(seed)) == phrase
    assert seed_of(phrase) == bytes.fromhex(seed)


@given(seed=st.binary(min_size=32, max_size=32))
def test_a_seed_comes_back_from_its_words_however_they_are_written(seed: bytes) -> None:
    phrase = phrase_of(seed)
    assert len(phrase.split()) == 24
    assert seed_of(phrase.upper().replace(" ", "\n ")) == seed
    assert seed_of(" ".join(word[:4] for word in phrase.split())) == seed
    numbered = ", ".join(f"{n}. {word}" for n, word in enumerate(phrase.split(), 1))
    assert seed_of(numbered) == seed


def test_four_letters_tell_every_word() -> None:
    assert len(words()) == 2048
    assert [read_word(word[:4]) for word in words()] == list(words())


def test_a_wrong_word_is_named_with_its_place_and_the_nearest_one() -> None:
    phrase = VECTORS["7f" * 32].split()
    phrase[2] = "thnak"
    with pytest.raises(InvalidInput, match=r"word 3: 'thnak' is none .* did you mean \"thank\""):
        seed_of(" ".join(phrase))


def test_words_in_the_wrong_order_are_told_by_their_checksum() -> None:
    phrase = VECTORS["7f" * 32].split()
    phrase[0], phrase[1] = phrase[1], phrase[0]
    with pytest.raises(InvalidInput, match="checksum does not hold"):
        seed_of(" ".join(phrase))


@pytest.mark.parametrize("count", [0, 1, 12, 23, 25])
def test_another_number_of_words_is_told(count: int) -> None:
    with pytest.raises(InvalidInput, match=f"24 words, not {count}"):
        seed_of("zoo " * count)


def test_a_single_changed_word_is_nearly_always_noticed() -> None:
    phrase = phrase_of(os.urandom(32)).split()
    unnoticed = 0
    for word in words()[:256]:
        try:
            seed_of(" ".join([word, *phrase[1:]]))
        except InvalidInput:
            continue
        unnoticed += 1
    # Eight bits of checksum: one in 256.
    assert unnoticed <= 8
