"""What the conditions of rules are about: the time, the battery and the network of this machine.

A file of the owner's (`policy.readings`) speaks first; what it does not say is looked up: the
battery in Linux' power_supply class (Documentation/ABI/testing/sysfs-class-power) or by Termux:API,
and whether the network is metered by NetworkManager (org.freedesktop.NetworkManager, `Metered`) or
by what kind of interface the default route leads over. What nobody tells is not known.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import anyio
import msgspec
from anyio import to_thread

from orvalho.policies.conditions import Probe, Readings, local_moment

_log = logging.getLogger(__name__)

_POWER: Final = Path("/sys/class/power_supply")
_NET: Final = Path("/sys/class/net")
_ROUTES: Final = Path("/proc/net/route")
# sysfs is read again after this long: a script may ask a thousand times in a second.
_FRESH_S: Final = 1.0
# A program is asked by the task of `run`, and its answer counts until this long after.
_EVERY_S: Final = 20.0
_STALE_S: Final = 90.0
_LIMIT_S: Final = 10.0
_MOST_BYTES: Final = 4096

_TERMUX_BATTERY: Final = ("termux-battery-status",)
_TERMUX_WIFI: Final = ("termux-wifi-connectioninfo",)
_NETWORK_MANAGER: Final = (
    *("busctl", "--system", "--timeout=5", "get-property", "org.freedesktop.NetworkManager"),
    *("/org/freedesktop/NetworkManager", "org.freedesktop.NetworkManager", "Metered"),
)


class _File(msgspec.Struct, frozen=True):
    battery: int | None = None
    charging: bool | None = None
    metered: bool | None = None


class _TermuxBattery(msgspec.Struct, frozen=True):
    percentage: int | None = None
    status: str | None = None


class _TermuxWifi(msgspec.Struct, frozen=True):
    supplicant_state: str | None = None


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a program answered, and by `time.monotonic` when."""

    at: float
    readings: Readings


class Probes:
    """The readings of this machine. `readings` may be called from any thread, and waits for no
    program; `run` asks those, while a rule needs what they say."""

    def __init__(
        self,
        file: Callable[[], str] = lambda: "",
        *,
        power: Path = _POWER,
        net: Path = _NET,
        routes: Path = _ROUTES,
    ) -> None:
        """`file`: the path of the owner's own readings, or an empty text."""
        self._file = file
        self._power = power
        self._net = net
        self._routes = routes
        self._seen: _Asked | None = None
        self._told: _Asked | None = None
        self._stirred = anyio.Event()

    def readings(self) -> Readings:
        """What is so now. What the file says is read anew each time."""
        now = time.monotonic()
        seen = self._seen
        if seen is None or now - seen.at > _FRESH_S:
            seen = self._seen = _Asked(now, self._look())
        found = [seen.readings]
        told = self._told
        if told is not None and now - told.at < _STALE_S:
            found.append(told.readings)
        if path := self._file():
            found.insert(0, _read_file(path))
        return replace(_first_known(found), moment=local_moment(time.time()))

    def stir(self) -> None:
        """The rules are others now: look at once what they need. On the event loop."""
        self._stirred.set()

    async def run(self, needed: Callable[[], frozenset[Probe]]) -> None:
        """Ask the programs for what `needed` names, for ever."""
        while True:
            self._stirred = anyio.Event()
            if needed():
                try:
                    told = await to_thread.run_sync(_ask_programs, needed())
                    self._told = _Asked(time.monotonic(), told)
                except Exception:  # noqa: BLE001 -- the top of a task that must go on
                    _log.exception("probes.failed")
            with anyio.move_on_after(_EVERY_S if needed() else None):
                await self._stirred.wait()

    def _look(self) -> Readings:
        battery, charging = read_power(self._power)
        return Readings(
            battery=battery, charging=charging, metered=read_route(self._routes, self._net)
        )


