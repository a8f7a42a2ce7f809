"""Texts of a command line to the arguments of a function, by the types that it declares."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Any, Final

from orvalho.errors import InvalidInput
from orvalho.scripts.wasm.metadata import Function
from orvalho.scripts.wasm.wit import NOT_FINITE, RANGES

_WHOLE: Final = re.compile(r"[+-]?\d{1,40}")
_HEX: Final = re.compile(r"([+-]?)0[xX]([0-9a-fA-F]{1,32})")
# Core integers have no sign of their own.
_RANGES: Final = {
    kind: (-(1 << bits - 1), (1 << bits) - 1) for kind, bits in (("i32", 32), ("i64", 64))
} | RANGES
_FRACTIONS: Final = ("f32", "f64")
_LISTS: Final = ("list", "tuple", "flags")
_OBJECTS: Final = ("record", "variant", "result")
# A case that takes no value is its name.
_CASES: Final = ("variant", "result")
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9-]*")
# What is handed out by the guest itself, or has no form as text.
_UNWRITABLE: Final = ("?", "v128", "funcref", "externref", "own", "borrow", "stream", "future")


def convert(function: Function, texts: Sequence[str]) -> list[Any]:
    """One JSON value for each parameter.

    Raises:
        InvalidInput: "argument 1: expected i32, got text", or another number of them.
    """
    if len(texts) != len(function.parameters):
        types = ", ".join(each.type for each in function.parameters)
        raise InvalidInput(
            f"{function.path}({types}) takes {len(function.parameters)} arguments, not {len(texts)}"
        )
    pairs = zip(texts, function.parameters, strict=True)
    return [_value(number, text, each.type) for number, (text, each) in enumerate(pairs, 1)]


def _value(number: int, text: str, kind: str) -> Any:
    form = re.split(r"[<{ ]", kind, maxsplit=1)[0]
    if form in _RANGES:
        return _whole(number, text, kind)
    if form in _FRACTIONS:
        return _fraction(number, text, kind)
    if form in ("string", "enum"):
        return text
    if form == "char":
        return text if len(text) == 1 else _refuse(number, kind, "text")
    if form == "bool":
        if text in ("true", "false"):
            return text == "true"
        _refuse(number, kind, _word(text))
    if form == "option":
        return None if text == "null" else _value(number, text, kind[len("option<") : -1])
    if form in _UNWRITABLE:
        raise InvalidInput(f"argument {number}: expected {kind}, which cannot be written down")
    return _nested(number, text, form, kind)


def _whole(number: int, text: str, kind: str) -> int:
    if found := _HEX.fullmatch(text):
        value = int(found[1] + found[2], 16)
    elif _WHOLE.fullmatch(text):
        value = int(text)
    else:
        _refuse(number, kind, _word(text))
    least, most = _RANGES[kind]
    if not least <= value <= most:
        _refuse(number, kind, "a number beyond its range")
    return value


def _fraction(number: int, text: str, kind: str) -> float | int | str:
    if text in NOT_FINITE:
        # JSON has no such numbers: they go by their names.
        return text
    if _WHOLE.fullmatch(text):
        return int(text)
    if _word(text) != "a fraction":
        _refuse(number, kind, _word(text))
    return float(text)


def _nested(number: int, text: str, form: str, kind: str) -> Any:
    """What has parts is written in JSON, but for the bare name of a case; the guest's side looks
    into it."""
    if form in _CASES and _NAME.fullmatch(text):
        return text
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        _refuse(number, kind, "text")
    if (form in _LISTS and not isinstance(value, list)) or (
        form in _OBJECTS
        and not isinstance(value, dict)
        and not (form in _CASES and isinstance(value, str))
    ):
        _refuse(number, kind, _word(text))
    return value


def _word(text: str) -> str:
    if _WHOLE.fullmatch(text):
        return "a number"
    if text in ("true", "false"):
        return "true or false"
    try:
        return "a fraction" if math.isfinite(float(text)) else "text"
    except ValueError:
        return "text"


def _refuse(number: int, kind: str, got: str) -> Any:
    raise InvalidInput(f"argument {number}: expected {kind}, got {got}")
