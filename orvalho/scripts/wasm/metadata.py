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
from orvalho.scripts.wasm.binary import MODULE_MAGIC, Custom, Reader, is_component, is_wasm
from orvalho.scripts.wasm.component import parse_component
from orvalho.scripts.wasm.module import FunctionType, Memory, WasmModule, read_module
from orvalho.scripts.wasm.wit_text import functions_of, world_text

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
    if raw.startswith(MODULE_MAGIC):
        return _module(raw)
    if is_component(raw):
        return _component(raw)
    if raw.lstrip()[:1] in (b"(", b";"):
        raise InvalidInput("this is WebAssembly text: only its binary form is read")
    if is_wasm(raw):
        raise InvalidInput("this is WebAssembly of a version that is not known here")
    raise InvalidInput("this is no WebAssembly binary")


class _Sections:
    """The custom sections of a module, or of a component with the modules inside it."""

    def __init__(self, own: Iterable[Custom], inner: Iterable[Custom] = ()) -> None:
        self.sections: list[Section] = []
        self.producers: dict[str, set[str]] = {}
        self.features: set[str] = set()
        self.header = ""
        self.name = ""
        self.is_signed = False
        self.notes: list[str] = []
        for each in own:
            self._read(each)
        for each in inner:
            self._read_inner(each)

    def _read_inner(self, section: Custom) -> None:
        """A section of a module inside: by what it was made, and nothing else."""
        if section.name == "producers":
            try:
                self._read_producers(section.reader())
            except InvalidInput:
                self.notes.append("the producers of a module inside are malformed")
                del self.notes[_MOST_NOTES:]

    def _read(self, section: Custom) -> None:
        name = section.name
        if len(self.sections) < _MOST_LISTED:
            self.sections.append(Section(name=_short(name), size_bytes=section.size_bytes))
        if name == "orvalho":
            self._read_header(section.content)
        readers = {
            "producers": self._read_producers,
            "target_features": self._read_features,
            "name": self._read_names,
            "component-name": self._read_names,
        }
        if name in readers:
            try:
                readers[name](section.reader())
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

    def _read_producers(self, content: Reader) -> None:
        for _ in range(min(content.count(), 100)):
            field = _short(content.name())
            for _ in range(min(content.count(), 100)):
                value, version = content.name(), content.name()
                if sum(map(len, self.producers.values())) < _MOST_PRODUCERS:
                    named = _short(f"{value} {version}".strip())
                    self.producers.setdefault(field, set()).add(named)

    def _read_features(self, content: Reader) -> None:
        for _ in range(min(content.count(), 1000)):
            mark = chr(content.byte())
            self.features.add(_short(mark + content.name()))

    def _read_names(self, content: Reader) -> None:
        while not content.is_done:
            number, inner = content.section()
            if number == _MODULE_NAME:
                self.name = self.name or _short(inner.name())
                return

    @property
    def told_producers(self) -> dict[str, tuple[str, ...]]:
        return {field: tuple(sorted(found)) for field, found in sorted(self.producers.items())}

    @property
    def signer(self) -> str:
        return "a signature that is not checked here" if self.is_signed else "unsigned"


def _module(raw: bytes) -> Metadata:
    found = read_module(raw)
    custom = _Sections(found.custom)
    names = {each.name for each in found.exports}
    notes = [*custom.notes]
    return Metadata(
        kind=_kind(names),
        is_program="_start" in names,
        wasi=_wasi(_short(each.module) for each in found.imports),
        name=custom.name,
        size_bytes=len(raw),
        sha256=hashlib.sha256(raw).hexdigest(),
        imports=_listed(
            (
                _external(_short(each.name), each.kind, each.type, module=_short(each.module))
                for each in found.imports
            ),
            "imports",
            notes,
        ),
        exports=_listed(
            (_external(_short(each.name), each.kind, each.type) for each in found.exports),
            "exports",
            notes,
        ),
        functions=tuple(_callable(found)),
        memories=found.memories[:_MOST_LISTED],
        tables=found.tables,
        has_start=found.has_start,
        sections=tuple(custom.sections),
        producers=custom.told_producers,
        features=tuple(sorted(custom.features)),
        header=custom.header,
        wit="",
        signer=custom.signer,
        notes=tuple(notes),
    )


def _external(
    name: str, kind: str, type_: FunctionType | None = None, *, module: str = ""
) -> External:
    text = "" if type_ is None else _short(str(type_))
    return External(module=module, name=name, kind=kind, type=text)


def _callable(module: WasmModule) -> Iterator[Function]:
    left = _MOST_TEXT
    for each in module.exports[:_MOST_LISTED]:
        if each.type is None:
            continue
        name, found = _short(each.name), each.type
        left -= len(name) + 8 * (len(found.parameters) + len(found.results))
        if left < 0:
            return
        yield Function(
            interface="",
            name=name,
            parameters=tuple(Parameter(name="", type=kind) for kind in found.parameters),
            results=found.results,
        )


def _component(raw: bytes) -> Metadata:
    found = parse_component(raw)
    custom = _Sections(found.custom, found.inner)
    notes = [f"its types are not told: {found.unknown}"] if found.unknown else []
    imports = [_external(_short(name), item.sort) for name, item in found.imports]
    exports = [_external(_short(name), item.sort) for name, item in found.exports]
    functions = (
        Function(
            interface=_short(interface),
            name=_short(name),
            parameters=tuple(Parameter(name=_short(n), type=t) for n, t in parameters),
            results=results,
        )
        for interface, name, parameters, results in functions_of(found, _MOST_LISTED)
    )
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
        producers=custom.told_producers,
        features=tuple(sorted(custom.features)),
        header=custom.header,
        wit="" if found.unknown else world_text(found, _MOST_TEXT),
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


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."
