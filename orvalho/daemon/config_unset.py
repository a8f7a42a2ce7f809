"""Settings that are taken out of config.toml again, comments kept."""

from __future__ import annotations

import re
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any, Final

from orvalho.daemon.config import (
    LoadedConfig,
    is_own_key,
    keys,
    load,
    read_document,
    unknown_setting,
    write_document,
)
from orvalho.errors import InvalidInput

_GROUP_TABLE: Final = re.compile(r"quota\.groups\.[a-z0-9-]+")


def unset_value(directory: Path, key: str) -> bool:
    """Take a setting out of config.toml, comments kept; False when it does not stand there. One
    that there is not, a typing error, is taken out as well. The caller has the result loaded.

    Raises:
        InvalidInput: there is no such key, or it is a section.
    """
    document = read_document(directory)
    above: list[tuple[Any, str]] = []
    table: Any = document
    for name in key.split("."):
        if not isinstance(table, MutableMapping) or name not in table:
            if key not in keys() and not is_own_key(key) and not _is_section(key):
                raise unknown_setting(key, f"config unset {key}")
            return False
        above.append((table, name))
        table = table[name]
    if isinstance(table, MutableMapping) and not _GROUP_TABLE.fullmatch(key):
        inside = ", ".join(f"{key}.{name}" for name in table)
        raise InvalidInput(f'"{key}" is a section: name a setting in it', where=inside or key)
    for number, (holder, name) in enumerate(reversed(above)):
        # A table goes with its last setting, if nothing else stands there.
        if number and holder[name].as_string().strip():
            break
        del holder[name]
    write_document(directory, document)
    return True


def unset_offline(directory: Path, environ: Mapping[str, str], key: str) -> str:
    """The same for a home that no daemon serves; what to tell of it.

    Raises:
        InvalidInput: as `unset_value`, or there has to be such a setting.
    """
    file = directory / "config.toml"
    before = file.read_text() if file.exists() else ""
    if not unset_value(directory, key):
        return already_unset(key)
    try:
        loaded = load(directory, environ, {})
    except InvalidInput as error:
        if _is_about(error, key):
            file.write_text(before)
            raise needed_by_another(error, key) from error
        return f"{key} is set no longer\n  but the settings are not of use yet: {error.message}"
    return unset_words(key, loaded)


def needed_by_another(error: InvalidInput, key: str) -> InvalidInput:
    """The error of settings that do not do without `key`, and which of them goes first."""
    words = re.findall(r"[a-z_]+(?:\.[a-z_]+)+", error.message)
    other = next((word for word in words if word != key and word in keys()), None)
    hint = error.hint if other is None else f"orvalho config unset {other}"
    return InvalidInput(error.message, where=error.where, hint=hint, detail=error.detail)


def already_unset(key: str) -> str:
    return f"{key} is not set in config.toml"


def unset_words(key: str, loaded: LoadedConfig) -> str:
    """What a setting is, now that config.toml says nothing of it."""
    found = next(((v, o) for k, v, o in loaded.settings if k == key), None)
    if found is None:
        return f"{key} is set no longer"
    value, origin = found
    return f"{key} = {value}" + (", its default" if origin == "default" else f", from {origin}")


def _is_about(error: InvalidInput, key: str) -> bool:
    last = key.rpartition(".")[2]
    return (
        re.search(rf"(?<![\w.])(?:{re.escape(key)}|{re.escape(last)})\b", error.message) is not None
    )


def _is_section(key: str) -> bool:
    return any(each.startswith(f"{key}.") for each in keys())
