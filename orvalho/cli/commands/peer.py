"""`orvalho peer`: the nodes this one is paired with."""

from __future__ import annotations

import sys
import time

import click

from orvalho.cli.arguments import Duration, read_text
from orvalho.cli.output import age, duration
from orvalho.cli.replies import plain
from orvalho.cli.session import Session
from orvalho.cli.status import queued_text
from orvalho.cli.tree import Noun, Verb
from orvalho.control.messages import (
    Note,
    PeerAdd,
    PeerAdded,
    PeerInvite,
    PeerList,
    PeerListReply,
    PeerRemove,
    Ticket,
)
from orvalho.errors import InvalidInput


@click.group(
    "peer",
    cls=Noun,
    examples=("orvalho peer invite", "orvalho peer add -", "orvalho peer ls"),
)
def command() -> None:
    """Peers: other nodes whose keys are trusted here."""


@command.command(
    "invite",
    cls=Verb,
    examples=(
        "orvalho peer invite",
        "orvalho peer invite --guest --expires 10m",
        "orvalho peer invite --json",
    ),
)
@click.option("--guest", is_flag=True, help="The other device is another person's.")
@click.option(
    "--expires",
    "expires_s",
    type=Duration(),
    default="1h",
    metavar="TIME",
    help="How long the ticket is good (1h).",
)
@click.pass_obj
def invite(session: Session, guest: bool, expires_s: int) -> None:
    """Print a ticket for another device. It is good once: paste it into `orvalho peer add`."""
    with session.connect() as client:
        reply = client.ask(PeerInvite(guest=guest, expires_s=expires_s), Ticket)
    if session.screen.as_json:
        session.screen.document(plain(reply))
        return
    session.screen.line(reply.ticket)
    left = duration(reply.expires_at - time.time())
    session.screen.notice(f"on the other device: orvalho peer add TICKET   (good for {left}, once)")


@command.command(
    "add",
    cls=Verb,
    examples=(
        "orvalho peer add -",
        "orvalho peer add - --name tablet",
        "orvalho peer add --guest - < ticket.txt",
    ),
)
@click.argument("ticket", metavar="TICKET")
@click.option("--guest", is_flag=True, help="The other device is another person's.")
@click.option("--name", metavar="LABEL", help="Call it so here, not what it calls itself.")
@click.pass_obj
def add(session: Session, ticket: str, guest: bool, name: str | None) -> None:
    """Pair with the device that made TICKET. With - it is read from standard input, out of sight
    of other users of this machine."""
    text = read_text("-") if ticket == "-" else ticket
    with session.connect() as client:
        reply = client.ask(PeerAdd(ticket=text.strip(), guest=guest, name=name), PeerAdded)
    if session.screen.as_json:
        session.screen.document(plain(reply))
        return
    peer = reply.peer
    verb = "paired with" if reply.changed else "already paired with"
    contexts = f" ({', '.join(peer.contexts)})" if peer.contexts else ""
    session.screen.line(f"{verb} {peer.name}{contexts}")
    session.screen.line(f"  key    {peer.key}")
    session.screen.line(f"  words  {peer.check_words}")
    session.screen.notice("the other device shows the same words: orvalho peer ls")


@command.command(
    "ls",
    cls=Verb,
    examples=("orvalho peer ls", "orvalho peer ls -v", "orvalho peer ls --json"),
)
@click.pass_obj
def ls(session: Session) -> None:
    """Every peer, and the words that its owner sees too. -v adds keys and who introduced it."""
    with session.connect() as client:
        reply = client.ask(PeerList(), PeerListReply)
    if session.screen.as_json:
        session.screen.document(plain(reply))
        return
    headers: tuple[str, ...] = ("peer", "owner", "state", "contexts", "queued", "seen", "words")
    rows: list[tuple[object, ...]] = [
        (
            peer.name,
            peer.relation,
            peer.state,
            ", ".join(peer.contexts) or None,
            queued_text(peer.queued, peer.queued_at) if peer.queued_at else peer.queued,
            age(peer.last_seen_at),
            peer.check_words,
        )
        for peer in reply.peers
    ]
    if session.screen.verbose:
        headers += ("introduced", "key")
        rows = [
            (*row, peer.introduced, peer.key) for row, peer in zip(rows, reply.peers, strict=True)
        ]
    session.screen.table(headers, rows)


@command.command(
    "rm",
    cls=Verb,
    examples=(
        "orvalho peer rm phone2",
        "orvalho peer rm phone2 -y",
        "orvalho peer rm phone2 -y --json",
    ),
)
@click.argument("name", metavar="PEER")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def rm(session: Session, name: str, yes: bool) -> None:
    """Forget a peer: its key is refused from now on."""
    if not yes:
        _confirm(f"forget {name}, and refuse its key?")
    with session.connect() as client:
        session.tell(client.ask(PeerRemove(name=name), Note))


def _confirm(question: str) -> None:
    if not sys.stdin.isatty():
        raise InvalidInput("off a terminal this needs --yes.", hint="the same command with -y")
    if not click.confirm(question, err=True):
        raise click.Abort
