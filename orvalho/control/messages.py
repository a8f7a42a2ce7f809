"""The whole local API as Structs: what a client may ask the daemon, and what comes back.

On the socket each message is one JSON object on one line, its kind in `type`. A client sends one
request; the daemon answers with any number of replies and then `Done` or `Failed`. Moments
(`*_at`) are Unix seconds; the CLI shows them in RFC 3339. Sizes are bytes, `*_ms` milliseconds.
"""

from __future__ import annotations

import msgspec

from orvalho.control import (
    grants,
    libraries,
    logic,
    mesh,
    metering,
    pairing,
    past,
    planning,
    policies,
    policy_tools,
    replaying,
    road,
    schemas,
    seeing,
    storage,
    tracing,
    why,
)
from orvalho.control.message import Message as Message  # noqa: PLC0414 -- exported again
from orvalho.control.message import tag as _tag
from orvalho.control.planning import RunHeld as RunHeld  # noqa: PLC0414 -- exported again


def _null() -> msgspec.Raw:
    return msgspec.Raw(b"null")


# ---- requests -----------------------------------------------------------------------------


class Status(Message, frozen=True, kw_only=True, tag=_tag):
    """One line about this node, and one a peer. -> StatusReply"""


class DaemonStop(Message, frozen=True, kw_only=True, tag=_tag):
    """End the daemon once running scripts have ended, or after `grace_s`. -> Done"""

    grace_s: float = 5.0


class ContextNew(Message, frozen=True, kw_only=True, tag=_tag):
    """Make a context: key, tree, policy file. -> Note"""

    name: str


class ContextList(Message, frozen=True, kw_only=True, tag=_tag):
    """-> ContextListReply"""


class ContextFiles(Message, frozen=True, kw_only=True, tag=_tag):
    """What lies under a path of the owner's own view: `/` is one directory a context.
    -> FilesReply"""

    path: str = "/"


class PeerInvite(Message, frozen=True, kw_only=True, tag=_tag):
    """One pasteable ticket. `guest`: the other device is another person's. -> Ticket"""

    guest: bool = False
    expires_s: int = 3600


class PeerAdd(Message, frozen=True, kw_only=True, tag=_tag):
    """Redeem a ticket. `name`: call the other node so here, instead of what it calls itself.
    -> PeerAdded"""

    ticket: str
    guest: bool = False
    name: str | None = None


class PeerList(Message, frozen=True, kw_only=True, tag=_tag):
    """-> PeerListReply"""


class PeerRemove(Message, frozen=True, kw_only=True, tag=_tag):
    """Forget a peer: its key is refused from now on. -> Note"""

    name: str


class Resolve(Message, frozen=True, kw_only=True, tag=_tag):
    """What a name means here. -> Resolved"""

    name: str


class ScriptSend(Message, frozen=True, kw_only=True, tag=_tag):
    """Sign a script and send it.

    `source`, `module`, `needs` and `modules` are as in ScriptCheck. `locked`: path -> digest of
    the target's libraries that the sender's lock names, None without one. `params` is any JSON
    value. `expose` are paths of our own context the run may read (`/notes`) or also write
    (`/notes:rw`). `grants`: texts or ids of grants that go with it, of those kept here if there are
    none. `deny` are capabilities that the script is not to have, whatever its header says: it goes
    into the signed call. `context`: which of our contexts is the caller (None: the first one).
    Streams RunQueued, then RunOutput as it comes, then RunEnded, or RunHeld where the target's
    owner is to look at it first; with `plan` nothing is done, and RunEnded says what would be; with
    `detach`, ends after
    RunQueued; when the target cannot be reached and `wait` is false, ends after a second RunQueued
    whose `state` is "queued".
    """

    to: str
    filename: str
    source: str
    module: bytes = b""
    needs: str | None = None
    params: msgspec.Raw = msgspec.Raw(b"null")
    expose: tuple[str, ...] = ()
    context: str | None = None
    expires_s: int = 7 * 86400
    wait: bool = False
    detach: bool = False
    modules: dict[str, str] = msgspec.field(default_factory=dict)
    locked: dict[str, str] | None = None
    plan: bool = False
    grants: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()


