"""The guest's world: console, timers, encodings, random numbers."""

from __future__ import annotations

import base64
import json
import uuid

import pytest

from orvalho.runtime.job import Jobs
from tests.runtime.play import play, value_of

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("expression", "shown"),
    [
        ("'plain', 'words'", "plain words"),
        ("1, -0, 2n, true, null, undefined", "1 -0 2n true null undefined"),
        ("[1, 'a', [2]]", '[ 1, "a", [ 2 ] ]'),
        ("{ a: 1, 'b c': { d: [] } }", '{ a: 1, "b c": { d: [] } }'),
        ("[{ a: { b: { c: { d: 1 } } } }]", "[ { a: { b: { c: [Object] } } } ]"),
        ("new Map([['a', 1]]), new Set([2])", 'Map(1) { "a" => 1 } Set(1) { 2 }'),
        ("new Uint8Array([1, 2])", "Uint8Array(2) [ 1, 2 ]"),
        ("() => 1, function f() {}, class A {}", "[Function] [Function: f] [Function: A]"),
        ("new Date(0), /a+/g, Symbol('s')", "1970-01-01T00:00:00.000Z /a+/g Symbol(s)"),
        ("new (class Point { x = 1 })()", "Point { x: 1 }"),
        ("Object.create(null)", "[no prototype] {}"),
        ("{ get a() { throw 1 } }", "[cannot be shown]"),
        ("(() => { const a = {}; a.a = a; return a })()", "{ a: [Circular] }"),
    ],
)
async def test_what_a_log_line_shows(jobs: Jobs, expression: str, shown: str) -> None:
    _, lines = await play(jobs, f"log({expression})")
    assert [line.text for line in lines] == [shown]


async def test_an_array_that_is_too_long_is_cut(jobs: Jobs) -> None:
    _, lines = await play(jobs, "log(Array(1000).fill(7))")
    assert lines[0].text.endswith("7, ... 900 more ]")


async def test_an_error_is_shown_with_its_stack(jobs: Jobs) -> None:
    _, lines = await play(jobs, "log(new TypeError('x'))")
    assert lines[0].text == "TypeError: x\n    at job.js:1:5"


async def test_timers_ring_in_their_order_with_microtasks_between(jobs: Jobs) -> None:
    source = """const seen = [];
      setTimeout(() => seen.push('late'), 20);
      setTimeout((x) => { seen.push(x); Promise.resolve().then(() => seen.push('micro')) }, 5, 'a');
      setTimeout(() => seen.push('b'), 5);
      clearTimeout(setTimeout(() => seen.push('never'), 1));
      queueMicrotask(() => seen.push('first'));
      const every = setInterval(() => { if (seen.push('i') > 6) clearInterval(every) }, 8);
      await new Promise((r) => setTimeout(r, 60)); seen"""
    seen = await value_of(jobs, source)
    assert seen[:4] == ["first", "a", "micro", "b"]
    assert "late" in seen
    assert "never" not in seen
    assert seen.count("i") >= 2


async def test_what_a_timer_throws_ends_the_run(jobs: Jobs) -> None:
    source = "setTimeout(() => { throw new Error('in a timer') }); await new Promise(() => {})"
    ended, _ = await play(jobs, source)
    assert (ended.outcome, ended.error_message) == ("failed", "in a timer")


async def test_utf8_is_that_of_python(jobs: Jobs) -> None:
    text = "aé€😀\ufeff\x00" * 3
    raw = bytes([0x61, 0xFF, 0xC3, 0x28, 0xE2, 0x82, 0xF0, 0x9F, 0x98, 0x41, 0xED, 0xA0, 0x80])
    source = """const [text, raw] = params, e = new TextEncoder(), d = new TextDecoder();
      [e.encode(text).toBase64(), d.decode(e.encode(text)), d.decode(Uint8Array.fromBase64(raw))]"""
    answer = await value_of(jobs, source, params=[text, base64.b64encode(raw).decode()])
    assert base64.b64decode(answer[0]) == text.encode()
    assert answer[1] == text
    assert answer[2] == raw.decode(errors="replace")


async def test_decoders_refuse_what_they_do_not_know(jobs: Jobs) -> None:
    source = """const names = [];
      for (const f of [() => new TextDecoder('utf-16'), () => atob('*'), () => btoa('é€'),
        () => new TextDecoder('utf-8', { fatal: true }).decode(new Uint8Array([255])),
        () => crypto.getRandomValues(new Float32Array(1)), () => setTimeout('code')]) {
        try { f() } catch (e) { names.push(e.name) } }
      names"""
    assert await value_of(jobs, source) == [
        "RangeError",
        "InvalidCharacterError",
        "InvalidCharacterError",
        "TypeError",
        "TypeError",
        "TypeError",
    ]


async def test_base64_is_that_of_python(jobs: Jobs) -> None:
    raw = bytes(range(256))
    source = "[btoa(atob(params)) === params, atob(params).charCodeAt(255)]"
    assert await value_of(jobs, source, params=base64.b64encode(raw).decode()) == [True, 255]


async def test_random_numbers_differ_from_run_to_run(jobs: Jobs) -> None:
    source = """const b = crypto.getRandomValues(new Uint8Array(1000));
      [crypto.randomUUID(), new Set(b).size, [...new Uint32Array(b.buffer)].slice(0, 4)]"""
    first, second = [await value_of(jobs, source) for _ in range(2)]
    assert uuid.UUID(first[0]).version == 4
    assert first[0] != second[0]
    assert first[2] != second[2]
    assert first[1] > 200


async def test_chacha20_is_that_of_the_rfc(jobs: Jobs) -> None:
    """RFC 8439, A.1: with a key, a nonce and a counter of zeros. The guest hands its own key."""
    from orvalho.runtime.web import scope

    kit = "{ emit() {} }"
    made = f"({scope.source('crypto.js').strip()})({kit}, {{ seed: params }})"
    program = f"const made = {made};"
    source = f"{program}\nmade.crypto.getRandomValues(new Uint8Array(128)).toHex()"
    stream = await value_of(jobs, source, params="00" * 32)
    assert stream.startswith("76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7")
    assert stream[128:].startswith(
        "9f07e7be5551387a98ba977c732d080dcb0f29a048e3656912c6533e32ee7aed"
    )


async def test_a_global_can_be_replaced_by_its_script(jobs: Jobs) -> None:
    source = """const was = typeof setTimeout; setTimeout = 5; globalThis.console = 6;
      [was, setTimeout, console]"""
    assert await value_of(jobs, source) == ["function", 5, 6]


async def test_wasm_and_intl_are_there(jobs: Jobs) -> None:
    source = """const m = await WebAssembly.compile(new Uint8Array([0, 97, 115, 109, 1, 0, 0, 0]));
      [m instanceof WebAssembly.Module, new Intl.NumberFormat('de').format(1234.5)]"""
    assert await value_of(jobs, source) == [True, "1.234,5"]


async def test_no_source_file_of_the_prelude_reaches_the_guest(jobs: Jobs) -> None:
    source = "Object.getOwnPropertyNames(globalThis).filter((n) => /orv|kit|prelude|part/i.test(n))"
    assert await value_of(jobs, source) == []
    assert json.dumps(await value_of(jobs, "[typeof sources, typeof use]")) == json.dumps(
        ["undefined", "undefined"]
    )
