"""What a guest that waits reads of clock and chance: noted, and in a replay read again.

A reading of a clock is `clock:delta` in nanoseconds since the last one of it; chance is in hex.
"""

from __future__ import annotations

import os
import time
from collections import deque
from typing import Final

from orvalho.runtime.engine import Tape

_CLOCKS: Final = (time.time_ns, time.monotonic_ns, time.thread_time_ns, time.thread_time_ns)
_MOST_DIGITS: Final = 20


class Readings:
    """Those of one guest, on its thread."""

    def __init__(self, room_bytes: int = 0, tape: Tape | None = None) -> None:
        self._room_bytes = room_bytes
        self._new: list[bytes] = []
        self._given: list[bytes] = []
        self._last_ns = [0] * len(_CLOCKS)
        self._is_full = not room_bytes
        self._is_replay = tape is not None
        self._moments = deque(tape.clock.split() if tape else ())
        self._chance = _bytes_of(tape.chance) if tape else b""

    def clock_ns(self, clock: int) -> int:
        """In a replay that goes on beyond its tape, the time stands still."""
        last_ns = self._last_ns[clock]
        delta_ns = self._next(clock) if self._is_replay else _CLOCKS[clock]() - last_ns
        self._last_ns[clock] = last_ns + delta_ns
        self._note(self._new, b"%d:%d" % (clock, delta_ns))
        return self._last_ns[clock]

    def chance(self, size: int) -> bytes:
        """In a replay that goes on beyond its tape, new chance."""
        given, self._chance = self._chance[:size], self._chance[size:]
        given += os.urandom(size - len(given))
        self._note(self._given, given.hex().encode())
        return given

    def take(self) -> list[bytes]:
        """The records of what came since the last time, see `bridge.py`."""
        if not self._new and not self._given:
            return []
        records = []
        if self._new:
            records.append(b"K!" if self._is_full else b"K" + b" ".join(self._new))
        if self._given:
            records.append(b"N!" if self._is_full else b"N" + b"".join(self._given))
        self._new, self._given = [], []
        return records

    def _note(self, to: list[bytes], text: bytes) -> None:
        if self._is_full:
            return
        self._room_bytes -= len(text) + 1
        self._is_full = self._room_bytes < 0
        to.append(text)

    def _next(self, clock: int) -> int:
        moment = self._moments.popleft() if self._moments else b""
        which, _, delta = moment.partition(b":")
        if which != b"%d" % clock or len(delta) > _MOST_DIGITS:
            return 0
        try:
            return int(delta)
        except ValueError:
            return 0


def _bytes_of(chance: bytes) -> bytes:
    try:
        return bytes.fromhex(chance.decode("ascii"))
    except ValueError:
        return b""
