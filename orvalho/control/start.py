"""Start the daemon of a home, detached from the terminal, and wait until it listens."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final, TypeVar

from orvalho.errors import NotFound, OrvalhoError, Unavailable, from_code

T = TypeVar("T")

# A daemon that dies may have lost a race for the home's lock: the winner listens soon after.
_AFTER_DEATH_S: Final = 3.0
_TAIL_BYTES: Final = 65536
_SHOWN_LINES: Final = 12


def daemon_command(home: str | None, *arguments: str) -> list[str]:
    """The argv of the daemon's own program. `-P`: never import from the directory that the user
    happens to stand in."""
    place = ["--home", str(Path(home).expanduser().absolute())] if home else []
    return [sys.executable, "-P", "-m", "orvalho.daemon", *arguments, *place]


def start_daemon(
    environ: Mapping[str, str],
    home: str | None,
    state: Path,
    connect: Callable[[], T],
    *,
    deadline_s: float,
) -> T:
    """Start it and answer `connect()` once that does not raise Unavailable. `state` is the home's
    state directory. Two that start it at once do no harm: the
    daemon itself lets only one live.

    Raises:
        NotFound: the home has no keys yet.
        Unavailable: it died, or does not listen within `deadline_s`.
        OrvalhoError: what it said itself of why it cannot start.
    """
    if not (state / "keys" / "seed").exists():
        raise NotFound(
            "this device is not set up yet: there are no keys.",
            where=str(state),
            hint="orvalho init --name laptop",
        )
    process = _spawn(environ, home, state)
    try:
        return _await_socket(process, connect, state, time.monotonic() + deadline_s)
    finally:
        # It is meant to outlive us; without this subprocess warns that nobody waits for it.
        process.returncode = process.poll() or 0


def _await_socket(
    process: subprocess.Popen[bytes], connect: Callable[[], T], state: Path, give_up_at: float
) -> T:
    died = False
    while True:
        try:
            return connect()
        except Unavailable:
            now = time.monotonic()
        if not died and process.poll() is not None:
            died = True
            # Status 0 says: another one runs already.
            if process.returncode != 0:
                give_up_at = min(give_up_at, now + _AFTER_DEATH_S)
        if now >= give_up_at:
            if died and (told := _told(state)) is not None:
                raise told
            why = f"it ended with status {process.returncode}" if died else "it does not listen"
            raise Unavailable(
                f"the daemon did not start: {why}.",
                where=str(state / "log.jsonl"),
                hint="orvalho daemon run",
                detail="\n".join(_last_errors(state)) or None,
            )
        time.sleep(0.01)


def _spawn(environ: Mapping[str, str], home: str | None, state: Path) -> subprocess.Popen[bytes]:
    # What goes wrong before the daemon has its log open is told on standard error.
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND
    descriptor = os.open(state / "start.log", flags, 0o600)
    try:
        return subprocess.Popen(  # noqa: S603 - our own program
            daemon_command(home),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=descriptor,
            start_new_session=True,
            cwd="/",
            env=dict(environ),
        )
    finally:
        os.close(descriptor)


def _told(state: Path) -> OrvalhoError | None:
    """The error that the daemon itself gave for not starting, as it wrote it: a line
    `error[code]: message`, then `where` and `try`."""
    text = "\n".join(_tail(state / "start.log")) + "\n"
    found = re.search(
        r"^error\[([a-z-]+)\]: (.+)\n(?:  where (.+)\n)?(?:  try   (.+)\n)?", text, re.MULTILINE
    )
    if found is None:
        return None
    return from_code(found[1], found[2], where=found[3], hint=found[4])


def _last_errors(state: Path) -> list[str]:
    lines = [line for line in _tail(state / "start.log") if line.strip()]
    lines = lines or list(_errors(_tail(state / "log.jsonl")))
    return lines[-_SHOWN_LINES:]


def _errors(lines: list[str]) -> Iterator[str]:
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and entry.get("level") in ("error", "critical"):
            yield f"{entry.get('time')} {entry.get('message')} {entry.get('error', '')}".rstrip()
            yield from str(entry.get("traceback", "")).splitlines()[-1:]


def _tail(file: Path) -> list[str]:
    try:
        with file.open("rb") as stream:
            stream.seek(0, os.SEEK_END)
            stream.seek(max(0, stream.tell() - _TAIL_BYTES))
            return stream.read().decode(errors="replace").splitlines()
    except FileNotFoundError:
        return []
