"""Values of every type, through a real component and back; and the reader's types against those
that wasmtime finds."""

from __future__ import annotations

import json
import queue
import time
from typing import Any, cast

import msgspec
import pytest
import wasmtime
from hypothesis import given, settings
from hypothesis import strategies as st
from wasmtime import component as c

from orvalho.runtime.bridge import Returned, Threw, read_records
from orvalho.runtime.engine import Compiler, Start, Turn
from orvalho.runtime.engines.catalog import make_engine
from orvalho.scripts.wasm.interfaces import read_component
from orvalho.scripts.wasm.wit import WitType, give, make_type, take
from tests.runtime import component_text
from tests.runtime.wit_types import TYPES, Text, json_values

ENGINE = cast("Compiler", make_engine("wasm"))
USES = "(memory (core memory $memory)) (realloc (core func $realloc))"
# So many that parameters and results both go through memory: what comes in can go out as it is.
PADDING = tuple(WitType("u8") for _ in range(17))
IDENTITY = '(func (export "echo") (param i32) (result i32) (local.get 0))'


def echo(kind: WitType) -> bytes:
    text = Text()
    name = text.name(kind)
    return component_text.functions(
        text.definitions(),
        IDENTITY,
        f'(func (export "echo") (param "x" {name}) (result {name})'
        f' (canon lift (core func $main "echo") {USES}))',
    )


def padded(kind: WitType) -> WitType:
    return make_type("tuple", (), (kind, *PADDING))


def run(raw: bytes, params: Any) -> Returned | Threw:
    problems, code = ENGINE.compile("job.wasm", raw)
    assert problems == ()
    ENGINE.load("key", code, ())
    isolate, turns = ENGINE.open_isolate(), queue.SimpleQueue[Turn]()
    party = {"id": "a", "name": "a"}
    start = Start("job.wasm", "key", msgspec.json.encode(params), party, party, 32 << 20, 10**7, 9)
    isolate.start(start, turns.put)
    try:
        (record,) = read_records(turns.get(timeout=30).records or b"")
    finally:
        isolate.close()
    assert isinstance(record, Returned | Threw)
    return record


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_value_of_any_type_crosses_a_component_and_comes_back(data: st.DataObject) -> None:
    kind = padded(data.draw(TYPES))
    value = data.draw(json_values(kind))
    found = run(echo(kind), {"call": "echo", "args": [value]})
    assert isinstance(found, Returned), found
    wanted = msgspec.json.decode(msgspec.json.encode(give(take(value, kind), kind)))
    assert json.loads(found.result or b"") == wanted


@settings(max_examples=60, deadline=None)
@given(TYPES)
def test_the_reader_finds_the_types_that_wasmtime_finds(kind: WitType) -> None:
    raw = echo(padded(kind))
    (interface,) = read_component(raw).exports
    (function,) = interface.functions
    assert function.parameters == (("x", padded(kind)),)
    assert function.result == padded(kind)
    theirs = c.Component(wasmtime.Engine(), raw).type.exports(wasmtime.Engine())["echo"].ty
    assert isinstance(theirs, c.FuncType)
    ((name, found),) = theirs.params
    assert (name, described(found)) == ("x", padded(kind))


def described(kind: Any) -> WitType:
    """A type of wasmtime-py's as ours."""
    name = type(kind).__name__.removesuffix("Type").lower()
    if name in ("list", "option"):
        part = kind.element if name == "list" else kind.payload
        return make_type(name, (), (described(part),))
    if name == "tuple":
        return make_type(name, (), tuple(map(described, kind.elements)))
    if name == "record":
        return _named(name, kind.fields)
    if name == "variant":
        return _named(name, kind.cases)
    if name == "result":
        return make_type(name, (), tuple(p and described(p) for p in (kind.ok, kind.err)))
    if name in ("enum", "flags"):
        return make_type(name, tuple(kind.names))
    return WitType(name)


def _named(name: str, pairs: Any) -> WitType:
    pairs = list(pairs.items()) if isinstance(pairs, dict) else list(pairs)
    return make_type(name, tuple(n for n, _ in pairs), tuple(p and described(p) for _, p in pairs))


def test_bytes_cross_as_a_whole_not_one_by_one() -> None:
    """A conversion of each byte by itself takes a second for a million of them."""
    kind = make_type("list", (), (WitType("u8"),))
    raw = component_text.functions(
        "",
        '(func (export "echo") (param i32 i32) (result i32)'
        " (i32.store (i32.const 512) (local.get 0)) (i32.store (i32.const 516) (local.get 1))"
        " (i32.const 512))",
        f'(func (export "echo") (param "x" (list u8)) (result (list u8))'
        f' (canon lift (core func $main "echo") {USES}))',
    )
    content = bytes(range(256)) * 4096
    params = {"call": "echo", "args": [give(content, kind)]}
    run(raw, params)
    began = time.thread_time(), time.monotonic()
    found = run(raw, params)
    assert isinstance(found, Returned)
    assert found.is_bytes
    assert found.result == params["args"][0]["$bytes"].encode()
    assert time.monotonic() - began[1] < 5


@pytest.mark.parametrize("value", ["\U0001f600", "", "\0", "é" * 1000])
def test_texts_cross(value: str) -> None:
    kind = padded(WitType("string"))
    params = {"call": "echo", "args": [[value, *range(17)]]}
    found = run(echo(kind), params)
    assert isinstance(found, Returned)
    assert json.loads(found.result or b"")[0] == value
