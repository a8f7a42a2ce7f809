"""An editor on a draft of a file of rules: nothing is in force before it is without a mistake."""

from __future__ import annotations

import hashlib
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final, TypeVar

import click

from orvalho.cli.output import many
from orvalho.cli.replies import plain
from orvalho.cli.session import Session
from orvalho.control.offline import ask_offline
from orvalho.control.policy_tools import PolicyDrafted, PolicyInstalled
from orvalho.errors import InvalidInput, NotFound, ScriptFailed

T = TypeVar("T", PolicyDrafted, PolicyInstalled)

# What is tried where neither $VISUAL nor $EDITOR says.
_EDITORS: Final = ("sensible-editor", "nano", "vi")


def edit_draft(session: Session, name: str) -> int:
    """Open the editor until the draft is installed, or nobody wants to go on; the exit status.

    Raises:
        ScriptFailed: the editor failed.
        OrvalhoError: there is no such file, or somebody else changed it meanwhile.
    """
    editor = _editor(session)
    drafted = _ask(session, PolicyDrafted, "draft", name)
    if drafted.kept:
        session.screen.notice(f"going on with the draft that was left in {drafted.draft}")
    while True:
        _edit(editor, Path(drafted.draft))
        reply = _ask(session, PolicyInstalled, "install", name)
        if reply.installed or not reply.problems:
            _tell(session, reply)
            return 0
        if not session.screen.as_json:
            session.screen.lines(reply.problems)
        if not _again(session):
            break
    if session.screen.as_json:
        session.screen.document(plain(reply))
    session.screen.notice(
        f"policy/{reply.name} is as it was: the draft has {many(len(reply.problems), 'mistake')}"
        f" and is kept in {drafted.draft}"
    )
    session.screen.notice(f"  try   orvalho policy edit {name}")
    session.screen.notice(f"  or throw it away: rm {shlex.quote(drafted.draft)}")
    return 1


def _ask(session: Session, kind: type[T], task: str, name: str) -> T:
    return ask_offline(session.environ, session.place, "policy", kind, task, name)


def _editor(session: Session) -> list[str]:
    environ = session.environ
    text = environ.get("VISUAL") or environ.get("EDITOR")
    if text:
        try:
            return shlex.split(text)
        except ValueError as error:
            raise InvalidInput(f"$EDITOR cannot be read: {error}.", where=text) from error
    found = next((path for each in _EDITORS if (path := shutil.which(each))), None)
    if found is None:
        raise NotFound("there is no editor here.", hint="EDITOR=nano orvalho policy edit")
    return [found]


def _edit(editor: list[str], draft: Path) -> None:
    before = _digest(draft)
    try:
        done = subprocess.run([*editor, str(draft)], check=False)  # noqa: S603 - the person's own
    except OSError as error:
        raise ScriptFailed(
            f"the editor {editor[0]} cannot be started: {error.strerror}.",
            hint="EDITOR=nano orvalho policy edit",
        ) from error
    if done.returncode != 0:
        # Editors are left with a status on purpose: `:cq` says "leave it as it was".
        kept = f"; the draft is kept in {draft}" if _digest(draft) != before else ""
        raise ScriptFailed(
            f"the editor ended with status {done.returncode}: nothing is installed{kept}."
        )


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""


def _tell(session: Session, reply: PolicyInstalled) -> None:
    if session.screen.as_json:
        session.screen.document(plain(reply))
        return
    if not reply.installed:
        session.screen.notice(f"policy/{reply.name} is as it was: nothing was changed")
        return
    session.screen.line(f"policy/{reply.name} installed")
    for problem in reply.problems:
        session.screen.notice(f"still to mend before any of it counts: {problem}")


def _again(session: Session) -> bool:
    if session.screen.as_json or not sys.stdin.isatty():
        return False
    return bool(click.confirm("Edit again?", default=True, err=True))
