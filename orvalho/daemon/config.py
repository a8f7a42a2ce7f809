"""The whole configuration as one Struct: defaults, then files, then environment, then flags."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import tomlkit
import tomlkit.exceptions

from orvalho.contexts.names import NODE_LABEL, near_miss
from orvalho.daemon.settings import Broker, Config, Quota, SharedQuota
from orvalho.errors import InvalidInput
from orvalho.policies.quota import parse_duration, parse_size
from orvalho.policies.quotas import LEAST_MEMORY_BYTES
from orvalho.policies.usage import DAY_S
from orvalho.runtime.web.switches import WORDS

_DURATIONS: Final = (
    "limits.wall",
    "limits.cpu",
    "limits.max_wall",
    "delivery.grace",
    "mesh.heartbeat",
    "retention.runs",
    "retention.audit",
    "policy.broker.timeout",
    "history.keep",
)
_SIZES: Final = (
    "limits.memory",
    "limits.output",
    "limits.network",
    "limits.max_memory",
    "quota.context_bytes",
    "quota.kv_bytes",
    "delivery.per_peer_bytes",
    "depot.per_peer_bytes",
    "history.max_bytes",
    "recorder.max_bytes",
)
_COUNTS: Final = (
    "workers.contexts_per_worker",
    "workers.runs_at_once",
    "workers.runs_at_once_per_peer",
    "limits.host_calls",
    "quota.context_files",
    "delivery.per_peer_count",
    "mesh.beacon_port",
    "depot.per_peer_count",
)
# Each element of a list: the form, and an example of it.
_FORMS: Final = {
    "listen": (re.compile(r"[a-z][a-z0-9+]*://\S{1,200}"), "ws://0.0.0.0:4455"),
    "node.labels": (NODE_LABEL, "env=home"),
    "mesh.bootstrap": (
        re.compile(r"[a-z0-9-]{1,63}=[a-z0-9+]+://\S{1,200}"),
        "laptop=ws://192.168.1.20:4455",
    ),
    "policy.broker.actions": (
        re.compile(
            r"fs\.(read|write|remove)|kv\.(read|write)|node\.(read|call|send)|script\.run|lib\.call"
        ),
        "fs.write",
    ),
}
_LIST_LIMIT: Final = 64
_LONGEST_WINDOW_S: Final = 31 * DAY_S
_CHOICES: Final = {
    "log.level": ("debug", "info", "warning", "error"),
    "policy.explain_to": ("own", "all", "none"),
    "recorder.keep": ("on", "off"),
}


@dataclass(frozen=True, slots=True)
class LoadedConfig:
    """The configuration, and for each dotted key its TOML text and where that came from:
    `config.toml:3`, `ORVALHO_LISTEN`, `flag` or `default`."""

    config: Config
    settings: tuple[tuple[str, str, str], ...]


def keys(groups: Iterable[str] = ()) -> tuple[str, ...]:
    """Every key there is, dotted: `workers.contexts_per_worker`; and those of these groups."""
    quota = Quota(groups={group: SharedQuota() for group in groups})
    return tuple(_flatten(msgspec.to_builtins(Config(name="x", quota=quota))))


_CONTEXT_KEY: Final = re.compile(r"contexts\.[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.disabled")


def is_own_key(key: str) -> bool:
    """Whether it is a key of a group's or a context's own table."""
    return is_group_quota(key) or _CONTEXT_KEY.fullmatch(key) is not None


# Each group may have a table of its own.
_GROUP_KEY: Final = re.compile(r"(quota\.groups\.[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)\.(\w+)")


def is_group_quota(key: str) -> bool:
    """Whether it is a key of a group's quota: `quota.groups.guests.cpu`."""
    found = _GROUP_KEY.fullmatch(key)
    return found is not None and found[2] in SharedQuota.__struct_fields__


