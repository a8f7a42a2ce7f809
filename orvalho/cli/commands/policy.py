"""`orvalho policy`: the rules, as they stand in files."""

from __future__ import annotations

import click

from orvalho.cli.output import many
from orvalho.cli.replies import plain
from orvalho.cli.session import Session
from orvalho.cli.tree import Noun, Verb
from orvalho.control.policies import PolicyCheck, PolicyChecked
from orvalho.errors import InvalidInput


@click.group(
    "policy",
    cls=Noun,
    examples=(
        "orvalho policy check",
        "orvalho policy check --json",
        "orvalho --home ./phone2 policy check",
    ),
)
def command() -> None:
    """Rules: files that are edited by hand. config/policy/*.csv are used as soon as they are
    saved."""


@command.command(
    "check",
    cls=Verb,
    examples=(
        "orvalho policy check",
        "orvalho policy check --json",
        "orvalho policy check -q && echo good",
    ),
)
@click.pass_obj
def check(session: Session) -> None:
    """Read the policy files as they are now, without using them; tell every mistake at once."""
    with session.connect() as client:
        reply = client.ask(PolicyCheck(), PolicyChecked)
    if session.screen.as_json:
        session.screen.document(plain(reply))
    else:
        session.screen.lines(reply.problems)
    if reply.problems:
        raise InvalidInput(
            f"the policy files have {many(len(reply.problems), 'mistake')}; "
            "the rules that were in use stay."
        )
    if not session.screen.as_json and not session.screen.quiet:
        session.screen.line(
            f"{many(reply.rules, 'rule')} in {many(len(reply.files), 'file')}: good"
        )
