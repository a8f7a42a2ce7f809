"""Further addresses of a peer: those heard, few and fresh, and those set."""

from __future__ import annotations

from orvalho.contexts.identity import Key
from orvalho.daemon.hints import Hints

PHONE = Key(bytes(32))


def test_the_latest_heard_come_first_and_few_are_kept() -> None:
    hints = Hints(())
    assert hints.heard(PHONE) == []
    assert hints.hear(PHONE, ["ws://a:1"])
    assert not hints.hear(PHONE, ["ws://a:1"])
    for letter in "bcdefgh":
        assert hints.hear(PHONE, [f"ws://{letter}:1"])
    assert hints.heard(PHONE) == ["ws://h:1", "ws://g:1", "ws://f:1"]


def test_what_is_set_is_by_name_and_can_be_set_again() -> None:
    hints = Hints(("phone2=ws://a:1", "phone2=ws://b:1", "laptop=ws://c:1"))
    assert hints.bootstrap("phone2") == ["ws://a:1", "ws://b:1"]
    hints.use(("laptop=ws://d:1",))
    assert hints.bootstrap("phone2") == []
    assert hints.bootstrap("laptop") == ["ws://d:1"]
