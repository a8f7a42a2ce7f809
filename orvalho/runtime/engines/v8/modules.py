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
from tree_sitter import Language, Node, Parser

from orvalho.runtime.engine import Problem

_LANGUAGE: Final = Language(tree_sitter_javascript.language())
# The words that no bare function may hold, wherever they stand; strings and comments hold them too.
_WORDS: Final = re.compile(rb"\b(?:import|export)\b")
_MOST_WORDS: Final = 2000
_MOST_PROBLEMS: Final = 20
# What may stand behind the last expression without being run after it.
_SKIPPED: Final = (
    "comment",
    "empty_statement",
    "function_declaration",
    "generator_function_declaration",
)
_MOST_SKIPPED: Final = 100
_TWICE: Final = "there is more than one export default"
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
    """Looks up the words that matter in the tree, and never walks the whole of it: a source of a
    megabyte that is made for the purpose has half a million nodes, most of them children of one."""

    def __init__(self, source: str) -> None:
        raw = source.encode("utf-8", "replace")
        self._text = bytearray(raw)
        self._root = Parser(_LANGUAGE).parse(raw).root_node
        self._inserts: list[tuple[int, bytes]] = []
        self._default: bytes | None = None
        self._problems: list[Problem] = []

    def program(self, filename: str) -> Program:
        self._handle_words()
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
            f"{body}{end.decode()}\n//# sourceURL={name}", is_bare, shifts, tuple(self._problems)
        )

    def _handle_words(self) -> None:
        places = [(found.start(), found.end()) for found in _WORDS.finditer(self._text)]
        for start, end in places[:_MOST_WORDS]:
            word = self._root.descendant_for_byte_range(start, end)
            if word is None or word.parent is None:
                continue
            if word.type == "export" and word.parent.type == "export_statement":
                self._lower_export(word.parent)
            elif word.type == "import":
                self._refuse_import(word, word.parent)
            elif word.type == "meta_property" or word.parent.type == "meta_property":
                self._refuse_meta(word)
            if len(self._problems) >= _MOST_PROBLEMS:
                return

    def _refuse_import(self, word: Node, parent: Node) -> None:
        if parent.type == "import" and parent.parent:
            parent = parent.parent
        if parent.type == "meta_property":
            self._refuse_meta(word)
        elif parent.type == "call_expression":
            self._problem(word, f"import() is not possible: {_IMPORT_HINT}")
        elif parent.type == "import_statement":
            self._problem(word, f"import is not possible: {_IMPORT_HINT}")

    def _refuse_meta(self, node: Node) -> None:
        self._problem(node, "import.meta does not exist here: a script has no address")

    def _lower_export(self, node: Node) -> None:
        if node.child_by_field_name("source"):
            what = "exporting from another file is not possible"
            return self._problem(node, f"{what}: {_IMPORT_HINT}")
        tokens = {child.type: child for child in node.children}
        clause, default = tokens.get("export_clause"), tokens.get("default")
        if clause:
            self._read_clause(clause)
            return self._blank(node.start_byte, node.end_byte)
        self._blank(tokens["export"].start_byte, tokens["export"].end_byte)
        if default is not None:
            self._lower_default(node, default)
        return None

    def _lower_default(self, node: Node, default: Node) -> None:
        if self._default is not None:
            return self._problem(node, _TWICE)
        declared = node.child_by_field_name("declaration")
        name = declared.child_by_field_name("name") if declared else None
        value = node.child_by_field_name("value") or declared
        if name:
            self._blank(default.start_byte, default.end_byte)
            self._default = name.text
        elif value:
            # As long as the word it replaces; and a semicolon on both sides, since without a line
            # of its own an expression would go on into what stands there.
            self._text[default.start_byte : default.end_byte] = b";$out ="
            self._inserts.append((value.end_byte, b";"))
            self._default = b"$out"
        return None

    def _read_clause(self, clause: Node) -> None:
        for specifier in clause.named_children:
            alias = specifier.child_by_field_name("alias")
            name = specifier.child_by_field_name("name")
            if alias and name and alias.text == b"default":
                if self._default is not None:
                    return self._problem(specifier, _TWICE)
                self._default = name.text
        return None

    def _return_last_expression(self) -> None:
        last = self._root.child_count - 1
        for index in range(last, max(last - _MOST_SKIPPED, -1), -1):
            node = self._root.child(index)
            if node is None:
                return
            if node.type == "expression_statement":
                self._inserts.append((node.start_byte, b"return "))
            if node.type not in _SKIPPED:
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
