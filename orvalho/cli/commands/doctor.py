"""`orvalho doctor`: what is well, what is not, and what to do."""

from __future__ import annotations

from typing import Final

import click

from orvalho.cli.replies import plain
from orvalho.cli.session import Session
from orvalho.cli.tree import Verb
from orvalho.control.client import DaemonError
from orvalho.control.messages import Doctor, DoctorReply, Finding
from orvalho.control.offline import ask_offline
from orvalho.errors import OrvalhoError

_MARKS: Final = {"ok": "ok  ", "warning": "warn", "problem": "FAIL"}


@click.command(
    "doctor",
    cls=Verb,
    examples=("orvalho doctor", "orvalho doctor --json", "orvalho doctor --quiet"),
)
@click.pass_obj
def command(session: Session) -> int:
    """Check keys, rules, storage and connections; when the daemon does not start, what may keep
    it from that. Exit status 1 when something is broken."""
    try:
        with session.connect() as client:
            reply = client.ask(Doctor(), DoctorReply)
    except DaemonError:
        raise
    except OrvalhoError as error:
        reply = _without_daemon(session, error)
    if session.screen.as_json:
        session.screen.document(plain(reply))
    else:
        for finding in reply.findings:
            if session.screen.quiet and finding.level == "ok":
                continue
            session.screen.line(f"{_MARKS.get(finding.level, finding.level)}  {finding.text}")
            if finding.hint:
                session.screen.line(f"      try  {session.screen.typed_here(finding.hint)}")
    return int(any(finding.level == "problem" for finding in reply.findings))


def _without_daemon(session: Session, error: OrvalhoError) -> DoctorReply:
    """What the files tell, behind what kept the daemon from answering."""
    found = ask_offline(session.environ, session.place, "doctor", DoctorReply).findings
    where = f" ({error.where})" if error.where else ""
    text = f"the daemon does not answer: {error.message}{where}"
    return DoctorReply(findings=(Finding(level="problem", text=text, hint=error.hint), *found))
