"""What a run got from outside: written down as it gets it, and given to it again.

A recording is enough to make the run once more without anything that it reached: its calls with
their answers, and its tape. It holds what the script read, and the key of its chance.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

import msgspec

from orvalho.errors import Untrusted
from orvalho.policies.quota import Limits
from orvalho.runtime.engine import Modules, Tape

# An argument that is longer is kept as its digest.
_LONG_BYTES: Final = 4096
# What a call costs beside its texts.
_CALL_BYTES: Final = 16
_MOST_CALLS: Final = 1 << 20
_SHOWN: Final = 200
_MOST_LIMIT: Final = 1 << 50


class RecordedCall(msgspec.Struct, frozen=True, array_like=True):
    """`argument` is a JSON list, or its SHA-256 where `argument_bytes` says how long it was.
    `answer` is JSON, with `is_error` an error's properties; None when the run ended before it."""

    op: str
    argument: bytes
    argument_bytes: int | None = None
    answer: bytes | None = None
    is_error: bool = False

    @property
    def shown(self) -> str:
        """Its argument, for people."""
        if self.argument_bytes is not None:
            return f"({self.argument_bytes} bytes, sha256:{self.argument.hex()[:12]})"
        return shown(self.argument)

    def is_same(self, op: str, argument: bytes) -> bool:
        return (self.op, self.argument, self.argument_bytes) == (op, *_kept(argument))


class Recording(msgspec.Struct, frozen=True, kw_only=True):
    """What is not told by the run itself: `params`, `filename`, the source (`text`, or `module` of
    WebAssembly) and `modules` where they are others than those that were sent; `lines` of earlier
    attempts stand before its own; `off` is what its context had switched off."""

    calls: tuple[RecordedCall, ...] = ()
    tape: Tape = Tape()
    caller: dict[str, str]
    target: dict[str, str]
    limits: Limits
    params: bytes | None = None
    filename: str | None = None
    text: str | None = None
    module: bytes | None = None
    modules: Modules | None = None
    lines: int = 0
    off: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Difference:
    """Where a replay went another way. `what`: call, line, result, outcome, turn, clock or chance;
    `number` counts from 1; None stands for nothing."""

    what: str
    number: int = 0
    operation: str = ""
    recorded: str | None = None
    now: str | None = None


class Recorder:
    """Of one run. Past `room_bytes` it gives up."""

    def __init__(self, room_bytes: int) -> None:
        self._room_bytes = room_bytes
        self._asked: list[tuple[str, bytes, int | None]] = []
        self._answers: dict[int, tuple[bytes, bool]] = {}
        self._tape = Tape()
        self.is_full = self.is_lost = False

    @property
    def is_empty(self) -> bool:
        """It got nothing."""
        return not self._asked and self._tape == Tape()

    def asked(self, number: int, op: str, argument: bytes) -> None:
        if self.is_full:
            return
        # They count from 1; a worker that counts otherwise is in its guest's hands.
        self.is_lost |= number != len(self._asked) + 1
        self._take(len(op) + min(len(argument), _LONG_BYTES) + _CALL_BYTES)
        if not self.is_full:
            self._asked.append((op, *_kept(argument)))

    def answered(self, number: int, answer: bytes, *, is_error: bool) -> None:
        if not self.is_full:
            self._take(len(answer))
            self._answers[number] = (answer, is_error)

    def taped(self, tape: Tape | None) -> None:
        if tape is None:
            self.is_full = True
        else:
            self._take(len(tape.turns) + len(tape.clock) + len(tape.chance))
            self._tape = tape

    def lost(self) -> None:
        """Its worker has ended without its last word."""
        self.is_lost = True

    def recording(
        self, caller: dict[str, str], target: dict[str, str], limits: Limits
    ) -> Recording:
        """What was recorded, unless `is_full`."""
        calls = []
        for number, asked in enumerate(self._asked, 1):
            answer, is_error = self._answers.get(number, (None, False))
            calls.append(RecordedCall(*asked, answer, is_error))
        return Recording(
            calls=tuple(calls), tape=self._tape, caller=caller, target=target, limits=limits
        )

    def _take(self, size_bytes: int) -> None:
        self._room_bytes -= size_bytes
        if self._room_bytes < 0:
            self.is_full = True
            self._asked.clear()
            self._answers.clear()


