"""The seam to whatever runs guests: an Engine makes Isolates, each one guest's world."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a source cannot be run. Line and column count from 1, the column in UTF-16 units; `file`
    is the module that it is in, empty for the script itself."""

    line: int
    column: int
    message: str
    file: str = ""


@dataclass(frozen=True, slots=True)
class Request:
    """One place where a source asks for a module, and by which specifier."""

    specifier: str
    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Function:
    """What a module exports: `signature` as its author wrote it, `doc` its doc comment."""

    name: str
    line: int
    signature: str
    doc: str


@dataclass(frozen=True, slots=True)
class Outline:
    """What stands in a source, nothing of which is run."""

    requests: tuple[Request, ...] = ()
    functions: tuple[Function, ...] = ()
    problems: tuple[Problem, ...] = ()
    # What reading it has taken of a processor, the first time.
    cpu_ms: int = 0


# The path of what is known on the target only: it is not looked at before.
ELSEWHERE: Final = ""


@dataclass(frozen=True, slots=True)
class Modules:
    """What a script is made of beside its own source. `sources`: path -> text, `names`: a name
    such as `lib:images` -> the path that it stands for here, or ELSEWHERE."""

    sources: Mapping[str, str] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.sources or self.names)


@dataclass(frozen=True, slots=True)
class Tape:
    """What a guest got beside the answers to its calls. `turns`, parted by blanks: `A1,3` handed it
    the answers to those calls, `T` rang its alarm, `L` looked at what it had done by itself. What
    it read of the clock, and by chance, is in its engine's own form."""

    turns: bytes = b""
    clock: bytes = b""
    chance: bytes = b""


@dataclass(frozen=True, slots=True)
class Start:
    """What a run begins with. `source` is text, or the key of code (see Compiler). `params` is
    JSON; `caller` and `target` have `id` and `name`; the next three bound what the guest can pile
    up before the host has a look. `serves`: it stays, and answers calls (WebAssembly alone). `off`
    are words of `web/switches.py`: what its world does not have. `read_only`: the sides, `target`
    or `caller`, whose tree the guest never writes to. `room_bytes` is how much it may tell of what
    it reads of clock and chance, 0 for nothing; with `tape` it reads that again."""

    filename: str
    source: str
    params: bytes
    caller: Mapping[str, str]
    target: Mapping[str, str]
    memory_bytes: int
    output_bytes: int
    host_calls: int
    serves: bool = False
    modules: Modules = field(default_factory=Modules)
    off: tuple[str, ...] = ()
    read_only: tuple[str, ...] = ()
    room_bytes: int = 0
    tape: Tape | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a guest's call of that number: JSON, of a value or of an error's properties."""

    call: int
    is_error: bool
    value: bytes


@dataclass(frozen=True, slots=True)
class Turn:
    """What came of a turn of the guest's code: its records (see `bridge.py`; None when it went on
    by itself, and `look` will fetch them), and why no further turn is possible: "memory" for that
    limit, or words for what else broke; None when all is well."""

    records: bytes | None
    broken: str | None = None


class Isolate(Protocol):
    """One guest's world, used once. Only bytes cross its boundary.

    `start`, `settle` and `tick` queue a turn and return at once; `report`, given to `start`, is
    called with each Turn, on a thread of the isolate's, and once more whenever the guest goes on by
    itself (a WebAssembly module is compiled, an object collected). After `close` nobody calls.
    """

    def start(self, start: Start, report: Callable[[Turn], Any]) -> None:
        """Begin the run. A syntax error is a record of the first turn, like any other throw."""

    def settle(self, answers: list[Answer]) -> None:
        """Hand over answers to the guest's calls."""

    def tick(self) -> None:
        """The guest's alarm rings: its next timer is due."""

    def look(self) -> None:
        """Ask for a Turn with what the guest has done by itself."""

    def cpu_s(self) -> float:
        """Processor time of the guest's code since it was made. From any thread, at any time."""

    def step_back(self) -> None:
        """Let everybody else have the processor first, from now on."""

    def is_waiting(self) -> bool:
        """Between turns: whether nothing comes of the guest until it is given something."""

    def is_out_of_memory(self) -> bool:
        """Whether the guest has gone past its limit of memory. From any thread, at any time."""

    def close(self) -> None:
        """Stop the guest wherever it stands and free its memory. Blocks; seconds at worst."""


class Engine(Protocol):
    """Runs one language. Made once in a process."""

    def prepare(self, filename: str, source: str) -> None:
        """Read a source before it is started, and keep that. For a long one call it in a thread."""

    def open_isolate(self) -> Isolate:
        """A fresh world, ready to start. Blocks for a millisecond: call it off the event loop.

        Raises:
            Unavailable: the process has no room for another.
        """

    def check(self, filename: str, source: str) -> tuple[Problem, ...]:
        """All that keeps the source from running. Compiles and runs nothing. Blocks."""


class Linker(Engine, Protocol):
    """An Engine whose sources may consist of several modules."""

    def prepare_all(
        self, filename: str, source: str, modules: Modules, is_over: Callable[[], bool]
    ) -> None:
        """`prepare` of a script together with its modules; given up once `is_over` says so."""

    def check_all(self, filename: str, source: str, modules: Modules) -> tuple[Problem, ...]:
        """`check` of a script together with its modules, as they refer to each other."""

    def outline(self, filename: str, source: str) -> Outline:
        """What a source asks for and exports. Blocks."""

    def forbidden(
        self, filename: str, source: str, modules: Modules, off: tuple[str, ...]
    ) -> tuple[Problem, ...]:
        """Where it names what these words of `web/switches.py` take away. Blocks."""


class Compiler(Engine, Protocol):
    """An Engine whose sources are modules: compiled apart from where they run, since a compiler
    that a stranger's module keeps busy can be stopped only together with its process."""

    def compile(self, filename: str, module: bytes) -> tuple[tuple[Problem, ...], bytes]:
        """What keeps the module from running, or its code. Blocks, for as long as it likes."""

    def load(self, key: str, code: bytes, problems: tuple[Problem, ...]) -> None:
        """Keep code, or why there is none: a run whose source is `key` is a run of that."""

    def drop(self, key: str) -> None:
        """Keep it no longer. Runs that have started have it still."""
