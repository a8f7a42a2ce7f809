"""The part of the local API that is about runs which other runs have caused."""

from __future__ import annotations

from orvalho.control.message import Message, tag


class Trace(Message, frozen=True, kw_only=True, tag=tag):
    """The tree that a run belongs to, as far as it is told here; `run` may be a unique prefix of
    its id. Other nodes are asked, for at most `timeout_s`. -> TraceReply"""

    run: str
    timeout_s: float = 5.0


class TracedRun(Message, frozen=True, kw_only=True):
    """One run of a tree. `parent` is the run that made the call, None for the first; `node` where
    it runs, as its caller calls that; `outcome` None while it is not known; `wall_ms` None until it
    has ended.

    `signed`: "both" where the caller's node and the run's own have signed that the one caused the
    other; "caller" where only the call says so; "running" where it has not ended; "no" where what
    was told does not hold. `problem`: why no more is known of it.
    """

    run: str
    parent: str | None
    node: str
    caller: str
    target: str
    filename: str
    state: str
    outcome: str | None
    started_at: float | None
    wall_ms: int | None
    signed: str
    problem: str | None = None


class TraceReply(Message, frozen=True, kw_only=True, tag=tag):
    """`trace` is the W3C trace id; `runs` each after the run that caused it. Those in `above` are
    not known here but for what the call says of them, outermost first."""

    trace: str
    runs: tuple[TracedRun, ...]
    above: tuple[TracedRun, ...] = ()


Request = Trace
Reply = TraceReply
