"""What a WebAssembly component imports and exports, with its types, read without compiling it (the
component model's binary format, version 0x0d).

Only what leads to types is read: index spaces of types, functions, instances and components. The
bytes are a stranger's: types may double at each step, so that they are shared here and never
written out; `interfaces` does so within limits, `wit_text` in as much text as is fit to be told.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from orvalho.errors import InvalidInput
from orvalho.scripts.wasm.binary import (
    COMPONENT_MAGIC,
    PREAMBLE_BYTES,
    Custom,
    Reader,
    read_custom,
)
from orvalho.scripts.wasm.wit import WitType

_DEEPEST: Final = 24
# Entries of all index spaces together: what they take stays small beside the binary.
_MOST_ENTRIES: Final = 200_000
_MOST_DEPTH: Final = 64
_MOST_WEIGHT: Final = 4_000
_MOST_NAME_BYTES: Final = 4_000
_MOST_MEMORIES: Final = 16
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
_CUSTOM, _CORE_MODULE, _CORE_INSTANCE, _CORE_TYPE, _NESTED, _INSTANCE, _ALIAS = range(7)
_TYPES, _CANON, _START, _IMPORT, _EXPORT, _VALUE = range(7, 13)
# A section of a core module.
_CORE_MEMORIES: Final = 5
_LIFT, _LOWER = 0, 1
_FUNCTIONS: Final = ("function", "async function")


class _Unknown(Exception):
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
    borrow, stream, future, resource, function, async function, instance, component, or same
    (another type under a name of its own). `parts` are its fields or cases by name, or what it is
    made of with an empty name; None stands for nothing there. `name` is where it was first given
    one. `depth` and `weight` as `wit.WitType` has them, the weight only up to what is taken."""

    form: str
    parts: tuple[tuple[str, Type | None], ...] = ()
    results: tuple[Type, ...] = ()
    members: Members = field(default_factory=lambda: Members([]))
    name: str = ""
    depth: int = 1
    weight: int = 1
    # Of form same: what it is in the end.
    origin: Type | None = None
    # Made by wit_text and by interfaces, once.
    text: str = ""
    value: WitType | None = None

    @property
    def itself(self) -> Type:
        """What it is, whatever its name."""
        return self.origin or self


@dataclass(frozen=True, slots=True)
class Item:
    """What stands under a name: `sort` is function, interface, type, component or value. `type` is
    None where it cannot be told."""

    sort: str
    type: Type | None


@dataclass(slots=True)
class Component:
    """`custom` are its own custom sections, `inner` those of what is inside it; `memories` is how
    many its modules define. `unknown`: the form for which its types are not told, or empty.
    `beyond`: what of it is more than is taken from one that is to be called, else None."""

    imports: list[tuple[str, Item]] = field(default_factory=list)
    exports: list[tuple[str, Item]] = field(default_factory=list)
    custom: list[Custom] = field(default_factory=list)
    inner: list[Custom] = field(default_factory=list)
    memories: int = 0
    unknown: str = ""
    beyond: InvalidInput | None = None


def parse_component(raw: bytes) -> Component:
    """Raises:
    InvalidInput: a length or number in it is not true.
    """
    found = Component()
    scope = _Scope(None, found, [_MOST_ENTRIES])
    try:
        scope.read(Reader(raw, PREAMBLE_BYTES, len(raw)), found.custom)
        found.imports, found.exports = scope.imports, scope.exports
    except _Unknown as error:
        found.unknown = str(error)
    return found


