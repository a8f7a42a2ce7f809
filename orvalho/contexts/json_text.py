"""JSON as documents are held to it (RFC 8259 and I-JSON, RFC 7493): one meaning for every reader.

Refused besides what is no JSON: a name twice in one object, NaN and infinities, numbers that no
two readers agree on, half a surrogate pair, and nesting without end.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Final

from orvalho.errors import InvalidInput

MAX_DEPTH: Final = 64
# A schema's `maximum` no longer holds a number of some hundred digits.
_DIGITS: Final = 100
_TOKEN: Final = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],]|[^\s{}\[\],:"]+', re.DOTALL)


def read_json(raw: bytes, place: str, *, max_depth: int = MAX_DEPTH) -> Any:
    """The value of a JSON text in UTF-8; `place` is what messages call it.

    Raises:
        InvalidInput: `place:line:column: this is no JSON: ...`.
    """
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        line, column = _position(raw[: error.start].decode(), error.start)
        raise _refused(f"{place}:{line}:{column}", "it is not UTF-8") from error
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise _refused(f"{place}:{error.lineno}:{error.colno}", _lower(error.msg)) from error
    except RecursionError as error:
        raise _refused(place, f"it nests more than {max_depth} deep") from error
    except ValueError as error:
        raise _refused(place, str(error)) from error
    if r"\u" in text:
        _refuse_half_pairs(value, place)
    if text.count("[") + text.count("{") > max_depth and _is_deeper(value, max_depth):
        raise _refused(place, f"it nests more than {max_depth} deep")
    return value


def canonical(value: Any) -> str:
    """The text that a value is kept as: no white space, no escape that JSON does not demand. So a
    name is found by its letters."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def line_of(text: str, path: Sequence[str | int]) -> int:
    """The line, from 1, where the member or item at `path` of a JSON text begins; that of the
    last part that is there."""
    found = 1
    stack: list[list[Any]] = []  # [is an object, name or index, is a name awaited]
    wanted = [str(part) for part in path]
    for token in _TOKEN.finditer(text):
        word = token[0]
        if word in "}]":
            if stack:
                stack.pop()
            continue
        if word == ",":
            if stack and stack[-1][0]:
                stack[-1][2] = True
            elif stack:
                stack[-1][1] += 1
            continue
        if stack and stack[-1][2]:
            stack[-1][1], stack[-1][2] = json.loads(word) if word[0] == '"' else word, False
            if (at := [str(each[1]) for each in stack]) == wanted[: len(at)]:
                found = text.count("\n", 0, token.start()) + 1
        if word in "{[" and (not stack or not stack[-1][2]):
            stack.append([word == "{", 0 if word == "[" else "", word == "{"])
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise ValueError(f"the name {name[:80]!a} stands twice in one object")
            seen.add(name)
    return found


def _integer(digits: str) -> int:
    if len(digits) > _DIGITS:
        raise ValueError(f"a number has at most {_DIGITS} digits")
    return int(digits)


def _number(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError(f"the number {text[:40]} is too large")
    return number


def _constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_unique,
    parse_int=_integer,
    parse_float=_number,
    parse_constant=_constant,
)


def _refuse_half_pairs(value: Any, place: str) -> None:
    try:
        canonical(value).encode()
    except UnicodeEncodeError as error:
        raise _refused(place, "it holds half of a surrogate pair") from error


def _is_deeper(value: Any, limit: int) -> bool:
    level = [value]
    for _ in range(limit):
        below: list[Any] = []
        for each in level:
            if isinstance(each, dict):
                below += each.values()
            elif isinstance(each, list):
                below += each
        level = [each for each in below if isinstance(each, (dict, list))]
        if not any(isinstance(each, (dict, list)) for each in below):
            return False
    return True


def _position(before: str, _start: int) -> tuple[int, int]:
    return before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1


def _lower(message: str) -> str:
    return message[:1].lower() + message[1:]


def _refused(where: str, why: str) -> InvalidInput:
    return InvalidInput(f"{where}: this is no JSON that can be kept: {why}", where=where)
