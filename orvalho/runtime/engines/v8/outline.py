"""What a source offers: the functions that it exports, as their author wrote them, and their doc
comments (JSDoc)."""

from __future__ import annotations

import re
from typing import Final

from orvalho.runtime.engine import Function, Outline
from orvalho.runtime.engines.v8.modules import Program
from orvalho.runtime.engines.v8.syntax import Node, parse, parse_typescript

_MOST_CHARACTERS: Final = 2000
_MOST_STATEMENTS: Final = 5000


def outline(filename: str, source: str, program: Program) -> Outline:
    """Blocks. `program` is the source as it was lowered."""
    raw = source.encode("utf-8", "replace")
    root = (parse_typescript if filename.endswith(("ts", ".mts")) else parse)(raw)
    found: dict[str, Function] = {}
    statements = root.children[:_MOST_STATEMENTS]
    for before, node in zip([None, *statements], statements, strict=False):
        for name, signature in _functions(node):
            if name not in found or "export" in {child.type for child in node.children}:
                found[name] = Function(
                    name, node.start_point[0] + 1, signature, _doc(before) if before else ""
                )
    own = [found[name] for name in program.exports if name in found]
    own += [
        Function(each.local, each.request.line, f'from "{each.request.specifier}"', "")
        for each in program.passed_on
    ]
    requests = (*program.requests, *program.dynamic)
    return Outline(requests, tuple(own), program.problems)


def _functions(node: Node) -> list[tuple[str, str]]:
    """The names that a statement declares, and how."""
    declared = node.child_by_field_name("declaration") or node.child_by_field_name("value") or node
    is_default = any(child.type == "default" for child in node.children)
    name = declared.child_by_field_name("name")
    if name is not None:
        found = [(_text(name), _signature(declared))]
        return [("default", found[0][1]), *found] if is_default else found
    if is_default:
        return [("default", _signature(declared))]
    return [
        (_text(each.child_by_field_name("name")), _signature(each))
        for each in declared.named_children
        if each.type == "variable_declarator"
    ]


def _signature(node: Node) -> str:
    value = node.child_by_field_name("value") if node.type == "variable_declarator" else node
    body = value.child_by_field_name("body") if value is not None else None
    text = _text(node)
    if body is not None:
        length = body.start_byte - node.start_byte
        text = (node.text or b"")[:length].decode("utf-8", "replace")
        text = text.rstrip().removesuffix("=>")
    return " ".join(text.split())[:200]


def _doc(node: Node) -> str:
    text = _text(node)
    if node.type != "comment" or not text.startswith("/**"):
        return ""
    lines = [re.sub(r"^\s*\*? ?", "", line) for line in text[3:-2].splitlines()]
    return "\n".join(lines).strip()[:_MOST_CHARACTERS]


def _text(node: Node | None) -> str:
    return (node.text or b"").decode("utf-8", "replace") if node is not None else ""
