"""The part of the local API that is about WebAssembly binaries and libraries: what they are, who
has them, and calling them. See `messages`."""

from __future__ import annotations

import msgspec

from orvalho.control.message import Message, tag

# ---- requests -----------------------------------------------------------------------------


class LibraryPublish(Message, frozen=True, kw_only=True, tag=tag):
    """Publish these bytes under `name`. `needs` is the text of the file beside them, `doc` one line
    about them (None: as it was). `replace`: also when something else has that name.
    -> LibraryPublished"""

    filename: str
    content: bytes
    name: str
    doc: str | None = None
    needs: str | None = None
    replace: bool = False


class LibraryRemove(Message, frozen=True, kw_only=True, tag=tag):
    """Publish it no longer. -> Note"""

    name: str


class LibraryList(Message, frozen=True, kw_only=True, tag=tag):
    """What this node publishes, or a peer by that name. `context`: which of ours asks.
    -> LibraryListReply"""

    node: str | None = None
    context: str | None = None


class LibraryShow(Message, frozen=True, kw_only=True, tag=tag):
    """One library, `add` or `add@phone2`. -> LibraryShown"""

    library: str
    context: str | None = None


class LibraryGet(Message, frozen=True, kw_only=True, tag=tag):
    """Its bytes, compared with the digest that was told of them. -> LibraryContent"""

    library: str
    context: str | None = None


class LibraryCall(Message, frozen=True, kw_only=True, tag=tag):
    """Run a library where it is published: `add` here, `add@phone2` there; or, on this node, the
    bytes in `module` (`library` is then their filename, `needs` the text beside them).

    `function` is what is called, with `arguments` as texts, converted by its declared types; None
    runs it as a program with these arguments and `stdin`. `target`: in which context there (None:
    the usual one). `context`: which of ours calls. -> RunQueued, RunOutput, ..., RunEnded"""

    library: str
    module: bytes = b""
    needs: str | None = None
    function: str | None = None
    arguments: tuple[str, ...] = ()
    env: dict[str, str] = msgspec.field(default_factory=dict)
    stdin: str | None = None
    target: str | None = None
    context: str | None = None
    wait: bool = False


class ServiceStart(Message, frozen=True, kw_only=True, tag=tag):
    """Keep an instance of our library `name`, whose memory lives on from call to call; in the
    context `target` (None: the usual one). -> Note"""

    name: str
    target: str | None = None


class ServiceStop(Message, frozen=True, kw_only=True, tag=tag):
    """End it; in every context, or in `target` alone. -> Note"""

    name: str
    target: str | None = None


class ServiceList(Message, frozen=True, kw_only=True, tag=tag):
    """What runs here, or on a peer. -> ServiceListReply"""

    node: str | None = None
    context: str | None = None


# ---- replies ------------------------------------------------------------------------------


class WasmParameter(Message, frozen=True, kw_only=True):
    """`name` is empty where none is told."""

    name: str
    type: str


class WasmFunction(Message, frozen=True, kw_only=True):
    """A function that can be called; `interface` is empty for one of the binary itself."""

    interface: str
    name: str
    parameters: tuple[WasmParameter, ...]
    results: tuple[str, ...]


class WasmExternal(Message, frozen=True, kw_only=True):
    """An import, from `module`, or an export."""

    module: str
    name: str
    kind: str
    type: str


class WasmMemory(Message, frozen=True, kw_only=True):
    """`maximum_bytes` is None for one without a limit of its own."""

    minimum_bytes: int
    maximum_bytes: int | None
    is_shared: bool


class WasmSection(Message, frozen=True, kw_only=True):
    """A custom section."""

    name: str
    size_bytes: int


class WasmMetadata(Message, frozen=True, kw_only=True):
    """What a binary says of itself. `kind`: command, reactor, library or component; `is_program`:
    whether it can be run as one; `wasi`: the versions that it imports; `header`: what it needs, in
    TOML; `wit`: the text of a component's world; `notes`: what could not be told."""

    kind: str
    is_program: bool
    wasi: tuple[str, ...]
    name: str
    size_bytes: int
    sha256: str
    imports: tuple[WasmExternal, ...]
    exports: tuple[WasmExternal, ...]
    functions: tuple[WasmFunction, ...]
    memories: tuple[WasmMemory, ...]
    tables: int
    has_start: bool
    sections: tuple[WasmSection, ...]
    producers: dict[str, tuple[str, ...]]
    features: tuple[str, ...]
    header: str
    wit: str
    signer: str
    notes: tuple[str, ...]


class WasmFile(Message, frozen=True, kw_only=True):
    """One file; `problem` says why there is no `metadata`. `needs` is the text of the file beside
    it, which then counts alone; None when there is none."""

    file: str
    metadata: WasmMetadata | None
    problem: str | None = None
    needs: str | None = None


class WasmFiles(Message, frozen=True, kw_only=True, tag=tag):
    """The binaries of a directory, or the one that was asked about."""

    files: tuple[WasmFile, ...]


class LibraryState(Message, frozen=True, kw_only=True):
    """`kind`: command, reactor, library, component, javascript, typescript or starlark."""

    name: str
    filename: str
    kind: str
    size_bytes: int
    sha256: str
    doc: str
    exports: tuple[str, ...]
    published_at: float


class LibraryPublished(Message, frozen=True, kw_only=True, tag=tag):
    """`changed` is false when these bytes were published under that name before."""

    library: LibraryState
    changed: bool


class LibraryListReply(Message, frozen=True, kw_only=True, tag=tag):
    node: str
    libraries: tuple[LibraryState, ...]


class LibraryShown(Message, frozen=True, kw_only=True, tag=tag):
    """`metadata` is None for a text; `needs` is the TOML that holds for it, its own or that of the
    file beside it."""

    node: str
    library: LibraryState
    needs: str
    metadata: WasmMetadata | None = None


class LibraryContent(Message, frozen=True, kw_only=True, tag=tag):
    """`needs` is the text of the file beside it, None when there is none."""

    node: str
    library: LibraryState
    content: bytes
    needs: str | None = None


class ServiceState(Message, frozen=True, kw_only=True):
    """`problem`: why its instance ended; the next call makes a fresh one. None while it runs.
    `memory_bytes` is what its memory had after the last call; `instance_at` when the instance was
    made."""

    library: str
    context: str
    sha256: str
    calls: int
    failures: int
    memory_bytes: int
    started_at: float
    instance_at: float
    problem: str | None = None


class ServiceListReply(Message, frozen=True, kw_only=True, tag=tag):
    node: str
    services: tuple[ServiceState, ...]


Request = (
    LibraryPublish
    | LibraryRemove
    | LibraryList
    | LibraryShow
    | LibraryGet
    | LibraryCall
    | ServiceStart
    | ServiceStop
    | ServiceList
)
Reply = LibraryPublished | LibraryListReply | LibraryShown | LibraryContent | ServiceListReply
