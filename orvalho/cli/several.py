"""One script on several targets: what each of them said, and the worst of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from orvalho.cli.replies import plain
from orvalho.cli.runs import cancel, end_error, parted, preview, result_text, standing_words
from orvalho.cli.session import Session
from orvalho.control.client import DaemonGone, error_of
from orvalho.control.messages import Reply, RunEnded, RunHeld, RunOutput, RunQueued
from orvalho.control.seeing import NotSent, ScriptPlaced
from orvalho.errors import InvalidInput, OrvalhoError

_QUEUED_STATUS: Final = 7


@dataclass(slots=True)
class _Part:
    """What is known of one target: its run, and the last word on it."""

    to: str
    why: str = ""
    run: str | None = None
    last: RunQueued | RunHeld | RunEnded | NotSent | None = None

    @property
    def error(self) -> OrvalhoError | None:
        if isinstance(self.last, NotSent):
            return error_of(self.last)
        return end_error(self.last) if isinstance(self.last, RunEnded) else None

    @property
    def status(self) -> int:
        if self.error is not None:
            return self.error.exit_status
        return _QUEUED_STATUS if _is_queued(self.last) else 0


def follow_each(
    session: Session,
    placed: ScriptPlaced,
    replies: Iterable[Reply],
    file: str | None,
    *,
    detach: bool,
) -> int:
    """Show what comes in until the stream ends, then a line a target; the worst exit status."""
    if file is not None:
        raise InvalidInput("-o takes one result, and this target has several.")
    parts = {choice.to: _Part(choice.to, choice.why) for choice in placed.choices}
    by_run: dict[str, _Part] = {}
    try:
        for reply in replies:
            if isinstance(reply, RunQueued):
                part = parts.setdefault(reply.to, _Part(reply.to))
                part.run, part.last = reply.run, reply
                by_run[reply.run] = part
            elif isinstance(reply, NotSent):
                parts.setdefault(reply.to, _Part(reply.to)).last = reply
            elif isinstance(reply, (RunEnded, RunHeld)) and reply.run in by_run:
                by_run[reply.run].last = reply
            elif isinstance(reply, RunOutput) and reply.run in by_run:
                _show_output(session, by_run[reply.run].to, reply)
    except KeyboardInterrupt:
        for part in by_run.values():
            if part.run is not None and not isinstance(part.last, RunEnded):
                cancel(session, part.run)
        raise
    except DaemonGone as error:
        left = next((p.run for p in by_run.values() if not isinstance(p.last, RunEnded)), None)
        raise parted(error, left) from error
    _show(session, placed.name, list(parts.values()))
    worst = max((part.status for part in parts.values()), default=0)
    return 0 if detach and worst == _QUEUED_STATUS else worst


def show_choice(session: Session, placed: ScriptPlaced) -> None:
    """Which one was chosen of several, and why; with --verbose and --json also why no other."""
    if session.screen.as_json:
        session.screen.aside("script.placed", plain(placed))
        return
    for choice in placed.choices:
        session.screen.notice(f"{choice.to}: {choice.why}")
    if session.screen.verbose:
        for other in placed.others:
            session.screen.notice(f"  not {other.to}: {other.why}")


def _show_output(session: Session, to: str, line: RunOutput) -> None:
    session.screen.guest_line(
        to, level=line.level, text=line.text, at=line.at, run=line.run, seq=line.seq
    )


def _show(session: Session, name: str, parts: list[_Part]) -> None:
    if session.screen.as_json:
        results = [_document(part) for part in parts]
        session.screen.document({"name": name, "results": results})
        return
    width = max((len(part.to) for part in parts), default=0)
    for part in parts:
        session.screen.line(f"{part.to:<{width}}  {_state(part.last):<8}  {_words(part)}".rstrip())
    for part in parts:
        if part.error is not None:
            session.screen.error(part.error)


def _document(part: _Part) -> dict[str, Any]:
    known: dict[str, Any] = {"to": part.to, "why": part.why, "run": part.run}
    known |= {"state": _state(part.last), "result": None, "result_bytes": None, "error": None}
    if isinstance(part.last, NotSent):
        error = plain(part.last)
        del error["to"]
        known["error"] = error
    elif isinstance(part.last, RunEnded):
        ended = plain(part.last)
        known |= {name: ended[name] for name in ("result", "result_bytes", "error")}
    return known


def _state(last: RunQueued | RunHeld | RunEnded | NotSent | None) -> str:
    if isinstance(last, RunHeld):
        return "held"
    if isinstance(last, RunEnded):
        return last.outcome
    if isinstance(last, RunQueued):
        return last.state
    return "not sent"


def _is_queued(last: object) -> bool:
    is_queued = isinstance(last, RunQueued) and last.state in ("queued", "away")
    return is_queued or isinstance(last, RunHeld)


def _words(part: _Part) -> str:
    if part.error is not None:
        return part.error.message
    if isinstance(part.last, RunEnded):
        if part.last.result_bytes is not None:
            return preview(part.last.result_bytes)
        return result_text(part.last.result, pretty=False)
    if isinstance(part.last, RunQueued) and part.last.state == "away":
        return standing_words(part.last)
    return part.run or ""
