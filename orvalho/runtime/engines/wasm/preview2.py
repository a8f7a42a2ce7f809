"""WASI preview 2 (`wasi:*@0.2`) for components: command line, clocks, chance, streams and waiting.
Files are in `preview2_files.py`.

As with preview 1 nothing of the host's is behind it: a sleep waits as any guest's does and ends
when its run is stopped, and sockets are refused. Functions take and give what `scripts.wasm.wit`
names; of a `result` they give the value, and raise `Refusal` for its error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from orvalho.runtime.engines.blocking import Thrown
from orvalho.runtime.engines.wasm.files import WasiError
from orvalho.runtime.engines.wasm.guest import Exit, Guest
from orvalho.runtime.engines.wasm.values import Handle

_MOST_RESOURCES: Final = 4096
_MOST_RANDOM: Final = 1 << 20
_MOST_READ: Final = 1 << 20
_MOST_WRITE: Final = 1 << 20
_NS: Final = 1_000_000_000
_REALTIME, _MONOTONIC = 0, 1


class Refusal(Exception):
    """A function of type `result` answers that error."""

    def __init__(self, value: Any) -> None:
        super().__init__(value)
        self.value = value


class Readable(Protocol):
    def read(self, size: int) -> bytes:
        """Empty at the end."""


class Writable(Protocol):
    def write(self, content: bytes) -> None: ...


class Closable(Protocol):
    def close(self) -> None:
        """Its last handle has gone."""


@dataclass
class Pollable:
    """Ready at that time of the monotonic clock, in nanoseconds."""

    at_ns: int = 0


@dataclass
class Failure:
    """What a `wasi:io/error` stands for."""

    error: WasiError


class Caller:
    """A component that runs: its `Guest`, and the resources it has of the host's."""

    def __init__(self, guest: Guest) -> None:
        self.guest = guest
        self._resources: dict[int, Any] = {}
        self._last = 0

    def give(self, resource: Any) -> Handle:
        """A handle for the guest."""
        if len(self._resources) >= _MOST_RESOURCES:
            raise Thrown("RangeError", f"a component has at most {_MOST_RESOURCES} resources open")
        self._last += 1
        self._resources[self._last] = resource
        return Handle(self._last)

    def take(self, handle: Handle, *kinds: type) -> Any:
        """What a handle stands for."""
        found = self._resources.get(handle.rep)
        if not isinstance(found, kinds):
            raise Thrown("TypeError", "a resource is not of the kind that was asked for")
        return found

    def drop(self, rep: int) -> None:
        """The guest has let go of it.

        Raises:
            Thrown: what was written to it could not be kept.
        """
        found = self._resources.pop(rep, None)
        close = getattr(found, "close", None)
        if close is not None:
            close()


@dataclass
class Standard:
    """Standard input, output or error."""

    guest: Guest
    number: int

    def read(self, size: int) -> bytes:
        files = self.guest.files
        content, files.stdin = files.stdin[:size], files.stdin[size:]
        return content

    def write(self, content: bytes) -> None:
        self.guest.print(self.number, content)


@dataclass
class InputStream:
    source: Readable
    owner: Closable | None = None

    def close(self) -> None:
        if self.owner is not None:
            self.owner.close()


@dataclass
class OutputStream:
    sink: Writable
    owner: Closable | None = None

    def close(self) -> None:
        if self.owner is not None:
            self.owner.close()


@dataclass
class _Terminal:
    number: int = field(default=0)


# ---- the command line ------------------------------------------------------------------------


def _get_environment(caller: Caller) -> Any:
    pairs = (each.decode("utf-8", "replace").partition("=") for each in caller.guest.environment)
    return [[name, value] for name, _, value in pairs]


def _get_arguments(caller: Caller) -> Any:
    return [each.decode("utf-8", "replace") for each in caller.guest.arguments]


def _initial_cwd(caller: Caller) -> Any:
    return "some", "/"


def _exit(caller: Caller, status: tuple[str, Any]) -> Any:
    raise Exit(0 if status[0] == "ok" else 1)


