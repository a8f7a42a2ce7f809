"""The part of the local API that is about rules: policies, groups, and the log of decisions."""

from __future__ import annotations

from orvalho.control.message import Message, tag


class GroupList(Message, frozen=True, kw_only=True, tag=tag):
    """-> GroupListReply"""


class GroupShow(Message, frozen=True, kw_only=True, tag=tag):
    """-> GroupListReply with one group"""

    name: str


class GroupState(Message, frozen=True, kw_only=True):
    """`members`: (`ed25519:...`, the file it stands in, the peer's name or None)."""

    name: str
    members: tuple[tuple[str, str, str | None], ...]


class GroupListReply(Message, frozen=True, kw_only=True, tag=tag):
    groups: tuple[GroupState, ...]


class PolicyCheck(Message, frozen=True, kw_only=True, tag=tag):
    """Read the policy files as they are now, without using them. -> PolicyChecked"""


class PolicyChecked(Message, frozen=True, kw_only=True, tag=tag):
    """`problems`: `policy/peer.csv:7:12: unknown action "fs.raed", did you mean "fs.read"?`.
    `warnings`: `policy/peer.csv:8: @nosuch: there is no such group`."""

    files: tuple[str, ...]
    rules: int
    problems: tuple[str, ...]
    warnings: tuple[str, ...] = ()


class Audit(Message, frozen=True, kw_only=True, tag=tag):
    """The newest `limit` entries of the audit log, oldest first; with `follow`, then each new one.
    All that is given must hold: `actor` is a name, or a node for all its contexts; `action` one, or
    `fs` for all of files; `since_s` how far back, in seconds. -> AuditEntry, ..."""

    limit: int = 50
    follow: bool = False
    run: str | None = None
    actor: str | None = None
    action: str | None = None
    context: str | None = None
    allowed: bool | None = None
    since_s: float | None = None


class AuditEntry(Message, frozen=True, kw_only=True, tag=tag):
    """`cause`: what refused it where that was no rule: header, narrowed, dropped, broker, path or
    disabled. `call`: the host call of the run, `3 target.fs.write`."""

    seq: int
    at: float
    actor: str
    context: str
    action: str
    object: str
    allowed: bool
    rule: str | None
    run: str | None
    text: str
    cause: str | None = None
    call: str | None = None


class DecisionState(Message, frozen=True, kw_only=True):
    """One decision: `rule` is `file:line`, `text` the rule itself; for a refusal with no rule,
    `nearest` is the line that came closest and `suggestion` the line that would allow it.
    `unmet`: the condition on which it hung, `only if charging; now not charging`."""

    action: str
    object: str
    allowed: bool
    rule: str | None
    text: str | None
    nearest: str | None
    suggestion: str | None
    times: int
    unmet: str | None = None


Request = GroupList | GroupShow | PolicyCheck | Audit
Reply = GroupListReply | PolicyChecked | AuditEntry
