"""`orvalho libs`: which libraries there are, here or on a peer."""

from __future__ import annotations

import click

from orvalho.cli.replies import plain
from orvalho.cli.session import Session
from orvalho.cli.tree import Verb
from orvalho.cli.wasm_text import LIBRARY_HEADERS, library_rows
from orvalho.control.libraries import LibraryList, LibraryListReply


@click.command(
    "libs",
    cls=Verb,
    examples=("orvalho libs", "orvalho libs phone2", "orvalho libs phone2 --json"),
)
@click.argument("node", metavar="[PEER]", required=False)
@click.option("--as", "context", metavar="CONTEXT", help="Which of our contexts asks.")
@click.pass_obj
def command(session: Session, node: str | None, context: str | None) -> None:
    """The libraries that this node publishes; with PEER those that it lets us see."""
    with session.connect() as client:
        reply = client.ask(LibraryList(node=node, context=context), LibraryListReply)
    if session.screen.as_json:
        session.screen.document(plain(reply))
        return
    session.screen.table(LIBRARY_HEADERS, library_rows(reply.libraries))
    if not reply.libraries:
        session.screen.notice(f"{reply.node} publishes no library")
