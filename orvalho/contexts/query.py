"""Questions to a collection of JSON documents: what fits, in which order, from where on.

Values are ordered as null (and what is missing), false, true, numbers, texts by code point, then
lists and objects, which are all one. Two documents of the same value stand in the order of their
ids. Comparisons hold between values of one kind alone: no text is larger than a number.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import total_ordering
from typing import Any, Final

import msgspec

from orvalho.contexts.json_text import canonical, read_json
from orvalho.errors import InvalidInput

MAX_LIMIT: Final = 1000
DEFAULT_LIMIT: Final = 100
_MOST_CONDITIONS: Final = 16
_MOST_CHOICES: Final = 100
_MOST_MEMBERS: Final = 8
_FIELD_CHARACTERS: Final = 200
_UNINDEXED: Final = re.compile(r'["\\\x00-\x1f\x7f\ud800-\udfff]')
_INT64: Final = 1 << 63

# Kinds, in their order.
NULL, BOOL, NUMBER, TEXT, REST = range(5)
# Of a text, as much as an index keeps.
INDEXED_CHARACTERS: Final = 64

Path = tuple[str, ...]


class _Missing:
    __slots__ = ()


_MISSING: Final = _Missing()


def field_path(text: str, *, is_indexed: bool = False) -> Path:
    """The members that a field leads through: `address.city`, or the JSON pointer
    `/address/city` where a name holds a dot.

    Raises:
        InvalidInput: it is empty, too long or too deep; for an index, a name in it holds what the
            text of a document spells in more than one way.
    """
    if text.startswith("/"):
        names = tuple(name.replace("~1", "/").replace("~0", "~") for name in text[1:].split("/"))
    else:
        names = tuple(text.split("."))
    where = ascii(text[:80])
    if len(text) > _FIELD_CHARACTERS or len(names) > _MOST_MEMBERS or not all(names):
        raise InvalidInput(
            f"a field is up to {_MOST_MEMBERS} names with dots between them, as address.city",
            where=where,
        )
    if is_indexed and any(_UNINDEXED.search(name) for name in names):
        raise InvalidInput(
            f"no index is made on {where}: a quotation mark, a backslash or a control character"
            " is in it",
            where=where,
        )
    return names


def value_at(document: Any, path: Path) -> Any:
    """What a document holds there; a mark of its own where it holds nothing."""
    at = document
    for name in path:
        if not isinstance(at, dict) or name not in at:
            return _MISSING
        at = at[name]
    return at


def rank(value: Any) -> int:
    """The kind of a value, as a number to order kinds by."""
    if value is None or value is _MISSING:
        return NULL
    if isinstance(value, bool):
        return BOOL
    if isinstance(value, (int, float)):
        return NUMBER
    return TEXT if isinstance(value, str) else REST


def order_key(value: Any) -> tuple[int, Any]:
    """What values are ordered by."""
    kind = rank(value)
    return kind, (0 if kind in (NULL, REST) else value)


def entry(value: Any) -> tuple[int, Any]:
    """(kind, value) as an index holds it: in the same order, but several values may be one entry.
    Always what SQLite makes of the same value (`documents.py`)."""
    kind, plain = order_key(value)
    if kind == TEXT:
        return kind, plain[:INDEXED_CHARACTERS].partition("\0")[0]
    if kind == NUMBER and isinstance(plain, int) and not -_INT64 <= plain < _INT64:
        try:
            return kind, float(plain)
        except OverflowError:
            return kind, math.copysign(math.inf, plain)
    return kind, int(plain) if kind == BOOL else plain


def same(one: Any, other: Any) -> bool:
    """Whether two JSON values are equal: 1 is 1.0, and neither is true."""
    kind = rank(one)
    if kind != rank(other):
        return False
    if kind != REST:
        return order_key(one) == order_key(other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return False


@total_ordering
class _Backwards:
    """Orders what it holds the other way round."""

    __slots__ = ("inner",)

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Backwards) and bool(self.inner == other.inner)

    def __lt__(self, other: _Backwards) -> bool:
        return bool(other.inner < self.inner)

    __hash__ = None  # type: ignore[assignment]  # nobody keeps one


@dataclass(frozen=True, slots=True)
class Condition:
    """`path` `word` `operand`: `("age",)`, `">="`, 18."""

    path: Path
    word: str
    operand: Any

    def holds(self, document: Any) -> bool:
        value = value_at(document, self.path)
        operand = self.operand
        match self.word:
            case "==":
                return same(value, operand)
            case "!=":
                return not same(value, operand)
            case "in":
                return any(same(value, each) for each in operand)
            case "startsWith":
                return isinstance(value, str) and value.startswith(operand)
        if rank(value) != rank(operand):
            return False
        match self.word:
            case "<":
                return bool(value < operand)
            case "<=":
                return bool(value <= operand)
            case ">":
                return bool(value > operand)
        return bool(value >= operand)


@dataclass(frozen=True, slots=True)
class Query:
    """What is asked. `order` is a field's path, None for the order of the ids; `after` is where
    the page before it ended: (value, id), with a value of None in the order of the ids."""

    where: tuple[Condition, ...] = ()
    order: Path | None = None
    is_descending: bool = False
    limit: int = DEFAULT_LIMIT
    after: tuple[Any, str] | None = None

    def fits(self, document: Any) -> bool:
        return all(condition.holds(document) for condition in self.where)

    def place(self, document: Any, id_: str) -> tuple[Any, str]:
        """Where a document stands among the answers: these are compared."""
        return self._place(self.order_value(document), id_)

    def order_value(self, document: Any) -> Any:
        """What a document is ordered by."""
        return None if self.order is None else value_at(document, self.order)

    def cursor(self, document: Any, id_: str) -> str:
        """What `after` is for the page behind this document."""
        value = self.order_value(document)
        kind = rank(value)
        return canonical([None if kind == NULL else [] if kind == REST else value, id_])

    @property
    def start(self) -> tuple[Any, str] | None:
        """The place that all answers stand after."""
        return None if self.after is None else self._place(*self.after)

    def _place(self, value: Any, id_: str) -> tuple[Any, str]:
        if self.order is None:
            return None, id_
        key = order_key(value)
        return (_Backwards(key) if self.is_descending else key), id_


class Asked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A query as a script gives it. `where`: by field, a value or {"<word>": operand, ...};
    `order`: a field, "-age" for the largest first; `after`: what the page before gave."""

    where: dict[str, Any] = {}
    order: str | None = None
    limit: int = DEFAULT_LIMIT
    after: str | None = None


