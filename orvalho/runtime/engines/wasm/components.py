"""Components (WASI preview 2, and our own world) by wasmtime: compiled, linked, called.

A component is linked once in a process, to nothing but the functions it imports; which guest calls
one of these is known by its thread. wasmtime's own WASI is never linked: it maps the host's
folders, and its sleeps end for nobody.
"""

from __future__ import annotations

import ctypes
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import byref
from typing import Any, Final

import msgspec

from orvalho.errors import InvalidInput
from orvalho.runtime.engine import Problem
from orvalho.runtime.engines.blocking import Thrown
from orvalho.runtime.engines.wasm.host_world import HOST_WORLD
from orvalho.runtime.engines.wasm.library import component as c
from orvalho.runtime.engines.wasm.library import ffi, wasmtime
from orvalho.runtime.engines.wasm.modules import Watcher, last_line
from orvalho.runtime.engines.wasm.preview2 import PREVIEW2, Caller, Function, Refusal
from orvalho.runtime.engines.wasm.preview2 import find_socket_function as find_socket
from orvalho.runtime.engines.wasm.preview2_files import PREVIEW2_FILES
from orvalho.runtime.engines.wasm.values import RESOURCE_NUMBERS, lift, lower
from orvalho.scripts.wasm.interfaces import WasmComponent, read_component
from orvalho.scripts.wasm.wit import WitFunction

_OFFERS: Final = PREVIEW2 | PREVIEW2_FILES | HOST_WORLD
# In front of compiled code, which begins as an ELF file does: a component, and the length of what
# it says of itself.
_PREFIX: Final = struct.Struct("<4sI")
_MARK: Final = b"ocmp"
_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(WasmComponent)
_MOST_FRAMES: Final = 20
_MOST_OFFSET: Final = 1 << 32
_STOPPED: Final = b"stopped"


class _Here(threading.local):
    caller: Caller | None = None
    watcher: Watcher | None = None


_here: Final = _Here()


def compile_component(engine: wasmtime.Engine, raw: bytes) -> tuple[tuple[Problem, ...], bytes]:
    """What keeps it from running, or its code with all that `load_component` needs."""
    try:
        described = read_component(raw)
        problems = tuple(Problem(1, 1, what) for what in _missing(described))
        if problems:
            return problems, b""
        code = c.Component(engine, raw).serialize()
    except InvalidInput as error:
        return (Problem(1, 1, error.message),), b""
    except wasmtime.WasmtimeError as error:
        return (Problem(1, 1, last_line(error)),), b""
    told = _ENCODER.encode(described)
    return (), _PREFIX.pack(_MARK, len(told)) + told + bytes(code)


def is_component_code(code: bytes) -> bool:
    return code.startswith(_MARK)


def _missing(described: WasmComponent) -> Iterator[str]:
    """The imports that nothing here offers."""
    for interface in described.imports:
        offers = _OFFERS.get(interface.stem)
        if offers is None and find_socket(interface.stem) is None:
            names = [each.name for each in interface.functions]
            what = interface.name or ", ".join(names)
            yield f"it imports {what}, which is not offered here"
            continue
        for function in interface.functions:
            if offers is not None and function.name not in offers:
                yield f"it imports {interface.name}#{function.name}, which is not offered here"


