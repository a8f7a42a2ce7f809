"""Types of the component model (WIT), and what of JSON each of them takes and gives.

    bool, s8..u64, f32, f64     true or false, a whole number, a number ("nan", "inf", "-inf")
    char, string                a text, of one character for char
    list<u8>                    {"$bytes": BASE64}; a list of numbers is taken as well
    list, tuple                 a list
    record                      an object with every field
    enum                        its case, a text
    variant                     {CASE: VALUE}, or the case's name where it has no value
    option                      null or the value; {"some": VALUE} where that may be null itself
    result                      {"ok": VALUE} or {"err": VALUE}
    flags                       a list of names

What a guest's function takes and gives in between are Python values: bytes for list<u8>, a list for
a list or tuple, a dict for a record, a text for an enum, `(case, value)` for a variant, result
("ok", "err") or option ("some", "none"), a frozenset for flags.
"""

from __future__ import annotations

import base64
import binascii
import math
import struct
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from orvalho.errors import InvalidInput

RANGES: Final = {
    f"{sign}{bits}": (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if sign == "s"
    else (0, (1 << bits) - 1)
    for sign in "su" for bits in (8, 16, 32, 64)
}  # fmt: skip
PRIMITIVES: Final = ("bool", *RANGES, "f32", "f64", "char", "string")
NOT_FINITE: Final = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
_SURROGATES: Final = range(0xD800, 0xE000)
_ODD: Final = ("own", "borrow", "stream", "future", "error-context")


class WitType(msgspec.Struct, frozen=True, array_like=True):
    """`names` are of fields, cases or flags; `parts` the types in it, None for a case without a
    value. A result has two parts, an option or list one. A resource has its name in `names`."""

    kind: str
    names: tuple[str, ...] = ()
    parts: tuple[WitType | None, ...] = ()
    # How deep it is nested, and how many types it is written with.
    depth: int = 1
    weight: int = 1

    def __str__(self) -> str:
        if self.kind in ("own", "borrow"):
            return self.names[0] if self.kind == "own" else f"borrow<{self.names[0]}>"
        if self.kind in ("enum", "flags"):
            return f"{self.kind}{{{', '.join(self.names)}}}"
        texts = ["_" if part is None else str(part) for part in self.parts]
        if self.kind in ("record", "variant"):
            pairs = zip(self.names, self.parts, texts, strict=True)
            shown = [
                name if part is None
                else f"{name}: {text}" if self.kind == "record" else f"{name}({text})"
                for name, part, text in pairs
            ]  # fmt: skip
            return f"{self.kind}{{{', '.join(shown)}}}"
        return f"{self.kind}<{', '.join(texts)}>" if texts else self.kind


def make_type(
    kind: str, names: tuple[str, ...] = (), parts: tuple[WitType | None, ...] = ()
) -> WitType:
    """With its depth and weight reckoned."""
    known = [part for part in parts if part is not None]
    depth = 1 + max((part.depth for part in known), default=0)
    weight = 1 + len(names) + sum(part.weight for part in known)
    return WitType(kind, names, parts, depth, weight)


class WitFunction(msgspec.Struct, frozen=True, array_like=True):
    """Its parameters by name; `result` is None for a function that gives nothing."""

    name: str
    parameters: tuple[tuple[str, WitType], ...] = ()
    result: WitType | None = None

    def __str__(self) -> str:
        inside = ", ".join(f"{name}: {kind}" for name, kind in self.parameters)
        return f"{self.name}: func({inside})" + (f" -> {self.result}" if self.result else "")


# ---- from JSON -------------------------------------------------------------------------------


class _Mismatch(Exception):
    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what


def take_arguments(function: WitFunction, given: Any) -> tuple[Any, ...]:
    """A call's arguments, from a decoded JSON list.

    Raises:
        InvalidInput: "argument 1: expected u32, got text".
    """
    if not isinstance(given, list):
        raise InvalidInput('args is a list: {"call": "add", "args": [2, 3]}')
    if len(given) != len(function.parameters):
        raise InvalidInput(
            f"{function} takes {len(function.parameters)} arguments, not {len(given)}"
        )
    return tuple(
        take(value, kind, where=f"argument {number}")
        for number, (value, (_, kind)) in enumerate(zip(given, function.parameters, strict=True), 1)
    )


def take(value: Any, kind: WitType, *, where: str = "the value") -> Any:
    """The value of that type that a decoded JSON value stands for.

    Raises:
        InvalidInput: it stands for none; with the place in it.
    """
    try:
        return _take(value, kind)
    except _Mismatch as error:
        raise InvalidInput(f"{where}{error.what}") from None


def word_of(value: Any) -> str:
    """What kind of a decoded JSON value it is: "text", "a fraction"."""
    words: dict[type, str] = {bool: "true or false", str: "text", list: "a list", dict: "an object"}
    if value is None:
        return "nothing"
    if isinstance(value, float):
        return "a fraction"
    return words.get(type(value), "a number")


def _wrong(value: Any, kind: WitType, got: str = "") -> _Mismatch:
    text = str(kind)
    text = text if len(text) <= 80 else text[:77] + "..."
    return _Mismatch(f": expected {text}, got {got or word_of(value)}")


def _within(place: str, value: Any, kind: WitType) -> Any:
    try:
        return _take(value, kind)
    except _Mismatch as error:
        raise _Mismatch(f" {place}{error.what}") from None


def _take(value: Any, kind: WitType) -> Any:
    if kind.kind in RANGES:
        return _take_integer(value, kind)
    taker = _TAKERS.get(kind.kind)
    if taker is None:
        raise _Mismatch(f": {kind} is nothing that a JSON value stands for")
    return taker(value, kind)


def _take_integer(value: Any, kind: WitType) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise _wrong(value, kind)
    least, most = RANGES[kind.kind]
    if not least <= value <= most:
        raise _wrong(value, kind, f"a number outside {least} to {most}")
    return value


def _take_bool(value: Any, kind: WitType) -> bool:
    if not isinstance(value, bool):
        raise _wrong(value, kind)
    return value


def _take_float(value: Any, kind: WitType) -> float:
    if isinstance(value, str) and value in NOT_FINITE:
        return NOT_FINITE[value]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong(value, kind)
    try:
        # As the guest will see it: a number too large for f32 is none.
        return float(struct.unpack("<f", struct.pack("<f", value))[0] if kind.kind == "f32"
                     else value)  # fmt: skip
    except OverflowError:
        raise _wrong(value, kind, "a number too large for it") from None


def _take_char(value: Any, kind: WitType) -> str:
    if not isinstance(value, str):
        raise _wrong(value, kind)
    if len(value) != 1 or ord(value) in _SURROGATES:
        raise _wrong(value, kind, f"a text of {len(value)} characters")
    return value


def _take_string(value: Any, kind: WitType) -> str:
    if not isinstance(value, str):
        raise _wrong(value, kind)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _wrong(value, kind, "text that is not Unicode") from None
    return value


def _take_list(value: Any, kind: WitType) -> Any:
    (part,) = kind.parts
    assert part is not None
    if part.kind == "u8" and isinstance(value, dict) and set(value) == {"$bytes"}:
        try:
            return base64.b64decode(value["$bytes"], validate=True)
        except (binascii.Error, TypeError, ValueError):
            raise _wrong(value, kind, "$bytes that are no base64") from None
    if not isinstance(value, list):
        raise _wrong(value, kind)
    found = [_within(f"item {number}", each, part) for number, each in enumerate(value, 1)]
    return bytes(found) if part.kind == "u8" else found


def _take_tuple(value: Any, kind: WitType) -> list[Any]:
    if not isinstance(value, list):
        raise _wrong(value, kind)
    if len(value) != len(kind.parts):
        raise _wrong(value, kind, f"a list of {len(value)}")
    pairs = enumerate(zip(value, kind.parts, strict=True), 1)
    return [_within(f"item {number}", each, part) for number, (each, part) in pairs if part]


def _take_record(value: Any, kind: WitType) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(value, kind)
    for name in kind.names:
        if name not in value:
            raise _Mismatch(f': the field "{name}" is missing')
    for name in value:
        if name not in kind.names:
            raise _Mismatch(f": there is no field {name!a}")
    pairs = zip(kind.names, kind.parts, strict=True)
    return {name: _within(f'field "{name}"', value[name], part) for name, part in pairs if part}


def _take_enum(value: Any, kind: WitType) -> str:
    if not isinstance(value, str):
        raise _wrong(value, kind)
    if value not in kind.names:
        raise _Mismatch(f": there is no case {value!a}: it is one of {', '.join(kind.names)}")
    return value


def _take_flags(value: Any, kind: WitType) -> frozenset[str]:
    if not isinstance(value, list):
        raise _wrong(value, kind)
    return frozenset(_take_enum(each, kind) for each in value)


def _take_case(value: Any, kind: WitType) -> tuple[str, Any]:
    """A variant; a result has the cases ok and err."""
    names = kind.names or ("ok", "err")
    if isinstance(value, str):
        name, inside = value, None
    elif isinstance(value, dict) and len(value) == 1:
        ((name, inside),) = value.items()
    else:
        raise _wrong(value, kind, "" if not isinstance(value, dict) else "an object of other keys")
    if name not in names:
        raise _Mismatch(f": there is no case {name!a}: it is one of {', '.join(names)}")
    part = kind.parts[names.index(name)]
    if part is None:
        if inside is not None:
            raise _Mismatch(f': the case "{name}" takes no value')
        return name, None
    if isinstance(value, str):
        raise _Mismatch(f': the case "{name}" takes a value: {{"{name}": ...}}')
    return name, _within(f'case "{name}"', inside, part)


def _take_option(value: Any, kind: WitType) -> tuple[str, Any]:
    if value is None:
        return "none", None
    (part,) = kind.parts
    assert part is not None
    if part.kind == "option":
        if not isinstance(value, dict) or set(value) != {"some"}:
            raise _wrong(value, kind, f'{word_of(value)}: write {{"some": ...}}')
        value = value["some"]
    return "some", _take(value, part)


_TAKERS: Final[Mapping[str, Callable[[Any, WitType], Any]]] = {
    "bool": _take_bool,
    "f32": _take_float,
    "f64": _take_float,
    "char": _take_char,
    "string": _take_string,
    "list": _take_list,
    "tuple": _take_tuple,
    "record": _take_record,
    "enum": _take_enum,
    "flags": _take_flags,
    "variant": _take_case,
    "result": _take_case,
    "option": _take_option,
}


# ---- to JSON ---------------------------------------------------------------------------------


def give(value: Any, kind: WitType) -> Any:
    """What `take` makes that value of again.

    Raises:
        InvalidInput: a resource, which is nothing outside its guest.
    """
    giver = _GIVERS.get(kind.kind)
    if giver is not None:
        return giver(value, kind)
    if kind.kind in _ODD:
        raise InvalidInput(f"{kind} is nothing that JSON has")
    return value


def _give_float(value: Any, kind: WitType) -> Any:
    if math.isfinite(value):
        return value
    return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"


def _give_list(value: Any, kind: WitType) -> Any:
    (part,) = kind.parts
    assert part is not None
    if part.kind == "u8":
        # Where there are none, nobody knows that they are bytes.
        return {"$bytes": base64.b64encode(bytes(value)).decode()}
    return [give(each, part) for each in value]


def _give_tuple(value: Any, kind: WitType) -> Any:
    return [give(each, part) for each, part in zip(value, kind.parts, strict=True) if part]


def _give_record(value: Any, kind: WitType) -> Any:
    pairs = zip(kind.names, kind.parts, strict=True)
    return {name: give(value[name], part) for name, part in pairs if part}


def _give_flags(value: Any, kind: WitType) -> Any:
    return [name for name in kind.names if name in value]


def _give_case(value: Any, kind: WitType) -> Any:
    name, inside = value
    part = kind.parts[(kind.names or ("ok", "err")).index(name)]
    if part is not None:
        return {name: give(inside, part)}
    return {name: None} if kind.kind == "result" else name


def _give_option(value: Any, kind: WitType) -> Any:
    name, inside = value
    (part,) = kind.parts
    assert part is not None
    if name == "none":
        return None
    found = give(inside, part)
    return {"some": found} if part.kind == "option" else found


_GIVERS: Final[Mapping[str, Callable[[Any, WitType], Any]]] = {
    "f32": _give_float,
    "f64": _give_float,
    "list": _give_list,
    "tuple": _give_tuple,
    "record": _give_record,
    "flags": _give_flags,
    "variant": _give_case,
    "result": _give_case,
    "option": _give_option,
}
