"""Where a module uses the names that it imports, as opposed to others of the same spelling.

Looked up by scope (ECMA-262, section 8): an identifier refers to an import unless a function, block
or clause around it declares that name anew. One walk over the tree, whose shape a stranger may have
chosen.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

from orvalho.runtime.engines.v8.syntax import Node, walk

_FUNCTIONS: Final = (
    "function_declaration",
    "generator_function_declaration",
    "function_expression",
    "generator_function",
    "arrow_function",
    "method_definition",
    "class_static_block",
)
_BLOCKS: Final = (
    "program",
    "statement_block",
    "for_statement",
    "for_in_statement",
    "catch_clause",
    "class",
    "class_declaration",
    "switch_body",
)
_NAMES: Final = (
    "identifier",
    "shorthand_property_identifier",
    "shorthand_property_identifier_pattern",
)
_PATTERNS: Final = ("object_pattern", "array_pattern", "rest_pattern")
_DEFAULTS: Final = ("assignment_pattern", "object_assignment_pattern")
# A name in one of these is the import or the export itself.
_STATEMENTS: Final = (
    "import_specifier",
    "import_clause",
    "namespace_import",
    "export_specifier",
    "namespace_export",
)
_NAMED_OUTSIDE: Final = (
    "function_declaration",
    "generator_function_declaration",
    "class_declaration",
)
_LISTS: Final = ("program", "statement_block", "switch_case", "switch_default")


@dataclass(frozen=True, slots=True)
class References:
    """`inserts`: at which byte which text is put in. `declared_again` are names of the module's own
    outermost scope that it imports, too."""

    inserts: list[tuple[int, bytes]] = field(default_factory=list)
    declared_again: list[Node] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class _Scope:
    around: _Scope | None
    is_function: bool
    names: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class _Step:
    """A node on the way from the root to where the walk is."""

    node: Node
    kind: str
    field: str | None
    scope: _Scope


def find_references(root: Node, names: Collection[str], stem: str) -> References:
    """Every use of one of `names` as a variable becomes one of the object `stem`."""
    found = References()
    wanted = {name.encode(): name for name in names}
    outermost = _Scope(None, is_function=True)
    path: list[_Step] = []
    used: list[tuple[str, _Scope, list[tuple[int, bytes]]]] = []
    depths: list[int] = []
    for node, in_field, depth in walk(root):
        while depths and depths[-1] >= depth:
            depths.pop()
            path.pop()
        scope = path[-1].scope if path else outermost
        kind = node.type
        if kind in _FUNCTIONS:
            scope = _Scope(scope, is_function=True)
        elif kind in _BLOCKS and path:
            scope = _Scope(scope, is_function=False)
        path.append(_Step(node, kind, in_field, scope))
        depths.append(depth)
        if kind in _NAMES and (name := wanted.get(node.text or b"")) is not None:
            declared = _declaring(path)
            if declared is outermost:
                found.declared_again.append(node)
            if declared is not None:
                declared.names.add(name)
            elif path[-2].kind not in _STATEMENTS:
                used.append((name, scope, _put_in(path, stem.encode())))
    for name, scope, inserts in used:
        if not _is_declared(name, scope):
            found.inserts.extend(inserts)
    return found


def _is_declared(name: str, scope: _Scope | None) -> bool:
    while scope is not None:
        if name in scope.names:
            return True
        scope = scope.around
    return False


def _declaring(path: list[_Step]) -> _Scope | None:
    """The scope in which the name at the end of the path is declared there; None when it is
    used."""
    at = len(path) - 1
    while at > 0:
        parent, child = path[at - 1], path[at]
        if parent.kind in _PATTERNS or (
            (parent.kind == "pair_pattern" and child.field == "value")
            or (parent.kind in _DEFAULTS and child.field == "left")
        ):
            at -= 1
        else:
            break
    parent, child = path[at - 1], path[at]
    kind = parent.kind
    if kind == "variable_declarator" and child.field == "name":
        is_var = path[at - 2].kind == "variable_declaration"
        return _function_of(parent.scope) if is_var else parent.scope
    if kind == "formal_parameters":
        return parent.scope
    if kind in ("arrow_function", "catch_clause") and child.field == "parameter":
        return parent.scope
    if kind == "for_in_statement" and child.field == "left":
        word = parent.node.child_by_field_name("kind")
        if word is None:
            return None
        return _function_of(parent.scope) if word.type == "var" else parent.scope
    if child.field == "name" and kind in _NAMED_OUTSIDE:
        return parent.scope.around
    if child.field == "name" and kind in ("function_expression", "generator_function", "class"):
        return parent.scope
    return None


def _function_of(scope: _Scope) -> _Scope:
    while not scope.is_function and scope.around is not None:
        scope = scope.around
    return scope


def _put_in(path: list[_Step], stem: bytes) -> list[tuple[int, bytes]]:
    node, parent = path[-1].node, path[-2]
    start = node.start_byte
    if node.type != "identifier":
        return [(start, (node.text or b"") + b":" + stem + b".")]
    if parent.kind == "call_expression" and path[-1].field == "function":
        # What is called has no `this`.
        apart = b";" if _begins_statement(path) else b""
        return [(start, apart + b"(0," + stem + b"."), (node.end_byte, b")")]
    return [(start, stem + b".")]


def _begins_statement(path: list[_Step]) -> bool:
    """Whether a bracket there would go on with the line before it."""
    start = path[-1].node.start_byte
    for at in range(len(path) - 1, 0, -1):
        if path[at].node.start_byte != start:
            return False
        if path[at].kind == "expression_statement":
            return path[at - 1].kind in _LISTS
    return False
