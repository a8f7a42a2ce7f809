"""`orvalho doctor`: what is well, what is not, and what to do."""

from __future__ import annotations

from typing import Final

import click

from orvalho.cli.replies import plain
from orvalho.cli.session import Session
from orvalho.cli.tree import Verb
from orvalho.control.messages import Doctor, DoctorReply

_MARKS: Final = {"ok": "ok  ", "warning": "warn", "problem": "FAIL"}


@click.command(
    "doctor",
    cls=Verb,
    examples=("orvalho doctor", "orvalho doctor --json", "orvalho doctor --quiet"),
)
@click.pass_obj
def command(session: Session) -> int:
    """Check keys, rules, storage and connections. Exit status 1 when something is broken."""
    with session.connect() as client:
        reply = client.ask(Doctor(), DoctorReply)
    if session.screen.as_json:
        session.screen.document(plain(reply))
    else:
        for finding in reply.findings:
            if session.screen.quiet and finding.level == "ok":
                continue
            session.screen.line(f"{_MARKS.get(finding.level, finding.level)}  {finding.text}")
            if finding.hint:
                session.screen.line(f"      try  {finding.hint}")
    return int(any(finding.level == "problem" for finding in reply.findings))
