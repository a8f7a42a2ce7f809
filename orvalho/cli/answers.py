"""Answers of many nodes to one program: the table they make, and what they come to together.

Every value here came from other nodes. A cell is short, on one line and without control
characters; a table has few columns, whatever an answer holds; numbers are added only where they
are numbers.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from orvalho.cli.output import size
from orvalho.cli.replies import plain
from orvalho.cli.runs import preview
from orvalho.control.asking import AskAnswer

_CELL_LETTERS: Final = 48
_NAME_LETTERS: Final = 32
_WHY_LETTERS: Final = 110
_DIGEST: Final = re.compile(r"(sha256:[0-9a-f]{8})[0-9a-f]{56}")
_COLUMNS: Final = 12
# The column of answers that are no records.
_ANSWER: Final = "answer"

REDUCTIONS: Final[dict[str, Callable[[list[Any]], Any]]] = {
    "sum": lambda numbers: _sum(numbers),  # noqa: PLW0108 -- it stands further down
    "min": min,
    "max": max,
}


@dataclass(frozen=True, slots=True)
class Row:
    """One node's answer, decoded. `value` is JSON's: None where there is no answer."""

    answer: AskAnswer
    value: Any

    @property
    def is_answer(self) -> bool:
        return self.answer.state == "done"

    @property
    def fields(self) -> dict[str, Any]:
        """What it answered, by column."""
        if not self.is_answer:
            return {}
        if self.answer.result_bytes is not None:
            return {_ANSWER: preview(self.answer.result_bytes)}
        return self.value if isinstance(self.value, dict) else {_ANSWER: self.value}

    @property
    def why(self) -> str:
        """Why there is no answer, on one line."""
        error = self.answer.error
        if error is None:
            return f"the run was {self.answer.state}"
        return one_line(_DIGEST.sub(r"\1...", error.message), _WHY_LETTERS)

    def document(self) -> dict[str, Any]:
        """For `--json`, and for a reducing program."""
        known = plain(self.answer) | {"result": self.value}
        known["result_bytes"] = known.get("result_bytes")
        return known


def read_row(answer: AskAnswer) -> Row:
    """The daemon has seen to it that the answer can be read."""
    return Row(answer, msgspec.json.decode(bytes(answer.result)))


# ---- the table ----------------------------------------------------------------------------


def columns(rows: Iterable[Row]) -> tuple[list[str], int]:
    """The columns of a table: the most common first, otherwise as they come; and how many more
    there are."""
    counts: dict[str, int] = {}
    for row in rows:
        for name in row.fields:
            counts[name] = counts.get(name, 0) + 1
    # `sorted` keeps the order of equals.
    ranked = sorted(counts, key=lambda name: -counts[name])[:_COLUMNS]
    chosen = [name for name in counts if name in set(ranked)]
    return chosen, len(counts) - len(chosen)


def table(rows: Sequence[Row]) -> tuple[list[str], list[list[object]]]:
    """Headers and cells: the node, its state, a cell a column, and why there is no answer."""
    names, more = columns(rows)
    has_why = any(not row.is_answer for row in rows)
    headers = ["node", "state", *(one_line(name, _NAME_LETTERS) for name in names)]
    headers += ["..."] if more else []
    headers += ["why"] if has_why else []
    cells: list[list[object]] = []
    for row in rows:
        fields = row.fields
        line: list[object] = [row.answer.node, row.answer.state]
        line += [cell(name, fields[name]) if name in fields else None for name in names]
        line += [f"+{len(fields.keys() - set(names))}"] if more else []
        line += [row.why if not row.is_answer else ""] if has_why else []
        cells.append(line)
    return headers, cells


def cell(name: str, value: Any) -> str | None:
    """A value in few letters; a column that is named `..._bytes` as a size."""
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) and name.endswith("_bytes") and 0 <= value < 1 << 63:
        return size(value)
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, str):
        return one_line(value)
    return one_line(json.dumps(value, ensure_ascii=False))


def one_line(text: str, most: int = _CELL_LETTERS) -> str:
    """Without line breaks and tabs, which a table's own lines could not be told from."""
    start = text[: most + 1].replace("\n", "\\n").replace("\t", "\\t").replace("\r", "\\r")
    start = "".join(each if each.isprintable() else "?" for each in start)
    return start if len(start) <= most else start[: most - 1] + "…"


# ---- what they come to --------------------------------------------------------------------


def reduced(rows: Iterable[Row], how: str) -> Any:
    """One number for answers that are numbers; for records one a column, of those that hold a
    number there. None where there is none, or where it is beyond what numbers hold."""
    reduce = REDUCTIONS[how]
    numbers: list[Any] = []
    by_column: dict[str, list[Any]] = {}
    for row in rows:
        if not row.is_answer:
            continue
        if isinstance(row.value, dict):
            for name, value in row.value.items():
                if _is_number(value):
                    by_column.setdefault(name, []).append(value)
        elif _is_number(row.value):
            numbers.append(row.value)
    if not by_column:
        return _kept(reduce(numbers)) if numbers else None
    found = {name: _kept(reduce(values)) for name, values in by_column.items()}
    return found if not numbers else {_ANSWER: _kept(reduce(numbers)), **found}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _sum(numbers: list[Any]) -> Any:
    if all(isinstance(number, int) for number in numbers):
        return sum(numbers)
    try:
        return math.fsum(numbers)
    except OverflowError:
        return math.inf


def _kept(number: Any) -> Any:
    try:
        return number if math.isfinite(number) else None
    except OverflowError:  # a whole number that no float holds
        return None
