"""Values of components, between wasmtime's C form and Python's, as `scripts.wasm.wit` names them.

wasmtime's own conversion makes a Python object of each byte, about 1 MB a second, and guesses the
case of a variant by its payload's class. Here bytes are copied as a whole, and the type says which
case is meant. Each function here trusts nothing but the kinds that wasmtime has written itself.
"""

from __future__ import annotations

import ctypes
from ctypes import byref
from typing import Any, Final

from orvalho.runtime.engines.wasm.library import ffi
from orvalho.scripts.wasm.wit import WitType

_VAL: Final = ffi.wasmtime_component_val_t
_VAL_BYTES: Final = ctypes.sizeof(_VAL)
_OF: Final = _VAL.of.offset
_PLAIN: Final = {
    "bool": (0, "boolean"),
    "s8": (1, "s8"),
    "u8": (2, "u8"),
    "s16": (3, "s16"),
    "u16": (4, "u16"),
    "s32": (5, "s32"),
    "u32": (6, "u32"),
    "s64": (7, "s64"),
    "u64": (8, "u64"),
    "f32": (9, "f32"),
    "f64": (10, "f64"),
}
_FIELD: Final = dict(_PLAIN.values())
_CHAR, _STRING, _LIST, _RECORD, _TUPLE, _VARIANT, _ENUM, _OPTION, _RESULT, _FLAGS, _RESOURCE = (
    range(11, 22)
)
_U8: Final = 2
# Resources of the host are told apart by numbers.
_RESOURCES: Final = (
    "error", "pollable", "input-stream", "output-stream", "terminal-input", "terminal-output",
    "descriptor", "directory-entry-stream", "network", "tcp-socket", "udp-socket",
    "incoming-datagram-stream", "outgoing-datagram-stream", "resolve-address-stream",
)  # fmt: skip
RESOURCE_NUMBERS: Final = {name: number for number, name in enumerate(_RESOURCES, 1)}


class Handle:
    """A resource of the host's, as a guest hands it over: its number in the host's table."""

    __slots__ = ("rep",)

    def __init__(self, rep: int) -> None:
        self.rep = rep


def _text(name: Any) -> str:
    return ctypes.string_at(name.data, name.size).decode() if name.size else ""


def lift(context: Any, value: Any) -> Any:
    """The Python value of a `wasmtime_component_val_t`, which stays its owner's.

    Raises:
        TypeError: a resource that is not the host's, or a kind that is not known.
    """
    kind = value.kind
    of = value.of
    if kind in _FIELD:
        return getattr(of, _FIELD[kind])
    if kind == _STRING:
        return _text(of.string)
    if kind == _LIST:
        return _lift_list(context, of.list)
    if kind == _RESULT:
        return _case("ok" if of.result.is_ok else "err", context, of.result.val)
    if kind == _OPTION:
        return _case("some" if of.option else "none", context, of.option)
    if kind == _RECORD:
        entries = of.record
        pairs = (entries.data[number] for number in range(entries.size))
        return {_text(each.name): lift(context, each.val) for each in pairs}
    if kind == _TUPLE:
        return [lift(context, of.tuple.data[number]) for number in range(of.tuple.size)]
    if kind == _VARIANT:
        return _case(_text(of.variant.discriminant), context, of.variant.val)
    if kind == _ENUM:
        return _text(of.enumeration)
    if kind == _FLAGS:
        return frozenset(_text(of.flags.data[number]) for number in range(of.flags.size))
    if kind == _CHAR:
        return chr(of.character)
    if kind == _RESOURCE:
        return _lift_resource(context, of.resource)
    raise TypeError(f"a value of kind {kind} is not supported here")


def _case(name: str, context: Any, inside: Any) -> tuple[str, Any]:
    return name, lift(context, inside.contents) if inside else None


def _lift_list(context: Any, found: Any) -> Any:
    size = found.size
    if not size:
        # Bytes or not, nobody can tell: both are false and have no length.
        return []
    if found.data[0].kind == _U8:
        return bytes(_bytes_at(found.data, size)[_OF::_VAL_BYTES])
    return [lift(context, found.data[number]) for number in range(size)]


def _bytes_at(values: Any, size: int) -> memoryview:
    """The memory that so many values lie in."""
    at = ctypes.addressof(values.contents)
    return memoryview((ctypes.c_char * (size * _VAL_BYTES)).from_address(at)).cast("B")


def _lift_resource(context: Any, resource: Any) -> Handle:
    host = ctypes.POINTER(ffi.wasmtime_component_resource_host_t)()
    error = ffi.wasmtime_component_resource_any_to_host(context, resource, byref(host))
    if _is_set(error):
        ffi.wasmtime_error_delete(error)
        raise TypeError("a resource that is not the host's")
    rep = ffi.wasmtime_component_resource_host_rep(host)
    ffi.wasmtime_component_resource_host_delete(host)
    return Handle(rep)


def _is_set(pointer: Any) -> bool:
    return bool(pointer)


# ---- to wasmtime -----------------------------------------------------------------------------


