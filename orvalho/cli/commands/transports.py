"""`orvalho transports`: the ways by which peers can be reached."""

from __future__ import annotations

import click

from orvalho.cli.output import age
from orvalho.cli.replies import plain
from orvalho.cli.session import Session
from orvalho.cli.tree import Verb
from orvalho.control.road import TransportList, TransportListReply


@click.command(
    "transports",
    cls=Verb,
    examples=(
        "orvalho transports",
        "orvalho transports --json",
        "orvalho --home ./phone2 transports",
    ),
)
@click.pass_obj
def command(session: Session) -> None:
    """Which transports there are, where this node listens, and every open link."""
    with session.connect() as client:
        reply = client.ask(TransportList(), TransportListReply)
    if session.screen.as_json:
        session.screen.document(plain(reply))
        return
    rows = [
        (
            each.scheme,
            each.module,
            each.install or "yes",
            ", ".join(each.listening) or None,
            each.links,
        )
        for each in reply.transports
    ]
    session.screen.table(("transport", "module", "installed", "listening", "links"), rows)
    if reply.links:
        session.screen.line("")
        links = [
            (
                link.peer,
                link.path,
                link.transport,
                "used" if link.used else "spare",
                None if link.rtt_ms is None else f"{link.rtt_ms} ms",
                age(link.opened_at),
            )
            for link in reply.links
        ]
        session.screen.table(("peer", "path", "transport", "link", "round trip", "opened"), links)
