"""What can be told of a home without its daemon: why it may not start, and what was last said."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from orvalho.contexts.groups import Groups
from orvalho.contexts.identity import Identity
from orvalho.control.messages import Finding
from orvalho.daemon import config as configuration
from orvalho.daemon.config import LoadedConfig
from orvalho.daemon.home import Home
from orvalho.errors import OrvalhoError
from orvalho.policies.book import PolicyBook
from orvalho.store import look, summary

_LITTLE_DISK_BYTES: Final = 256 << 20
_TAIL_BYTES: Final = 256 << 10
_SHOWN_ERRORS: Final = 5


def check(home: Home, environ: Mapping[str, str]) -> Iterator[Finding]:
    """A finding for each thing that a daemon needs in order to start."""
    if not home.is_initialised:
        yield _problem("this device is not set up yet: there are no keys", "orvalho init")
        return
    yield from _keys(home)
    loaded, findings = _settings(home, environ)
    yield from findings
    yield from _rules(home)
    holder = lock_holder(home)
    if holder is not None:
        yield Finding(
            level="warning",
            text=f"process {holder} serves this home, but does not answer",
            hint=f"kill {holder}, then orvalho daemon start",
        )
    elif loaded is not None:
        yield from _ports(loaded)
    yield from _database(home)
    yield from _disk(home)
    yield from _last_errors(home)


def lock_holder(home: Home) -> int | None:
    """The process that serves this home; None when nobody does."""
    path = home.state / "lock"
    try:
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        text = path.read_text().strip()
        return int(text) if text.isdecimal() else 0
    finally:
        os.close(handle)
    return None


def log_tail(home: Home, most: int) -> list[dict[str, Any]]:
    """The last entries of the log, oldest first; what is no entry is left out."""
    try:
        with home.log.open("rb") as stream:
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - _TAIL_BYTES))
            lines = stream.read().splitlines()
    except OSError:
        return []
    entries = []
    for line in lines[-most:]:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict):
            entries.append(entry)
    return entries


def _keys(home: Home) -> Iterator[Finding]:
    try:
        Identity.load(home.keys)
    except OrvalhoError as error:
        yield _problem(_words(error), error.hint)
        return
    mode = (home.keys / "seed").stat().st_mode & 0o777
    yield _ok(f"keys: readable by their owner alone ({mode:04o})")


def _settings(home: Home, environ: Mapping[str, str]) -> tuple[LoadedConfig | None, list[Finding]]:
    try:
        loaded = configuration.load(home.config, environ, {})
    except OrvalhoError as error:
        return None, [_problem(_words(error), error.hint or f"edit {home.config}/config.toml")]
    return loaded, [_ok(f"settings: {home.config}/config.toml can be read")]


def _rules(home: Home) -> Iterator[Finding]:
    names = [each.name for each in home.contexts.glob("*") if each.is_dir()]
    try:
        book = PolicyBook(home.config, lambda: names)
        groups = Groups(home.groups).reload()
    except OSError as error:
        yield _problem(f"the rules cannot be read: {error}", f"look at {home.config}")
        return
    for text in (*book.problems, *groups.problems):
        yield _problem(text, "orvalho policy check")
    if not book.problems:
        yield _ok(f"policy: {book.statistics()['rules']} rules")


def _ports(loaded: LoadedConfig) -> Iterator[Finding]:
    for address in loaded.config.listen:
        parts = urlsplit(address)
        if parts.hostname is None or not parts.port:
            continue
        try:
            _bind(parts.hostname, parts.port)
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            why = (
                "another program listens there" if taken else (error.strerror or "it is no address")
            )
            yield _problem(
                f"cannot listen on {address}: {why}", "orvalho config set listen ws://0.0.0.0:PORT"
            )
        else:
            yield _ok(f"{address} is free to listen on")


def _bind(host: str, port: int) -> None:
    family, *_, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(place)


def _database(home: Home) -> Iterator[Finding]:
    if not home.database.exists():
        yield _ok("database: none yet, it is made at the first start")
        return
    try:
        found = look(home.database, summary)
    except OrvalhoError as error:
        yield _problem(
            _words(error), f"move {home.database} away: it is made anew, without its peers"
        )
        return
    if found["check"] == "ok":
        yield _ok(f"database: whole, {home.database.stat().st_size >> 10} KiB")
    else:
        yield _problem(f"the database is damaged: {found['check']}", f"restore {home.database}")


def _disk(home: Home) -> Iterator[Finding]:
    free = shutil.disk_usage(home.state).free
    if free < _LITTLE_DISK_BYTES:
        yield Finding(
            level="warning",
            text=f"only {free >> 20} MiB are free where {home.state} lies",
            hint="make room: what cannot be written is refused, not lost",
        )
    else:
        yield _ok(f"disk: {free >> 30} GiB free")


def _last_errors(home: Home) -> Iterator[Finding]:
    errors = [each for each in log_tail(home, 2000) if each.get("level") in ("error", "critical")]
    for entry in errors[-_SHOWN_ERRORS:]:
        why = entry.get("why") or str(entry.get("traceback", "")).rpartition("\n")[2]
        yield Finding(
            level="warning",
            text=f"log: {entry.get('time')} {entry.get('message')} {why}".rstrip(),
            hint=f"read {home.log}",
        )


def sizes(home: Home) -> dict[str, int]:
    """How many bytes lie where; -1 where that cannot be told."""
    return {
        "database": _size(home.database),
        "log": _size(home.log),
        "blobs": _size(home.state / "blobs"),
        "incoming": _size(home.state / "incoming"),
        "contexts": _size(home.contexts),
    }


def _size(path: Path) -> int:
    try:
        if not path.is_dir():
            return path.stat().st_size
        return sum(each.stat().st_size for each in path.rglob("*") if each.is_file())
    except OSError:
        return -1


def _words(error: OrvalhoError) -> str:
    return f"{error.message} ({error.where})" if error.where else error.message


def _ok(text: str) -> Finding:
    return Finding(level="ok", text=text)


def _problem(text: str, hint: str | None) -> Finding:
    return Finding(level="problem", text=text, hint=hint)
