"""`orvalho trace`: the tree of runs that one run belongs to, across nodes."""

from __future__ import annotations

from collections.abc import Iterator

import click

from orvalho.cli.arguments import Duration
from orvalho.cli.output import milliseconds
from orvalho.cli.replies import plain
from orvalho.cli.session import Session
from orvalho.cli.tree import Verb
from orvalho.control.tracing import Trace, TracedRun, TraceReply

_SIGNED = {
    "both": "signed both ways",
    "caller": "signed by its caller",
    "running": "not signed yet",
    "no": "NOT PROVEN: its receipt does not hold",
}


@click.command(
    "trace",
    cls=Verb,
    examples=(
        "orvalho trace r_01jd3k7m2q8v5x9z4b6n1c0f2h",
        "orvalho trace r_01jd --timeout 10s",
        "orvalho trace r_01jd --json",
    ),
)
@click.argument("run", metavar="RUN")
@click.option(
    "--timeout",
    "timeout_s",
    type=Duration(),
    default="5s",
    show_default=True,
    help="How long other nodes are waited for.",
)
@click.pass_obj
def command(session: Session, run: str, timeout_s: float) -> None:
    """Which runs a run has caused on other nodes, and which caused it.

    The nodes are asked now. One that is not reached, or does not tell, is named.
    """
    with session.connect() as client:
        reply = client.ask(Trace(run=run, timeout_s=timeout_s), TraceReply)
    if session.screen.as_json:
        session.screen.document(plain(reply))
        return
    session.screen.lines(_drawn(reply))


def _drawn(reply: TraceReply) -> Iterator[str]:
    yield f"trace {reply.trace}"
    for depth, each in enumerate(reply.above):
        mark = "└─ " if depth else ""
        told = f"{each.node}  {each.run}  by {each.caller}, as the call says"
        yield f"{'   ' * (depth - 1)}{mark}{told}"
    offset = len(reply.above)
    below: dict[str | None, list[TracedRun]] = {}
    for each in reply.runs[1:]:
        below.setdefault(each.parent, []).append(each)
    yield from _branch(reply.runs[0], below, offset, is_last=True, front="   " * (offset - 1))


def _branch(
    run: TracedRun,
    below: dict[str | None, list[TracedRun]],
    depth: int,
    *,
    is_last: bool,
    front: str,
) -> Iterator[str]:
    mark = ("└─ " if is_last else "├─ ") if depth else ""
    yield f"{front}{mark}{_line(run)}"
    inner = front + (("   " if is_last else "│  ") if depth else "")
    if run.problem:
        yield f"{inner}   ({run.problem})"
    children = below.get(run.run, [])
    for number, child in enumerate(children, 1):
        yield from _branch(child, below, depth + 1, is_last=number == len(children), front=inner)


def _line(run: TracedRun) -> str:
    ended = run.outcome or run.state
    took = f", {milliseconds(run.wall_ms)}" if run.wall_ms is not None else ""
    name = f"{run.filename} in {run.target} by {run.caller}"
    return f"{run.node}  {name}  {ended}{took}  {run.run}  {_SIGNED.get(run.signed, run.signed)}"
