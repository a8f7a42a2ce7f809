"""A run as the command line sees it: sent, followed, cancelled, its end shown."""

from __future__ import annotations

import base64
import os
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import msgspec

from orvalho.cli.output import duration, many, milliseconds, size
from orvalho.cli.plan import plan_lines
from orvalho.cli.replies import plain
from orvalho.cli.session import Session
from orvalho.control.client import DaemonGone, error_of
from orvalho.control.messages import (
    Note,
    Reply,
    RunEnded,
    RunHeld,
    RunOutput,
    RunQueued,
    ScriptCancel,
)
from orvalho.errors import (
    Conflict,
    Denied,
    InvalidInput,
    LimitExceeded,
    OrvalhoError,
    ScriptFailed,
    Unavailable,
)

HELD_STATUS: Final = 7
# Ends that came without an error of their own.
_ENDS: Final[dict[str, type[OrvalhoError]]] = {
    "failed": ScriptFailed,
    "refused": Denied,
    "limited": LimitExceeded,
    "cancelled": Conflict,
    "interrupted": Unavailable,
    "expired": Unavailable,
    "rejected": Denied,
}


def follow(
    session: Session,
    replies: Iterable[Reply],
    name: str,
    queued: Callable[[RunQueued], None] | None = None,
) -> RunEnded | RunQueued | RunHeld | None:
    """Show what comes in until the stream ends; answers the last word on the run. `name` stands
    before each line that the script logs. Ctrl-C cancels the run."""
    run: str | None = None
    last: RunEnded | RunQueued | RunHeld | None = None
    try:
        for reply in replies:
            if isinstance(reply, RunOutput):
                session.screen.guest_line(
                    name,
                    level=reply.level,
                    text=reply.text,
                    at=reply.at,
                    run=reply.run,
                    seq=reply.seq,
                )
            elif isinstance(reply, RunQueued):
                run, last = reply.run, reply
                if queued is not None:
                    queued(reply)
            elif isinstance(reply, (RunEnded, RunHeld)):
                last = reply
    except KeyboardInterrupt:
        if run is not None:
            cancel(session, run)
        raise
    except DaemonGone as error:
        raise parted(error, run) from error
    return last


def parted(error: DaemonGone, run: str | None) -> Unavailable:
    """What is said when the daemon goes away while it follows a run."""
    if run is None:
        return error
    return Unavailable(
        f"{error.message.rstrip('.')}; what became of {run}, it knows when it is back.",
        where=error.where,
        hint=f"orvalho script result {run} --wait",
    )


def standing_words(queued: RunQueued) -> str:
    """Why a run that is durable has no end yet."""
    if queued.state == "away":
        return (
            f"{queued.queued_at} is gone; {queued.run} is kept there, and its end comes when it is"
            " back"
        )
    left = duration(queued.expires_at - time.time())
    return f"queued at {queued.queued_at}, expires in {left}"


def tell_away(session: Session, queued: RunQueued, *, waits: bool) -> None:
    """The notice that a run's target has gone while one `waits` for it all the same."""
    if waits and queued.state == "away":
        session.screen.notice(standing_words(queued))


def show_queued(session: Session, queued: RunQueued) -> None:
    """The notice of a run that goes on without us, and how to ask for it later."""
    session.screen.notice(standing_words(queued))
    session.screen.notice(f"  try   orvalho script result {queued.run} --wait")


def show_held(session: Session, held: RunHeld) -> int:
    """The exit status for a run that waits for its target's owner."""
    if session.screen.as_json:
        session.screen.document(plain(held))
    session.screen.notice(f"held at {held.to}: its owner is to look at it first")
    session.screen.notice(f"  try   orvalho script result {held.run} --wait")
    return HELD_STATUS


def cancel(session: Session, run: str) -> None:
    """Stop a run whose replies were interrupted."""
    # The interrupted connection is closed; the run is cancelled by name over a new one.
    with session.connect_running() as client:
        note = client.ask(ScriptCancel(run=run), Note)
    session.screen.notice(note.text)


def show_end(session: Session, ended: RunEnded, file: str | None) -> None:
    """The result on standard output, or in `file`.

    Raises:
        OrvalhoError: what ended the run, if it was not its own end.
        InvalidInput: `file` cannot be written.
    """
    if session.screen.as_json:
        session.screen.document(plain(ended))
    if (error := end_error(ended)) is not None:
        raise error
    if ended.plan is not None:
        if not session.screen.as_json:
            session.screen.lines(plan_lines(ended.plan))
        session.screen.notice(_cost(ended))
        return
    if file is not None:
        _save(session, ended, Path(file))
    elif not session.screen.as_json:
        _print(session, ended)
    session.screen.progress(f"done in {milliseconds(ended.usage.wall_ms)}")


def _cost(ended: RunEnded) -> str:
    usage = ended.usage
    return (
        f"nothing was changed; it took {milliseconds(usage.cpu_ms)} of processor and"
        f" {many(usage.host_calls, 'call')}"
    )


def end_error(ended: RunEnded) -> OrvalhoError | None:
    """What ended the run, if it was not its own end."""
    if ended.error is not None:
        return error_of(ended.error)
    if ended.outcome not in ("done", "planned"):
        kind = _ENDS.get(ended.outcome, ScriptFailed)
        return kind(f"the run was {ended.outcome}.", hint=f"orvalho why {ended.run}")
    return None


def _print(session: Session, ended: RunEnded) -> None:
    if ended.result_bytes is not None:
        if not session.screen.is_terminal:
            session.screen.raw(ended.result_bytes)
            return
        kind = f"{size(len(ended.result_bytes))} of bytes ({_kind(ended.result_bytes)})"
        session.screen.notice(f"the result is {kind}, which a terminal cannot show")
        session.screen.notice(f"  try   orvalho script result {ended.run} -o FILE")
        return
    if ended.result is not None:
        session.screen.line(result_text(ended.result, pretty=session.screen.is_terminal))


def result_text(result: msgspec.Raw, *, pretty: bool) -> str:
    """JSON as it came, indented or on one line; numbers keep their digits."""
    return msgspec.json.format(bytes(result), indent=2 if pretty else -1).decode()


def _save(session: Session, ended: RunEnded, file: Path) -> None:
    if ended.result_bytes is not None:
        content = ended.result_bytes
    else:
        content = msgspec.json.format(bytes(ended.result or b"null"), indent=-1) + b"\n"
    try:
        write_atomically(file, content)
    except OSError as error:
        raise InvalidInput(
            f"{file} cannot be written: {error.strerror}.",
            where=str(file),
            hint=f"orvalho script result {ended.run} -o FILE",
        ) from error
    session.screen.notice(f"{size(len(content))} in {file}")


def write_atomically(file: Path, content: bytes) -> None:
    """All of it or nothing: a reader never sees half a file."""
    descriptor, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).replace(file)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _kind(content: bytes) -> str:
    signatures = {
        b"\x89PNG": "PNG",
        b"\xff\xd8\xff": "JPEG",
        b"GIF8": "GIF",
        b"%PDF": "PDF",
        b"PK\x03\x04": "ZIP",
        b"\x1f\x8b": "gzip",
    }
    return next((name for start, name in signatures.items() if content.startswith(start)), "binary")


def preview(content: bytes) -> str:
    """`<1.5 kB of bytes: iVBORw0KGgo...>`"""
    start = base64.b64encode(content[:24]).decode()
    return f"<{size(len(content))} of bytes: {start}{'...' if len(content) > 24 else ''}>"
