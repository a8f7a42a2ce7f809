"""An ES module as the program that V8 runs: a function, since V8 here has no modules.

Text is overwritten in place where that is possible, and each place where some is put in is kept as
a Shift, so that no line moves and every column can be told as it stands in the author's file.

An imported name is read through an object with a getter for each (`references.py`), so that it is
always what its exporter's variable is then (ECMA-262, section 9.1.1.5).
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import quote

from orvalho.runtime.engine import Problem, Request
from orvalho.runtime.engines.v8.data import WITH_JSON, attribute_mistake, read_data
from orvalho.runtime.engines.v8.references import References, find_references
from orvalho.runtime.engines.v8.syntax import Node, parse, utf16, walk
from orvalho.runtime.engines.v8.typescript import strip_types
from orvalho.scripts.modules import DATA

# The words that no bare function may hold, wherever they stand; strings and comments hold them too.
_WORDS: Final = re.compile(rb"\b(?:import|export)\b")
_EXPORT: Final = re.compile(rb"\bexport\b(\s*default\b)?")
_MOST_WORDS: Final = 2000
_LOOKED_UP: Final = 50
_STATEMENTS: Final = ("export_statement", "import_statement", "meta_property")
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
_MODULE: Final = '(async function(){"use strict";'
# In a block of its own, a script may use the names of its parameters again.
_BARE: Final = '(async function(caller,target,params,log){"use strict";{'
_TYPESCRIPT: Final = (".ts", ".mts")
EVERYTHING: Final = "*"
_DEFAULT: Final = "default"


@dataclass(frozen=True, slots=True)
class Shift:
    """`size` characters (UTF-16 units) were put in after that line's first `column` ones, as they
    count in the program."""

    line: int
    column: int
    size: int


@dataclass(frozen=True, slots=True)
class Binding:
    """`local` stands for what `request` exports as `imported`, EVERYTHING for its namespace; in a
    re-export `local` is the name that it is passed on by."""

    local: str
    imported: str
    request: Request


@dataclass(frozen=True, slots=True)
class Program:
    """`text` evaluates to an async function. A module's takes nothing and gives what it exports as
    default; a bare one takes caller, target, params and log and gives its last expression. One that
    `is_linked` takes what `modules.js` hands to it before these. `exports` are the names of its own
    variables; `requests` are in the order of the text, `dynamic` are those of `import()`."""

    text: str
    is_bare: bool
    shifts: tuple[Shift, ...]
    problems: tuple[Problem, ...]
    name: str = ""
    is_linked: bool = False
    requests: tuple[Request, ...] = ()
    dynamic: tuple[Request, ...] = ()
    bindings: tuple[Binding, ...] = ()
    exports: tuple[str, ...] = ()
    passed_on: tuple[Binding, ...] = ()
    stars: tuple[Request, ...] = ()
    # Whether all of it could be read.
    is_whole: bool = True
    # The same without the words that V8 would stumble over first, for whoever asks what is wrong.
    bared: str = ""

    @property
    def texts(self) -> tuple[str, ...]:
        """What V8 is asked about in turn, to learn why the program does not compile."""
        return (self.bared, self.text) if self.bared else (self.text,)

    def original_column(self, line: int, column: int) -> int:
        """Where a column of the program (from 1) stands in the source."""
        inside = (
            min(column - shift.column - 1, shift.size)
            for shift in self.shifts
            if shift.line == line and column > shift.column
        )
        return column - sum(inside)


def lower(filename: str, source: str, *, is_entry: bool = True) -> Program:
    """Never fails: what is wrong is in `problems`, and a source that cannot be parsed is left for
    V8 to say so. A module that is no entry is never bare."""
    problems: tuple[Problem, ...]
    if filename.endswith(DATA):
        source, problems = read_data(source)
        program = _Lowering(source.encode(), is_entry=False).program(filename)
        return replace(program, problems=problems)
    raw, problems = source.encode("utf-8", "replace"), ()
    if filename.endswith(_TYPESCRIPT):
        raw, problems = strip_types(raw)
    program = _Lowering(raw, is_entry=is_entry).program(filename)
    return replace(program, problems=problems + program.problems) if problems else program


class _Lowering:
    """Looks up the words that matter in the tree, and never walks the whole of it unless it imports
    something: a source of a megabyte that is made for the purpose has half a million nodes, most of
    them children of one."""

    def __init__(self, raw: bytes, *, is_entry: bool) -> None:
        self._text = bytearray(raw)
        self._root = parse(raw)
        self._is_entry = is_entry
        self._is_linked = not is_entry
        self._inserts: list[tuple[int, bytes]] = []
        self._problems: list[Problem] = []
        self._requests: list[Request] = []
        self._dynamic: list[Request] = []
        self._bindings: dict[str, Binding] = {}
        self._passed_on: list[Binding] = []
        self._stars: list[Request] = []
        # What is exported by which name: an expression of this module's.
        self._exports: dict[str, str] = {}
        self._replaced: list[tuple[Node, str, int]] = []
        self._stem = _free_name(raw)
        # Line and byte of the place that was told last, and its column from 0: from there on a long
        # line is counted further.
        self._last_place = (-1, 0, 0)

    def program(self, filename: str) -> Program:
        self._handle_words()
        if self._text.startswith(b"#!"):
            self._text[:2] = b"//"
        if self._bindings:
            self._lower_references()
        for node, word, size in self._replaced:
            self._text[node.start_byte : node.start_byte + size] = word.encode().ljust(size)
        given = {*self._exports, *(each.local for each in self._passed_on)}
        is_bare = self._is_entry and _DEFAULT not in given
        if is_bare:
            self._return_last_expression()
        start, end = self._frame(is_bare)
        self._inserts.insert(0, (0, start.encode()))
        # V8 takes no name with a space or a quote in it.
        name = re.sub(r"[\s\"'%]", lambda found: quote(found[0]), filename)
        body, shifts = self._insert()
        end = f"{end}\n//# sourceURL={name}"
        bared = self._root.has_error and self._bare_words()
        return Program(
            f"{body}{end}",
            is_bare,
            shifts,
            tuple(self._problems),
            name,
            self._is_linked,
            tuple(self._requests),
            tuple(self._dynamic),
            tuple(self._bindings.values()),
            tuple(self._exports),
            tuple(self._passed_on),
            tuple(self._stars),
            not self._root.has_error,
            f"{self._insert()[0]}{end}" if bared else "",
        )

    def _frame(self, is_bare: bool) -> tuple[str, str]:
        """What stands before and behind the text of the module. A linked one shows its exports,
        which may not hold a value yet, and then waits for its turn (`modules.js`)."""
        default = self._exports.get(_DEFAULT, "undefined")
        end = "\n}})" if is_bare else f"\n;return {default}}})"
        if not self._is_linked:
            return _BARE if is_bare else _MODULE, end
        m = self._stem
        shown = "".join(f",[{json.dumps(name)}]:()=>{what}" for name, what in self._exports.items())
        # An expression that is shown before the block would not see what the block declares.
        show = f"{m}E({{__proto__:null{shown}}});await {m}G;"
        own = f"{m},{m}E,{m}G,{m}L,{m}M"
        if is_bare:
            return f'(async function({own},caller,target,params,log){{"use strict";{{{show}', end
        return f'(async function({own}){{"use strict";{show}', end

    # ---- import and export -------------------------------------------------------------------

    def _handle_words(self) -> None:
        for number, node in enumerate(self._find_words()):
            if number >= _MOST_WORDS:
                self._problem(node, f"more than {_MOST_WORDS} imports and exports")
            elif node.type == "export_statement":
                self._lower_export(node)
            elif node.type == "import_statement":
                self._lower_static(node)
            elif node.type == "call_expression":
                self._lower_dynamic(node)
            else:
                self._lower_meta(node)
            if number >= _MOST_WORDS or len(self._problems) >= _MOST_PROBLEMS:
                return
        self._find_passed_on()

    def _find_words(self) -> Iterator[Node]:
        """The nodes that import or export, in the order of the text. Looking a place up takes as
        long as the nodes beside it are many: of many places it is done in one walk."""
        places = [word.start() for word in _WORDS.finditer(self._text)]
        if len(places) > _LOOKED_UP:
            for node, _, _ in walk(self._root):
                first = node.child(0) if node.type == "call_expression" else None
                if node.type in _STATEMENTS or (first is not None and first.type == "import"):
                    yield node
            return
        for start in places:
            end = start + len(b"import")
            found: Node | None = self._root.descendant_for_byte_range(start, end)
            # The word itself, in a call within a node of its name.
            for _ in range(2):
                if found is not None and found.type in ("import", "export"):
                    found = found.parent
            if found is not None and found.type in (*_STATEMENTS, "call_expression"):
                yield found

    def _lower_meta(self, meta: Node) -> None:
        self._is_linked = True
        text = self._text[meta.start_byte : meta.end_byte]
        if b"\n" in text or len(text) < len(self._stem) + 1:
            return self._problem(meta, "write import.meta in one line")
        self._replaced.append((meta, f"{self._stem}M", len(text)))
        return None

    def _lower_dynamic(self, call: Node) -> None:
        self._is_linked = True
        word = call.children[0]
        arguments = call.child_by_field_name("arguments")
        given = arguments.named_children if arguments else []
        if len(given) != 1 or given[0].type != "string":
            what = "import() takes one text, as it stands: what it names travels with the script"
            return self._problem(word, what)
        request = self._request(given[0], given[0])
        if request.specifier.endswith(DATA):
            what = f'write import data from "{request.specifier}" {WITH_JSON}'
            return self._problem(word, what)
        self._dynamic.append(request)
        self._replaced.append((word, f"{self._stem}L", len(b"import")))
        return None

    def _lower_static(self, node: Node) -> None:
        self._is_linked = True
        source = node.child_by_field_name("source")
        if source is None:
            return self._problem(node, "this import names no module")
        request = self._request(source, source)
        if (mistake := attribute_mistake(node, request.specifier)) is not None:
            return self._problem(source, mistake)
        self._requests.append(request)
        clause = next((each for each in node.children if each.type == "import_clause"), None)
        for part in clause.named_children if clause else ():
            if part.type == "identifier":
                self._bind(part, part, _DEFAULT, request)
            elif part.type == "namespace_import":
                self._bind(part.named_children[0], part, EVERYTHING, request)
            elif part.type == "named_imports":
                for each in part.named_children:
                    self._bind_specifier(each, request)
        return self._erase(node)

    def _bind_specifier(self, node: Node, request: Request) -> None:
        if node.type == "import_specifier":
            name = node.children[0]
            self._bind(node.child_by_field_name("alias") or name, name, _name(name), request)

    def _bind(self, local: Node, at: Node, imported: str, request: Request) -> None:
        name = _name(local)
        if name in self._bindings:
            return self._problem(local, f"Identifier '{name}' has already been declared")
        line, column = self._place(at)
        place = Request(request.specifier, line, column)
        self._bindings[name] = Binding(name, imported, place)
        return None

    def _lower_export(self, node: Node) -> None:
        source = node.child_by_field_name("source")
        tokens = {child.type: child for child in node.children}
        if source is not None:
            self._pass_on(node, tokens, source)
            return self._erase(node)
        clause, default = tokens.get("export_clause"), tokens.get("default")
        if clause:
            for specifier in clause.named_children:
                if specifier.type == "export_specifier":
                    local, alias = specifier.children[0], specifier.children[-1]
                    self._export(specifier, _name(alias), _name(local))
            return self._erase(node)
        if default is not None:
            return self._lower_default(node, tokens["export"], default)
        self._blank(tokens["export"].start_byte, tokens["export"].end_byte)
        declared = node.child_by_field_name("declaration")
        for name in _declared_names(declared) if declared else ():
            self._export(node, name, name)
        return None

    def _pass_on(self, node: Node, tokens: dict[str, Node], source: Node) -> None:
        self._is_linked = True
        request = self._request(source, source)
        if request.specifier.endswith(DATA):
            return self._problem(source, f"import it first {WITH_JSON}, and export that")
        self._requests.append(request)
        if (space := tokens.get("namespace_export")) is not None:
            self._passed_on.append(Binding(_name(space.named_children[0]), EVERYTHING, request))
        elif (clause := tokens.get("export_clause")) is not None:
            for each in clause.named_children:
                line, column = self._place(each)
                place = Request(request.specifier, line, column)
                self._passed_on.append(
                    Binding(_name(each.children[-1]), _name(each.children[0]), place)
                )
        else:
            self._stars.append(request)
        return None

    def _find_passed_on(self) -> None:
        """An imported name that is exported is a re-export."""
        for name, local in list(self._exports.items()):
            if (binding := self._bindings.get(local)) is not None:
                del self._exports[name]
                self._passed_on.append(Binding(name, binding.imported, binding.request))

    def _lower_default(self, node: Node, export: Node, default: Node) -> None:
        if _DEFAULT in self._exports:
            return self._problem(node, _TWICE)
        declared = node.child_by_field_name("declaration")
        name = declared.child_by_field_name("name") if declared else None
        value = node.child_by_field_name("value") or declared
        if name:
            self._blank(export.start_byte, export.end_byte)
            self._blank(default.start_byte, default.end_byte)
            self._exports[_DEFAULT] = _name(name)
        elif value:
            # As long as the words that they replace; and a semicolon on both sides, since without a
            # line of its own an expression would go on into what stands there.
            self._text[export.start_byte : export.end_byte] = b";const"
            self._text[default.start_byte : default.end_byte] = b" $out ="
            self._inserts.append((value.end_byte, b";"))
            self._exports[_DEFAULT] = "$out"
        return None

    def _export(self, node: Node, name: str, what: str) -> None:
        if name in self._exports:
            message = _TWICE if name == _DEFAULT else f'"{name}" is exported twice'
            return self._problem(node, message)
        self._exports[name] = what
        return None

    # ---- text --------------------------------------------------------------------------------

    def _lower_references(self) -> None:
        found: References = find_references(self._root, self._bindings, self._stem)
        self._inserts += found.inserts
        for node in found.declared_again:
            self._problem(node, f"Identifier '{_name(node)}' has already been declared")

    def _return_last_expression(self) -> None:
        last = self._root.child_count - 1
        for index in range(last, max(last - _MOST_SKIPPED, -1), -1):
            node = self._root.child(index)
            if node is None:
                return
            if node.type == "expression_statement":
                at = node.start_byte
                # Behind a semicolon that keeps it apart from what stands before it.
                after = [each for each in self._inserts if each[0] == at]
                self._inserts = [each for each in self._inserts if each[0] != at]
                self._inserts.append((at, b"return " + b"".join(t for _, t in after).lstrip(b";")))
            if node.type not in _SKIPPED:
                return

    def _bare_words(self) -> bool:
        """Overwrite each `export` of a statement that cannot be read, as long as it is; whether
        there are any. V8, which knows no modules, would tell of that word alone."""
        found = False
        for word in itertools.islice(_EXPORT.finditer(bytes(self._text)), _LOOKED_UP):
            start, end = word.span()
            node = self._root.descendant_for_byte_range(start, start + len(b"export"))
            if node is not None and node.type == "export":
                self._blank(start, end)
                if word[1]:
                    self._text[start : start + 6] = b";const"
                    self._text[end - 7 : end] = b" $out ="
                found = True
        return found

    def _insert(self) -> tuple[str, tuple[Shift, ...]]:
        shifts: list[Shift] = []
        pieces: list[bytes] = []
        done, line, column = 0, 1, 0
        for at, text in sorted(self._inserts, key=lambda insert: insert[0]):
            between = bytes(self._text[done:at])
            pieces += (between, text)
            if breaks := between.count(b"\n"):
                line += breaks
                column = 0
            column += utf16(between[between.rfind(b"\n") + 1 :])
            shifts.append(Shift(line, column, utf16(text)))
            column += utf16(text)
            done = at
        pieces.append(bytes(self._text[done:]))
        return b"".join(pieces).decode("utf-8", "replace"), tuple(shifts)

    def _erase(self, node: Node) -> None:
        """A statement. A semicolon stays, which keeps what stands around it apart."""
        self._blank(node.start_byte, node.end_byte)
        self._text[node.start_byte : node.start_byte + 1] = b";"

    def _blank(self, start: int, end: int) -> None:
        self._text[start:end] = bytes(c if c in b"\r\n" else 32 for c in self._text[start:end])

    def _request(self, source: Node, at: Node) -> Request:
        return Request(_name(source), *self._place(at))

    def _place(self, node: Node) -> tuple[int, int]:
        line, column_bytes = node.start_point
        at = node.start_byte
        known_line, known_at, units = self._last_place
        if line != known_line or at < known_at:
            known_at, units = at - column_bytes, 0
        units += utf16(self._text[known_at:at])
        self._last_place = line, at, units
        return line + 1, units + 1

    def _problem(self, node: Node, message: str) -> None:
        self._problems.append(Problem(*self._place(node), message))


def _name(node: Node) -> str:
    """A name, or what a text says."""
    text = (node.text or b"").decode("utf-8", "replace")
    if node.type == "string":
        inner = text[1:-1]
        if "\\" not in inner:
            return inner
        try:
            return str(json.loads(f'"{inner}"'))
        except ValueError:
            return inner
    return text


def _declared_names(declared: Node) -> list[str]:
    """The names that a declaration makes, also those of a pattern."""
    name = declared.child_by_field_name("name")
    if name is not None:
        return [_name(name)]
    names = []
    patterns = [
        each.child_by_field_name("name")
        for each in declared.named_children
        if each.type == "variable_declarator"
    ]
    while patterns:
        node = patterns.pop(0)
        if node is None or node.type in ("property_identifier", "computed_property_name"):
            continue
        if node.type in ("identifier", "shorthand_property_identifier_pattern"):
            names.append(_name(node))
        elif node.type == "pair_pattern":
            patterns.append(node.child_by_field_name("value"))
        elif node.type in ("assignment_pattern", "object_assignment_pattern"):
            patterns.append(node.child_by_field_name("left"))
        else:
            patterns += node.named_children
    return names


def _free_name(raw: bytes) -> str:
    """What no name of the source begins with: three characters, so that it fits with one more in
    place of `import`."""
    return next(
        name for n in range(36 * 36) if (name := f"$m{n or ''}").encode() not in raw or n > 98
    )
