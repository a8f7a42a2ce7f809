"""The part of the local API that tries rules out: tests, layout, drafts, and rehearsal."""

from __future__ import annotations

from orvalho.control.message import Message, tag


class PolicyFile(Message, frozen=True, kw_only=True):
    """A file of rules: `name` is its last part, `peer.csv`."""

    name: str
    content: bytes


class PolicyDiff(Message, frozen=True, kw_only=True, tag=tag):
    """Rehearse other rules on the requests since `since_s` seconds ago: `files` in place of those
    of the same names, or, with `whole`, of all files. -> PolicyDiffed"""

    files: tuple[PolicyFile, ...]
    since_s: int
    whole: bool = False


class PolicyUnused(Message, frozen=True, kw_only=True, tag=tag):
    """Which rules no request since `since_s` seconds ago needed. -> PolicyUnusedReply"""

    since_s: int


class ChangedRequests(Message, frozen=True, kw_only=True):
    """Requests of one asker whose answer changes in the same way. `objects` are the first few of
    `distinct`; `before` and `after` are the rules that decide, `file:line: text`, or None."""

    actor: str
    context: str
    action: str
    objects: tuple[str, ...]
    distinct: int
    times: int
    before: str | None
    after: str | None


class Skipped(Message, frozen=True, kw_only=True):
    """How many requests could not be rehearsed, and why."""

    reason: str
    times: int


class PolicyDiffed(Message, frozen=True, kw_only=True, tag=tag):
    """`requests`: how many were rehearsed. `refused_count` of them are allowed now and would have
    been refused, `allowed_count` the other way round; the groups are the largest 100 of each.
    `added`: files that stand in no other's place."""

    requests: int
    since_s: int
    refused_count: int
    allowed_count: int
    refused: tuple[ChangedRequests, ...]
    allowed: tuple[ChangedRequests, ...]
    skipped: tuple[Skipped, ...]
    added: tuple[str, ...] = ()


class IdleRule(Message, frozen=True, kw_only=True):
    """`rule` is `file:line`, `text` the rule itself."""

    rule: str
    text: str


class PolicyUnusedReply(Message, frozen=True, kw_only=True, tag=tag):
    """The rules that decided none of `requests`."""

    requests: int
    since_s: int
    rules: int
    allow: tuple[IdleRule, ...]
    deny: tuple[IdleRule, ...]
    skipped: tuple[Skipped, ...]


# ---- told by the daemon's own program, with no daemon: the files are all it takes -----------


class RuleTestState(Message, frozen=True, kw_only=True):
    """One `#?` line: `test` is `file:line`, `text` what it expects, `by` the rule that decided."""

    test: str
    text: str
    passed: bool
    by: str


class PolicyTested(Message, frozen=True, kw_only=True, tag=tag):
    """What came of each test. With `problems` (lines that are broken) none was asked."""

    passed: int
    failed: int
    tests: tuple[RuleTestState, ...]
    problems: tuple[str, ...]


class PolicyFormatted(Message, frozen=True, kw_only=True, tag=tag):
    """`changed`: the files that were laid out anew, or would be; `problems`: those that have
    mistakes, and are left as they are."""

    files: int
    changed: tuple[str, ...]
    problems: tuple[str, ...]


class PolicyDrafted(Message, frozen=True, kw_only=True, tag=tag):
    """A copy of a file of rules, to be edited. `was`: the SHA-256 of the file it was made from, in
    hex, empty for none. `kept`: it is one that was left from an earlier edit."""

    name: str
    draft: str
    was: str
    kept: bool = False


class PolicyInstalled(Message, frozen=True, kw_only=True, tag=tag):
    """`installed`: the draft stands in the file's place now, and is gone. `problems` kept it from
    that, and `draft` is where it is kept; with neither, it said nothing new, and is gone. With
    `installed`, `problems` are those of other files, which were there before."""

    name: str
    installed: bool
    problems: tuple[str, ...] = ()
    draft: str | None = None


Request = PolicyDiff | PolicyUnused
Reply = PolicyDiffed | PolicyUnusedReply
