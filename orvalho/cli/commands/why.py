"""`orvalho why`: one explanation of a run, end to end, or of what is only thought of."""

from __future__ import annotations

from pathlib import Path

import click

from orvalho.cli.explain import answer, explanation
from orvalho.cli.replies import plain
from orvalho.cli.session import Session
from orvalho.cli.tree import Verb
from orvalho.control.client import error_of
from orvalho.control.messages import Why, WhyReply
from orvalho.control.why import WhyAsk, WhyAsked
from orvalho.errors import InvalidInput

REFUSED_STATUS = 3


@click.command(
    "why",
    cls=Verb,
    examples=(
        "orvalho why r_01jd3k7m2q8v5x9z4b6n1c0f2h",
        "orvalho why r_01jd --json",
        "orvalho why --who gil@laptop --do fs.write --on peer:/notes/a.txt",
        "orvalho why --who laptop --do script.run --on peer --file draft.csv",
    ),
)
@click.argument("run", metavar="[RUN]", required=False)
@click.option("--who", metavar="NAME", help="Without a run: who would ask, as in a policy line.")
@click.option("--do", metavar="ACTION", help="What it would do: fs.write, script.run.")
@click.option("--on", metavar="CONTEXT[:OBJECT]", help="What to: peer:/notes; peer:key for kv.")
@click.option(
    "--all", "all_rules", is_flag=True, help="Of a run: the rules that did not match too."
)
@click.option("--file", metavar="FILE", help="With this policy file in place of the one so named.")
@click.pass_obj
def command(
    session: Session,
    *,
    run: str | None,
    who: str | None,
    do: str | None,
    on: str | None,
    file: str | None,
    all_rules: bool,
) -> int:
    """Who sent a run, each rule that let it or refused it, and the smallest edit that would allow
    it. With --who, --do and --on: what the rules say of it now; exit status 3 if it is refused."""
    if run is not None:
        if who or do or on or file:
            raise InvalidInput("a RUN, or --who, --do and --on: not both.")
        _of_run(session, run, all_rules=all_rules)
        return 0
    if not (who and do and on):
        raise InvalidInput("give a RUN, or --who, --do and --on.", hint="orvalho why -h")
    return _asked(session, WhyAsk(who=who, do=do, on=on), file)


def _of_run(session: Session, run: str, *, all_rules: bool) -> None:
    with session.connect() as client:
        reply = client.ask(Why(run=run), WhyReply)
    if session.screen.as_json:
        session.screen.document(plain(reply))
        return
    session.screen.lines(explanation(reply, all_rules=all_rules))
    if reply.error is not None:
        session.screen.notice("")
        session.screen.error(error_of(reply.error))


def _asked(session: Session, ask: WhyAsk, file: str | None) -> int:
    if file is not None:
        ask = WhyAsk(who=ask.who, do=ask.do, on=ask.on, draft=_read(file), draft_name=_name(file))
    with session.connect() as client:
        reply = client.ask(ask, WhyAsked)
    if session.screen.as_json:
        session.screen.document(plain(reply))
    else:
        session.screen.lines(answer(reply))
    return 0 if reply.allowed else REFUSED_STATUS


def _name(file: str) -> str:
    name = Path(file).name
    return name if name.endswith(".csv") else f"{name}.csv"


def _read(file: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{file} cannot be read: {error}", where=file) from error
