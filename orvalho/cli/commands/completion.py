"""`orvalho completion`: scripts for the shell's Tab key."""

from __future__ import annotations

import click

from orvalho.cli.session import Session
from orvalho.cli.shells import SHELLS, completion_script
from orvalho.cli.tree import Verb, root


@click.command(
    "completion",
    cls=Verb,
    examples=(
        'eval "$(orvalho completion bash)"',
        'eval "$(orvalho completion zsh)"',
        "orvalho completion fish | source",
    ),
)
@click.argument("shell", metavar="SHELL", type=click.Choice(tuple(SHELLS)))
@click.pass_obj
def command(session: Session, shell: str) -> None:
    """A script for the Tab key of bash, zsh or fish. It completes commands and flags, and asks
    the daemon for peers, contexts and runs."""
    session.screen.verbatim(completion_script(shell, root()))
