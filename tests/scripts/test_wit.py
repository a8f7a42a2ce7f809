"""Types of components, and JSON: what goes in comes out, and what does not fit is told by place."""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orvalho.errors import InvalidInput
from orvalho.scripts.wasm.wit import WitFunction, WitType, give, make_type, take, take_arguments
from tests.runtime.wit_types import TYPES, json_values

U8, U32, TEXT = WitType("u8"), WitType("u32"), WitType("string")
POINT = make_type("record", ("x", "y-axis"), (U32, WitType("f64")))
SHAPE = make_type("variant", ("dot", "line"), (None, POINT))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_json_comes_back_as_it_went_in(data: st.DataObject) -> None:
    kind = data.draw(TYPES)
    value = data.draw(json_values(kind))
    there = take(json.loads(json.dumps(value)), kind)
    again = json.loads(msgspec.json.encode(give(there, kind)))
    assert same(take(again, kind), there), (kind, value)


@settings(max_examples=100, deadline=None)
@given(TYPES)
def test_a_type_survives_being_written_down(kind: WitType) -> None:
    raw = msgspec.msgpack.encode(WitFunction("f", (("x", kind),), kind))
    assert msgspec.msgpack.decode(raw, type=WitFunction).result == kind


def same(one: Any, other: Any) -> bool:
    """Equal, with each nan equal to itself."""
    if isinstance(one, float) and isinstance(other, float):
        return one == other or (math.isnan(one) and math.isnan(other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        ("x", U32, "expected u32, got text"),
        (2.5, U32, "expected u32, got a fraction"),
        (True, U32, "expected u32, got true or false"),
        (-1, U32, "expected u32, got a number outside 0 to 4294967295"),
        (1 << 32, U32, "outside"),
        (1, WitType("bool"), "expected bool, got a number"),
        ("ab", WitType("char"), "expected char, got a text of 2 characters"),
        ("\ud800", WitType("char"), "expected char"),
        ("\ud800", TEXT, "not Unicode"),
        ("1", WitType("f64"), "expected f64, got text"),
        (1e300, WitType("f32"), "too large"),
        (10**400, WitType("f64"), "too large"),
        (None, TEXT, "expected string, got nothing"),
        ([1, "x"], make_type("list", (), (U32,)), " item 2: expected u32, got text"),
        ({"$bytes": "*"}, make_type("list", (), (U8,)), "no base64"),
        ({"$bytes": ""}, make_type("list", (), (U32,)), "got an object"),
        ([300], make_type("list", (), (U8,)), " item 1: expected u8"),
        ([1], make_type("tuple", (), (U32, U32)), "got a list of 1"),
        ({"x": 1}, POINT, 'the field "y-axis" is missing'),
        ({"x": 1, "y-axis": 1, "z": 1}, POINT, "there is no field 'z'"),
        ({"x": "a", "y-axis": 1}, POINT, ' field "x": expected u32, got text'),
        ("blot", SHAPE, "there is no case 'blot': it is one of dot, line"),
        ("line", SHAPE, 'the case "line" takes a value'),
        ({"dot": 1}, SHAPE, 'the case "dot" takes no value'),
        ({"line": {"x": 1}}, SHAPE, ' case "line": the field "y-axis" is missing'),
        ({"dot": None, "line": None}, SHAPE, "an object of other keys"),
        ("c", make_type("enum", ("a", "b")), "it is one of a, b"),
        (["a", "c"], make_type("flags", ("a", "b")), "it is one of a, b"),
        (1, make_type("own", ("file",)), "is nothing that a JSON value stands for"),
    ],
)
def test_what_does_not_fit_is_told_by_place(value: Any, kind: WitType, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        take_arguments(WitFunction("f", (("a", U32), ("b", kind))), [1, value])
    assert caught.value.message.startswith("argument 2")
    assert message in caught.value.message


@pytest.mark.parametrize("given_", [{}, "x", [1], [1, 2, 3]])
def test_arguments_are_a_list_of_the_right_length(given_: Any) -> None:
    with pytest.raises(InvalidInput):
        take_arguments(WitFunction("add", (("a", U32), ("b", U32))), given_)


def test_types_are_shown_as_they_are_written() -> None:
    options = make_type("option", (), (make_type("result", (), (None, TEXT)),))
    assert str(options) == "option<result<_, string>>"
    assert str(SHAPE) == "variant{dot, line(record{x: u32, y-axis: f64})}"
    function = WitFunction("draw", (("it", SHAPE),), make_type("flags", ("a", "b")))
    assert str(function).endswith(") -> flags{a, b}")