class _Scope:
    """The index spaces of a component, or of a type of one. `left` is how many entries may follow,
    in all scopes of `whole` together."""

    def __init__(self, outer: _Scope | None, whole: Component, left: list[int]) -> None:
        self._outer = outer
        self._whole = whole
        self._left = left
        self._depth: int = outer._depth + 1 if outer is not None else 0
        self._spaces: dict[str, list[Type | None]] = {sort: [] for sort in _SORTS.values()}
        self.imports: list[tuple[str, Item]] = []
        self.exports: list[tuple[str, Item]] = []

    def _inside(self, content: Reader) -> _Scope:
        if self._depth == _DEEPEST:
            raise content.wrong("it is nested too deeply")
        return _Scope(self, self._whole, self._left)

    def read(self, content: Reader, custom: list[Custom]) -> None:
        """All sections; custom ones are put into the list."""
        readers: dict[int, Callable[[Reader], None]] = {
            _CUSTOM: lambda section: custom.append(read_custom(section)),
            _CORE_MODULE: self._read_module,
            _CORE_INSTANCE: _nothing,
            _CORE_TYPE: _nothing,
            _NESTED: self._read_nested,
            _INSTANCE: self._each(self._read_instance),
            _ALIAS: self._each(self._read_alias),
            _TYPES: self._each(self._read_type),
            _CANON: self._each(self._read_canon),
            _IMPORT: self._each(self._read_import),
            _EXPORT: self._each(self._read_export),
            _VALUE: _nothing,
        }
        while not content.is_done:
            self._charge()
            number, section = content.section()
            if number not in readers:
                raise _Unknown("a start function" if number == _START else f"section {number}")
            readers[number](section)

    def _each(self, read: Callable[[Reader], None]) -> Callable[[Reader], None]:
        def each(content: Reader) -> None:
            for _ in range(content.count()):
                self._charge()
                read(content)

        return each

    def _charge(self, count: int = 1) -> int:
        self._left[0] -= count
        if self._left[0] < 0:
            raise _Unknown("it has too many parts")
        return count

    def _many(self, content: Reader) -> range:
        """As many turns as things follow."""
        return range(self._charge(content.count()))

    def _note_beyond(self, content: Reader, what: str) -> None:
        if self._whole.beyond is None:
            self._whole.beyond = content.wrong(what)

    # ---- index spaces ------------------------------------------------------------------------

    def _add(self, sort: str, type_: Type | None) -> None:
        self._charge()
        self._spaces[sort].append(type_)

    def _at(self, content: Reader, sort: str, index: int) -> Type | None:
        space = self._spaces[sort]
        if index >= len(space):
            raise content.wrong(f"there is no {sort} {index}")
        return space[index]

    def _type_at(self, content: Reader, index: int) -> Type:
        found = self._at(content, "type", index)
        if found is None:
            raise _Unknown("a type that cannot be told")
        return found

    # ---- sections ----------------------------------------------------------------------------

    def _read_module(self, content: Reader) -> None:
        """A core module: of it only what tools wrote into it, and how many memories it has."""
        content.at += min(PREAMBLE_BYTES, content.end - content.at)
        while not content.is_done:
            self._charge()
            number, section = content.section()
            if number == _CUSTOM:
                self._whole.inner.append(read_custom(section))
            elif number == _CORE_MEMORIES:
                self._whole.memories += section.count()
                if self._whole.memories > _MOST_MEMORIES:
                    self._note_beyond(section, "it has too many memories")

    def _read_nested(self, content: Reader) -> None:
        if not content.raw.startswith(COMPONENT_MAGIC, content.at, content.end):
            raise content.wrong("this is no component")
        content.at += PREAMBLE_BYTES
        scope = self._inside(content)
        scope.read(content, self._whole.inner)
        self._add("component", Type("component", members=Members(scope.exports)))

    def _read_instance(self, content: Reader) -> None:
        form = content.byte()
        if form == 0:
            component = self._at(content, "component", content.number())
            for _ in self._many(content):
                self._name(content)
                self._sort_index(content)
            members = component.members if component else Members([])
            self._add("interface", Type("instance", members=members))
        elif form == 1:
            items = []
            for _ in self._many(content):
                name = self._extern_name(content)
                items.append((name, self._sort_index(content)))
            self._add("interface", Type("instance", members=Members(items)))
        else:
            raise content.wrong(f"there is no form {form} of an instance")

    def _sort_index(self, content: Reader) -> Item:
        sort = _sort(content)
        index = content.number()
        return Item(sort, None if sort == _CORE else self._at(content, sort, index))

    def _read_alias(self, content: Reader) -> None:
        sort, form = _sort(content), content.byte()
        if form == 0:
            instance, name = self._at(content, "interface", content.number()), self._name(content)
            item = instance.members.find(name) if instance else None
            if sort != _CORE:
                self._add(sort, item.type if item and item.sort == sort else None)
        elif form == 1:
            content.number()
            self._name(content)
        elif form == 2:
            count, index = content.number(), content.number()
            if sort != _CORE:
                self._add(sort, self._outer_at(content, count, sort, index))
        else:
            raise content.wrong(f"there is no form {form} of an alias")

    def _outer_at(self, content: Reader, count: int, sort: str, index: int) -> Type | None:
        scope: _Scope | None = self
        for _ in range(min(count, _DEEPEST + 1)):
            scope = scope._outer if scope is not None else None
        if scope is None:
            raise content.wrong("an alias leads outside")
        return scope._at(content, sort, index)

    def _read_canon(self, content: Reader) -> None:
        """Only what is lifted has a type of the component's; the rest makes core functions."""
        form = content.byte()
        if form == _LIFT:
            content.byte()
            content.number()
            _options(content)
            self._add("function", self._type_at(content, content.number()))
        elif form == _LOWER:
            content.byte()
            content.number()
            _options(content)
        elif form in (2, 3, 4, 7):
            content.number()
        else:
            # Built-ins of asynchronous components, each with arguments of its own.
            raise _Unknown(f"the built-in {form:#x}")

    def _read_import(self, content: Reader) -> None:
        name = self._extern_name(content)
        self.imports.append((name, self._described(content, name)))

    def _read_export(self, content: Reader) -> None:
        name = self._extern_name(content)
        item = self._sort_index(content)
        if content.byte():
            item = self._described(content, name, adds=False)
        if item.sort != _CORE:
            self._add(item.sort, item.type)
        self.exports.append((name, item))

    def _described(self, content: Reader, name: str, *, adds: bool = True) -> Item:
        """An externdesc, which also takes the next place of its index space."""
        form = content.byte()
        if form == 0:
            content.byte()
            content.number()
            return Item(_CORE, None)
        sort = _SORTS.get(form)
        if sort is None:
            raise _Unknown(f"a description of form {form}")
        if sort == "type":
            found = self._bound(content, name)
        elif sort == "value":
            content.byte()
            content.signed()
            raise _Unknown("a value")
        else:
            found = self._type_at(content, content.number())
        if adds:
            self._add(sort, found)
        return Item(sort, found)

    def _bound(self, content: Reader, name: str) -> Type:
        form = content.byte()
        if form == 1:
            return Type("resource", name=name)
        if form != 0:
            raise content.wrong(f"there is no bound of form {form}")
        target = self._type_at(content, content.number())
        # A name that a type is exported by is a type of its own, made of the other.
        return Type(
            "same",
            (("", target),),
            name=name,
            depth=target.depth,
            weight=target.weight,
            origin=target.itself,
        )

    # ---- types -------------------------------------------------------------------------------

    def _read_type(self, content: Reader) -> None:
        made = self._type(content)
        self._measure(content, made)
        self._add("type", made)

    def _measure(self, content: Reader, made: Type) -> None:
        inside = [each for _, each in made.parts if each is not None] + list(made.results)
        weight = sum(each.weight for each in inside)
        deepest = max((each.depth for each in inside), default=0)
        if made.form in _FUNCTIONS:
            made.depth = deepest
        else:
            made.depth = deepest + 1
            weight += 1 + sum(1 for name, _ in made.parts if name)
        made.weight = min(weight, _MOST_WEIGHT + 1)
        if made.depth > _MOST_DEPTH or made.weight > _MOST_WEIGHT:
            self._note_beyond(content, "a type is nested deeper, or is larger, than is taken")

    def _type(self, content: Reader) -> Type:
        form = content.byte()
        if form in _PRIMITIVES:
            return Type(_PRIMITIVES[form])
        if form in (0x72, 0x71):
            read = self._field if form == 0x72 else self._case
            parts = tuple(read(content) for _ in self._many(content))
            return Type("record" if form == 0x72 else "variant", parts)
        if form in (0x6E, 0x6D):
            names = tuple((self._name(content), None) for _ in self._many(content))
            return Type("flags" if form == 0x6E else "enum", names)
        if form == 0x6F:
            items = tuple(("", self._value(content)) for _ in self._many(content))
            return Type("tuple", items)
        if form in (0x70, 0x6B):
            return Type("list" if form == 0x70 else "option", (("", self._value(content)),))
        if form == 0x6A:
            return Type("result", (("", self._maybe(content)), ("", self._maybe(content))))
        if form in (0x69, 0x68):
            resource = self._type_at(content, content.number())
            return Type("own" if form == 0x69 else "borrow", (("", resource),))
        if form in (0x66, 0x65):
            return Type("stream" if form == 0x66 else "future", (("", self._maybe(content)),))
        return self._large_type(form, content)

    def _large_type(self, form: int, content: Reader) -> Type:
        if form in (0x40, 0x43):
            parts = tuple(self._field(content) for _ in self._many(content))
            return Type(_FUNCTIONS[form == 0x43], parts, self._results(content))
        if form == 0x3F:
            content.byte()
            if content.byte():
                content.number()
            return Type("resource")
        if form in (0x41, 0x42):
            scope = self._inside(content)
            for _ in self._many(content):
                scope._read_declaration(content)
            kind = "component" if form == 0x41 else "instance"
            return Type(kind, members=Members(scope.exports))
        raise _Unknown(f"a type of form {form:#x}")

    def _read_declaration(self, content: Reader) -> None:
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
            name = self._extern_name(content)
            self.exports.append((name, self._described(content, name)))
        else:
            raise _Unknown(f"a declaration of form {form}")

    def _results(self, content: Reader) -> tuple[Type, ...]:
        form = content.byte()
        if form == 0:
            return (self._value(content),)
        return tuple(self._named(content) for _ in self._many(content))

    def _named(self, content: Reader) -> Type:
        self._name(content)
        return self._value(content)

    def _field(self, content: Reader) -> tuple[str, Type | None]:
        return self._name(content), self._value(content)

    def _case(self, content: Reader) -> tuple[str, Type | None]:
        name, found = self._name(content), self._maybe(content)
        if content.byte():
            content.number()
        return name, found

    def _maybe(self, content: Reader) -> Type | None:
        return self._value(content) if content.byte() else None

    def _value(self, content: Reader) -> Type:
        number = content.signed()
        if number >= 0:
            return self._type_at(content, number)
        name = _PRIMITIVES.get(number & 0x7F) if number >= -0x40 else None
        if name is None:
            raise _Unknown(f"a value of form {number}")
        return Type(name)

    def _name(self, content: Reader) -> str:
        began = content.at
        name = content.name()
        if content.at - began > _MOST_NAME_BYTES:
            self._note_beyond(content, f"a name has more than {_MOST_NAME_BYTES} bytes")
        return name

    def _extern_name(self, content: Reader) -> str:
        form = content.byte()
        if form > 2:
            raise _Unknown(f"a name of form {form}")
        name = self._name(content)
        if form == 2:
            # Options of the name: only the suffix of a version so far.
            for _ in range(content.count()):
                content.byte()
                content.name()
        return name


def _sort(content: Reader) -> str:
    number = content.byte()
    if number == 0:
        content.byte()
        return _CORE
    if number not in _SORTS:
        raise content.wrong(f"there is no sort {number}")
    return _SORTS[number]


def _options(content: Reader) -> None:
    for _ in range(content.count()):
        form = content.byte()
        if form in (3, 4, 5, 7, 8):
            content.number()
        elif form > 9:
            raise _Unknown(f"the option {form}")


def _core_type(content: Reader) -> None:
    if content.byte() != 0x60:
        raise _Unknown("a type of a core module")
    for _ in range(2):
        for _ in range(content.count()):
            if content.byte() in (0x63, 0x64):
                content.signed()


def _nothing(content: Reader) -> None:
    """Not needed for any type."""
