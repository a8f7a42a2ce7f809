"""WebAssembly by wasmtime: core modules and programs of WASI preview 1.

Each guest is a thread of the worker, with a store of its own. Nothing but its memory and what
`guest.py` offers is in its world: wasmtime's own WASI, which knows the host's files, is not linked.
Modules are compiled in another process (`engine.Compiler`).
"""

from __future__ import annotations

import ctypes
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import msgspec
import wasmtime
from wasmtime import _ffi as ffi
from wasmtime._instance import InstanceExports

from orvalho.errors import InvalidInput
from orvalho.runtime.engine import Problem, Start
from orvalho.runtime.engines.blocking import BlockingIsolate, OutOfMemory, Thrown
from orvalho.runtime.engines.wasm.guest import Exit, Guest
from orvalho.runtime.engines.wasm.offers import find
from orvalho.runtime.engines.wasm.service import serve
from orvalho.scripts.wasm_module import External, FunctionType, WasmModule, check_call

_TICK_S: Final = 0.01
# A guest that overflows more stack than its thread has would end the process.
_WASM_STACK_BYTES: Final = 512 << 10
_THREAD_STACK_BYTES: Final = 4 << 20
_TABLE_ELEMENTS: Final = 100_000
_TABLES: Final = 8
_PAGE_BYTES: Final = 65_536
# A guest that trapped with so much of its memory in use is taken to have wanted more.
_ALMOST_ALL: Final = 0.75
_MOST_OFFSET: Final = 1 << 32
_TYPES: Final = {"i": wasmtime.ValType.i32, "I": wasmtime.ValType.i64}
_NO_ROOM: Final = (
    "exceeds memory limits",
    "exceeds table limits",
    "allocate",
    "Cannot allocate",
    "memory limit",
)
_INDEX_FORM: Final = "wasm-function[{}]"


class WasmEngine:
    """See `engine.Compiler`. Sources are keys of loaded code."""

    def __init__(self) -> None:
        config = wasmtime.Config()
        config.epoch_interruption = True
        config.max_wasm_stack = _WASM_STACK_BYTES
        config.parallel_compilation = False
        config.wasm_multi_memory = False
        config.wasm_memory64 = False
        # It would need a file in memory, which a worker cannot make.
        config.memory_init_cow = False
        self.engine = wasmtime.Engine(config)
        self._codes: dict[str, bytes | tuple[Problem, ...] | wasmtime.Module] = {}
        self._lock = threading.Lock()
        self._guests = 0
        self._busy = threading.Event()
        self._clock: threading.Thread | None = None
        threading.stack_size(_THREAD_STACK_BYTES)

    def prepare(self, filename: str, source: str) -> None:
        """It was compiled before."""

    def open_isolate(self) -> WasmIsolate:
        return WasmIsolate(self)

    def check(self, filename: str, source: str) -> tuple[Problem, ...]:
        found = self._codes.get(source, ())
        return found if isinstance(found, tuple) else ()

    def compile(self, filename: str, module: bytes) -> tuple[tuple[Problem, ...], bytes]:
        try:
            compiled = wasmtime.Module(self.engine, module)
            problems = tuple(Problem(1, 1, what) for what in _missing(compiled))
            return problems, b"" if problems else bytes(compiled.serialize())
        except wasmtime.WasmtimeError as error:
            return (Problem(1, 1, _last_line(error)),), b""

    def load(self, key: str, code: bytes, problems: tuple[Problem, ...]) -> None:
        self._codes[key] = problems or code

    def drop(self, key: str) -> None:
        self._codes.pop(key, None)

    def module(self, key: str) -> wasmtime.Module:
        """Raises:
        Thrown: it could not be compiled, or not here.
        """
        with self._lock:
            found = self._codes.get(key, (Problem(1, 1, "its code has gone"),))
            if isinstance(found, bytes):
                try:
                    found = wasmtime.Module.deserialize(self.engine, found)
                except wasmtime.WasmtimeError as error:
                    found = (Problem(1, 1, _last_line(error)),)
                self._codes[key] = found
        if isinstance(found, tuple):
            raise Thrown("CompileError", "; ".join(problem.message for problem in found))
        return found

    # ---- time --------------------------------------------------------------------------------

    def entered(self) -> None:
        """A guest begins to compute: from now on it is looked in on."""
        with self._lock:
            self._guests += 1
            self._busy.set()
            if self._clock is None:
                self._clock = threading.Thread(target=self._tick, daemon=True)
                self._clock.start()

    def left(self) -> None:
        """It has ended."""
        with self._lock:
            self._guests -= 1
            if not self._guests:
                self._busy.clear()

    def _tick(self) -> None:
        while self._busy.wait():
            time.sleep(_TICK_S)
            self.engine.increment_epoch()


