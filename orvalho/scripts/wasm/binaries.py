"""What WebAssembly modules and components have in common for those who send and receive them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from orvalho.policies.capability import Capability
from orvalho.scripts.wasm.binary import is_component
from orvalho.scripts.wasm.component import parse_component
from orvalho.scripts.wasm.interfaces import (
    WasmComponent,
    check_component_call,
    interfaces_of,
    read_component,
)
from orvalho.scripts.wasm.module import check_call, read_module

# Interfaces that are linked for those alone who said that they need them: what the actions of such
# a capability begin with, and an example.
_GATED: Final = {
    "orvalho:host/fs": ("fs.", "target.fs.read:/**"),
    "orvalho:host/kv": ("kv.", "target.kv.read:*"),
}


def custom_section_of(raw: bytes, name: str) -> bytes | None:
    """The content of the first custom section of that name.

    Raises:
        InvalidInput: the bytes are malformed.
    """
    if is_component(raw):
        component = parse_component(raw)
        # Nothing is taken from one that cannot be called.
        interfaces_of(component)
        sections = tuple(component.custom)
    else:
        sections = read_module(raw).custom
    return next((each.content for each in sections if each.name == name), None)


def check_parameters(raw: bytes, params: Any) -> None:
    """Whether a library's function can be called with these decoded parameters; a program takes
    any.

    Raises:
        InvalidInput: "argument 1: expected u32, got text"; or the bytes are malformed.
    """
    if is_component(raw):
        component = read_component(raw)
        if not component.is_command:
            check_component_call(component, params)
        return
    module = read_module(raw)
    if not module.is_command:
        check_call(module, params)


def imports_and_exports(raw: bytes) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What it wants and what it offers, one line each, with the types of functions.

    Raises:
        InvalidInput: the bytes are malformed.
    """
    if not is_component(raw):
        module = read_module(raw)
        return tuple(map(str, module.imports)), tuple(map(str, module.exports))
    component = read_component(raw)
    return tuple(_lines(component, "imports")), tuple(_lines(component, "exports"))


def _lines(component: WasmComponent, which: str) -> Iterable[str]:
    for interface in getattr(component, which):
        prefix = f"{interface.name}#" if interface.name else ""
        if not interface.functions:
            yield f"interface {interface.name}"
        for function in interface.functions:
            yield f"function {prefix}{function}"


def missing_capability(raw: bytes, declared: Iterable[Capability]) -> str | None:
    """Why the component cannot be linked: it imports an interface of whose capabilities its header
    has none. None when all is well."""
    if not is_component(raw):
        return None
    actions = {capability.action for capability in declared}
    for interface in read_component(raw).imports:
        beginning, example = _GATED.get(interface.stem, ("", ""))
        if beginning and not any(action.startswith(beginning) for action in actions):
            return (
                f"it imports {interface.name}, which is for those that declare it: "
                f'add a capability such as "{example}" to needs'
            )
    return None