class ScriptList(Message, frozen=True, kw_only=True, tag=_tag):
    """The newest runs, sent and received. -> ScriptListReply"""

    limit: int = 50


class ScriptShow(Message, frozen=True, kw_only=True, tag=_tag):
    """One run; `run` may be a unique prefix of its id. -> ScriptShowReply"""

    run: str


class ScriptLogs(Message, frozen=True, kw_only=True, tag=_tag):
    """Its log lines. `follow`: go on until it has ended. -> RunOutput, ..."""

    run: str
    follow: bool = False


class ScriptResult(Message, frozen=True, kw_only=True, tag=_tag):
    """Its result; waits for it with `wait`. -> RunEnded, or RunQueued while there is none"""

    run: str
    wait: bool = False


class ScriptCancel(Message, frozen=True, kw_only=True, tag=_tag):
    """Stop a run, or take it back from the outbox. -> Note"""

    run: str


class Why(Message, frozen=True, kw_only=True, tag=_tag):
    """Each decision that was made for a run. -> WhyReply"""

    run: str


class WorkerList(Message, frozen=True, kw_only=True, tag=_tag):
    """-> WorkerListReply"""


class ConfigShow(Message, frozen=True, kw_only=True, tag=_tag):
    """-> ConfigReply"""


class ConfigSet(Message, frozen=True, kw_only=True, tag=_tag):
    """Write `key = value` (TOML) to config.toml and use it at once. -> Note"""

    key: str
    value: str


class ConfigUnset(Message, frozen=True, kw_only=True, tag=_tag):
    """Take a setting out of config.toml, which leaves its default or what stands elsewhere.
    -> Note"""

    key: str


class Doctor(Message, frozen=True, kw_only=True, tag=_tag):
    """-> DoctorReply"""


class Complete(Message, frozen=True, kw_only=True, tag=_tag):
    """What a word on the command line may become. `kind`: target, peer, context, group, run,
    library, key (of the configuration), or path (`text` is `target:/path`). -> Completions"""

    kind: str
    text: str


Request = (
    Status
    | storage.Request
    | DaemonStop
    | ContextNew
    | ContextList
    | ContextFiles
    | PeerInvite
    | PeerAdd
    | pairing.PairShow
    | pairing.PairJoin
    | pairing.NodePending
    | pairing.NodeApprove
    | pairing.NodeReject
    | pairing.KeyShow
    | pairing.KeyPhrase
    | pairing.KeyRotate
    | PeerList
    | PeerRemove
    | mesh.PeerSet
    | mesh.PeerRename
    | mesh.PeerRevoke
    | mesh.Nodes
    | road.NatsConfig
    | logic.ScriptImports
    | logic.LogicShow
    | Resolve
    | logic.ScriptCheck
    | ScriptSend
    | ScriptList
    | ScriptShow
    | ScriptLogs
    | ScriptResult
    | ScriptCancel
    | Why
    | WorkerList
    | road.TransportList
    | ConfigShow
    | ConfigSet
    | ConfigUnset
    | road.DepotList
    | road.DepotRemove
    | Doctor
    | Complete
    | seeing.Request
    | libraries.Request
    | metering.Request
    | policies.Request
    | planning.Request
    | grants.Request
    | policy_tools.Request
    | schemas.Request
    | why.Request
    | tracing.Request
    | past.Request
    | replaying.Request
)


# ---- replies ------------------------------------------------------------------------------


class Done(Message, frozen=True, kw_only=True, tag=_tag):
    """The last reply, when all went well."""


class Failed(Message, frozen=True, kw_only=True, tag=_tag):
    """The last reply, when it did not: an `orvalho.errors` class by its `code`."""

    code: str
    message: str
    where: str | None = None
    rule: str | None = None
    hint: str | None = None
    peer: str | None = None
    detail: str | None = None


