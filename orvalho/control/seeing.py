"""The local API's words for seeing the road: ping, netcheck, files, reports. See `messages`."""

from __future__ import annotations

from orvalho.control import asking
from orvalho.control.message import Message, tag

# ---- requests -----------------------------------------------------------------------------


class Ping(Message, frozen=True, kw_only=True, tag=tag):
    """Live round trips to a peer. `count`: how many (None: until one goes directly, at most
    ten). `timeout_s`: how long a peer that is away may take to come, and an answer. -> Pong, ..."""

    name: str
    count: int | None = None
    timeout_s: float = 5.0


class Netcheck(Message, frozen=True, kw_only=True, tag=tag):
    """Which ways there are: of this machine, of this node, to each peer. -> NetcheckReply"""

    timeout_s: float = 5.0


class FileSend(Message, frozen=True, kw_only=True, tag=tag):
    """Send the file at `path` (absolute, on this machine) into a context's tree.

    `to`: `phone2` or `ctx@phone2`, or a name of several. `directory`: where it shall lie there.
    `wait`: for a target that is away, in place of queueing it. `context`: which of our contexts
    sends. -> FileProgress, ..., FileSent or FileQueued; for several a FilePlaced first, then one
    of these or NotSent for each."""

    path: str
    to: str
    directory: str = "/inbox"
    context: str | None = None
    wait: bool = False


class FileList(Message, frozen=True, kw_only=True, tag=tag):
    """Files that wait for a device that is off, and what became of others. -> FileListReply"""


class FileCancel(Message, frozen=True, kw_only=True, tag=tag):
    """Take back a file that waits; `file` may be a unique prefix of its id. -> Note"""

    file: str


class Bugreport(Message, frozen=True, kw_only=True, tag=tag):
    """Everything that helps to find a fault, with what names people and places taken out.
    -> Report"""


class Metrics(Message, frozen=True, kw_only=True, tag=tag):
    """What the daemon has counted since it started. -> MetricsReply"""


class Bench(Message, frozen=True, kw_only=True, tag=tag):
    """Measure round trips and one-way messages of `size_bytes` to a peer (None: this daemon's
    control socket alone), for about `duration_s` each; and each of `transports` alone, on this
    machine, for as long in all. -> BenchReply"""

    peer: str | None = None
    size_bytes: int = 256
    duration_s: float = 2.0
    transports: tuple[str, ...] = ()


class Echo(Message, frozen=True, kw_only=True, tag=tag):
    """-> Done, at once: what a request over the control socket costs."""


# ---- replies ------------------------------------------------------------------------------


class Pong(Message, frozen=True, kw_only=True, tag=tag):
    """`rtt_ms` is None when no answer came; `level` is then warn. `path` is the way it took."""

    peer: str
    number: int
    path: str
    rtt_ms: float | None
    at: float
    level: str
    text: str


class Interface(Message, frozen=True, kw_only=True):
    """One network interface that has addresses."""

    name: str
    addresses: tuple[str, ...]


class AddressCheck(Message, frozen=True, kw_only=True):
    """`took_ms`: how long the handshake took, None when it failed; `problem` says why."""

    address: str
    took_ms: float | None
    problem: str | None = None


class PeerCheck(Message, frozen=True, kw_only=True):
    """`clock_ahead_ms`: how far the peer's clock is ahead of ours, None when it is not linked;
    right to within half of `rtt_ms`."""

    name: str
    state: str
    paths: tuple[str, ...]
    rtt_ms: float | None
    clock_ahead_ms: float | None
    addresses: tuple[AddressCheck, ...]


class NetcheckReply(Message, frozen=True, kw_only=True, tag=tag):
    """`multicast`: the interfaces over which a datagram to a group came back; `proxies`: the
    variables of the environment that name one, which links do not use."""

    interfaces: tuple[Interface, ...]
    ipv4: bool
    ipv6: bool
    multicast: tuple[str, ...]
    proxies: tuple[str, ...]
    listening: tuple[AddressCheck, ...]
    peers: tuple[PeerCheck, ...]


class Choice(Message, frozen=True, kw_only=True):
    """A context that a name stands for now, and why: its labels, its path, its round trip."""

    to: str
    why: str


