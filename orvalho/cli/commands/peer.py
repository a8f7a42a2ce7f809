"""`orvalho peer`: the nodes this one is paired with."""

from __future__ import annotations

import time

import click

from orvalho.cli.arguments import Duration, read_text
from orvalho.cli.confirm import confirm
from orvalho.cli.output import age, duration
from orvalho.cli.pairing import show_added
from orvalho.cli.replies import plain
from orvalho.cli.session import Session
from orvalho.cli.status import queued_text
from orvalho.cli.tree import Noun, Verb
from orvalho.control.mesh import PeerRename, PeerRevoke, PeerSet
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
def add(session: Session, ticket: str, guest: bool, name: str | None) -> int:
    """Pair with the device that made TICKET. With - it is read from standard input, out of sight
    of other users of this machine."""
    text = read_text("-") if ticket == "-" else ticket
    request = PeerAdd(ticket=text.strip(), guest=guest, name=name)
    with session.connect() as client:
        return show_added(session, client.ask(request, PeerAdded))


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
        confirm(f"forget {name}, and refuse its key?")
    with session.connect() as client:
        session.tell(client.ask(PeerRemove(name=name), Note))


@command.command(
    "set",
    cls=Verb,
    examples=(
        "orvalho peer set laptop --introducer",
        "orvalho peer set laptop --no-introducer",
        "orvalho peer set laptop --introducer --json",
    ),
)
@click.argument("name", metavar="PEER")
@click.option(
    "--introducer/--no-introducer",
    required=True,
    help="Whether the devices that it is paired with as its own become peers here.",
)
@click.pass_obj
def set_(session: Session, name: str, introducer: bool) -> None:
    """Let a peer of your own introduce further devices, or no more. Who has been introduced
    already stays until `orvalho peer rm`."""
    with session.connect() as client:
        session.tell(client.ask(PeerSet(name=name, introducer=introducer), Note))


@command.command(
    "rename",
    cls=Verb,
    examples=(
        "orvalho peer rename phone2 phone",
        "orvalho peer rename laptop old-laptop",
        "orvalho peer rename laptop old-laptop --json",
    ),
)
@click.argument("name", metavar="PEER")
@click.argument("new_name", metavar="NAME")
@click.pass_obj
def rename(session: Session, name: str, new_name: str) -> None:
    """Call a peer NAME here. What it calls itself, and its key, stay as they are."""
    with session.connect() as client:
        session.tell(client.ask(PeerRename(name=name, new_name=new_name), Note))


@command.command(
    "revoke",
    cls=Verb,
    examples=(
        "orvalho peer revoke phone2",
        "orvalho peer revoke phone2 -y",
        "orvalho peer revoke phone2 -y --json",
    ),
)
@click.argument("name", metavar="PEER")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def revoke(session: Session, name: str, yes: bool) -> None:
    """A device is lost: refuse its key here, and on every device that has this one as its own."""
    if not yes:
        confirm(f"revoke {name}, and refuse its key on all your devices?")
    with session.connect() as client:
        session.tell(client.ask(PeerRevoke(name=name), Note))
