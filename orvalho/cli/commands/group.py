"""`orvalho group`: directories of public keys that rules can name."""

from __future__ import annotations

import click

from orvalho.cli.replies import plain
from orvalho.cli.session import Session
from orvalho.cli.tree import Noun, Verb
from orvalho.control.messages import GroupList, GroupListReply, GroupShow


@click.group(
    "group",
    cls=Noun,
    examples=("orvalho group ls", "orvalho group show family", "orvalho group ls --json"),
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
