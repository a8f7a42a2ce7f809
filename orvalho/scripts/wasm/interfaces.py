"""What of a WebAssembly component can be called and must be linked: the functions that it imports
and exports, by interface, with types that values can be checked against; and what it is called
with.

Each type is written out once for every use: those that are nested or repeated beyond reason are
refused.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from orvalho.errors import InvalidInput
from orvalho.scripts.wasm.component import Component, Item, Type, parse_component
from orvalho.scripts.wasm.wit import WitFunction, WitType, make_type, take_arguments

_MOST_FUNCTIONS: Final = 5_000
_MOST_WEIGHT: Final = 400_000
_MOST_MEMBERS: Final = 200_000
_RUN: Final = "wasi:cli/run@0.2."
_NAMED: Final = ("record", "variant", "enum", "flags")
_NO_VALUES: Final = ("function", "async function", "resource", "instance", "component")


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


def read_component(raw: bytes) -> WasmComponent:
    """Raises:
    InvalidInput: something in it is not true, not known here, or beyond what is taken.
    """
    return interfaces_of(parse_component(raw))


def interfaces_of(component: Component) -> WasmComponent:
    """Raises:
    InvalidInput: something in it is not known here, or beyond what is taken.
    """
    if component.beyond is not None:
        raise component.beyond
    if component.unknown:
        raise InvalidInput(f"the component has what is not supported here: {component.unknown}")
    left = _Left()
    imports = _grouped(component.imports, left)
    return WasmComponent(imports, _grouped(component.exports, left), component.memories)


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


# ---- from the parsed types ---------------------------------------------------------------------


class _Left:
    """What may still come, of one component."""

    def __init__(self) -> None:
        self.functions = _MOST_FUNCTIONS
        self.weight = _MOST_WEIGHT
        self.members = _MOST_MEMBERS

    def take(self, *, functions: int = 0, weight: int = 0, members: int = 0) -> None:
        self.functions -= functions
        self.weight -= weight
        self.members -= members
        if min(self.functions, self.weight, self.members) < 0:
            raise InvalidInput("the component has more functions or types than are taken")


def _grouped(items: list[tuple[str, Item]], left: _Left) -> tuple[Interface, ...]:
    """The interfaces; before them, as one of no name, the functions."""
    loose, interfaces = [], []
    for name, item in items:
        if item.sort == "interface":
            members = item.type.itself.members.items if item.type else []
            left.take(members=len(members))
            interfaces.append(_interface(name, members, left))
        elif item.sort == "function" and item.type is not None:
            loose.append(_function(name, item.type, left))
    return (*([Interface("", tuple(loose))] if loose else []), *interfaces)


def _interface(name: str, members: list[tuple[str, Item]], left: _Left) -> Interface:
    functions, resources = [], []
    for inside, item in members:
        if item.type is None:
            continue
        if item.sort == "function":
            functions.append(_function(inside, item.type, left))
        elif item.sort == "type":
            found = item.type.itself
            if found.form == "resource" and found.name == inside:
                resources.append(inside)
    return Interface(name, tuple(functions), tuple(resources))


def _function(name: str, type_: Type, left: _Left) -> WitFunction:
    found = type_.itself
    if found.form != "function" or len(found.results) > 1:
        raise InvalidInput(f"the component has a function {name[:100]!a} of no known type")
    left.take(functions=1, weight=found.weight)
    parameters = tuple((each, _value_type(part)) for each, part in found.parts if part)
    return WitFunction(name, parameters, _value_type(found.results[0]) if found.results else None)


def _value_type(type_: Type) -> WitType:
    """Nested no deeper than a component's types may be."""
    found = type_.itself
    if found.value is None:
        found.value = _made(found)
    return found.value


def _made(type_: Type) -> WitType:
    form, parts = type_.form, type_.parts
    if form in ("own", "borrow"):
        resource = parts[0][1]
        return make_type(form, ((resource.itself.name if resource else "") or "resource",))
    if form in _NO_VALUES:
        raise InvalidInput("the component has a value with a type that is none of a value")
    names = tuple(name for name, _ in parts) if form in _NAMED else ()
    if form in ("enum", "flags"):
        return make_type(form, names)
    return make_type(
        form, names, tuple(None if part is None else _value_type(part) for _, part in parts)
    )
