"""A plan in words: what a script would do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from orvalho.cli.output import many, size
from orvalho.control.planning import PlannedFile, PlannedValue, PlanState

_COUNTED: Final = (("+", "to add"), ("~", "to change"), ("-", "to destroy"))


def plan_lines(plan: PlanState) -> Iterator[str]:
    """Each change with its diff, then the calls that were not made, then the sum."""
    for file in plan.files:
        yield from _file_lines(file)
    for value in plan.values:
        yield _value_line(value)
    for call in plan.not_run:
        yield f"  not run  {call.call} {call.argument}"
    if plan.left_out:
        yield f"  ... and {many(plan.left_out, 'more change')}"
    if plan.held_by is not None:
        yield f"held by {plan.held_by}: its owner would look at it first"
    yield summary(plan)


def summary(plan: PlanState) -> str:
    """The last line of a plan."""
    marks = [each.mark for each in plan.files] + [each.mark for each in plan.values]
    if not marks:
        return "No changes."
    counts = ", ".join(f"{marks.count(mark)} {words}" for mark, words in _COUNTED)
    return f"Plan: {counts}."


def _file_lines(file: PlannedFile) -> Iterator[str]:
    if file.is_directory:
        yield f"  {file.mark} {file.path}/"
        return
    before = size(file.before_bytes) if file.before_bytes is not None else None
    after = size(file.after_bytes) if file.after_bytes is not None else None
    sizes = f"{before} -> {after}" if before and after else before or after or ""
    digest = f"  sha256:{file.after_sha256[:12]}" if file.after_sha256 and not file.diff else ""
    why = f"  ({file.why})" if file.why else ""
    yield f"  {file.mark} {file.path}  {sizes}{digest}{why}".rstrip()
    for line in (file.diff or "").splitlines():
        yield f"      {line}"


def _value_line(value: PlannedValue) -> str:
    shown = {
        "+": f"{value.after}",
        "~": f"{value.before} -> {value.after}",
        "-": f"{value.before}",
    }[value.mark]
    return f"  {value.mark} kv {value.key}  " + (f"({value.why})" if value.why else shown)
