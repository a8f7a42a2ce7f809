"""What a WebAssembly binary says of itself, read without compiling it: a module (WebAssembly core
1, section 5, and the conventions of the tools for custom sections) or a component.

The bytes are a stranger's: nothing is raised but InvalidInput, and what is read of them is bounded
in time and size whatever they say. What this reader does not know it leaves out, with a note.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from orvalho.errors import InvalidInput
from orvalho.scripts.wasm_bytes import Cursor
from orvalho.scripts.wasm_component import Component, read_component
from orvalho.scripts.wit_text import Unknown, functions_of, world_text

_MODULE: Final = b"\0asm\x01\0\0\0"
_COMPONENT: Final = b"\0asm\x0d\0\x01\0"
_TYPES: Final = {0x7F: "i32", 0x7E: "i64", 0x7D: "f32", 0x7C: "f64", 0x7B: "v128"}
_HEAP: Final = {0x70: "funcref", 0x6F: "externref"}
_KINDS: Final = ("function", "table", "memory", "global", "tag")
_CUSTOM, _TYPE, _IMPORT, _FUNCTION, _TABLE, _MEMORY, _EXPORT, _START = 0, 1, 2, 3, 4, 5, 7, 8
_PAGE_BYTES: Final = 65_536
# What a message of ours can say.
_MOST_MEMORY_BYTES: Final = 1 << 62
_MOST_TYPES: Final = 100_000
_MOST_SECTIONS: Final = 10_000
_MOST_NAMED: Final = 100_000
_MOST_MEMORIES: Final = 1_000
_MOST_LISTED: Final = 2_000
_MOST_TEXT: Final = 200_000
_MOST_HEADER_BYTES: Final = 64 << 10
_MOST_NOTES: Final = 20
_MOST_PRODUCERS: Final = 200
_LONGEST: Final = 300
_MODULE_NAME: Final = 0
_COMPONENT_RUN: Final = "wasi:cli/run@"


class _Record(msgspec.Struct, frozen=True, kw_only=True):
    pass


class Parameter(_Record, frozen=True, kw_only=True):
    """`name` is empty where the binary tells none; `type` as `i32` or, of a component, as WIT."""

    name: str
    type: str


class Function(_Record, frozen=True, kw_only=True):
    """A function that can be called. `interface` is empty for one of the binary itself."""

    interface: str
    name: str
    parameters: tuple[Parameter, ...]
    results: tuple[str, ...]

    @property
    def path(self) -> str:
        """How a call names it."""
        return f"{self.interface}#{self.name}" if self.interface else self.name


class External(_Record, frozen=True, kw_only=True):
    """An import (`module` is whose) or an export. `type` is empty where there is none to tell."""

    module: str
    name: str
    kind: str
    type: str


class Memory(_Record, frozen=True, kw_only=True):
    """`maximum_bytes` is None for one without a limit of its own."""

    minimum_bytes: int
    maximum_bytes: int | None
    is_shared: bool = False


class Section(_Record, frozen=True, kw_only=True):
    """A custom section."""

    name: str
    size_bytes: int


class Metadata(_Record, frozen=True, kw_only=True):
    """`kind`: command, reactor, library or component; `is_program`: whether it can be run as one.
    `wasi`: which versions it imports. `header` is the TOML of its section `orvalho`. `sha256` is
    64 hex digits. `wit` is the text of a component's world. `signer`: "unsigned", or that there is
    a signature that nobody has checked."""

    kind: str
    is_program: bool
    wasi: tuple[str, ...]
    name: str
    size_bytes: int
    sha256: str
    imports: tuple[External, ...]
    exports: tuple[External, ...]
    functions: tuple[Function, ...]
    memories: tuple[Memory, ...]
    tables: int
    has_start: bool
    sections: tuple[Section, ...]
    producers: dict[str, tuple[str, ...]]
    features: tuple[str, ...]
    header: str
    wit: str
    signer: str
    notes: tuple[str, ...]

    def function(self, name: str) -> Function:
        """The exported function of that name; of a component also `interface#name`.

        Raises:
            InvalidInput: there is none, or more than one.
        """
        exact = [each for each in self.functions if each.path == name]
        found = exact or [each for each in self.functions if each.name == name]
        if len(found) == 1:
            return found[0]
        offered = ", ".join(each.path for each in (found or self.functions)[:20])
        what = "more than one function" if found else "no function"
        raise InvalidInput(
            f"it exports {what} {name[:100]!a}",
            hint=f"it exports {offered}" if offered else "it exports none at all",
        )


def read_metadata(raw: bytes) -> Metadata:
    """Raises:
    InvalidInput: it is no WebAssembly binary, or one that is not true to its own lengths.
    """
    if raw.startswith(_MODULE):
        return _Module(raw).read()
    if raw.startswith(_COMPONENT):
        return _component(raw)
    if raw.lstrip()[:1] in (b"(", b";"):
        raise InvalidInput("this is WebAssembly text: only its binary form is read")
    if raw.startswith(b"\0asm"):
        raise InvalidInput("this is WebAssembly of a version that is not known here")
    raise InvalidInput("this is no WebAssembly binary")


def is_wasm(raw: bytes) -> bool:
    """Whether it begins as WebAssembly does, of whatever version."""
    return raw.startswith(b"\0asm")


class _Custom:
    """The custom sections of a module, or of a component with the modules inside it."""

    def __init__(self) -> None:
        self.sections: list[Section] = []
        self.producers: dict[str, set[str]] = {}
        self.features: set[str] = set()
        self.header = ""
        self.name = ""
        self.is_signed = False
        self.notes: list[str] = []

    def read_inner(self, content: Cursor) -> None:
        """A section of a module inside: by what it was made, and nothing else."""
        if content.name() == "producers":
            try:
                self._read_producers(content)
            except InvalidInput:
                self.notes.append("the producers of a module inside are malformed")
                del self.notes[_MOST_NOTES:]

    def read(self, content: Cursor) -> None:
        name = content.name()
        if len(self.sections) < _MOST_LISTED:
            self.sections.append(Section(name=_short(name), size_bytes=content.end - content.at))
        if name == "orvalho":
            self._read_header(content.rest())
        readers = {
            "producers": self._read_producers,
            "target_features": self._read_features,
            "name": self._read_names,
            "component-name": self._read_names,
        }
        if name in readers:
            try:
                readers[name](content)
            except InvalidInput:
                # For people to read: a binary runs whatever stands there.
                self.notes.append(f'the section "{name}" is malformed')
        del self.notes[_MOST_NOTES:]
        self.is_signed = self.is_signed or name == "signature"

    def _read_header(self, raw: bytes) -> None:
        if len(raw) > _MOST_HEADER_BYTES:
            raise InvalidInput(f'the section "orvalho" has more than {_MOST_HEADER_BYTES} bytes')
        try:
            self.header = self.header or raw.decode()
        except UnicodeDecodeError as error:
            raise InvalidInput('the section "orvalho" is not UTF-8 text') from error

    def _read_producers(self, content: Cursor) -> None:
        for _ in range(min(content.count(), 100)):
            field = _short(content.name())
            for _ in range(min(content.count(), 100)):
                value, version = content.name(), content.name()
                if sum(map(len, self.producers.values())) < _MOST_PRODUCERS:
                    named = _short(f"{value} {version}".strip())
                    self.producers.setdefault(field, set()).add(named)

    def _read_features(self, content: Cursor) -> None:
        for _ in range(min(content.count(), 1000)):
            mark = chr(content.byte())
            self.features.add(_short(mark + content.name()))

    def _read_names(self, content: Cursor) -> None:
        while not content.is_done:
            number, inner = content.section()
            if number == _MODULE_NAME:
                self.name = self.name or _short(inner.name())
                return

    @property
    def signer(self) -> str:
        return "a signature that is not checked here" if self.is_signed else "unsigned"


class _Module:
    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        # Where types begin: only those that are asked about are read whole.
        self._types: list[int | None] = []
        self._functions: list[int] = []
        self._imports: list[tuple[str, str, int, int]] = []
        self._exports: list[tuple[str, int, int]] = []
        self._memories: list[Memory] = []
        self._tables = 0
        self._has_start = False
        self._custom = _Custom()

    def read(self) -> Metadata:
        self._read_sections()
        functions = tuple(self._callable())
        names = {name for name, _, _ in self._exports}
        notes = [*self._custom.notes]
        return Metadata(
            kind=_kind(names),
            is_program="_start" in names,
            wasi=_wasi(module for module, *_ in self._imports),
            name=self._custom.name,
            size_bytes=len(self._raw),
            sha256=hashlib.sha256(self._raw).hexdigest(),
            imports=_listed(
                (
                    External(module=m, name=n, kind=_KINDS[kind], type=self._type_text(kind, index))
                    for m, n, kind, index in self._imports
                ),
                "imports",
                notes,
            ),
            exports=_listed(
                (
                    External(module="", name=n, kind=_KINDS[kind], type=self._export_type(kind, i))
                    for n, kind, i in self._exports
                ),
                "exports",
                notes,
            ),
            functions=functions,
            memories=tuple(self._memories[:_MOST_LISTED]),
            tables=self._tables,
            has_start=self._has_start,
            sections=tuple(self._custom.sections),
            producers={k: tuple(sorted(v)) for k, v in sorted(self._custom.producers.items())},
            features=tuple(sorted(self._custom.features)),
            header=self._custom.header,
            wit="",
            signer=self._custom.signer,
            notes=tuple(notes),
        )

    def _read_sections(self) -> None:
        readers = {
            _CUSTOM: self._custom.read,
            _TYPE: self._read_types,
            _IMPORT: self._read_imports,
            _FUNCTION: self._read_functions,
            _TABLE: self._read_tables,
            _MEMORY: self._read_memories,
            _EXPORT: self._read_exports,
            _START: self._read_start,
        }
        whole = Cursor(self._raw, len(_MODULE), len(self._raw))
        left = _MOST_SECTIONS
        while not whole.is_done:
            number, content = whole.section()
            left -= 1
            if left < 0:
                raise whole.wrong(f"it has more than {_MOST_SECTIONS} sections")
            if number in readers:
                readers[number](content)

    def _read_types(self, content: Cursor) -> None:
        for _ in range(content.count()):
            at = content.at
            if content.byte() != 0x60 or len(self._types) >= _MOST_TYPES:
                # Types of garbage collection, whose length only the compiler knows.
                self._types.append(None)
                return
            for _ in range(2):
                _skip_value_types(content)
            self._types.append(at)

    def _read_imports(self, content: Cursor) -> None:
        for _ in range(_at_most(content, _MOST_NAMED, "imports")):
            module, name, kind, index = content.name(), content.name(), content.byte(), -1
            if kind >= len(_KINDS):
                raise content.wrong(f"there is no kind {kind} of import")
            if kind == 0:
                index = content.number()
                self._functions.append(index)
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
            self._imports.append((_short(module), _short(name), kind, index))

    def _read_functions(self, content: Cursor) -> None:
        count = content.count()
        plain = content.raw[content.at : content.at + count]
        if max(plain, default=0) < 0x80:
            # Each number is one byte, as in nearly every module.
            self._functions += plain
        else:
            self._functions += [content.number() for _ in range(count)]

    def _read_tables(self, content: Cursor) -> None:
        self._tables += content.count()

    def _read_memories(self, content: Cursor) -> None:
        count = _at_most(content, _MOST_MEMORIES, "memories")
        self._memories += [_memory(content) for _ in range(count)]

    def _read_exports(self, content: Cursor) -> None:
        for _ in range(_at_most(content, _MOST_NAMED, "exports")):
            name, kind = content.name(), content.byte()
            if kind >= len(_KINDS):
                raise content.wrong(f"there is no kind {kind} of export")
            self._exports.append((_short(name), kind, content.number()))

    def _read_start(self, content: Cursor) -> None:
        content.number()
        self._has_start = True

    # ---- what is told ------------------------------------------------------------------------

    def _callable(self) -> Iterator[Function]:
        left = _MOST_TEXT
        for name, kind, index in self._exports[:_MOST_LISTED]:
            if kind != 0 or (found := self._function(index)) is None:
                continue
            parameters, results = found
            left -= len(name) + 8 * (len(parameters) + len(results))
            if left < 0:
                return
            yield Function(
                interface="",
                name=name,
                parameters=tuple(Parameter(name="", type=each) for each in parameters),
                results=tuple(results),
            )

    def _function(self, index: int) -> tuple[list[str], list[str]] | None:
        known = index < len(self._functions)
        return self._type(self._functions[index]) if known else None

    def _type(self, number: int) -> tuple[list[str], list[str]] | None:
        at = self._types[number] if number < len(self._types) else None
        if at is None:
            return None
        cursor = Cursor(self._raw, at + 1, len(self._raw))
        lists = [[_value_type(cursor) for _ in range(cursor.count())] for _ in range(2)]
        return lists[0], lists[1]

    def _type_text(self, kind: int, number: int) -> str:
        found = self._type(number) if kind == 0 else None
        return _signature(*found) if found else ""

    def _export_type(self, kind: int, index: int) -> str:
        found = self._function(index) if kind == 0 else None
        return _signature(*found) if found else ""


def _component(raw: bytes) -> Metadata:
    custom, notes = _Custom(), []
    found: Component | None = None
    try:
        found = read_component(raw, custom.read, custom.read_inner)
    except Unknown as error:
        notes.append(f"its types are not told: {error}")
    imports: list[External] = []
    exports: list[External] = []
    functions: list[Function] = []
    wit = ""
    if found is not None:
        imports = [
            External(module="", name=_short(name), kind=item.sort, type="")
            for name, item in found.imports
        ]
        exports = [
            External(module="", name=_short(name), kind=item.sort, type="")
            for name, item in found.exports
        ]
        functions = [
            Function(
                interface=_short(interface),
                name=_short(name),
                parameters=tuple(Parameter(name=_short(n), type=t) for n, t in parameters),
                results=results,
            )
            for interface, name, parameters, results in functions_of(found, _MOST_LISTED)
        ]
        wit = world_text(found, _MOST_TEXT)
    return Metadata(
        kind="component",
        is_program=any(each.name.startswith(_COMPONENT_RUN) for each in exports),
        wasi=_wasi(each.name for each in imports),
        name=custom.name,
        size_bytes=len(raw),
        sha256=hashlib.sha256(raw).hexdigest(),
        imports=_listed(imports, "imports", notes),
        exports=_listed(exports, "exports", notes),
        functions=tuple(functions),
        memories=(),
        tables=0,
        has_start=False,
        sections=tuple(custom.sections),
        producers={k: tuple(sorted(v)) for k, v in sorted(custom.producers.items())},
        features=tuple(sorted(custom.features)),
        header=custom.header,
        wit=wit,
        signer=custom.signer,
        notes=(*custom.notes, *notes),
    )


def _kind(exports: set[str]) -> str:
    if "_start" in exports:
        return "command"
    return "reactor" if "_initialize" in exports else "library"


def _wasi(modules: Iterable[str]) -> tuple[str, ...]:
    """`wasi_snapshot_preview1`, `wasi_unstable`, and of components `wasi 0.2.3`."""
    found = set()
    for name in modules:
        if name.startswith("wasi_"):
            found.add(name)
        elif name.startswith("wasi:"):
            _, at, version = name.partition("@")
            found.add(f"wasi {version}" if at else name)
    return tuple(sorted(found))[:20]


def _listed(found: Iterable[External], what: str, notes: list[str]) -> tuple[External, ...]:
    listed: list[External] = []
    left = _MOST_TEXT
    for each in found:
        left -= len(each.module) + len(each.name) + len(each.type)
        if left < 0 or len(listed) == _MOST_LISTED:
            notes.append(f"it has more {what} than are told here")
            break
        listed.append(each)
    return tuple(listed)


def _signature(parameters: list[str], results: list[str]) -> str:
    return _short(f"({', '.join(parameters)}) -> {', '.join(results) or 'nothing'}")


def _at_most(content: Cursor, most: int, what: str) -> int:
    count = content.count()
    if count > most:
        raise content.wrong(f"it has {count} {what}, more than {most}")
    return count


def _memory(content: Cursor) -> Memory:
    flags, least, most = _limits(content)
    page = _PAGE_BYTES
    return Memory(
        minimum_bytes=min(least * page, _MOST_MEMORY_BYTES),
        maximum_bytes=None if most is None else min(most * page, _MOST_MEMORY_BYTES),
        is_shared=bool(flags & 2),
    )


def _limits(content: Cursor) -> tuple[int, int, int | None]:
    """The least and the greatest size; of a 64-bit or shared memory as well."""
    flags = content.byte()
    if flags > 7:
        raise content.wrong(f"there are no limits of form {flags}")
    least = content.number(bits=64)
    return flags, least, content.number(bits=64) if flags & 1 else None


def _value_type(content: Cursor) -> str:
    byte = content.byte()
    if byte in (0x63, 0x64):
        content.signed()
    return _TYPES.get(byte) or _HEAP.get(byte, "?")


def _skip_value_types(content: Cursor) -> None:
    count = content.count()
    chunk = content.raw[content.at : content.at + count]
    if 0x63 not in chunk and 0x64 not in chunk:
        content.at += count
        return
    for _ in range(count):
        _value_type(content)


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."
