"""What the daemon and a worker say to each other, in msgpack, as lists without field names."""

from __future__ import annotations

import struct
from typing import Any, Final

import msgspec

from orvalho.runtime.engine import Modules, Outline, Problem, Tape

# What daemon and zygote say, not in msgpack since a worker's end of a pipe comes along: `F` (fork,
# with the descriptor and the number of a language, plus ALONE for a worker of one guest) or `K`
# (kill) and a process number; then `S` (started) or `D` (died), the
# number and its wait status.
ZYGOTE_REQUEST: Final = struct.Struct("<cI")
ZYGOTE_REPLY: Final = struct.Struct("<cIi")
ALONE: Final = 256
# The exit status of a worker whose engine cannot be imported.
NO_ENGINE: Final = 69
# The same of one that has no memory left for its own work.
NO_MEMORY: Final = 71


class _Message(msgspec.Struct, kw_only=True, array_like=True, frozen=True):
    pass


# ---- to a worker ---------------------------------------------------------------------------


class StartRun(_Message, tag=1, frozen=True):
    """`run` is a number of the pool's own. `params` is JSON. `source` is text, or the key of code
    that was loaded before. `metering_s`: how often to tell the processor time; 0 for not at
    all. `room_bytes`: how much of a tape is made of it; with `tape` it goes by that one."""

    run: int
    filename: str
    source: str
    params: bytes
    caller: dict[str, str]
    target: dict[str, str]
    wall_s: float
    cpu_s: float
    memory_bytes: int
    output_bytes: int
    host_calls: int
    serves: bool = False
    metering_s: float = 0.0
    modules: Modules = Modules()
    off: tuple[str, ...] = ()
    read_only: tuple[str, ...] = ()
    room_bytes: int = 0
    tape: Tape | None = None


class AnswerCall(_Message, tag=2, frozen=True):
    """`value` is JSON: the answer, or with `is_error` the properties of the Error."""

    run: int
    call: int
    is_error: bool
    value: bytes


class StopRun(_Message, tag=3, frozen=True):
    run: int


class CheckSource(_Message, tag=4, frozen=True):
    """`outlines`: what stands in it is wanted as well. `off`: only where it names what these words
    take away."""

    check: int
    filename: str
    source: str
    modules: Modules = Modules()
    outlines: bool = False
    off: tuple[str, ...] = ()


class LoadCode(_Message, tag=5, frozen=True):
    """What `Compiled` brought, for the runs whose source is `key`; with `problems`, why those
    cannot run."""

    key: str
    code: bytes
    problems: tuple[Problem, ...]


class DropCode(_Message, tag=6, frozen=True):
    """No further run will name that key."""

    key: str


class CompileSource(_Message, tag=7, frozen=True):
    check: int
    filename: str
    module: bytes


ToWorker = StartRun | AnswerCall | StopRun | CheckSource | LoadCode | DropCode | CompileSource


# ---- from a worker -------------------------------------------------------------------------


class Opened(_Message, tag=1, frozen=True):
    """The first thing a worker says. `missing` names the walls this system does not offer."""

    missing: tuple[str, ...]


class Line(_Message, tag=2, frozen=True):
    run: int
    level: str
    text: str


class Call(_Message, tag=3, frozen=True):
    """The guest calls `op`; `argument` is a JSON list."""

    run: int
    call: int
    op: str
    argument: bytes


class RunEnded(_Message, tag=4, frozen=True):
    """`outcome`: done, failed, limited, cancelled. `result` is JSON, or bytes when `is_bytes`."""

    run: int
    outcome: str
    wall_ms: int
    cpu_ms: int
    memory_bytes: int
    output_bytes: int
    host_calls: int
    result: bytes | None = None
    is_bytes: bool = False
    limit: str | None = None
    error_name: str | None = None
    error_message: str | None = None
    error_stack: str | None = None


class Checked(_Message, tag=5, frozen=True):
    check: int
    problems: tuple[Problem, ...]
    outline: Outline = Outline()


class Compiled(_Message, tag=6, frozen=True):
    """`code` is the engine's own form; empty when there are problems."""

    check: int
    problems: tuple[Problem, ...]
    code: bytes
    cpu_ms: int = 0


class Metered(_Message, tag=7, frozen=True):
    """What a run has used of a processor so far."""

    run: int
    cpu_ms: int


class Taped(_Message, tag=8, frozen=True):
    """What the run got beside its answers, right before its end, unless that was nothing. None:
    it was too much."""

    run: int
    tape: Tape | None


FromWorker = Opened | Line | Call | RunEnded | Checked | Compiled | Metered | Taped

Message = ToWorker | FromWorker


def to_worker() -> msgspec.msgpack.Decoder[Any]:
    """Decodes a frame that the daemon sent."""
    return msgspec.msgpack.Decoder(list[ToWorker])


def from_worker() -> msgspec.msgpack.Decoder[Any]:
    """Decodes a frame that a worker sent. Its sender may be in a guest's hands: whatever is not of
    this form is an error, and what is of it is checked against what the worker was given."""
    return msgspec.msgpack.Decoder(list[FromWorker])
