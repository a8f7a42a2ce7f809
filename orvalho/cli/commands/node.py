"""`orvalho node`: devices that came to pair and wait for a yes or no (`[pairing] approve`)."""

from __future__ import annotations

import click

from orvalho.cli.output import age
from orvalho.cli.replies import plain
from orvalho.cli.session import Session
from orvalho.cli.tree import Noun, Verb
from orvalho.control.messages import Note
from orvalho.control.pairing import NodeApprove, NodePending, NodePendingReply, NodeReject


@click.group(
    "node",
    cls=Noun,
    examples=("orvalho node pending", "orvalho node approve phone2", "orvalho node reject phone2"),
)
def command() -> None:
    """Devices that wait for approval. `orvalho config set pairing.approve true` makes them wait."""


@command.command(
    "pending",
    cls=Verb,
    examples=("orvalho node pending", "orvalho node pending -v", "orvalho node pending --json"),
)
@click.pass_obj
def pending(session: Session) -> None:
    """Who waits, and who was rejected, with the words that the device shows too."""
    with session.connect() as client:
        reply = client.ask(NodePending(), NodePendingReply)
    if session.screen.as_json:
        session.screen.document(plain(reply))
        return
    headers: tuple[str, ...] = ("node", "owner", "state", "asked", "words")
    rows: list[tuple[object, ...]] = [
        (node.name, node.relation, node.state, age(node.asked_at), node.check_words)
        for node in reply.nodes
    ]
    if session.screen.verbose:
        headers += ("key",)
        rows = [(*row, node.key) for row, node in zip(rows, reply.nodes, strict=True)]
    session.screen.table(headers, rows)


@command.command(
    "approve",
    cls=Verb,
    examples=(
        "orvalho node approve phone2",
        "orvalho node approve ed25519:KEY",
        "orvalho node approve phone2 --json",
    ),
)
@click.argument("name", metavar="NODE")
@click.pass_obj
def approve(session: Session, name: str) -> None:
    """Make a device that waits a peer. One that was rejected may be approved after all."""
    with session.connect() as client:
        session.tell(client.ask(NodeApprove(name=name), Note))


@command.command(
    "reject",
    cls=Verb,
    examples=(
        "orvalho node reject phone2",
        "orvalho node reject ed25519:KEY",
        "orvalho node reject phone2 --json",
    ),
)
@click.argument("name", metavar="NODE")
@click.pass_obj
def reject(session: Session, name: str) -> None:
    """Refuse a device that waits, now and whatever code it comes with later."""
    with session.connect() as client:
        session.tell(client.ask(NodeReject(name=name), Note))
