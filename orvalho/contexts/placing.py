"""What was committed, on its way into the trees: drafts beside them, then one rename a path.

All of it is called in a thread.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from orvalho.contexts.changes import (
    DIRECTORY,
    Changeset,
    Content,
    ContextChanged,
    FileChange,
    Node,
    Stamp,
)
from orvalho.contexts.context import Context
from orvalho.contexts.files import Mount
from orvalho.contexts.filesystem import Escape
from orvalho.contexts.fs_shim import fs_errors
from orvalho.contexts.history import Known
from orvalho.contexts.mounts.overlay import stamp_of
from orvalho.errors import LimitExceeded

# What stands in the way of a path because of others; trying again would not help.
_IN_THE_WAY: Final[tuple[Any, ...]] = (
    fs_errors.DirectoryNotEmpty,
    fs_errors.ResourceNotFound,
    fs_errors.DirectoryExpected,
    fs_errors.FileExpected,
    fs_errors.DirectoryExists,
    Escape,
    ContextChanged,
)


@dataclass(slots=True)
class Placing:
    """One path on its way into its tree. `content` is None for a directory and for what goes."""

    whole: str
    path: str
    mount: Mount
    before: Node | None
    after: Node | None
    content: Content | None = None
    draft: str | None = None
    stamp: Stamp | None = None
    # How it looked when it was last compared with `before`.
    found: Stamp | None = None


@dataclass(slots=True)
class Prepared:
    """A changeset that fits what is there now, its files beside the tree. For one transaction."""

    context: Context
    changes: Changeset
    placings: list[Placing]
    found: list[FileChange]
    contents: list[Content]
    now: dict[str, Known | None] = field(default_factory=dict)
    seq: int = 0


def charge(placings: Iterable[Placing], sign: int) -> None:
    """Take what they need from the quotas of their mounts; with `sign` -1, give it back.

    Raises:
        LimitExceeded: it does not fit; nothing has been taken.
    """
    totals: dict[Mount, tuple[int, int, str]] = {}
    for each in placings:
        size_bytes, files, _ = totals.get(each.mount, (0, 0, ""))
        size_bytes += (each.after.size_bytes if each.after else 0) - (
            each.before.size_bytes if each.before else 0
        )
        files += int(each.after is not None) - int(each.before is not None)
        totals[each.mount] = size_bytes, files, each.whole
    charged: list[tuple[Mount, int, int]] = []
    try:
        for mount, (size_bytes, files, path) in totals.items():
            mount.measure_once()
            mount.quota.charge(sign * size_bytes, sign * files, path=path)
            charged.append((mount, size_bytes, files))
    except LimitExceeded:
        for mount, size_bytes, files in charged:
            mount.quota.charge(-sign * size_bytes, -sign * files)
        raise


def write_draft(placing: Placing) -> None:
    """Beside the tree, where the tree can have it so; else it is written in its time."""
    tree = placing.mount.tree.inner
    if placing.content is not None and hasattr(tree, "stage"):
        placing.draft, placing.stamp = tree.stage(placing.content)
    elif placing.after == DIRECTORY:
        placing.stamp = Stamp("directory")


def abandon(prepared: Prepared) -> None:
    with suppress(LimitExceeded):
        charge(prepared.placings, -1)
    remove_drafts(prepared)


def remove_drafts(prepared: Prepared) -> None:
    for placing in prepared.placings:
        if placing.draft is not None:
            with suppress(OSError, fs_errors.FSError):
                placing.mount.tree.inner.unstage(placing.draft)


def place_all(prepared: Prepared) -> dict[str, Known | None]:
    """Everything into its place; how those look that were not written beside the tree.

    Raises:
        ContextChanged: somebody has changed a path in the last moment; it is as he left it.
        Whatever the tree raises. What was placed until then stays.
    """
    late: dict[str, Known | None] = {}
    for placing in _removals(prepared):
        _remove(placing)
    for placing in _arrivals(prepared):
        _arrive(placing, late)
    return late


def place_each(prepared: Prepared) -> list[Placing]:
    """The same, but what others have put in the way of a path stays; those paths are returned."""
    stuck: list[Placing] = []
    for placing in _removals(prepared):
        try:
            _remove(placing)
        except _IN_THE_WAY:
            stuck.append(placing)
    for placing in _arrivals(prepared):
        if placing in stuck:
            continue
        try:
            _arrive(placing, {})
        except _IN_THE_WAY:
            stuck.append(placing)
    return stuck


def there(placing: Placing) -> Stamp | None:
    """How its path looks now. A link, or what is no plain file, counts as nothing."""
    try:
        return stamp_of(placing.mount.tree.inner, placing.path)
    except Escape:
        return None


def _removals(prepared: Prepared) -> list[Placing]:
    """What goes, and what makes room for another kind; what is in a directory before it."""
    found = [each for each in prepared.placings if _goes_first(each)]
    return sorted(found, key=lambda each: each.path, reverse=True)


def _arrivals(prepared: Prepared) -> list[Placing]:
    found = [each for each in prepared.placings if each.after is not None]
    return sorted(found, key=lambda each: each.path)


def _goes_first(placing: Placing) -> bool:
    before, after = placing.before, placing.after
    return before is not None and (after is None or after.kind != before.kind)


def _remove(placing: Placing) -> None:
    _refuse_changed(placing)
    assert placing.before is not None, "only what is there is removed"
    tree = placing.mount.tree.inner
    (tree.removedir if placing.before.kind == "directory" else tree.remove)(placing.path)


def _arrive(placing: Placing, late: dict[str, Known | None]) -> None:
    if not _goes_first(placing):
        _refuse_changed(placing)
    tree = placing.mount.tree.inner
    if placing.draft is not None:
        tree.settle(placing.draft, placing.path)
    elif placing.content is not None:
        tree.writebytes(placing.path, placing.content.read())
        late[placing.whole] = seen(placing)
    elif placing.after == DIRECTORY:
        tree.makedir(placing.path)


def _refuse_changed(placing: Placing) -> None:
    """A rename asks nobody: an edit by hand since we looked would be gone."""
    if stamp_of(placing.mount.tree.inner, placing.path) != placing.found:
        raise ContextChanged(f"{placing.whole} was changed by hand just now", where=placing.whole)


def seen(placing: Placing) -> Known | None:
    """What is at its path now that it has been placed."""
    stamp = there(placing)
    return None if stamp is None or placing.after is None else Known(placing.after, stamp)


def flush(contexts: Iterable[Context]) -> None:
    for context in contexts:
        for mount in context.mounts.mounts():
            flush = getattr(mount.tree.inner, "flush", None)
            if flush is not None:
                flush()
