"""`orvalho why`: one explanation of a run, end to end."""

from __future__ import annotations

import click

from orvalho.cli.explain import explanation
from orvalho.cli.replies import plain
from orvalho.cli.session import Session
from orvalho.cli.tree import Verb
from orvalho.control.client import error_of
from orvalho.control.messages import Why, WhyReply


@click.command(
    "why",
    cls=Verb,
    examples=(
        "orvalho why r_01jd3k7m2q8v5x9z4b6n1c0f2h",
        "orvalho why r_01jd",
        "orvalho why r_01jd --json",
    ),
)
@click.argument("run", metavar="RUN")
@click.pass_obj
def command(session: Session, run: str) -> None:
    """Who sent a run, and each rule that let it or refused it."""
    with session.connect() as client:
        reply = client.ask(Why(run=run), WhyReply)
    if session.screen.as_json:
        session.screen.document(plain(reply))
        return
    session.screen.lines(explanation(reply))
    if reply.error is not None:
        session.screen.notice("")
        session.screen.error(error_of(reply.error))
