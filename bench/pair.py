"""Two paired homes and their daemons on loopback, for the length of a block."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from orvalho.control.client import Client


@dataclass(frozen=True)
class Device:
    name: str
    home: Path

    @property
    def environ(self) -> dict[str, str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith("ORVALHO_")}
        return clean | {"ORVALHO_HOME": str(self.home), "NO_COLOR": "1"}

    @property
    def socket(self) -> Path:
        return self.home / "run/ctl.sock"

    def command(self) -> list[str]:
        """The installed command, as a user has it."""
        return [str(Path(sysconfig.get_path("scripts")) / "orvalho")]

    def types(self, *words: str) -> str:
        done = subprocess.run(
            [*self.command(), *words],
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if done.returncode:
            sys.exit(f"orvalho {' '.join(words)}: {done.stderr}")
        return done.stdout

    def client(self) -> Client:
        return Client(self.socket)

    def daemon_pid(self) -> int:
        return int((self.home / "state/lock").read_text())


@dataclass(frozen=True)
class Pair:
    laptop: Device
    phone: Device


@contextlib.contextmanager
def two_daemons(listen: str = "ws://127.0.0.1:0") -> Iterator[Pair]:
    top = Path(tempfile.mkdtemp(prefix="orvalho-bench-"))
    pair = Pair(Device("laptop", top / "a"), Device("phone2", top / "b"))
    try:
        for device in (pair.laptop, pair.phone):
            device.types("init", "--name", device.name, "--listen", listen)
        pair.phone.types("ctx", "new", "peer")
        ticket = pair.phone.types("peer", "invite").split()[-1]
        pair.laptop.types("peer", "add", ticket)
        deadline = time.monotonic() + 10
        while "online" not in pair.laptop.types("status") and time.monotonic() < deadline:
            time.sleep(0.1)
        yield pair
    finally:
        for device in (pair.laptop, pair.phone):
            subprocess.run(
                [*device.command(), "daemon", "stop"],
                env=device.environ,
                capture_output=True,
                timeout=30,
                check=False,
            )
        shutil.rmtree(top, ignore_errors=True)
