"""`orvalho init`: make this device a node. The daemon's own program does it, in a new process."""

from __future__ import annotations

import subprocess
import sys

import click

from orvalho.cli.arguments import read_text
from orvalho.cli.session import Session
from orvalho.cli.tree import Verb
from orvalho.control.start import daemon_command


@click.command(
    "init",
    cls=Verb,
    examples=(
        "orvalho init --name laptop",
        "orvalho init --name phone2 --listen ws://0.0.0.0:4455",
        "orvalho --home /media/stick/orvalho init --name stick",
        "orvalho init --name laptop --restore",
    ),
)
@click.option("--name", metavar="LABEL", help="This device's name (the host's, if not given).")
@click.option("--listen", metavar="URL", help="Where other devices may connect.")
@click.option(
    "--restore", is_flag=True, help="Have the keys of a recovery phrase, asked for or from stdin."
)
@click.pass_obj
def command(session: Session, name: str | None, listen: str | None, restore: bool) -> int:
    """Make this device a node: keys, configuration, rules. Says so when it is one already."""
    arguments = ["init"]
    phrase = _ask_phrase() if restore else None
    arguments += ["--restore"] if restore else []
    arguments += ["--name", name] if name else []
    arguments += ["--listen", listen] if listen else []
    done = subprocess.run(  # noqa: S603 - our own program
        daemon_command(session.place, *arguments),
        stdout=subprocess.PIPE,
        input=phrase,
        text=True,
        check=False,
    )
    lines = done.stdout.splitlines()
    if session.screen.as_json and done.returncode == 0:
        changed = not lines[:1] or not lines[0].startswith("already")
        session.screen.document({"changed": changed, "lines": lines})
    else:
        session.screen.lines(lines)
    return done.returncode


def _ask_phrase() -> str:
    """Never from the command line, where other users of the machine see it."""
    if not sys.stdin.isatty():
        return read_text("-")
    phrase: str = click.prompt("recovery phrase (the words of `orvalho key phrase`)", err=True)
    return phrase
