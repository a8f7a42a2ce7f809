"""`orvalho ask`: one program on many nodes, their answers in one table, or reduced to one."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from orvalho.cli.answers import REDUCTIONS, reduced, table
from orvalho.cli.arguments import Duration, read_text, script_params
from orvalho.cli.asking import Asked, ask_each, read_program
from orvalho.cli.inline import inline_source
from orvalho.cli.runs import end_error, follow, result_text
from orvalho.cli.session import Session
from orvalho.cli.tree import Verb
from orvalho.control.asking import Ask, AskPlaced
from orvalho.control.logic import ScriptCheck, ScriptChecked
from orvalho.control.messages import RunEnded, ScriptSend
from orvalho.errors import InvalidInput, Unavailable

_STAR: Final = "star:"
_REDUCE: Final = re.compile(r"^(?:def reduce\s*\(|reduce\s*=)", re.MULTILINE)
_MAIN: Final = re.compile(r"^(?:def main\s*\(|main\s*=)", re.MULTILINE)
# Behind what the person wrote, so that errors name the lines of the file.
_CALL: Final = "\n\ndef main(job):\n    return reduce(job.params)\n"
_REDUCE_S: Final = 60


@click.command(
    "ask",
    cls=Verb,
    examples=(
        "orvalho ask all examples/c/ram.wasm",
        "orvalho ask all examples/c/ram.wasm --reduce sum",
        "orvalho ask @family -e 'target.node.facts().then(f => f.disk_free_bytes)' --reduce min",
        "orvalho ask all examples/c/ram.wasm --reduce star:examples/starlark/roomiest.star",
    ),
)
@click.argument("target", metavar="TARGET")
@click.argument("program", metavar="[PROGRAM]", required=False)
@click.option("-e", "--eval", "code", metavar="CODE", help="Ask with CODE instead of a file.")
@click.option(
    "--param", "pairs", metavar="K=V", multiple=True, help="A parameter: JSON, or else text."
)
@click.option("--params-file", metavar="FILE", help="All parameters, as JSON (- for stdin).")
@click.option(
    "--reduce",
    "how",
    default="table",
    metavar="HOW",
    help="table, sum, min, max, or star:FILE with `def reduce(rows)` (table).",
)
@click.option(
    "--timeout",
    "timeout_s",
    type=Duration(),
    default="5s",
    metavar="TIME",
    help="How long to wait for answers (5s).",
)
@click.option(
    "--hops",
    type=click.IntRange(min=1),
    default=2,
    metavar="N",
    help="1: only devices that were paired here; 2: also those that these introduced (2).",
)
@click.option("--here", is_flag=True, help="Ask this device too.")
@click.option("--as", "context", metavar="CONTEXT", help="Which of our contexts asks.")
@click.pass_obj
def command(
    session: Session,
    *,
    target: str,
    program: str | None,
    code: str | None,
    pairs: tuple[str, ...],
    params_file: str | None,
    how: str,
    timeout_s: int,
    hops: int,
    here: bool,
    context: str | None,
) -> int:
    """Sign PROGRAM, have each node run it that TARGET stands for (all, @group,
    all@label=value, any@label=value, peer@phone2), and put what they answer into one table: a row a
    node, also for the silent, the refused and the failed. Exit status 0 when one answered at least,
    else 1."""
    reducer = _reducer(session, how)
    if (program is None) == (code is None):
        raise InvalidInput("give a PROGRAM, or code with -e.", hint="orvalho ask -h")
    asked_with: dict[str, Any]
    if code is not None:
        asked_with = {"filename": "inline.js", "source": inline_source(code)}
    else:
        assert program is not None
        asked_with = read_program(session, program)
    request = Ask(
        to=target,
        **asked_with,
        params=msgspec.Raw(script_params(pairs, params_file)),
        context=context,
        timeout_s=timeout_s,
        hops=hops,
        here=here,
    )
    asked = ask_each(session, request, lambda placed: _tell_left_out(session, placed))
    if how == "table":
        _show_table(session, asked)
        return asked.status
    result = (
        reduced(asked.rows, how)
        if reducer is None
        else _reduce_here(session, asked, Path(how.removeprefix(_STAR)).name, reducer)
    )
    _show_result(session, asked, how, result)
    return asked.status


def _reducer(session: Session, how: str) -> str | None:
    """The program that reduces, if it is one: looked at before anybody is asked."""
    if how == "table" or how in REDUCTIONS:
        return None
    if not how.startswith(_STAR):
        known = ", ".join(("table", *REDUCTIONS, "star:FILE"))
        raise InvalidInput(f'"{how}" reduces nothing: it is one of {known}', where="--reduce")
    file = how.removeprefix(_STAR)
    text = read_text(file)
    if not _REDUCE.search(text):
        raise InvalidInput(f"{file} has no `def reduce(rows)`", where=file)
    if _MAIN.search(text):
        raise InvalidInput(f"{file} reduces, and cannot have a `main` of its own", where=file)
    name = Path(file).name
    if not name.endswith(".star"):
        raise InvalidInput(f"{file} is not a Starlark file: its name ends in .star", where=file)
    with session.connect() as client:
        checked = client.ask(ScriptCheck(filename=name, source=text + _CALL), ScriptChecked)
    if checked.problems:
        raise InvalidInput(f"{file}:{checked.problems[0]}", where=file)
    return text


def _reduce_here(session: Session, asked: Asked, name: str, text: str) -> Any:
    """An ordinary run of our own context, under its rules and limits, on this node."""
    rows = [row.document() for row in asked.rows]
    request = ScriptSend(
        to=asked.placed.here,
        filename=name,
        source=text + _CALL,
        params=msgspec.Raw(json.dumps(rows, ensure_ascii=False).encode()),
        context=asked.placed.here.partition("@")[0],
        expires_s=_REDUCE_S,
        wait=True,
    )
    with session.connect() as client:
        ended = follow(session, client.stream(request), name)
    if not isinstance(ended, RunEnded):
        raise Unavailable("the daemon did not say what became of the reduction.")
    if (error := end_error(ended)) is not None:
        raise error
    return msgspec.json.decode(bytes(ended.result or b"null"))


def _tell_left_out(session: Session, placed: AskPlaced) -> None:
    for choice in placed.left_out:
        session.screen.notice(f"{choice.node} is left out: it is {choice.hops} hops away")
    if session.screen.verbose:
        for choice in placed.choices:
            session.screen.notice(f"{choice.to}: {choice.why}")


def _show_table(session: Session, asked: Asked) -> None:
    if session.screen.as_json:
        session.screen.document(asked.document() | {"reduce": "table", "result": None})
        return
    session.screen.table(*table(asked.rows))
    session.screen.notice(asked.summary())


def _show_result(session: Session, asked: Asked, how: str, result: Any) -> None:
    if session.screen.as_json:
        session.screen.document(asked.document() | {"reduce": how, "result": result})
        return
    for row in asked.rows:
        if not row.is_answer:
            session.screen.notice(f"{row.answer.node} {row.answer.state}: {row.why}")
    raw = msgspec.Raw(json.dumps(result, ensure_ascii=False).encode())
    session.screen.line(result_text(raw, pretty=session.screen.is_terminal))
    session.screen.notice(asked.summary())
