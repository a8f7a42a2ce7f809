"""Where the parts of a source stand: tree-sitter's trees of JavaScript and TypeScript."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import tree_sitter_javascript
import tree_sitter_typescript
from tree_sitter import Language, Node, Parser, Query, QueryCursor

__all__ = ["Node", "find_all", "parse", "parse_typescript", "utf16", "utf16_units", "walk"]

_JAVASCRIPT: Final = Language(tree_sitter_javascript.language())
_TYPESCRIPT: Final = Language(tree_sitter_typescript.language_typescript())
_QUERIES: dict[str, Query] = {}


def parse(raw: bytes) -> Node:
    """The tree of a JavaScript source. Never fails: what cannot be read is an ERROR node."""
    return Parser(_JAVASCRIPT).parse(raw).root_node


def parse_typescript(raw: bytes) -> Node:
    """The same of TypeScript, without JSX."""
    return Parser(_TYPESCRIPT).parse(raw).root_node


def find_all(root: Node, query: str) -> list[Node]:
    """The nodes of a TypeScript tree that a query captures, in the order of the text."""
    if query not in _QUERIES:
        _QUERIES[query] = Query(_TYPESCRIPT, query)
    found = QueryCursor(_QUERIES[query]).captures(root)
    nodes = {node.id: node for captured in found.values() for node in captured}
    return sorted(nodes.values(), key=lambda node: (node.start_byte, -node.end_byte))


def walk(root: Node) -> Iterator[tuple[Node, str | None, int]]:
    """Each named node with its field's name in its parent and its depth, parents first. Linear in
    the size of the tree, whatever its shape."""
    cursor, depth = root.walk(), 0
    while True:
        node = cursor.node
        if node is not None and node.is_named:
            yield node, cursor.field_name, depth
        if cursor.goto_first_child():
            depth += 1
            continue
        while not cursor.goto_next_sibling():
            if not cursor.goto_parent():
                return
            depth -= 1


def utf16(text: bytes | bytearray) -> int:
    """How long a text is in UTF-16 units, as columns are counted."""
    characters = text.decode("utf-8", "replace")
    return len(characters) + sum(c > "\uffff" for c in characters)


def utf16_units(text: str) -> list[int]:
    """A text as JavaScript orders it. Without a codec, which a worker can no longer load."""
    units: list[int] = []
    for character in map(ord, text):
        if character > 0xFFFF:
            units += (0xD800 + ((character - 0x10000) >> 10), 0xDC00 + (character & 0x3FF))
        else:
            units.append(character)
    return units
