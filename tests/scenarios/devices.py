"""Real devices for tests: a home, its daemon, and the command line on top."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orvalho.control.client import Client
from orvalho.errors import OrvalhoError

CRASHING = Path(__file__).with_name("crashing_daemon.py")
LIMIT_S = 30.0


@dataclass
class Printed:
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass
class Device:
    """One home under `top`. Its daemon runs as a child of the test, so that it can be killed."""

    name: str
    home: Path
    _daemon: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def environ(self) -> dict[str, str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("ORVALHO_", "XDG_"))}
        return clean | {"ORVALHO_HOME": str(self.home), "NO_COLOR": "1"}

    @property
    def wrapper(self) -> tuple[str, ...]:
        """What its programs are started by."""
        return ()

    @property
    def program(self) -> Path:
        """What its daemon is started by: a script with the home as its first argument."""
        return CRASHING

    def types(self, *words: str, stdin: str | None = None, limit_s: float = LIMIT_S) -> Printed:
        done = subprocess.run(
            [*self.wrapper, sys.executable, "-m", "orvalho", *words],
            env=self.environ,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=limit_s,
            check=False,
        )
        return Printed(done.returncode, done.stdout, done.stderr)

    def does(self, *words: str) -> str:
        """Type it; it must succeed."""
        printed = self.types(*words)
        assert printed.status == 0, printed
        return printed.out

    def init(self) -> None:
        self.does("init", "--name", self.name, "--listen", "ws://127.0.0.1:0")

    def start(self, *kill_at: str) -> None:
        """Start the daemon; with `kill_at` it kills itself at that commit, see the script."""
        with (self.home / "stderr").open("ab") as stderr:
            self._daemon = subprocess.Popen(
                [*self.wrapper, sys.executable, str(self.program), str(self.home), *kill_at],
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
            )
        wait_until(
            # Its power may go before it has answered anybody.
            lambda: (
                (bool(kill_at) and self.has_died) or (self.socket.exists() and self.is_answering())
            ),
            f"{self.name} answers",
        )

    def is_answering(self) -> bool:
        try:
            with Client(self.socket) as client:
                client.ask_plain({"type": "status"})
        except (OrvalhoError, OSError):
            return False
        return True

    def kill(self) -> None:
        """As if its power went away."""
        assert self._daemon is not None
        self._daemon.kill()
        self._daemon.wait(LIMIT_S)

    def signal(self, number: int) -> None:
        assert self._daemon is not None
        self._daemon.send_signal(number)

    def stop(self) -> None:
        if self._daemon is not None and self._daemon.poll() is None:
            self._daemon.send_signal(signal.SIGTERM)
            self._daemon.wait(LIMIT_S)

    @property
    def has_died(self) -> bool:
        return self._daemon is not None and self._daemon.poll() is not None

    @property
    def socket(self) -> Path:
        return self.home / "run/ctl.sock"

    def tree(self, context: str) -> Path:
        return self.home / "data/contexts" / context

    def policy(self, context: str) -> Path:
        return self.home / "config/policy" / f"{context}.csv"

    def allow(self, *lines: str, context: str = "peer") -> None:
        """Add lines to the policy, and wait until they are in force."""
        rules = self.rules()
        with self.policy(context).open("a") as file:
            file.writelines(f"{line}\n" for line in lines)
        wait_until(lambda: self.rules() >= rules + len(lines), "the policy is read again")

    def rules(self) -> int:
        findings = self.types("doctor", "--json").json["findings"]
        text = next(each["text"] for each in findings if each["text"].startswith("policy:"))
        return int(text.split()[1])

    def online(self, peer: str) -> bool:
        peers = self.types("status", "--json").json["peers"]
        return any(each["name"] == peer and each["state"] == "online" for each in peers)


@contextmanager
def two_devices(top: Path) -> Iterator[tuple[Device, Device]]:
    """Laptop and phone2, both running, paired, with context `peer` on the phone."""
    laptop, phone = Device("laptop", top / "laptop"), Device("phone2", top / "phone2")
    try:
        for device in (laptop, phone):
            device.init()
            device.start()
        phone.does("ctx", "new", "peer")
        ticket = phone.does("peer", "invite").strip().splitlines()[-1].strip()
        laptop.does("peer", "add", ticket)
        wait_until(lambda: laptop.online("phone2") and phone.online("laptop"), "they are linked")
        yield laptop, phone
    finally:
        laptop.stop()
        phone.stop()


def wait_until(holds: Callable[[], bool], what: str, limit_s: float = LIMIT_S) -> None:
    deadline = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.05)
