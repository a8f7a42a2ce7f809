"""The bug report: what helps to find a fault, with names, addresses and keys taken out."""

from __future__ import annotations

import getpass
import json
import os
import platform
import socket
import sqlite3
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, Final

import msgspec

from orvalho import __version__
from orvalho.contexts.identity import Identity
from orvalho.contexts.trust import ContextEntry
from orvalho.control.messages import Finding
from orvalho.control.seeing import Report
from orvalho.daemon import config as configuration
from orvalho.daemon.home import Home
from orvalho.daemon.house import House
from orvalho.daemon.offline import log_tail, sizes
from orvalho.daemon.redaction import Redactor
from orvalho.errors import OrvalhoError
from orvalho.store import look, summary

_LOG_LINES: Final = 300
# Settings whose values a person chose, and which the report does without.
_PRIVATE: Final = ("node.labels",)
_PACKAGES: Final = ("anyio", "uvloop", "msgspec", "websockets", "pynacl", "mini-racer")


@dataclass(frozen=True, slots=True)
class Named:
    """Who and what this home knows by name, so that it can be taken out."""

    nodes: Mapping[str, tuple[bytes, ...]] = field(default_factory=dict)
    contexts: Mapping[str, tuple[bytes, ...]] = field(default_factory=dict)
    groups: tuple[str, ...] = ()
    secrets: tuple[bytes, ...] = ()


def report(
    home: Home,
    environ: Mapping[str, str],
    named: Named,
    *,
    findings: Iterable[Finding],
    live: Mapping[str, Any],
) -> Report:
    """Made in a thread: it reads files. `live` is what only a running daemon knows."""
    redactor = _redactor(home, environ, named)
    sections = {
        "version": {"orvalho": __version__, "python": sys.version.split()[0]},
        "platform": _platform(),
        "findings": [f"{each.level}: {each.text}" for each in findings],
        "settings": _settings(home, environ),
        **live,
        "database": _database(home),
        "bytes": sizes(home),
        "log": log_tail(home, _LOG_LINES),
    }
    lines = [f"Orvalho bug report, {datetime.now(UTC).isoformat(timespec='seconds')}", ""]
    for title, content in sections.items():
        lines += [f"== {title}", *_lines(redactor.value(content)), ""]
    return Report(text="\n".join(lines), redacted=dict(redactor.counts))


def named_by(house: House) -> Named:
    """What a running daemon knows by name."""
    nodes = {house.name: (house.identity.node.key, house.identity.owner.key)}
    contexts = {each.name: (bytes(each.key),) for each in house.contexts.list()}
    for peer in house.trust.peers():
        nodes[peer.name] = (peer.node_key, peer.owner_key)
        for entry in peer.contexts:
            contexts[entry.name] = (*contexts.get(entry.name, ()), entry.key)
    return Named(nodes, contexts, house.groups.names(), _secrets(house.home))


def named_in(home: Home) -> Named:
    """The same from the files of a home that no daemon serves; what cannot be read is unknown."""
    nodes: dict[str, tuple[bytes, ...]] = {}
    contexts: dict[str, tuple[bytes, ...]] = {}
    for each in home.contexts.glob("*"):
        contexts[each.name] = ()
    try:
        identity = Identity.load(home.keys)
        nodes[configuration.load(home.config, {}, {}).config.name] = (
            identity.node.key,
            identity.owner.key,
        )
    except OrvalhoError:
        pass
    try:
        for peer in look(home.database, _peers):
            nodes[peer[0]] = peer[1]
            contexts |= {name: (*contexts.get(name, ()), key) for name, key in peer[2]}
    except OrvalhoError:
        pass
    groups = tuple(each.name for each in home.groups.glob("*"))
    return Named(nodes, contexts, groups, _secrets(home))


def _peers(
    connection: sqlite3.Connection,
) -> list[tuple[str, tuple[bytes, ...], list[tuple[str, bytes]]]]:
    rows = connection.execute("select name, node_key, owner_key, contexts from peer").fetchall()
    return [
        (
            name,
            (node_key, owner_key),
            [
                (entry.name, entry.key)
                for entry in msgspec.json.decode(contexts, type=tuple[ContextEntry, ...])
            ],
        )
        for name, node_key, owner_key, contexts in rows
    ]


def _secrets(home: Home) -> tuple[bytes, ...]:
    """Never read into the report; known all the same, lest they get there by another way."""
    try:
        seed = (home.keys / "seed").read_bytes()
    except OSError:
        return ()
    return (seed,)


def _redactor(home: Home, environ: Mapping[str, str], named: Named) -> Redactor:
    redactor = Redactor()
    for secret in named.secrets:
        redactor.know_key("secret", secret)
        redactor.know("secret", secret.decode(errors="ignore"))
    top = str(home.root or Path(environ.get("HOME") or "~").expanduser())
    redactor.know("home", top)
    if user := environ.get("HOME"):
        redactor.know("home", user)
    for kind, names in (("node", named.nodes), ("ctx", named.contexts)):
        for name, keys in names.items():
            redactor.know(kind, name)
            for key in keys:
                redactor.know_key(f"{kind}key", key)
    for name in named.groups:
        redactor.know("group", name)
    redactor.know("host", socket.gethostname(), platform.node())
    redactor.know("user", environ.get("USER", ""), _user())
    return redactor


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""


def _platform() -> dict[str, str]:
    versions = {
        each.metadata["Name"].lower(): each.version
        for each in distributions()
        if each.metadata["Name"]
    }
    return {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "libc": " ".join(platform.libc_ver()),
        "processors": str(os.cpu_count()),
        "packages": ", ".join(f"{name} {versions.get(name, 'none')}" for name in _PACKAGES),
    }


def _settings(home: Home, environ: Mapping[str, str]) -> dict[str, str]:
    try:
        loaded = configuration.load(home.config, environ, {})
    except OrvalhoError as error:
        return {"unreadable": f"{error.where}: {error.message}"}
    return {
        key: f"{'...' if key in _PRIVATE else value}  ({origin})"
        for key, value, origin in loaded.settings
    }


def _database(home: Home) -> Any:
    try:
        return look(home.database, summary)
    except OrvalhoError as error:
        return error.message


def _lines(content: Any) -> list[str]:
    if isinstance(content, dict):
        return [f"{key}: {_line(value)}" for key, value in content.items()]
    if isinstance(content, list):
        return [_line(each) for each in content]
    return [_line(content)]


def _line(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str, sort_keys=False)


def live_parts(house: House, peers: Iterable[Any]) -> dict[str, Any]:
    """What only the running daemon knows. `peers` are PeerState Structs."""
    return {
        "running": {
            "up_s": round(time.time() - house.started_at),
            "listening": list(house.node.addresses),
            "problems": [text for texts in house.problems.values() for text in texts],
        },
        "peers": [
            {
                name: value
                for name, value in msgspec.to_builtins(peer).items()
                if name not in ("check_words", "added_at")
            }
            for peer in peers
        ],
        "counters": counters(house),
    }


def counters(house: House) -> dict[str, int]:
    """What has happened since the start, and what there is now, by name."""
    return {
        **house.node.statistics(),
        **{f"ledger.{k}": v for k, v in house.ledger.statistics().items()},
        **{f"policy.{k}": v for k, v in house.policy.statistics().items()},
    }
