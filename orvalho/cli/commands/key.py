"""`orvalho key`: the keys of this node."""

from __future__ import annotations

import click

from orvalho.cli.confirm import confirm
from orvalho.cli.output import moment
from orvalho.cli.replies import plain
from orvalho.cli.session import Session
from orvalho.cli.tree import Noun, Verb
from orvalho.control.pairing_messages import KeyPhrase, KeyPhraseReply, KeyReply, KeyShow


@click.group(
    "key",
    cls=Noun,
    examples=("orvalho key show", "orvalho key phrase", "orvalho key phrase -y"),
)
def command() -> None:
    """The keys of this node: show them, and write them down."""


@command.command(
    "show",
    cls=Verb,
    examples=("orvalho key show", "orvalho key show --json", "orvalho --home DIR key show"),
)
@click.pass_obj
def show(session: Session) -> None:
    """The device id, the node's and its owner's public keys, and since when."""
    with session.connect() as client:
        reply = client.ask(KeyShow(), KeyReply)
    if session.screen.as_json:
        session.screen.document(plain(reply))
        return
    rows = [
        ("device id", reply.device_id),
        ("key", reply.key),
        ("owner key", reply.owner_key),
        ("created", moment(reply.created_at)),
    ]
    if reply.rotations:
        when = f", last {moment(reply.rotated_at)}" if reply.rotated_at else ""
        rows.append(("rotated", f"{reply.rotations} times{when}"))
    session.screen.table(("what", "value"), rows)


@command.command(
    "phrase",
    cls=Verb,
    examples=(
        "orvalho key phrase",
        "orvalho key phrase -y",
        "orvalho key phrase -y --json",
    ),
)
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def phrase(session: Session, yes: bool) -> None:
    """Print the recovery phrase: 24 words (and a number, if the key was ever changed) that give a
    new device these keys, by `orvalho init --restore`. Who has them is you."""
    if not yes:
        confirm("show the words that are all your keys on this device?")
    with session.connect() as client:
        reply = client.ask(KeyPhrase(), KeyPhraseReply)
    if session.screen.as_json:
        session.screen.document(plain(reply))
        return
    session.screen.line(reply.phrase)
    session.screen.notice(
        "write them on paper, in this order; on a new device: orvalho init --restore"
    )
