"""A wire between network namespaces that loses, repeats, reorders, delays and cuts Ethernet frames.

Each host gets a TAP device in a namespace of its own; one process, which this file is as well,
holds the far ends and moves frames between them by a seeded script. It needs root and
`/dev/net/tun`, and no kernel module for faults.

    lossy_wire.py SEED NAMESPACE ...      faults come as lines of JSON on standard input
"""

from __future__ import annotations

import ctypes
import fcntl
import heapq
import json
import os
import random
import selectors
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path

from tests.scenarios.devices import Device

LIMIT_S = 30.0
_DEVICE = "wire0"
_TUNSETIFF = 0x400454CA
_IFF_TAP, _IFF_NO_PI = 0x0002, 0x1000
_CLONE_NEWNET = 0x40000000
_FRAME_BYTES = 1 << 16
_QUEUED = 20_000


@dataclass(frozen=True)
class Faults:
    """What happens to each frame. `loss`, `repeat` and `reorder` are probabilities; a reordered
    frame is held back by `hold_s`. `mtu_bytes` swallows larger frames without a word (0: none).
    `cut` names one-way wires as (from, to), by the numbers of the hosts."""

    loss: float = 0.0
    repeat: float = 0.0
    reorder: float = 0.0
    delay_s: float = 0.0
    jitter_s: float = 0.0
    hold_s: float = 0.02
    mtu_bytes: int = 0
    cut: tuple[tuple[int, int], ...] = ()


def cut_off(host: int, hosts: int) -> tuple[tuple[int, int], ...]:
    """One host without any way in or out."""
    others = [each for each in range(hosts) if each != host]
    return tuple((host, each) for each in others) + tuple((each, host) for each in others)


def is_possible() -> bool:
    """Whether this process may make namespaces and TAP devices."""
    if os.geteuid() != 0 or not Path("/dev/net/tun").exists():
        return False
    name = f"orv{os.getpid()}probe"
    try:
        made = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False)
    except FileNotFoundError:
        return False
    if made.returncode:
        return False
    subprocess.run(["ip", "netns", "del", name], capture_output=True, check=True)
    return True


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@dataclass
class Host(Device):
    """A device inside a network namespace, at `address`."""

    namespace: str = ""
    address: str = ""
    scheme: str = "ws"

    @property
    def wrapper(self) -> tuple[str, ...]:
        return ("ip", "netns", "exec", self.namespace)

    def init(self) -> None:
        self.does("init", "--name", self.name, "--listen", f"{self.scheme}://{self.address}:4455")


@dataclass
class Wire:
    """The running process between the hosts."""

    hosts: list[Host]
    _process: subprocess.Popen[str] = field(repr=False)

    def set(self, faults: Faults) -> None:
        """From now on; when this returns it holds."""
        self._say(json.dumps(asdict(faults)))

    def counts(self) -> dict[str, int]:
        """Frames so far: passed, lost, repeated, reordered, cut, too-large."""
        return dict(json.loads(self._say("{}")))

    def _say(self, line: str) -> str:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self._process.stdout.readline()


_made = count()


@contextmanager
def lossy_wire(top: Path, *names: str, seed: int = 1, scheme: str = "ws") -> Iterator[Wire]:
    """Hosts 10.78.0.1, 10.78.0.2, ... on one wire that has no faults yet. They are stopped, and
    all of it is taken away, at the end."""
    number = next(_made)
    hosts = [
        Host(
            name,
            top / name,
            namespace=f"orv{os.getpid()}w{number}h{at}",
            address=f"10.78.0.{at + 1}",
            scheme=scheme,
        )
        for at, name in enumerate(names)
    ]
    process: subprocess.Popen[str] | None = None
    try:
        for host in hosts:
            ip("netns", "add", host.namespace)
            ip("-n", host.namespace, "link", "set", "lo", "up")
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.lossy_wire", str(seed)]
            + [host.namespace for host in hosts],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        wire = Wire(hosts, process)
        wire.set(Faults())
        for host in hosts:
            ip("-n", host.namespace, "addr", "add", f"{host.address}/24", "dev", _DEVICE)
            ip("-n", host.namespace, "link", "set", _DEVICE, "up")
        yield wire
    finally:
        for host in hosts:
            host.stop()
        if process is not None:
            process.kill()
            process.communicate()
        for host in hosts:
            subprocess.run(["ip", "netns", "del", host.namespace], capture_output=True, check=False)


