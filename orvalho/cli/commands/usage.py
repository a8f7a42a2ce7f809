"""`orvalho usage`: what runs used here, added up."""

from __future__ import annotations

import click

from orvalho.cli.arguments import Duration
from orvalho.cli.output import milliseconds, size
from orvalho.cli.replies import plain
from orvalho.cli.session import Session
from orvalho.cli.tree import Verb
from orvalho.control.metering import UsageReply, UsageSum

_HEADERS = ("", "names", "runs", "cpu", "wall", "memory", "output", "network", "calls")


@click.command(
    "usage",
    cls=Verb,
    examples=(
        "orvalho usage --by key",
        "orvalho usage --by group --since 7d",
        "orvalho usage --by context --json",
    ),
)
@click.option(
    "--by",
    type=click.Choice(("key", "group", "context")),
    default="key",
    help="Whose: of each requesting key, of its groups, or of the context it ran in.",
)
@click.option("--since", type=Duration(), metavar="DURATION", help="Only of so long: 7d.")
@click.pass_obj
def command(session: Session, by: str, since: float | None) -> None:
    """What scripts used on this node: the sum of their receipts. Of memory, the highest peak."""
    with session.connect() as client:
        reply = client.ask(UsageSum(by=by, since_s=since), UsageReply)
    if session.screen.as_json:
        session.screen.document(plain(reply))
        return
    rows = [
        (
            each.of,
            ", ".join(each.names) or None,
            each.runs,
            milliseconds(each.cpu_ms),
            milliseconds(each.wall_ms),
            size(each.memory_bytes),
            size(each.output_bytes),
            size(each.network_bytes),
            each.host_calls,
        )
        for each in reply.rows
    ]
    session.screen.table((by, *_HEADERS[1:]), rows)
    if reply.note:
        session.screen.notice(reply.note)
