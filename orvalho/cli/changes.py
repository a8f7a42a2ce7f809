"""Changes of a context as the command line shows them: text as a unified diff, the rest by size."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from orvalho.cli.output import Screen, age, moment, size
from orvalho.control.past import CommitState, FileChanged, NodeState, ValueChanged

# Comparing longer texts may take for ever: whoever wrote them chose their lines.
_LINES: Final = 5000
_DIGEST_LETTERS: Final = 12


def change_lines(files: Sequence[FileChanged], values: Sequence[ValueChanged]) -> Iterator[str]:
    """What to print, line by line."""
    for file in files:
        yield from _file(file)
    for value in values:
        yield f"{value.mark} kv:{value.key}"
        if value.before is not None:
            yield from (f"-{line}" for line in value.before.split("\n"))
        if value.after is not None:
            yield from (f"+{line}" for line in value.after.split("\n"))


def commit_line(commit: CommitState, screen: Screen) -> tuple[str | None, ...]:
    """One row of a log."""
    return (
        commit.id,
        moment(commit.at) if screen.verbose else age(commit.at),
        commit.author,
        commit.cause,
        f"+{commit.added} ~{commit.changed} -{commit.gone}",
        commit.run or one_line(commit.note) or None,
    )


def one_line(text: str) -> str:
    """What others wrote, unable to look like a line of ours."""
    return " ".join(text.split())


def counts(files: Iterable[FileChanged], values: Iterable[ValueChanged]) -> str:
    """`+2 ~1 -0`"""
    marks = [each.mark for each in files] + [each.mark for each in values]
    return " ".join(f"{mark}{marks.count(mark)}" for mark in "+~-")


def _file(file: FileChanged) -> Iterator[str]:
    before, after = file.before, file.after
    old, new = _text(before), _text(after)
    if old is None or new is None or (before is None and after is None):
        yield f"{file.mark} {file.path}  {_told(before)} -> {_told(after)}"
        return
    yield f"{file.mark} {file.path}"
    old_lines, new_lines = old.split("\n"), new.split("\n")
    if max(len(old_lines), len(new_lines)) > _LINES:
        yield f"  {_told(before)} -> {_told(after)}, too long to compare here"
        return
    lines = difflib.unified_diff(
        _lines(old),
        _lines(new),
        f"a{file.path}" if before else "/dev/null",
        f"b{file.path}" if after else "/dev/null",
        lineterm="",
    )
    for line in lines:
        text = line.removesuffix("\n")
        yield text
        if text == line and line[:1] in "+- " and not line.startswith(("+++", "---")):
            yield "\\ No newline at end of file"


def _lines(text: str) -> list[str]:
    """Lines with their ends: only a line feed ends one."""
    parts = text.split("\n")
    ended = [f"{part}\n" for part in parts[:-1]]
    return ended + ([parts[-1]] if parts[-1] else [])


def _text(node: NodeState | None) -> str | None:
    """Its text; nothing is an empty text, and what is no text has none."""
    return "" if node is None else node.text


def _told(node: NodeState | None) -> str:
    if node is None:
        return "nothing"
    if node.kind == "directory":
        return "directory"
    return f"{size(node.size_bytes)} {node.sha256[:_DIGEST_LETTERS]}"
