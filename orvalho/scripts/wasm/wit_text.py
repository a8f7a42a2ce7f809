"""The types of a component as text in WIT, the component model's language of interfaces.

The text is bounded: a type that stands in many others is named or cut, never spelled out without
end.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Final

from orvalho.scripts.wasm.component import Component, Item, Type

_LONGEST_TYPE: Final = 1_000
_DEEPEST: Final = 40
_MOST_STEPS: Final = 100_000
_CUT: Final = "..."
_NAMED: Final = ("record", "variant", "flags", "enum", "resource")
# interface, name, (parameter, type), results
FunctionText = tuple[str, str, tuple[tuple[str, str], ...], tuple[str, ...]]


def functions_of(component: Component, most: int) -> list[FunctionText]:
    """Every function that the component exports, those of its interfaces as well; at most `most`,
    and not more text than is fit to be told."""
    found: list[FunctionText] = []
    left = _LONGEST_TYPE * 200
    for interface, name, type_ in islice(_exported(component), _MOST_STEPS):
        if type_ is None:
            continue
        text = _function(interface, name, type_)
        left -= len(interface) + len(name) + sum(len(n) + len(t) for n, t in text[2])
        left -= sum(map(len, text[3]))
        if len(found) == most or left < 0:
            break
        found.append(text)
    return found


def _exported(component: Component) -> Iterator[tuple[str, str, Type | None]]:
    """With None for what is no function: looking at it takes time as well."""
    for name, item in component.exports:
        yield "", name, item.type if item.sort == "function" else None
        if item.sort == "interface" and item.type is not None:
            for inner, member in item.type.members.items:
                # Methods of resources need one first: they are no functions to be called alone.
                is_plain = member.sort == "function" and not inner.startswith("[")
                yield name, inner, member.type if is_plain else None


def _function(interface: str, name: str, type_: Type) -> FunctionText:
    parameters = tuple((part, type_text(each)) for part, each in type_.parts)
    return interface, name, parameters, tuple(type_text(each) for each in type_.results)


def type_text(type_: Type | None, depth: int = 0) -> str:
    """`list<u8>`, `record {x: s32, y: s32}`: spelled out, up to a length."""
    if type_ is None:
        return "_"
    if not type_.text:
        text = _spelled(type_, depth) if depth < _DEEPEST else _CUT
        type_.text = text if len(text) <= _LONGEST_TYPE else _CUT
    return type_.text


def _spelled(type_: Type, depth: int) -> str:
    form = type_.form
    inner = [(name, type_text(each, depth + 1)) for name, each in type_.parts[:200]]
    if form == "same":
        return inner[0][1]
    if form == "resource":
        return type_.name or "resource"
    if form in ("record", "variant", "flags", "enum"):
        return f"{form} {{{', '.join(_field(form, *each) for each in inner)}}}"
    if form == "result":
        return _result(inner[0][1], inner[1][1])
    if form in ("stream", "future") and type_.parts[0][1] is None:
        return form
    if form == "own":
        return inner[0][1]
    if inner:
        return f"{form}<{', '.join(text for _, text in inner)}>"
    return form


def _field(form: str, name: str, text: str) -> str:
    if form == "record":
        return f"{name}: {text}"
    return name if text == "_" else f"{name}({text})"


def _result(done: str, failed: str) -> str:
    if failed != "_":
        return f"result<{done}, {failed}>"
    return "result" if done == "_" else f"result<{done}>"


# ---- the text of a world ----------------------------------------------------------------------


def world_text(component: Component, most: int) -> str:
    """The component as a world: what it imports and exports, types under their names; cut after
    about `most` characters."""
    lines: list[str] = []
    left = most
    for line in _world(component):
        left -= len(line) + 1
        if left < 0:
            lines.append("// more than is told here")
            break
        lines.append(line)
    return "\n".join(lines)


def _world(component: Component) -> Iterator[str]:
    yield "world root {"
    for word, items in (("import", component.imports), ("export", component.exports)):
        for name, item in items:
            yield from _extern(word, name, item)
    yield "}"


def _extern(word: str, name: str, item: Item) -> Iterator[str]:
    if item.sort == "interface" and item.type is not None:
        yield f"  {word} {name}: interface {{"
        yield from (f"    {line}" for line in _Names(item.type.members.items).lines())
        yield "  }"
    elif item.sort == "function" and item.type is not None:
        yield f"  {word} {name}: {_Names([]).signature(item.type)};"
    else:
        yield f"  // {word} {name}: {item.sort}"


class _Names:
    """The members of one interface. A type that has a name here is called by it."""

    def __init__(self, members: list[tuple[str, Item]]) -> None:
        self._members = members
        self._known: dict[int, str] = {}

    def lines(self) -> Iterator[str]:
        for name, item in self._members:
            if item.type is not None and item.sort == "type":
                yield self._definition(name, item.type)
                self._learn(name, item.type)
            elif item.type is not None and item.sort == "function":
                yield f"{name}: {self.signature(item.type)};"
            else:
                yield f"// {name}: {item.sort}"

    def _learn(self, name: str, type_: Type) -> None:
        for _ in range(_DEEPEST):
            if type_.form not in _NAMED and type_.form != "same":
                # u32 is u32, whoever has another name for it; but list<u8> goes by one.
                if type_.parts:
                    self._known.setdefault(id(type_), name)
                return
            self._known.setdefault(id(type_), name)
            target = type_.parts[0][1] if type_.form == "same" else None
            if target is None:
                return
            type_ = target

    def _definition(self, name: str, type_: Type) -> str:
        for _ in range(_DEEPEST):
            target = type_.parts[0][1] if type_.form == "same" else None
            if target is None or id(target) in self._known:
                break
            type_ = target
        form = type_.form
        if form == "resource":
            return f"resource {name};"
        if form in _NAMED:
            fields = [_field(form, n, self.text(each)) for n, each in type_.parts[:200]]
            return f"{form} {name} {{{', '.join(fields)}}}"
        target = type_.parts[0][1] if form == "same" else type_
        return f"type {name} = {self.text(target)};"

    def signature(self, type_: Type) -> str:
        parameters = ", ".join(f"{name}: {self.text(each)}" for name, each in type_.parts[:200])
        results = ", ".join(self.text(each) for each in type_.results)
        return f"func({parameters})" + (f" -> {results}" if results else "")

    def text(self, type_: Type | None, depth: int = 0) -> str:
        if type_ is None:
            return "_"
        if id(type_) in self._known:
            return self._known[id(type_)]
        form, parts = type_.form, type_.parts
        if depth > _DEEPEST or form in _NAMED or not parts:
            return type_text(type_)
        if form in ("same", "own"):
            return self.text(parts[0][1], depth + 1)
        # What is short when it is spelled out has few parts.
        if type_text(type_) == _CUT:
            return _CUT
        if form == "result":
            return _result(self.text(parts[0][1], depth + 1), self.text(parts[1][1], depth + 1))
        return f"{form}<{', '.join(self.text(each, depth + 1) for _, each in parts)}>"
