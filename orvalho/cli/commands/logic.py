"""`orvalho logic`: the libraries that scripts can import here, and which file stands for a name."""

from __future__ import annotations

import click

from orvalho.cli.replies import plain
from orvalho.cli.session import Session
from orvalho.cli.tree import Noun, Verb
from orvalho.control.logic import LogicFile, LogicReply, LogicShow


@click.group(
    "logic",
    cls=Noun,
    examples=(
        "orvalho logic show",
        "orvalho logic show peer --json",
        "orvalho logic which images --ctx peer",
    ),
)
def command() -> None:
    """The libraries of a context: what scripts there import as lib:NAME."""


@command.command(
    "show",
    cls=Verb,
    examples=("orvalho logic show", "orvalho logic show peer", "orvalho logic show peer --json"),
)
@click.argument("context", metavar="[CONTEXT]", required=False)
@click.pass_obj
def show(session: Session, context: str | None) -> None:
    """Each library of CONTEXT (the first one): its file, who overrides whom, and its functions."""
    with session.connect() as client:
        reply = client.ask(LogicShow(context=context), LogicReply)
    if session.screen.as_json:
        session.screen.document(plain(reply))
        return
    if not reply.files and not session.screen.quiet:
        session.screen.notice(f"{reply.context} has no libraries: put files into its /lib")
    for each in reply.files:
        session.screen.lines(_heading(each))
        for function in each.functions:
            session.screen.line(f"    {function.signature}  :{function.line}")
            session.screen.lines(f"      {line}" for line in function.doc.splitlines())


@command.command(
    "which",
    cls=Verb,
    examples=(
        "orvalho logic which images",
        "orvalho logic which lib:images --ctx peer",
        "orvalho logic which images --json",
    ),
)
@click.argument("name", metavar="NAME")
@click.option("--ctx", "context", metavar="CONTEXT", help="In which context (the first one).")
@click.pass_obj
def which(session: Session, name: str, context: str | None) -> None:
    """The file that NAME stands for, and why that one."""
    with session.connect() as client:
        reply = client.ask(LogicShow(context=context, name=name), LogicReply)
    if session.screen.as_json:
        session.screen.document(plain(reply))
        return
    for each in reply.files:
        session.screen.lines(_heading(each))


def _heading(file: LogicFile) -> list[str]:
    lines = [
        f"{file.name}  {file.file}" if file.wins else f"  (not {file.file})",
        f"  {file.origin}: {file.why}",
        f"  {file.digest}",
    ]
    return lines + [f"  mistake {problem}" for problem in file.problems]
