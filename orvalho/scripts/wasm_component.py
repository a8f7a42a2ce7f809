"""What a WebAssembly component imports and exports, with its types, read without compiling it (the
component model's binary format, version 0x0d).

Only what leads to types is read: index spaces of types, functions, instances and components. Forms
that this reader does not know raise Unknown, and the component is then described without types.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from orvalho.errors import InvalidInput
from orvalho.scripts.wasm_bytes import Cursor

_PREAMBLE_BYTES: Final = 8
_COMPONENT: Final = b"\0asm\x0d\0\x01\0"
_DEEPEST: Final = 24
# Entries of all index spaces together: what they take stays small beside the binary.
_MOST_ENTRIES: Final = 200_000
_PRIMITIVES: Final = {
    0x7F: "bool",
    0x7E: "s8",
    0x7D: "u8",
    0x7C: "s16",
    0x7B: "u16",
    0x7A: "s32",
    0x79: "u32",
    0x78: "s64",
    0x77: "u64",
    0x76: "f32",
    0x75: "f64",
    0x74: "char",
    0x73: "string",
    0x64: "error-context",
}
_SORTS: Final = {1: "function", 2: "value", 3: "type", 4: "component", 5: "interface"}
_CORE: Final = "core"
_CORE_MODULE, _CORE_INSTANCE, _CORE_TYPE, _NESTED, _INSTANCE, _ALIAS = 1, 2, 3, 4, 5, 6
_TYPES, _CANON, _START, _IMPORT, _EXPORT, _VALUE = 7, 8, 9, 10, 11, 12
_LIFT, _LOWER = 0, 1


class Unknown(Exception):
    """A form that this reader does not know."""


class Members:
    """What an instance or a component offers, by name. Shared by whatever is made of it."""

    def __init__(self, items: list[tuple[str, Item]]) -> None:
        self.items = items
        self._by_name: dict[str, Item] | None = None

    def find(self, name: str) -> Item | None:
        if self._by_name is None:
            self._by_name = dict(self.items)
        return self._by_name.get(name)


@dataclass(slots=True, eq=False)
class Type:
    """`form`: a primitive's name, record, variant, list, tuple, flags, enum, option, result, own,
    borrow, stream, future, resource, function, instance, component, or same (another type under a
    name of its own). `parts` are its fields or cases by name, or what it is made of with an empty
    name; None stands for nothing there. `name` and `interface` are where it was first given one."""

    form: str
    parts: tuple[tuple[str, Type | None], ...] = ()
    results: tuple[Type, ...] = ()
    members: Members = field(default_factory=lambda: Members([]))
    name: str = ""
    interface: str = ""
    # Made by wit_text, once.
    text: str = ""


@dataclass(frozen=True, slots=True)
class Item:
    """What stands under a name: `sort` is function, interface, type, component or value. `type` is
    None where it cannot be told."""

    sort: str
    type: Type | None


@dataclass(slots=True)
class Component:
    imports: list[tuple[str, Item]] = field(default_factory=list)
    exports: list[tuple[str, Item]] = field(default_factory=list)


def read_component(
    raw: bytes, custom: Callable[[Cursor], None], inner: Callable[[Cursor], None]
) -> Component:
    """`custom` is given each custom section of its own, `inner` those of what is inside.

    Raises:
        InvalidInput: a length or number in it is not true.
        Unknown: it has forms that are not known here.
    """
    reader = _Scope(None, [_MOST_ENTRIES], custom, inner)
    return reader.read(Cursor(raw, _PREAMBLE_BYTES, len(raw)))


class _Scope:
    """The index spaces of a component, or of a type of one."""

    def __init__(
        self,
        outer: _Scope | None,
        left: list[int],
        custom: Callable[[Cursor], None],
        inner: Callable[[Cursor], None],
    ) -> None:
        self._outer = outer
        self._left = left
        self._custom = custom
        self._inner = inner
        self._depth: int = outer._depth + 1 if outer is not None else 0
        if self._depth > _DEEPEST:
            raise InvalidInput("the component is nested too deeply")
        self._spaces: dict[str, list[Type | None]] = {sort: [] for sort in _SORTS.values()}
        self._found = Component()

    def read(self, whole: Cursor) -> Component:
        readers: dict[int, Callable[[Cursor], None]] = {
            _CORE_INSTANCE: _nothing,
            _CORE_TYPE: _nothing,
            _START: _unknown_start,
            _VALUE: _nothing,
            _INSTANCE: self._each(self._read_instance),
            _ALIAS: self._each(self._read_alias),
            _TYPES: self._each(self._read_type),
            _CANON: self._each(self._read_canon),
            _IMPORT: self._each(self._read_import),
            _EXPORT: self._each(self._read_export),
            _CORE_MODULE: self._read_module,
            _NESTED: self._read_nested,
            0: self._custom,
        }
        while not whole.is_done:
            self._charge()
            number, content = whole.section()
            if number not in readers:
                raise Unknown(f"section {number}")
            readers[number](content)
        return self._found

    def _each(self, read: Callable[[Cursor], None]) -> Callable[[Cursor], None]:
        def each(content: Cursor) -> None:
            for _ in range(content.count()):
                self._charge()
                read(content)

        return each

    def _charge(self, count: int = 1) -> int:
        self._left[0] -= count
        if self._left[0] < 0:
            raise Unknown("it has too many parts")
        return count

    def _many(self, content: Cursor) -> range:
        """As many turns as things follow."""
        return range(self._charge(content.count()))

    def _add(self, sort: str, type_: Type | None) -> None:
        self._charge()
        self._spaces[sort].append(type_)

    def _at(self, sort: str, index: int) -> Type | None:
        space = self._spaces[sort]
        if index >= len(space):
            raise InvalidInput(f"the component is malformed: there is no {sort} {index}")
        return space[index]

    def _type_at(self, index: int) -> Type:
        found = self._at("type", index)
        if found is None:
            raise Unknown("a type that cannot be told")
        return found

    # ---- sections ----------------------------------------------------------------------------

    def _read_module(self, content: Cursor) -> None:
        """A core module: of it only what tools wrote into it."""
        content.at += min(_PREAMBLE_BYTES, content.end - content.at)
        while not content.is_done:
            self._charge()
            number, section = content.section()
            if number == 0:
                self._inner(section)

    def _read_nested(self, content: Cursor) -> None:
        if content.rest()[:_PREAMBLE_BYTES] != _COMPONENT:
            raise content.wrong("this is no component")
        content.at += _PREAMBLE_BYTES
        found = _Scope(self, self._left, self._inner, self._inner).read(content)
        self._add("component", Type("component", members=Members(found.exports)))

    def _read_instance(self, content: Cursor) -> None:
        form = content.byte()
        if form == 0:
            component = self._at("component", content.number())
            for _ in self._many(content):
                content.name()
                self._sort_index(content)
            members = component.members if component else Members([])
            self._add("interface", Type("instance", members=members))
        elif form == 1:
            items = []
            for _ in self._many(content):
                name = _extern_name(content)
                items.append((name, self._sort_index(content)))
            self._add("interface", Type("instance", members=Members(items)))
        else:
            raise content.wrong(f"there is no form {form} of an instance")

    def _sort_index(self, content: Cursor) -> Item:
        sort = _sort(content)
        index = content.number()
        return Item(sort, None if sort == _CORE else self._at(sort, index))

    def _read_alias(self, content: Cursor) -> None:
        sort, form = _sort(content), content.byte()
        if form == 0:
            instance, name = self._at("interface", content.number()), content.name()
            item = instance.members.find(name) if instance else None
            if sort != _CORE:
                self._add(sort, item.type if item and item.sort == sort else None)
        elif form == 1:
            content.number()
            content.name()
        elif form == 2:
            count, index = content.number(), content.number()
            if sort != _CORE:
                self._add(sort, self._outer_at(count, sort, index))
        else:
            raise content.wrong(f"there is no form {form} of an alias")

    def _outer_at(self, count: int, sort: str, index: int) -> Type | None:
        scope: _Scope | None = self
        for _ in range(min(count, _DEEPEST + 1)):
            scope = scope._outer if scope is not None else None
        if scope is None:
            raise InvalidInput("the component is malformed: an alias leads outside")
        return scope._at(sort, index)

    def _read_canon(self, content: Cursor) -> None:
        """Only what is lifted has a type of the component's; the rest makes core functions."""
        form = content.byte()
        if form == _LIFT:
            content.byte()
            content.number()
            _options(content)
            self._add("function", self._type_at(content.number()))
        elif form == _LOWER:
            content.byte()
            content.number()
            _options(content)
        elif form in (2, 3, 4, 7):
            content.number()
        else:
            # Built-ins of asynchronous components, each with arguments of its own.
            raise Unknown(f"the built-in {form:#x}")

    def _read_import(self, content: Cursor) -> None:
        name = _extern_name(content)
        self._found.imports.append((name, self._described(content, name)))

    def _read_export(self, content: Cursor) -> None:
        name = _extern_name(content)
        item = self._sort_index(content)
        if content.byte():
            item = self._described(content, name, adds=False)
        if item.sort != _CORE:
            self._add(item.sort, item.type)
        self._found.exports.append((name, item))

    def _described(self, content: Cursor, name: str, *, adds: bool = True) -> Item:
        """An externdesc, which also takes the next place of its index space."""
        form = content.byte()
        if form == 0:
            content.byte()
            content.number()
            return Item(_CORE, None)
        sort = _SORTS.get(form)
        if sort is None:
            raise Unknown(f"a description of form {form}")
        if sort == "type":
            found = self._bound(content, name)
        elif sort == "value":
            content.byte()
            content.signed()
            raise Unknown("a value")
        else:
            found = self._type_at(content.number())
        if adds:
            self._add(sort, found)
        return Item(sort, found)

    def _bound(self, content: Cursor, name: str) -> Type:
        form = content.byte()
        if form == 1:
            return Type("resource", name=name)
        if form != 0:
            raise content.wrong(f"there is no bound of form {form}")
        target = self._type_at(content.number())
        # A name that a type is exported by is a type of its own, made of the other.
        return Type("same", parts=(("", target),), name=name)

    # ---- types -------------------------------------------------------------------------------

    def _read_type(self, content: Cursor) -> None:
        self._add("type", self._type(content))

    def _type(self, content: Cursor) -> Type:
        form = content.byte()
        if form in _PRIMITIVES:
            return Type(_PRIMITIVES[form])
        if form in (0x72, 0x71):
            read = self._field if form == 0x72 else self._case
            parts = tuple(read(content) for _ in self._many(content))
            return Type("record" if form == 0x72 else "variant", parts)
        if form in (0x6E, 0x6D):
            names = tuple((content.name(), None) for _ in self._many(content))
            return Type("flags" if form == 0x6E else "enum", names)
        if form == 0x6F:
            items = tuple(("", self._value(content)) for _ in self._many(content))
            return Type("tuple", items)
        if form in (0x70, 0x6B):
            return Type("list" if form == 0x70 else "option", (("", self._value(content)),))
        if form == 0x6A:
            return Type("result", (("", self._maybe(content)), ("", self._maybe(content))))
        if form in (0x69, 0x68):
            resource = self._type_at(content.number())
            return Type("own" if form == 0x69 else "borrow", (("", resource),))
        if form in (0x66, 0x65):
            return Type("stream" if form == 0x66 else "future", (("", self._maybe(content)),))
        return self._large_type(form, content)

    def _large_type(self, form: int, content: Cursor) -> Type:
        if form in (0x40, 0x43):
            parts = tuple(self._field(content) for _ in self._many(content))
            return Type("function", parts, self._results(content))
        if form == 0x3F:
            content.byte()
            if content.byte():
                content.number()
            return Type("resource")
        if form in (0x41, 0x42):
            scope = _Scope(self, self._left, self._inner, self._inner)
            for _ in self._many(content):
                scope._read_declaration(content)
            kind = "component" if form == 0x41 else "instance"
            return Type(kind, members=Members(scope._found.exports))
        raise Unknown(f"a type of form {form:#x}")

    def _read_declaration(self, content: Cursor) -> None:
        form = content.byte()
        if form == 0:
            _core_type(content)
        elif form == 1:
            self._read_type(content)
        elif form == 2:
            self._read_alias(content)
        elif form == 3:
            self._read_import(content)
        elif form == 4:
            name = _extern_name(content)
            self._found.exports.append((name, self._described(content, name)))
        else:
            raise Unknown(f"a declaration of form {form}")

    def _results(self, content: Cursor) -> tuple[Type, ...]:
        form = content.byte()
        if form == 0:
            return (self._value(content),)
        return tuple(self._named(content) for _ in self._many(content))

    def _named(self, content: Cursor) -> Type:
        content.name()
        return self._value(content)

    def _field(self, content: Cursor) -> tuple[str, Type | None]:
        return content.name(), self._value(content)

    def _case(self, content: Cursor) -> tuple[str, Type | None]:
        name, found = content.name(), self._maybe(content)
        if content.byte():
            content.number()
        return name, found

    def _maybe(self, content: Cursor) -> Type | None:
        return self._value(content) if content.byte() else None

    def _value(self, content: Cursor) -> Type:
        number = content.signed()
        if number >= 0:
            return self._type_at(number)
        name = _PRIMITIVES.get(number & 0x7F) if number >= -0x40 else None
        if name is None:
            raise Unknown(f"a value of form {number}")
        return Type(name)


def _sort(content: Cursor) -> str:
    number = content.byte()
    if number == 0:
        content.byte()
        return _CORE
    if number not in _SORTS:
        raise content.wrong(f"there is no sort {number}")
    return _SORTS[number]


def _extern_name(content: Cursor) -> str:
    form = content.byte()
    if form > 2:
        raise Unknown(f"a name of form {form}")
    name = content.name()
    if form == 2:
        # Options of the name: only the suffix of a version so far.
        for _ in range(content.count()):
            content.byte()
            content.name()
    return name


def _options(content: Cursor) -> None:
    for _ in range(content.count()):
        form = content.byte()
        if form in (3, 4, 5, 7):
            content.number()
        elif form > 8:
            raise Unknown(f"the option {form}")


def _core_type(content: Cursor) -> None:
    if content.byte() != 0x60:
        raise Unknown("a type of a core module")
    for _ in range(2):
        for _ in range(content.count()):
            if content.byte() in (0x63, 0x64):
                content.signed()


def _nothing(content: Cursor) -> None:
    """Not needed for any type."""


def _unknown_start(_content: Cursor) -> None:
    raise Unknown("a start function")
