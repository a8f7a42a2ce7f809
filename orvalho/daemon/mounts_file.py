"""`mounts.toml` in the configuration directory: which trees are mounted into which contexts.

    ["alice:/photos"]
    url = "s3://bucket/prefix"
    secret = "photos"

The owner edits it by hand or by `orvalho ctx mount`; it names secrets and holds none.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import tomlkit

from orvalho.contexts.filesystem import VirtualPath
from orvalho.contexts.mount_spec import MountSetting, Source, check_setting, parse_place
from orvalho.errors import InvalidInput, OrvalhoError, Unavailable
from orvalho.policies.quota import parse_size

NAME: Final = "mounts.toml"
_MOST: Final = 1_000
_HEAD: Final = """\
# What is mounted into the contexts of this node; `orvalho ctx mounts` shows its state. Secrets are
# named here, never written: `orvalho secret set NAME`.

"""


@dataclass(frozen=True, slots=True)
class MountLine:
    """One mount of the file. `source` is None where the setting has a mistake: then `problem` says
    which, with its line."""

    context: str
    place: VirtualPath
    setting: MountSetting
    source: Source | None
    problem: str | None = None


def read_mounts(file: Path) -> tuple[tuple[MountLine, ...], tuple[str, ...]]:
    """The mounts, and what is wrong with the file, each `mounts.toml:3: ...`. A mount with a
    mistake is still one, so that its place does not become part of the context's own tree.

    Raises:
        InvalidInput: the file as a whole cannot be read.
    """
    try:
        text = file.read_bytes().decode()
    except FileNotFoundError:
        return (), ()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{NAME} cannot be read: {type(error).__name__}", where=str(file)) from (
            None
        )
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"at line (\d+)", str(error))
        where = f"{file}:{found[1]}" if found else str(file)
        raise InvalidInput(
            f"{NAME} is not TOML: {error}", where=where, hint=f"edit {file}"
        ) from None
    lines: dict[tuple[str, VirtualPath], MountLine] = {}
    problems: list[str] = []
    for key, table in list(tables.items())[:_MOST]:
        try:
            context, place = parse_place(key)
            if (context, place) in lines:
                raise InvalidInput("it is mounted twice")
        except OrvalhoError as error:
            problems.append(f"{NAME}:{_line_of(text, key)}: {error.message}")
            continue
        line = _read(text, key, table, context, place)
        lines[context, place] = line
        problems += [line.problem] if line.problem else []
    return tuple(lines.values()), tuple(problems)


def write_mount(file: Path, context: str, place: VirtualPath, setting: MountSetting) -> bool:
    """Put a mount into the file, comments kept; False when it stands there like this.

    Raises:
        InvalidInput: the file is not TOML.
    """
    document = _document(file)
    wanted = {
        name: value
        for name, value in msgspec.to_builtins(setting).items()
        if value or name == "url"
    }
    key = _key_of(document, context, place) or f"{context}:{place}"
    if key in document and document[key] == wanted:
        return False
    table = tomlkit.table()
    for name, value in wanted.items():
        table[name] = value
    document[key] = table
    _write(file, document)
    return True


def remove_mount(file: Path, context: str, place: VirtualPath) -> bool:
    """Take a mount out of the file; False when it is not there.

    Raises:
        InvalidInput: the file is not TOML.
    """
    document = _document(file)
    key = _key_of(document, context, place)
    if key is None:
        return False
    del document[key]
    _write(file, document)
    return True


def _read(text: str, key: str, table: Any, context: str, place: VirtualPath) -> MountLine:
    try:
        setting = msgspec.convert(table, MountSetting)
    except msgspec.ValidationError as error:
        found = re.search(r"`\$\.(\w+)|field `(\w+)`", str(error))
        name = (found[1] or found[2]) if found else ""
        problem = f"{NAME}:{_line_of(text, key, name)}: {str(error).split(' - at')[0]}"
        return MountLine(context, place, MountSetting(url=""), None, problem)
    try:
        source = check_setting(setting)
        if setting.quota:
            _check_quota(setting.quota)
    except OrvalhoError as error:
        name = error.message.partition(":")[0]
        problem = f"{NAME}:{_line_of(text, key, name)}: {error.message}"
        return MountLine(context, place, setting, None, problem)
    return MountLine(context, place, setting, source)


def _check_quota(text: str) -> None:
    try:
        parse_size(text)
    except InvalidInput as error:
        raise InvalidInput(f"quota: {error.message}") from error


def _line_of(text: str, key: str, name: str = "") -> int:
    """Where a mount stands, or one of its settings; 1 where that cannot be told."""
    head = 0
    for number, line in enumerate(text.splitlines(), 1):
        if re.match(rf"\s*\[\s*[\"']{re.escape(key)}[\"']\s*\]", line):
            head = number
        elif head and line.lstrip().startswith("["):
            break
        elif head and name and re.match(rf"\s*[\"']?{re.escape(name)}\b", line):
            return number
    return head or 1


def _document(file: Path) -> tomlkit.TOMLDocument:
    try:
        return tomlkit.parse(file.read_text() if file.exists() else _HEAD)
    except tomlkit.exceptions.ParseError as error:
        raise InvalidInput(
            f"{NAME} is not TOML: {error}", where=str(file), hint=f"edit {file}"
        ) from None


def _key_of(document: Mapping[str, Any], context: str, place: VirtualPath) -> str | None:
    for key in document:
        try:
            if parse_place(key) == (context, place):
                return str(key)
        except OrvalhoError:
            continue
    return None


def _write(file: Path, document: tomlkit.TOMLDocument) -> None:
    draft = file.with_name(f".{NAME}~")
    try:
        draft.write_text(tomlkit.dumps(document))
        draft.replace(file)
    except OSError as error:
        raise Unavailable(f"{NAME} cannot be written: {error.strerror}", where=str(file)) from error