def _exit_with_code(caller: Caller, status: int) -> Any:
    raise Exit(status)


def _get_stdin(caller: Caller) -> Handle:
    return caller.give(InputStream(Standard(caller.guest, 0)))


def _get_stdout(caller: Caller) -> Handle:
    return caller.give(OutputStream(Standard(caller.guest, 1)))


def _get_stderr(caller: Caller) -> Handle:
    return caller.give(OutputStream(Standard(caller.guest, 2)))


def _no_terminal(caller: Caller) -> Any:
    return "none", None


# ---- clocks and chance -----------------------------------------------------------------------


def _now(caller: Caller) -> int:
    return caller.guest.host.clock_ns(_MONOTONIC)


def _resolution(caller: Caller) -> int:
    return 1


def _subscribe_instant(caller: Caller, when: int) -> Handle:
    return caller.give(Pollable(when))


def _subscribe_duration(caller: Caller, wait_ns: int) -> Handle:
    return caller.give(Pollable(caller.guest.host.clock_ns(_MONOTONIC) + wait_ns))


def _moment(ns: int) -> dict[str, int]:
    return {"seconds": ns // _NS, "nanoseconds": ns % _NS}


def _wall_now(caller: Caller) -> Any:
    return _moment(caller.guest.host.clock_ns(_REALTIME))


def _wall_resolution(caller: Caller) -> Any:
    return _moment(1)


def _random_bytes(caller: Caller, size: int) -> bytes:
    if size > _MOST_RANDOM:
        raise Thrown("RangeError", f"at most {_MOST_RANDOM} random bytes are given at once")
    return caller.guest.host.chance(size)


def _random_u64(caller: Caller) -> int:
    return int.from_bytes(caller.guest.host.chance(8), "little")


def _insecure_seed(caller: Caller) -> Any:
    return [_random_u64(caller), _random_u64(caller)]


# ---- waiting ---------------------------------------------------------------------------------


def _is_ready(caller: Caller, handle: Handle) -> bool:
    return bool(caller.take(handle, Pollable).at_ns <= caller.guest.host.clock_ns(_MONOTONIC))


def _block(caller: Caller, handle: Handle) -> None:
    _wait(caller, [caller.take(handle, Pollable)])


def _poll(caller: Caller, handles: list[Handle]) -> list[int]:
    if not handles:
        raise Thrown("RangeError", "poll waits for one thing at least")
    pollables = [caller.take(each, Pollable) for each in handles]
    _wait(caller, pollables)
    now = caller.guest.host.clock_ns(_MONOTONIC)
    ready = [number for number, each in enumerate(pollables) if each.at_ns <= now]
    # The alarm may ring a moment early.
    first = min(range(len(pollables)), key=lambda number: pollables[number].at_ns)
    return ready or [first]


def _wait(caller: Caller, pollables: list[Pollable]) -> None:
    wait_ns = min(each.at_ns for each in pollables) - caller.guest.host.clock_ns(_MONOTONIC)
    if wait_ns > 0:
        caller.guest.host.sleep(wait_ns / 1e6)
    else:
        caller.guest.host.look_in()


# ---- streams ---------------------------------------------------------------------------------


def _failing(caller: Caller, function: Callable[[], Any]) -> Any:
    try:
        return function()
    except WasiError as error:
        raise Refusal(("last-operation-failed", caller.give(Failure(error)))) from None


def _read(caller: Caller, handle: Handle, size: int) -> bytes:
    stream = caller.take(handle, InputStream)
    if not size:
        return b""
    content: bytes = _failing(caller, lambda: stream.source.read(min(size, _MOST_READ)))
    if not content:
        raise Refusal(("closed", None))
    return content


def _skip(caller: Caller, handle: Handle, size: int) -> int:
    return len(_read(caller, handle, size))


def _check_write(caller: Caller, handle: Handle) -> int:
    caller.take(handle, OutputStream)
    return _MOST_WRITE


def _write(caller: Caller, handle: Handle, content: Any) -> None:
    stream = caller.take(handle, OutputStream)
    if content:
        _failing(caller, lambda: stream.sink.write(bytes(content)))


def _flush(caller: Caller, handle: Handle) -> None:
    caller.take(handle, OutputStream)


def _write_zeroes(caller: Caller, handle: Handle, size: int) -> None:
    if size > _MOST_WRITE:
        raise Thrown("RangeError", "more is written at once than was permitted")
    _write(caller, handle, bytes(size))


def _splice(caller: Caller, handle: Handle, source: Handle, size: int) -> int:
    content = _read(caller, source, size)
    _write(caller, handle, content)
    return len(content)


def _subscribe(caller: Caller, handle: Handle) -> Handle:
    return caller.give(Pollable())


def _to_debug_string(caller: Caller, handle: Handle) -> str:
    error: WasiError = caller.take(handle, Failure).error
    return error.message or error.errno.name.lower()


def _refused(caller: Caller, *arguments: Any) -> Any:
    raise Refusal("access-denied")


def _instance_network(caller: Caller) -> Handle:
    return caller.give(_Terminal())


_INPUT: Final = "[method]input-stream."
_OUTPUT: Final = "[method]output-stream."

Function = Callable[..., Any]
PREVIEW2: Final[dict[str, dict[str, Function]]] = {
    "wasi:cli/environment": {
        "get-environment": _get_environment,
        "get-arguments": _get_arguments,
        "initial-cwd": _initial_cwd,
    },
    "wasi:cli/exit": {"exit": _exit, "exit-with-code": _exit_with_code},
    "wasi:cli/stdin": {"get-stdin": _get_stdin},
    "wasi:cli/stdout": {"get-stdout": _get_stdout},
    "wasi:cli/stderr": {"get-stderr": _get_stderr},
    "wasi:cli/terminal-input": {},
    "wasi:cli/terminal-output": {},
    "wasi:cli/terminal-stdin": {"get-terminal-stdin": _no_terminal},
    "wasi:cli/terminal-stdout": {"get-terminal-stdout": _no_terminal},
    "wasi:cli/terminal-stderr": {"get-terminal-stderr": _no_terminal},
    "wasi:clocks/monotonic-clock": {
        "now": _now,
        "resolution": _resolution,
        "subscribe-instant": _subscribe_instant,
        "subscribe-duration": _subscribe_duration,
    },
    "wasi:clocks/wall-clock": {"now": _wall_now, "resolution": _wall_resolution},
    "wasi:random/random": {"get-random-bytes": _random_bytes, "get-random-u64": _random_u64},
    "wasi:random/insecure": {
        "get-insecure-random-bytes": _random_bytes,
        "get-insecure-random-u64": _random_u64,
    },
    "wasi:random/insecure-seed": {"insecure-seed": _insecure_seed},
    "wasi:io/error": {"[method]error.to-debug-string": _to_debug_string},
    "wasi:io/poll": {
        "[method]pollable.ready": _is_ready,
        "[method]pollable.block": _block,
        "poll": _poll,
    },
    "wasi:io/streams": {
        f"{_INPUT}read": _read,
        f"{_INPUT}blocking-read": _read,
        f"{_INPUT}skip": _skip,
        f"{_INPUT}blocking-skip": _skip,
        f"{_INPUT}subscribe": _subscribe,
        f"{_OUTPUT}check-write": _check_write,
        f"{_OUTPUT}write": _write,
        f"{_OUTPUT}blocking-write-and-flush": _write,
        f"{_OUTPUT}flush": _flush,
        f"{_OUTPUT}blocking-flush": _flush,
        f"{_OUTPUT}subscribe": _subscribe,
        f"{_OUTPUT}write-zeroes": _write_zeroes,
        f"{_OUTPUT}blocking-write-zeroes-and-flush": _write_zeroes,
        f"{_OUTPUT}splice": _splice,
        f"{_OUTPUT}blocking-splice": _splice,
    },
    "wasi:sockets/instance-network": {"instance-network": _instance_network},
}


def find_socket_function(stem: str) -> Function | None:
    """Whatever has to do with sockets can be linked, and is refused."""
    return _refused if stem.startswith("wasi:sockets/") else None
