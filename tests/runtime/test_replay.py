"""Runs that are recorded and made again, in real workers: the same, and where they differ."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import anyio
import msgspec
import pytest

from orvalho.errors import Denied, Untrusted
from orvalho.policies.quota import Limits
from orvalho.runtime.bridge import HostCall
from orvalho.runtime.engine import Tape
from orvalho.runtime.job import Ended, Job, Jobs
from orvalho.runtime.recording import (
    Difference,
    RecordedCall,
    Recording,
    decode_recording,
    encode_recording,
)
from tests.runtime import wat
from tests.runtime.play import CALLER, LIMITS, TARGET, make_job

pytestmark = pytest.mark.anyio
ROOM = 1 << 20


async def _through(jobs: Jobs, job: Job) -> tuple[Ended, list[str], Any]:
    lines: list[str] = []
    with anyio.fail_after(30):
        async with jobs.open(job) as run:
            async for event in run:
                if isinstance(event, Ended):
                    return event, lines, run
                lines.append(event.text)
    raise AssertionError("a run ends with Ended")


async def record(
    jobs: Jobs, source: Any, ops: Mapping[str, HostCall] | None = None, **more: Any
) -> tuple[Ended, list[str], Recording]:
    job = replace(make_job(source, ops=ops, **more), record_bytes=ROOM)
    ended, lines, run = await _through(jobs, job)
    assert not run.recorder.is_full
    recording = run.recorder.recording(CALLER, TARGET, job.limits)
    return ended, lines, decode_recording(encode_recording(recording))


async def again(
    jobs: Jobs, source: Any, recording: Recording, **more: Any
) -> tuple[Ended, list[str], Difference | None]:
    job = replace(make_job(source, **more), replay=recording)
    ended, lines, run = await _through(jobs, job)
    return ended, lines, run.playback.ended()


async def is_same(
    jobs: Jobs, source: Any, *, outcome: str = "done", **more: Any
) -> tuple[Ended, list[str], Recording]:
    """Record it, make it again, and see that nothing differs."""
    ended, lines, recording = await record(jobs, source, **more)
    more.pop("ops", None)
    ended2, lines2, difference = await again(jobs, source, recording, **more)
    assert difference is None, difference
    assert (ended2.outcome, ended2.result, ended2.error_message) == (
        ended.outcome,
        ended.result,
        ended.error_message,
    )
    assert lines2 == lines
    assert ended.outcome == outcome, ended
    return ended, lines, recording


def answers(*delays_s: float) -> dict[str, HostCall]:
    """`target.kv.get` answers the key it was asked for, each after a while of its own."""
    left = list(delays_s)

    async def get(argument: str) -> str:
        await anyio.sleep(left.pop(0) if left else 0)
        (key,) = json.loads(argument)
        if key == "no":
            raise Denied("not for you", rule="peer.csv:3")
        return json.dumps(key)

    return {"target.kv.get": get}


class TestJavaScript:
    async def test_one_that_reads_nothing_has_nothing_to_be_recorded(self, jobs: Jobs) -> None:
        job = replace(make_job("export default () => 1 + 1"), record_bytes=ROOM)
        ended, _, run = await _through(jobs, job)
        assert ended.result == b"2"
        assert run.recorder.is_empty and not run.recorder.is_full

    async def test_calls_are_answered_from_the_recording(self, jobs: Jobs) -> None:
        source = """export default async ({ target }) => {
          const found = [await target.kv.get("a"), await target.kv.get("b")];
          try { await target.kv.get("no"); } catch (e) { found.push(e.name, e.message, e.rule); }
          console.log(found.length);
          return found;
        }"""
        ended, lines, recording = await is_same(jobs, source, ops=answers())
        assert json.loads(ended.result or b"") == ["a", "b", "Denied", "not for you", "peer.csv:3"]
        assert lines == ["5"]
        assert [call.op for call in recording.calls] == ["target.kv.get"] * 3

    async def test_answers_come_in_the_order_in_which_they_came(self, jobs: Jobs) -> None:
        source = """export default async ({ target }) => {
          const order = [];
          await Promise.all(["a", "b", "c"].map(async (k) => order.push(await target.kv.get(k))));
          return [order, await Promise.race([target.kv.get("d"), target.kv.get("e")])];
        }"""
        ops = answers(0.2, 0.1, 0, 0.1, 0)
        ended, _, _ = await is_same(jobs, source, ops=ops)
        assert json.loads(ended.result or b"") == [["c", "b", "a"], "e"]

    async def test_the_clock_says_what_it_said(self, jobs: Jobs) -> None:
        source = """export default async () => {
          const all = [Date.now(), +new Date(), Date(), new Date().toISOString()];
          for (let i = 0; i < 5; i++) {
            await new Promise((done) => setTimeout(done, 7));
            all.push(Date.now(), new (class Mine extends Date {})().getTime());
          }
          const format = new Intl.DateTimeFormat("en", { timeStyle: "full", timeZone: "UTC" });
          all.push(format.format(), format.formatToParts().length);
          all.push(Temporal.Now.instant().toString());
          all.push(new Date(2020, 1, 2).getMonth(), Date.UTC(2020, 1), Date.length, Date.name);
          all.push(new Date() instanceof Date, new Date().constructor === Date, Date.parse("2020"));
          all.push(Date.prototype.constructor === Date, typeof Date.now());
          return all;
        }"""
        ended, _, recording = await is_same(jobs, source)
        values = json.loads(ended.result or b"")
        assert values[0] > 1_700_000_000_000
        assert values[-9:-5] == [1, 1580515200000, 7, "Date"]
        assert values[-5:] == [True, True, 1577836800000, True, "number"]
        assert recording.tape.turns == b"T T T T T"

    async def test_a_loop_over_the_clock_is_a_short_tape(self, jobs: Jobs) -> None:
        source = """export default () => {
          const end = Date.now() + 60;
          let n = 0;
          while (Date.now() < end) n++;
          return n;
        }"""
        ended, _, recording = await is_same(jobs, source)
        assert json.loads(ended.result or b"0") > 1000
        assert len(recording.tape.clock) < 1500

    async def test_chance_is_the_same_again_and_not_the_same_in_another_run(
        self, jobs: Jobs
    ) -> None:
        source = """export default () => [
          Math.random(), Math.random(), crypto.randomUUID(),
          [...crypto.getRandomValues(new Uint8Array(70))]]"""
        first, _, _ = await is_same(jobs, source)
        second, _, _ = await is_same(jobs, source)
        assert first.result != second.result

    async def test_math_random_is_even(self, jobs: Jobs) -> None:
        source = """export default () => {
          const found = new Array(10).fill(0);
          let all = true;
          for (let i = 0; i < 100000; i++) {
            const x = Math.random();
            all &&= x >= 0 && x < 1;
            found[Math.floor(x * 10)]++;
          }
          return [all, Math.min(...found), Math.max(...found), Object.keys(Math).length];
        }"""
        ended, _, _ = await is_same(jobs, source)
        all_, least, most, keys = json.loads(ended.result or b"")
        assert all_ and keys == 0
        # Ten standard deviations around 10,000.
        assert 9050 < least <= most < 10950

    async def test_timers_need_no_time_in_a_replay(self, jobs: Jobs) -> None:
        source = """export default async () => {
          const order = [];
          const after = (ms, what) => new Promise((done) =>
            setTimeout(() => { order.push(what); done(); }, ms));
          const every = setInterval(() => order.push("i"), 100);
          const dead = setTimeout(() => order.push("never"), 50);
          clearTimeout(dead);
          await Promise.all([after(250, "b"), after(120, "a"), after(0, "0")]);
          clearInterval(every);
          await after(900, "c");
          return order;
        }"""
        _, _, recording = await is_same(jobs, source)
        began_at = anyio.current_time()
        ended, _, _ = await again(jobs, source, recording)
        # The run itself took 1.15 s by its timers alone.
        assert anyio.current_time() - began_at < 1.1
        assert json.loads(ended.result or b"") == ["0", "i", "a", "i", "b", "c"]

    async def test_timers_between_calls_keep_their_places(self, jobs: Jobs) -> None:
        source = """export default async ({ target }) => {
          const order = [];
          const tick = setInterval(() => order.push(Date.now()), 3);
          for (const key of ["a", "b", "c"]) order.push(await target.kv.get(key));
          clearInterval(tick);
          return order;
        }"""
        ended, _, _ = await is_same(jobs, source, ops=answers(0.03, 0.02, 0.01))
        assert len(json.loads(ended.result or b"")) > 5

    async def test_one_that_failed_fails_so_again(self, jobs: Jobs) -> None:
        ended, _, _ = await is_same(
            jobs,
            'export default async ({ target }) => { await target.kv.get("no"); }',
            ops=answers(),
            outcome="failed",
        )
        assert (ended.outcome, ended.error_name) == ("failed", "Denied")

    async def test_one_that_waited_for_ever_ends_where_it_was_stopped(self, jobs: Jobs) -> None:
        source = """export default async ({ target }) => {
          console.log(await target.kv.get("a"));
          await new Promise(() => {});
        }"""
        limits = msgspec.structs.replace(LIMITS, wall_s=0.5)
        ended, lines, recording = await record(jobs, source, answers(), limits=limits)
        assert ended.limit == "wall"
        ended, again_lines, difference = await again(jobs, source, recording)
        assert (ended.outcome, difference, again_lines) == ("cancelled", None, lines)

    async def test_a_module_that_is_compiled_meanwhile(self, jobs: Jobs) -> None:
        source = """export default async ({ target }) => {
          const bytes = new Uint8Array([0, 97, 115, 109, 1, 0, 0, 0]);
          const module = await WebAssembly.compile(bytes);
          const a = await target.kv.get("a");
          await WebAssembly.instantiate(bytes);
          return [a, String(module)];
        }"""
        ended, _, _ = await is_same(jobs, source, ops=answers())
        assert json.loads(ended.result or b"") == ["a", "[object WebAssembly.Module]"]


class TestDifferences:
    async def test_another_call(self, jobs: Jobs) -> None:
        source = "export default async ({ target, params }) => [await target.kv.get(params)]"
        _, _, recording = await record(jobs, source, answers(), params="a")
        ended, _, difference = await again(jobs, source, recording, params="b")
        assert difference == Difference(
            "call", 1, "target.kv.get", 'target.kv.get ["a"]', 'target.kv.get ["b"]'
        )
        assert ended.outcome == "cancelled"

    async def test_calls_in_another_order_more_and_fewer(self, jobs: Jobs) -> None:
        source = """export default async ({ target, params }) => {
          for (const key of params) await target.kv.get(key);
        }"""
        _, _, recording = await record(jobs, source, answers(), params=["a", "b"])
        for keys, number, recorded, now in (
            (["b", "a"], 1, 'target.kv.get ["a"]', 'target.kv.get ["b"]'),
            (["a"], 2, 'target.kv.get ["b"]', None),
            (["a", "b", "c"], 3, None, 'target.kv.get ["c"]'),
        ):
            _, _, difference = await again(jobs, source, recording, params=keys)
            assert difference is not None
            assert (difference.number, difference.recorded, difference.now) == (
                number,
                recorded,
                now,
            )

    async def test_a_long_argument_is_known_by_its_digest(self, jobs: Jobs) -> None:
        source = """export default async ({ target, params }) => {
          try { await target.kv.get("x".repeat(9000) + params); } catch {}
        }"""
        _, _, recording = await record(jobs, source, params="a")
        assert recording.calls[0].argument_bytes == 9005
        assert len(recording.calls[0].argument) == 32
        _, _, difference = await again(jobs, source, recording, params="a")
        assert difference is None
        _, _, difference = await again(jobs, source, recording, params="b")
        assert difference is not None and "9005 bytes" in (difference.now or "")

    async def test_another_look_at_clock_and_chance(self, jobs: Jobs) -> None:
        source = """export default ({ params }) => {
          if (params === "clock") return Date.now() > 0;
          if (params === "chance") return Math.random() < 2;
          return true;
        }"""
        _, _, recording = await record(jobs, source, params="")
        for what in ("clock", "chance"):
            _, _, difference = await again(jobs, source, recording, params=what)
            assert difference is not None and difference.what == what

    async def test_nothing_tells_a_replay_from_a_run(self, jobs: Jobs) -> None:
        """All that a script can look at is what it was."""
        source = """export default async ({ caller, target, params, log }) => {
          const names = Object.getOwnPropertyNames(globalThis).sort();
          const shown = (object, depth) => Reflect.ownKeys(object).map((key) => {
            const d = Reflect.getOwnPropertyDescriptor(object, key);
            const kind = "value" in d ? typeof d.value : "accessor";
            const value = kind + (kind === "function" ? d.value.length + d.value.name : "");
            return [String(key), value, d.enumerable, d.writable, d.configurable].join();
          });
          let stack;
          try { Date.now.call(null, null.x); } catch (e) { stack = e.stack; }
          const before = Date.now(), hidden = globalThis["Tem" + "poral"];
          await new Promise((done) => setTimeout(done, 300));
          return [names, shown(Date), shown(Math), shown(Intl), shown(crypto), shown(console),
            shown(globalThis), shown(target), shown(caller), stack, Date.now() - before >= 300,
            Date.toString(), Math.random.toString(), typeof hidden];
        }"""
        await is_same(jobs, source)

    async def test_a_clock_that_is_not_recorded_does_not_tell_the_time_in_a_replay(
        self, jobs: Jobs
    ) -> None:
        """`Temporal` is looked at by name: whoever hides that is told of, not let through."""
        source = """export default () => {
          const at = globalThis["Tem" + "poral"].Now.instant().epochMilliseconds;
          return Date.now() - at > 3_600_000 ? "replay" : "run";
        }"""
        ended, _, recording = await record(jobs, source)
        assert ended.result == b'"run"'
        ended, _, difference = await again(jobs, source, recording)
        assert ended.result == b'"run"'
        assert difference is not None and difference.what == "clock"


class TestForged:
    SOURCE = """export default async ({ target }) => {
      const all = await Promise.all([target.kv.get("a"), target.kv.get("b")]);
      await new Promise((done) => setTimeout(done, 1));
      return [all, Date.now(), Math.random()];
    }"""

    @pytest.mark.parametrize(
        "tape",
        [
            Tape(turns=b"T"),
            Tape(turns=b"A1,2 T T T T"),
            Tape(turns=b"A2"),
            Tape(turns=b"L L L"),
            Tape(turns=b"A1,2 T", clock=b"zz 1: :1 -:- 5:5", chance=b"\xff\x00no"),
            Tape(turns=b"A1,2 T", clock=b"9999999999999999:999999999999999 1:1", chance=b"ab" * 9),
        ],
    )
    async def test_a_tape_that_nobody_recorded_ends_a_replay_and_nothing_else(
        self, jobs: Jobs, tape: Tape
    ) -> None:
        _, _, recording = await record(jobs, self.SOURCE, answers())
        forged = msgspec.structs.replace(recording, tape=tape)
        ended, _, difference = await again(
            jobs, self.SOURCE, decode_recording(encode_recording(forged))
        )
        assert difference is not None or ended.outcome == "cancelled"
        ended, _, difference = await again(jobs, self.SOURCE, recording)
        assert (ended.outcome, difference) == ("done", None)

    @pytest.mark.parametrize(
        ("turns", "answer"),
        [
            (b"A3", b"1"),
            (b"A1 A1", b"1"),
            (b"A1,1", b"1"),
            (b"A0", b"1"),
            (b"A-1", b"1"),
            (b"A", b"1"),
            (b"A1,", b"1"),
            (b"A999999999999", b"1"),
            (b"X", b"1"),
            (b"A1", b"1,2"),
            (b"A1", b"]"),
            (b"A1", b"\xff"),
            (b"A1", b"[" * 200_000),
            (b"A1", None),
        ],
    )
    def test_what_cannot_have_been_recorded_is_refused(
        self, turns: bytes, answer: bytes | None
    ) -> None:
        recording = Recording(
            calls=(RecordedCall("target.kv.get", b'["a"]', None, answer),),
            tape=Tape(turns=turns),
            caller=CALLER,
            target=TARGET,
            limits=LIMITS,
        )
        with pytest.raises(Untrusted):
            decode_recording(encode_recording(recording))

    def test_each_cut_of_one_is_refused(self) -> None:
        whole = encode_recording(
            Recording(
                calls=(RecordedCall("target.kv.get", b'["a"]', None, b"1"),),
                tape=Tape(turns=b"A1"),
                caller=CALLER,
                target=TARGET,
                limits=LIMITS,
            )
        )
        decode_recording(whole)
        for size in range(len(whole)):
            with pytest.raises(Untrusted):
                decode_recording(whole[:size])

    @pytest.mark.parametrize(
        ("source", "limit"),
        [
            ("export default () => { for (;;); }", "cpu"),
            (
                "export default () => { const a = []; for (;;) a.push(new Array(1e5).fill(1)); }",
                "memory",
            ),
            ("export default () => { for (;;) console.log('x'.repeat(1000)); }", "output"),
        ],
    )
    async def test_limits_hold_in_a_replay(self, jobs: Jobs, source: str, limit: str) -> None:
        limits = Limits(
            wall_s=5.0, cpu_s=0.5, memory_bytes=48 << 20, output_bytes=100_000, host_calls=5
        )
        empty = Recording(caller=CALLER, target=TARGET, limits=limits)
        ended, _, _ = await again(jobs, source, empty, limits=limits)
        assert ended.limit == limit


class TestRoom:
    async def test_a_run_that_got_too_much_has_no_recording(self, jobs: Jobs) -> None:
        source = """export default async ({ target }) => {
          for (let i = 0; i < 20; i++) await target.kv.get("x".repeat(1000));
        }"""
        job = replace(make_job(source, ops=answers()), record_bytes=10_000)
        ended, _, run = await _through(jobs, job)
        assert ended.outcome == "done" and run.recorder.is_full

    async def test_nor_one_that_read_the_clock_too_often(self, jobs: Jobs) -> None:
        source = """export default async () => {
          const end = Date.now() + 200;
          while (Date.now() < end);
          return true;
        }"""
        job = replace(make_job(source), record_bytes=100)
        ended, _, run = await _through(jobs, job)
        assert ended.result == b"true" and run.recorder.is_full


CLOCK = """
  (import "wasi_snapshot_preview1" "clock_time_get" (func $clock (param i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
"""


class TestOthers:
    async def test_a_module_of_webassembly(self, jobs: Jobs) -> None:
        program = wat.module(
            """(func (export "run")
              (drop (call $clock (i32.const 0) (i64.const 1) (i32.const 2048)))
              (call $sleep (i64.const 20))
              (drop (call $clock (i32.const 1) (i64.const 1) (i32.const 2056)))
              (drop (call $random (i32.const 2064) (i32.const 40)))
              (drop (call $call (i32.const 1024) (i32.const 13) (i32.const 1040) (i32.const 5)))
              (call $take (i32.const 2104))
              (call $result_bytes (i32.const 2048) (i32.const 59)))""",
            data={1024: "target.kv.get", 1040: '[\\"a\\"]'},
            imports=wat.HEAD + CLOCK,
        )
        ended, _, recording = await is_same(jobs, program, filename="job.wasm", ops=answers())
        assert ended.is_bytes and ended.result is not None and ended.result.endswith(b'"a"')
        assert recording.tape.turns == b"T A1"
        assert len(recording.tape.clock.split()) == 2 and len(recording.tape.chance) == 80

    async def test_starlark(self, jobs: Jobs) -> None:
        source = 'def main(job):\n  return [job.target.kv.get("a"), job.target.kv.get("b")]\n'
        ended, _, recording = await is_same(jobs, source, filename="job.star", ops=answers())
        assert json.loads(ended.result or b"") == ["a", "b"]
        assert recording.tape.turns == b"A1 A2"
