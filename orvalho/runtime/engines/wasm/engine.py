"""WebAssembly by wasmtime: core modules, programs of WASI preview 1, and components.

Each guest is a thread of the worker, with a store of its own. Nothing but its memory and what
`guest.py` offers is in its world: wasmtime's own WASI, which knows the host's files, is not linked.
Modules are compiled in another process (`engine.Compiler`).
"""

from __future__ import annotations

import base64
import ctypes
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import msgspec

from orvalho.errors import InvalidInput
from orvalho.runtime.engine import Problem, Start
from orvalho.runtime.engines.blocking import TOO_DEEP, BlockingIsolate, OutOfMemory, Thrown
from orvalho.runtime.engines.wasm.components import (
    LoadedComponent,
    compile_component,
    is_component_code,
    running,
    stack_of,
)
from orvalho.runtime.engines.wasm.guest import Exit, Guest
from orvalho.runtime.engines.wasm.library import InstanceExports, ffi, wasmtime
from orvalho.runtime.engines.wasm.modules import (
    HostAbort,
    LoadedModule,
    guest_of,
    last_line,
    missing_imports,
)
from orvalho.runtime.engines.wasm.preview2 import Caller
from orvalho.runtime.engines.wasm.service import serve
from orvalho.scripts.wasm.binary import is_component
from orvalho.scripts.wasm.interfaces import check_component_call, is_main
from orvalho.scripts.wasm.module import WasmModule, check_call
from orvalho.scripts.wasm.wit import WitFunction, give, make_type

_TICK_S: Final = 0.01
# A guest that overflows more stack than its thread has would end the process.
_WASM_STACK_BYTES: Final = 512 << 10
_THREAD_STACK_BYTES: Final = 4 << 20
_TABLE_ELEMENTS: Final = 100_000
_TABLES: Final = 8
_COMPONENT_INSTANCES: Final = 256
_COMPONENT_TABLES: Final = 64
_PAGE_BYTES: Final = 65_536
_INITIALIZE: Final = "_initialize"
# A guest that trapped with so much of its memory in use is taken to have wanted more.
_ALMOST_ALL: Final = 0.75
_MOST_OFFSET: Final = 1 << 32
_NO_ROOM: Final = (
    "exceeds memory limits",
    "exceeds table limits",
    "allocate",
    "Cannot allocate",
    "memory limit",
)
_RUN: Final = WitFunction("run", (), make_type("result", (), (None, None)))
_INDEX_FORM: Final = "wasm-function[{}]"


Loaded = LoadedModule | LoadedComponent


class WasmEngine:
    """See `engine.Compiler`. Sources are keys of loaded code."""

    def __init__(self, *, is_interruptible: bool = True) -> None:
        self.is_interruptible = is_interruptible
        config = wasmtime.Config()
        config.epoch_interruption = is_interruptible
        config.max_wasm_stack = _WASM_STACK_BYTES
        config.parallel_compilation = False
        config.wasm_multi_memory = False
        config.wasm_memory64 = False
        # It would need a file in memory, which a worker cannot make.
        config.memory_init_cow = False
        self.engine = wasmtime.Engine(config)
        self._codes: dict[str, bytes | tuple[Problem, ...] | Loaded] = {}
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
        if is_component(module):
            return compile_component(self.engine, module)
        try:
            compiled = wasmtime.Module(self.engine, module)
            problems = tuple(Problem(1, 1, what) for what in missing_imports(compiled))
            return problems, b"" if problems else bytes(compiled.serialize())
        except wasmtime.WasmtimeError as error:
            return (Problem(1, 1, last_line(error)),), b""

    def load(self, key: str, code: bytes, problems: tuple[Problem, ...]) -> None:
        self._codes[key] = problems or code

    def drop(self, key: str) -> None:
        self._codes.pop(key, None)

    def module(self, key: str) -> Loaded:
        """Raises:
        Thrown: it could not be compiled, or not here.
        """
        with self._lock:
            found = self._codes.get(key, (Problem(1, 1, "its code has gone"),))
            if isinstance(found, bytes):
                try:
                    found = self._loaded(found)
                except wasmtime.WasmtimeError as error:
                    found = (Problem(1, 1, last_line(error)),)
                self._codes[key] = found
        if isinstance(found, tuple):
            raise Thrown("CompileError", "; ".join(problem.message for problem in found))
        return found

    def _loaded(self, code: bytes) -> Loaded:
        if is_component_code(code):
            return LoadedComponent(self.engine, code)
        return LoadedModule(self.engine, code)

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


class LoneWasmEngine(WasmEngine):
    """For guests with a process each, which the kernel ends: their code looks at no clock, and
    computes the faster for it."""

    def __init__(self) -> None:
        super().__init__(is_interruptible=False)


