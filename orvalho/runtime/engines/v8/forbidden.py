"""Where a source names what its context has switched off. What hides a name from this finds nothing
there when it runs: this is for people, who are told before."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from orvalho.runtime.engine import Problem
from orvalho.runtime.engines.v8.syntax import Node, find_all, parse, parse_typescript, utf16
from orvalho.runtime.web.switches import Off, switched_off

_NAMES: Final = ("identifier", "shorthand_property_identifier")
_MOST: Final = 100
_LONGEST: Final = 200
_GLOBAL: Final = "globalThis."


def find_forbidden(filename: str, source: str, words: Iterable[str]) -> tuple[Problem, ...]:
    """The first hundred places. Blocks."""
    off = switched_off(words)
    raw = source.encode("utf-8", "replace")
    root = (parse_typescript if filename.endswith((".ts", ".mts")) else parse)(raw)
    found, lines = [], raw.split(b"\n")
    for node in find_all(root, (*_NAMES, "member_expression")):
        name = _named(node, raw, off)
        if name is not None:
            found.append(_problem(lines, node, name))
        if len(found) >= _MOST:
            break
    return tuple(found)


def _named(node: Node, raw: bytes, off: Off) -> str | None:
    # Its end says it all, and a chain of members holds each shorter one.
    start = max(node.start_byte, node.end_byte - _LONGEST)
    text = raw[start : node.end_byte].decode("utf-8", "replace")
    if node.type in _NAMES:
        return text if text in off.names else None
    if text.startswith(_GLOBAL):
        name = text.removeprefix(_GLOBAL)
        return name if name in off.names else None
    # `target.kv`, and `job.target.fs.write` where fs itself is there.
    _, dot, call = f".{''.join(text.split())}".rpartition(".target.")
    if not dot:
        return None
    if call in off.rooms or (
        f"target.{call}" in off.ops and call.partition(".")[0] not in off.rooms
    ):
        return f"target.{call}"
    return None


def _problem(lines: list[bytes], node: Node, name: str) -> Problem:
    row, column = node.start_point
    return Problem(
        row + 1, utf16(lines[row][:column]) + 1, f"{name} is switched off in this context"
    )
