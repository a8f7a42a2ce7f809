"""One run inside a worker: its isolate's turns, its answers, its alarm, and its limits."""

from __future__ import annotations

import asyncio
import binascii
import time
from collections.abc import Callable
from functools import partial
from typing import Final

from orvalho.errors import InvalidInput
from orvalho.runtime.bridge import (
    Alarm,
    Called,
    Logged,
    Reached,
    Record,
    Returned,
    Threw,
    read_records,
)
from orvalho.runtime.engine import Answer, Isolate, Start, Turn
from orvalho.runtime.workers.messages import (
    Call,
    Line,
    Message,
    Metered,
    RunEnded,
    StartRun,
    Taped,
)
from orvalho.runtime.workers.taping import Player, Taper

# How close to a limit of processor time we look again: a guest gets at most this much more.
_LOOK_AGAIN_S: Final = 0.01
# A guest that has had the processor for so long lets others go before it.
_SPRINT_S: Final = 0.2
_LONG_PAUSE_S: Final = 2.0
# How long a replay waits for what a guest did by itself, or may still do.
_QUIET_S: Final = 0.5
# What V8 says when the process may map no more memory for a buffer.
_NO_ROOM: Final = ("Array buffer allocation failed", "could not allocate memory")


class GuestRun:
    """Lives on the worker's event loop. `finished` is called once, when it is over."""

    def __init__(
        self,
        start: StartRun,
        send: Callable[[Message], None],
        rss_bytes: Callable[[], int],
        finished: Callable[[GuestRun], None],
    ) -> None:
        self.number = start.run
        self.memory_limit_bytes = start.memory_bytes
        self.isolate: Isolate | None = None
        self.is_over = False
        # Whether its guest ended by itself: then nothing of it keeps running, or not for long.
        self.is_calm = False
        self._start = start
        self._send = send
        self._rss_bytes = rss_bytes
        self._finished = finished
        self._loop = asyncio.get_running_loop()
        self._began_at = 0.0
        self._first_rss_bytes = self._peak_rss_bytes = 0
        self._output_bytes = 0
        self._calls = 0
        self._in_turn = False
        self._answers: list[Answer] = []
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_rang = False
        self._watch: asyncio.TimerHandle | None = None
        self._has_stepped_back = False
        self._pause_s = _SPRINT_S
        self._seen_cpu_s = 0.0
        self._told_cpu_s = 0.0
        # One that stays, and has not computed of late, is left alone until its host has a word.
        self._is_dozing = False
        self._taper = Taper(start.room_bytes) if start.room_bytes else None
        self._player = Player(start.tape) if start.tape is not None else None
        self._patience: asyncio.TimerHandle | None = None
        self._is_armed = False

    # ---- from the worker ---------------------------------------------------------------------

    def end_after(self, wall_s: float) -> None:
        """The limit of time, for as long as it has not begun."""
        self._watch = self._loop.call_later(wall_s, partial(self._end, "limited", limit="wall"))

    def begin(self, isolate: Isolate, report: Callable[[Turn], None]) -> None:
        start = self._start
        self.isolate = isolate
        self._in_turn = True
        self._began_at = time.monotonic()
        self._first_rss_bytes = self._peak_rss_bytes = self._rss_bytes()
        if self._watch is not None:
            self._watch.cancel()
        first_s = min(start.wall_s, start.cpu_s, start.metering_s or _SPRINT_S, _SPRINT_S)
        self._watch = self._loop.call_later(first_s, self._check)
        isolate.start(
            Start(
                start.filename,
                start.source,
                start.params or b"null",
                start.caller,
                start.target,
                start.memory_bytes,
                start.output_bytes,
                start.host_calls,
                start.serves,
                start.modules,
                start.off,
                start.read_only,
                start.room_bytes,
                start.tape,
            ),
            report,
        )

    def answer(self, answer: Answer) -> None:
        if self._player is not None:
            self._player.answer(answer)
        else:
            self._answers.append(answer)
        if self._is_dozing and self._watch is not None:
            self._is_dozing = False
            self._watch.cancel()
            self._watch = self._loop.call_later(self._start.metering_s, self._check)

    def go_on(self) -> None:
        """Give the guest what has come for it, unless a turn of its is under way."""
        if self._in_turn or self.is_over or self.isolate is None:
            return
        if self._player is not None:
            self._play(self._player)
        elif self._answers:
            answers, self._answers = self._answers, []
            self._settle(answers)
        elif self._alarm_rang:
            self._alarm_rang = False
            self._settle(None)

    def _settle(self, answers: list[Answer] | None) -> None:
        """The guest's next turn: with answers, or its alarm."""
        assert self.isolate is not None
        self._in_turn = True
        if answers is None:
            if self._taper is not None:
                self._taper.rang()
            self.isolate.tick()
        else:
            if self._taper is not None:
                self._taper.answered(answers)
            self.isolate.settle(answers)

    def _play(self, player: Player) -> None:
        """The turn that the tape has next. Behind its end a guest is given nothing."""
        if self._patience is not None:
            self._patience.cancel()
        turned = player.next(is_armed=self._is_armed)
        if turned is None:
            self._patience = self._loop.call_later(_QUIET_S, self._lose_patience, player)
        elif turned.answers is None:
            self._is_armed = False
            self._settle(None)
        else:
            self._settle(turned.answers)

    def _lose_patience(self, player: Player) -> None:
        """The guest was given nothing for a while, and did nothing by itself."""
        if self._in_turn or self.is_over or self.isolate is None:
            return
        if player.is_quiet:
            player.skip()
        elif self.isolate.is_waiting() and not player.is_coming(self._calls):
            self._end("cancelled")
            return
        self.go_on()

    def cancel(self) -> None:
        self._end("cancelled")

    def turned(self, turn: Turn) -> None:
        """A turn is over, or the guest went on by itself."""
        if self.is_over or self.isolate is None:
            return
        self._peak_rss_bytes = max(self._peak_rss_bytes, self._rss_bytes())
        if turn.broken is not None:
            self._broke(turn.broken)
        elif turn.records is None:
            if self._taper is not None:
                self._taper.looked()
            if self._player is not None and self._player.is_quiet:
                self._player.skip()
            self.isolate.look()
        else:
            self._in_turn = False
            self._take(turn.records)

    # ---- what the guest did ------------------------------------------------------------------

    def _take(self, raw: bytes) -> None:
        try:
            records = read_records(raw)
        except InvalidInput as error:
            self._fail("Error", error.message, "")
            return
        for record in records:
            self._handle(record)
            if self.is_over:
                return
        if self.isolate is not None and self.isolate.is_out_of_memory():
            self._end("limited", limit="memory")
        else:
            self.go_on()

    def _handle(self, record: Record) -> None:
        if isinstance(record, Returned):
            self._return(record)
        elif isinstance(record, Called):
            self._call(record)
        elif isinstance(record, Logged):
            self._output_bytes += len(record.text.encode())
            if self._output_bytes > self._start.output_bytes:
                self._end("limited", limit="output")
            else:
                self._send(Line(run=self.number, level=record.level, text=record.text))
        elif isinstance(record, Alarm):
            self._set_alarm(record.after_s)
        elif isinstance(record, Threw):
            if any(words in record.message for words in _NO_ROOM) and record.name == "RangeError":
                self._end("limited", limit="memory")
            else:
                self._fail(record.name, record.message, record.stack)
        elif isinstance(record, Reached):
            self._end("limited", limit=record.limit)
        elif self._taper is not None:
            self._taper.note(record)

    def _call(self, record: Called) -> None:
        self._calls += 1
        if self._calls > self._start.host_calls:
            self._end("limited", limit="host_calls")
            return
        self._send(
            Call(run=self.number, call=record.number, op=record.op, argument=record.argument)
        )

    def _return(self, record: Returned) -> None:
        result = record.result
        if record.is_bytes and result is not None:
            result = binascii.a2b_base64(result)
        self._output_bytes += len(result or b"")
        if self._output_bytes > self._start.output_bytes:
            self._end("limited", limit="output")
        else:
            self._end("done", result=result, is_bytes=record.is_bytes)

    def _broke(self, why: str) -> None:
        if why == "memory":
            self._end("limited", limit="memory")
        else:
            self._fail("Error", f"the run broke off: {why.strip()[:1000]}", "")

    def _set_alarm(self, after_s: float) -> None:
        if self._player is not None:
            self._is_armed = True
            return
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = self._loop.call_later(after_s, self._ring)

    def _ring(self) -> None:
        self._alarm = None
        self._alarm_rang = True
        self.go_on()

    # ---- limits and the end ------------------------------------------------------------------

    def _check(self) -> None:
        """At most as often as the limits could be reached: a guest's processor time grows no faster
        than the clock. This also sees code that belongs to no turn of ours."""
        assert self.isolate is not None
        wall_left_s = self._began_at + self._start.wall_s - time.monotonic()
        cpu_s = self.isolate.cpu_s()
        cpu_left_s = self._start.cpu_s - cpu_s
        if self.isolate.is_out_of_memory():
            self._end("limited", limit="memory")
        elif cpu_left_s <= 0:
            self._end("limited", limit="cpu")
        elif wall_left_s <= 0:
            self._end("limited", limit="wall")
        else:
            again_s = min(wall_left_s, cpu_left_s)
            if metering_s := self._start.metering_s:
                self._send(Metered(run=self.number, cpu_ms=round(cpu_s * 1000)))
                is_waiting = cpu_s == self._told_cpu_s
                self._told_cpu_s = cpu_s
                self._is_dozing = is_waiting and self._start.serves
                again_s = min(again_s, _LONG_PAUSE_S if self._is_dozing else metering_s)
            again_s = max(again_s, _LOOK_AGAIN_S)
            self._watch = self._loop.call_later(min(again_s, self._sprint(cpu_s)), self._check)

    def _sprint(self, cpu_s: float) -> float:
        """Make a guest step back that has used much; when to look at that again, in seconds: the
        less often, the longer it only waits."""
        assert self.isolate is not None
        if self._has_stepped_back:
            return self._start.wall_s
        if cpu_s >= _SPRINT_S:
            self._has_stepped_back = True
            self.isolate.step_back()
            return self._start.wall_s
        is_waiting = cpu_s - self._seen_cpu_s < _LOOK_AGAIN_S
        self._seen_cpu_s = cpu_s
        self._pause_s = min(2 * self._pause_s, _LONG_PAUSE_S) if is_waiting else _SPRINT_S
        return max(self._pause_s - cpu_s, _LOOK_AGAIN_S)

    def _fail(self, name: str, message: str, stack: str) -> None:
        self._end("failed", error_name=name, error_message=message, error_stack=stack)

    def _end(
        self,
        outcome: str,
        *,
        result: bytes | None = None,
        is_bytes: bool = False,
        limit: str | None = None,
        error_name: str | None = None,
        error_message: str | None = None,
        error_stack: str | None = None,
    ) -> None:
        if self.is_over:
            return
        self.is_over = True
        self.is_calm = outcome == "done"
        for timer in (self._alarm, self._watch, self._patience):
            if timer is not None:
                timer.cancel()
        wall_s = time.monotonic() - self._began_at if self._began_at else 0.0
        cpu_s = self.isolate.cpu_s() if self.isolate is not None else 0.0
        if self._taper is not None and (self._taper.is_full or not self._taper.is_empty):
            self._send(Taped(run=self.number, tape=self._taper.tape()))
        self._send(
            RunEnded(
                run=self.number,
                outcome=outcome,
                result=result,
                is_bytes=is_bytes,
                limit=limit,
                error_name=error_name,
                error_message=error_message,
                error_stack=error_stack,
                wall_ms=round(wall_s * 1000),
                cpu_ms=round(cpu_s * 1000),
                memory_bytes=self._peak_rss_bytes - self._first_rss_bytes,
                output_bytes=self._output_bytes,
                host_calls=self._calls,
            )
        )
        self._finished(self)
