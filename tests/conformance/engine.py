"""What every Engine promises (`orvalho/runtime/engine.py`), told by records and turns alone.

A suite per language gives its Programs; `test_engines.py` runs it for each engine there is.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from orvalho.runtime.bridge import (
    Alarm,
    Called,
    Logged,
    Record,
    Returned,
    Threw,
    read_records,
)
from orvalho.runtime.engine import Answer, Engine, Isolate, Start, Turn

PATIENCE_S = 10.0
MEMORY_BYTES = 32 << 20


@dataclass(frozen=True)
class Programs:
    """One program a promise, all in the engine's language. Parameters are `{"n": 1}`."""

    filename: str
    adds_one_to_n: str
    leaves_a_trace_and_answers_whether_there_was_one: str
    calls_target_kv_get_and_answers_that: str
    calls_it_and_answers_the_name_of_the_error: str
    logs_hello: str
    sleeps_5_ms_and_answers_7: str
    throws_wrong_on_line_2: str
    is_not_syntax_on_line_2: str
    loops: str
    loops_after_its_first_turn: str
    eats_memory: str
    answers_three_bytes: str


@dataclass
class Played:
    """An isolate with a guest in it, and the turns it reports."""

    isolate: Isolate
    turns: queue.SimpleQueue[Turn] = field(default_factory=queue.SimpleQueue)

    def start(self, programs: Programs, source: str) -> None:
        party = {"id": "ed25519:a", "name": "peer"}
        self.isolate.start(
            Start(programs.filename, source, b'{"n":1}', party, party, MEMORY_BYTES, 10_000, 100),
            self.turns.put,
        )

    def records(self) -> list[Record]:
        turn = self.turns.get(timeout=PATIENCE_S)
        assert turn.broken is None, turn
        if turn.records is None:
            self.isolate.look()
            return self.records()
        return read_records(turn.records)


@contextmanager
def playing(engine: Engine, programs: Programs, source: str) -> Iterator[Played]:
    played = Played(engine.open_isolate())
    try:
        played.start(programs, source)
        yield played
    finally:
        played.isolate.close()


class EngineSuite:
    """Subclass it with fixtures `engine` and `programs`."""

    @pytest.fixture
    def engine(self) -> Engine:
        raise AssertionError("the subclass says which engine")

    @pytest.fixture
    def programs(self) -> Programs:
        raise AssertionError("the subclass says which programs")

    def test_a_run_that_waits_for_nothing_is_over_after_its_first_turn(
        self, engine: Engine, programs: Programs
    ) -> None:
        with playing(engine, programs, programs.adds_one_to_n) as played:
            assert played.records() == [Returned(b"2")]

    def test_bytes_come_back_as_bytes(self, engine: Engine, programs: Programs) -> None:
        with playing(engine, programs, programs.answers_three_bytes) as played:
            assert played.records() == [Returned(b"AQID", is_bytes=True)]

    def test_nothing_of_one_run_is_seen_by_the_next(
        self, engine: Engine, programs: Programs
    ) -> None:
        for _ in range(2):
            source = programs.leaves_a_trace_and_answers_whether_there_was_one
            with playing(engine, programs, source) as played:
                assert played.records() == [Returned(b"false")]

    def test_a_call_is_answered(self, engine: Engine, programs: Programs) -> None:
        source = programs.calls_target_kv_get_and_answers_that
        with playing(engine, programs, source) as played:
            assert played.records() == [Called(1, "target.kv.get", b'["key"]')]
            played.isolate.settle([Answer(1, False, b'{"deep":[1]}')])
            assert played.records() == [Returned(b'{"deep":[1]}')]

    def test_a_refused_call_throws_in_the_guest(self, engine: Engine, programs: Programs) -> None:
        source = programs.calls_it_and_answers_the_name_of_the_error
        with playing(engine, programs, source) as played:
            played.records()
            played.isolate.settle([Answer(1, True, b'{"name":"Denied","message":"no"}')])
            assert played.records() == [Returned(b'"Denied"')]

    def test_an_answer_that_nobody_waits_for_is_ignored(
        self, engine: Engine, programs: Programs
    ) -> None:
        source = programs.calls_target_kv_get_and_answers_that
        with playing(engine, programs, source) as played:
            played.records()
            played.isolate.settle([Answer(99, False, b"1")])
            assert played.records() == []

    def test_a_log_line_comes_before_the_result(self, engine: Engine, programs: Programs) -> None:
        with playing(engine, programs, programs.logs_hello) as played:
            assert played.records() == [Logged("log", "hello"), Returned(None)]

    def test_an_alarm_rings_when_the_host_says_so(self, engine: Engine, programs: Programs) -> None:
        with playing(engine, programs, programs.sleeps_5_ms_and_answers_7) as played:
            (alarm,) = played.records()
            assert isinstance(alarm, Alarm)
            assert 0.004 <= alarm.after_s <= 0.006
            time.sleep(0.01)
            played.isolate.tick()
            assert played.records() == [Returned(b"7")]

    def test_what_is_thrown_has_its_place(self, engine: Engine, programs: Programs) -> None:
        with playing(engine, programs, programs.throws_wrong_on_line_2) as played:
            (thrown,) = played.records()
            assert isinstance(thrown, Threw)
            assert thrown.message == "wrong"
            assert f"{programs.filename}:2:" in thrown.stack

    def test_a_syntax_error_is_thrown_with_its_place(
        self, engine: Engine, programs: Programs
    ) -> None:
        with playing(engine, programs, programs.is_not_syntax_on_line_2) as played:
            (thrown,) = played.records()
            assert isinstance(thrown, Threw)
            assert f"{programs.filename}:2:" in thrown.stack

    def test_a_check_finds_it_too_and_runs_nothing(
        self, engine: Engine, programs: Programs
    ) -> None:
        (problem,) = engine.check(programs.filename, programs.is_not_syntax_on_line_2)
        assert problem.line == 2
        assert engine.check(programs.filename, programs.loops) == ()

    @pytest.mark.parametrize("when", ["loops", "loops_after_its_first_turn"])
    def test_closing_stops_a_guest_that_would_not(
        self, engine: Engine, programs: Programs, when: str
    ) -> None:
        played = Played(engine.open_isolate())
        played.start(programs, getattr(programs, when))
        time.sleep(0.1)
        spent_s = played.isolate.cpu_s()
        closing = threading.Thread(target=played.isolate.close)
        closing.start()
        closing.join(PATIENCE_S)
        assert not closing.is_alive()
        assert spent_s > 0.02

    def test_a_guest_cannot_have_more_than_its_memory(
        self, engine: Engine, programs: Programs
    ) -> None:
        with playing(engine, programs, programs.eats_memory) as played:
            turn = played.turns.get(timeout=PATIENCE_S)
            assert turn.broken == "memory"
            assert played.isolate.is_out_of_memory()

    def test_isolates_beside_each_other_do_not_wait_for_each_other(
        self, engine: Engine, programs: Programs
    ) -> None:
        with (
            playing(engine, programs, programs.loops),
            playing(engine, programs, programs.adds_one_to_n) as played,
        ):
            assert played.records() == [Returned(b"2")]
