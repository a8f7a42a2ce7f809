"""The answer to `why`, in lines for a person."""

from __future__ import annotations

from collections.abc import Iterator

from orvalho.cli.output import many
from orvalho.control.messages import WhyReply
from orvalho.control.policies import DecisionState


def explanation(reply: WhyReply) -> Iterator[str]:
    """The lines for a person: the run, who asked, then each decision."""
    state = reply.state
    yield f"{state.run}  {state.filename}  {state.outcome or state.state}"
    yield f"  caller     {state.caller}  {reply.caller_key}"
    yield f"  target     {state.target}"
    yield f"  signature  {reply.signature}"
    yield f"  road       {reply.road}"
    yield f"  roles      {', '.join(reply.roles) or 'none'}"
    for decision in reply.decisions:
        yield from _decision(decision)


def _decision(decision: DecisionState) -> Iterator[str]:
    times = f"  ({many(decision.times, 'time')})" if decision.times > 1 else ""
    verdict = "allowed" if decision.allowed else "refused"
    yield f"  {verdict}    {decision.action} {decision.object}{times}"
    if decision.rule is not None:
        yield f"    rule     {decision.rule}  {decision.text or ''}".rstrip()
    elif not decision.allowed:
        yield "    rule     none speaks for it"
    if decision.unmet is not None:
        yield f"    hangs    {decision.unmet}"
    if decision.nearest is not None:
        yield f"    nearest  {decision.nearest}"
    if decision.suggestion is not None:
        yield f"    to allow {decision.suggestion}"
