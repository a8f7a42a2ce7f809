"""Core modules by wasmtime: linked once in a process, to what they import of `offers.py`.

Which guest calls one of these functions is known by its thread. Linking for each run would cost
more than the run of a small program.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, Protocol

from orvalho.runtime.engines.wasm.guest import Guest
from orvalho.runtime.engines.wasm.library import wasmtime
from orvalho.runtime.engines.wasm.offers import find
from orvalho.scripts.wasm.module import External, FunctionType, WasmModule

_TYPES: Final = {"i": wasmtime.ValType.i32, "I": wasmtime.ValType.i64}


class Watcher(Protocol):
    """Whoever is told what a host function raised: wasmtime-py keeps the last exception of all
    threads in one place, where it may reach another guest."""

    def keep_cause(self, error: BaseException) -> None: ...


class _Here(threading.local):
    guest: Guest | None = None
    watcher: Watcher | None = None


_here: Final = _Here()


@contextmanager
def guest_of(guest: Guest, watcher: Watcher) -> Iterator[None]:
    """Whose calls the host functions on this thread are."""
    _here.guest, _here.watcher = guest, watcher
    try:
        yield
    finally:
        _here.guest = _here.watcher = None


class LoadedModule:
    """A module's code, linked."""

    def __init__(self, engine: wasmtime.Engine, code: bytes) -> None:
        """Raises:
        WasmtimeError: it is not code of this engine.
        """
        self.module = wasmtime.Module.deserialize(engine, code)
        self.described = _described(self.module)
        self._linker = wasmtime.Linker(engine)
        for each in self.module.imports:
            offered = find(each.module, each.name or "")
            if offered is None:
                continue
            parameters, _, results = offered.signature.partition(":")
            kind = wasmtime.FuncType(
                [_TYPES[letter]() for letter in parameters],
                [_TYPES[letter]() for letter in results],
            )
            function = _guarded(offered.function)
            self._linker.define_func(
                each.module, each.name or "", kind, function, access_caller=True
            )

    def instantiate(self, store: wasmtime.Store) -> wasmtime.Instance:
        """A fresh instance; its start function runs.

        Raises:
            WasmtimeError: there is no room for it.
            Trap: its start function trapped.
        """
        return self._linker.instantiate(store, self.module)


def _guarded(function: Callable[..., Any]) -> Callable[..., Any]:
    def guarded(caller: wasmtime.Caller, *arguments: Any) -> Any:
        try:
            return function(_here.guest, _Place(caller), *arguments)
        except BaseException as error:  # noqa: BLE001 -- goes on where the call into wasm ends
            if _here.watcher is not None:
                _here.watcher.keep_cause(error)
            raise HostAbort from None

    return guarded


class HostAbort(Exception):
    """Stands for whatever a host function raised."""


class _Place:
    """A guest's memory, for one call of a host function. See `guest.Place`."""

    def __init__(self, caller: wasmtime.Caller) -> None:
        self._caller = caller
        memory = caller.get("memory")
        self._memory = memory if isinstance(memory, wasmtime.Memory) else None

    def read(self, at: int, size: int) -> bytes:
        at, size = at & 0xFFFFFFFF, size & 0xFFFFFFFF
        if self._memory is None or at + size > self._memory.data_len(self._caller):
            raise IndexError
        return bytes(self._memory.read(self._caller, at, at + size))

    def write(self, at: int, content: bytes) -> None:
        at &= 0xFFFFFFFF
        if self._memory is None or at + len(content) > self._memory.data_len(self._caller):
            raise IndexError
        self._memory.write(self._caller, content, at)


def missing_imports(module: wasmtime.Module) -> list[str]:
    """The imports that nothing here offers."""
    missing = []
    for each in module.imports:
        name = f"{each.module}.{each.name}"
        offered = find(each.module, each.name or "")
        if offered is None:
            missing.append(f"it imports {name}, which is not offered here")
            continue
        kind = each.type
        letters = {"i32": "i", "i64": "I"}
        if not isinstance(kind, wasmtime.FuncType):
            missing.append(f"it imports {name}, which is a function")
            continue
        found = [
            "".join(letters.get(str(value), "?") for value in values)
            for values in (kind.params, kind.results)
        ]
        if ":".join(found) != offered.signature:
            missing.append(f"it imports {name} with another type than it has")
    return missing


def _described(module: wasmtime.Module) -> WasmModule:
    exports = []
    for each in module.exports:
        kind = each.type
        found = None
        if isinstance(kind, wasmtime.FuncType):
            found = FunctionType(tuple(map(str, kind.params)), tuple(map(str, kind.results)))
        exports.append(External("", each.name or "", "function" if found else "", found))
    return WasmModule((), tuple(exports))


def last_line(error: Exception) -> str:
    """What of a wasmtime error's text tells most."""
    text = str(error).strip()
    return (text.splitlines()[-1].strip() if text else type(error).__name__)[:500]