class FileProgress(Message, frozen=True, kw_only=True, tag=tag):
    """`sent_bytes` lie durably or soon will at the target. `state`: sending, or waiting for a
    target that is away. `resumed_bytes`: how much lay there before we began."""

    to: str
    state: str
    sent_bytes: int
    size_bytes: int
    resumed_bytes: int = 0


class FileSent(Message, frozen=True, kw_only=True, tag=tag):
    """The file lies whole at `to`:`path`, and its hash was compared. `changed` is false when it
    lay there already."""

    to: str
    path: str
    size_bytes: int
    sha256: str
    took_ms: int
    sent_bytes: int
    changed: bool


class FileQueued(Message, frozen=True, kw_only=True, tag=tag):
    """The target is away: the file at `path` here waits for it, at the node `queued_at`, until
    `expires_at`, and is sent as it is now or not at all."""

    to: str
    file: str
    path: str
    size_bytes: int
    sha256: str
    queued_at: str
    expires_at: float


class FilePlaced(Message, frozen=True, kw_only=True, tag=tag):
    """Where a file for a name of several goes. `several`: to each of them."""

    name: str
    several: bool
    choices: tuple[Choice, ...]


class QueuedFile(Message, frozen=True, kw_only=True):
    """`state`: sending, waiting, sent, failed, expired, cancelled. `path` is here; `text` says
    where it lies now, or why it does not. `until`: when it expires, or is told no longer."""

    file: str
    path: str
    to: str
    size_bytes: int
    state: str
    text: str
    queued_at: float
    until: float


class FileListReply(Message, frozen=True, kw_only=True, tag=tag):
    files: tuple[QueuedFile, ...]


class Report(Message, frozen=True, kw_only=True, tag=tag):
    """`text` is the whole report; `redacted` counts what was taken out, by kind."""

    text: str
    redacted: dict[str, int]


class Measured(Message, frozen=True, kw_only=True):
    """One row of a bench: `what` was sent `count` times; latencies are None for one-way."""

    what: str
    path: str
    count: int
    per_second: float
    p50_ms: float | None
    p99_ms: float | None


class MetricsReply(Message, frozen=True, kw_only=True, tag=tag):
    """Each counter by its name, `envelopes.repeated`; refusals stand with their reason."""

    up_s: int
    rss_bytes: int
    counters: dict[str, int]


class Loopback(Message, frozen=True, kw_only=True):
    """One transport between two nodes of one process, over real sockets on this machine."""

    transport: str
    path: str
    messages_per_second: float
    round_trips: int
    p50_ms: float
    p99_ms: float
    stream_mb_per_second: float


class BenchReply(Message, frozen=True, kw_only=True, tag=tag):
    rows: tuple[Measured, ...]
    transports: tuple[Loopback, ...] = ()


class ScriptPlaced(Message, frozen=True, kw_only=True, tag=tag):
    """Where a script for a name of several goes. `several`: each of them runs it. `others`: who
    was not chosen, and why not."""

    name: str
    several: bool
    choices: tuple[Choice, ...]
    others: tuple[Choice, ...] = ()


class NotSent(Message, frozen=True, kw_only=True, tag=tag):
    """One of several targets that a script was not sent to; the error part by part."""

    to: str
    code: str
    message: str
    where: str | None = None
    rule: str | None = None
    hint: str | None = None
    peer: str | None = None
    detail: str | None = None


class Member(Message, frozen=True, kw_only=True):
    """One node that a name stands for; as in Resolved."""

    name: str
    node: str
    node_key: str
    context: str | None
    context_key: str | None
    state: str
    path: str
    labels: tuple[str, ...] = ()
    why: str = ""


class ResolvedAll(Message, frozen=True, kw_only=True, tag=tag):
    """What a name of several stands for; `chosen` is the one that `any` would take now."""

    name: str
    members: tuple[Member, ...]
    chosen: str | None = None


Request = (
    Ping
    | Netcheck
    | FileSend
    | FileList
    | FileCancel
    | Bugreport
    | Metrics
    | Bench
    | Echo
    | asking.Request
)
Reply = (
    Pong
    | NetcheckReply
    | FileProgress
    | FileSent
    | FileQueued
    | FilePlaced
    | FileListReply
    | Report
    | MetricsReply
    | BenchReply
    | ScriptPlaced
    | NotSent
    | ResolvedAll
    | asking.Reply
)
