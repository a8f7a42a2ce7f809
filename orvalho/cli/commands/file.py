"""`orvalho file`: files from this machine to another device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from orvalho.cli.output import milliseconds, size
from orvalho.cli.replies import plain
from orvalho.cli.session import Session
from orvalho.cli.tree import Noun, Verb
from orvalho.control.seeing import FileProgress, FileSend, FileSent
from orvalho.errors import InvalidInput, Unavailable


@click.group(
    "file",
    cls=Noun,
    examples=(
        "orvalho file send a.jpg phone2:",
        "orvalho file send a.jpg b.jpg work@phone2:/photos/",
        "orvalho file send big.iso phone2: --wait",
    ),
)
def command() -> None:
    """Files: from this machine into a context on another device."""


@command.command(
    "send",
    cls=Verb,
    examples=(
        "orvalho file send a.jpg phone2:",
        "orvalho file send a.jpg b.jpg work@phone2:/photos/",
        "orvalho file send big.iso phone2: --wait",
    ),
)
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@click.argument("target", metavar="TARGET:")
@click.option("--to", "directory", metavar="DIR", help="Where it shall lie there (/inbox/).")
@click.option("--as", "context", metavar="CONTEXT", help="Which of our contexts sends it.")
@click.option("--wait", is_flag=True, help="Wait for a target that is away.")
@click.pass_obj
def send(
    session: Session,
    *,
    files: tuple[str, ...],
    target: str,
    directory: str | None,
    context: str | None,
    wait: bool,
) -> None:
    """Send each FILE into TARGET's /inbox/, or the directory after the colon. It appears there
    whole, once its hash has been compared. The same command goes on where one was cut."""
    to, _, behind = target.partition(":")
    if behind and directory:
        raise InvalidInput(f'"{target}" and --to both name a directory.')
    sent: list[dict[str, Any]] = []
    for file in files:
        request = FileSend(
            path=str(Path(file).absolute()),
            to=to,
            directory=behind or directory or "/inbox",
            context=context,
            wait=wait,
        )
        sent.append(plain(_send(session, request)))
    if session.screen.as_json:
        session.screen.document({"files": sent})


def _send(session: Session, request: FileSend) -> FileSent:
    name = Path(request.path).name
    done: FileSent | None = None
    try:
        with session.connect() as client:
            for reply in client.stream(request):
                if isinstance(reply, FileProgress):
                    session.screen.meter(_meter(name, reply))
                elif isinstance(reply, FileSent):
                    done = reply
    finally:
        session.screen.meter("")
    if done is None:
        raise Unavailable("the daemon did not say what became of the file.")
    if not session.screen.as_json and not session.screen.quiet:
        verb = "" if done.changed else ", lay there already"
        took = milliseconds(done.took_ms)
        session.screen.line(f"{done.to}:{done.path}  {size(done.size_bytes)} in {took}{verb}")
    return done


def _meter(name: str, progress: FileProgress) -> str:
    """`a.jpg  [#####.....]  48 %  31 MB of 64 MB`, or that it waits."""
    if progress.state == "waiting":
        return f"{name}  waits for {progress.to}"
    part = progress.sent_bytes / progress.size_bytes if progress.size_bytes else 1.0
    bar = "#" * round(20 * part)
    text = f"{name}  [{bar:.<20}]  {100 * part:3.0f} %"
    text += f"  {size(progress.sent_bytes)} of {size(progress.size_bytes)}"
    if progress.resumed_bytes:
        text += f", goes on after {size(progress.resumed_bytes)}"
    return text
