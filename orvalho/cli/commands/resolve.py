"""`orvalho resolve`: what a name means here."""

from __future__ import annotations

import click

from orvalho.cli.replies import plain
from orvalho.cli.session import Session
from orvalho.cli.tree import Verb
from orvalho.control.messages import Resolve, Resolved


@click.command(
    "resolve",
    cls=Verb,
    examples=(
        "orvalho resolve phone2",
        "orvalho resolve peer@phone2",
        "orvalho resolve peer@phone2 --json",
    ),
)
@click.argument("name", metavar="TARGET")
@click.pass_obj
def command(session: Session, name: str) -> None:
    """Which keys a name stands for, and how its node is reached."""
    with session.connect() as client:
        reply = client.ask(Resolve(name=name), Resolved)
    if session.screen.as_json:
        session.screen.document(plain(reply))
        return
    session.screen.line(reply.name)
    session.screen.line(f"  node     {reply.node}  {reply.node_key}")
    if reply.context is not None:
        session.screen.line(f"  context  {reply.context}  {reply.context_key}")
    session.screen.line(f"  reached  {reply.state}  {reply.path}".rstrip())
