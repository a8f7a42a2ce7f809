"""`orvalho audit`: every decision, in order."""

from __future__ import annotations

from typing import Any

import click

from orvalho.cli.arguments import Duration
from orvalho.cli.output import moment
from orvalho.cli.replies import plain
from orvalho.cli.session import Session
from orvalho.cli.tree import Verb
from orvalho.control.policies import Audit, AuditEntry


@click.command(
    "audit",
    cls=Verb,
    examples=(
        "orvalho audit --actor gil@laptop --refused",
        "orvalho audit --action fs --since 1d --json",
        "orvalho audit --follow",
        "orvalho audit --run r_01jd",
    ),
)
@click.option(
    "--limit", type=click.IntRange(min=0), default=50, metavar="N", help="How many entries (50)."
)
@click.option("-f", "--follow", is_flag=True, help="Then each new one, until Ctrl-C.")
@click.option("--run", metavar="RUN", help="Only those of one run.")
@click.option("--actor", metavar="NAME", help="Only who asked so: gil@laptop, or all of laptop.")
@click.option("--action", metavar="ACTION", help="Only fs.write, say, or all of fs.")
@click.option("--context", metavar="CONTEXT", help="Only what was asked of this context.")
@click.option("--allowed/--refused", default=None, help="Only what was allowed, or was not.")
@click.option("--since", "since_s", type=Duration(), metavar="TIME", help="How far back: 2h, 7d.")
@click.pass_obj
def command(session: Session, /, **wanted: Any) -> None:
    """Who asked for what, and what the rules said. The newest entries, oldest first."""
    with session.connect() as client:
        for entry in client.stream(Audit(**wanted)):
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
    by = entry.rule or entry.cause
    parts += [entry.object, *(f"[{part}]" for part in (by, entry.run) if part)]
    session.screen.line_now("  ".join([" ".join(parts), entry.text]).rstrip())
