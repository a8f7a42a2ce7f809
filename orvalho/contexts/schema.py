"""One JSON Schema (draft 2020-12): whether a document fits, with every mistake and its place.

Nothing is fetched, a pattern takes time linear in the text, and how often a schema is applied to
one place of a document is bounded before it is used at all (`schema_work.py`). So a schema can be
wrong, but not a weapon.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

import jsonschema_rs

from orvalho.contexts.json_text import line_of, read_json
from orvalho.contexts.schema_work import measure_work
from orvalho.errors import InvalidInput

MAX_SCHEMA_BYTES: Final = 256 << 10
_SCHEMA_DEPTH: Final = 100
_MOST_MISTAKES: Final = 20
# Of a document's size times what is applied to each place of it: about a second's work.
_MOST_TELLING: Final = 20_000_000
_TEXT: Final = 160
_PATTERN_BYTES: Final = 1 << 14


@dataclass(frozen=True, slots=True)
class Mistake:
    """`pointer` is a JSON pointer (RFC 6901) into the document, "" for all of it; `rule` says
    which line of the schema it breaks, `schema/contact.json:7`."""

    pointer: str
    text: str
    rule: str

    @property
    def line(self) -> str:
        return f"{self.pointer or '/'}: {self.text} ({self.rule})"


class Schema:
    """A compiled schema. Safe to use from several threads."""

    def __init__(self, name: str, raw: bytes) -> None:
        """`name` is what messages call it: `schema/contact.json`.

        Raises:
            InvalidInput: it is no schema, asks for something elsewhere, or is too much work.
        """
        if len(raw) > MAX_SCHEMA_BYTES:
            raise InvalidInput(
                f"{name}: a schema has at most {MAX_SCHEMA_BYTES} bytes, this one has {len(raw)}",
                where=name,
            )
        self.name = name
        self._text = raw.decode("utf-8", "replace")
        value = read_json(raw, name, max_depth=_SCHEMA_DEPTH)
        if not isinstance(value, (dict, bool)):
            raise InvalidInput(f"{name}: a schema is an object, or true or false", where=name)
        self.indexed: tuple[str, ...] = self._read_indexed(value)
        try:
            self.max_depth, self._applied = _work(value, name)
            self._validator = jsonschema_rs.Draft202012Validator(
                value,
                retriever=_refuse_to_fetch,
                validate_formats=True,
                pattern_options=jsonschema_rs.RegexOptions(
                    size_limit=_PATTERN_BYTES, dfa_size_limit=_PATTERN_BYTES
                ),
            )
        except jsonschema_rs.ValidationError as error:
            # The mistake is one of the schema's own, held against the schema of schemas.
            place = list(error.instance_path)
            where = f"{name}:{line_of(self._text, place)}"
            raise InvalidInput(
                f"{where}: {_pointer(place) or '/'}: {_short(error.message)}", where=where
            ) from error
        except (jsonschema_rs.ReferencingError, ValueError, RecursionError) as error:
            raise InvalidInput(f"{name}: {_short(str(error))}", where=name) from error

    def mistakes(self, document: Any) -> list[Mistake]:
        """Everything wrong with a document, the first 20 of it; empty when it fits. Of a very
        large one, only that it does not: the validator lists all mistakes there are, each with its
        value, before it gives the first."""
        if self._validator.is_valid(document):
            return []
        if _size(document, _MOST_TELLING // self._applied) * self._applied > _MOST_TELLING:
            text = "it does not fit; its mistakes are told one by one when there is less in it"
            return [Mistake("", text, f"{self.name}:1")]
        found = islice(self._validator.iter_errors(document), _MOST_MISTAKES + 1)
        mistakes = [self._mistake(error) for error in found]
        if len(mistakes) > _MOST_MISTAKES:
            mistakes[-1] = Mistake("", "and further mistakes", self.name)
        return mistakes

    def _mistake(self, error: jsonschema_rs.ValidationError) -> Mistake:
        line = line_of(self._text, list(error.schema_path))
        pointer = _pointer(error.instance_path)
        return Mistake(pointer, _short(error.message), f"{self.name}:{line}")

    def _read_indexed(self, value: Any) -> tuple[str, ...]:
        given = value.get("x-index", []) if isinstance(value, dict) else []
        where = f"{self.name}:{line_of(self._text, ['x-index'])}"
        if not isinstance(given, list) or not all(isinstance(each, str) for each in given):
            raise InvalidInput(f'{where}: "x-index" is a list of fields', where=where)
        return tuple(dict.fromkeys(given))


def _size(document: Any, most: int) -> int:
    """A thousand for each value, and one for each character; not counted far beyond `most`."""
    pending, found = [document], 0
    while pending and found <= most:
        at = pending.pop()
        below = list(at.values()) if isinstance(at, dict) else at if isinstance(at, list) else []
        found += 1000 * len(below) + (len(at) if isinstance(at, str) else 0)
        pending += [each for each in below if isinstance(each, (dict, list, str))]
    return found


def _work(value: Any, name: str) -> tuple[int, int]:
    try:
        return measure_work(value)
    except InvalidInput as error:
        raise InvalidInput(f"{name}: {error.message}", where=name) from error


def _refuse_to_fetch(uri: str) -> Any:
    raise ValueError(f"a schema refers to nothing outside its own file: {uri[:_TEXT]}")


def _pointer(path: Iterable[str | int]) -> str:
    escaped = (str(part).replace("~", "~0").replace("/", "~1") for part in path)
    return _short("".join(f"/{part}" for part in escaped))


def _short(text: str) -> str:
    """In one line, printable, and of a length that a person reads."""
    line = text.partition("\n")[0]
    cut = line if len(line) <= _TEXT else line[:_TEXT] + "..."
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in cut)
