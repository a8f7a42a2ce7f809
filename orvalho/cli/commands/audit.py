"""`orvalho audit`: every decision, in order."""

from __future__ import annotations

import click

from orvalho.cli.output import moment
from orvalho.cli.replies import plain
from orvalho.cli.session import Session
from orvalho.cli.tree import Verb
from orvalho.control.policies import Audit, AuditEntry


@click.command(
    "audit",
    cls=Verb,
    examples=("orvalho audit", "orvalho audit --follow --json", "orvalho audit --run r_01jd"),
)
@click.option(
    "--limit", type=click.IntRange(min=0), default=50, metavar="N", help="How many entries (50)."
)
@click.option("-f", "--follow", is_flag=True, help="Then each new one, until Ctrl-C.")
@click.option("--run", metavar="RUN", help="Only those of one run.")
@click.pass_obj
def command(session: Session, limit: int, follow: bool, run: str | None) -> None:
    """Who asked for what, and what the rules said. The newest entries, oldest first."""
    with session.connect() as client:
        for entry in client.stream(Audit(limit=limit, follow=follow, run=run)):
            if isinstance(entry, AuditEntry):
                _show(session, entry)


def _show(session: Session, entry: AuditEntry) -> None:
    level = "info" if entry.allowed else "warn"
    if session.screen.as_json:
        fields = {key: value for key, value in plain(entry).items() if key not in ("at", "text")}
        session.screen.event(
            "audit.entry", at=entry.at, level=level, message=entry.text, fields=fields
        )
        return
    verdict = "allowed" if entry.allowed else "REFUSED"
    parts = [moment(entry.at), verdict, entry.actor, "->", entry.context, entry.action]
    parts += [entry.object, *(f"[{part}]" for part in (entry.rule, entry.run) if part)]
    session.screen.line_now("  ".join([" ".join(parts), entry.text]).rstrip())