def load(directory: Path, environ: Mapping[str, str], flags: Mapping[str, Any]) -> LoadedConfig:
    """Read `config.toml`, then `conf.d/*.toml` by name, then `ORVALHO_*`, then `flags` (dotted
    keys); the later wins.

    Raises:
        InvalidInput: with the file and line of the first mistake.
    """
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for file in (directory / "config.toml", *sorted((directory / "conf.d").glob("*.toml"))):
        if file.exists():
            _merge(values, origins, file, directory)
    known = keys()
    for key in known:
        variable = "ORVALHO_" + key.upper().replace(".", "_")
        if variable in environ:
            values[key] = _from_text(environ[variable])
            origins[key] = variable
    for key, value in flags.items():
        values[key] = value
        origins[key] = "flag"
    config = _convert(values, origins)
    settings = tuple(
        (key, _to_toml(value), origins.get(key, "default"))
        for key, value in _flatten(msgspec.to_builtins(config)).items()
    )
    return LoadedConfig(config, settings)


def with_identity_of(new: Config, running: Config) -> Config:
    """The new settings, with the name and addresses that a running node keeps until its end."""
    return msgspec.structs.replace(new, name=running.name, listen=running.listen)


def set_value(directory: Path, key: str, text: str) -> bool:
    """Write `key = text` to config.toml, comments kept; False when it stood there already.
    The caller has the result loaded, and puts the old file back if that fails.

    Raises:
        InvalidInput: there is no such key.
    """
    if key not in keys() and not is_own_key(key):
        raise unknown_setting(key, f"config set {key}")
    document = read_document(directory)
    table: Any = document
    *tables, last = key.split(".")
    for name in tables:
        if name not in table:
            table[name] = tomlkit.table()
        table = table[name]
    value = _from_text(text)
    if last in table and table[last] == value:
        return False
    table[last] = value
    write_document(directory, document)
    return True


def read_document(directory: Path) -> tomlkit.TOMLDocument:
    """config.toml, with its comments. Raises: InvalidInput."""
    file = directory / "config.toml"
    try:
        return tomlkit.parse(file.read_text() if file.exists() else "")
    except tomlkit.exceptions.ParseError as error:
        raise InvalidInput(
            f"config.toml is not TOML: {error}", where=str(file), hint=f"edit {file}"
        ) from error


def write_document(directory: Path, document: tomlkit.TOMLDocument) -> None:
    """Put it in the place of config.toml, whole or not at all."""
    file = directory / "config.toml"
    temporary = file.with_name(".config.toml~")
    temporary.write_text(tomlkit.dumps(document))
    temporary.replace(file)


def already(key: str, text: str) -> str:
    """What is told of a setting that has the value."""
    return f"{key} is {text or 'empty'} already"


def set_offline(directory: Path, environ: Mapping[str, str], key: str, text: str) -> str:
    """Write a setting of a home that no daemon serves; what to tell of it. Another mistake in the
    files does not keep this one from being mended.

    Raises:
        InvalidInput: there is no such key, the value is none for it, or config.toml is not TOML.
    """
    file = directory / "config.toml"
    before = file.read_text() if file.exists() else ""
    if not set_value(directory, key, text):
        return already(key, text)
    try:
        load(directory, environ, {})
    except InvalidInput as error:
        if re.match(rf"{re.escape(key)}\b", error.message):
            file.write_text(before)
            raise InvalidInput(error.message, where=f"{key} = {text}", hint=error.hint) from error
        return f"{key} = {text}\n  but the settings are not of use yet: {error.message}" + (
            f" ({error.where})" if error.where else ""
        )
    return f"{key} = {text}"


