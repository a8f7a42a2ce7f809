"""Texts to arguments, by declared types."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orvalho.errors import InvalidInput
from orvalho.scripts.wasm.arguments import convert
from orvalho.scripts.wasm.metadata import Function, Parameter


def one(kind: str) -> Function:
    parameters = (Parameter(name="", type=kind),)
    return Function(interface="", name="f", parameters=parameters, results=())


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("i32", "-2", -2), ("i32", "4294967295", 4294967295), ("i64", "0x10", 16),
        ("u8", "255", 255),
        ("s8", "-0x80", -128), ("f64", "1e3", 1000.0), ("f32", "3", 3), ("bool", "true", True),
        ("string", "2", "2"), ("string", "", ""), ("char", "é", "é"), ("enum {a, b}", "a", "a"),
        ("option<u8>", "null", None), ("option<u8>", "7", 7), ("list<u8>", "[1, 2]", [1, 2]),
        ("record {x: s32}", '{"x": 1}', {"x": 1}), ("tuple<s32, string>", '[1, "a"]', [1, "a"]),
        ("result<s32, string>", '{"ok": 1}', {"ok": 1}), ("result", "ok", "ok"),
        ("variant {point, circle(f64)}", "point", "point"),
        ("variant {point, circle(f64)}", '"point"', "point"),
        ("variant {point, circle(f64)}", '{"circle": 2}', {"circle": 2}),
        ("f64", "nan", "nan"), ("f32", "-inf", "-inf"),
    ],
)  # fmt: skip
def test_what_fits(kind: str, text: str, value: Any) -> None:
    assert convert(one(kind), [text]) == [value]


@pytest.mark.parametrize(
    ("kind", "text", "why"),
    [
        ("i32", "x", "expected i32, got text"), ("i32", "", "got text"),
        ("i32", "1.5", "a fraction"),
        ("i32", "true", "true or false"), ("i32", "4294967296", "beyond its range"),
        ("u8", "-1", "beyond its range"), ("s64", str(1 << 63), "beyond its range"),
        ("f64", "NaN", "got text"), ("i32", "inf", "got text"), ("f64", "x", "got text"),
        ("variant {point}", "[1]", "expected variant"), ("record {x: s32}", "x", "got text"),
        ("bool", "1", "expected bool, got a number"), ("char", "ab", "expected char, got text"),
        ("list<u8>", "1", "expected list<u8>, got a number"), ("list<u8>", "[", "got text"),
        ("record {x: s32}", "[1]", "expected record"), ("option<u8>", "x", "expected u8, got text"),
        ("externref", "1", "cannot be written down"),
        ("borrow<store>", "1", "cannot be written down"),
    ],
)  # fmt: skip
def test_what_does_not(kind: str, text: str, why: str) -> None:
    with pytest.raises(InvalidInput, match="argument 1: expected") as raised:
        convert(one(kind), [text])
    assert why in raised.value.message


def test_how_many_there_are_is_said_with_their_types() -> None:
    with pytest.raises(InvalidInput, match=r"f\(i32\) takes 1 arguments, not 2"):
        convert(one("i32"), ["1", "2"])


@given(st.text(max_size=30), st.sampled_from(["i32", "f64", "u64", "bool", "option<list<u8>>"]))
def test_no_text_does_more_than_be_refused(text: str, kind: str) -> None:
    try:
        (value,) = convert(one(kind), [text])
    except InvalidInput:
        return
    assert value is None or isinstance(value, int | float | list) or value in ("nan", "inf", "-inf")
