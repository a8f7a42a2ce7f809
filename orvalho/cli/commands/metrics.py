"""`orvalho metrics`: what the daemon has counted since it started."""

from __future__ import annotations

import click

from orvalho.cli.output import size
from orvalho.cli.replies import plain
from orvalho.cli.session import Session
from orvalho.cli.tree import Verb
from orvalho.control.seeing import Metrics, MetricsReply


@click.command(
    "metrics",
    cls=Verb,
    examples=("orvalho metrics", "orvalho metrics refused", "orvalho metrics --json"),
)
@click.argument("word", required=False)
@click.pass_obj
def command(session: Session, word: str | None) -> None:
    """Envelopes, frames and handshakes that were taken or refused, each by its reason; with WORD
    only the counters that have it in their name."""
    with session.connect() as client:
        reply = client.ask(Metrics(), MetricsReply)
    counters = {name: n for name, n in reply.counters.items() if word is None or word in name}
    if session.screen.as_json:
        session.screen.document(plain(reply) | {"counters": counters})
        return
    session.screen.table(("counter", "count"), tuple(counters.items()))
    session.screen.notice(f"up {reply.up_s} s, {size(reply.rss_bytes)} of memory")