def _merge(values: dict[str, Any], origins: dict[str, str], file: Path, directory: Path) -> None:
    name = str(file.relative_to(directory))
    try:
        text = file.read_bytes().decode()
        parsed = tomllib.loads(text)
    except FileNotFoundError:  # taken away between our looking and our reading
        return
    except OSError as error:
        raise InvalidInput(f"{name} cannot be read: {error.strerror}", where=str(file)) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        found = re.search(r"at line (\d+), column (\d+)", str(error))
        where = f"{file}:{found[1]}:{found[2]}" if found else str(file)
        raise InvalidInput(
            f"{name} is not TOML: {error}", where=where, hint=f"edit {file}"
        ) from error
    lines = _key_lines(text)
    known = keys()
    for key, value in _flatten(parsed).items():
        line = lines.get(key, 1)
        if key not in known and not is_own_key(key):
            raise unknown_setting(key, f"{file}:{line}")
        values[key] = value
        origins[key] = f"{name}:{line}"


def unknown_setting(key: str, where: str) -> InvalidInput:
    """The error for a key that is none, with the one that was meant."""
    group = _GROUP_KEY.fullmatch(key)
    own = (f"{group[1]}.{name}" for name in SharedQuota.__struct_fields__) if group else ()
    near = near_miss(key, (*keys(), *own))
    return InvalidInput(
        f'there is no setting "{key}"' + (f', did you mean "{near}"?' if near else ""),
        where=where,
        hint="orvalho config show",
    )


def _convert(values: Mapping[str, Any], origins: Mapping[str, str]) -> Config:
    nested: dict[str, Any] = {}
    for key, value in values.items():
        table = nested
        *tables, last = key.split(".")
        for name in tables:
            table = table.setdefault(name, {})
        table[last] = value
    lists = [(nested, "listen"), (nested.get("node"), "labels"), (nested.get("mesh"), "bootstrap")]
    lists += [(each, "disabled") for each in nested.get("contexts", {}).values()]
    lists.append((nested.get("policy", {}).get("broker"), "actions"))
    for holder, key in lists:
        # One element needs no brackets.
        if isinstance(holder, dict) and isinstance(holder.get(key), str):
            holder[key] = [holder[key]]
    if "name" not in nested:
        raise InvalidInput(
            "this home has no node name", where="config.toml", hint='name = "laptop"'
        )
    try:
        config = msgspec.convert(nested, Config)
    except msgspec.ValidationError as error:
        found = re.search(r"`\$\.([\w.]+)", str(error))
        key = found[1] if found else ""
        raise InvalidInput(
            f"{key}: {str(error).split(' - at')[0]}", where=_where(key, origins)
        ) from error
    flat = _flatten(msgspec.to_builtins(config))
    _check_texts(flat, origins)
    _check_lists(flat, origins)
    _check_shared(config, flat, origins)
    for key in _COUNTS:
        if flat[key] < 1:
            raise InvalidInput(f"{key} is at least 1", where=_where(key, origins))
    _check_nats(config, _where("nats.stream", origins))
    _check_broker(config.policy.broker, origins)
    _check_contexts(config, origins)
    if not 0 <= config.pairing.port <= 65535:
        where = _where("pairing.port", origins)
        raise InvalidInput("pairing.port is a number from 0 to 65535", where=where)
    if config.mesh.beacon_port > 65535:
        raise InvalidInput(
            "mesh.beacon_port is at most 65535", where=_where("mesh.beacon_port", origins)
        )
    return config


def _check_texts(flat: Mapping[str, Any], origins: Mapping[str, str]) -> None:
    for key, parse in (
        *((k, parse_duration) for k in _DURATIONS),
        *((k, parse_size) for k in _SIZES),
    ):
        try:
            parse(flat[key])
        except InvalidInput as error:
            raise InvalidInput(f"{key}: {error.message}", where=_where(key, origins)) from error
    for key, choices in _CHOICES.items():
        if flat[key] not in choices:
            raise InvalidInput(f"{key} is one of {', '.join(choices)}", where=_where(key, origins))


def _check_lists(flat: Mapping[str, Any], origins: Mapping[str, str]) -> None:
    for key, (form, example) in _FORMS.items():
        if len(flat[key]) > _LIST_LIMIT:
            raise InvalidInput(f"{key} has at most {_LIST_LIMIT}", where=_where(key, origins))
        for each in flat[key]:
            if not form.fullmatch(each):
                raise InvalidInput(
                    f"{key}: {each!a} is not of the form {example}", where=_where(key, origins)
                )


