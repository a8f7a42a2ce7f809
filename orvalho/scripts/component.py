"""What a WebAssembly component says of itself (the component model's binary format, version 13),
read without compiling it: what it imports and exports, with the types of every function.

The bytes are a stranger's. Each length is checked against what is there, and types that are nested
or repeated beyond reason are refused, since each of them is written out once for every use.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from orvalho.errors import InvalidInput
from orvalho.scripts.wit import WitFunction, WitType, make_type, take_arguments

COMPONENT_MAGIC: Final = b"\0asm\x0d\0\x01\0"
_PRIMITIVES: Final = dict(
    zip(
        range(0x7F, 0x72, -1),
        ("bool", "s8", "u8", "s16", "u16", "s32", "u32", "s64", "u64", "f32", "f64", "char",
         "string"),
        strict=True,
    )
)  # fmt: skip
_MOST_DEPTH: Final = 64
_MOST_WEIGHT: Final = 4_000
_MOST_FUNCTIONS: Final = 5_000
_MOST_WEIGHT_IN_ALL: Final = 400_000
_MOST_NESTED: Final = 16
_MOST_NAME_BYTES: Final = 4_000
_MOST_MEMORIES: Final = 16
_RUN: Final = "wasi:cli/run@0.2."
_CORE, _FUNC, _VALUE, _TYPE, _COMPONENT, _INSTANCE = range(6)
# The core sorts that an alias may name, for which no space is kept here.
_CORE_SORTS: Final = 0x13


class Interface(msgspec.Struct, frozen=True, array_like=True):
    """An instance that is imported or exported; the functions that are so themselves have the name
    `""`. `resources` are the names of those it defines."""

    name: str
    functions: tuple[WitFunction, ...] = ()
    resources: tuple[str, ...] = ()

    @property
    def stem(self) -> str:
        """Without its version: `wasi:io/streams`."""
        return self.name.partition("@")[0]


class WasmComponent(msgspec.Struct, frozen=True, array_like=True):
    """`memories` is how many its modules define."""

    imports: tuple[Interface, ...]
    exports: tuple[Interface, ...]
    memories: int
    custom: tuple[tuple[str, bytes], ...] = ()

    @property
    def is_command(self) -> bool:
        """Whether it is a program of WASI preview 2."""
        return self.command is not None

    @property
    def command(self) -> str | None:
        """The name of the interface that a program is run by."""
        found = (each for each in self.exports if each.name.startswith(_RUN))
        return next((each.name for each in found if each.functions), None)

    def functions(self) -> list[tuple[str, WitFunction]]:
        """Everything that can be called, each with the name of its interface."""
        return [(each.name, function) for each in self.exports for function in each.functions]


def is_component(raw: bytes) -> bool:
    """By its first bytes."""
    return raw.startswith(COMPONENT_MAGIC)


def read_component(raw: bytes) -> WasmComponent:
    """Raises:
    InvalidInput: something in it is not true, or beyond what is taken, with the byte's place.
    """
    reader = _Reader(raw)
    whole = reader.component(8, len(raw), ())
    functions = [f for each in (*whole.imports, *whole.exports) for f in each.functions]
    weight = sum(_weight(function) for function in functions)
    if len(functions) > _MOST_FUNCTIONS or weight > _MOST_WEIGHT_IN_ALL:
        raise InvalidInput("the component has more functions or types than are taken")
    return WasmComponent(
        tuple(whole.imports), tuple(whole.exports), reader.memories, tuple(whole.custom)
    )


def find_function(component: WasmComponent, name: str) -> tuple[str, WitFunction]:
    """The interface and function of `add`, `demo:calc/sums#add` or `demo:calc/sums@0.1.0#add`.

    Raises:
        InvalidInput: there is none, or there are several.
    """
    interface, _, function = name.rpartition("#")
    found = [
        (place, each)
        for place, each in component.functions()
        if each.name == function and interface in ("", place, place.partition("@")[0])
    ]
    if len(found) == 1:
        return found[0]
    exact = [each for each in found if each[0] == interface]
    if len(exact) == 1:
        return exact[0]
    offers = [f"{place}#{each.name}" if place else each.name for place, each in
              (found or component.functions())]  # fmt: skip
    raise InvalidInput(
        f"the component exports {'several functions' if found else 'no function'} {name!a}",
        hint=f"it exports {', '.join(offers[:20])}" if offers else "it exports none at all",
    )


def check_component_call(
    component: WasmComponent, params: Any
) -> tuple[str, WitFunction, tuple[Any, ...]]:
    """The function that parameters name (`{"call": "add", "args": [2, 3]}`; without one `main`, of
    the world `script`, or `run`), its interface, and its arguments.

    Raises:
        InvalidInput: "argument 1: expected u32, got text".
    """
    table = params if isinstance(params, dict) else {}
    name = table.get("call")
    if name is None:
        exported = {function.name for _, function in component.functions()}
        name = "main" if "main" in exported else "run"
    if not isinstance(name, str):
        raise InvalidInput('call is the name of a function: {"call": "add", "args": [2, 3]}')
    interface, function = find_function(component, name)
    if is_main(interface, function) and "args" not in table:
        return interface, function, (msgspec.json.encode(params).decode(),)
    given = table.get("args", [])
    if not function.parameters and not isinstance(given, list):
        given = []
    return interface, function, take_arguments(function, given)


def is_main(interface: str, function: WitFunction) -> bool:
    """Whether it is the function of the world `script`: parameters in, result out, both JSON."""
    kinds = [kind.kind for _, kind in function.parameters]
    return (
        not interface
        and function.name == "main"
        and kinds == ["string"]
        and str(function.result) == "result<string, string>"
    )


def _weight(function: WitFunction) -> int:
    inside = sum(kind.weight for _, kind in function.parameters)
    return inside + (function.result.weight if function.result else 0)


# ---- reading ---------------------------------------------------------------------------------


@dataclass
class _Scope:
    """The index spaces of a component, or of a component's or instance's type."""

    types: list[Any] = field(default_factory=list)
    funcs: list[WitFunction | None] = field(default_factory=list)
    instances: list[_Instance] = field(default_factory=list)
    components: list[_Instance] = field(default_factory=list)
    items: list[tuple[str, int, Any]] = field(default_factory=list)
    imports: list[Interface] = field(default_factory=list)
    exports: list[Interface] = field(default_factory=list)
    custom: list[tuple[str, bytes]] = field(default_factory=list)


@dataclass
class _Instance:
    """What an instance exports, by name: its sort and the thing. Also a component, by what its
    instances export."""

    items: dict[str, tuple[int, Any]] = field(default_factory=dict)


@dataclass(eq=False)
class _Resource:
    name: str = "resource"


class _Reader:
    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self._at = 0
        self._end = len(raw)
        self.memories = 0

    # ---- components --------------------------------------------------------------------------

    def component(self, at: int, end: int, outer: tuple[_Scope, ...]) -> _Scope:
        """The scope of the component whose sections lie there."""
        scope = _Scope()
        scopes = (*outer, scope)
        if len(scopes) > _MOST_NESTED:
            raise self._wrong("components are nested too deep")
        self._at = at
        readers = {
            5: self._read_instance,
            6: self._read_alias,
            7: self._read_type,
            8: self._read_canon,
            10: self._read_import,
            11: self._read_export,
        }
        while self._at < end:
            self._end = end
            section, size = self._byte(), self._number()
            if size > end - self._at:
                raise self._wrong(f"section {section} says that it has {size} bytes")
            after = self._end = self._at + size
            if section == 0:
                name = self._name()
                scope.custom.append((name, self._raw[self._at : after]))
            elif section == 1:
                self._core_module(self._at, after)
            elif section == 4:
                self._nested(self._at, after, scopes)
            elif section in readers:
                for _ in range(self._count()):
                    readers[section](scopes)
            self._at = after
        self._end = end
        scope.imports, loose_in = _grouped(scope.items, "import")
        scope.exports, loose_out = _grouped(scope.items, "export")
        scope.imports[:0], scope.exports[:0] = loose_in, loose_out
        return scope

    def _nested(self, at: int, end: int, scopes: tuple[_Scope, ...]) -> None:
        if self._raw[at : at + 8] != COMPONENT_MAGIC:
            raise self._wrong("a component in it is none")
        inner = self.component(at + 8, end, scopes)
        exports = {name: (sort, item) for what, sort, (name, item) in
                   ((w, s, i) for w, s, i in inner.items) if what == "export"}  # fmt: skip
        scopes[-1].components.append(_Instance(exports))

    def _core_module(self, at: int, end: int) -> None:
        """Its memories are counted, nothing else."""
        self._at = at + 8
        while self._at < end:
            self._end = end
            section, size = self._byte(), self._number()
            after = self._at + size
            if after > end:
                raise self._wrong(f"section {section} says that it has {size} bytes")
            if section == 5:
                self._end = after
                self.memories += self._count()
                if self.memories > _MOST_MEMORIES:
                    raise self._wrong("it has too many memories")
            self._at = after

    def _read_instance(self, scopes: tuple[_Scope, ...]) -> None:
        scope = scopes[-1]
        if self._byte() == 0:
            made = self._of(scope.components, "component")
            for _ in range(self._count()):
                self._name()
                self._sort_and_number()
            scope.instances.append(made)
            return
        found = _Instance()
        for _ in range(self._count()):
            name = self._extern_name()
            sort, number = self._sort_and_number()
            found.items[name] = (sort, self._item(scope, sort, number))
        scope.instances.append(found)

    def _read_alias(self, scopes: tuple[_Scope, ...]) -> None:
        scope, sort = scopes[-1], self._sort()
        target = self._byte()
        if target == 2:
            levels, number = self._number(), self._number()
            if levels >= len(scopes):
                raise self._wrong("an alias leads out of the component")
            item = self._item(scopes[-1 - levels], sort, number)
        elif target in (0, 1):
            where, name = self._number(), self._name()
            if sort > _INSTANCE or target == 1 or sort == _CORE:
                return
            if where >= len(scope.instances):
                raise self._wrong(f"there is no instance {where}")
            # What is not known here was not understood before, such as a core module.
            found = scope.instances[where].items.get(name)
            item = found[1] if found is not None and found[0] == sort else None
        else:
            raise self._wrong(f"there is no kind {target} of alias")
        self._add(scope, sort, item)

    def _read_canon(self, scopes: tuple[_Scope, ...]) -> None:
        scope, kind = scopes[-1], self._byte()
        if kind in (0, 1):
            self._byte()
            self._number()
            for _ in range(self._count()):
                if self._byte() >= 3 and self._raw[self._at - 1] not in (6, 9):
                    self._number()
            if kind == 0:
                found = self._of(scope.types, "type")
                scope.funcs.append(found if isinstance(found, WitFunction) else None)
        elif kind in (2, 3, 4, 7):
            self._number()
        else:
            # Functions of the third preview: none of them makes a function of the component's.
            raise self._wrong(f"it uses what is not supported here (canonical function {kind})")

    def _read_import(self, scopes: tuple[_Scope, ...]) -> None:
        scope = scopes[-1]
        name = self._extern_name()
        sort, item = self._description(scope, name)
        self._add(scope, sort, item)
        scope.items.append(("import", sort, (name, item)))

    def _read_export(self, scopes: tuple[_Scope, ...]) -> None:
        scope = scopes[-1]
        name = self._extern_name()
        sort, number = self._sort_and_number()
        item = self._item(scope, sort, number)
        if self._byte() == 1:
            said, described = self._description(scope, name)
            # A type that is exported is the one that it was, by another name.
            item = described if said == sort and sort != _TYPE else item
        self._add(scope, sort, item)
        scope.items.append(("export", sort, (name, item)))

    # ---- types -------------------------------------------------------------------------------

    def _read_type(self, scopes: tuple[_Scope, ...]) -> None:
        scopes[-1].types.append(self._type(scopes))

    def _type(self, scopes: tuple[_Scope, ...]) -> Any:
        kind = self._byte()
        if kind == 0x40:
            return self._function(scopes[-1])
        if kind in (0x41, 0x42):
            return self._declared(scopes)
        if kind in (0x3F, 0x3E):
            self._byte()
            for _ in range(1 if kind == 0x3F else 2):
                if self._byte():
                    self._number()
                if kind == 0x3E:
                    break
            return _Resource()
        return self._value(kind, scopes[-1])

    def _function(self, scope: _Scope) -> WitFunction:
        parameters = tuple((self._label(), self._value_type(scope)) for _ in range(self._count()))
        result = None
        if self._byte() == 0:
            result = self._value_type(scope)
        else:
            self._byte()
        function = WitFunction("", parameters, result)
        if _weight(function) > _MOST_WEIGHT:
            raise self._wrong("a function has larger types than are taken")
        return function

    def _declared(self, scopes: tuple[_Scope, ...]) -> _Instance:
        """The type of an instance or component: what it exports."""
        scope, found = _Scope(), _Instance()
        inside = (*scopes, scope)
        if len(inside) > _MOST_NESTED:
            raise self._wrong("types are nested too deep")
        for _ in range(self._count()):
            kind = self._byte()
            if kind == 1:
                self._read_type(inside)
            elif kind == 2:
                self._read_alias(inside)
            elif kind in (3, 4):
                name = self._extern_name()
                sort, item = self._description(scope, name)
                self._add(scope, sort, item)
                if kind == 4:
                    found.items[name] = (sort, item)
            else:
                raise self._wrong("a type in it cannot be read here")
        return found

    def _description(self, scope: _Scope, name: str) -> tuple[int, Any]:
        sort = self._byte()
        if sort == _CORE:
            self._byte()
            self._number()
            return _CORE_SORTS, None
        if sort == _TYPE:
            if self._byte() == 0:
                return _TYPE, self._of(scope.types, "type")
            return _TYPE, _Resource(name)
        if sort == _VALUE or sort > _INSTANCE:
            raise self._wrong(f"there is no kind {sort} of import or export")
        found = self._of(scope.types, "type")
        if sort == _FUNC:
            if not isinstance(found, WitFunction):
                raise self._wrong("a function has a type that is none of a function")
            return _FUNC, found
        return sort, found if isinstance(found, _Instance) else _Instance()

    def _value_type(self, scope: _Scope) -> WitType:
        kind = self._raw[self._at] if self._at < self._end else 0
        if kind in _PRIMITIVES:
            self._at += 1
            return WitType(_PRIMITIVES[kind])
        if kind == 0x64:
            self._at += 1
            return WitType("error-context")
        found = self._of(scope.types, "type")
        if not isinstance(found, WitType):
            raise self._wrong("a value has a type that is none of a value")
        return found

    def _value(self, kind: int, scope: _Scope) -> WitType:
        made = self._compound(kind, scope)
        if made.depth > _MOST_DEPTH or made.weight > _MOST_WEIGHT:
            raise self._wrong("a type is nested deeper, or is larger, than is taken")
        return made

    def _compound(self, kind: int, scope: _Scope) -> WitType:
        if kind in _PRIMITIVES:
            return WitType(_PRIMITIVES[kind])
        if kind == 0x72:
            fields = [(self._label(), self._value_type(scope)) for _ in range(self._count())]
            return make_type("record", tuple(n for n, _ in fields), tuple(t for _, t in fields))
        if kind == 0x71:
            cases = [self._case(scope) for _ in range(self._count())]
            return make_type("variant", tuple(n for n, _ in cases), tuple(t for _, t in cases))
        if kind == 0x6F:
            parts = tuple(self._value_type(scope) for _ in range(self._count()))
            return make_type("tuple", (), parts)
        if kind in (0x6E, 0x6D):
            names = tuple(self._label() for _ in range(self._count()))
            return make_type("flags" if kind == 0x6E else "enum", names)
        if kind in (0x70, 0x6B):
            return make_type("list" if kind == 0x70 else "option", (), (self._value_type(scope),))
        if kind == 0x6A:
            return make_type("result", (), (self._maybe_type(scope), self._maybe_type(scope)))
        if kind in (0x69, 0x68):
            resource = self._of(scope.types, "type")
            name = resource.name if isinstance(resource, _Resource) else "resource"
            return make_type("own" if kind == 0x69 else "borrow", (name,))
        if kind in (0x66, 0x65):
            part = self._maybe_type(scope)
            return make_type("stream" if kind == 0x66 else "future", (), (part,))
        if kind == 0x64:
            return WitType("error-context")
        raise self._wrong(f"a type in it cannot be read here (kind {kind})")

    def _case(self, scope: _Scope) -> tuple[str, WitType | None]:
        name, kind = self._label(), self._maybe_type(scope)
        self._byte()
        return name, kind

    def _maybe_type(self, scope: _Scope) -> WitType | None:
        return self._value_type(scope) if self._byte() else None

    # ---- spaces ------------------------------------------------------------------------------

    def _of(self, space: list[Any], what: str) -> Any:
        number = self._number()
        if number >= len(space):
            raise self._wrong(f"there is no {what} {number}")
        return space[number]

    def _item(self, scope: _Scope, sort: int, number: int) -> Any:
        space = _space(scope, sort)
        if space is None:
            return None
        if number >= len(space):
            raise self._wrong(f"a thing of sort {sort} has no number {number}")
        return space[number]

    def _add(self, scope: _Scope, sort: int, item: Any) -> None:
        space = _space(scope, sort)
        if space is not None:
            space.append(_Instance() if item is None and sort >= _COMPONENT else item)

    def _sort(self) -> int:
        sort = self._byte()
        if sort == _CORE:
            self._byte()
            return _CORE
        if sort > _INSTANCE:
            raise self._wrong(f"there is no sort {sort}")
        return sort

    def _sort_and_number(self) -> tuple[int, int]:
        return self._sort(), self._number()

    # ---- values ------------------------------------------------------------------------------

    def _extern_name(self) -> str:
        kind = self._byte()
        if kind not in (0, 1):
            raise self._wrong(f"there is no kind {kind} of name")
        return self._name()

    def _label(self) -> str:
        return self._name()

    def _name(self) -> str:
        size = self._number()
        if size > min(_MOST_NAME_BYTES, self._end - self._at):
            raise self._wrong(f"a name says that it has {size} bytes")
        raw = self._raw[self._at : self._at + size]
        self._at += size
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            raise self._wrong("a name is not UTF-8") from error

    def _count(self) -> int:
        count = self._number()
        # Each takes a byte at least.
        if count > self._end - self._at:
            raise self._wrong(f"{count} things are said to be in what is left of the section")
        return count

    def _byte(self) -> int:
        if self._at >= self._end:
            raise self._wrong("it ends in the middle")
        self._at += 1
        return self._raw[self._at - 1]

    def _number(self) -> int:
        """An unsigned LEB128 number of 32 bits."""
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
            if shift >= 35:
                raise self._wrong("a number is too long")
        if value >> 32:
            raise self._wrong("a number is too large")
        return value

    def _wrong(self, what: str) -> InvalidInput:
        return InvalidInput(f"the component is malformed at byte {self._at}: {what}")


def _space(scope: _Scope, sort: int) -> list[Any] | None:
    spaces: dict[int, list[Any]] = {
        _FUNC: scope.funcs,
        _TYPE: scope.types,
        _COMPONENT: scope.components,
        _INSTANCE: scope.instances,
    }
    return spaces.get(sort)


def _grouped(
    items: list[tuple[str, int, Any]], what: str
) -> tuple[list[Interface], list[Interface]]:
    """The interfaces among imports or exports; and, as one of no name, the functions."""
    interfaces, loose = [], []
    for each, sort, (name, item) in items:
        if each != what:
            continue
        if sort == _INSTANCE:
            functions = [
                WitFunction(inside, found.parameters, found.result)
                for inside, (kind, found) in item.items.items()
                if kind == _FUNC and found is not None
            ]
            resources = [
                inside
                for inside, (kind, found) in item.items.items()
                if kind == _TYPE and isinstance(found, _Resource) and found.name == inside
            ]
            interfaces.append(Interface(name, tuple(functions), tuple(resources)))
        elif sort == _FUNC and item is not None:
            loose.append(WitFunction(name, item.parameters, item.result))
    return interfaces, [Interface("", tuple(loose))] if loose else []
