"""A one-file ES module as the program that V8 runs: a function, since V8 here has no modules.

Text is overwritten in place where that is possible, and each place where some is put in is kept as
a Shift, so that no line moves and every column can be told as it stands in the author's file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

import tree_sitter_javascript
from tree_sitter import Language, Node, Parser, Query, QueryCursor

from orvalho.runtime.engine import Problem

_LANGUAGE: Final = Language(tree_sitter_javascript.language())
_REFUSED: Final = Query(
    _LANGUAGE,
    "(import_statement) @import (call_expression function: (import) @call) (meta_property) @meta",
)
_IMPORT_HINT: Final = "modules are not supported in this version: put all code into one file"
_MODULE: Final = b'(async function(){"use strict";let $out;'
# In a block of its own, a script may use the names of its parameters again.
_BARE: Final = b'(async function(caller,target,params,log){"use strict";{'


@dataclass(frozen=True, slots=True)
class Shift:
    """`size` characters (UTF-16 units) were put in after that line's first `column` ones, as they
    count in the program."""

    line: int
    column: int
    size: int


@dataclass(frozen=True, slots=True)
class Program:
    """`text` evaluates to an async function. A module's takes nothing and gives what it exports as
    default; a bare one takes caller, target, params and log and gives its last expression."""

    text: str
    is_bare: bool
    shifts: tuple[Shift, ...]
    problems: tuple[Problem, ...]

    def original_column(self, line: int, column: int) -> int:
        """Where a column of the program (from 1) stands in the source."""
        inside = (
            min(column - shift.column - 1, shift.size)
            for shift in self.shifts
            if shift.line == line and column > shift.column
        )
        return column - sum(inside)


def lower(filename: str, source: str) -> Program:
    """Never fails: what is wrong is in `problems`, and a source that cannot be parsed is left for
    V8 to say so."""
    return _Lowering(source).program(filename)


class _Lowering:
    def __init__(self, source: str) -> None:
        raw = source.encode("utf-8", "replace")
        self._text = bytearray(raw)
        self._root = Parser(_LANGUAGE).parse(raw).root_node
        self._inserts: list[tuple[int, bytes]] = []
        self._default: bytes | None = None
        self._problems: list[Problem] = []

    def program(self, filename: str) -> Program:
        self._refuse_imports()
        exports = [node for node in self._root.children if node.type == "export_statement"]
        for node in exports:
            self._lower_export(node)
        if self._text.startswith(b"#!"):
            self._text[:2] = b"//"
        is_bare = self._default is None
        if is_bare:
            self._return_last_expression()
        start = _BARE if is_bare else _MODULE
        end = b"\n}})" if is_bare else b"\n;return " + (self._default or b"") + b"})"
        self._inserts.insert(0, (0, start))
        # V8 takes no name with a space or a quote in it.
        name = re.sub(r"[\s\"'%]", lambda found: quote(found[0]), filename)
        body, shifts = self._insert()
        return Program(
            f"{body}{end.decode()}\n//# sourceURL={name}",
            is_bare,
            shifts,
            tuple(sorted(self._problems, key=lambda problem: (problem.line, problem.column))),
        )

    def _refuse_imports(self) -> None:
        for kind, nodes in QueryCursor(_REFUSED).captures(self._root).items():
            for node in nodes:
                if kind != "meta":
                    what = "import() is" if kind == "call" else "import is"
                    self._problem(node, f"{what} not possible: {_IMPORT_HINT}")
                elif (node.text or b"").startswith(b"import"):
                    self._problem(node, "import.meta does not exist here: a script has no address")

    def _lower_export(self, node: Node) -> None:
        if node.child_by_field_name("source"):
            return self._problem(
                node, f"exporting from another file is not possible: {_IMPORT_HINT}"
            )
        tokens = {child.type: child for child in node.children}
        clause, default = tokens.get("export_clause"), tokens.get("default")
        if clause:
            self._read_clause(clause)
            return self._blank(node.start_byte, node.end_byte)
        self._blank(tokens["export"].start_byte, tokens["export"].end_byte)
        if default is None:
            return None
        named = node.child_by_field_name("declaration")
        value = node.child_by_field_name("value")
        name = named.child_by_field_name("name") if named else None
        if name:
            self._blank(default.start_byte, default.end_byte)
            self._export(node, name.text or b"")
        elif value or named:
            # As long as the word it replaces; and a semicolon on both sides, since without a line
            # of its own an expression would go on into what stands there.
            self._text[default.start_byte : default.end_byte] = b";$out ="
            end = value or named
            self._inserts.append((end.end_byte if end else 0, b";"))
            self._export(node, b"$out")
        return None

    def _read_clause(self, clause: Node) -> None:
        for specifier in clause.named_children:
            alias = specifier.child_by_field_name("alias")
            name = specifier.child_by_field_name("name")
            if alias and name and alias.text == b"default":
                self._export(specifier, name.text or b"")

    def _export(self, node: Node, name: bytes) -> None:
        if self._default is not None:
            self._problem(node, "there is more than one export default")
        self._default = name

    def _return_last_expression(self) -> None:
        skipped = (
            "comment",
            "empty_statement",
            "function_declaration",
            "generator_function_declaration",
        )
        for node in reversed(self._root.children):
            if node.type == "expression_statement":
                self._inserts.append((node.start_byte, b"return "))
            if node.type not in skipped:
                return

    def _insert(self) -> tuple[str, tuple[Shift, ...]]:
        shifts: list[Shift] = []
        pieces: list[bytes] = []
        done = 0
        for at, text in sorted(self._inserts, key=lambda insert: insert[0]):
            pieces += (bytes(self._text[done:at]), text)
            done = at
            line = self._text.count(b"\n", 0, at) + 1
            column = _utf16(self._text[self._text.rfind(b"\n", 0, at) + 1 : at])
            column += sum(shift.size for shift in shifts if shift.line == line)
            shifts.append(Shift(line, column, len(text)))
        pieces.append(bytes(self._text[done:]))
        return b"".join(pieces).decode("utf-8", "replace"), tuple(shifts)

    def _blank(self, start: int, end: int) -> None:
        self._text[start:end] = bytes(c if c in b"\r\n" else 32 for c in self._text[start:end])

    def _problem(self, node: Node, message: str) -> None:
        line_start = self._text.rfind(b"\n", 0, node.start_byte) + 1
        column = _utf16(self._text[line_start : node.start_byte]) + 1
        self._problems.append(Problem(node.start_point[0] + 1, column, message))


def _utf16(text: bytes | bytearray) -> int:
    characters = text.decode("utf-8", "replace")
    return len(characters) + sum(c > "\uffff" for c in characters)
