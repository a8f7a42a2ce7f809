"""`orvalho replay`: a run made again from what was recorded of it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from orvalho.cli.output import many, milliseconds, moment, safe
from orvalho.cli.replies import plain
from orvalho.cli.session import Session
from orvalho.cli.tree import Verb
from orvalho.control.messages import Note
from orvalho.control.replaying import Replay, Replayed, ReplayExport, ReplayFile
from orvalho.errors import InvalidInput, NotFound

_SUFFIX: Final = ".orvreplay"
_MOST_BYTES: Final = 64 << 20
_DIFFERS: Final = 1


@click.command(
    "replay",
    cls=Verb,
    examples=(
        "orvalho replay r_01jd",
        "orvalho replay --calls r_01jd",
        "orvalho replay --export r_01jd -o run.orvreplay",
        "orvalho replay run.orvreplay",
    ),
)
@click.argument("run", metavar="RUN|FILE")
@click.option("--calls", "with_calls", is_flag=True, help="Show each call and its answer, too.")
@click.option("--export", "exports", is_flag=True, help="Write it to a file instead (see -o).")
@click.option("-o", "--output", metavar="FILE", help="Where to; RUN.orvreplay if not given.")
@click.pass_context
def command(
    context: click.Context, run: str, with_calls: bool, exports: bool, output: str | None
) -> None:
    """Run a script again that has run here, with every answer, moment and random number that it
    got then. It changes nothing: no call reaches a context. Exit status 1 when it goes another
    way. A file can be taken to another device; it holds all that the script read."""
    session: Session = context.obj
    if exports:
        _export(session, run, output)
        return
    if output is not None:
        raise InvalidInput("-o goes with --export", hint="orvalho replay --export RUN -o FILE")
    content = _read(Path(run)) if run.endswith(_SUFFIX) else None
    request = Replay(run="" if content else run, content=content, with_calls=with_calls)
    with session.connect() as client:
        reply = client.ask(request, Replayed)
    if session.screen.as_json:
        session.screen.document(plain(reply))
    else:
        session.screen.lines(_told(reply))
    if not reply.deterministic:
        context.exit(_DIFFERS)


def _export(session: Session, run: str, output: str | None) -> None:
    with session.connect() as client:
        reply = client.ask(ReplayExport(run=run), ReplayFile)
    path = Path(output or f"{reply.run}{_SUFFIX}")
    try:
        path.touch(mode=0o600)
        path.write_bytes(reply.content)
    except OSError as error:
        raise InvalidInput(f"cannot be written: {error.strerror}", where=str(path)) from error
    session.tell(Note(text=f"wrote {path}: what {reply.run} read is in it"))


def _read(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > _MOST_BYTES:
            raise InvalidInput(f"no exported run has {size} bytes", where=str(path))
        return path.read_bytes()
    except FileNotFoundError as error:
        raise NotFound(
            "there is no such file", where=str(path), hint="orvalho replay --export RUN -o FILE"
        ) from error
    except OSError as error:
        raise InvalidInput(f"cannot be read: {error.strerror}", where=str(path)) from error


def _told(reply: Replayed) -> list[str]:
    lines = [f"deterministic: {'yes' if reply.deterministic else 'no'}"]
    if (found := reply.difference) is not None:
        number = f" {found.number}" if found.number else ""
        operation = f"  {safe(found.operation)}" if found.operation else ""
        lines += [
            f"  {found.what}{number}{operation}",
            f"    recorded  {_or_nothing(found.recorded)}",
            f"    now       {_or_nothing(found.now)}",
        ]
    lines += [
        f"  {safe(reply.filename)} of {reply.caller} for {reply.target}, {moment(reply.ran_at)}",
        f"  {reply.run}, by the receipt of {reply.signed_by}: {reply.outcome}",
        f"  {many(reply.host_calls, 'call')}, {many(reply.lines, 'line')},"
        f" {many(reply.clock_readings, 'reading')} of the clock;"
        f" made again in {milliseconds(reply.wall_ms)}",
    ]
    if reply.stopped:
        lines.append(f"  it was stopped ({reply.stopped}): compared as far as it came")
    for call in reply.calls:
        lines.append(f"  {call.number:>4}  {safe(call.operation)} {safe(call.argument)}")
        mark = "!" if call.is_error else "="
        lines.append(f"        {mark} {_or_nothing(call.answer)}")
    return lines


def _or_nothing(text: str | None) -> str:
    return "(nothing)" if text is None else safe(text)
