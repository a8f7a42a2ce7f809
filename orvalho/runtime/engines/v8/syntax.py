"""Where the parts of a source stand: tree-sitter's trees of JavaScript and TypeScript."""

from __future__ import annotations

from collections.abc import Container, Iterator
from typing import Final

import tree_sitter_javascript
import tree_sitter_typescript
from tree_sitter import Language, Node, Parser

__all__ = ["Node", "find_all", "parse", "parse_typescript", "utf16", "utf16_units", "walk"]

_GOES_ON: Final = bytes(range(0x80, 0xC0))
_BEGINS_FOUR: Final = bytes(range(0xF0, 0xF8))
_JAVASCRIPT: Final = Language(tree_sitter_javascript.language())
_TYPESCRIPT: Final = Language(tree_sitter_typescript.language_typescript())


def parse(raw: bytes) -> Node:
    """The tree of a JavaScript source. Never fails: what cannot be read is an ERROR node."""
    return Parser(_JAVASCRIPT).parse(raw).root_node


def parse_typescript(raw: bytes) -> Node:
    """The same of TypeScript, without JSX."""
    return Parser(_TYPESCRIPT).parse(raw).root_node


def find_all(root: Node, kinds: Container[str]) -> list[Node]:
    """The named nodes of these kinds, in the order of the text."""
    return [node for node, _, _ in walk(root) if node.type in kinds]


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
    """How long a text in UTF-8 is in UTF-16 units, as columns are counted: one for each byte that
    begins a character, and one more for those that begin one of four bytes."""
    begun = text.translate(None, _GOES_ON)
    return 2 * len(begun) - len(begun.translate(None, _BEGINS_FOUR))


def utf16_units(text: str) -> list[int]:
    """A text as JavaScript orders it. Without a codec, which a worker can no longer load."""
    units: list[int] = []
    for character in map(ord, text):
        if character > 0xFFFF:
            units += (0xD800 + ((character - 0x10000) >> 10), 0xDC00 + (character & 0x3FF))
        else:
            units.append(character)
    return units
