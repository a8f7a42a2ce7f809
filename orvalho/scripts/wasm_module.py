"""What a WebAssembly module says of itself (WebAssembly core 1, section 5), read without compiling
it: imports, exports and their types, memories, custom sections.

The bytes are a stranger's. Each length is checked against what is there before anything is taken
from it, and whatever this reader does not know is left to the compiler.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

from orvalho.errors import InvalidInput

_TYPES: Final = {0x7F: "i32", 0x7E: "i64", 0x7D: "f32", 0x7C: "f64", 0x7B: "v128"}
_REFERENCES: Final = (0x63, 0x64)
_KINDS: Final = ("function", "table", "memory", "global", "tag")
_CUSTOM, _TYPE, _IMPORT, _FUNCTION, _MEMORY, _EXPORT, _START = 0, 1, 2, 3, 5, 7, 8
# More of one thing than any compiler takes (the limits of the JavaScript interface, section 8).
_MOST: Final = 1_000_000
_FUNCTION_FORM: Final = 0x60
_PAGE_BYTES: Final = 65_536
WASI: Final = "wasi_snapshot_preview1"


@dataclass(frozen=True, slots=True)
class FunctionType:
    """Names of types: i32, i64, f32, f64, or `?` for one that no number can be."""

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


@dataclass(frozen=True, slots=True)
class WasmModule:
    """`memory_bytes` is what its own memory begins with."""

    imports: tuple[External, ...]
    exports: tuple[External, ...]
    custom: tuple[tuple[str, bytes], ...]
    memory_bytes: int
    has_start: bool

    @property
    def is_command(self) -> bool:
        """Whether it is a program of WASI preview 1."""
        return self.export("_start") is not None

    def export(self, name: str) -> FunctionType | None:
        """The type of an exported function; None when there is no such function."""
        return next((each.type for each in self.exports if each.name == name), None)


def read_module(raw: bytes) -> WasmModule:
    """Raises:
    InvalidInput: a length or number in it is not true, with the byte's place.
    """
    return _Reader(raw).read()


def custom_section(raw: bytes, name: str) -> bytes | None:
    """The content of the first custom section of that name.

    Raises:
        InvalidInput: as `read_module`.
    """
    sections = read_module(raw).custom
    return next((content for each, content in sections if each == name), None)


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


_WORDS: Final = {bool: "true or false", str: "text", list: "a list", dict: "an object"}
_BITS: Final = {"i32": 32, "i64": 64}
# What JSON has no numbers for, as results and arguments have them.
NOT_FINITE: Final = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def _argument(number: int, value: Any, kind: str) -> int | float:
    if kind in ("f32", "f64") and isinstance(value, str) and value in NOT_FINITE:
        return NOT_FINITE[value]
    what = _WORDS.get(type(value), "nothing" if value is None else "a number")
    if what != "a number" or (kind in _BITS and isinstance(value, float)):
        what = "a fraction" if isinstance(value, float) else what
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


class _Reader:
    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self._at = 8
        self._end = len(raw)
        self._types: list[FunctionType | None] = []
        # What functions there are, imported ones first, by the number of their type.
        self._functions: list[int] = []
        self._imports: list[External] = []
        self._exports: list[tuple[str, int, int]] = []
        self._custom: list[tuple[str, bytes]] = []
        self._memory_bytes = 0
        self._has_start = False

    def read(self) -> WasmModule:
        readers = {
            _CUSTOM: self._read_custom,
            _TYPE: self._read_types,
            _IMPORT: self._read_imports,
            _FUNCTION: self._read_functions,
            _MEMORY: self._read_memories,
            _EXPORT: self._read_exports,
            _START: self._read_start,
        }
        whole = len(self._raw)
        while self._at < whole:
            self._end = whole
            number, size = self._byte(), self._number()
            if size > whole - self._at:
                raise self._wrong(f"section {number} says that it has {size} bytes")
            after = self._end = self._at + size
            if number in readers:
                readers[number]()
            self._at = after
        exports = tuple(self._external(*each) for each in self._exports)
        return WasmModule(
            tuple(self._imports), exports, tuple(self._custom), self._memory_bytes, self._has_start
        )

    # ---- sections ----------------------------------------------------------------------------

    def _read_custom(self) -> None:
        name = self._name()
        self._custom.append((name, self._raw[self._at : self._end]))

    def _read_types(self) -> None:
        for _ in range(self._count()):
            if self._byte() != _FUNCTION_FORM:
                # Types of garbage collection, whose length only the compiler knows.
                self._types.append(None)
                return
            self._types.append(FunctionType(self._value_types(), self._value_types()))

    def _read_imports(self) -> None:
        for _ in range(self._count()):
            module, name, kind = self._name(), self._name(), self._byte()
            if kind >= len(_KINDS):
                raise self._wrong(f"there is no kind {kind} of import")
            found: FunctionType | None = None
            if kind == 0:
                number = self._number()
                self._functions.append(number)
                found = self._type(number)
            elif kind in (1, 3):
                self._value_type()
                _ = self._limits() if kind == 1 else self._byte()
            elif kind == 2:
                self._limits()
            else:
                self._byte()
                self._number()
            self._imports.append(External(module, name, _KINDS[kind], found))

    def _read_functions(self) -> None:
        self._functions += [self._number() for _ in range(self._count())]

    def _read_memories(self) -> None:
        for _ in range(self._count()):
            self._memory_bytes += self._limits() * _PAGE_BYTES

    def _read_exports(self) -> None:
        for _ in range(self._count()):
            name, kind = self._name(), self._byte()
            if kind >= len(_KINDS):
                raise self._wrong(f"there is no kind {kind} of export")
            self._exports.append((name, kind, self._number()))

    def _read_start(self) -> None:
        self._has_start = True

    def _external(self, name: str, kind: int, number: int) -> External:
        found = None
        if kind == 0 and number < len(self._functions):
            found = self._type(self._functions[number])
        return External("", name, _KINDS[kind], found)

    # ---- values ------------------------------------------------------------------------------

    def _type(self, number: int) -> FunctionType | None:
        return self._types[number] if number < len(self._types) else None

    def _value_types(self) -> tuple[str, ...]:
        return tuple(self._value_type() for _ in range(self._count()))

    def _value_type(self) -> str:
        byte = self._byte()
        if byte in _REFERENCES:
            # What it refers to follows, a number that may be negative.
            self._number(bits=33)
        return _TYPES.get(byte, "?")

    def _limits(self) -> int:
        """The least size; of a 64-bit or shared memory as well."""
        flags = self._byte()
        least = self._number(bits=64)
        if flags & 1:
            self._number(bits=64)
        return least

    def _name(self) -> str:
        size = self._number()
        if size > self._end - self._at:
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
        if count > min(_MOST, self._end - self._at):
            raise self._wrong(f"{count} things are said to be in what is left of the section")
        return count

    def _byte(self) -> int:
        if self._at >= self._end:
            raise self._wrong("it ends in the middle")
        self._at += 1
        return self._raw[self._at - 1]

    def _number(self, bits: int = 32) -> int:
        """An unsigned LEB128 number."""
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
            if shift >= bits:
                raise self._wrong("a number is too long")
        if value >> bits:
            raise self._wrong("a number is too large")
        return value

    def _wrong(self, what: str) -> InvalidInput:
        return InvalidInput(f"the module is malformed at byte {self._at}: {what}")