def read_power(directory: Path) -> tuple[int | None, bool | None]:
    """The lowest battery in percent, and whether the machine is fed from outside. A machine that
    has none of these tells neither."""
    percents: list[int] = []
    statuses: list[str] = []
    mains: list[bool] = []
    try:
        supplies = sorted(directory.iterdir())
    except OSError:
        return None, None
    for supply in supplies:
        if _text(supply / "scope") == "Device":
            continue  # the battery of a mouse
        if _text(supply / "type") == "Battery":
            capacity = _text(supply / "capacity")
            if re.fullmatch(r"[0-9]{1,3}", capacity) and int(capacity) <= 100:
                percents.append(int(capacity))
            statuses.append(_text(supply / "status"))
        elif (online := _text(supply / "online")) in ("0", "1"):
            mains.append(online == "1")
    charging: bool | None = None
    if True in mains or "Charging" in statuses or "Full" in statuses:
        charging = True
    elif mains or "Discharging" in statuses:
        charging = False
    return (min(percents) if percents else None), charging


def read_route(routes: Path, net: Path) -> bool | None:
    """Whether the default route leads over a mobile network; over another kind, None: a Wi-Fi may
    be that of a phone."""
    try:
        lines = routes.read_text(encoding="ascii", errors="replace").splitlines()[1:]
    except OSError:
        return None
    for fields in map(str.split, lines):
        if len(fields) > 1 and fields[1] == "00000000" and re.fullmatch(r"[\w.:-]+", fields[0]):
            if fields[0].startswith(".."):
                continue
            if "DEVTYPE=wwan" in _text(net / fields[0] / "uevent").splitlines():
                return True
    return None


def _ask_programs(needed: frozenset[Probe]) -> Readings:
    battery: int | None = None
    charging: bool | None = None
    if needed & {"battery", "charging"}:
        battery, charging = termux_battery(_answer(_TERMUX_BATTERY))
    metered: bool | None = None
    if "metered" in needed:
        metered = network_manager(_answer(_NETWORK_MANAGER))
        if metered is None:
            metered = termux_wifi(_answer(_TERMUX_WIFI))
    return Readings(battery=battery, charging=charging, metered=metered)


def termux_battery(answer: bytes) -> tuple[int | None, bool | None]:
    """Percent, and whether it charges, from what `termux-battery-status` printed."""
    try:
        found = msgspec.json.decode(answer, type=_TermuxBattery)
    except msgspec.DecodeError:
        return None, None
    charging = {"CHARGING": True, "FULL": True, "DISCHARGING": False, "NOT_CHARGING": False}
    percent = found.percentage
    is_sound = percent is not None and 0 <= percent <= 100
    return (percent if is_sound else None), charging.get(found.status or "")


def termux_wifi(answer: bytes) -> bool | None:
    """A phone that is not in a Wi-Fi is in the mobile network, which is metered."""
    try:
        found = msgspec.json.decode(answer, type=_TermuxWifi)
    except msgspec.DecodeError:
        return None
    return None if found.supplicant_state is None else found.supplicant_state != "COMPLETED"


def network_manager(answer: bytes) -> bool | None:
    """`u 4`: 1 yes, 2 no, 3 and 4 the same as a guess, 0 not known (NMMetered)."""
    return {b"u 1": True, b"u 3": True, b"u 2": False, b"u 4": False}.get(answer.strip())


def _answer(command: Sequence[str]) -> bytes:
    if shutil.which(command[0]) is None:
        return b""
    try:
        done = subprocess.run(  # noqa: S603 - words of our own
            command, capture_output=True, stdin=subprocess.DEVNULL, timeout=_LIMIT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return b""
    return done.stdout[:_MOST_BYTES] if done.returncode == 0 else b""


def _first_known(found: Sequence[Readings]) -> Readings:
    """For each reading, what the first of them says that says something."""
    return Readings(
        battery=next((each.battery for each in found if each.battery is not None), None),
        charging=next((each.charging for each in found if each.charging is not None), None),
        metered=next((each.metered for each in found if each.metered is not None), None),
    )


def _read_file(path: str) -> Readings:
    """What the owner's file says; nothing, if it cannot be read as that."""
    try:
        # Without O_NONBLOCK a pipe would keep the whole daemon waiting.
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
        with os.fdopen(os.open(Path(path).expanduser(), flags), "rb") as file:
            found = msgspec.json.decode(file.read(_MOST_BYTES) or b"", type=_File)
    except (OSError, RuntimeError, msgspec.DecodeError):
        return Readings()
    battery = found.battery if found.battery is not None and 0 <= found.battery <= 100 else None
    return Readings(battery=battery, charging=found.charging, metered=found.metered)


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_MOST_BYTES).decode(errors="replace").strip()
    except OSError:
        return ""
