"""What trying rules out showed, in lines for a person."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from orvalho.cli.output import duration, many
from orvalho.control.policy_tools import (
    ChangedRequests,
    IdleRule,
    PolicyDiffed,
    PolicyFile,
    PolicyTested,
    PolicyUnusedReply,
    Skipped,
)
from orvalho.errors import InvalidInput

_MOST_BYTES: Final = 4 << 20
_DIGEST: Final = re.compile(r"(sha256:[0-9a-f]{12})[0-9a-f]{52}")


def read_rules(place: Path) -> tuple[tuple[PolicyFile, ...], bool]:
    """The files of rules at `place`, and whether it is a directory of them.

    Raises:
        InvalidInput: it is neither, or cannot be read.
    """
    whole = place.is_dir()
    try:
        paths = sorted(place.glob("[!.]*.csv")) if whole else [place]
        files = tuple(_read(path) for path in paths)
    except OSError as error:
        raise InvalidInput(
            f"{place} cannot be read: {error.strerror}.", where=str(place)
        ) from error
    if not files:
        raise InvalidInput(f"there is no file of rules (*.csv) in {place}.", where=str(place))
    return files, whole


def _read(path: Path) -> PolicyFile:
    if not path.is_file() and path.exists():
        raise InvalidInput(f"{path} is not a file.", where=str(path))
    if path.suffix != ".csv":
        raise InvalidInput(
            f"{path} is not called like a file of rules.", where=str(path), hint="NAME.csv"
        )
    with path.open("rb") as file:
        return PolicyFile(name=path.name, content=file.read(_MOST_BYTES + 1))


def as_given(error: InvalidInput, place: Path, files: tuple[PolicyFile, ...]) -> InvalidInput:
    """The same mistake, where the files that were given lie."""

    def given(text: str | None) -> str | None:
        for file in files:
            path = place / file.name if place.is_dir() else place
            text = text and text.replace(f"policy/{file.name}:", f"{path}:")
        return text

    return InvalidInput(
        given(error.message) or "",
        where=given(error.where),
        hint=error.hint,
        detail=given(error.detail),
    )


def tested_lines(reply: PolicyTested, *, verbose: bool, quiet: bool) -> Iterator[str]:
    """Each test that fails (with `verbose`, each test), then how many."""
    yield from reply.problems
    for test in reply.tests:
        if not test.passed:
            said = "denied" if test.text.startswith("allow") else "allowed"
            yield f"FAIL  {test.test}  {test.text}: it is {said}, by {test.by}"
        elif verbose:
            yield f"ok    {test.test}  {test.text}"
    if not quiet and not reply.problems:
        failed = f"{reply.failed} of " if reply.failed else ""
        end = "failed" if reply.failed else "passed"
        yield f"{failed}{many(len(reply.tests), 'test')} {end}"


def diff_lines(reply: PolicyDiffed) -> Iterator[str]:
    """The two sums, and below each the requests of a kind."""
    since = duration(reply.since_s)
    for name in reply.added:
        yield f"{name} would be a new file"
    for count, groups, verb, other in (
        (reply.refused_count, reply.refused, "refused", "allow"),
        (reply.allowed_count, reply.allowed, "allowed", "refuse"),
    ):
        colon = ":" if groups else ""
        yield (
            f"would have {verb} {_count(count)} of {_count(reply.requests)} requests in {since}"
            f" that the rules in use {other}{colon}"
        )
        for group in groups:
            yield from _group(group)
    yield from _skips(reply.skipped)


def _group(group: ChangedRequests) -> Iterator[str]:
    what = f"{group.actor} {group.action} in {group.context}"
    more = group.distinct - len(group.objects)
    objects = _DIGEST.sub(r"\1...", ", ".join(group.objects)) + (
        f" and {_count(more)} more" if more else ""
    )
    yield f"  {_count(group.times)}x  {what}: {objects}"
    yield f"      in use  {group.before or 'no rule speaks for it'}"
    yield f"      new     {group.after or 'no rule speaks for it'}"


def unused_lines(reply: PolicyUnusedReply) -> Iterator[str]:
    """The rules that nobody needed, those that deny apart."""
    since = duration(reply.since_s)
    seen = f"{_count(reply.requests)} requests in {since}"
    idle = len(reply.allow) + len(reply.deny)
    if not reply.requests:
        yield f"no requests in {since}: that tells nothing of any rule"
    elif not idle:
        yield f"{seen} needed each of {many(reply.rules, 'rule')}"
    else:
        if reply.allow:
            yield f"{seen} needed none of these, drop them?"
            yield from map(_idle, reply.allow)
        if reply.deny:
            yield f"{seen} met none of these, which deny: they may be there for the day that comes"
            yield from map(_idle, reply.deny)
    yield from _skips(reply.skipped)


def _idle(rule: IdleRule) -> str:
    return f"  {rule.rule}  {rule.text}"


def _skips(skipped: tuple[Skipped, ...]) -> Iterator[str]:
    for each in skipped:
        yield f"not rehearsed: {_count(each.times)}, {each.reason}"


def _count(number: int) -> str:
    return f"{number:,}"
