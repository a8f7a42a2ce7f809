"""What one WebAssembly guest has beside its memory, and the imports named `orvalho`:

    log(level, at, size)                      a line; levels as in `bridge.LEVELS`
    params() -> size                          the parameters, JSON, are the answer then
    call(op, op_size, list, list_size) -> n   a call: n bytes of answer, or -n of an error; JSON
    take(at)                                  put the answer there
    result(at, size)                          JSON
    result_bytes(at, size)
    fail(at, size)                            end with that message
    sleep(ms)

Texts are UTF-8 in the memory that the module exports as `memory`.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

import msgspec

from orvalho.runtime.engine import Answer, Start
from orvalho.runtime.engines.blocking import TOO_DEEP, Thrown
from orvalho.runtime.engines.wasm.files import Files

_MOST_TEXT: Final = 32 << 20
_STDOUT, _STDERR = 1, 2
_LEVEL: Final = {_STDOUT: 1, _STDERR: 3}
_LONG_LINE: Final = 4096


class Place(Protocol):
    """A guest's memory. Places and sizes are 32 bits, whatever their sign. Both raise IndexError
    for what is not in it."""

    def read(self, at: int, size: int) -> bytes: ...
    def write(self, at: int, content: bytes) -> None: ...


class Host(Protocol):
    """See `blocking.BlockingIsolate`."""

    def log(self, level: int, text: str) -> None: ...
    def call(self, op: str, argument: bytes) -> Answer: ...
    def sleep(self, after_ms: float) -> None: ...
    def look_in(self) -> None: ...
    def clock_ns(self, clock: int) -> int: ...
    def chance(self, size: int) -> bytes: ...


class Exit(Exception):
    """The program ended itself with that status."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status

    def as_thrown(self) -> Thrown:
        return Thrown("ExitStatus", f"the program ended with exit status {self.status}")


@dataclass(frozen=True, slots=True)
class Offered:
    """A function for a guest. `signature`: parameters, a colon, results; `i` is i32, `I` i64."""

    signature: str
    function: Callable[..., Any]


class Guest:
    """A program's arguments, environment and standard streams come from its parameters:
    `{"args": [...], "env": {...}, "stdin": "..."}`."""

    def __init__(self, host: Host, start: Start, params: Any) -> None:
        table = params if isinstance(params, dict) else {}
        self.host = host
        self.params = start.params
        self.arguments = [start.filename.encode(), *_texts(table.get("args"))]
        env = table.get("env")
        pairs = env.items() if isinstance(env, dict) else ()
        self.environment = [f"{key}={value}".replace("\0", "").encode() for key, value in pairs]
        stdin = table.get("stdin")
        self.files = Files(
            host, stdin.encode() if isinstance(stdin, str) else b"", read_only=start.read_only
        )
        self.answer = b""
        self.result: bytes | None = None
        self._stdout = bytearray()
        self._lines = {_STDOUT: bytearray(), _STDERR: bytearray()}

    def print(self, stream: int, content: bytes) -> None:
        """What the guest writes to standard output or error: a log line each, as it comes."""
        if stream == _STDOUT:
            self._stdout += content
        line = self._lines[stream]
        line += content
        *whole, rest = line.split(b"\n")
        for each in whole:
            self.host.log(_LEVEL[stream], each.decode("utf-8", "replace"))
        # So that one without an end is not read again and again.
        if len(rest) > _LONG_LINE:
            self.host.log(_LEVEL[stream], rest.decode("utf-8", "replace"))
            rest = bytearray()
        self._lines[stream] = rest

    def finish(self, value: Any, *, is_command: bool) -> bytes:
        """Write what is still to be written; the last record of the run.

        Raises:
            Thrown: a file could not be written.
        """
        self.files.close_all()
        for stream, rest in self._lines.items():
            if rest:
                self.host.log(_LEVEL[stream], rest.decode("utf-8", "replace"))
        if self.result is not None:
            return self.result
        if not is_command:
            return b"U" if value is None else b"R" + msgspec.json.encode(value)
        try:
            return b"R" + msgspec.json.encode(self._stdout.decode())
        except UnicodeDecodeError:
            return b"B" + base64.b64encode(self._stdout)


def _texts(values: Any) -> list[bytes]:
    if not isinstance(values, list):
        return []
    return [str(value).replace("\0", "").encode() for value in values]


def _read_text(place: Place, at: int, size: int) -> str:
    try:
        if not 0 <= size <= _MOST_TEXT:
            raise IndexError
        return place.read(at, size).decode()
    except IndexError:
        raise Thrown("RangeError", "a text lies outside the module's memory") from None
    except UnicodeDecodeError:
        raise Thrown("TypeError", "a text is not UTF-8") from None


def one_line(text: str) -> bytes:
    """JSON without line breaks.

    Raises:
        Thrown: it is none, or nested too deeply.
    """
    try:
        return bytes(msgspec.json.format(text.encode(), indent=-1))
    except msgspec.DecodeError as error:
        raise Thrown("SyntaxError", f"this is no JSON: {error}") from None
    except RecursionError:
        raise Thrown("RangeError", TOO_DEEP) from None


def _log(guest: Guest, place: Place, level: int, at: int, size: int) -> None:
    guest.host.log(level, _read_text(place, at, size))


def _params(guest: Guest, place: Place) -> int:
    guest.answer = guest.params
    return len(guest.answer)


def _call(guest: Guest, place: Place, op: int, op_size: int, at: int, size: int) -> int:
    name = _read_text(place, op, op_size)
    answer = guest.host.call(name, one_line(_read_text(place, at, size)))
    guest.answer = answer.value
    return -len(answer.value) if answer.is_error else len(answer.value)


def _take(guest: Guest, place: Place, at: int) -> None:
    try:
        place.write(at, guest.answer)
    except IndexError:
        raise Thrown("RangeError", "the answer does not fit into the module's memory") from None


def _result(guest: Guest, place: Place, at: int, size: int) -> None:
    guest.result = b"R" + one_line(_read_text(place, at, size))


def _result_bytes(guest: Guest, place: Place, at: int, size: int) -> None:
    try:
        guest.result = b"B" + base64.b64encode(place.read(at, size))
    except IndexError:
        raise Thrown("RangeError", "the result lies outside the module's memory") from None


def _fail(guest: Guest, place: Place, at: int, size: int) -> None:
    raise Thrown("Error", _read_text(place, at, size))


def _sleep(guest: Guest, place: Place, after_ms: int) -> None:
    guest.host.sleep(after_ms)


ORVALHO: Final = {
    "log": Offered("iii:", _log),
    "params": Offered(":i", _params),
    "call": Offered("iiii:i", _call),
    "take": Offered("i:", _take),
    "result": Offered("ii:", _result),
    "result_bytes": Offered("ii:", _result_bytes),
    "fail": Offered("ii:", _fail),
    "sleep": Offered("I:", _sleep),
}
