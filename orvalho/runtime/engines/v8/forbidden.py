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
_GLOBAL: Final = "globalThis."


def find_forbidden(filename: str, source: str, words: Iterable[str]) -> tuple[Problem, ...]:
    """The first hundred places. Blocks."""
    off = switched_off(words)
    raw = source.encode("utf-8", "replace")
    root = (parse_typescript if filename.endswith((".ts", ".mts")) else parse)(raw)
    found = []
    for node in find_all(root, (*_NAMES, "member_expression")):
        name = _named(node, off)
        if name is not None:
            found.append(_problem(raw, node, name))
    return tuple(found[:_MOST])


def _named(node: Node, off: Off) -> str | None:
    text = (node.text or b"")[:200].decode("utf-8", "replace")
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


def _problem(raw: bytes, node: Node, name: str) -> Problem:
    row, column = node.start_point
    line = raw.split(b"\n")[row]
    return Problem(row + 1, utf16(line[:column]) + 1, f"{name} is switched off in this context")
