"""`orvalho repl`: one line after the other, each a signed script."""

from __future__ import annotations

import click

from orvalho.cli.session import Session
from orvalho.cli.tree import Verb


@click.command(
    "repl",
    cls=Verb,
    examples=(
        "orvalho repl peer@phone2",
        "orvalho repl peer@phone2 --expose /notes:rw",
        "echo 'target.id' | orvalho repl peer@phone2",
    ),
)
@click.argument("target", metavar="TARGET")
@click.option(
    "--expose",
    metavar="PATH[:rw]",
    multiple=True,
    help="What the lines may read (or also write) of our own context.",
)
@click.option("--as", "context", metavar="CONTEXT", help="Which of our contexts sends them.")
@click.pass_obj
def command(session: Session, target: str, expose: tuple[str, ...], context: str | None) -> int:
    """Type JavaScript that runs on TARGET; :help tells the rest."""
    # prompt_toolkit takes long to import, and the other commands are listed beside this one.
    from orvalho.cli.repl import Repl  # noqa: PLC0415

    with session.connect() as client:
        return Repl(session, client, target, expose=expose, context=context).run()
