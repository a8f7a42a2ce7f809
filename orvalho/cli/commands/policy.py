"""`orvalho policy`: the rules, as they stand in files."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from orvalho.cli.arguments import Duration
from orvalho.cli.editing import edit_draft
from orvalho.cli.output import many
from orvalho.cli.replies import plain
from orvalho.cli.session import Session
from orvalho.cli.tree import Noun, Verb
from orvalho.cli.trials import as_given, diff_lines, read_rules, tested_lines, unused_lines
from orvalho.control.offline import ask_offline
from orvalho.control.policies import PolicyCheck, PolicyChecked
from orvalho.control.policy_tools import (
    PolicyDiff,
    PolicyDiffed,
    PolicyFormatted,
    PolicyTested,
    PolicyUnused,
    PolicyUnusedReply,
)
from orvalho.errors import InvalidInput

_MONTH_S: Final = 30 * 86_400
_since = click.option(
    "--since",
    type=Duration(),
    metavar="DURATION",
    default=_MONTH_S,
    help="Requests of so long: 7d (30d, if not given).",
)


@click.group(
    "policy",
    cls=Noun,
    examples=(
        "orvalho policy check",
        "orvalho policy test",
        "orvalho policy edit peer",
        "orvalho policy diff new.csv",
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
        for warning in reply.warnings:
            session.screen.notice(f"warning: {warning}")
    if reply.problems:
        raise InvalidInput(
            f"the policy files have {many(len(reply.problems), 'mistake')}; "
            "the rules that were in use stay.",
            hint="orvalho policy edit, or mend the lines and save",
        )
    if not session.screen.as_json and not session.screen.quiet:
        session.screen.line(
            f"{many(reply.rules, 'rule')} in {many(len(reply.files), 'file')}: good"
        )


@command.command(
    "test",
    cls=Verb,
    examples=("orvalho policy test", "orvalho policy test -v", "orvalho policy test --json"),
)
@click.pass_obj
def test(session: Session) -> int:
    """Run the tests that stand beside the rules, lines like `#? deny gil@laptop peer fs.read
    /secret`. Needs no daemon. Exit status 1 when one fails; such files are not used either."""
    reply = ask_offline(session.environ, session.place, "policy", PolicyTested, "test")
    screen = session.screen
    if screen.as_json:
        screen.document(plain(reply))
    else:
        screen.lines(tested_lines(reply, verbose=screen.verbose, quiet=screen.quiet))
    if reply.problems:
        raise InvalidInput(
            f"the policy files have {many(len(reply.problems), 'mistake')}: no test was run.",
            hint="orvalho policy check",
        )
    return int(reply.failed > 0)


@command.command(
    "diff",
    cls=Verb,
    examples=(
        "orvalho policy diff new/peer.csv",
        "orvalho policy diff stricter/ --since 7d",
        "orvalho policy diff peer.csv --json",
    ),
)
@click.argument("new", metavar="NEW", type=click.Path(path_type=Path))
@_since
@click.pass_obj
def diff(session: Session, new: Path, since: int) -> None:
    """What would change: the requests of the audit log are put to the rules in use and to those
    with NEW, a file in place of the one of the same name or a directory in place of all. Nothing is
    installed."""
    files, whole = read_rules(new)
    with session.connect() as client:
        try:
            reply = client.ask(PolicyDiff(files=files, since_s=since, whole=whole), PolicyDiffed)
        except InvalidInput as error:
            raise as_given(error, new, files) from error
    if session.screen.as_json:
        session.screen.document(plain(reply))
    else:
        session.screen.lines(diff_lines(reply))


@command.command(
    "unused",
    cls=Verb,
    examples=(
        "orvalho policy unused",
        "orvalho policy unused --since 90d",
        "orvalho policy unused --json",
    ),
)
@_since
@click.pass_obj
def unused(session: Session, since: int) -> None:
    """Which rules no request in the audit log needed. Nothing is changed."""
    with session.connect() as client:
        reply = client.ask(PolicyUnused(since_s=since), PolicyUnusedReply)
    if session.screen.as_json:
        session.screen.document(plain(reply))
    else:
        session.screen.lines(unused_lines(reply))


@command.command(
    "fmt",
    cls=Verb,
    examples=(
        "orvalho policy fmt",
        "orvalho policy fmt --check",
        "orvalho policy fmt new/peer.csv",
    ),
)
@click.argument("files", metavar="[FILE]...", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--check", "is_check", is_flag=True, help="Change nothing; exit status 1 if it would."
)
@click.pass_obj
def fmt(session: Session, files: tuple[Path, ...], is_check: bool) -> int:
    """Align the columns of the files of rules. Comments stay, and so does what they mean; a file
    with a mistake is left as it is. Needs no daemon."""
    paths = [str(file.absolute()) for file in files]
    task = "fmt-check" if is_check else "fmt"
    reply = ask_offline(session.environ, session.place, "policy", PolicyFormatted, task, *paths)
    if session.screen.as_json:
        session.screen.document(plain(reply))
    else:
        session.screen.lines((*reply.problems, *reply.changed))
    if reply.problems:
        raise InvalidInput("what has a mistake is left as it is.", hint="orvalho policy check")
    return int(is_check and bool(reply.changed))


@command.command(
    "edit",
    cls=Verb,
    examples=(
        "orvalho policy edit peer",
        "orvalho policy edit",
        "EDITOR=nano orvalho policy edit peer",
    ),
)
@click.argument("name", metavar="[CTX]", default="default")
@click.pass_obj
def edit(session: Session, name: str) -> int:
    """Edit the rules of a context (or default.csv) in $VISUAL or $EDITOR, on a copy, which is put
    in place only without a mistake and with no failing test. Else the copy is kept; exit status
    1. Needs no daemon."""
    return edit_draft(session, name)