class WasmIsolate(BlockingIsolate):
    """See `engine.Isolate`."""

    def __init__(self, engine: WasmEngine) -> None:
        super().__init__()
        self._engine = engine
        self._cause: BaseException | None = None

    def run(self, start: Start) -> bytes:
        module = self._engine.module(start.source)
        described = _described(module)
        params = _loads(start.params)
        name: str = "_start"
        arguments: tuple[int | float, ...] = ()
        if not described.is_command and not start.serves:
            name, arguments = _checked_call(described, params)
        guest = Guest(self, start, params)
        store = wasmtime.Store(self._engine.engine)
        store.set_limits(
            memory_size=max(start.memory_bytes, _PAGE_BYTES),
            table_elements=_TABLE_ELEMENTS,
            instances=1,
            tables=_TABLES,
            memories=1,
        )
        watch = _watch(store, self._is_going_on)
        self._engine.entered()
        try:
            value = self._call(store, module, guest, start, name=name, arguments=arguments)
        finally:
            self._engine.left()
            del watch
        return guest.finish(value, is_command=described.is_command)

    def _call(
        self,
        store: wasmtime.Store,
        module: wasmtime.Module,
        guest: Guest,
        start: Start,
        *,
        name: str,
        arguments: tuple[int | float, ...],
    ) -> Any:
        exports: InstanceExports | None = None
        try:
            instance = self._linker(module, guest).instantiate(store, module)
            exports = instance.exports(store)
            if start.serves:
                return serve(guest, _Instance(self._engine, store, exports))
            function = exports[name]
            assert isinstance(function, wasmtime.Func)
            return _plain(function(store, *arguments))
        except (wasmtime.Trap, wasmtime.WasmtimeError, _HostAbort) as error:
            cause, self._cause = self._cause, None
            if isinstance(cause, Exit):
                if cause.status == 0:
                    return None
                raise cause.as_thrown() from None
            if isinstance(cause, Thrown) and isinstance(error, wasmtime.Trap):
                raise Thrown(cause.name, cause.message, _stack(start, error)) from None
            if cause is not None:
                raise cause from None
            if _is_out_of_memory(store, exports, error, start.memory_bytes):
                raise OutOfMemory from None
            raise _as_thrown(error, start) from None

    def _linker(self, module: wasmtime.Module, guest: Guest) -> wasmtime.Linker:
        linker = wasmtime.Linker(self._engine.engine)
        for each in module.imports:
            offered = find(each.module, each.name or "")
            if offered is None:
                continue
            parameters, _, results = offered.signature.partition(":")
            kind = wasmtime.FuncType(
                [_TYPES[letter]() for letter in parameters],
                [_TYPES[letter]() for letter in results],
            )
            function = self._guarded(guest, offered.function)
            linker.define_func(each.module, each.name or "", kind, function, access_caller=True)
        return linker

    def _guarded(self, guest: Guest, function: Callable[..., Any]) -> Callable[..., Any]:
        """What a host function raises is kept here: wasmtime-py keeps the last exception of all
        threads in one place, where it may reach another guest."""

        def guarded(caller: wasmtime.Caller, *arguments: Any) -> Any:
            try:
                return function(guest, _Place(caller), *arguments)
            except BaseException as error:  # noqa: BLE001 -- goes on where the call into wasm ends
                self._cause = error
                raise _HostAbort from None

        return guarded

    def _is_going_on(self) -> bool:
        try:
            self.look_in()
        except BaseException as error:  # noqa: BLE001 -- wasmtime calls this: nothing may get out
            self._cause = error
            return False
        return True


class _Instance:
    """See `service.Instance`."""

    def __init__(self, engine: WasmEngine, store: wasmtime.Store, exports: InstanceExports) -> None:
        self._engine = engine
        self._store = store
        self._exports = exports
        self.described = _described_exports(store, exports)

    def invoke(self, name: str, arguments: tuple[int | float, ...]) -> Any:
        function = self._exports[name]
        assert isinstance(function, wasmtime.Func)
        return _plain(function(self._store, *arguments))

    def memory_bytes(self) -> int:
        memory = self._exports.get("memory")
        return memory.data_len(self._store) if isinstance(memory, wasmtime.Memory) else 0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        self._engine.left()
        try:
            yield
        finally:
            self._engine.entered()


