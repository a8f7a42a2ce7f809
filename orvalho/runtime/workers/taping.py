"""What a guest got beside the answers to its calls: noted as it gets it, and given to it again.

In a replay it is the tape that says when a guest goes on and with what, whenever its answers have
come and whatever time it is: so the turns of an event loop have the order that they had.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orvalho.runtime.bridge import Noted
from orvalho.runtime.engine import Answer, Tape


class Taper:
    """Notes one run, up to `room_bytes`."""

    def __init__(self, room_bytes: int) -> None:
        self._room_bytes = room_bytes
        self._turns: list[bytes] = []
        self._noted: dict[str, list[bytes]] = {"clock": [], "chance": []}

    @property
    def is_full(self) -> bool:
        """It is too much."""
        return self._room_bytes < 0

    @property
    def is_empty(self) -> bool:
        return not self._turns and not any(self._noted.values())

    def answered(self, answers: Sequence[Answer]) -> None:
        self._add(self._turns, b"A" + b",".join(b"%d" % each.call for each in answers))

    def rang(self) -> None:
        self._add(self._turns, b"T")

    def looked(self) -> None:
        self._add(self._turns, b"L")

    def note(self, noted: Noted) -> None:
        if noted.text is None:
            self._room_bytes = -1
        else:
            self._add(self._noted[noted.kind], noted.text)

    def tape(self) -> Tape | None:
        """None where it is too much."""
        if self.is_full:
            return None
        clock, chance = self._noted["clock"], self._noted["chance"]
        return Tape(b" ".join(self._turns), b" ".join(clock), b"".join(chance))

    def _add(self, to: list[bytes], text: bytes) -> None:
        self._room_bytes -= len(text) + 1
        if self._room_bytes >= 0:
            to.append(text)


@dataclass(frozen=True, slots=True)
class Turned:
    """What the guest is given next; `answers` are None for the alarm."""

    answers: list[Answer] | None = None


class Player:
    """Says what a guest is given next."""

    def __init__(self, tape: Tape) -> None:
        self._turns = tape.turns.split()
        self._answers: dict[int, Answer] = {}
        self._at = 0

    @property
    def is_over(self) -> bool:
        return self._at >= len(self._turns)

    @property
    def is_quiet(self) -> bool:
        """Whether the guest goes on by itself next."""
        return not self.is_over and self._turns[self._at] == b"L"

    def skip(self) -> None:
        self._at += 1

    def answer(self, answer: Answer) -> None:
        self._answers[answer.call] = answer

    def is_coming(self, calls: int) -> bool:
        """Whether only answers are missing to `calls` that the guest has made."""
        numbers = [] if self.is_over else _numbers(self._turns[self._at])
        return bool(numbers) and max(numbers) <= calls

    def next(self, *, is_armed: bool) -> Turned | None:
        """None while that cannot be given yet. `is_armed`: the guest has set an alarm."""
        if self.is_over or self.is_quiet:
            return None
        turn = self._turns[self._at]
        if turn == b"T":
            self._at += is_armed
            return Turned() if is_armed else None
        numbers = _numbers(turn)
        if not numbers or any(number not in self._answers for number in numbers):
            return None
        self._at += 1
        return Turned([self._answers.pop(number) for number in dict.fromkeys(numbers)])


def _numbers(turn: bytes) -> list[int]:
    """Empty for what is no turn."""
    try:
        return [int(each) for each in turn[1:].split(b",")] if turn[:1] == b"A" else []
    except ValueError:
        return []