def _check_shared(config: Config, flat: Mapping[str, Any], origins: Mapping[str, str]) -> None:
    """The quotas of groups and in total, and what is kept for them."""
    for key, value in flat.items():
        if not (key.startswith("quota.total.") or is_group_quota(key)):
            continue
        what = _shared_mistake(key.rpartition(".")[2], value)
        if what:
            raise InvalidInput(f"{key}: {what}", where=_where(key, origins))
    for key in ("retention.runs", "retention.audit"):
        if parse_duration(flat[key]) < DAY_S:
            raise InvalidInput(f"{key} is at least 1d", where=_where(key, origins))


def _shared_mistake(name: str, value: Any) -> str | None:
    try:
        if name == "window" and not 1 <= parse_duration(value) <= _LONGEST_WINDOW_S:
            return "it is at least 1s and at most 31d"
        if name == "cpu" and value and parse_duration(value) < 0.001:
            return 'it is at least 1ms, or "" for no limit'
        if name == "memory" and value and parse_size(value) < LEAST_MEMORY_BYTES:
            return 'it is at least 8MB, or "" for no limit'
        if name == "network" and value and parse_size(value) < 1:
            return 'it is at least 1B, or "" for no limit'
    except InvalidInput as error:
        return error.message
    if name in ("cores", "runs_at_once") and value < 0:
        return "it is at least 1, or 0 for no limit"
    return None


def _check_nats(config: Config, where: str) -> None:
    stream = config.nats.stream
    if stream and not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", stream):
        raise InvalidInput("nats.stream is a word of letters, digits, - and _", where=where)
    if stream and not any(address.startswith("nats") for address in config.listen):
        raise InvalidInput("nats.stream needs a NATS server in `listen`", where=where)


def _check_contexts(config: Config, origins: Mapping[str, str]) -> None:
    for name, settings in config.contexts.items():
        key = f"contexts.{name}.disabled"
        for word in settings.disabled:
            if word not in WORDS:
                near = near_miss(word, WORDS)
                raise InvalidInput(
                    f"{key}: {word!a} is nothing that can be switched off"
                    + (f', did you mean "{near}"?' if near else ""),
                    where=_where(key, origins),
                    hint=f"one of {', '.join(WORDS)}",
                )


def _check_broker(broker: Broker, origins: Mapping[str, str]) -> None:
    if broker.actions and not broker.socket:
        where = _where("policy.broker.actions", origins)
        raise InvalidInput("policy.broker.actions needs policy.broker.socket", where=where)
    if broker.socket and not Path(broker.socket).is_absolute():
        where = _where("policy.broker.socket", origins)
        raise InvalidInput("policy.broker.socket is a path that begins with /", where=where)
    if not 0.01 <= parse_duration(broker.timeout) <= 60:
        where = _where("policy.broker.timeout", origins)
        raise InvalidInput("policy.broker.timeout is from 10ms to 1m", where=where)


def _where(key: str, origins: Mapping[str, str]) -> str:
    return origins.get(key, "config.toml")


def _flatten(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in table.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _key_lines(text: str) -> dict[str, int]:
    """Where each dotted key stands. tomllib gives no positions; keys of one line are all that
    this configuration has."""
    return dict(_positions(text))


def _positions(text: str) -> Iterator[tuple[str, int]]:
    table = ""
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[\s*([\w.\s-]+?)\s*\]", line):
            table = header[1] + "."
        elif key := re.match(r"\s*([\w.-]+)\s*=", line):
            yield table + key[1], number


def _from_text(text: str) -> Any:
    """A TOML value, or the text itself: `config set log.level debug` needs no quotes."""
    try:
        return tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        return text


def _to_toml(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_to_toml(item) for item in value) + "]"
    return str(tomlkit.item(value).as_string())