class LoadedComponent:
    """A component's code, linked."""

    def __init__(self, engine: wasmtime.Engine, code: bytes) -> None:
        """Raises:
        WasmtimeError: it is not code of this engine.
        """
        _, size = _PREFIX.unpack_from(code)
        at = _PREFIX.size
        self.described = _DECODER.decode(code[at : at + size])
        self.component = c.Component.deserialize(engine, code[at + size :])
        # What wasmtime calls must outlive the linker.
        self._bindings: list[tuple[Function, WitFunction]] = []
        self._callback = ffi.wasmtime_component_func_callback_t(self._called)
        self._dropped = ffi.wasmtime_component_resource_destructor_t(_drop)
        self._linker = c.Linker(engine)
        self._resources: list[Any] = []
        for interface in self.described.imports:
            self._link(interface.name, interface.stem, interface.functions, interface.resources)

    def _link(
        self,
        name: str,
        stem: str,
        functions: tuple[WitFunction, ...],
        resources: tuple[str, ...],
    ) -> None:
        offers = _OFFERS.get(stem, {})
        with self._linker.root() as root, root.add_instance(name) as instance:
            for resource in resources:
                number = RESOURCE_NUMBERS.get(resource)
                if number is not None:
                    self._link_resource(instance, resource, number)
            for function in functions:
                found = offers.get(function.name) or find_socket(stem)
                assert found is not None
                self._bindings.append((found, function))
                raw = function.name.encode()
                error = ffi.wasmtime_component_linker_instance_add_func(
                    instance.ptr(),
                    ctypes.create_string_buffer(raw),
                    len(raw),
                    self._callback,
                    len(self._bindings),
                    _NO_FINALIZER,
                )
                _check(error)

    def _link_resource(self, instance: Any, name: str, number: int) -> None:
        kind = c.ResourceType.host(number)
        raw = name.encode()
        error = ffi.wasmtime_component_linker_instance_add_resource(
            instance.ptr(),
            ctypes.create_string_buffer(raw),
            len(raw),
            kind.ptr(),
            self._dropped,
            None,
            _NO_FINALIZER,
        )
        _check(error)

    def _called(
        self, number: Any, context: Any, kind: Any, args: Any, count: Any, results: Any, more: Any
    ) -> int:
        """On a guest's thread. Nothing may get out of here but a number: a BaseException that did
        would end the process."""
        try:
            function, type_ = self._bindings[number - 1]
            caller = _here.caller
            assert caller is not None
            given = [lift(context, args[index]) for index in range(count)]
            value = _answer(function, type_, caller, given)
            if type_.result is not None:
                lower(context, results[0], value, type_.result)
        except BaseException as error:  # noqa: BLE001 -- goes on where the call into wasm ends
            return _abort(error)
        return 0

    # ---- running -----------------------------------------------------------------------------

    def call(
        self, store: wasmtime.Store, interface: str, function: WitFunction, values: tuple[Any, ...]
    ) -> Any:
        """Instantiate it and call a function of it, on the guest's thread.

        Raises:
            WasmtimeError: it trapped, or a host function raised something (which was kept).
        """
        made = self._linker.instantiate(store, self.component)
        place = made.get_export_index(store, interface) if interface else None
        found = made.get_export_index(store, function.name, place)
        callee = made.get_func(store, found) if found is not None else None
        if callee is None:
            raise Thrown("LinkError", f"the component has no function {function.name}")
        context = store._context()
        given = (ffi.wasmtime_component_val_t * len(values))()
        result = ffi.wasmtime_component_val_t()
        try:
            for number, (value, (_, kind)) in enumerate(
                zip(values, function.parameters, strict=True)
            ):
                lower(context, given[number], value, kind)
            has_result = function.result is not None
            _check(
                ffi.wasmtime_component_func_call(
                    byref(callee._func), context, given, len(values),
                    byref(result) if has_result else None, int(has_result),
                )
            )  # fmt: skip
            answer = lift(context, result) if has_result else None
        finally:
            for each in given:
                ffi.wasmtime_component_val_delete(byref(each))
            ffi.wasmtime_component_val_delete(byref(result))
        _check(ffi.wasmtime_component_func_post_return(byref(callee._func), context))
        return answer


@contextmanager
def running(caller: Caller, watcher: Watcher) -> Iterator[None]:
    """Whose calls the host functions on this thread are."""
    _here.caller, _here.watcher = caller, watcher
    try:
        yield
    finally:
        _here.caller = _here.watcher = None


def _answer(function: Function, kind: WitFunction, caller: Caller, given: list[Any]) -> Any:
    is_result = kind.result is not None and kind.result.kind == "result"
    try:
        value = function(caller, *given)
    except Refusal as refusal:
        if not is_result:
            raise Thrown("Error", f"{kind.name} failed: {refusal.value}") from None
        return "err", refusal.value
    return ("ok", value) if is_result else value


def _drop(nothing: Any, context: Any, rep: Any) -> int:
    try:
        if _here.caller is not None:
            _here.caller.drop(rep)
    except BaseException as error:  # noqa: BLE001 -- as above
        return _abort(error)
    return 0


def _abort(error: BaseException) -> int:
    try:
        if isinstance(error, TypeError):
            error = Thrown("LinkError", f"a function is imported with another type: {error}")
        if _here.watcher is not None:
            _here.watcher.keep_cause(error)
    finally:
        made = ctypes.cast(ffi.wasmtime_error_new(_STOPPED), ctypes.c_void_p).value
    return made or 0


def stack_of(error: wasmtime.WasmtimeError, filename: str) -> str:
    """As `job.Ended` has it: line 1, and as column the byte in the component."""
    frames = ffi.wasm_frame_vec_t()
    ffi.wasmtime_error_wasm_trace(error.ptr(), byref(frames))
    lines = []
    for number in range(min(frames.size, _MOST_FRAMES)):
        frame = frames.data[number]
        name: Any = ffi.wasmtime_frame_func_name(frame)
        known = _text(name.contents) if name else ""
        shown = known or f"wasm-function[{ffi.wasm_frame_func_index(frame)}]"
        offset = ffi.wasm_frame_module_offset(frame)
        if offset < _MOST_OFFSET:
            # Where a stack overflows there may be no place.
            lines.append(f"    at {shown} ({filename}:1:{offset})")
    ffi.wasm_frame_vec_delete(byref(frames))
    return "\n".join(lines)


def _text(raw: Any) -> str:
    return ctypes.string_at(raw.data, raw.size).decode("utf-8", "replace")


def _check(error: Any) -> None:
    if error:
        raise wasmtime.WasmtimeError._from_ptr(error)


_Finalizer: Final[Callable[..., Any]] = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_NO_FINALIZER: Final = _Finalizer()
