"""How much: limits of a run, what it used, and the spelling of durations and sizes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import msgspec

from orvalho.errors import InvalidInput


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """The most that a run may use. `host_calls` counts its calls of fs, kv and the like;
    `network_bytes` what it moves over links: calls of its caller, and lines on their way there."""

    wall_s: float = 30.0
    cpu_s: float = 10.0
    memory_bytes: int = 64_000_000
    output_bytes: int = 1_000_000
    host_calls: int = 10_000
    network_bytes: int = 256_000_000


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """The limits a script asks for; None is "what is usual there"."""

    wall_s: float | None = None
    cpu_s: float | None = None
    memory_bytes: int | None = None
    output_bytes: int | None = None
    host_calls: int | None = None
    network_bytes: int | None = None


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What a run used. `memory_bytes` is its peak."""

    wall_ms: int = 0
    cpu_ms: int = 0
    memory_bytes: int = 0
    output_bytes: int = 0
    host_calls: int = 0
    read_bytes: int = 0
    written_bytes: int = 0
    network_bytes: int = 0


def add(one: Usage, other: Usage) -> Usage:
    """What two attempts used together; of memory, the larger peak."""
    sums = {name: getattr(one, name) + getattr(other, name) for name in Usage.__struct_fields__}
    return Usage(**sums | {"memory_bytes": max(one.memory_bytes, other.memory_bytes)})


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a run gets when it does not ask, and the most it gets when it does."""

    usual: Limits
    most: Limits


# What a run gets unless the owner's configuration says otherwise.
USUAL: Final = Limits()
# No configuration goes beyond these: the machinery around a run is built for them.
HARD_MAXIMA: Final = Limits(
    wall_s=86_400.0,
    cpu_s=86_400.0,
    memory_bytes=4_000_000_000,
    output_bytes=64_000_000,
    host_calls=10_000_000,
    network_bytes=64_000_000_000,
)


def narrow(asked: Asked, allowed: Allowance) -> Limits:
    """What the run gets: what it asks for, never more than is allowed, nor than HARD_MAXIMA."""
    granted = {}
    for name in Limits.__struct_fields__:
        wanted = getattr(asked, name)
        wanted = getattr(allowed.usual, name) if wanted is None else wanted
        granted[name] = min(wanted, getattr(allowed.most, name), getattr(HARD_MAXIMA, name))
    return Limits(**granted)


def excess(asked: Asked) -> tuple[str, ...]:
    """The names of the fields that ask for nothing, or for more than anybody can give."""
    return tuple(
        name
        for name in Asked.__struct_fields__
        if (wanted := getattr(asked, name)) is not None
        and not 0 < wanted <= getattr(HARD_MAXIMA, name)
    )


_DURATIONS: Final = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86_400}
_SIZES: Final = {
    "B": 1,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "KiB": 1 << 10,
    "MiB": 1 << 20,
    "GiB": 1 << 30,
}
_QUANTITY: Final = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,6})?) ?([A-Za-z]+)")


def parse_duration(text: str) -> float:
    """Seconds: `500ms`, `30s`, `1.5m`, `1h`, `7d`.

    Raises:
        InvalidInput: it is no duration.
    """
    number, unit = _split(text, _DURATIONS, "a duration", "30s")
    return number * _DURATIONS[unit]


def parse_size(text: str) -> int:
    """Bytes: `100B`, `64kB`, `64MB`, `1.5GB` (thousands), or `64MiB` (of 1024).

    Raises:
        InvalidInput: it is no size.
    """
    number, unit = _split(text, _SIZES, "a size", "64MB")
    return round(number * _SIZES[unit])


def format_duration(seconds: float) -> str:
    """The largest unit that gives at least 1: `30s`, `1.5m`. `parse_duration` reads it again."""
    for unit in ("d", "h", "m", "s"):
        if seconds >= _DURATIONS[unit]:
            return f"{_number(seconds / _DURATIONS[unit])}{unit}"
    return f"{_number(seconds * 1000)}ms"


def format_size(size_bytes: int) -> str:
    """In units of a thousand: `64MB`. `parse_size` reads it again, exact to six places."""
    for unit in ("GB", "MB", "kB"):
        if size_bytes >= _SIZES[unit]:
            return f"{_number(size_bytes / _SIZES[unit])}{unit}"
    return f"{size_bytes}B"


def _number(value: float) -> str:
    return f"{value:.6f}".rstrip("0").rstrip(".")


def _split(
    text: str, units: dict[str, float] | dict[str, int], what: str, like: str
) -> tuple[float, str]:
    found = _QUANTITY.fullmatch(text)
    if not found:
        raise InvalidInput(f'"{text}" is not {what}: write one like {like}')
    unit = next((unit for unit in units if unit.lower() == found[2].lower()), None)
    if unit is None:
        raise InvalidInput(f'"{text}" is not {what}: its unit is one of {", ".join(units)}')
    return float(found[1]), unit
