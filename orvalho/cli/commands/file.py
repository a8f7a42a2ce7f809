"""`orvalho file`: files from this machine to another device."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Final

import click

from orvalho.cli.output import duration, milliseconds, size
from orvalho.cli.replies import plain
from orvalho.cli.session import Session
from orvalho.cli.tree import Noun, Verb
from orvalho.control.client import error_of
from orvalho.control.messages import Note
from orvalho.control.seeing import (
    FileCancel,
    FileList,
    FileListReply,
    FileProgress,
    FileQueued,
    FileSend,
    FileSent,
    NotSent,
)
from orvalho.errors import InvalidInput, Unavailable

_QUEUED_STATUS: Final = 7
_End = FileSent | FileQueued | NotSent


@click.group(
    "file",
    cls=Noun,
    examples=(
        "orvalho file send a.jpg phone2:",
        "orvalho file send a.jpg b.jpg work@phone2:/photos/",
        "orvalho file send big.iso phone2: --wait",
        "orvalho file send plan.pdf @family:",
        "orvalho file ls",
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
        "orvalho file send plan.pdf @family:",
    ),
)
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@click.argument("target", metavar="TARGET:")
@click.option("--to", "directory", metavar="DIR", help="Where it shall lie there (/inbox/).")
@click.option("--as", "context", metavar="CONTEXT", help="Which of our contexts sends it.")
@click.option("--wait", is_flag=True, help="Wait for a target that is away, here.")
@click.pass_obj
def send(
    session: Session,
    *,
    files: tuple[str, ...],
    target: str,
    directory: str | None,
    context: str | None,
    wait: bool,
) -> int:
    """Send each FILE into TARGET's /inbox/, or the directory after the colon; TARGET may be
    @group, all or any@label=value. It appears there whole, once its hash has been compared. Exit
    status 7: the target is away, and the file waits for it here, as it is now."""
    to, _, behind = target.partition(":")
    if behind and directory:
        raise InvalidInput(f'"{target}" and --to both name a directory.')
    documents: list[dict[str, Any]] = []
    statuses: list[int] = []
    for file in files:
        request = FileSend(
            path=str(Path(file).absolute()),
            to=to,
            directory=behind or directory or "/inbox",
            context=context,
            wait=wait,
        )
        for reply in _send(session, request):
            statuses.append(_told(session, reply))
            documents.append(_document(reply))
    if session.screen.as_json:
        session.screen.document({"files": documents})
    return max(statuses, default=0)


@command.command(
    "ls",
    cls=Verb,
    examples=("orvalho file ls", "orvalho file ls --json", "orvalho --home ./server file ls"),
)
@click.pass_obj
def ls(session: Session) -> None:
    """Files that wait for a device that is off, and what became of others of late."""
    with session.connect() as client:
        reply = client.ask(FileList(), FileListReply)
    if session.screen.as_json:
        session.screen.document(plain(reply))
        return
    now = time.time()
    rows = [
        (
            each.file,
            each.to,
            Path(each.path).name,
            size(each.size_bytes),
            each.state,
            each.text or f"expires in {duration(each.until - now)}",
        )
        for each in reply.files
    ]
    session.screen.table(("file", "to", "name", "size", "state", "what became of it"), rows)


@command.command(
    "cancel",
    cls=Verb,
    examples=(
        "orvalho file cancel f_01jd3k7m2q8v5x9z4b6n1c0f2h",
        "orvalho file cancel f_01jd",
        "orvalho file cancel f_01jd --json",
    ),
)
@click.argument("file", metavar="FILE")
@click.pass_obj
def cancel(session: Session, file: str) -> None:
    """Take back a file that waits; FILE is its id, or how that begins."""
    with session.connect() as client:
        session.tell(client.ask(FileCancel(file=file), Note))


def _send(session: Session, request: FileSend) -> list[_End]:
    """What became of it, at each of its targets."""
    name = Path(request.path).name
    ends: list[_End] = []
    progress: dict[str, FileProgress] = {}
    try:
        with session.connect() as client:
            for reply in client.stream(request):
                if isinstance(reply, FileProgress):
                    progress[reply.to] = reply
                    session.screen.meter(_meter(name, _sum(progress)))
                elif isinstance(reply, (FileSent, FileQueued, NotSent)):
                    ends.append(reply)
    finally:
        session.screen.meter("")
    if not ends:
        raise Unavailable("the daemon did not say what became of the file.")
    return ends


def _told(session: Session, end: _End) -> int:
    """A line for it; its exit status."""
    screen = session.screen
    if isinstance(end, NotSent):
        error = error_of(end)
        screen.error(error)
        return error.exit_status
    if isinstance(end, FileQueued):
        left = duration(end.expires_at - time.time())
        if not screen.as_json:
            name = Path(end.path).name
            screen.notice(f"{name}  queued at {end.queued_at} for {end.to}, expires in {left}")
            screen.notice("  try   orvalho file ls")
        return _QUEUED_STATUS
    if not screen.as_json and not screen.quiet:
        verb = "" if end.changed else ", lay there already"
        took = milliseconds(end.took_ms)
        screen.line(f"{end.to}:{end.path}  {size(end.size_bytes)} in {took}{verb}")
    return 0


def _document(end: _End) -> dict[str, Any]:
    if isinstance(end, NotSent):
        error = plain(end)
        return {"state": "not sent", "to": error.pop("to"), "error": error}
    return {"state": "queued" if isinstance(end, FileQueued) else "sent", **plain(end)}


def _sum(progress: dict[str, FileProgress]) -> FileProgress:
    """The transfers to several, as one."""
    each = list(progress.values())
    if len(each) == 1:
        return each[0]
    waiting = [one.to for one in each if one.state == "waiting"]
    return FileProgress(
        to=", ".join(waiting),
        state="waiting" if len(waiting) == len(each) else "sending",
        sent_bytes=sum(one.sent_bytes for one in each),
        size_bytes=sum(one.size_bytes for one in each),
        resumed_bytes=sum(one.resumed_bytes for one in each),
    )


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
