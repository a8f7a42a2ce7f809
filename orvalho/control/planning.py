"""The part of the local API that is about plans: what a script would do, and those that wait for
the owner's word."""

from __future__ import annotations

import msgspec

from orvalho.control.message import Message, tag


class InboxList(Message, frozen=True, kw_only=True, tag=tag):
    """The runs that wait here for the owner's word. -> InboxReply"""


class InboxShow(Message, frozen=True, kw_only=True, tag=tag):
    """One of them, by its id or the beginning of it. -> InboxShown"""

    run: str


class InboxAccept(Message, frozen=True, kw_only=True, tag=tag):
    """Do exactly what was planned. -> Note, or Failed `conflict` when the plan is void"""

    run: str


class InboxReject(Message, frozen=True, kw_only=True, tag=tag):
    """Do nothing of it, and tell its sender why. -> Note"""

    run: str
    reason: str = ""


class PlannedFile(Message, frozen=True, kw_only=True):
    """One path. `mark`: + added, ~ changed, - gone. `diff` is a unified diff of text; where there
    is none, `why` says why."""

    path: str
    mark: str
    is_directory: bool = False
    before_bytes: int | None = None
    after_bytes: int | None = None
    after_sha256: str | None = None
    diff: str | None = None
    why: str | None = None


class PlannedValue(Message, frozen=True, kw_only=True):
    """One key of the store; `before` and `after` are JSON texts, null for no value."""

    key: str
    mark: str
    before: str | None = None
    after: str | None = None
    why: str | None = None


class PlannedCall(Message, frozen=True, kw_only=True):
    """A call that reaches beyond the target, and was not made. `argument` is a JSON list."""

    call: str
    argument: str


class PlanState(Message, frozen=True, kw_only=True):
    """What a script would do. `left_out` counts changes beyond those listed; `held_by` is the
    `file:line` by which the target's owner would look at it first, where the target tells that."""

    files: tuple[PlannedFile, ...] = ()
    values: tuple[PlannedValue, ...] = ()
    not_run: tuple[PlannedCall, ...] = ()
    left_out: int = 0
    held_by: str | None = None


class RunHeld(Message, frozen=True, kw_only=True, tag=tag):
    """The target's owner is to look at the run before anything comes of it."""

    run: str
    to: str
    state: str = "held"


class HeldState(Message, frozen=True, kw_only=True):
    """A run that waits. `rule` is the `file:line` that held it; `files` and `values` count what it
    would change."""

    run: str
    caller: str
    target: str
    filename: str
    digest: str
    held_at: float
    rule: str | None
    files: int
    values: int


class InboxReply(Message, frozen=True, kw_only=True, tag=tag):
    held: tuple[HeldState, ...]


class InboxShown(Message, frozen=True, kw_only=True, tag=tag):
    """`source` is None for a module. `params` and `result` are JSON; `result` is null also where
    the script returned bytes. `rule_text` is the rule that held it, as it stood then;
    `refused_now` are the rights, of those that it needs or used, which today's rules refuse."""

    state: HeldState
    source: str | None
    needs: tuple[str, ...]
    params: msgspec.Raw
    plan: PlanState
    result: msgspec.Raw
    output: tuple[str, ...]
    rights: tuple[str, ...]
    rule_text: str | None = None
    refused_now: tuple[str, ...] = ()


Request = InboxList | InboxShow | InboxAccept | InboxReject
Reply = RunHeld | InboxReply | InboxShown
