"""What peers say about libraries, true and false."""

from __future__ import annotations

import random
from pathlib import Path

import msgspec
import pytest

from orvalho.daemon.library_words import (
    AskPart,
    ListLibraries,
    Shown,
    check_shown,
    shown_of,
)
from orvalho.daemon.wire import decode, encode
from orvalho.errors import InvalidInput, Untrusted
from orvalho.scripts.library import Libraries

ADD = (Path(__file__).parents[2] / "examples" / "add.wasm").read_bytes()


@pytest.fixture
def shown(tmp_path: Path) -> Shown:
    libraries = Libraries(tmp_path)
    libraries.publish("add.wasm", ADD, name="add", doc="sums", needs=None)
    return shown_of(libraries.find("add"))


def test_what_is_told_comes_whole(shown: Shown) -> None:
    told = decode(encode(shown), Shown)
    assert told == shown
    check_shown(told, "add")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "sub"), ("filename", "../add.wasm"), ("filename", "/etc/cron.d/add.wasm"),
        ("filename", "add.sh"), ("filename", "add"), ("filename", "add.wasm/../../x.js"),
        ("size_bytes", -1), ("size_bytes", 1 << 40), ("sha256", "0" * 64),
    ],
)  # fmt: skip
def test_a_peer_that_names_something_else_is_not_believed(
    shown: Shown, field: str, value: str | int
) -> None:
    """A filename that leads elsewhere would be written there by `lib get`."""
    row = msgspec.structs.replace(shown.row, **{field: value})
    with pytest.raises(Untrusted):
        check_shown(msgspec.structs.replace(shown, row=row), "add")


def test_ten_thousand_malformed_words_are_refused(shown: Shown) -> None:
    chance = random.Random(3)
    kinds = (Shown, ListLibraries, AskPart)
    asked = AskPart(caller="peer", name="add", sha256="0" * 64, offset=0)
    sources = [encode(shown), encode(ListLibraries(caller="peer")), encode(asked)]
    refused = 0
    for number in range(10_000):
        raw = bytearray(sources[number % 3])
        for _ in range(chance.randrange(1, 4)):
            raw[chance.randrange(len(raw))] = chance.randrange(256)
        try:
            decode(bytes(raw[: chance.randrange(1, len(raw) + 1)]), kinds[number % 3])
        except InvalidInput:
            refused += 1
    assert refused > 5_000
