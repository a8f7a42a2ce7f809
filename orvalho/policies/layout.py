"""How a file of rules is laid out: columns aligned, comments kept, the meaning unchanged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from orvalho.errors import InvalidInput
from orvalho.policies.rules import parts_of_test, read_files

# One path longer than this pushes no other line's columns to the right.
_WIDEST: Final = 40
_PLACES: Final = 5


def laid_out(name: str, content: bytes) -> str:
    """The text of the file `name`, as it should stand: lines of rules that follow each other have
    their columns below each other, so have tests; comments stay as they are, blank lines are never
    two. It says what it said, and laying it out again changes nothing.

    Raises:
        InvalidInput: a line is broken; `detail` has every mistake. What cannot be read strictly
            has no meaning that could be kept.
    """
    reading = read_files([(name, content)])
    if reading.problems:
        first = reading.problems[0]
        raise InvalidInput(
            f"{name} has mistakes, and is left as it is: {first.message}",
            where=f"{name}:{first.line}" if first.line else name,
            detail="\n".join(map(str, reading.problems)),
            hint="orvalho policy check",
        )
    blocks = _blocks([line.strip(" \t\r") for line in content.decode().split("\n")])
    return "\n".join(line for kind, lines in blocks for line in _block(kind, lines)) + "\n"


def _blocks(lines: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Lines of one kind that follow each other."""
    blocks: list[tuple[str, list[str]]] = []
    for line in lines:
        kind = _kind(line)
        if blocks and blocks[-1][0] == kind:
            blocks[-1][1].append(line)
        elif blocks or kind:
            blocks.append((kind, [line]))
    if blocks and not blocks[-1][0]:
        blocks.pop()
    return blocks


def _kind(line: str) -> str:
    """`#?`, `#`, `p`, `g`, or nothing for a blank line."""
    return "#?" if line.startswith("#?") else line[:1]


def _block(kind: str, lines: list[str]) -> list[str]:
    if kind == "":
        return [""]
    if kind == "#":
        return lines
    if kind == "#?":
        return _tests(lines)
    rows = [[field.strip(" \t") for field in line.split(",")] for line in lines]
    rows = [[*fields[:6], *(" ".join(field.split()) for field in fields[6:])] for fields in rows]
    return _aligned([[*(f"{field}," for field in row[:-1]), row[-1]] for row in rows])


def _tests(lines: list[str]) -> list[str]:
    rows = []
    for line in lines:
        parts = parts_of_test(line)
        given = ["when", *parts.given] if parts.given else []
        rows.append((" ".join(given), parts.words))
    # The words of a test stand below each other, also where only some say what they suppose.
    columns = _aligned([words for _, words in rows])
    given = _aligned([[text, ""] for text, _ in rows]) if any(t for t, _ in rows) else []
    wide = max((len(text) for text in given), default=0)
    if not wide:
        return [f"#? {line}" for line in columns]
    return [f"#? {text.ljust(wide)} {line}" for text, line in zip(given, columns, strict=True)]


def _aligned(rows: list[list[str]]) -> list[str]:
    """The cells with one blank between them, each column as wide as its widest cell."""
    widths = [
        max((len(row[at]) for row in rows if at < len(row) and len(row[at]) <= _WIDEST), default=0)
        for at in range(max(map(len, rows)))
    ]
    lines = []
    for row in rows:
        last = len(row) - 1
        cells = (cell if at == last else cell.ljust(widths[at]) for at, cell in enumerate(row))
        lines.append(" ".join(cells).rstrip(" "))
    return lines
