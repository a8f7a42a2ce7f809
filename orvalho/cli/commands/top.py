"""`orvalho top`: what every node has left, by a program that each of them runs for us."""

from __future__ import annotations

import time
from pathlib import Path

import click

from orvalho.cli import examples
from orvalho.cli.answers import table
from orvalho.cli.arguments import Duration
from orvalho.cli.asking import Asked, ask_each, read_program
from orvalho.cli.session import Session
from orvalho.cli.tree import Verb
from orvalho.control.asking import Ask

# The program that comes with us: examples/c/ram.c.
_PROGRAM = "ram"


@click.command(
    "top",
    cls=Verb,
    examples=(
        "orvalho top",
        "orvalho top --once --json",
        "orvalho top @family --program mine.wasm --interval 5s",
    ),
)
@click.argument("target", metavar="[TARGET]", default="all")
@click.option(
    "--program", metavar="FILE", help="Run FILE on each node instead of the example `ram`."
)
@click.option(
    "--interval",
    "interval_s",
    type=Duration(),
    default="2s",
    metavar="TIME",
    help="How often to ask, and how long to wait for an answer (2s).",
)
@click.option("--once", is_flag=True, help="Ask once.")
@click.option("--as", "context", metavar="CONTEXT", help="Which of our contexts asks.")
@click.pass_obj
def command(
    session: Session,
    *,
    target: str,
    program: str | None,
    interval_s: int,
    once: bool,
    context: str | None,
) -> int:
    """What this device and each of TARGET (all) has left: cores, load, memory, disk. It is an
    ordinary program, examples/c/ram.c, that every node runs under its own rules; --program puts
    another in its place. Until Ctrl-C."""
    file = program or str(examples.shipped_file(_PROGRAM))
    asked_with = read_program(session, file)
    request = Ask(to=target, **asked_with, context=context, timeout_s=interval_s, here=True)
    while True:
        began_at = time.monotonic()
        asked = ask_each(session, request)
        _show(session, asked, Path(file).name, redraws=not once)
        if once:
            return asked.status
        time.sleep(max(0.0, began_at + interval_s - time.monotonic()))


def _show(session: Session, asked: Asked, program: str, *, redraws: bool) -> None:
    screen = session.screen
    if screen.as_json:
        screen.document(asked.document() | {"reduce": "table", "result": None})
        return
    if screen.is_terminal and redraws:
        screen.clear()
        screen.line_now(f"{program}  {time.strftime('%H:%M:%S')}  {asked.summary()}")
    screen.table(*table(asked.rows))
    screen.flush()
