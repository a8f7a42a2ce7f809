"""`orvalho inbox`: scripts that wait for the owner's word."""

from __future__ import annotations

import time

import click

from orvalho.cli.output import duration
from orvalho.cli.plan import plan_lines
from orvalho.cli.replies import plain
from orvalho.cli.runs import result_text
from orvalho.cli.session import Session
from orvalho.cli.tree import Noun, Verb
from orvalho.control.messages import Note
from orvalho.control.planning import (
    InboxAccept,
    InboxList,
    InboxReject,
    InboxReply,
    InboxShow,
    InboxShown,
)


@click.group(
    "inbox",
    cls=Noun,
    examples=(
        "orvalho inbox",
        "orvalho inbox show r_01J8",
        "orvalho inbox accept r_01J8",
    ),
    invoke_without_command=True,
)
@click.pass_context
def command(context: click.Context) -> None:
    """Scripts that wait for your word, since a rule of the policy ends in `hold`. They have run
    apart from everything: accepting one does exactly what its plan shows."""
    if context.invoked_subcommand is None:
        _list(context.obj)


def _list(session: Session) -> None:
    with session.connect() as client:
        reply = client.ask(InboxList(), InboxReply)
    if session.screen.as_json:
        session.screen.document(plain(reply))
        return
    rows = [
        (
            each.run,
            each.caller,
            each.target,
            each.filename,
            str(each.files + each.values),
            duration(time.time() - each.held_at),
            each.rule or "",
        )
        for each in reply.held
    ]
    if rows:
        session.screen.table(("run", "from", "for", "script", "changes", "held", "by rule"), rows)
    else:
        session.screen.notice("nothing waits for you")


@command.command(
    "ls",
    cls=Verb,
    examples=("orvalho inbox ls", "orvalho inbox ls --json", "orvalho inbox"),
)
@click.pass_obj
def ls(session: Session) -> None:
    """What waits, the oldest first."""
    _list(session)


@command.command(
    "show",
    cls=Verb,
    examples=(
        "orvalho inbox show r_01J8",
        "orvalho inbox show r_01J8 --json",
        "orvalho why r_01J8",
    ),
)
@click.argument("run", metavar="RUN")
@click.pass_obj
def show(session: Session, run: str) -> None:
    """The source of a script, what it needs, and what it would do."""
    with session.connect() as client:
        reply = client.ask(InboxShow(run=run), InboxShown)
    if session.screen.as_json:
        session.screen.document(plain(reply))
        return
    state, screen = reply.state, session.screen
    screen.line(f"{state.filename} from {state.caller} for {state.target}")
    screen.line(f"  run     {state.run}")
    screen.line(f"  digest  sha256:{state.digest}")
    if state.rule is not None:
        screen.line(f"  held    by {state.rule}  {reply.rule_text or ''}".rstrip())
    screen.lines(f"  needs   {need}" for need in reply.needs)
    screen.lines(f"  used    {right}" for right in reply.rights)
    screen.line(f"  params  {result_text(reply.params, pretty=False)}")
    screen.line("")
    screen.lines((reply.source or "(a WebAssembly module)").rstrip("\n").split("\n"))
    screen.line("")
    screen.lines(f"  log     {line}" for line in reply.output)
    screen.line(f"  result  {result_text(reply.result, pretty=False)}")
    screen.line("")
    screen.lines(plan_lines(reply.plan))
    if reply.refused_now:
        screen.notice("its sender may not do this any more; accepting does it all the same:")
    for right in reply.refused_now:
        screen.notice(f"  {right}")


@command.command(
    "accept",
    cls=Verb,
    examples=(
        "orvalho inbox accept r_01J8",
        "orvalho inbox accept r_01J8 --json",
        "orvalho inbox show r_01J8",
    ),
)
@click.argument("run", metavar="RUN")
@click.pass_obj
def accept(session: Session, run: str) -> None:
    """Do exactly what the plan shows, and give the sender its result. If what the script has read
    or would change is not as it was, the plan is void: nothing is done (exit status 1)."""
    with session.connect() as client:
        session.tell(client.ask(InboxAccept(run=run), Note))


@command.command(
    "reject",
    cls=Verb,
    examples=(
        "orvalho inbox reject r_01J8",
        'orvalho inbox reject r_01J8 --reason "ask me first"',
        "orvalho inbox reject r_01J8 --json",
    ),
)
@click.argument("run", metavar="RUN")
@click.option("--reason", default="", metavar="TEXT", help="What the sender is told.")
@click.pass_obj
def reject(session: Session, run: str, reason: str) -> None:
    """Do nothing of it; its sender is told."""
    with session.connect() as client:
        session.tell(client.ask(InboxReject(run=run, reason=reason), Note))
