"""Moments of the past as they are typed: `@{1h}`, `2026-11-20 14:00`, `c_01...`. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from typing import Final

from orvalho.contexts.names import near_miss
from orvalho.errors import InvalidInput
from orvalho.policies.quota import parse_duration

_ID: Final = re.compile(r"([cr]_[0-9a-z]{4,26})(\^?)", re.IGNORECASE)
_AGO: Final = re.compile(r"@\{([^{}]*)\}|(\S+) ago")
_DATE: Final = re.compile(
    r"\d{4}-\d{2}-\d{2}([ T]\d{2}:\d{2}(:\d{2}(\.\d{1,6})?)?(Z|[+-]\d{2}:\d{2})?)?"
)
_TIME: Final = re.compile(r"\d{2}:\d{2}(:\d{2})?")
_WORDS: Final = ("now", "today", "yesterday")
_EXAMPLES: Final = "@{1h}, yesterday, 2026-11-20, 2026-11-20 14:00, or the id of a commit or run"


@dataclass(frozen=True, slots=True)
class Named:
    """Right after a commit, or after the last commit of a run; with `before`, right before it.
    `id` may be the beginning of one."""

    id: str
    before: bool


def parse_moment(text: str, now: float, zone: tzinfo | None) -> float | Named:
    """Unix seconds, or a commit that is named. `zone` is that of times which name none; None is
    the machine's own. `today` is the last midnight there, `yesterday` this time a day ago.

    Raises:
        InvalidInput: it is no moment, or lies ahead.
    """
    if found := _ID.fullmatch(text):
        return Named(found[1][:2].lower() + found[1][2:].upper(), bool(found[2]))
    at = _seconds(text, now, zone)
    if at > now:
        raise InvalidInput(f"{text} lies ahead: only what was can be looked at", where=text)
    return at


def _seconds(text: str, now: float, zone: tzinfo | None) -> float:
    here = datetime.fromtimestamp(now, zone).astimezone(zone)
    if text in _WORDS:
        midnight = here.replace(hour=0, minute=0, second=0, microsecond=0)
        day_ago = (here - timedelta(days=1)).timestamp()
        return {"now": now, "today": midnight.timestamp(), "yesterday": day_ago}[text]
    if found := _AGO.fullmatch(text):
        try:
            return now - parse_duration(found[1] or found[2] or "")
        except InvalidInput as error:
            raise InvalidInput(error.message, where=text) from error
    try:
        if _DATE.fullmatch(text):
            moment = datetime.fromisoformat(text)
            if moment.tzinfo is None:
                moment = moment.astimezone() if zone is None else moment.replace(tzinfo=zone)
            return moment.timestamp()
        if _TIME.fullmatch(text):
            clock = datetime.strptime(text, "%H:%M:%S" if text.count(":") == 2 else "%H:%M")
            moment = here.replace(
                hour=clock.hour, minute=clock.minute, second=clock.second, microsecond=0
            )
            return moment.timestamp()
    except (ValueError, OverflowError) as error:
        raise InvalidInput(f"there is no such moment: {error}", where=text) from error
    near = near_miss(text, _WORDS)
    guess = f', did you mean "{near}"?' if near else f": write one like {_EXAMPLES}"
    raise InvalidInput(f'"{text}" is no moment{guess}')
