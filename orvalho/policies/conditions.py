"""Conditions of rules: the sixth column, `charging or battery>40`, and what is so now.

A condition is alternatives with `or` between them; each is terms with blanks (or `and`) between
them, which hold together: `hours=08:00-20:00 charging or battery>40`. What is not known is neither
true nor false (Kleene's logic of three values), and the engines read that in the careful way: an
allow counts only when its condition holds, a deny unless its condition does not.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from orvalho.contexts.names import near_miss

# True, False, or None: cannot be told.
Truth = bool | None
Probe = Literal["battery", "charging", "metered"]

DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY_MINUTES: Final = 24 * 60
_MAX_TERMS: Final = 16


@dataclass(frozen=True, slots=True)
class Moment:
    """A local time: `weekday` from 0 (Monday), `minute` of the day."""

    weekday: int
    minute: int

    def __str__(self) -> str:
        return f"{DAYS[self.weekday]} {self.minute // 60:02}:{self.minute % 60:02}"


@dataclass(frozen=True, slots=True)
class Readings:
    """What conditions are about, at one moment. None: not known. `battery` in percent."""

    moment: Moment | None = None
    battery: int | None = None
    charging: bool | None = None
    metered: bool | None = None


UNKNOWN: Final = Readings()
# How an engine asks what is so now. Quick, and from any thread.
Reads = Callable[[], Readings]


def local_moment(at: float) -> Moment:
    """The local time of a moment in Unix seconds."""
    local = time.localtime(at)
    return Moment(local.tm_wday, local.tm_hour * 60 + local.tm_min)


def clock_alone() -> Readings:
    """The time of day, and nothing of the machine."""
    return Readings(moment=local_moment(time.time()))


@dataclass(frozen=True, slots=True)
class Hours:
    """`hours=08:00-20:00`: from the first minute, to before the last; past midnight if need be."""

    start: int
    end: int

    def holds(self, now: Readings) -> Truth:
        if now.moment is None:
            return None
        minute = now.moment.minute
        if self.start < self.end:
            return self.start <= minute < self.end
        return minute >= self.start or minute < self.end


@dataclass(frozen=True, slots=True)
class Weekdays:
    """`days=mon-fri+sun`: on these days, from midnight to midnight."""

    days: frozenset[int]

    def holds(self, now: Readings) -> Truth:
        return None if now.moment is None else now.moment.weekday in self.days


@dataclass(frozen=True, slots=True)
class Battery:
    """`battery>40`, `battery<=15`: in percent."""

    operator: str
    percent: int

    def holds(self, now: Readings) -> Truth:
        if now.battery is None:
            return None
        if self.operator.startswith(">"):
            is_beyond = now.battery > self.percent
        else:
            is_beyond = now.battery < self.percent
        return is_beyond or (self.operator.endswith("=") and now.battery == self.percent)


@dataclass(frozen=True, slots=True)
class Switch:
    """`charging`, `metered=no`."""

    probe: Probe
    is_on: bool

    def holds(self, now: Readings) -> Truth:
        value = now.charging if self.probe == "charging" else now.metered
        return None if value is None else value is self.is_on


Term = Hours | Weekdays | Battery | Switch


@dataclass(frozen=True, slots=True)
class Condition:
    """The sixth column of a rule. `text` is how it is written, blanks made one."""

    text: str
    ways: tuple[tuple[Term, ...], ...]

    def holds(self, now: Readings) -> Truth:
        """Whether it is so; None when that depends on what is not known."""
        answer: Truth = False
        for way in self.ways:
            found = _all(way, now)
            if found:
                return True
            answer = None if found is None else answer
        return answer

    @property
    def probes(self) -> frozenset[Probe]:
        """What it asks of the machine, beside the time."""
        found: set[Probe] = set()
        for way in self.ways:
            for term in way:
                if isinstance(term, Battery):
                    found.add("battery")
                elif isinstance(term, Switch):
                    found.add(term.probe)
        return frozenset(found)

    def now(self, now: Readings) -> str:
        """What is so of what it speaks of: `battery 31, not charging`."""
        words: list[str] = []
        for way in self.ways:
            words += [_now(term, now) for term in way]
        return ", ".join(dict.fromkeys(words))


def _all(way: tuple[Term, ...], now: Readings) -> Truth:
    answer: Truth = True
    for term in way:
        found = term.holds(now)
        if found is False:
            return False
        answer = None if found is None else answer
    return answer


def spoken(probe: Probe, now: Readings) -> str | None:
    """A reading in words, `battery 31`, `not charging`; None when it is not known."""
    if probe == "battery":
        return None if now.battery is None else f"battery {now.battery}"
    value = now.charging if probe == "charging" else now.metered
    return None if value is None else probe if value else f"not {probe}"


def _now(term: Term, now: Readings) -> str:
    if isinstance(term, (Battery, Switch)):
        probe: Probe = "battery" if isinstance(term, Battery) else term.probe
        return spoken(probe, now) or f"{probe} unknown"
    return str(now.moment) if now.moment else "the time unknown"


# ---- reading ------------------------------------------------------------------------------


def parse_condition(text: str) -> Condition | str:
    """The condition that `text` says, or what is wrong with it."""
    words = text.split()
    ways: list[tuple[Term, ...]] = []
    way: list[Term] = []
    expects_term = True
    for word in words:
        if word in ("or", "and"):
            if expects_term:
                return f'"{word}" stands between two conditions'
            if word == "or":
                ways.append(tuple(way))
                way = []
            expects_term = True
            continue
        term = _term(word)
        if isinstance(term, str):
            return term
        way.append(term)
        expects_term = False
    if expects_term:
        return "the condition is missing"
    if sum(map(len, (*ways, way))) > _MAX_TERMS:
        return f"a condition has at most {_MAX_TERMS} parts"
    return Condition(" ".join(words), (*ways, tuple(way)))


def _term(word: str) -> Term | str:
    if found := re.fullmatch(r"hours=([0-9][0-9]):([0-9][0-9])-([0-9][0-9]):([0-9][0-9])", word):
        return _hours(*map(int, found.groups()))
    if found := re.fullmatch(r"days=([a-z+-]+)", word):
        return _weekdays(found[1])
    if found := re.fullmatch(r"battery(>=|<=|>|<)([0-9]{1,3})", word):
        percent = int(found[2])
        return Battery(found[1], percent) if percent <= 100 else "a battery has at most 100 percent"
    if found := re.fullmatch(r"(charging|metered)(?:=(yes|no))?", word):
        return Switch("charging" if found[1] == "charging" else "metered", found[2] != "no")
    name = re.split(r"[=<>]", word, maxsplit=1)[0]
    if name in _EXAMPLES:
        return f'"{word}" cannot be read: write it like {_EXAMPLES[name]}'
    near = near_miss(name, _EXAMPLES)
    return f'unknown condition "{word}"' + (f', did you mean "{near}"?' if near else "")


_EXAMPLES: Final = {
    "hours": "hours=08:00-20:00",
    "days": "days=mon-fri",
    "battery": "battery>40",
    "charging": "charging or charging=no",
    "metered": "metered=no",
}


def _hours(from_hour: int, from_minute: int, to_hour: int, to_minute: int) -> Term | str:
    start, end = from_hour * 60 + from_minute, to_hour * 60 + to_minute
    if from_minute > 59 or to_minute > 59 or start >= _DAY_MINUTES or end > _DAY_MINUTES:
        return "hours go from 00:00 to 24:00"
    if start == end:
        return "these hours are none: they begin where they end"
    return Hours(start, end)


def _weekdays(text: str) -> Term | str:
    days: set[int] = set()
    for part in text.split("+"):
        first, dash, last = part.partition("-")
        for day in (first, last) if dash else (first,):
            if day not in DAYS:
                return f'"{day}" is no day: {", ".join(DAYS)}'
        start, end = DAYS.index(first), DAYS.index(last if dash else first)
        # `fri-mon` goes on over Sunday.
        days |= {(start + step) % 7 for step in range((end - start) % 7 + 1)}
    return Weekdays(frozenset(days))


def parse_given(words: list[str]) -> Readings | str:
    """What a test line supposes: `battery=31 charging=no metered=yes time=mon/09:30`; or what is
    wrong with it. What it does not name is not known."""
    moment: Moment | None = None
    battery: int | None = None
    switches: dict[str, bool] = {}
    for word in words:
        if found := re.fullmatch(r"time=([a-z]{3})/([01][0-9]|2[0-3]):([0-5][0-9])", word):
            if found[1] not in DAYS:
                return f'"{found[1]}" is no day: {", ".join(DAYS)}'
            moment = Moment(DAYS.index(found[1]), int(found[2]) * 60 + int(found[3]))
        elif found := re.fullmatch(r"battery=([0-9]{1,2}|100)", word):
            battery = int(found[1])
        elif found := re.fullmatch(r"(charging|metered)=(yes|no)", word):
            switches[found[1]] = found[2] == "yes"
        else:
            known = {
                "time": "time=mon/09:30",
                "battery": "battery=31",
                "charging": "charging=no",
                "metered": "metered=yes",
            }
            name = word.partition("=")[0]
            if name in known:
                return f'"{word}" cannot be read: write it like {known[name]}'
            near = near_miss(name, (*known, "allow", "deny"))
            return f'unknown reading "{word}"' + (f', did you mean "{near}"?' if near else "")
    return Readings(moment, battery, switches.get("charging"), switches.get("metered"))