def lower(context: Any, into: Any, value: Any, kind: WitType) -> None:
    """Write a value into a `wasmtime_component_val_t`, which then owns what it points to. One that
    could not be written is left as `false`.

    Raises:
        TypeError: the value is none of that type. What was made of it by then is lost: a few bytes.
    """
    made = _VAL()
    try:
        _lower(context, made, value, kind)
    except (AttributeError, KeyError, ValueError, IndexError, ctypes.ArgumentError) as error:
        into.kind = 0
        into.of.boolean = False
        raise TypeError(f"not a {kind}") from error
    ctypes.memmove(byref(into), byref(made), _VAL_BYTES)


def _lower(context: Any, into: Any, value: Any, kind: WitType) -> None:
    name = kind.kind
    plain = _PLAIN.get(name)
    if plain is not None:
        into.kind = plain[0]
        setattr(into.of, plain[1], value)
    elif name == "string":
        into.kind = _STRING
        into.of.string = ffi.bytes_to_capi(value.encode())
    elif name == "list":
        into.kind = _LIST
        _lower_list(context, into.of.list, value, kind)
    elif name == "result":
        into.kind = _RESULT
        into.of.result.is_ok = value[0] == "ok"
        into.of.result.val = _boxed(context, value[1], kind.parts[value[0] != "ok"])
    elif name == "option":
        into.kind = _OPTION
        some = value[0] == "some"
        into.of.option = _boxed(context, value[1], kind.parts[0]) if some else None
    elif name == "own":
        into.kind = _RESOURCE
        into.of.resource = _owned(context, value, kind)
    else:
        _lower_named(context, into, value, kind)


def _lower_named(context: Any, into: Any, value: Any, kind: WitType) -> None:
    name = kind.kind
    if name == "record":
        into.kind = _RECORD
        entries = into.of.record
        ffi.wasmtime_component_valrecord_new_uninit(byref(entries), len(kind.names))
        _clear(entries, ffi.wasmtime_component_valrecord_entry_t)
        for number, (field, part) in enumerate(zip(kind.names, kind.parts, strict=True)):
            entries.data[number].name = ffi.bytes_to_capi(field.encode())
            _lower(context, entries.data[number].val, value[field], _known(part))
    elif name == "tuple":
        into.kind = _TUPLE
        items = into.of.tuple
        ffi.wasmtime_component_valtuple_new_uninit(byref(items), len(kind.parts))
        _clear(items, _VAL)
        for number, (each, part) in enumerate(zip(value, kind.parts, strict=True)):
            _lower(context, items.data[number], each, _known(part))
    elif name == "variant":
        into.kind = _VARIANT
        part = kind.parts[kind.names.index(value[0])]
        into.of.variant.discriminant = ffi.bytes_to_capi(value[0].encode())
        into.of.variant.val = _boxed(context, value[1], part)
    elif name == "enum":
        into.kind = _ENUM
        into.of.enumeration = ffi.bytes_to_capi(value.encode())
    elif name == "flags":
        into.kind = _FLAGS
        ffi.wasmtime_component_valflags_new_uninit(byref(into.of.flags), len(value))
        for number, each in enumerate(sorted(value)):
            into.of.flags.data[number] = ffi.bytes_to_capi(each.encode())
    elif name == "char":
        into.kind = _CHAR
        into.of.character = ord(value)
    else:
        raise TypeError(f"a value of type {kind} cannot be made here")


def _clear(vector: Any, kind: Any) -> None:
    if vector.size:
        ctypes.memset(vector.data, 0, vector.size * ctypes.sizeof(kind))


def _lower_list(context: Any, into: Any, value: Any, kind: WitType) -> None:
    size = len(value)
    ffi.wasmtime_component_vallist_new_uninit(byref(into), size)
    if not size:
        return
    part = _known(kind.parts[0])
    if part.kind == "u8":
        raw = _bytes_at(into.data, size)
        raw[0::_VAL_BYTES] = bytes([_U8]) * size
        raw[_OF::_VAL_BYTES] = bytes(value)
        return
    _clear(into, _VAL)
    for number, each in enumerate(value):
        _lower(context, into.data[number], each, part)


def _boxed(context: Any, value: Any, part: WitType | None) -> Any:
    if part is None:
        return None
    made = _VAL()
    _lower(context, made, value, part)
    return ffi.wasmtime_component_val_new(byref(made))


def _owned(context: Any, value: Any, kind: WitType) -> Any:
    number = RESOURCE_NUMBERS[kind.names[0]]
    host = ffi.wasmtime_component_resource_host_new(True, value.rep, number)
    made = ctypes.POINTER(ffi.wasmtime_component_resource_any_t)()
    error = ffi.wasmtime_component_resource_host_to_any(context, host, byref(made))
    ffi.wasmtime_component_resource_host_delete(host)
    if _is_set(error):
        ffi.wasmtime_error_delete(error)
        raise TypeError(f"no {kind} can be made")
    return made


def _known(part: WitType | None) -> WitType:
    assert part is not None
    return part
