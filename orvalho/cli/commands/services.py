"""`orvalho services`: which libraries stay, here or on a peer."""

from __future__ import annotations

import click

from orvalho.cli.output import age, many, size
from orvalho.cli.replies import plain
from orvalho.cli.session import Session
from orvalho.cli.tree import Verb
from orvalho.control.libraries import ServiceList, ServiceListReply


@click.command(
    "services",
    cls=Verb,
    examples=("orvalho services", "orvalho services phone2", "orvalho services --json"),
)
@click.argument("node", metavar="[PEER]", required=False)
@click.option("--as", "context", metavar="CONTEXT", help="Which of our contexts asks.")
@click.pass_obj
def command(session: Session, node: str | None, context: str | None) -> None:
    """The services that run on this node; with PEER those that it lets us see."""
    with session.connect() as client:
        reply = client.ask(ServiceList(node=node, context=context), ServiceListReply)
    if session.screen.as_json:
        session.screen.document(plain(reply))
        return
    rows = [
        (
            each.library,
            each.context,
            many(each.calls, "call") + (f", {each.failures} failed" if each.failures else ""),
            size(each.memory_bytes),
            age(each.instance_at),
            f"ended, the next call starts it anew: {each.problem}" if each.problem else "running",
        )
        for each in reply.services
    ]
    session.screen.table(("library", "context", "calls", "memory", "since", "state"), rows)
    if not rows:
        session.screen.notice(f"no service runs on {reply.node}")
