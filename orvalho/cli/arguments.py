"""Kinds of arguments: what a word on the command line may be, parsed once."""

from __future__ import annotations

import json
import re
import sys
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Any, Final

import click

from orvalho.errors import InvalidInput

_UNITS_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_WEEKDAYS: Final = (
    *("monday", "tuesday", "wednesday", "thursday"),
    *("friday", "saturday", "sunday"),
)
# How a WebAssembly module begins.
_MODULE: Final = b"\0asm"


class Duration(click.ParamType[int]):
    """`90s`, `30m`, `7d`; whole seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"([1-9]\d{0,8})([smhdw])", value)
        if found is None:
            self.fail(f'"{value}" is not a duration such as 90s, 30m, 12h or 7d', param, ctx)
        return int(found[1]) * _UNITS_S[found[2]]


class Until(click.ParamType[float]):
    """A moment to come, as Unix seconds: `7d` from now, the end of a day by the clock here (`fri`,
    `tomorrow`, `2026-12-01`), or `never`, which is 0.0."""

    name = "when"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        if isinstance(value, float):
            return value
        found = until(value, datetime.now().astimezone())
        if found is None:
            self.fail(
                f'"{value}" is no moment to come: 7d, 2h, fri, tomorrow, 2026-12-01, '
                "2026-12-01T18:00:00Z or never",
                param,
                ctx,
            )
        return found


def until(text: str, now: datetime) -> float | None:
    """What `Until` answers; None for what is no moment after `now`, which has a time zone."""
    word = text.strip().lower()
    if word == "never":
        return 0.0
    if found := re.fullmatch(r"([1-9]\d{0,4})([smhdw])", word):
        return now.timestamp() + int(found[1]) * _UNITS_S[found[2]]
    days = {"today": 0, "tomorrow": 1}
    for ahead in range(7):
        name = _WEEKDAYS[(now.weekday() + ahead) % 7]
        days |= {name: ahead, name[:3]: ahead}
    try:
        if word in days:
            moment = _end_of(now.date() + timedelta(days[word]))
        elif re.fullmatch(r"\d{4}-\d\d-\d\d", word):
            moment = _end_of(date.fromisoformat(word))
        else:
            moment = datetime.fromisoformat(text.strip())
            if moment.tzinfo is None:
                moment = moment.astimezone()
    except (ValueError, OverflowError):
        return None
    return moment.timestamp() if moment > now else None


def _end_of(day: date) -> datetime:
    return datetime.combine(day + timedelta(1), time.min).astimezone()


def read_text(file: str) -> str:
    """The text of a file, or of standard input for `-`.

    Raises:
        InvalidInput: it cannot be read, or is not UTF-8.
    """
    try:
        if file == "-":
            return sys.stdin.buffer.read().decode()
        return Path(file).read_bytes().decode()
    except OSError as error:
        raise InvalidInput(f"{file} cannot be read: {error.strerror}.", where=file) from error
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{file} is not UTF-8 text: {error}.", where=file) from error


def grant_text(grant: str) -> str:
    """A grant's text or id: as it was typed, or what is in `@FILE` or standard input (`-`).

    Raises:
        InvalidInput: the file cannot be read.
    """
    if grant == "-" or grant.startswith("@"):
        return read_text(grant.removeprefix("@")).strip()
    # A whole grant is longer than a name may be, which the system would not look up.
    if len(grant) < 200 and Path(grant).is_file():
        raise InvalidInput(
            f'"{grant}" is a file, and no grant: did you mean @{grant}?', hint="orvalho grant ls"
        )
    return grant


def read_script(file: str) -> tuple[str, bytes, str | None]:
    """A script as it is sent: its text, or the bytes of a WebAssembly module (standard input for
    `-`); and the text of the file beside a module that says what it needs, `FILE.toml`.

    Raises:
        InvalidInput: it cannot be read, or is neither a module nor UTF-8.
    """
    try:
        raw = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise InvalidInput(f"{file} cannot be read: {error.strerror}.", where=file) from error
    if raw.startswith(_MODULE) or file.endswith((".wasm", ".wat")):
        beside = Path(f"{file}.toml")
        return "", raw, read_text(str(beside)) if beside.exists() else None
    try:
        return raw.decode(), b"", None
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{file} is not UTF-8 text: {error}.", where=file) from error


def script_params(pairs: tuple[str, ...], file: str | None) -> bytes:
    """The JSON value that a script gets as `params`: a file's, then `key=value` over it.

    A value that parses as JSON is that, any other is text: `n=3` is a number, `name=ana` a string.

    Raises:
        InvalidInput: a pair without `=`, a file that is not JSON, or pairs over a file whose JSON
            is not an object.
    """
    params: Any = None
    if file is not None:
        try:
            params = json.loads(read_text(file))
        except ValueError as error:
            raise InvalidInput(f"{file} is not JSON: {error}.", where=file) from error
    if pairs:
        params = {} if file is None else params
        if not isinstance(params, dict):
            raise InvalidInput(
                f"--param adds to an object, but {file} holds another kind of JSON.", where=file
            )
        params |= dict(_pair(text) for text in pairs)
    return json.dumps(params, ensure_ascii=False).encode()


def _pair(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise InvalidInput(
            f'"{text}" is no parameter: a key, "=" and a value.', hint="--param name=value"
        )
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value
