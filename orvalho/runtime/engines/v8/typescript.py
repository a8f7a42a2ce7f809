"""TypeScript as JavaScript: types are overwritten with blanks, so that no line or column moves.

Only what can be erased is taken (TypeScript's own `erasableSyntaxOnly`): what would have to become
other code is refused with its place, and with what to write instead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from orvalho.runtime.engine import Problem
from orvalho.runtime.engines.v8.syntax import Node, find_all, parse_typescript, utf16

_MOST_NODES: Final = 200_000
_MOST_PROBLEMS: Final = 20

# A statement or a member of a class that is types and nothing else.
_WHOLE: Final = (
    "interface_declaration",
    "type_alias_declaration",
    "ambient_declaration",
    "function_signature",
    "abstract_method_signature",
    "method_signature",
    "index_signature",
)
# A part of an expression or a declaration that is.
_PARTS: Final = (
    "type_annotation",
    "type_predicate_annotation",
    "asserts_annotation",
    "type_parameters",
    "type_arguments",
    "implements_clause",
    "override_modifier",
)
_REFUSED: Final = {
    "enum_declaration": "an enum becomes code: write const {} as const instead",
    "internal_module": "a namespace becomes code: write a module of its own instead",
    "module": "a namespace becomes code: write a module of its own instead",
    "import_alias": "import a = b becomes code: write const a = b instead",
    "import_require_clause": 'import a = require() becomes code: write import a from "./a.js"',
    "decorator": "decorators are not run: call the function on the class instead",
}
_SHOWN_MEMBERS: Final = 3
_OTHERS: Final = (
    "as_expression",
    "satisfies_expression",
    "non_null_expression",
    "abstract_class_declaration",
    "public_field_definition",
    "method_definition",
    "required_parameter",
    "optional_parameter",
    "arrow_function",
    "variable_declarator",
    "import_statement",
    "export_statement",
    "import_specifier",
    "export_specifier",
    "type_assertion",
)
_KINDS: Final = frozenset((*_WHOLE, *_PARTS, *_REFUSED, *_OTHERS))
_MODIFIERS: Final = (
    "accessibility_modifier",
    "override_modifier",
    "readonly",
    "declare",
    "abstract",
)
# What would go on with the line before it if there were no semicolon.
_GOES_ON: Final = (b"(", b"[", b"`", b"*", b"+", b"-", b"/")


def strip_types(source: bytes) -> tuple[bytes, tuple[Problem, ...]]:
    """The source without its types, as long as it was, and what keeps it from being run. A text
    that cannot be parsed is left as it is, for the parser of the engine to say so."""
    return _Stripping(source).strip()


class _Stripping:
    def __init__(self, source: bytes) -> None:
        self._source = source
        self._text = bytearray(source)
        self._problems: list[Problem] = []
        self._gone_until = 0
        # From where to where types were dealt with together with what is around them.
        self._done: list[tuple[int, int]] = []
        self._handlers: dict[str, Callable[[Node], None]] = {
            "as_expression": self._strip_as,
            "satisfies_expression": self._strip_as,
            "non_null_expression": self._strip_mark,
            "abstract_class_declaration": self._strip_class,
            "public_field_definition": self._strip_field,
            "method_definition": self._strip_method,
            "required_parameter": self._strip_parameter,
            "optional_parameter": self._strip_parameter,
            "arrow_function": self._strip_arrow,
            "variable_declarator": self._strip_declarator,
            "import_statement": self._strip_import,
            "export_statement": self._strip_export,
            "import_specifier": self._strip_specifier,
            "export_specifier": self._strip_specifier,
            "type_assertion": self._strip_assertion,
        }

    def strip(self) -> tuple[bytes, tuple[Problem, ...]]:
        nodes = find_all(parse_typescript(self._source), _KINDS)
        if len(nodes) > _MOST_NODES:
            return self._source, (Problem(1, 1, "there is too much TypeScript in one file"),)
        for node in nodes:
            if node.start_byte < self._gone_until or self._is_done(node):
                continue
            if node.type in _REFUSED:
                self._problem(node, _REFUSED[node.type].replace("{}", _as_constant(node)))
            elif node.type in _WHOLE:
                self._erase(node.start_byte, node.end_byte)
            elif node.type in _PARTS:
                self._blank(node.start_byte, node.end_byte)
                self._gone_until = max(self._gone_until, node.end_byte)
            else:
                self._handlers[node.type](node)
            if len(self._problems) >= _MOST_PROBLEMS:
                break
        return bytes(self._text), tuple(self._problems)

    def _is_done(self, node: Node) -> bool:
        # Those behind us are of no more interest, and the text is read from its start.
        self._done = [each for each in self._done if each[1] > node.start_byte]
        return any(start <= node.start_byte for start, _ in self._done)

    # ---- statements --------------------------------------------------------------------------

    def _strip_import(self, node: Node) -> None:
        if any(child.type == "type" for child in node.children):
            self._erase(node.start_byte, node.end_byte)

    def _strip_export(self, node: Node) -> None:
        tokens = [child.type for child in node.children]
        declared = node.child_by_field_name("declaration")
        if "=" in tokens:
            self._problem(node, "export = becomes code: write export default instead")
        elif "type" in tokens or "namespace" in tokens or (declared and declared.type in _WHOLE):
            self._erase(node.start_byte, node.end_byte)

    def _strip_specifier(self, node: Node) -> None:
        if node.children and node.children[0].type == "type" and node.child_count > 1:
            self._blank_with_comma(node)

    def _strip_class(self, node: Node) -> None:
        for child in node.children:
            if child.type == "abstract":
                self._blank(child.start_byte, child.end_byte)

    def _strip_declarator(self, node: Node) -> None:
        for child in node.children:
            if child.type == "!":
                self._blank(child.start_byte, child.end_byte)

    # ---- members and parameters --------------------------------------------------------------

    def _strip_field(self, node: Node) -> None:
        tokens = {child.type for child in node.children}
        if "declare" in tokens or "abstract" in tokens:
            self._erase(node.start_byte, node.end_byte)
            return
        self._strip_modifiers(node)
        if node.child_by_field_name("value") is None:
            # Without its type a field would go on with a name in brackets on the next line.
            typed = node.child_by_field_name("type")
            if typed is not None and not self._is_ended(node.end_byte):
                self._blank(typed.start_byte, typed.end_byte)
                self._text[typed.start_byte] = ord(";")
                self._gone_until = max(self._gone_until, typed.end_byte)

    def _strip_method(self, node: Node) -> None:
        self._strip_modifiers(node)

    def _strip_modifiers(self, node: Node) -> None:
        first = None
        for child in node.children:
            if child.type in _MODIFIERS:
                first = child.start_byte if first is None else first
                self._blank(child.start_byte, child.end_byte)
            elif child.type in ("?", "!"):
                self._blank(child.start_byte, child.end_byte)
        if first is not None and first == node.start_byte:
            rest = self._text[first : node.end_byte].lstrip()
            if rest.startswith(_GOES_ON):
                self._text[first] = ord(";")

    def _strip_parameter(self, node: Node) -> None:
        pattern = node.child_by_field_name("pattern")
        if pattern is not None and pattern.type == "this":
            self._blank_with_comma(node)
            return
        for child in node.children:
            if child.type in ("accessibility_modifier", "readonly", "override_modifier"):
                self._problem(
                    node,
                    "a parameter property becomes code: declare the field, and assign it in the "
                    "constructor",
                )
                return
            if child.type == "?":
                self._blank(child.start_byte, child.end_byte)

    def _strip_arrow(self, node: Node) -> None:
        """No line may end between `async` and the parameters, nor before the arrow: a bracket
        moves to where the type began, or ended."""
        generic = node.child_by_field_name("type_parameters")
        parameters = node.child_by_field_name("parameters")
        returned = node.child_by_field_name("return_type")
        if parameters is None:
            return
        if generic is not None and self._is_broken(generic):
            self._blank(generic.start_byte, parameters.start_byte + 1)
            self._text[generic.start_byte] = ord("(")
            self._done.append((generic.start_byte, generic.end_byte))
        if returned is not None and self._is_broken(returned):
            self._blank(parameters.end_byte - 1, returned.end_byte)
            self._text[returned.end_byte - 1] = ord(")")
            self._done.append((returned.start_byte, returned.end_byte))

    # ---- expressions -------------------------------------------------------------------------

    def _strip_as(self, node: Node) -> None:
        value = node.named_children[0]
        self._blank(value.end_byte, node.end_byte)
        # `as` ends an expression, and no call or index can follow: what stands on the next line
        # is another statement.
        parent = node.parent
        goes_on = self._after(node.end_byte).startswith(_GOES_ON)
        is_called = parent is not None and parent.type in (
            "call_expression",
            "subscript_expression",
        )
        is_first = parent is not None and parent.start_byte == node.start_byte
        is_new_line = b"\n" in self._source[node.end_byte : self._after_byte(node.end_byte)]
        if is_new_line and goes_on and ((is_called and is_first) or _ends_statement(node)):
            word = next(child for child in node.children if child.type in ("as", "satisfies"))
            self._text[word.start_byte] = ord(";")

    def _strip_mark(self, node: Node) -> None:
        self._blank(node.end_byte - 1, node.end_byte)

    def _strip_assertion(self, node: Node) -> None:
        kind = node.children[0]
        parent = node.parent
        if self._is_broken(kind):
            self._problem(node, "a cast over several lines is not read: write value as Type")
        elif (
            parent is not None
            and parent.type == "expression_statement"
            and parent.start_byte == node.start_byte
        ):
            self._erase(kind.start_byte, kind.end_byte)

    # ---- text --------------------------------------------------------------------------------

    def _erase(self, start: int, end: int) -> None:
        """A whole statement. A semicolon stays, which keeps what stands around it apart."""
        self._blank(start, end)
        at = next(at for at in range(start, end) if self._source[at] < 0x80)
        self._text[at] = ord(";")
        self._gone_until = max(self._gone_until, end)

    def _blank_with_comma(self, node: Node) -> None:
        after = self._after_byte(node.end_byte)
        has_comma = self._source[after : after + 1] == b","
        end = after + 1 if has_comma else node.end_byte
        self._blank(node.start_byte, end)
        self._gone_until = max(self._gone_until, end)

    def _blank(self, start: int, end: int) -> None:
        erased = self._text[start:end].decode("utf-8", "replace")
        self._text[start:end] = "".join(map(_blank_for, erased)).encode()

    def _after_byte(self, at: int) -> int:
        while at < len(self._source) and self._source[at] in b" \t\r\n":
            at += 1
        return at

    def _after(self, at: int) -> bytes:
        return self._source[(after := self._after_byte(at)) : after + 1]

    def _is_ended(self, at: int) -> bool:
        return self._after(at) in (b";", b"}")

    def _is_broken(self, node: Node) -> bool:
        return node.start_point[0] != node.end_point[0]

    def _problem(self, node: Node, message: str) -> None:
        start = self._source.rfind(b"\n", 0, node.start_byte) + 1
        column = utf16(self._source[start : node.start_byte]) + 1
        self._problems.append(Problem(node.start_point[0] + 1, column, message))
        self._gone_until = max(self._gone_until, node.end_byte)


def _ends_statement(node: Node) -> bool:
    """Whether the last thing of a statement."""
    found: Node | None = node
    while found is not None and found.end_byte == node.end_byte:
        if found.type.endswith(("_statement", "_declaration", "_definition")):
            return True
        found = found.parent
    return False


def _blank_for(character: str) -> str:
    """White space that is as long as the character, in bytes as in UTF-16 units."""
    if character in "\r\n\u2028\u2029":
        return character
    length = len(character.encode())
    return (" ", "\u00a0", "\u3000", "\u00a0\u00a0")[length - 1]


def _as_constant(node: Node) -> str:
    """`Color = { Red: 0, Green: 1 }` of an enum; the first members are enough to see how."""
    name, body = node.child_by_field_name("name"), node.child_by_field_name("body")
    every = body.named_children if body is not None else []
    members = [each for each in every if each.type != "comment"][: _SHOWN_MEMBERS + 1]
    shown = []
    for number, member in enumerate(members[:_SHOWN_MEMBERS]):
        key, value = (
            member.child_by_field_name("name") or member,
            member.child_by_field_name("value"),
        )
        shown.append(f"{_short(key)}: {_short(value) if value is not None else number}")
    if len(members) > _SHOWN_MEMBERS:
        shown.append("...")
    return f"{_short(name)} = {{ {', '.join(shown)} }}" if shown else f"{_short(name)} = {{}}"


def _short(node: Node | None) -> str:
    text = (node.text or b"").decode("utf-8", "replace") if node is not None else ""
    return " ".join(text.split())[:40]
