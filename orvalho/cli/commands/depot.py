"""`orvalho depot`: what this node keeps for others."""

from __future__ import annotations

import time

import click

from orvalho.cli.confirm import confirm
from orvalho.cli.output import duration, size
from orvalho.cli.replies import plain
from orvalho.cli.session import Session
from orvalho.cli.tree import Noun, Verb
from orvalho.control.messages import Note
from orvalho.control.road import DepotList, DepotListReply, DepotRemove


@click.group(
    "depot",
    cls=Noun,
    examples=("orvalho depot ls", "orvalho depot ls --json", "orvalho depot rm phone2"),
)
def command() -> None:
    """The depot: sealed mail that this node keeps for devices that are off."""


@command.command(
    "ls",
    cls=Verb,
    examples=(
        "orvalho depot ls",
        "orvalho depot ls --json",
        "orvalho --home ./server depot ls",
    ),
)
@click.pass_obj
def ls(session: Session) -> None:
    """For whom mail is kept here, and from whom. What is in it, this node cannot tell."""
    with session.connect() as client:
        reply = client.ask(DepotList(), DepotListReply)
    if session.screen.as_json:
        session.screen.document(plain(reply))
        return
    now = time.time()
    rows = [
        (
            pile.recipient,
            pile.depositor,
            pile.count,
            size(pile.bytes),
            duration(pile.expires_at - now),
        )
        for pile in reply.piles
    ]
    session.screen.table(("for", "from", "kept", "size", "expires in"), rows)


@command.command(
    "rm",
    cls=Verb,
    examples=(
        "orvalho depot rm phone2",
        "orvalho depot rm phone2 --from laptop",
        "orvalho depot rm phone2 -y --json",
    ),
)
@click.argument("recipient", metavar="PEER")
@click.option("--from", "depositor", metavar="PEER", help="Only what this peer left here.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def rm(session: Session, recipient: str, depositor: str | None, yes: bool) -> None:
    """Throw away what is kept for PEER. Its senders still have it."""
    if not yes:
        confirm(f"throw away what is kept for {recipient}?")
    with session.connect() as client:
        session.tell(client.ask(DepotRemove(recipient=recipient, depositor=depositor), Note))
