"""`orvalho status`: who can be reached."""

from __future__ import annotations

import click

from orvalho.cli.session import Session
from orvalho.cli.status import show_status
from orvalho.cli.tree import Verb


@click.command(
    "status",
    cls=Verb,
    examples=("orvalho status", "orvalho status --json", "orvalho --home ./phone2 status"),
)
@click.pass_obj
def command(session: Session) -> None:
    """Who can be reached. This node, then one line a peer: whose it is, whether it is
    there, and by which road."""
    with session.connect() as client:
        show_status(session, client)
