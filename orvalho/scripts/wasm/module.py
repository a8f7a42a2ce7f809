"""What a WebAssembly module says of itself (WebAssembly core 1, section 5), read without compiling
it: imports, exports and their types, memories, custom sections; and what it is called with.

The bytes are a stranger's. What is read of them is bounded in time and size whatever they say, and
whatever this reader does not know is left to the compiler.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import msgspec

from orvalho.errors import InvalidInput
from orvalho.scripts.wasm.binary import PREAMBLE_BYTES, Custom, Reader, read_custom
from orvalho.scripts.wasm.wit import NOT_FINITE, word_of

_TYPES: Final = {
    0x7F: "i32", 0x7E: "i64", 0x7D: "f32", 0x7C: "f64", 0x7B: "v128", 0x70: "funcref",
    0x6F: "externref",
}  # fmt: skip
_REFERENCES: Final = (0x63, 0x64)
_KINDS: Final = ("function", "table", "memory", "global", "tag")
_CUSTOM, _TYPE, _IMPORT, _FUNCTION, _TABLE, _MEMORY, _EXPORT, _START = 0, 1, 2, 3, 4, 5, 7, 8
_FUNCTION_FORM: Final = 0x60
_PAGE_BYTES: Final = 65_536
# What a message of ours can say.
_MOST_MEMORY_BYTES: Final = 1 << 62
_MOST_TYPES: Final = 100_000
# Of one function: more are taken by no compiler.
_MOST_VALUES: Final = 1_000
_MOST_SECTIONS: Final = 10_000
_MOST_NAMED: Final = 100_000
_MOST_MEMORIES: Final = 1_000
_BITS: Final = {"i32": 32, "i64": 64}
WASI: Final = "wasi_snapshot_preview1"


@dataclass(frozen=True, slots=True)
class FunctionType:
    """Names of types: i32, i64, f32, f64, v128, funcref, externref, or `?` for others."""

    parameters: tuple[str, ...]
    results: tuple[str, ...]

    def __str__(self) -> str:
        results = ", ".join(self.results) or "nothing"
        return f"({', '.join(self.parameters)}) -> {results}"


@dataclass(frozen=True, slots=True)
class External:
    """An import or an export. `type` is None for what is no function; `module` is empty for an
    export."""

    module: str
    name: str
    kind: str
    type: FunctionType | None

    def __str__(self) -> str:
        name = f"{self.module}.{self.name}" if self.module else self.name
        return f"{self.kind} {name}" + (f" {self.type}" if self.type else "")


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """`maximum_bytes` is None for one without a limit of its own."""

    minimum_bytes: int
    maximum_bytes: int | None
    is_shared: bool = False


@dataclass(frozen=True, slots=True)
class WasmModule:
    """`memories` are those it imports as well; `tables` is how many it has, in the same way."""

    imports: tuple[External, ...]
    exports: tuple[External, ...]
    custom: tuple[Custom, ...] = ()
    memories: tuple[Memory, ...] = ()
    tables: int = 0
    has_start: bool = False

    @property
    def is_command(self) -> bool:
        """Whether it is a program of WASI preview 1."""
        return self.export("_start") is not None

    def export(self, name: str) -> FunctionType | None:
        """The type of an exported function; None when there is no such function."""
        return next((each.type for each in self.exports if each.name == name), None)


def read_module(raw: bytes) -> WasmModule:
    """Raises:
    InvalidInput: a length or number in it is not true, or beyond what is taken, with the
        byte's place.
    """
    return _Parser(raw).read()


def check_call(module: WasmModule, params: Any) -> tuple[str, tuple[int | float, ...]]:
    """The function that parameters name (`{"call": "add", "args": [2, 3]}`; `run` without one) and
    its arguments, checked against the declared types. Nothing is converted but whole numbers to
    floats, and the words of NOT_FINITE. Integers of a core module have no sign: 0xffffffff and -1
    are the same i32.

    Raises:
        InvalidInput: "argument 1: expected i32, got text".
    """
    table = params if isinstance(params, dict) else {}
    name, given = table.get("call", "run"), table.get("args", [])
    found = module.export(name) if isinstance(name, str) else None
    if found is None:
        offers = [each.name for each in module.exports if each.type]
        raise InvalidInput(
            f"the module exports no function {name!a}",
            hint=f"it exports {', '.join(offers[:20])}" if offers else "it exports none at all",
        )
    # Without a list of arguments the parameters are the guest's own affair.
    given = given if isinstance(given, list) or found.parameters else []
    if not isinstance(given, list):
        raise InvalidInput('args is a list: {"call": "add", "args": [2, 3]}')
    if len(given) != len(found.parameters):
        raise InvalidInput(
            f"{name} {found} takes {len(found.parameters)} arguments, not {len(given)}"
        )
    pairs = enumerate(zip(given, found.parameters, strict=True), 1)
    return name, tuple(_argument(number, value, kind) for number, (value, kind) in pairs)


def _argument(number: int, value: Any, kind: str) -> int | float:
    if kind in ("f32", "f64") and isinstance(value, str) and value in NOT_FINITE:
        return NOT_FINITE[value]
    what = word_of(value)
    if what not in ("a number", "a fraction") or (kind in _BITS and what == "a fraction"):
        raise InvalidInput(f"argument {number}: expected {kind}, got {what}")
    if kind in ("f32", "f64"):
        return float(value)
    bits = _BITS.get(kind)
    if bits is None:
        raise InvalidInput(f"argument {number}: expected {kind}, which no JSON value is")
    if not -(1 << (bits - 1)) <= value < 1 << bits:
        raise InvalidInput(f"argument {number}: expected {kind}, got a number beyond {bits} bits")
    # Both readings of the same bits are welcome; the signed one is what is passed.
    return int(value) - (1 << bits) if value >= 1 << (bits - 1) else int(value)


# ---- reading ---------------------------------------------------------------------------------


class _Parser:
    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        # Where types begin, and those that were asked about: only these are read whole.
        self._types: list[int | None] = []
        self._known: dict[int, FunctionType | None] = {}
        # What functions there are, imported ones first, by the number of their type.
        self._functions: list[int] = []
        self._imports: list[tuple[str, str, int, int]] = []
        self._exports: list[tuple[str, int, int]] = []
        self._custom: list[Custom] = []
        self._memories: list[Memory] = []
        self._tables = 0
        self._has_start = False

    def read(self) -> WasmModule:
        self._read_sections()
        imports = tuple(
            External(module, name, _KINDS[kind], self._type(number) if kind == 0 else None)
            for module, name, kind, number in self._imports
        )
        exports = tuple(
            External("", name, _KINDS[kind], self._function(number) if kind == 0 else None)
            for name, kind, number in self._exports
        )
        return WasmModule(
            imports,
            exports,
            tuple(self._custom),
            tuple(self._memories),
            self._tables,
            self._has_start,
        )

    def _read_sections(self) -> None:
        readers = {
            _CUSTOM: self._read_custom,
            _TYPE: self._read_types,
            _IMPORT: self._read_imports,
            _FUNCTION: self._read_functions,
            _TABLE: self._read_tables,
            _MEMORY: self._read_memories,
            _EXPORT: self._read_exports,
            _START: self._read_start,
        }
        whole = Reader(self._raw, PREAMBLE_BYTES, len(self._raw))
        left = _MOST_SECTIONS
        while not whole.is_done:
            number, content = whole.section()
            left -= 1
            if left < 0:
                raise whole.wrong(f"it has more than {_MOST_SECTIONS} sections")
            if number in readers:
                readers[number](content)

    def _read_custom(self, content: Reader) -> None:
        self._custom.append(read_custom(content))

    def _read_types(self, content: Reader) -> None:
        for _ in range(content.count()):
            at = content.at
            if content.byte() != _FUNCTION_FORM or len(self._types) >= _MOST_TYPES:
                # Types of garbage collection, whose length only the compiler knows.
                self._types.append(None)
                return
            for _ in range(2):
                _skip_value_types(content)
            self._types.append(at)

    def _read_imports(self, content: Reader) -> None:
        for _ in range(_at_most(content, _MOST_NAMED, "imports")):
            module, name, kind, number = content.name(), content.name(), content.byte(), -1
            if kind >= len(_KINDS):
                raise content.wrong(f"there is no kind {kind} of import")
            if kind == 0:
                number = content.number()
                self._functions.append(number)
            elif kind == 1:
                _value_type(content)
                _limits(content)
                self._tables += 1
            elif kind == 2:
                self._memories.append(_memory(content))
            elif kind == 3:
                _value_type(content)
                content.byte()
            else:
                content.byte()
                content.number()
            self._imports.append((module, name, kind, number))

    def _read_functions(self, content: Reader) -> None:
        count = content.count()
        plain = content.raw[content.at : content.at + count]
        if max(plain, default=0) < 0x80:
            # Each number is one byte, as in nearly every module.
            self._functions += plain
        else:
            self._functions += [content.number() for _ in range(count)]

    def _read_tables(self, content: Reader) -> None:
        self._tables += content.count()

    def _read_memories(self, content: Reader) -> None:
        count = _at_most(content, _MOST_MEMORIES, "memories")
        self._memories += [_memory(content) for _ in range(count)]

    def _read_exports(self, content: Reader) -> None:
        for _ in range(_at_most(content, _MOST_NAMED, "exports")):
            name, kind = content.name(), content.byte()
            if kind >= len(_KINDS):
                raise content.wrong(f"there is no kind {kind} of export")
            self._exports.append((name, kind, content.number()))

    def _read_start(self, content: Reader) -> None:
        content.number()
        self._has_start = True

    # ---- types -------------------------------------------------------------------------------

    def _function(self, number: int) -> FunctionType | None:
        return self._type(self._functions[number]) if number < len(self._functions) else None

    def _type(self, number: int) -> FunctionType | None:
        if number not in self._known:
            at = self._types[number] if number < len(self._types) else None
            self._known[number] = None if at is None else self._function_type(at)
        return self._known[number]

    def _function_type(self, at: int) -> FunctionType | None:
        content = Reader(self._raw, at + 1, len(self._raw))
        lists = []
        for _ in range(2):
            count = content.count()
            if count > _MOST_VALUES:
                return None
            lists.append(tuple(_value_type(content) for _ in range(count)))
        return FunctionType(lists[0], lists[1])


def _at_most(content: Reader, most: int, what: str) -> int:
    count = content.count()
    if count > most:
        raise content.wrong(f"it has {count} {what}, more than {most}")
    return count


def _memory(content: Reader) -> Memory:
    flags, least, most = _limits(content)
    return Memory(
        minimum_bytes=min(least * _PAGE_BYTES, _MOST_MEMORY_BYTES),
        maximum_bytes=None if most is None else min(most * _PAGE_BYTES, _MOST_MEMORY_BYTES),
        is_shared=bool(flags & 2),
    )


def _limits(content: Reader) -> tuple[int, int, int | None]:
    """The flags, the least and the greatest size; of a 64-bit or shared memory as well."""
    flags = content.byte()
    if flags > 7:
        raise content.wrong(f"there are no limits of form {flags}")
    least = content.number(bits=64)
    return flags, least, content.number(bits=64) if flags & 1 else None


def _value_type(content: Reader) -> str:
    byte = content.byte()
    if byte in _REFERENCES:
        # What it refers to follows, a number that may be negative.
        content.signed()
    return _TYPES.get(byte, "?")


def _skip_value_types(content: Reader) -> None:
    count = content.count()
    chunk = content.raw[content.at : content.at + count]
    if not any(each in chunk for each in _REFERENCES):
        content.at += count
        return
    for _ in range(count):
        _value_type(content)