# ---- the process between them -------------------------------------------------------------------


def _open_tap(namespace: str) -> int:
    """A TAP device belongs to the namespace its maker was in; its file may be held anywhere."""
    libc = ctypes.CDLL(None, use_errno=True)
    there = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    try:
        if libc.setns(there, _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns {namespace}")
    finally:
        os.close(there)
    tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    request = struct.pack("16sH22x", _DEVICE.encode(), _IFF_TAP | _IFF_NO_PI)
    fcntl.ioctl(tap, _TUNSETIFF, request)
    return tap


class _Middle:
    """Holds frames until they are due."""

    def __init__(self, seed: int, taps: Sequence[int]) -> None:
        self._taps = taps
        self._random = random.Random(seed)
        self._due: list[tuple[float, int, int, bytes]] = []
        self._order = count()
        self.faults = Faults()
        self.counts: Counter[str] = Counter()

    def take(self, source: int, frame: bytes, now: float) -> None:
        for target in range(len(self._taps)):
            if target != source:
                self._decide(source, target, frame, now)

    def _decide(self, source: int, target: int, frame: bytes, now: float) -> None:
        faults, draw = self.faults, self._random.random
        # All are drawn for each frame, so that one fault does not shift the others' dice.
        loss, repeat, reorder, jitter = draw(), draw(), draw(), draw()
        if (source, target) in faults.cut:
            self.counts["cut"] += 1
        elif faults.mtu_bytes and len(frame) > faults.mtu_bytes:
            self.counts["too-large"] += 1
        elif loss < faults.loss or len(self._due) > _QUEUED:
            self.counts["lost"] += 1
        else:
            at = now + faults.delay_s + jitter * faults.jitter_s
            if reorder < faults.reorder:
                self.counts["reordered"] += 1
                at += faults.hold_s
            self._put(at, target, frame)
            if repeat < faults.repeat:
                self.counts["repeated"] += 1
                self._put(at + faults.hold_s / 2, target, frame)

    def _put(self, at: float, target: int, frame: bytes) -> None:
        heapq.heappush(self._due, (at, next(self._order), target, frame))

    def wait_s(self, now: float) -> float | None:
        return max(0.0, self._due[0][0] - now) if self._due else None

    def deliver(self, now: float) -> None:
        while self._due and self._due[0][0] <= now:
            _, _, target, frame = heapq.heappop(self._due)
            self.counts["passed"] += 1
            try:
                os.write(self._taps[target], frame)
            except OSError:  # it is down, or full: a wire loses frames
                self.counts["lost"] += 1


def _faults(line: str) -> Faults:
    words = json.loads(line)
    return Faults(**(words | {"cut": tuple((a, b) for a, b in words["cut"])}))


def main(seed: str, *namespaces: str) -> None:
    """Move frames until standard input ends."""
    taps = [_open_tap(namespace) for namespace in namespaces]
    middle = _Middle(int(seed), taps)
    selector = selectors.DefaultSelector()
    selector.register(sys.stdin, selectors.EVENT_READ, None)
    for number, tap in enumerate(taps):
        selector.register(tap, selectors.EVENT_READ, number)
    while True:
        for key, _ in selector.select(middle.wait_s(time.monotonic())):
            if key.data is not None:
                _drain(middle, taps, key.data)
                continue
            line = sys.stdin.readline()
            if not line:
                return
            if line.strip() != "{}":
                middle.faults = _faults(line)
            print(json.dumps(middle.counts), flush=True)
        middle.deliver(time.monotonic())


def _drain(middle: _Middle, taps: Sequence[int], source: int) -> None:
    for _ in range(64):
        try:
            frame = os.read(taps[source], _FRAME_BYTES)
        except (BlockingIOError, OSError):
            return
        middle.take(source, frame, time.monotonic())


if __name__ == "__main__":
    main(*sys.argv[1:])
