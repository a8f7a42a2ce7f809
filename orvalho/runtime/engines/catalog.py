"""Which engine runs which language. An engine is imported when it is first asked for.

A worker runs one language. Those of a language whose engine holds its guests apart and can stop
each of them run many; a guest of any other has a worker of its own, which ends with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Final, cast

from orvalho.errors import NotFound, Unavailable
from orvalho.runtime.engine import Engine
from orvalho.scripts.script import Language, Source, language_of, raw_source


@dataclass(frozen=True, slots=True)
class Kind:
    """`library` is what must be installed for it, which comes with the package's extra `extra`."""

    module: str
    engine: str
    library: str
    extra: str
    is_shared: bool


_KINDS: Final = {
    "javascript": Kind("v8.engine", "V8Engine", "py_mini_racer", "", is_shared=True),
    "wasm": Kind("wasm.engine", "WasmEngine", "wasmtime", "wasm", is_shared=True),
    "starlark": Kind("starlark", "StarlarkEngine", "starlark", "starlark", is_shared=False),
    "wasm-alone": Kind("wasm.engine", "LoneWasmEngine", "wasmtime", "wasm", is_shared=False),
}
# A language -> the same, for a guest that has a worker of its own: what begins later there, and
# computes faster.
ALONE: Final = {"wasm": "wasm-alone"}
# A number names a language between processes.
LANGUAGES: Final = tuple(_KINDS)
# The libraries that were found: to look for one takes seven system calls, and each run asks.
_found: set[str] = set()


def pick_language(filename: str, source: Source) -> str:
    """The language of a source: by its suffix and its first bytes, never by a guess.

    Raises:
        InvalidInput: neither tells.
        Unavailable: its engine is not installed here.
    """
    found = language_of(filename, raw_source(filename, source)[:64])
    # Both are read and run by the one engine.
    language = "javascript" if found is Language.TYPESCRIPT else found.value
    kind = kind_of(language)
    if not _is_installed(kind.library):
        raise Unavailable(
            f"this node cannot run {language}: its engine is not installed",
            hint=f"pip install orvalho[{kind.extra}]",
        )
    return language


def kind_of(language: str) -> Kind:
    """Raises:
    NotFound: nothing here runs that language.
    """
    found = _KINDS.get(language)
    if found is None:
        raise NotFound(
            f'there is no engine for "{language}"', hint=f"there is one for {', '.join(_KINDS)}"
        )
    return found


def _is_installed(library: str) -> bool:
    if library not in _found and find_spec(library) is not None:
        _found.add(library)
    return library in _found


def make_engine(language: str) -> Engine:
    """Raises:
    NotFound: nothing here runs that language.
    """
    kind = kind_of(language)
    module = import_module(f"orvalho.runtime.engines.{kind.module}")
    return cast("Engine", getattr(module, kind.engine)())
