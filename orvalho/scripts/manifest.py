"""What a script asks for, in a comment block of its own source (the form of PEP 723):

    // /// orvalho
    // needs = ["target.fs.read:/photos/**"]
    // timeout = "30s"
    // ///

The lines between are TOML. In Starlark the marks are `#`. A WebAssembly module carries the same
TOML in a custom section named `orvalho`, or a file beside it (`job.wasm.toml`) does. `needs` are
granted or the script does not run; `wants` may be refused.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import msgspec

from orvalho.contexts.names import near_miss
from orvalho.errors import InvalidInput
from orvalho.policies.capability import MAX_CAPABILITIES, Capability, parse_capability
from orvalho.policies.quota import (
    HARD_MAXIMA,
    USUAL,
    Asked,
    excess,
    format_duration,
    format_size,
    parse_duration,
    parse_size,
)
from orvalho.scripts.reference import read_reference
from orvalho.scripts.script import Language, Script
from orvalho.scripts.traces import Onward
from orvalho.scripts.wasm.binaries import custom_section_of, missing_capability


@dataclass(frozen=True, slots=True)
class Manifest:
    needs: tuple[Capability, ...] = ()
    wants: tuple[Capability, ...] = ()
    limits: Asked = field(default_factory=Asked)


def within(manifest: Manifest, onward: Onward | None) -> Manifest:
    """The same for a script that another run sends: with no more time than that one has left."""
    if onward is None:
        return manifest
    wall_s = min(manifest.limits.wall_s or USUAL.wall_s, onward.wall_s)
    return replace(manifest, limits=msgspec.structs.replace(manifest.limits, wall_s=wall_s))


def read_manifest(script: Script, beside: str | None = None) -> Manifest:
    """What the script's header asks for; a script without one asks for nothing. `beside` is the
    text of the file beside a module, which then counts instead of its section.

    Raises:
        InvalidInput: with every mistake in `detail`, a line each: `job.js:3: ...`.
    """
    manifest, reader = _read(script, beside)
    if reader.problems:
        name = script.filename if beside is None else f"{script.filename}.toml"
        problems = [f"{name}:{line}: {what}" for line, what in sorted(reader.problems)]
        raise InvalidInput(
            f"the header of {script.filename} has {len(problems)} "
            + ("mistake" if len(problems) == 1 else "mistakes"),
            where=problems[0].partition(": ")[0],
            detail="\n".join(problems),
        )
    return manifest


def read_header(header: str, name: str) -> Manifest:
    """What the TOML of a module's header asks for; `name` is where it stands.

    Raises:
        InvalidInput: as `read_manifest`.
    """
    reader = _Reader(header, "")
    manifest = reader.read()
    if reader.problems:
        problems = [f"{name}:{line}: {what}" for line, what in sorted(reader.problems)]
        raise InvalidInput(
            f"{name} has a mistake: {problems[0].partition(': ')[2]}",
            where=problems[0].partition(": ")[0],
            detail="\n".join(problems),
        )
    return manifest


def find_problems(script: Script, beside: str | None = None) -> tuple[str, ...]:
    """Every mistake of the header, each as `line: what`."""
    _, reader = _read(script, beside)
    return tuple(f"{line}: {what}" for line, what in sorted(reader.problems))


def _read(script: Script, beside: str | None) -> tuple[Manifest, _Reader]:
    reader = _reader(script, beside)
    manifest = reader.read()
    lacking = missing_capability(script.module, (*manifest.needs, *manifest.wants))
    if lacking:
        reader.problems.append((1, lacking))
    return manifest, reader


_BLOCK: Final = "orvalho"
_OPENING: Final = re.compile(r"/// ([A-Za-z0-9-]+)[ \t]*")
_CLOSING: Final = re.compile(r"///[ \t]*")
_MARKS: Final = {
    Language.JAVASCRIPT: "//",
    Language.TYPESCRIPT: "//",
    Language.STARLARK: "#",
}
_LISTS: Final = ("needs", "wants")
# How a limit is called in a header -> its field, how it is read, how its maximum is shown.
_LIMITS: Final[dict[str, tuple[str, Callable[[str], float | int], Callable[[Any], str]]]] = {
    "timeout": ("wall_s", parse_duration, format_duration),
    "cpu": ("cpu_s", parse_duration, format_duration),
    "memory": ("memory_bytes", parse_size, format_size),
    "output": ("output_bytes", parse_size, format_size),
    "network": ("network_bytes", parse_size, format_size),
}
_KEYS: Final = (*_LISTS, *_LIMITS, "host_calls")


def _reader(script: Script, beside: str | None) -> _Reader:
    if script.language is Language.LIBRARY:
        return _Reader(read_reference(script.text).header, "")
    if script.language is not Language.WASM:
        if beside is not None:
            raise InvalidInput(
                "its own header says what it needs, not a file beside it", where=script.filename
            )
        return _Reader(script.text, _MARKS[script.language])
    if beside is not None:
        return _Reader(beside, "")
    section = custom_section_of(script.module, _BLOCK)
    try:
        return _Reader((section or b"").decode(), "")
    except UnicodeDecodeError as error:
        raise InvalidInput(
            f'the section "{_BLOCK}" is not UTF-8 text', where=script.filename
        ) from error


class _Reader:
    """`mark` begins each line of the header; without one the whole text is the header."""

    def __init__(self, source: str, mark: str) -> None:
        self._lines = source.splitlines()
        self._mark = mark
        self._first = 0  # the line of the source that the TOML begins on
        self._toml: list[str] = []
        self.problems: list[tuple[int, str]] = []

    def read(self) -> Manifest:
        self._find_block()
        try:
            table = tomllib.loads("\n".join(self._toml))
        except tomllib.TOMLDecodeError as error:
            found = re.search(r" \(at (?:line (\d+), column \d+|end of document)\)", str(error))
            line = int(found[1]) if found and found[1] else len(self._toml)
            what = str(error)[: found.start()] if found else str(error)
            self.problems.append((self._first + line - 1, f"the header is not TOML: {what}"))
            return Manifest()
        for key in table:
            if key not in _KEYS:
                near = near_miss(key, _KEYS)
                meant = (
                    f', did you mean "{near}"?' if near else f": it is one of {', '.join(_KEYS)}"
                )
                self._problem(key, f'unknown key "{key}"{meant}')
        needs, wants = (self._capabilities(table, key) for key in _LISTS)
        if len(needs) + len(wants) > MAX_CAPABILITIES:
            self._problem("needs", f"a script asks for at most {MAX_CAPABILITIES} things")
        return Manifest(needs, wants, self._limits(table))

    def _find_block(self) -> None:
        if not self._mark:
            self._first, self._toml = 1, self._lines
            return
        openings = []
        start = f"{self._mark} "
        for number, line in enumerate(self._lines, 1):
            if line.startswith(start) and (found := _OPENING.fullmatch(line, len(start))):
                if found[1] == _BLOCK:
                    openings.append(number)
                elif near_miss(found[1], [_BLOCK]):
                    self.problems.append((number, f'did you mean "{start}/// {_BLOCK}"?'))
        if not openings:
            return
        for number in openings[1:]:
            self.problems.append((number, f"a second header: the first is on line {openings[0]}"))
        self._first = openings[0] + 1
        self._toml = self._block(openings[0])

    def _block(self, opening: int) -> list[str]:
        toml: list[str] = []
        start = f"{self._mark} "
        for line in self._lines[opening:]:
            if line.startswith(start) and _CLOSING.fullmatch(line, len(start)):
                return toml
            if line.rstrip() != self._mark and not line.startswith(start):
                break
            toml.append(line[len(start) :])
        self.problems.append((opening, f'this header never ends: its last line is "{start}///"'))
        return []

    def _capabilities(self, table: dict[str, Any], key: str) -> tuple[Capability, ...]:
        items = table.get(key, [])
        what = f'{key} is a list of texts: {key} = ["target.fs.read:/photos/**"]'
        if not isinstance(items, list):
            self._problem(key, what)
            return ()
        found: dict[str, Capability] = {}
        for item in items:
            if not isinstance(item, str):
                self._problem(key, f"{what}, and {item} is none", str(item))
                continue
            try:
                found[item] = parse_capability(item)
            except InvalidInput as error:
                self._problem(key, error.message, item)
        return tuple(found.values())

    def _limits(self, table: dict[str, Any]) -> Asked:
        asked: dict[str, float | int] = {}
        for key, (name, parse, _) in _LIMITS.items():
            text = table.get(key)
            if isinstance(text, str):
                try:
                    asked[name] = parse(text)
                except InvalidInput as error:
                    self._problem(key, error.message)
            elif text is not None:
                self._problem(key, f'{key} is a text: {key} = "{_example(key)}"')
        calls = table.get("host_calls")
        if isinstance(calls, int) and not isinstance(calls, bool):
            asked["host_calls"] = calls
        elif calls is not None:
            self._problem("host_calls", "host_calls is a whole number")
        limits = msgspec.convert(asked, Asked)
        for name in excess(limits):
            self._problem(*_beyond(name))
        return limits

    def _problem(self, key: str, what: str, item: str = "") -> None:
        """tomllib tells no positions: the key's line is looked for, and an item's after it."""
        at = next((n for n, line in enumerate(self._toml) if re.match(rf"\s*{key}\s*=", line)), 0)
        inside: Sequence[str] = self._toml[at:] if item else ()
        at += next((n for n, line in enumerate(inside) if item in line), 0)
        self.problems.append((self._first + at, what))


def _example(key: str) -> str:
    return "30s" if _LIMITS[key][1] is parse_duration else "64MB"


def _beyond(field: str) -> tuple[str, str]:
    most = getattr(HARD_MAXIMA, field)
    for key, (name, _, show) in _LIMITS.items():
        if name == field:
            return key, f"{key} is more than nothing and at most {show(most)}"
    return field, f"{field} is at least 1 and at most {most}"
