"""Envelopes between their staging and their commit, so that they need not be read back."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from orvalho.peers.envelope import EnvelopeId
from orvalho.peers.outbox import Outgoing

_LIMIT_BYTES: Final = 16 << 20
_OVERHEAD_BYTES: Final = 512


class Staging:
    """Filled on the store's thread, emptied on the event loop's. What is never asked for (its
    transaction was rolled back, or the caller names no ids) gives way to what comes later."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[EnvelopeId, Outgoing] = OrderedDict()
        self._bytes = 0

    def put(self, outgoing: Outgoing) -> None:
        with self._lock:
            self._kept[outgoing.id] = outgoing
            self._bytes += _size_bytes(outgoing)
            while self._bytes > _LIMIT_BYTES:
                _, oldest = self._kept.popitem(last=False)
                self._bytes -= _size_bytes(oldest)

    def take(self, ids: Sequence[EnvelopeId]) -> list[Outgoing]:
        """All of them, or none if one is missing."""
        with self._lock:
            taken = [self._kept.pop(each, None) for each in ids]
            found = [each for each in taken if each is not None]
            self._bytes -= sum(_size_bytes(each) for each in found)
        return found if len(found) == len(taken) else []


def _size_bytes(outgoing: Outgoing) -> int:
    return len(outgoing.sealed) + len(outgoing.body) + _OVERHEAD_BYTES
