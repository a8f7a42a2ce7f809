"""Further addresses of a peer: those heard, few and fresh, and those set."""

from __future__ import annotations

from orvalho.contexts.identity import Key
from orvalho.daemon.hints import Hints

PHONE = Key(bytes(32))


def test_the_latest_heard_come_first_and_few_are_kept() -> None:
    hints = Hints(())
    assert hints.heard(PHONE, 0.0) == []
    for number, letter in enumerate("abcdefgh"):
        hints.hear(PHONE, [f"ws://{letter}:1"], float(number))
    assert hints.heard(PHONE, 8.0) == ["ws://h:1", "ws://g:1", "ws://f:1"]
    assert hints.heard(PHONE, 606.5) == ["ws://h:1"]
    hints.hear(PHONE, ["ws://a:1", "ws://b:1"], 700.0)
    assert hints.heard(PHONE, 700.0) == ["ws://a:1", "ws://b:1"]


def test_a_flood_of_beacons_does_not_make_us_dial_without_end() -> None:
    hints = Hints(())
    dials = sum(
        hints.hear(PHONE, [f"ws://192.0.2.{number % 250}:1"], number / 1000)
        for number in range(10_000)
    )
    assert dials == 5


def test_what_is_set_is_by_name_and_can_be_set_again() -> None:
    hints = Hints(("phone2=ws://a:1", "phone2=ws://b:1", "laptop=ws://c:1"))
    assert hints.bootstrap("phone2") == ["ws://a:1", "ws://b:1"]
    hints.use(("laptop=ws://d:1",))
    assert hints.bootstrap("phone2") == []
    assert hints.bootstrap("laptop") == ["ws://d:1"]
