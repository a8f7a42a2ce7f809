"""The part of the local API that is about what contexts were: commits, differences, undo."""

from __future__ import annotations

from orvalho.control.message import Message, tag


class CtxLog(Message, frozen=True, kw_only=True, tag=tag):
    """The newest `limit` commits of a context, newest first. -> CtxLogReply"""

    context: str | None = None
    limit: int = 20


class CommitState(Message, frozen=True, kw_only=True):
    """`cause`: run, hand, undo, file, accept. `run`: the run that made it. `added`, `changed` and
    `gone` count paths and keys."""

    id: str
    context: str
    at: float
    author: str
    cause: str
    run: str | None
    note: str
    added: int
    changed: int
    gone: int


class CtxLogReply(Message, frozen=True, kw_only=True, tag=tag):
    """`begins_at`: what was before is not kept; None where all of it is."""

    context: str
    commits: tuple[CommitState, ...]
    begins_at: float | None


class CtxDiff(Message, frozen=True, kw_only=True, tag=tag):
    """What changed in a context between two moments: `start`, the newest commit's other side if it
    is not given, and `end`, now if it is not. -> CtxDiffReply"""

    context: str | None = None
    start: str | None = None
    end: str | None = None


class CtxShow(Message, frozen=True, kw_only=True, tag=tag):
    """What one commit, or all commits of a run, changed. -> CtxShowReply"""

    name: str


class NodeState(Message, frozen=True, kw_only=True):
    """`kind`: file, directory. `sha256` in hex. `text`: the content, of a small file of text."""

    kind: str
    sha256: str
    size_bytes: int
    text: str | None = None


class FileChanged(Message, frozen=True, kw_only=True):
    """`mark`: + ~ -"""

    path: str
    mark: str
    before: NodeState | None
    after: NodeState | None


class ValueChanged(Message, frozen=True, kw_only=True):
    """`before` and `after` are JSON texts."""

    key: str
    mark: str
    before: str | None
    after: str | None


class CtxDiffReply(Message, frozen=True, kw_only=True, tag=tag):
    """Between which commits, None for "before the first", and by path and key."""

    context: str
    start: str | None
    end: str | None
    files: tuple[FileChanged, ...]
    values: tuple[ValueChanged, ...]


class CtxShowReply(Message, frozen=True, kw_only=True, tag=tag):
    """`commits`, oldest first, and what they changed, taken together."""

    commits: tuple[CommitState, ...]
    files: tuple[FileChanged, ...]
    values: tuple[ValueChanged, ...]


class CtxUndo(Message, frozen=True, kw_only=True, tag=tag):
    """Take a commit, or all that a run committed, back. With `plan` nothing is changed.
    `context`: where a run changed several. `expected` is the `digest` of the plan that was shown.
    -> UndoPlanned with `plan`, else UndoDone"""

    name: str
    context: str | None = None
    plan: bool = False
    expected: str | None = None


class BlockState(Message, frozen=True, kw_only=True):
    """A path, or `kv:key`, that was changed since, and by which commit."""

    where: str
    author: str | None
    cause: str | None
    commit: str | None
    text: str


class UndoPlanned(Message, frozen=True, kw_only=True, tag=tag):
    """`kept`: directories that stay, since something of others is in them."""

    context: str
    commits: tuple[CommitState, ...]
    digest: str
    blocks: tuple[BlockState, ...]
    kept: tuple[str, ...]
    files: tuple[FileChanged, ...]
    values: tuple[ValueChanged, ...]


class UndoDone(Message, frozen=True, kw_only=True, tag=tag):
    context: str
    commit: str


class CtxAt(Message, frozen=True, kw_only=True, tag=tag):
    """What a context was. `verb`: ls, tree, find, cat, kv. -> PastEntries (ls, tree, find),
    PastPart, ... (cat), PastValues (kv)"""

    when: str
    verb: str
    argument: str = ""
    context: str | None = None


class PastEntry(Message, frozen=True, kw_only=True):
    """`changed_at`: when it became so, where that is still known."""

    path: str
    is_dir: bool
    size_bytes: int
    sha256: str
    changed_at: float | None


class PastEntries(Message, frozen=True, kw_only=True, tag=tag):
    context: str
    commit: str | None
    entries: tuple[PastEntry, ...]


class PastPart(Message, frozen=True, kw_only=True, tag=tag):
    """The next bytes of a file."""

    content: bytes


class PastValue(Message, frozen=True, kw_only=True):
    """`value` is a JSON text."""

    key: str
    value: str


class PastValues(Message, frozen=True, kw_only=True, tag=tag):
    context: str
    commit: str | None
    values: tuple[PastValue, ...]


class CtxGc(Message, frozen=True, kw_only=True, tag=tag):
    """Take old history away: what is older than `keep` (`30d`), and the oldest of what is more
    than `max_bytes` (`1GB`); as the settings say where one is not given. -> CtxGcReply"""

    keep: str | None = None
    max_bytes: str | None = None
    plan: bool = False


class CtxGcReply(Message, frozen=True, kw_only=True, tag=tag):
    commits: int
    versions: int
    contents: int
    contents_bytes: int
    plan: bool


class CtxDf(Message, frozen=True, kw_only=True, tag=tag):
    """What contexts hold, and their past. -> CtxDfReply"""

    context: str | None = None


class ContextDf(Message, frozen=True, kw_only=True):
    """`past_bytes`: contents that nothing but the past needs; contexts may share some."""

    name: str
    files: int
    tree_bytes: int
    values: int
    values_bytes: int
    commits: int
    past_bytes: int
    begins_at: float | None


class CtxDfReply(Message, frozen=True, kw_only=True, tag=tag):
    """`contents_bytes` is what all contents take that are kept for the history of all contexts,
    `past_bytes` the part of it that only the past needs."""

    contexts: tuple[ContextDf, ...]
    contents: int
    contents_bytes: int
    past_bytes: int


class CtxFsck(Message, frozen=True, kw_only=True, tag=tag):
    """Read all that contexts hold and held, and compare. -> CtxFsckReply"""

    context: str | None = None


class CtxFsckReply(Message, frozen=True, kw_only=True, tag=tag):
    contexts: int
    files: int
    versions: int
    contents: int
    problems: tuple[str, ...]


Request = CtxLog | CtxDiff | CtxShow | CtxUndo | CtxAt | CtxGc | CtxDf | CtxFsck
Reply = (
    CtxLogReply
    | CtxDiffReply
    | CtxShowReply
    | UndoPlanned
    | UndoDone
    | PastEntries
    | PastPart
    | PastValues
    | CtxGcReply
    | CtxDfReply
    | CtxFsckReply
)
