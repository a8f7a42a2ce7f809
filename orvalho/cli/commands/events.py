"""`orvalho events`: who asks for what, as it happens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from orvalho.cli.arguments import Duration
from orvalho.cli.output import moment
from orvalho.cli.replies import plain
from orvalho.cli.session import Session
from orvalho.cli.tree import Verb
from orvalho.control.metering import Event, Events

if TYPE_CHECKING:
    from typing import Any

_HOUR_S = 3600.0


@click.command(
    "events",
    cls=Verb,
    examples=("orvalho events", "orvalho events -f --json", "orvalho events --since 7d --json"),
)
@click.option("-f", "--follow", is_flag=True, help="Each new event, until Ctrl-C.")
@click.option(
    "--since",
    type=Duration(),
    metavar="DURATION",
    help="What was kept of so long: 1h, the default unless -f is given.",
)
@click.pass_obj
def command(session: Session, follow: bool, since: float | None) -> None:
    """Each request: who asked with which key, what was decided by which rule, and what it used.
    Receipts and decisions are kept, and told with --since; the rest is told as it happens."""
    since_s = since if since is not None else 0.0 if follow else _HOUR_S
    with session.connect() as client:
        for event in client.stream(Events(since_s=since_s, follow=follow)):
            if isinstance(event, Event):
                _show(session, event)


def _show(session: Session, event: Event) -> None:
    if session.screen.as_json:
        said = {key: value for key, value in plain(event).items() if key not in _MOVED}
        fields: dict[str, Any] = {key: value for key, value in said.items() if value is not None}
        session.screen.event(
            event.kind, at=event.at, level=event.level, message=event.text, fields=fields
        )
        return
    parts = [moment(event.at), event.kind, event.text]
    if event.usage is not None:
        parts.append(f"[{event.usage.cpu_ms} ms cpu, {event.usage.network_bytes} B network]")
    parts += [f"[{part}]" for part in (event.rule, event.run) if part]
    session.screen.line_now("  ".join(parts))


_MOVED = ("kind", "at", "level", "text")