_WORDS: Final = ("==", "!=", "<", "<=", ">", ">=", "in", "startsWith")
_COMPARING: Final = ("<", "<=", ">", ">=")


def read_query(asked: Asked) -> Query:
    """Raises:
    InvalidInput: it is no query; says what is wrong with it.
    """
    if not 1 <= asked.limit <= MAX_LIMIT:
        raise InvalidInput(f"limit is 1 to {MAX_LIMIT}", where=str(asked.limit))
    conditions: list[Condition] = []
    for name, given in asked.where.items():
        path = field_path(name)
        words = given if isinstance(given, dict) else {"==": given}
        conditions += [_condition(name, path, word, operand) for word, operand in words.items()]
    if len(conditions) > _MOST_CONDITIONS:
        raise InvalidInput(f"a query has at most {_MOST_CONDITIONS} conditions")
    order = asked.order or ""
    is_descending = order.startswith("-")
    return Query(
        tuple(conditions),
        field_path(order.removeprefix("-")) if order else None,
        is_descending,
        asked.limit,
        None if asked.after is None else _read_cursor(asked.after),
    )


def _condition(name: str, path: Path, word: str, operand: Any) -> Condition:
    if word not in _WORDS:
        raise InvalidInput(
            f"{word[:40]!a} compares nothing: write one of {', '.join(_WORDS)}",
            where=ascii(name[:80]),
        )
    if word in _COMPARING and rank(operand) not in (NUMBER, TEXT):
        raise InvalidInput(f"{word} takes a number or a text", where=ascii(name[:80]))
    if word == "startsWith" and not isinstance(operand, str):
        raise InvalidInput("startsWith takes a text", where=ascii(name[:80]))
    if word == "in" and not (isinstance(operand, list) and len(operand) <= _MOST_CHOICES):
        raise InvalidInput(
            f"in takes a list of at most {_MOST_CHOICES} values", where=ascii(name[:80])
        )
    return Condition(path, word, operand)


def _read_cursor(text: str) -> tuple[Any, str]:
    try:
        value, id_ = read_json(text.encode(), "after")
    except (InvalidInput, UnicodeEncodeError, TypeError, ValueError) as error:
        raise InvalidInput("after is what the page before it gave", where="after") from error
    if not isinstance(id_, str):
        raise InvalidInput("after is what the page before it gave", where="after")
    return value, id_
