"""The local API's words for what is used, and by whom: quotas, usage, events, and who is in which
group. See `messages`."""

from __future__ import annotations

from orvalho.control.message import Message, tag

# ---- requests -----------------------------------------------------------------------------


class Quota(Message, frozen=True, kw_only=True, tag=tag):
    """What each group and all senders together may use, and have used. -> QuotaReply"""


class UsageSum(Message, frozen=True, kw_only=True, tag=tag):
    """What runs used here, added up. `by`: key, group or context. `since_s`: of so many last
    seconds (None: of all time). -> UsageReply"""

    by: str = "key"
    since_s: float | None = None


class Events(Message, frozen=True, kw_only=True, tag=tag):
    """What was kept of the last `since_s` seconds, oldest first; with `follow`, then each new
    event. -> Event, ..."""

    since_s: float = 0.0
    follow: bool = False


class GroupAdd(Message, frozen=True, kw_only=True, tag=tag):
    """Put the key of `peer` (a node, a context or `ed25519:...`) into a group. -> Note"""

    name: str
    peer: str


class GroupRemove(Message, frozen=True, kw_only=True, tag=tag):
    """Take the key of `peer` out of a group. -> Note"""

    name: str
    peer: str


# ---- replies ------------------------------------------------------------------------------


class QuotaState(Message, frozen=True, kw_only=True):
    """One quota: `total`, or a group's name. A limit of None is "none". Processor time and network
    bytes are what was used within the last `window_s`, and the rest is under way now; `room_at`:
    when the oldest use leaves the window. `queue`: who is over it waits."""

    name: str
    cpu_ms: int
    cpu_limit_ms: int | None
    network_bytes: int
    network_limit_bytes: int | None
    memory_bytes: int
    memory_limit_bytes: int | None
    cores_limit: int | None
    running: int
    runs_limit: int | None
    waiting: int
    window_s: float
    room_at: float | None
    queue: bool


class QuotaReply(Message, frozen=True, kw_only=True, tag=tag):
    """`problems`: quotas of groups that are not there."""

    quotas: tuple[QuotaState, ...]
    problems: tuple[str, ...] = ()


class Used(Message, frozen=True, kw_only=True):
    """The runs of one key, group or context. `names`: what a key's callers were called.
    `memory_bytes` is the highest peak; all else is added up."""

    of: str
    names: tuple[str, ...]
    runs: int
    wall_ms: int
    cpu_ms: int
    memory_bytes: int
    output_bytes: int
    host_calls: int
    read_bytes: int
    written_bytes: int
    network_bytes: int


class UsageReply(Message, frozen=True, kw_only=True, tag=tag):
    """`note` says how runs were counted, where they count more than once."""

    by: str
    rows: tuple[Used, ...]
    note: str | None = None


class EventUsage(Message, frozen=True, kw_only=True):
    """What a run used: as in its receipt."""

    wall_ms: int = 0
    cpu_ms: int = 0
    memory_bytes: int = 0
    output_bytes: int = 0
    host_calls: int = 0
    read_bytes: int = 0
    written_bytes: int = 0
    network_bytes: int = 0


class Event(Message, frozen=True, kw_only=True, tag=tag):
    """One event. `kind`: script.received, script.decided, script.started, script.ended (one a
    receipt), script.refused (its signature did not hold: it is no run), access.decided,
    file.decided, peer.linked, peer.lost, events.lost.

    `requester` is who asked, `key` the key that signed, `node_key` its node's; `digest` is the
    script's SHA-256, `rule` the `file:line` that decided, `limit` what ended it, `lost` how many
    events this reader was too slow for."""

    kind: str
    at: float
    level: str
    text: str
    run: str | None = None
    requester: str | None = None
    key: str | None = None
    node_key: str | None = None
    groups: tuple[str, ...] = ()
    digest: str | None = None
    filename: str | None = None
    context: str | None = None
    action: str | None = None
    object: str | None = None
    allowed: bool | None = None
    rule: str | None = None
    outcome: str | None = None
    limit: str | None = None
    usage: EventUsage | None = None
    lost: int | None = None


Request = Quota | UsageSum | Events | GroupAdd | GroupRemove
Reply = QuotaReply | UsageReply | Event