class Playback:
    """Answers the calls of one replay, and remembers the first that is another one."""

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self.difference: Difference | None = None
        self.calls = 0
        self.tape = Tape()

    def answer(self, number: int, op: str, argument: bytes) -> tuple[bytes, bool] | None:
        """None where there is no answer: it is another call, or the run ended before it had one."""
        self.calls += 1
        calls = self.recording.calls
        expected = calls[self.calls - 1] if self.calls <= len(calls) else None
        if expected is None or number != self.calls or not expected.is_same(op, argument):
            now = RecordedCall(op[:_SHOWN], *_kept(argument))
            self.difference = self.difference or Difference(
                "call",
                self.calls,
                expected.op if expected else now.op,
                f"{expected.op} {expected.shown}" if expected else None,
                f"{now.op} {now.shown}",
            )
            return None
        return None if expected.answer is None else (expected.answer, expected.is_error)

    def ended(self) -> Difference | None:
        """The first difference of all that went in, once the replay is over."""
        calls, tape = self.recording.calls, self.recording.tape
        if self.difference is not None:
            return self.difference
        if self.calls < len(calls):
            missing = calls[self.calls]
            told = f"{missing.op} {missing.shown}"
            return Difference("call", self.calls + 1, missing.op, told, None)
        for what, recorded, now in (
            ("turn", _turns(tape), _turns(self.tape)),
            ("clock", tape.clock, self.tape.clock),
            ("chance", tape.chance, self.tape.chance),
        ):
            if recorded != now:
                return _other_reading(what, recorded, now)
        return None


def encode_recording(recording: Recording) -> bytes:
    return msgspec.msgpack.encode(recording)


def decode_recording(raw: bytes) -> Recording:
    """Raises:
    Untrusted: it is none, or names answers in its turns that it does not have.
    """
    try:
        recording = msgspec.msgpack.decode(raw, type=Recording)
        _check(recording)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise Untrusted(f"the recording is malformed: {error}") from error
    return recording


def _check(recording: Recording) -> None:
    """Raises:
    ValueError: it cannot have been recorded.
    """
    if len(recording.calls) > _MOST_CALLS:
        raise ValueError("it has too many calls")
    if not all(0 < each <= _MOST_LIMIT for each in msgspec.structs.astuple(recording.limits)):
        raise ValueError("its limits are none")
    answered: set[int] = set()
    for turn in recording.tape.turns.split():
        if turn in (b"T", b"L"):
            continue
        numbers = [int(each) for each in turn[1:].split(b",") if len(each) < 9]
        is_known = turn[:1] == b"A" and len(numbers) == turn.count(b",") + 1
        if not is_known or len(set(numbers)) < len(numbers):
            raise ValueError("its turns are no turns")
        for number in numbers:
            is_there = 0 < number <= len(recording.calls)
            if number in answered or not is_there or recording.calls[number - 1].answer is None:
                raise ValueError("its turns name an answer that it does not have")
        answered.update(numbers)
    for call in recording.calls:
        # It is put between others into one JSON text.
        if call.answer is not None:
            call.answer.decode()
            msgspec.json.decode(call.answer, type=msgspec.Raw)


def shown(text: bytes) -> str:
    """Some of a text, for people."""
    whole = text.decode("utf-8", "replace")
    return whole if len(whole) <= _SHOWN else f"{whole[:_SHOWN]}..."


def _kept(argument: bytes) -> tuple[bytes, int | None]:
    if len(argument) <= _LONG_BYTES:
        return argument, None
    return hashlib.sha256(argument).digest(), len(argument)


def _turns(tape: Tape) -> bytes:
    """Those that the guest was given; a look at what it did by itself gives it nothing."""
    return b" ".join(turn for turn in tape.turns.split() if turn != b"L")


def _other_reading(what: str, recorded: bytes, now: bytes) -> Difference:
    """The first of two lists of readings that differs."""
    if what == "chance":
        return Difference(what, 1, "", f"{len(recorded) // 2} bytes", f"{len(now) // 2} bytes")
    before, after = recorded.split(), now.split()
    same = next(
        (i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b),
        min(len(before), len(after)),
    )
    return Difference(
        what,
        same + 1,
        "",
        shown(before[same]) if same < len(before) else None,
        shown(after[same]) if same < len(after) else None,
    )