class _HostAbort(Exception):
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


_CALLBACK: Final = ctypes.CFUNCTYPE(
    ctypes.c_size_t,
    ctypes.POINTER(ffi.wasmtime_context_t),
    ctypes.c_void_p,
    ctypes.POINTER(ctypes.c_uint64),
    ctypes.POINTER(ffi.wasmtime_update_deadline_kind_t),
)
_FINALIZER: Final = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def _watch(store: wasmtime.Store, is_going_on: Callable[[], bool]) -> Any:
    """Have `is_going_on` called on the guest's thread at each tick; where it answers no, the guest
    is stopped. What this answers must be kept as long as the store."""

    def ticked(context: Any, extra: Any, delta: Any, kind: Any) -> int:
        if is_going_on():
            delta[0] = 1
            kind[0] = 0
            return 0
        error = ctypes.cast(ffi.wasmtime_error_new(b"stopped"), ctypes.c_void_p)
        return error.value or 0

    callback = _CALLBACK(ticked)
    none = _FINALIZER()
    ffi.wasmtime_store_epoch_deadline_callback(store.ptr(), callback, None, none)
    store.set_epoch_deadline(1)
    return callback


def _missing(module: wasmtime.Module) -> list[str]:
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
    return WasmModule((), tuple(exports), (), 0, has_start=False)


def _described_exports(store: wasmtime.Store, exports: InstanceExports) -> WasmModule:
    found = []
    for name, each in exports.items():
        kind = each.type(store) if isinstance(each, wasmtime.Func) else None
        if kind is not None:
            types = FunctionType(tuple(map(str, kind.params)), tuple(map(str, kind.results)))
            found.append(External("", str(name), "function", types))
    return WasmModule((), tuple(found), (), 0, has_start=False)


def _checked_call(described: WasmModule, params: Any) -> tuple[str, tuple[int | float, ...]]:
    try:
        return check_call(described, params)
    except InvalidInput as error:
        raise Thrown("InvalidInput", error.message) from None


def _is_out_of_memory(
    store: wasmtime.Store,
    exports: InstanceExports | None,
    error: Exception,
    limit_bytes: int,
) -> bool:
    """wasmtime tells the guest alone that its memory does not grow. What it then does is trap."""
    if exports is None:
        text = str(error)
        return any(words in text for words in _NO_ROOM)
    memory = exports.get("memory")
    code = error.trap_code if isinstance(error, wasmtime.Trap) else None
    return (
        isinstance(memory, wasmtime.Memory)
        and code is wasmtime.TrapCode.UNREACHABLE
        and memory.data_len(store) > _ALMOST_ALL * limit_bytes
    )


def _as_thrown(error: Exception, start: Start) -> Thrown:
    if isinstance(error, wasmtime.Trap):
        code = error.trap_code
        words = code.name.lower().replace("_", " ") if code else _last_line(error)
        return Thrown("RuntimeError", f"the module trapped: {words}", _stack(start, error))
    if isinstance(error, _HostAbort):
        return Thrown("RuntimeError", "the module trapped")
    return Thrown("LinkError", _last_line(error))


def _stack(start: Start, trap: wasmtime.Trap) -> str:
    """Line 1, and as column the byte in the module: what its tools know a place by."""
    lines = []
    for frame in trap.frames[:20]:
        if frame.module_offset > _MOST_OFFSET:
            # Where a stack overflows there may be no place.
            continue
        name = frame.func_name or _INDEX_FORM.format(frame.func_index)
        lines.append(f"    at {name} ({start.filename}:1:{frame.module_offset})")
    return "\n".join(lines)


def _last_line(error: Exception) -> str:
    text = str(error).strip()
    return (text.splitlines()[-1].strip() if text else type(error).__name__)[:500]


def _plain(value: Any) -> Any:
    """As JSON has it, which knows no number beyond the finite ones."""
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, int | float) else None


def _loads(params: bytes) -> Any:
    try:
        return msgspec.json.decode(params)
    except msgspec.DecodeError as error:
        raise Thrown("SyntaxError", f"the parameters are no JSON: {error}") from error
