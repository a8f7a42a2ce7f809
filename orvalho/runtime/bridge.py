"""What a guest tells its host, and how it is written: records of one line each.

    C<number> <op> <JSON list>   a call; numbers count from 1
    L<level><JSON text>          a log line; the level is a digit, an index of LEVELS
    W<milliseconds>              set the alarm, instead of an earlier one
    R<JSON> | B<base64> | U      the result: JSON, bytes, or undefined
    E<JSON [name, message, stack]>   it threw
    H<limit>                     it ran into the limit of that name
    K<readings> | K!             what it has read of the clock; that this is too much to be told
    N<given> | N!                the same of chance. Both in its engine's own form

A guest that has taken its engine over can write anything here, so nothing in a record is believed
beyond its form; and no record gives more than the table of operations of its run does.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import msgspec

from orvalho.errors import InvalidInput

# JSON text in, JSON text out: the list of the call's arguments, and the value it has. An
# OrvalhoError becomes a JavaScript Error of that name, code, rule and hint.
HostCall = Callable[[str], Awaitable[str]]

LEVELS: Final = ("debug", "log", "info", "warn", "error")


@dataclass(frozen=True, slots=True)
class Called:
    number: int
    op: str
    argument: bytes


@dataclass(frozen=True, slots=True)
class Logged:
    level: str
    text: str


@dataclass(frozen=True, slots=True)
class Alarm:
    after_s: float


@dataclass(frozen=True, slots=True)
class Returned:
    """`result` is JSON, or base64 when `is_bytes`; None for undefined."""

    result: bytes | None
    is_bytes: bool = False


@dataclass(frozen=True, slots=True)
class Threw:
    name: str
    message: str
    stack: str


@dataclass(frozen=True, slots=True)
class Reached:
    limit: str


@dataclass(frozen=True, slots=True)
class Noted:
    """`kind` is clock or chance; `text` is None where it is too much."""

    kind: str
    text: bytes | None


Record = Called | Logged | Alarm | Returned | Threw | Reached | Noted

_THREW: Final = msgspec.json.Decoder(tuple[str, str, str])
_TEXT: Final = msgspec.json.Decoder(str)
_LIMITS: Final = (b"output", b"host_calls")
_NOTED: Final = {b"K": "clock", b"N": "chance"}


def read_records(raw: bytes) -> list[Record]:
    """The records of one turn, in order.

    Raises:
        InvalidInput: this was not written by our side of the isolate.
    """
    # One character is looked for much faster than three, and mostly there is none.
    if b"\\" in raw and (b"\\ud" in raw or b"\\uD" in raw):
        raw = _whole_characters(raw)
    try:
        return [_read(line) for line in raw.split(b"\n") if line]
    except (ValueError, LookupError, RecursionError, msgspec.MsgspecError) as error:
        raise InvalidInput("the guest's records are damaged") from error


def _read(line: bytes) -> Record:
    kind, rest = line[:1], line[1:]
    if kind == b"R":
        return Returned(rest)
    if kind == b"C":
        number, op, argument = rest.split(b" ", 2)
        return Called(int(number), op.decode(), argument)
    if kind == b"L":
        return Logged(LEVELS[int(rest[:1])], _TEXT.decode(rest[1:]))
    if kind == b"U":
        return Returned(None)
    if kind == b"B":
        return Returned(rest, is_bytes=True)
    if kind == b"W":
        return Alarm(min(max(float(rest), 0.0), 2**31) / 1000)
    if kind == b"E":
        return Threw(*_THREW.decode(rest))
    if kind == b"H" and rest in _LIMITS:
        return Reached(rest.decode())
    if kind in _NOTED:
        return Noted(_NOTED[kind], None if rest == b"!" else rest)
    raise ValueError(kind)


def _whole_characters(raw: bytes) -> bytes:
    """JSON may escape half a surrogate pair, which no UTF-8 text can hold and many decoders refuse:
    each becomes U+FFFD. A whole pair, which a guest's own JSON may hold, is a character."""
    return _ESCAPE.sub(_whole, raw)


def _whole(found: re.Match[bytes]) -> bytes:
    if found["pair"]:
        return found[0]
    return b"\\ufffd" if found["half"] else found[0]


_ESCAPE: Final = re.compile(
    rb"\\(?:(?P<pair>u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})"
    rb"|(?P<half>u[dD][89a-fA-F][0-9a-fA-F]{2})|.)",
    re.DOTALL,
)
