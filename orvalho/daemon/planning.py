"""What a run's workspace would change, told without changing it, as far as the reader may know."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from typing import Final

from orvalho.contexts.changes import Content, ValueChange
from orvalho.contexts.fs_shim import fs_errors
from orvalho.contexts.workspace import Part, Workspace
from orvalho.errors import OrvalhoError
from orvalho.scripts.plan import Plan, PlannedCall, PlannedFile, PlannedValue

# May the reader see what is there now: `fs.read` of a path, `kv.read` of a key?
MaySee = Callable[[str, str], bool]

_TEXT_BYTES: Final = 256 << 10
_DIFF_CHARACTERS: Final = 64 << 10
_ALL_CHARACTERS: Final = 1 << 20
_LISTED: Final = 2000
_VALUE_CHARACTERS: Final = 2000
_HIDDEN: Final = "what is there now is not yours to read"
_UNREADABLE: Final = "what is there now cannot be read"


def everything(_action: str, _object: str) -> bool:
    """The owner's own eyes (`MaySee`)."""
    return True


def make_plan(
    workspace: Workspace,
    not_run: list[PlannedCall],
    may_see: MaySee,
    held_by: str | None = None,
) -> Plan:
    """In a thread. `held_by`: the rule by which its target's owner would look at it first, where
    the reader is told."""
    files: list[PlannedFile] = []
    left_out = 0
    room = _ALL_CHARACTERS
    for part, path, content in _changed(workspace):
        if len(files) >= _LISTED:
            left_out += 1
            continue
        try:
            planned = _planned(part, path, content, may_see, room)
        except (OSError, fs_errors.FSError, OrvalhoError):
            planned = PlannedFile(path=part.whole(path), mark="~", why=_UNREADABLE)
        if planned is not None:
            files.append(planned)
            room -= len(planned.diff or "")
    values = [
        _value(each, may_see("kv.read", each.key))
        for each in workspace.values.changes()
        if each.before != each.after
    ]
    left_out += max(0, len(values) - _LISTED)
    return Plan(
        files=tuple(files),
        values=tuple(values[:_LISTED]),
        not_run=tuple(not_run[:_LISTED]),
        left_out=left_out,
        held_by=held_by,
    )


def _changed(workspace: Workspace) -> Iterator[tuple[Part, str, Content | str | None]]:
    for part in workspace.parts():
        for path, content in part.overlay.changed().items():
            yield part, path, content


def _planned(
    part: Part, path: str, content: Content | str | None, may_see: MaySee, room: int
) -> PlannedFile | None:
    """One path; None where nothing would come of it."""
    whole, stamp = part.whole(path), part.overlay.found(path)
    mark = "+" if stamp is None else ("-" if content is None else "~")
    was_directory = stamp is not None and stamp.kind == "directory"
    if content == "directory" or (content is None and was_directory):
        if was_directory and content == "directory":
            return None
        return PlannedFile(path=whole, mark=mark, is_directory=True)
    before_bytes = stamp.size_bytes if stamp and not was_directory else None
    after = content if isinstance(content, Content) else None
    diff, why = None, None
    if stamp is not None and not may_see("fs.read", whole):
        before_bytes, why = None, _HIDDEN
    else:
        before = b""
        if before_bytes is not None and before_bytes <= _TEXT_BYTES:
            before = part.mount.lower.tree.inner.read_at_most(path, _TEXT_BYTES + 1)
        if after is not None and before_bytes == after.size_bytes and before == after.read():
            return None
        diff, why = _diff(whole, before_bytes, before, after, min(room, _DIFF_CHARACTERS))
    return PlannedFile(
        path=whole,
        mark=mark,
        before_bytes=before_bytes,
        after_bytes=after.size_bytes if after else None,
        after_sha256=after.sha256 if after else None,
        diff=diff,
        why=why,
    )


def _diff(
    path: str, before_bytes: int | None, before: bytes, after: Content | None, room: int
) -> tuple[str | None, str | None]:
    """(unified diff, why there is none)."""
    if max(before_bytes or 0, after.size_bytes if after else 0) > _TEXT_BYTES:
        return None, "too large to be compared"
    try:
        old, new = before.decode(), (after.read() if after else b"").decode()
    except UnicodeDecodeError:
        return None, "no text"
    if "\0" in old or "\0" in new:
        return None, "no text"
    lines = difflib.unified_diff(
        old.splitlines(keepends=True),
        new.splitlines(keepends=True),
        path if before_bytes is not None else "/dev/null",
        path if after is not None else "/dev/null",
    )
    text = "".join(
        line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines
    )
    if len(text) > room:
        return None, "too much to be shown"
    return text, None


def _value(change: ValueChange, may_see: bool) -> PlannedValue:
    before, why = change.before, None
    if before is not None and not may_see:
        before, why = None, _HIDDEN
    texts = [before, change.after]
    if any(text is not None and len(text) > _VALUE_CHARACTERS for text in texts):
        texts = [None if text and len(text) > _VALUE_CHARACTERS else text for text in texts]
        why = "too large to be shown"
    return PlannedValue(key=change.key, mark=change.mark, before=texts[0], after=texts[1], why=why)