class Note(Message, frozen=True, kw_only=True, tag=_tag):
    """A sentence for a person. `changed` is false for "already ..."."""

    text: str
    changed: bool = True


class PeerState(Message, frozen=True, kw_only=True):
    """`state`: online, offline, or of a peer that refuses our key: waiting (to be approved there),
    revoked, refused. `path`: `direct 127.0.0.1:4455`, or how it would be reached.
    `relation`: own (the same owner's) or guest. `key` is `ed25519:...`. `queued_at`: which other
    nodes keep some of what is queued, and how much."""

    name: str
    key: str
    relation: str
    state: str
    path: str
    contexts: tuple[str, ...]
    check_words: str
    added_at: float
    introduced: str
    last_seen_at: float | None
    queued: int
    queued_at: dict[str, int] = msgspec.field(default_factory=dict)


class StatusReply(Message, frozen=True, kw_only=True, tag=_tag):
    """`runs` go on here now, `held` wait for the owner to look at them."""

    node: str
    key: str
    version: str
    pid: int
    started_at: float
    listening: tuple[str, ...]
    contexts: tuple[str, ...]
    peers: tuple[PeerState, ...]
    runs: int
    problems: tuple[str, ...]
    held: int = 0


class ContextState(Message, frozen=True, kw_only=True):
    name: str
    key: str
    files: int
    used_bytes: int
    quota_files: int
    quota_bytes: int
    worker: int | None


class ContextListReply(Message, frozen=True, kw_only=True, tag=_tag):
    contexts: tuple[ContextState, ...]


class FileState(Message, frozen=True, kw_only=True):
    name: str
    is_dir: bool
    size_bytes: int
    modified_at: float | None


class FilesReply(Message, frozen=True, kw_only=True, tag=_tag):
    path: str
    entries: tuple[FileState, ...]


class Ticket(Message, frozen=True, kw_only=True, tag=_tag):
    ticket: str
    expires_at: float
    guest: bool


class PeerAdded(Message, frozen=True, kw_only=True, tag=_tag):
    """`held`: its owner has yet to approve of us."""

    peer: PeerState
    changed: bool
    held: bool = False


class PeerListReply(Message, frozen=True, kw_only=True, tag=_tag):
    peers: tuple[PeerState, ...]


class Resolved(Message, frozen=True, kw_only=True, tag=_tag):
    """`context_key` and `context` are None when the name is a node's alone."""

    name: str
    node: str
    node_key: str
    context: str | None
    context_key: str | None
    state: str
    path: str


class RunQueued(Message, frozen=True, kw_only=True, tag=_tag):
    """The run is durable here. `state`: sending, or queued when the target cannot be reached; in
    answer to ScriptResult, as in RunState; away when the target has it and has gone since.
    `queued_at`: the node that keeps it for the target, or the target."""

    run: str
    to: str
    state: str
    queued_at: str
    expires_at: float


class RunOutput(Message, frozen=True, kw_only=True, tag=_tag):
    """One line of the guest's. `level`: debug, log, info, warn, error."""

    run: str
    seq: int
    level: str
    text: str
    at: float


class Usage(Message, frozen=True, kw_only=True):
    wall_ms: int = 0
    cpu_ms: int = 0
    memory_bytes: int = 0
    output_bytes: int = 0
    host_calls: int = 0
    read_bytes: int = 0
    written_bytes: int = 0
    network_bytes: int = 0


class RunEnded(Message, frozen=True, kw_only=True, tag=_tag):
    """How it ended. `outcome`: done, failed, refused, limited, cancelled, interrupted, expired,
    rejected, planned: then `plan` says what it would have done.
    `result` is JSON; `result_bytes` (base64) is set instead when the script returned bytes.
    `error` is set unless the outcome is done."""

    run: str
    outcome: str
    result: msgspec.Raw = msgspec.field(default_factory=_null)
    result_bytes: bytes | None = None
    error: Failed | None = None
    usage: Usage = Usage()
    plan: planning.PlanState | None = None


