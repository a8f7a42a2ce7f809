"""`orvalho bugreport`: what helps to find a fault, fit to be shown to others."""

from __future__ import annotations

from pathlib import Path

import click

from orvalho.cli.replies import plain
from orvalho.cli.runs import write_atomically
from orvalho.cli.session import Session
from orvalho.cli.tree import Verb
from orvalho.control.offline import ask_offline
from orvalho.control.seeing import Bugreport, Report
from orvalho.errors import InvalidInput, OrvalhoError


@click.command(
    "bugreport",
    cls=Verb,
    examples=(
        "orvalho bugreport",
        "orvalho bugreport --out report.txt",
        "orvalho bugreport --json",
    ),
)
@click.option("--out", "file", metavar="FILE", help="Write it to FILE.")
@click.pass_obj
def command(session: Session, file: str | None) -> None:
    """Versions, settings, states, counters and the end of the log, with names, addresses and keys
    taken out. Works without a daemon too. Read it before you give it away."""
    try:
        with session.connect_running() as client:
            reply = client.ask(Bugreport(), Report)
    except OrvalhoError as error:
        session.screen.notice(f"without the daemon: {error.message}")
        reply = ask_offline(session.environ, session.place, "bugreport", Report)
    if file is not None:
        try:
            write_atomically(Path(file), reply.text.encode())
        except OSError as error:
            raise InvalidInput(f"{file} cannot be written: {error.strerror}.") from error
    if session.screen.as_json:
        session.screen.document(plain(reply))
    elif file is None:
        session.screen.lines(reply.text.split("\n"))
    else:
        taken = ", ".join(f"{count} {kind}" for kind, count in sorted(reply.redacted.items()))
        session.screen.notice(f"{file}: taken out {taken or 'nothing'}")
