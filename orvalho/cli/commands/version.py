"""`orvalho version`."""

from __future__ import annotations

import click

from orvalho import __version__
from orvalho.cli.session import Session
from orvalho.cli.tree import Verb


@click.command(
    "version",
    cls=Verb,
    examples=("orvalho version", "orvalho version --json", "orvalho --version"),
)
@click.pass_obj
def command(session: Session) -> None:
    """The version of this command."""
    if session.screen.as_json:
        session.screen.document({"version": __version__})
    else:
        session.screen.line(f"orvalho {__version__}")
