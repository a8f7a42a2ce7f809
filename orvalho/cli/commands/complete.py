"""`orvalho complete`: what the shell's completion asks. `main` answers it without click."""

from __future__ import annotations

import click

from orvalho.cli.complete import show_completions
from orvalho.cli.session import Session
from orvalho.cli.tree import Verb


@click.command(
    "complete",
    cls=Verb,
    hidden=True,
    examples=(
        "orvalho complete target peer@",
        "orvalho complete run r_01",
        "orvalho complete path peer@phone2:/ph",
    ),
)
@click.argument("kind", metavar="KIND")
@click.argument("text", metavar="TEXT")
@click.pass_obj
def command(session: Session, kind: str, text: str) -> None:
    """Words that TEXT may become, one a line."""
    show_completions(session, kind, text)
