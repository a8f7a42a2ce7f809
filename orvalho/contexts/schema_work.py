"""How much work a JSON Schema can make, told before it is used.

A validator applies a schema's parts again wherever another part refers to them, and has no limit of
its own: `allOf` with the same reference twice, thirty levels of it, is a thousand million
applications to a single number. Here they are counted without a document, each place of which gets
the sum of all that apply to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from orvalho.contexts.json_text import MAX_DEPTH
from orvalho.errors import InvalidInput

# Applications to one place of a document, with all above it on its path.
_MOST_WORK: Final = 2_000
_MOST_PARTS: Final = 20_000
_MOST_PATTERNS: Final = 50
# What is refused: it names parts in ways that only a validator can follow.
_UNFOLLOWED: Final = ("$dynamicRef", "$recursiveRef")

_HERE_ONE: Final = ("not", "if", "then", "else", "propertyNames")
_HERE_LIST: Final = ("allOf", "anyOf", "oneOf")
_HERE_NAMED: Final = ("dependentSchemas", "dependencies")
_BELOW_ANY: Final = ("contains", "unevaluatedProperties", "unevaluatedItems")


@dataclass(slots=True)
class _Below:
    """What applies to the members and items of a place. `named`: of each slot, what applies to it,
    and which of `others` do not, since they stand beside a part that names it. `others`: what
    applies to slots that its own part does not name. `anywhere`: what applies to every slot."""

    named: dict[str, tuple[list[int], list[int]]] = field(default_factory=dict)
    others: list[int] = field(default_factory=list)
    anywhere: list[int] = field(default_factory=list)

    def all(self) -> Iterator[int]:
        yield from self.anywhere
        yield from self.others
        for more, _ in self.named.values():
            yield from more


def measure_work(schema: Any) -> tuple[int, int]:
    """(how deep a document may nest, applications to one place of it then). No place costs more
    than 2,000 applications, and no document nests more than 64 deep.

    Raises:
        InvalidInput: the schema alone costs more, or names its parts in an unusual way.
    """
    if isinstance(schema, bool):
        return MAX_DEPTH, 1
    parts = _Parts(schema)
    work = dict.fromkeys(parts.reached, 0)
    known = 0
    for depth in range(MAX_DEPTH + 1):
        work = {part: parts.cost(part, work) for part in parts.reached}
        now = work[id(schema)]
        if now > _MOST_WORK:
            return depth - 1, known
        known = now
    return MAX_DEPTH, known


class _Parts:
    """The schema's parts that apply to a place of their own, and what they lead to."""

    def __init__(self, schema: Any) -> None:
        self._schema = schema
        self._by_id: dict[int, Any] = {}
        self._anchors = dict(_anchors(schema))
        # Of each part: how many apply to the same place, and what applies below it.
        self._here: dict[int, tuple[int, _Below]] = {}
        self.reached: list[int] = []
        pending = [schema]
        while pending:
            part = pending.pop()
            if id(part) in self._here:
                continue
            self._by_id[id(part)] = part
            count, below = self._expand(part)
            self._here[id(part)] = (count, below)
            self.reached.append(id(part))
            pending += [self._by_id[each] for each in below.all()]

    def cost(self, part: int, deeper: dict[int, int]) -> int:
        """Applications to a place and to the most expensive one below it."""
        count, below = self._here[part]
        others = sum(deeper[each] for each in below.others)
        most = others
        for more, less in below.named.values():
            here = others + sum(deeper[each] for each in more)
            most = max(most, here - sum(deeper[each] for each in less))
        total = count + most + sum(deeper[each] for each in below.anywhere)
        return min(total, _MOST_WORK + 1)

    def _expand(self, part: Any) -> tuple[int, _Below]:
        """All that applies to the same place as `part`, each as often as it is named."""
        below = _Below()
        count = 0
        pending: list[tuple[Any, tuple[int, ...]]] = [(part, ())]
        while pending:
            at, above = pending.pop()
            count += 1
            if count > _MOST_WORK:
                raise InvalidInput(
                    f"the schema is applied more than {_MOST_WORK} times to one value"
                )
            if not isinstance(at, dict):
                continue
            if id(at) in above:
                raise InvalidInput("a part of the schema refers to itself for the same value")
            pending += [(each, (*above, id(at))) for each in self._same_place(at)]
            self._note_below(at, below)
        return count, below

    def _same_place(self, at: dict[str, Any]) -> Iterator[Any]:
        for word in _UNFOLLOWED:
            if word in at:
                raise InvalidInput(f'a schema here does not use "{word}"')
        if "$ref" in at:
            yield self._named(at["$ref"])
        for word in _HERE_ONE:
            if word in at:
                yield at[word]
        for word in _HERE_LIST:
            yield from _list(at.get(word))
        for word in _HERE_NAMED:
            yield from _dict(at.get(word)).values()

    def _note_below(self, at: dict[str, Any], below: _Below) -> None:
        others: list[int] = []
        for word in ("items", "additionalProperties"):
            self._note(at.get(word), others)
        below.others += others
        members = {f".{name}": each for name, each in _dict(at.get("properties")).items()}
        items = {f"[{number}": each for number, each in enumerate(_list(at.get("prefixItems")))}
        for slot, each in {**members, **items}.items():
            more, less = below.named.setdefault(slot, ([], []))
            self._note(each, more)
            self._note(at.get("additionalProperties" if slot[0] == "." else "items"), less)
        for each in _dict(at.get("patternProperties")).values():
            self._note(each, below.anywhere)
        for word in _BELOW_ANY:
            self._note(at.get(word), below.anywhere)

    def _note(self, part: Any, among: list[int]) -> None:
        if isinstance(part, dict):
            self._by_id[id(part)] = part
            among.append(id(part))

    def _named(self, reference: Any) -> Any:
        if not isinstance(reference, str) or not reference.startswith("#"):
            raise InvalidInput(
                f"a schema refers to nothing outside its own file: {str(reference)[:160]}"
            )
        name = reference[1:]
        if name and not name.startswith("/"):
            return self._anchors.get(name)
        at = self._schema
        for word in name.split("/")[1:]:
            key = word.replace("~1", "/").replace("~0", "~")
            if isinstance(at, dict) and key in at:
                at = at[key]
            elif isinstance(at, list) and key.isdecimal() and int(key) < len(at):
                at = at[int(key)]
            else:
                return None  # the validator says what is missing
        return at


def _anchors(schema: Any) -> Iterator[tuple[str, Any]]:
    pending, seen, patterns = [schema], 0, 0
    while pending:
        at = pending.pop()
        seen += 1
        if seen > _MOST_PARTS:
            raise InvalidInput(f"a schema has at most {_MOST_PARTS} parts")
        if isinstance(at, dict):
            patterns += len(_dict(at.get("patternProperties"))) + ("pattern" in at)
            if patterns > _MOST_PATTERNS:
                raise InvalidInput(f"a schema has at most {_MOST_PATTERNS} patterns")
            if at is not schema and isinstance(at.get("$id"), str):
                raise InvalidInput('a part of a schema here has no "$id" of its own')
            if isinstance(at.get("$anchor"), str):
                yield at["$anchor"], at
            pending += at.values()
        elif isinstance(at, list):
            pending += at


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
