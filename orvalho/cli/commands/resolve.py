"""`orvalho resolve`: what a name means here."""

from __future__ import annotations

import click

from orvalho.cli.replies import plain
from orvalho.cli.session import Session
from orvalho.cli.tree import Verb
from orvalho.control.messages import Resolve, Resolved
from orvalho.control.seeing import ResolvedAll


@click.command(
    "resolve",
    cls=Verb,
    examples=(
        "orvalho resolve phone2",
        "orvalho resolve peer@phone2",
        "orvalho resolve any@gpu=yes,env=home",
        "orvalho resolve all --json",
    ),
)
@click.argument("name", metavar="TARGET")
@click.pass_obj
def command(session: Session, name: str) -> None:
    """Which keys a name stands for, and how its node is reached. TARGET may stand for several:
    any@label=value, @group, all."""
    with session.connect() as client:
        (reply,) = client.stream(Resolve(name=name))
    if isinstance(reply, ResolvedAll):
        _show_several(session, reply)
        return
    assert isinstance(reply, Resolved)
    if session.screen.as_json:
        session.screen.document(plain(reply))
        return
    session.screen.line(reply.name)
    session.screen.line(f"  node     {reply.node}  {reply.node_key}")
    if reply.context is not None:
        session.screen.line(f"  context  {reply.context}  {reply.context_key}")
    session.screen.line(f"  reached  {reply.state}  {reply.path}".rstrip())


def _show_several(session: Session, reply: ResolvedAll) -> None:
    if session.screen.as_json:
        session.screen.document(plain(reply))
        return
    headers = ("target", "state", "why", "key")
    rows = [(each.name, each.state, each.why, each.node_key) for each in reply.members]
    session.screen.table(headers, rows)
    if reply.chosen is not None:
        session.screen.notice(f"now: {reply.chosen}")
