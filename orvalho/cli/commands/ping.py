"""`orvalho ping`: live round trips through both nodes, and the path they take."""

from __future__ import annotations

import click
import msgspec

from orvalho.cli.session import Session
from orvalho.cli.tree import Verb
from orvalho.control.seeing import Ping, Pong


@click.command(
    "ping",
    cls=Verb,
    examples=("orvalho ping phone2", "orvalho ping phone2 -c 5", "orvalho ping phone2 --json"),
)
@click.argument("name", metavar="PEER")
@click.option(
    "-c", "--count", type=click.IntRange(1, 10_000), metavar="N", help="How many round trips."
)
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(0.1, 600),
    default=5.0,
    metavar="SECONDS",
    help="How long PEER may take to come, and to answer (5).",
)
@click.pass_obj
def command(session: Session, name: str, count: int | None, timeout_s: float) -> None:
    """Round trips to PEER (or each of @group or all), through both daemons. Without -c it ends at
    the first one that goes directly. Exit status 4: PEER is not reached, and what was tried."""
    last = None
    with session.connect() as client:
        for reply in client.stream(Ping(name=name, count=count, timeout_s=timeout_s)):
            if isinstance(reply, Pong):
                last = reply
                _show(session, reply)
    if count is None and last is not None and last.path.startswith("relay"):
        session.screen.notice(f"no direct way to {name}: only the relay works")


def _show(session: Session, pong: Pong) -> None:
    if session.screen.as_json:
        fields = msgspec.to_builtins(pong)
        for name in ("type", "at", "level", "text"):
            del fields[name]
        session.screen.event(
            "ping.pong", at=pong.at, level=pong.level, message=pong.text, fields=fields
        )
    else:
        session.screen.line_now(pong.text)
