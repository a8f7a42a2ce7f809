"""`orvalho group`: directories of public keys that rules can name."""

from __future__ import annotations

import click

from orvalho.cli.replies import plain
from orvalho.cli.session import Session
from orvalho.cli.tree import Noun, Verb
from orvalho.control.messages import Note
from orvalho.control.metering import GroupAdd, GroupRemove
from orvalho.control.policies import GroupList, GroupListReply, GroupShow


@click.group(
    "group",
    cls=Noun,
    examples=("orvalho group ls", "orvalho group add family phone2", "orvalho group show family"),
)
def command() -> None:
    """Groups: directories of public keys. config/groups/NAME/ holds one key a file; rules say
    @NAME."""


@command.command(
    "ls",
    cls=Verb,
    examples=("orvalho group ls", "orvalho group ls --json", "orvalho --home ./phone2 group ls"),
)
@click.pass_obj
def ls(session: Session) -> None:
    """Each group and how many keys it holds."""
    with session.connect() as client:
        reply = client.ask(GroupList(), GroupListReply)
    if session.screen.as_json:
        session.screen.document(plain(reply))
        return
    rows = [(f"@{group.name}", len(group.members)) for group in reply.groups]
    session.screen.table(("group", "members"), rows)


@command.command(
    "show",
    cls=Verb,
    examples=(
        "orvalho group show family",
        "orvalho group show family --json",
        "orvalho --home ./phone2 group show family",
    ),
)
@click.argument("name", metavar="GROUP")
@click.pass_obj
def show(session: Session, name: str) -> None:
    """The keys of a group, whose they are, and the files they stand in."""
    with session.connect() as client:
        reply = client.ask(GroupShow(name=name.removeprefix("@")), GroupListReply)
    if session.screen.as_json:
        session.screen.document(plain(reply))
        return
    rows = [(peer, file, key) for group in reply.groups for key, file, peer in group.members]
    session.screen.table(("peer", "file", "key"), rows)


@command.command(
    "add",
    cls=Verb,
    examples=(
        "orvalho group add family phone2",
        "orvalho group add family gil@phone2",
        "orvalho group add guests ed25519:l2BtrVG3mDWzRqUPVBKOGVDULXnfpuE8vSS0MVIwc9o",
    ),
)
@click.argument("name", metavar="GROUP")
@click.argument("peer", metavar="PEER")
@click.pass_obj
def add(session: Session, name: str, peer: str) -> None:
    """Put a node's key into a group, or a context's, or any other; it counts at once. A quota of
    the group holds for every context of a node that is in it."""
    with session.connect() as client:
        session.tell(client.ask(GroupAdd(name=name.removeprefix("@"), peer=peer), Note))


@command.command(
    "rm",
    cls=Verb,
    examples=(
        "orvalho group rm family phone2",
        "orvalho group rm family gil@phone2",
        "orvalho --home ./phone2 group rm family laptop",
    ),
)
@click.argument("name", metavar="GROUP")
@click.argument("peer", metavar="PEER")
@click.pass_obj
def rm(session: Session, name: str, peer: str) -> None:
    """Take a key out of a group; the next request with it finds it gone."""
    with session.connect() as client:
        session.tell(client.ask(GroupRemove(name=name.removeprefix("@"), peer=peer), Note))