class RunState(Message, frozen=True, kw_only=True):
    """`direction`: sent or received. `state`: queued, sent, running, ended."""

    run: str
    direction: str
    caller: str
    target: str
    filename: str
    digest: str
    state: str
    outcome: str | None
    created_at: float
    ended_at: float | None
    wall_ms: int | None


class ScriptListReply(Message, frozen=True, kw_only=True, tag=_tag):
    runs: tuple[RunState, ...]


class ScriptShowReply(Message, frozen=True, kw_only=True, tag=_tag):
    """`receipt` is the signed payload; `receipt_by` the key whose signature held. `modules` are
    the script's other files, path -> digest; `sent_bytes` is the size of the envelope's body, for
    a run that was sent."""

    state: RunState
    needs: tuple[str, ...]
    params_bytes: int
    expires_at: float
    error: Failed | None
    receipt: msgspec.Raw = msgspec.field(default_factory=_null)
    receipt_by: str | None = None
    modules: dict[str, str] = msgspec.field(default_factory=dict)
    sent_bytes: int | None = None


class WhyReply(Message, frozen=True, kw_only=True, tag=_tag):
    """`chain` is what a request passes, in order, and `explained` each decision with the rules that
    were tried: both as far as this node knows them. `shared`: full where the run was decided here,
    else what its target tells: decisions, outcome or nothing. `edit`: what would have let the run
    itself through, where that is no rule."""

    state: RunState
    caller_key: str
    signature: str
    road: str
    roles: tuple[str, ...]
    decisions: tuple[policies.DecisionState, ...]
    error: Failed | None
    chain: tuple[why.Link, ...] = ()
    explained: tuple[why.Explained, ...] = ()
    shared: str = "full"
    edit: why.Edit | None = None


class WorkerState(Message, frozen=True, kw_only=True):
    worker: int
    pid: int
    contexts: tuple[str, ...]
    running: int
    runs: int
    started_at: float
    rss_bytes: int


class WorkerListReply(Message, frozen=True, kw_only=True, tag=_tag):
    workers: tuple[WorkerState, ...]


class Setting(Message, frozen=True, kw_only=True):
    """`origin`: default, `config.toml:3`, `conf.d/10-q.toml:1`, `ORVALHO_LISTEN`, or a flag."""

    key: str
    value: str
    origin: str


class ConfigReply(Message, frozen=True, kw_only=True, tag=_tag):
    settings: tuple[Setting, ...]


class Finding(Message, frozen=True, kw_only=True):
    """`level`: ok, warning, problem."""

    level: str
    text: str
    hint: str | None = None


class DoctorReply(Message, frozen=True, kw_only=True, tag=_tag):
    findings: tuple[Finding, ...]


class Completions(Message, frozen=True, kw_only=True, tag=_tag):
    words: tuple[str, ...]


Reply = (
    Done
    | storage.Reply
    | Failed
    | Note
    | StatusReply
    | ContextListReply
    | FilesReply
    | Ticket
    | PeerAdded
    | pairing.PairShown
    | pairing.PairTried
    | pairing.PairArrived
    | pairing.NodePendingReply
    | pairing.KeyReply
    | pairing.KeyPhraseReply
    | pairing.KeyRotated
    | PeerListReply
    | mesh.NodesReply
    | road.NatsConfigured
    | logic.ScriptImportsReply
    | logic.LogicReply
    | Resolved
    | logic.ScriptChecked
    | RunQueued
    | RunOutput
    | RunEnded
    | ScriptListReply
    | ScriptShowReply
    | WhyReply
    | WorkerListReply
    | road.TransportListReply
    | ConfigReply
    | road.DepotListReply
    | DoctorReply
    | Completions
    | seeing.Reply
    | libraries.Reply
    | metering.Reply
    | policies.Reply
    | planning.Reply
    | grants.Reply
    | policy_tools.Reply
    | schemas.Reply
    | why.Reply
    | tracing.Reply
    | past.Reply
    | replaying.Reply
)