class WasmIsolate(BlockingIsolate):
    """See `engine.Isolate`."""

    def __init__(self, engine: WasmEngine) -> None:
        super().__init__()
        self._engine = engine
        self._cause: BaseException | None = None
        self.is_looked_in = engine.is_interruptible

    def run(self, start: Start) -> bytes:
        module = self._engine.module(start.source)
        params = _loads(start.params)
        if isinstance(module, LoadedComponent):
            return self._run_component(start, module, params)
        described = module.described
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
            with guest_of(guest, self):
                value = self._call(store, module, guest, start, name=name, arguments=arguments)
        finally:
            self._engine.left()
            del watch
        return guest.finish(value, is_command=described.is_command)

    def _call(
        self,
        store: wasmtime.Store,
        module: LoadedModule,
        guest: Guest,
        start: Start,
        *,
        name: str,
        arguments: tuple[int | float, ...],
    ) -> Any:
        exports: InstanceExports | None = None
        try:
            exports = module.instantiate(store).exports(store)
            if start.serves:
                instance = _Instance(self._engine, store, exports, module.described)
                return serve(guest, instance)
            if name != "_start" and isinstance(prepares := exports.get(_INITIALIZE), wasmtime.Func):
                # A reactor: its exports are to be called after this.
                prepares(store)
            function = exports[name]
            assert isinstance(function, wasmtime.Func)
            return _plain(function(store, *arguments))
        except (wasmtime.Trap, wasmtime.WasmtimeError, HostAbort) as error:
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

    def _run_component(self, start: Start, loaded: LoadedComponent, params: Any) -> bytes:
        described = loaded.described
        command, values = described.command, ()
        if command is not None:
            interface, function = command, _RUN
        else:
            try:
                interface, function, values = check_component_call(described, params)
            except InvalidInput as error:
                raise Thrown("InvalidInput", error.message) from None
        guest = Guest(self, start, params)
        store = wasmtime.Store(self._engine.engine)
        memories = max(described.memories, 1)
        store.set_limits(
            # Its memories together are what it may have.
            memory_size=max(start.memory_bytes // memories, _PAGE_BYTES),
            table_elements=_TABLE_ELEMENTS,
            instances=_COMPONENT_INSTANCES,
            tables=_COMPONENT_TABLES,
            memories=memories,
        )
        watch = _watch(store, self._is_going_on)
        self._engine.entered()
        try:
            with running(Caller(guest), self):
                value = loaded.call(store, interface, function, values)
        except (wasmtime.WasmtimeError, Thrown) as error:
            self._component_ended(error, start)
            value = ("ok", None)
        finally:
            self._engine.left()
            del watch
        if command is not None:
            if value[0] == "err":
                raise Exit(1).as_thrown()
            return guest.finish(None, is_command=True)
        # Before it is written as JSON, which takes six times as much at worst, and ends the process
        # where there is no room for that.
        if _weight(value) > start.output_bytes:
            raise self._reached(b"output")
        return _component_result(guest, interface, function, value)

    def _component_ended(self, error: Exception, start: Start) -> None:
        """Raise what the end of a component means; return when it was the end of a program."""
        cause, self._cause = self._cause, None
        stack = ""
        if isinstance(error, wasmtime.WasmtimeError):
            stack = stack_of(error, start.filename)
        if isinstance(cause, Exit):
            if cause.status == 0:
                return
            raise cause.as_thrown() from None
        if isinstance(cause, Thrown):
            raise Thrown(cause.name, cause.message, stack) from None
        if cause is not None:
            raise cause from None
        if isinstance(error, Thrown):
            raise error from None
        if any(words in str(error) for words in _NO_ROOM):
            raise OutOfMemory from None
        text = last_line(error)
        trap = text.partition("wasm trap: ")[2]
        what = f"the component trapped: {trap}" if trap else text
        raise Thrown("RuntimeError", what, stack) from None

    def keep_cause(self, error: BaseException) -> None:
        """See `components.Watcher`."""
        if self._cause is None:
            self._cause = error

    def _is_going_on(self) -> bool:
        try:
            self.look_in()
        except BaseException as error:  # noqa: BLE001 -- wasmtime calls this: nothing may get out
            self._cause = error
            return False
        return True


class _Instance:
    """See `service.Instance`."""

    def __init__(
        self,
        engine: WasmEngine,
        store: wasmtime.Store,
        exports: InstanceExports,
        described: WasmModule,
    ) -> None:
        self._engine = engine
        self._store = store
        self._exports = exports
        self.described = described

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


def _weight(value: Any) -> int:
    """At least so many bytes are in it."""
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, dict):
        return sum(map(_weight, value.values()))
    if isinstance(value, list | tuple | frozenset):
        return len(value) + sum(map(_weight, value))
    return 0


def _component_result(guest: Guest, interface: str, function: WitFunction, value: Any) -> bytes:
    if is_main(interface, function):
        case, text = value
        if case == "err":
            raise Thrown("Error", text)
        try:
            guest.result = guest.result or b"R" + msgspec.json.format(text.encode(), indent=-1)
        except msgspec.DecodeError as error:
            raise Thrown("SyntaxError", f"what main gave is no JSON: {error}") from None
        except RecursionError:
            raise Thrown("RangeError", TOO_DEEP) from None
        return guest.finish(None, is_command=False)
    kind = function.result
    if kind is None:
        return guest.finish(None, is_command=False)
    if str(kind) == "list<u8>":
        guest.result = guest.result or b"B" + base64.b64encode(bytes(value))
        return guest.finish(None, is_command=False)
    try:
        answer = give(value, kind)
    except InvalidInput as error:
        raise Thrown("TypeError", error.message) from None
    return guest.finish(answer, is_command=False)


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
        words = code.name.lower().replace("_", " ") if code else last_line(error)
        return Thrown("RuntimeError", f"the module trapped: {words}", _stack(start, error))
    if isinstance(error, HostAbort):
        return Thrown("RuntimeError", "the module trapped")
    return Thrown("LinkError", last_line(error))


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
    except RecursionError:
        raise Thrown("RangeError", TOO_DEEP) from None
