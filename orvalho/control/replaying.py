"""The part of the local API that makes runs again from what was recorded of them."""

from __future__ import annotations

from orvalho.control.message import Message, tag


class Replay(Message, frozen=True, kw_only=True, tag=tag):
    """Make a run again that ran here, by its id or the beginning of it; or the one in an exported
    file's `content`. -> Replayed"""

    run: str = ""
    content: bytes | None = None
    with_calls: bool = False


class ReplayExport(Message, frozen=True, kw_only=True, tag=tag):
    """All that it takes to make a run again on another device. -> ReplayFile"""

    run: str


class ReplayFile(Message, frozen=True, kw_only=True, tag=tag):
    run: str
    content: bytes


class ReplayedCall(Message, frozen=True, kw_only=True):
    """`argument` is a JSON list, `answer` JSON; both are cut where they are long."""

    number: int
    operation: str
    argument: str
    answer: str | None
    is_error: bool


class ReplayDifference(Message, frozen=True, kw_only=True):
    """The first. `what`: call, line, outcome, result, turn, clock or chance; `number` counts from
    1, and is 0 where there is but one; `recorded` and `now` are null for nothing."""

    what: str
    number: int
    operation: str
    recorded: str | None
    now: str | None


class Replayed(Message, frozen=True, kw_only=True, tag=tag):
    """`signed_by` is the node whose receipt it is, in words: this node, a peer's name, or a key;
    `stopped` the limit that ended the run, up to which it was compared."""

    run: str
    filename: str
    caller: str
    target: str
    signed_by: str
    outcome: str
    ran_at: float
    deterministic: bool
    difference: ReplayDifference | None
    stopped: str | None
    host_calls: int
    clock_readings: int
    lines: int
    wall_ms: int
    calls: tuple[ReplayedCall, ...] = ()


Request = Replay | ReplayExport
Reply = Replayed | ReplayFile
